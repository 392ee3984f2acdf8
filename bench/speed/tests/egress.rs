//! The bench runs, and what the worker sends to clients is right, byte by byte.

use jlb_hugepages::HugePages;
use jlb_speed::{Hotpath, What, run};

/// As the programs have it.
#[global_allocator]
static MEMORY: HugePages = HugePages;

#[test]
fn replies_come_out_of_their_capsules() {
    let what = What::Egress;
    let figures = run(&Hotpath { flows: 2000, v6: false, what, workers: 1, rounds: 1 }).unwrap();
    assert_eq!((figures.flows, figures.verified), (0, 16_384));
}
