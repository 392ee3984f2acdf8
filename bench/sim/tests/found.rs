//! Seeds that once found something, under the name of what they found.
#![allow(clippy::unwrap_used, reason = "tests")]

use jlb_sim::run;

fn holds(seed: u64) {
    let report = run(seed, None, None).unwrap();
    assert!(report.violations.is_empty(), "{report}\nreplay: {}", report.replay(None));
}

/// Trackers that get no answer in time cancel, and head another chain for the ingress's next Open, with the full TTL:
/// the checker of tries has to know.
#[test]
fn a_vote_that_a_cancel_freed_is_followed_by_a_chain_of_its_own() {
    holds(3277);
}
