//! DPDK on hugepages, which it needs for PCI devices. Needs root: `cargo test -p jlb-dpdk --features root-tests`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of a test")]

use std::fs;
use std::time::Duration;

use jlb_dpdk::{Cores, Eal, EalOptions, LogLevel, Memory, Mempool, ROOM};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

const NUMBER: &str = "/proc/sys/vm/nr_hugepages";

/// Hugepages on top of those that the host has, until dropped.
struct Extra(u32);

impl Extra {
    fn take(pages: u32) -> Self {
        let before = fs::read_to_string(NUMBER).unwrap().trim().parse().unwrap();
        fs::write(NUMBER, format!("{}", before + pages)).expect("this test needs root");
        Self(before)
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        fs::write(NUMBER, self.0.to_string()).unwrap();
    }
}

#[test]
fn pools_live_on_hugepages_and_workers_where_they_are_pinned() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap()).unwrap();
    let extra = Extra::take(32);
    let eal = Eal::start(&EalOptions {
        workers: 1,
        cores: Cores::Pinned(vec![last.try_into().unwrap()]),
        memory: Memory::Hugepages,
        devices: vec![],
        log: LogLevel::Warning,
    })
    .unwrap();
    // 38 MiB.
    let pool = Mempool::new(&eal, 16_383, ROOM).unwrap();
    let held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    // Pages in use stay until they are free.
    drop(extra);
    assert_eq!(held.len(), 16_383);

    let affinity = || sched_getaffinity(Pid::from_raw(0)).unwrap();
    assert_eq!(affinity(), allowed, "the main thread is not pinned");
    let mut only = CpuSet::new();
    only.set(last).unwrap();
    let of_worker = eal.launch(0, affinity).unwrap();
    assert_eq!(of_worker.join(Duration::from_secs(1)).unwrap(), only);
    drop((held, pool, of_worker));
    assert_eq!(eal.cleanup(), Ok(()));
}
