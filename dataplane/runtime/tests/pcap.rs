//! Two workers with traffic from files: what arrives on which queue is known, and what leaves can be read again.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{FRIEND, Puppet, eal_options, frame, friend, ipv4, neighbours, wait_for};
use jlb_dpdk::Eal;
use jlb_role::{UnderlayDst, WorkerId};
use jlb_runtime::{MacAddr, Options, Runtime};

/// The Ethernet address of the first `net_pcap` port.
const US: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x00]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn write(path: &Path, frames: &[Vec<u8>]) {
    // Magic, version 2.4, zone, accuracy, snapshot length, Ethernet.
    let mut file: Vec<u8> = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    for frame in frames {
        let len = frame.len() as u32;
        [0, 0, len, len].iter().for_each(|w: &u32| file.extend(w.to_le_bytes()));
        file.extend(frame);
    }
    fs::write(path, file).unwrap();
}

fn read(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let mut rest = &file[24..];
    let mut frames = vec![];
    while let Some((head, tail)) = rest.split_at_checked(16) {
        let len = u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize;
        frames.push(tail[..len].to_vec());
        rest = &tail[len..];
    }
    assert!(rest.is_empty());
    frames
}

#[test]
fn two_workers_send_each_flow_from_its_owner() {
    let folder = std::env::temp_dir().join(format!("jlb-runtime-pcap-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = |name: &str| folder.join(name);
    // Whatever the queue, the packet's identification names the owner; the length numbers them.
    let traffic = |owner: fn(u8) -> u8| {
        (0..200u8)
            .map(move |i| frame(US, PEER, 0x0800, &ipv4(40 + usize::from(i), WorkerId(owner(i)))))
            .collect()
    };
    let mut first: Vec<_> = traffic(|i| i % 2);
    let second: Vec<_> = traffic(|_| 1);
    first.push(frame(US, PEER, 0x0806, &[0; 46]));
    first.push(frame(MacAddr([0xff; 6]), PEER, 0x0800, &ipv4(50, WorkerId(0))));
    first.push(frame(US, US, 0x0800, &ipv4(50, WorkerId(0))));
    first.push(frame(US, PEER, 0x0800, &ipv4(100, WorkerId(0))[..60]));
    first.push(frame(US, PEER, 0x0800, &ipv4(1600, WorkerId(0))));
    // More than a buffer: the driver makes several segments of it.
    first.push(frame(US, PEER, 0x0800, &ipv4(4000, WorkerId(0))));
    write(&file("in0"), &first);
    write(&file("in1"), &second);

    let eal = Eal::start(&eal_options(2)).unwrap();
    let path = |name: &str| file(name).display().to_string();
    let device = format!(
        "net_pcap0,rx_pcap={},rx_pcap={},tx_pcap={},tx_pcap={}",
        path("in0"),
        path("in1"),
        path("out0"),
        path("out1")
    );
    let mut options = Options { buffers: 4095, ..Options::new(device.parse().unwrap(), 2) };
    options.port.mtu = Some(1500);
    let (runtime, _reports) = Runtime::start(&eal, &options, &neighbours(), |w| {
        Puppet::new(w, UnderlayDst::Member(friend()))
    })
    .unwrap();
    let handle = runtime.handle();
    assert_eq!(handle.mac(), US);
    let s = wait_for(&handle, "jlb_worker_sent_packets_total", &[], 400.0);
    assert_eq!(s.sum("jlb_worker_received_packets_total", &[("worker", "0")]), 200.0);
    assert_eq!(s.sum("jlb_worker_received_packets_total", &[("worker", "1")]), 200.0);
    assert_eq!(s.sum("jlb_worker_handed_over_packets_total", &[]), 100.0);
    assert_eq!(s.sum("jlb_ignored_frames_total", &[]), 3.0);
    let dropped = |reason| s.sum("jlb_dropped_packets_total", &[("reason", reason)]);
    assert_eq!((dropped("truncated"), dropped("oversized")), (1.0, 2.0));
    runtime.stop(Duration::from_secs(1)).unwrap();
    assert_eq!(eal.cleanup(), Ok(()), "and no buffer is left anywhere");

    let answers = |owner: WorkerId, lens: &mut dyn Iterator<Item = usize>| -> Vec<_> {
        lens.map(|len| frame(FRIEND, US, 0x0800, &ipv4(len, owner))).collect()
    };
    assert_eq!(read(&file("out0")), answers(WorkerId(0), &mut (40..240).step_by(2)));
    // Two streams arrive there, each in order.
    let mut sent = read(&file("out1"));
    let mut expected = answers(WorkerId(1), &mut (40..240).chain((41..240).step_by(2)));
    sent.sort();
    expected.sort();
    assert_eq!(sent, expected);
    fs::remove_dir_all(&folder).unwrap();
}
