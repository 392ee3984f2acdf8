//! The bench runs, and what the worker sends is right, byte by byte. One DPDK per process, so one test per file.

use jlb_hugepages::HugePages;
use jlb_speed::{Hotpath, What, run};

/// As the programs have it.
#[global_allocator]
static MEMORY: HugePages = HugePages;

#[test]
fn packets_of_established_flows_come_out_as_they_must() {
    let what = What::Data;
    let figures = run(&Hotpath { flows: 2000, v6: true, what, workers: 2, rounds: 1 }).unwrap();
    // The first worker alone, and both together.
    assert_eq!((figures.flows, figures.verified), (2000, 3 * 16_384));
    assert!(figures.scaling.is_some() && figures.best_ns > 0.0);
}
