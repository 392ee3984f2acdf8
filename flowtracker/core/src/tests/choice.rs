//! Which backend a tracker picks.

use std::collections::BTreeMap;
use std::sync::Arc;

use jlb_role::{Reason, Without};
use jlb_wire::{Flags, MemberId};

use super::world::*;
use crate::{Counts, FlowState, Tracker, TrackerConfig};

#[test]
fn trackers_that_see_the_same_backends_pick_the_same_one() {
    let mut picked = BTreeMap::<MemberId, usize>::new();
    let mut next = BTreeMap::<(MemberId, MemberId), usize>::new();
    let seeded = |me, seed| {
        let capacity = 256;
        let config = TrackerConfig {
            seed,
            pending_capacity: capacity,
            flow_capacity: capacity,
            ..config(me)
        };
        World::with(config, spec(), None)
    };
    let (mut one, mut other) = (seeded(T1, 5), seeded(T2, 6));
    for n in 0..120 {
        let flow = Flow::new(RESET, n);
        one.open(&flow);
        other.open(&flow);
        let (asked, by_other) = (one.one(), other.one());
        assert_eq!(asked.control.backend, by_other.control.backend);
        let first = asked.control.backend.unwrap();
        *picked.entry(first).or_default() += 1;
        one.reject(&flow, &asked);
        other.reject(&flow, &by_other);
        let (asked, by_other) = (one.one(), other.one());
        assert_eq!(asked.control.backend, by_other.control.backend, "the next try, too");
        *next.entry((first, asked.control.backend.unwrap())).or_default() += 1;
    }
    // Of 120 each 30 on the average, with a standard deviation of 4.7; then all twelve pairs.
    assert!(picked.len() == 4 && picked.values().all(|n| n.abs_diff(30) < 20), "{picked:?}");
    assert_eq!(next.len(), 12, "{next:?}");
    let mut salted = World::new(T1);
    salted.tracker = {
        let snapshot = Arc::clone(salted.tracker.snapshot());
        let rules = Without(None);
        Tracker::new(config(T1), snapshot, rules, salted.now).unwrap().with_salt(1 << 48)
    };
    salted.run(200);
    let differs = |n| {
        let flow = Flow::new(RESET, n);
        salted.open(&flow);
        let theirs = salted.one().control.backend;
        let mut w = World::new(T1);
        w.open(&flow);
        theirs != w.one().control.backend
    };
    assert!((0..10).any(differs), "the salt tells trackers apart");
}

#[test]
fn who_has_not_yet_told_its_flows_is_offered_none_and_nobody_is_refused_for_it() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    // All begin anew, and their daemons do not answer yet.
    w.mute.extend(BACKENDS);
    BACKENDS.iter().for_each(|&backend| w.reboot(backend));
    w.run(200);
    w.drops();
    assert_eq!(w.metric("jlb_cold_partitions", &[]), 0.0, "that makes nobody cold");
    w.open(&flow);
    w.refused(Reason::NotReady);
    assert_eq!(w.tracker.counts(), Counts::default());
    // One is enough.
    w.mute.remove(&BACKENDS[2]);
    w.run(300);
    w.open(&flow);
    let asked = w.one();
    assert_eq!(asked.control.backend, Some(BACKENDS[2]));
    // It refuses; of the others there is still nothing to say.
    w.reject(&flow, &asked);
    w.refused(Reason::NotReady);
    let refused = FlowState::Pending { force: false, refused: true };
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, refused);
    // Whoever is dead is out of question. (Before, somebody else might decide alone.)
    let other = Flow::new(RESET, 1);
    w.down.extend(BACKENDS);
    w.run(5000);
    w.sent();
    w.open(&other);
    assert_eq!(w.one().control.flags, Flags::REFUSED);
}
