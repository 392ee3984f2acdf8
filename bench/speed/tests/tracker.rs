//! The bench runs, and what the tracker sends is right, byte by byte.

use jlb_hugepages::HugePages;
use jlb_speed::{NewFlows, Policy, run_tracker};

/// As the programs have it.
#[global_allocator]
static MEMORY: HugePages = HugePages;

#[test]
fn new_flows_are_placed_accepted_and_closed() {
    let policy = Policy::default();
    let figures = run_tracker(&NewFlows { flows: 20_000, v6: false, policy, rounds: 1 }).unwrap();
    assert_eq!((figures.flows, figures.opened, figures.verified), (20_000, 8192, 3 * 8192));
    assert!(figures.best_ns > 0.0 && figures.bytes_per_flow > 0.0);
}
