//! Which backend a tracker picks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jlb_role::{Reason, Without};
use jlb_wire::{Flags, Kind, MemberId, RejectReason};

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

#[test]
fn what_backends_say_of_their_load_decides_who_is_asked_and_the_bar_goes_with_it() {
    let mut list = spec();
    list.services[0].policy = jlb_map::Policy::LeastConnections;
    let mut w = World::with(config(T1), list, None);
    // Whatever a backend says tells how busy it is.
    for (n, live) in [(0, 7), (1, 4), (2, 9), (3, 6)] {
        w.say(BACKENDS[n], &Flow::new(RESET, 100 + n), Kind::Close, |c| {
            (c.backend, c.word_a, c.load.live) = (Some(BACKENDS[n]), 5, live);
        });
    }
    w.sent();
    let flow = Flow::new(RESET, 0);
    w.open(&flow);
    let mut asked = w.one();
    // The least busy first; each knows how busy the next one is, and the last that it is the last.
    for (n, bar) in [(1, 7), (3, 8), (0, 10), (2, 0)] {
        let control = asked.control;
        assert_eq!((control.backend, control.load.live), (Some(BACKENDS[n]), bar));
        // It is busier than we knew.
        w.reject_with(&flow, &asked, |c| (c.reason, c.load.live) = (RejectReason::Busy, 50));
        asked = w.one();
    }
    // Nobody is less busy, so it may not leave the flow to others any more.
    assert_eq!((asked.control.flags, asked.control.backend), (Flags::FORCE, Some(BACKENDS[2])));
    w.reject_with(&flow, &asked, |c| (c.reason, c.load.live) = (RejectReason::Busy, 50));
    assert_eq!(w.one().control.flags, Flags::REFUSED);
    // That was told, too: now all but the second have 50, and an offer that is under way counts.
    w.say(BACKENDS[1], &Flow::new(RESET, 120), Kind::Close, |c| {
        (c.backend, c.word_a, c.load.live) = (Some(BACKENDS[1]), 6, 49);
    });
    w.sent();
    let asked = [1, 2, 3, 4, 5, 6].map(|n| {
        w.open(&Flow::new(RESET, n));
        let control = w.one().control;
        assert!((51..=52).contains(&control.load.live), "no more than the next one has");
        control.backend.unwrap()
    });
    assert_eq!(asked[0], BACKENDS[1]);
    assert!(BACKENDS.iter().all(|b| asked.contains(b)), "offers of ours count: {asked:?}");
}

#[test]
fn who_is_at_its_limit_does_not_take_up_the_tries_of_all_flows() {
    for reason in [RejectReason::MaxConnections, RejectReason::QueueFull] {
        let mut list = spec();
        list.services[0].policy = jlb_map::Policy::LeastConnections;
        let mut w = World::with(config(T1), list, None);
        // The first has the fewest flows, and will not have more.
        for (n, live) in [(0, 10), (1, 500), (2, 500), (3, 500)] {
            w.say(BACKENDS[n], &Flow::new(RESET, 100 + n), Kind::Close, |c| {
                (c.backend, c.word_a, c.load.live) = (Some(BACKENDS[n]), 5, live);
            });
        }
        w.sent();
        let flow = Flow::new(RESET, 0);
        w.open(&flow);
        let asked = w.one();
        assert_eq!(asked.control.backend, Some(BACKENDS[0]));
        w.reject_with(&flow, &asked, |c| (c.reason, c.load.live) = (reason, 10));
        w.sent();
        for n in 1..6 {
            w.open(&Flow::new(RESET, n));
            assert_ne!(w.one().control.backend, Some(BACKENDS[0]), "{reason:?}");
        }
    }
}

