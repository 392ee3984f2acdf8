//! Kernel interfaces as ports, in a network namespace of the test's own. Needs root:
//! `cargo test -p jlb-dpdk --features root-tests`.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::process::Command;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use jlb_dpdk::{
    Cores, Eal, EalOptions, LogLevel, Mbuf, Memory, Mempool, OpenPort, Port, PortError,
    PortOptions, ROOM,
};
use jlb_role::PacketBuf;
use nix::sched::{CloneFlags, unshare};

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn packets_cross_a_veth_between_two_ports() {
    // Of this thread, and gone with it: nothing to clean up.
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
    sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
        ip link add jlb-a type veth peer name jlb-b
        ip link set jlb-a up
        ip link set jlb-b up");
    let options = EalOptions {
        workers: 0,
        cores: Cores::Floating,
        memory: Memory::Ordinary(128),
        devices: vec![],
        log: LogLevel::Warning,
    };
    let eal = Eal::start(&options).unwrap();
    let pool = Mempool::new(&eal, 4095, ROOM).unwrap();
    let open = |device: &str, mtu, queues| {
        let options =
            PortOptions { mtu, rx_queues: queues, tx_queues: queues, ..PortOptions::default() };
        Port::open(&eal, &device.parse().unwrap(), &options, &pool)
    };
    let sizes = "qdisc_bypass=1,blocksz=65536,framesz=2048,framecnt=1024";
    let missing = open("net_af_packet7,iface=nonesuch", None, 1).unwrap_err();
    assert!(matches!(missing, PortError::Probe { .. }), "{missing}");
    let narrow = open(&format!("net_af_packet8,iface=jlb-b,{sizes}"), None, 2).unwrap_err();
    assert!(matches!(narrow, PortError::TooFewQueues { rx: 1, tx: 1, wanted: 2, .. }), "{narrow}");
    let wide = open(&format!("net_af_packet6,iface=jlb-b,qpairs=2,{sizes}"), None, 1).unwrap_err();
    assert!(matches!(wide, PortError::TooManyQueues { has: 2, wanted: 1, .. }), "{wide}");
    let large = open(&format!("net_af_packet9,iface=jlb-b,{sizes}"), Some(1969), 1).unwrap_err();
    assert!(matches!(large, PortError::SmallFrames { least: 2049, .. }), "{large}");

    let OpenPort { port: a, tx: mut from_a, rx: _rx_a } =
        open(&format!("net_af_packet0,iface=jlb-a,{sizes}"), Some(1400), 1).unwrap();
    let OpenPort { port: b, rx: mut to_b, tx: _tx_b } =
        open(&format!("net_af_packet1,iface=jlb-b,qpairs=2,{sizes}"), None, 2).unwrap();
    assert_eq!((a.mtu(), b.mtu()), (1400, 1500));
    assert!(sh("ip link show jlb-a").contains("mtu 1500"), "others use it too");
    assert!(sh("ip link show jlb-a").contains(&a.mac().to_string()));
    assert_ne!(a.mac(), b.mac());

    let (mut sent, mut seen) = (0u32, 0u32);
    let deadline = Instant::now() + Duration::from_secs(20);
    while seen < 2000 {
        assert!(
            Instant::now() < deadline,
            "{seen} of {sent} packets arrived; {:?} {:?}",
            a.stats(),
            b.stats()
        );
        // At most so many on their way: below what the rings hold.
        if sent < 2000 && sent - seen < 256 {
            let mut out = ArrayVec::<Mbuf, 16>::new();
            pool.alloc_bulk(&mut out);
            for packet in &mut out {
                let frame = packet.append(1414).unwrap();
                frame[..6].copy_from_slice(&b.mac().0);
                frame[6..12].copy_from_slice(&a.mac().0);
                frame[12..14].copy_from_slice(&[0x88, 0xb5]);
                frame[14..18].copy_from_slice(&sent.to_be_bytes());
                frame[18..].fill(sent as u8);
                sent += 1;
            }
            assert_eq!(from_a[0].burst(&mut out), 16);
        }
        let mut back = ArrayVec::<Mbuf, 32>::new();
        for queue in &mut to_b {
            queue.burst(&mut back);
        }
        for packet in &back {
            let frame = packet.bytes();
            assert_eq!((frame.len(), &frame[14..18]), (1414, &seen.to_be_bytes()[..]));
            assert!(frame[18..].iter().all(|&byte| byte == seen as u8));
            seen += 1;
        }
    }
    assert_eq!(a.stats().unwrap().tx_packets, 2000);
    assert_eq!(b.stats().unwrap().rx_packets, 2000);

    // What is sent while a link is down is lost, but nothing blocks, and it works again when the link does.
    let mut send = |n: usize| {
        let mut out = ArrayVec::<Mbuf, 16>::new();
        pool.alloc_bulk(&mut out);
        for packet in &mut out {
            packet.append(60).unwrap().fill(0x77);
        }
        (0..n).map(|_| from_a[0].burst(&mut out)).sum::<usize>()
    };
    let mut receive = || {
        let mut back = ArrayVec::<Mbuf, 32>::new();
        to_b.iter_mut().for_each(|queue| _ = queue.burst(&mut back));
        back.iter().filter(|b| b.bytes() == [0x77; 60]).count()
    };
    for (down, up) in
        [("set jlb-b down", "set jlb-b up"), ("set jlb-a down", "set jlb-a up"), ("del jlb-a", "")]
    {
        sh(&format!("ip link {down}"));
        let started = Instant::now();
        // More than the ring of 1024 frames holds.
        (0..100).for_each(|_| _ = send(1));
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        let deadline = Instant::now() + Duration::from_secs(10);
        if !up.is_empty() {
            sh(&format!("ip link {up}"));
            while receive() == 0 {
                assert!(Instant::now() < deadline, "nothing arrives after {down}, {up}");
                send(1);
            }
        }
        while receive() > 0 {}
    }
    assert!(a.stats().is_ok());
    drop((a, b, from_a, to_b, _rx_a, _tx_b));
    assert_eq!(pool.in_use(), 0);
}
