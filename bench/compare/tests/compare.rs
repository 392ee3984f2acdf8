//! The bench runs, and leaves nothing behind. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jlb_compare::{Compare, CompareError, run};

#[test]
fn every_way_has_a_cost_and_nothing_stays() {
    let options = Compare { flows: 1000, mib: 16, times: 1 };
    let interrupted = Arc::new(AtomicBool::new(false));
    let (outcome, _) = run(&options, &mut |_| (), &interrupted).unwrap();
    for costs in [outcome.with_offloads, outcome.without_offloads] {
        let [haproxy, nginx] = [costs.haproxy, costs.nginx].map(|c| c.process_us.unwrap().median);
        // A MiB does not pass a proxy in no time, nor in a second.
        assert!([haproxy, nginx, costs.direct_us.median].iter().all(|us| (1.0..1e6).contains(us)));
    }
    // 725 packets of 1448 bytes, and some acknowledgements.
    assert!((725.0..1500.0).contains(&outcome.packets_per_mib_here), "{outcome}");
    nothing_stays();

    let refused = run(&Compare { mib: 0, ..options }, &mut |_| (), &interrupted);
    assert!(matches!(refused, Err(CompareError::OutOfBounds { what: "mib", .. })));
}

fn nothing_stays() {
    let ours = format!("jlb-compare-{}", std::process::id());
    assert!(!std::env::temp_dir().join(ours).exists());
    let children =
        fs::read_to_string(format!("/proc/self/task/{0}/children", std::process::id())).unwrap();
    assert_eq!(children, "", "no process of ours is left");
}
