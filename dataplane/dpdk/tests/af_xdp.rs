//! A kernel interface by AF_XDP, in a network namespace of the test's own. Needs root:
//! `cargo test -p jlb-dpdk --features root-tests`.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::process::Command;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use jlb_dpdk::{
    Cores, Eal, EalOptions, LogLevel, Mbuf, Memory, Mempool, OpenPort, Port, PortOptions, ROOM,
};
use jlb_role::PacketBuf;
use nix::sched::{CloneFlags, unshare};

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn packets_cross_a_veth_by_af_xdp() {
    // Of this thread, and gone with it: nothing to clean up.
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
    sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
        ip link add jlb-a type veth peer name jlb-b
        ip link set jlb-a up
        ip link set jlb-b up");
    let eal = Eal::start(&EalOptions {
        workers: 0,
        cores: Cores::Floating,
        memory: Memory::Ordinary(128),
        devices: vec![],
        log: LogLevel::Warning,
    })
    .unwrap();
    let pool = Mempool::new(&eal, 16_383, ROOM).unwrap();
    let open = |device: &str, pool| {
        let options = PortOptions { mtu: Some(1500), ..PortOptions::default() };
        Port::open(&eal, &device.parse().unwrap(), &options, pool).unwrap()
    };
    let OpenPort { port: a, rx: mut to_a, tx: mut from_a } =
        open("net_af_xdp0,iface=jlb-a,start_queue=0,queue_count=1", &pool);
    let other = Mempool::new(&eal, 4095, ROOM).unwrap();
    let OpenPort { port: b, rx: mut to_b, tx: mut from_b } = open(
        "net_af_packet1,iface=jlb-b,qdisc_bypass=1,blocksz=65536,framesz=2048,framecnt=1024",
        &other,
    );
    let start = pool.in_use();

    // Longer rounds than all rings together.
    let cross = |tx: &mut jlb_dpdk::TxQueue, rx: &mut jlb_dpdk::RxQueue, pool: &Mempool| {
        let (mut sent, mut seen) = (0u32, 0u32);
        let deadline = Instant::now() + Duration::from_secs(20);
        while seen < 10_000 {
            assert!(Instant::now() < deadline, "{seen} of {sent} packets arrived");
            if sent < 10_000 && sent - seen < 64 {
                let mut out = ArrayVec::<Mbuf, 1>::new();
                pool.alloc_bulk(&mut out);
                let frame = out[0].append(1514).unwrap();
                frame.fill(sent as u8);
                frame[..4].copy_from_slice(&sent.to_be_bytes());
                frame[12..14].copy_from_slice(&[0x88, 0xb5]);
                sent += tx.burst(&mut out) as u32;
            }
            let mut back = ArrayVec::<Mbuf, 32>::new();
            rx.burst(&mut back);
            // net_af_packet shows what leaves, too.
            for packet in &back {
                if packet.bytes()[..4] == seen.to_be_bytes() {
                    assert_eq!(packet.len(), 1514);
                    assert!(packet.bytes()[14..].iter().all(|&byte| byte == seen as u8));
                    seen += 1;
                }
            }
        }
    };
    cross(&mut from_b[0], &mut to_a[0], &other);
    cross(&mut from_a[0], &mut to_b[0], &pool);
    let now = pool.in_use();
    assert!(now <= start + 2048, "{start} buffers were in use, and now {now}");
    drop((a, b, to_a, to_b, from_a, from_b));
    assert!(sh("ip link show jlb-a").contains("jlb-a"));
}