#[test]
fn a_second_passes_the_heads_bar_on() {
    let mut w = World::new(T2);
    let flow = Flow::new(RESET, 0);
    for bar in [9, 0] {
        w.open_by_with(T1, &flow, |c| (c.backend, c.load.live) = (Some(BACKENDS[0]), bar));
        let asked = w.one();
        assert_eq!((asked.to, asked.control.load.live), (BACKENDS[0], bar));
    }
}

#[test]
fn what_backends_say_unasked_counts_if_it_is_for_this_worker_and_of_this_list() {
    let mut list = spec();
    list.services[0].policy = jlb_map::Policy::LeastConnections;
    let mut w = World::with(config(T1), list, None);
    for (n, live) in [9, 3, 7, 5].into_iter().enumerate() {
        w.load_by(BACKENDS[n], live, (1, 0));
    }
    // By another list the first service is another one.
    w.load_by(BACKENDS[0], 0, (2, 0));
    assert_eq!(w.drops(), []);
    // We have one worker.
    w.load_by(BACKENDS[0], 0, (1, 1));
    w.refused(Reason::Malformed);
    // Of no other member.
    w.load_by(T2, 0, (1, 0));
    w.refused(Reason::NotAMember);
    w.open(&Flow::new(RESET, 0));
    let control = w.one().control;
    assert_eq!((control.backend, control.load.live), (Some(BACKENDS[1]), 6));
}

#[test]
fn who_says_that_it_wants_no_flows_is_asked_last_and_again_when_it_says_otherwise() {
    let mut w = World::new(T1);
    let first = |w: &mut World| {
        let asked: BTreeSet<_> = (0..12)
            .map(|n| {
                w.open(&Flow::new(RESET, n));
                w.one().control.backend.unwrap()
            })
            .collect();
        asked.contains(&BACKENDS[0])
    };
    assert!(first(&mut w));
    w = World::new(T1);
    w.words.insert(BACKENDS[0], RejectReason::Overloaded);
    w.load_by(BACKENDS[0], 0, (1, 0));
    assert!(!first(&mut w));
    w = World::new(T1);
    // What it says to a flow counts as well, and an end of it is told.
    w.say(BACKENDS[0], &Flow::new(RESET, 20), Kind::Reject, |c| {
        (c.backend, c.reason) = (Some(BACKENDS[0]), RejectReason::Unhealthy);
    });
    w.drops();
    assert!(!first(&mut w));
    w = World::new(T1);
    w.words.insert(BACKENDS[0], RejectReason::Down);
    w.load_by(BACKENDS[0], 0, (1, 0));
    w.words.clear();
    w.load_by(BACKENDS[0], 0, (1, 0));
    assert!(first(&mut w));
}

#[test]
fn in_a_panic_the_unwell_are_asked_to_take_flows_and_the_second_passes_it_on() {
    let mut w = World::new(T1);
    let panic = |w: &World| w.metric("jlb_service_panic", &[("service", "web")]);
    for &backend in &BACKENDS[..3] {
        w.words.insert(backend, RejectReason::Unhealthy);
        w.load_by(backend, 0, (1, 0));
    }
    assert_eq!(panic(&w), 0.0);
    w.run(20);
    assert_eq!((panic(&w), w.metric("jlb_service_panic", &[("service", "dns")])), (1.0, 0.0));
    for n in 0..12 {
        w.open(&Flow::new(RESET, n));
        let control = w.one().control;
        let well = control.backend == Some(BACKENDS[3]);
        assert_eq!(control.flags.has(Flags::PANIC), !well);
    }
    w.words.clear();
    w.load_by(BACKENDS[0], 0, (1, 0));
    w.run(20);
    assert_eq!(panic(&w), 0.0);

    let mut w = World::new(T2);
    let flow = Flow::new(RESET, 0);
    for flags in [Flags::PANIC, Flags(0)] {
        w.open_by_with(T1, &flow, |c| (c.backend, c.flags) = (Some(BACKENDS[0]), flags));
        let asked = w.one();
        assert_eq!((asked.to, asked.control.flags), (BACKENDS[0], flags));
    }
}
