//! One EAL without hugepages, root or devices. All tests share it, since it starts once per process.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::HashSet;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use jlb_dpdk::{
    CleanupError, Cores, Eal, EalError, EalOptions, JoinError, LaunchError, LogLevel, Mbuf, Memory,
    Mempool, OpenPort, Port, PortError, PortOptions, ROOM, lcore_id,
};
use jlb_role::PacketBuf;
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

fn options() -> EalOptions {
    EalOptions {
        workers: 2,
        cores: Cores::Floating,
        memory: Memory::Ordinary(64),
        devices: vec![],
        log: LogLevel::Warning,
    }
}

fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| Eal::start(&options()).unwrap())
}

fn open(device: &str, pool: &Mempool) -> Result<OpenPort, PortError> {
    Port::open(eal(), &device.parse().unwrap(), &PortOptions::default(), pool)
}

#[test]
fn the_mbuf_is_a_packet_buffer_as_the_roles_expect() {
    let pool = Mempool::new(eal(), 255, ROOM).unwrap();
    jlb_role::conformance(|| pool.alloc().unwrap());
    // Again with buffers that were used before.
    for _ in 0..1000 {
        jlb_role::conformance(|| pool.alloc().unwrap());
    }
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_pool_gives_its_buffers_and_no_more() {
    let pool = Mempool::new(eal(), 63, ROOM).unwrap();
    let mut held: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((held.len(), pool.in_use(), pool.available()), (63, 63, 0));
    let mut bulk = ArrayVec::<Mbuf, 8>::new();
    pool.alloc_bulk(&mut bulk);
    assert!(bulk.is_empty());

    held.truncate(56);
    pool.alloc_bulk(&mut bulk);
    assert!(bulk.is_empty(), "seven are no eight");
    held.pop();
    pool.alloc_bulk(&mut bulk);
    assert_eq!(bulk.len(), 8);
    bulk.iter_mut().enumerate().for_each(|(i, b)| b.append(4).unwrap().fill(i as u8));
    assert!(
        bulk.iter().enumerate().all(|(i, b)| b.bytes() == [i as u8; 4]),
        "eight different buffers"
    );
    Mbuf::free_bulk(&mut bulk);
    assert_eq!((bulk.len(), pool.in_use()), (0, 55));
    drop(held);
    assert_eq!(pool.in_use(), 0);

    assert!(Mempool::new(eal(), 63, 100).is_err(), "too small for what the roles expect");
    assert!(Mempool::new(eal(), 1 << 20, ROOM).is_err(), "more than the memory");
}

#[test]
fn a_burst_goes_through_net_null() {
    let pool = Mempool::new(eal(), 255, ROOM).unwrap();
    let OpenPort { port, mut rx, mut tx } = open("net_null0,size=100", &pool).unwrap();
    let mut burst = ArrayVec::<Mbuf, 32>::new();
    assert_eq!(rx[0].burst(&mut burst).packets, 32);
    assert!(burst.iter().all(|p| p.len() == 100));
    assert_eq!(rx[0].burst(&mut burst).packets, 0, "no room");
    assert_eq!(tx[0].burst(&mut burst), 32);
    assert!(burst.is_empty());
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (32, 32));
    drop((port, rx, tx));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn ten_thousand_packets_go_through_net_ring_in_order_and_unharmed() {
    let pool = Mempool::new(eal(), 511, ROOM).unwrap();
    let OpenPort { port, mut rx, mut tx } = open("net_ring0", &pool).unwrap();
    let (mut sent, mut expected) = (0u32, 0u32);
    while expected < 10_000 {
        let mut out = ArrayVec::<Mbuf, 32>::new();
        while !out.is_full() && sent < 10_000 {
            let mut packet = pool.alloc().unwrap();
            packet.append(60).unwrap()[..4].copy_from_slice(&sent.to_be_bytes());
            out.push(packet);
            sent += 1;
        }
        tx[0].burst(&mut out);
        assert!(out.is_empty(), "the ring is emptied each time");
        let mut back = ArrayVec::<Mbuf, 32>::new();
        assert_eq!(rx[0].burst(&mut back).oversized, 0);
        for packet in back {
            assert_eq!((packet.len(), &packet.bytes()[..4]), (60, &expected.to_be_bytes()[..]));
            expected += 1;
        }
    }
    assert_eq!(port.stats().unwrap().rx_packets, 10_000);
    drop((port, rx, tx));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn what_a_full_ring_does_not_take_stays_with_the_sender() {
    let pool = Mempool::new(eal(), 2047, ROOM).unwrap();
    let OpenPort { port, mut rx, mut tx } = open("net_ring1", &pool).unwrap();
    let mut number = 0u32;
    let mut out = ArrayVec::<Mbuf, 48>::new();
    loop {
        while !out.is_full() {
            let mut packet = pool.alloc().unwrap();
            packet.append(4).unwrap().copy_from_slice(&number.to_be_bytes());
            out.push(packet);
            number += 1;
        }
        tx[0].burst(&mut out);
        if !out.is_empty() {
            break;
        }
    }
    // The ring holds the first ones, in order, and the rest is in order too.
    let kept: Vec<u32> =
        out.iter().map(|p| u32::from_be_bytes(p.bytes().try_into().unwrap())).collect();
    let first_kept = number - kept.len() as u32;
    assert_eq!(kept, (first_kept..number).collect::<Vec<_>>());
    assert_eq!(pool.in_use(), number);
    let mut back = ArrayVec::<Mbuf, 48>::new();
    let mut seen = 0;
    while rx[0].burst(&mut back).packets > 0 {
        seen += back.len() as u32;
        Mbuf::free_bulk(&mut back);
    }
    assert_eq!(seen, first_kept);
    drop((out, port, rx, tx));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_port_is_open_while_one_handle_to_it_lives() {
    let pool = Mempool::new(eal(), 255, ROOM).unwrap();
    let again = || matches!(open("net_null7", &pool), Err(PortError::AlreadyOpen(_)));
    let OpenPort { port, mut rx, tx } = open("net_null7", &pool).unwrap();
    assert!(again());
    drop((port, tx));
    assert!(again(), "and a refused second opening has not closed it:");
    let mut burst = ArrayVec::<Mbuf, 4>::new();
    assert_eq!(rx[0].burst(&mut burst).packets, 4);
    drop(rx);
    assert!(!again());
}

#[test]
fn wrong_devices_are_typed_errors() {
    let pool = Mempool::new(eal(), 255, ROOM).unwrap();
    assert!(matches!(open("net_nonesuch0", &pool), Err(PortError::Probe { .. })));
    assert!(matches!(open("0000:00:1f.7", &pool), Err(PortError::NoSuchPort(_))));
    let many = PortOptions { rx_queues: 1000, ..PortOptions::default() };
    let refused = Port::open(eal(), &"net_ring9".parse().unwrap(), &many, &pool);
    assert!(matches!(refused, Err(PortError::TooFewQueues { wanted: 1000, .. })));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn software_devices_open_with_an_mtu_though_few_can_set_one() {
    let pool = Mempool::new(eal(), 1023, ROOM).unwrap();
    let socket = std::env::temp_dir().join(format!("jlb-dpdk-mtu-{}", std::process::id()));
    let memif =
        format!("net_memif7,role=server,id=0,socket={},socket-abstract=no", socket.display());
    // A device has one life, so each gets a name of its own.
    for (device, mtu) in
        [("net_null4", 1280), ("net_null5", 1500), ("net_ring4", 1280), (&memif, 1500)]
    {
        let options = PortOptions { mtu: Some(mtu), ..PortOptions::default() };
        let opened = Port::open(eal(), &device.parse().unwrap(), &options, &pool).unwrap();
        assert_eq!(opened.port.mtu(), mtu, "{device}");
    }
}

#[test]
fn workers_run_on_lcores_of_their_own() {
    // The tests of this file use both workers here only.
    let second = Duration::from_secs(1);
    let running: Vec<_> =
        (0..2).map(|w| eal().launch(w, move || (w, lcore_id())).unwrap()).collect();
    let lcores: HashSet<_> = running.iter().map(|r| r.join(second).unwrap()).collect();
    assert_eq!(lcores, HashSet::from([(0, Some(1)), (1, Some(2))]));
    assert!(matches!(eal().launch(2, || ()), Err(LaunchError::NoSuchWorker(2))));

    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let busy = eal().launch(0, move || wait.recv().is_err()).unwrap();
    assert!(matches!(eal().launch(0, || ()), Err(LaunchError::Busy(0))));
    assert!(matches!(busy.join(Duration::from_millis(10)), Err(JoinError::Timeout(0))));
    drop(stop);
    assert!(busy.join(second).unwrap());

    let panics = eal()
        .launch(1, || assert!(lcore_id().is_none(), "a panic that the test asked for"))
        .unwrap();
    assert!(matches!(panics.join(second), Err(JoinError::Panicked(1))));
    assert_eq!(
        eal().launch(1, || 7).unwrap().join(second).unwrap(),
        7,
        "a worker survives a panic"
    );
}

#[test]
fn it_starts_once_leaves_affinity_alone_and_is_not_cleaned_up_in_use() {
    let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let e = eal().clone();
    assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), before);
    assert_eq!(Eal::start(&options()).unwrap_err(), EalError::AlreadyStarted);
    assert_eq!(e.cleanup().unwrap_err(), CleanupError::InUse);
}

#[test]
fn packets_cross_a_memif_between_two_ports() {
    let pool = Mempool::new(eal(), 4095, ROOM).unwrap();
    let socket = std::env::temp_dir().join(format!("jlb-dpdk-memif-{}", std::process::id()));
    let device = |i: u8, role: &str| {
        format!(
            "net_memif{i},role={role},id=0,socket={},socket-abstract=no,rsize=9",
            socket.display()
        )
    };
    let OpenPort { rx: mut to_server, .. } = open(&device(0, "server"), &pool).unwrap();
    let OpenPort { tx: mut from_client, .. } = open(&device(1, "client"), &pool).unwrap();
    let (mut sent, mut seen) = (0u32, 0u32);
    let deadline = Instant::now() + Duration::from_secs(10);
    while seen < 1000 {
        // Until the two have found each other, nothing is sent.
        assert!(Instant::now() < deadline, "{seen} of {sent} packets arrived");
        let mut out = ArrayVec::<Mbuf, 16>::new();
        pool.alloc_bulk(&mut out);
        for (packet, number) in out.iter_mut().zip(sent..) {
            packet.append(100).unwrap()[..4].copy_from_slice(&number.to_be_bytes());
        }
        sent += from_client[0].burst(&mut out) as u32;
        let mut back = ArrayVec::<Mbuf, 32>::new();
        to_server[0].burst(&mut back);
        for packet in &back {
            assert_eq!((packet.len(), &packet.bytes()[..4]), (100, &seen.to_be_bytes()[..]));
            seen += 1;
        }
    }
    drop((to_server, from_client));
    assert!(!socket.exists() || std::fs::remove_file(&socket).is_ok());
}
