//! The whole life of one EAL, its end included: a process of its own.

use jlb_dpdk::{
    CleanupError, Cores, Eal, EalError, EalOptions, LogLevel, Memory, Mempool, Port, PortOptions,
    ROOM,
};

#[test]
fn cleanup_waits_for_packets_and_then_ends_it_for_good() {
    let options = EalOptions {
        workers: 1,
        cores: Cores::Floating,
        memory: Memory::Ordinary(64),
        devices: vec![],
        log: LogLevel::Warning,
    };
    let eal = Eal::start(&options).unwrap();
    let pool = Mempool::new(&eal, 255, ROOM).unwrap();
    let opened =
        Port::open(&eal, &"net_null0".parse().unwrap(), &PortOptions::default(), &pool).unwrap();
    assert_eq!(eal.clone().cleanup(), Err(CleanupError::InUse));
    drop((opened, pool));
    assert_eq!(eal.cleanup(), Ok(()));
    assert_eq!(Eal::start(&options).unwrap_err(), EalError::AlreadyStarted);
}
