//! The bench runs, and what the worker sends is right, byte by byte. One DPDK per process, so one test per file.

use jlb_hugepages::HugePages;
use jlb_speed::{Hotpath, What, run};

/// As the programs have it.
#[global_allocator]
static MEMORY: HugePages = HugePages;

#[test]
fn syns_become_opens_that_a_tracker_believes() {
    let what = What::Syn;
    let figures = run(&Hotpath { flows: 2000, v6: false, what, workers: 1, rounds: 1 }).unwrap();
    assert_eq!((figures.flows, figures.verified), (2000, 8192));
    assert_eq!(figures.bytes_per_flow, None);
}
