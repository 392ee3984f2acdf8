//! A packet that outlives every handle to DPDK: a process of its own.

use jlb_dpdk::{CleanupError, Cores, Eal, EalOptions, LogLevel, Memory, Mempool, ROOM};
use jlb_role::PacketBuf;

#[test]
fn a_packet_that_somebody_holds_keeps_its_memory() {
    let options = EalOptions {
        workers: 0,
        cores: Cores::Floating,
        memory: Memory::Ordinary(64),
        devices: vec![],
        log: LogLevel::Warning,
    };
    let eal = Eal::start(&options).unwrap();
    let pool = Mempool::new(&eal, 255, ROOM).unwrap();
    let mut packet = pool.alloc().unwrap();
    drop(pool);
    assert_eq!(eal.cleanup(), Err(CleanupError::BuffersInUse(1)));
    packet.append(3).unwrap().copy_from_slice(b"abc");
    assert_eq!(packet.bytes(), b"abc");
}
