//! The set of trackers changes (rule 11).

use jlb_role::{Reason, Rule};
use jlb_wire::{Flags, Kind, MemberId};

use super::world::*;
use crate::FlowState;

const A: MemberId = BACKENDS[0];

fn is_cold(w: &mut World, flow: &Flow) -> bool {
    w.drops();
    w.open(flow);
    w.sent();
    w.drops() == [Reason::Cold]
}

/// 14 takes the place of T1 in the flow's trio.
fn entering(flow: &Flow) -> World {
    let mut w = World::new(OUTSIDER);
    w.has(A, 9, &[flow.record(true, 5)]);
    w.apply(later(2, &[T1]), &[OUTSIDER, INGRESS, INGRESS_2]);
    w
}

#[test]
fn who_enters_a_trio_waits_for_all_markers_and_two_of_the_old_trio() {
    let (flow, other) = (Flow::new(RESET, 0), Flow::new(RESET, 1));
    let mut w = entering(&flow);
    w.run(300);
    assert!(is_cold(&mut w, &other), "no agent has that epoch yet");
    w.apply(later(2, &[T1]), &BACKENDS);
    w.run(1500);
    assert_eq!(w.state(&flow), (Some(A), Flags::default()));
    assert!(is_cold(&mut w, &other), "the old trio may still vote, and say that nobody knows it");
    w.apply(later(2, &[T1]), &[T2]);
    w.run(100);
    assert!(is_cold(&mut w, &other), "two of them still may");
    w.apply(later(2, &[T1]), &[T3]);
    w.run(100);
    assert!(!is_cold(&mut w, &other));
    assert_eq!(w.metric("jlb_cold_partitions", &[]), 0.0);
}

#[test]
fn a_marker_of_the_former_epoch_counts_no_more() {
    let flow = Flow::new(RESET, 0);
    let mut w = entering(&flow);
    w.apply(later(2, &[T1]), &[T2, T3]);
    w.apply(later(2, &[T1]), &BACKENDS[1..]);
    w.run(1500);
    assert!(is_cold(&mut w, &Flow::new(RESET, 1)), "A has not given its one");
    w.apply(later(2, &[T1]), &[A]);
    w.run(1500);
    assert!(!is_cold(&mut w, &Flow::new(RESET, 1)));
}

#[test]
fn a_broken_one_epoch_rule_waits_for_nobody_of_the_old_trio() {
    let mut w = World::without(OUTSIDER, Rule::OneEpoch);
    let list = later(2, &[T1]);
    w.apply(list.clone(), &[OUTSIDER, INGRESS, INGRESS_2]);
    w.apply(list, &BACKENDS);
    w.run(1500);
    assert!(!is_cold(&mut w, &Flow::new(RESET, 1)));
}

#[test]
fn who_stays_in_a_trio_stays_warm() {
    let flow = Flow::of([T1, T2, OUTSIDER], RESET, 0);
    let mut w = World::new(T2);
    w.accept(&flow, A, 5);
    w.apply(later(2, &[T1]), &[T2]);
    w.run(5);
    assert!(!is_cold(&mut w, &Flow::of([T1, T2, OUTSIDER], RESET, 1)));
    assert_eq!(w.state(&flow), (Some(A), Flags::default()));
}

#[test]
fn what_a_tracker_leaves_is_swept_away_but_for_pending_votes() {
    let [established, pending] = [0, 1].map(|n| Flow::new(RESET, n));
    let three = later(2, &[OUTSIDER]);
    // With three trackers all own everything; the fourth pushes T1 out of these.
    let flow = Flow::of([OUTSIDER, T2, T3], RESET, 0);
    let [waits, late] = [1, 2].map(|n| Flow::of([OUTSIDER, T2, T3], RESET, n));
    let mut w = World::with(config(T1), three, None);
    w.accept(&established, A, 5);
    w.accept(&flow, A, 6);
    w.open_by(T2, &waits, A);
    w.open_by(T2, &pending, A);
    w.open_by(T2, &late, A);
    w.sent();
    w.apply(later(3, &[]), &[T1]);
    w.run(5);
    assert_eq!(w.tracker.flow(&flow.id), None);
    assert_eq!(w.tracker.flow(&established.id).unwrap().state, FlowState::Established);
    assert!(w.tracker.flow(&waits.id).is_some() && w.tracker.flow(&pending.id).is_some());
    w.accept(&late, A, 7);
    assert_eq!((w.one().to, w.tracker.flow(&late.id)), (INGRESS, None), "told, and not kept");
    assert_eq!(w.query(&flow, None)[0].control.kind, Kind::Query, "passed on");
    // The vote that was left behind is freed by its backend's word, and nobody else is tried.
    w.run(250);
    let cancels = w.sent();
    let cancel = cancels.iter().find(|s| s.inner_is_of(&waits)).unwrap();
    w.drops();
    w.cancelled(&waits, cancel);
    assert_eq!(w.tracker.flow(&waits.id), None);
    assert!(w.sent().is_empty());
}

#[test]
fn who_has_just_started_waits_for_the_living_of_its_trio_to_have_its_epoch() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    let list = later(2, &[]);
    w.restart(list.clone());
    w.apply(list.clone(), &BACKENDS);
    w.apply(list.clone(), &[INGRESS, T2]);
    w.run(1500);
    assert!(is_cold(&mut w, &flow), "T3 may still vote with another one");
    w.down.insert(T3);
    w.run(700);
    assert!(!is_cold(&mut w, &flow), "alone it can do nothing");
}
