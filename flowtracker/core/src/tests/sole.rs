//! The last one of a trio decides alone (rule 14).

use jlb_role::{Reason, Report, Rule};
use jlb_wire::{Flags, Kind, MemberId, body_flags};

use super::world::*;
use crate::FlowState;

const A: MemberId = BACKENDS[0];
const B: MemberId = BACKENDS[1];
const SOLE: u16 = body_flags::SOLE_OWNER;
const TWO: u16 = body_flags::TWO_VOTES;

fn flow(n: usize) -> Flow {
    Flow::new(RESET, n)
}

fn is_sole(w: &World) -> bool {
    w.metric("jlb_sole_partitions", &[]) > 0.0
}

fn is_warm(w: &World) -> bool {
    w.metric("jlb_cold_partitions", &[]) == 0.0
}

/// Alone with its trio's partitions, and warm.
fn sole() -> World {
    let mut w = World::new(T1);
    w.down.extend([T2, T3]);
    w.run(1000);
    assert!(is_sole(&w) && is_warm(&w));
    w.drops();
    w.sent();
    w
}

#[test]
fn with_one_other_left_two_still_vote() {
    let mut w = World::new(T1);
    w.down.insert(T2);
    w.run(1000);
    assert!(!is_sole(&w) && w.orders.is_empty());
    w.open(&flow(0));
    assert_eq!(w.one().to, T3);
}

#[test]
fn the_last_of_a_trio_waits_for_every_acknowledgement() {
    let mut w = World::new(T1);
    w.down.extend([T2, T3]);
    w.deaf.insert(B);
    w.run(2000);
    assert!(!is_sole(&w));
    for backend in BACKENDS {
        assert!(w.orders[&(backend, SOLE)] >= 1);
    }
    assert_eq!(w.orders[&(A, SOLE)], 1);
    assert!((8..20).contains(&w.orders[&(B, SOLE)]), "{:?}", w.orders);
    w.open(&flow(0));
    let asked = w.one();
    assert!(asked.to == T2 || asked.to == T3, "new flows wait");
    w.deaf.clear();
    w.run(1000);
    assert!(is_sole(&w) && is_warm(&w));
    assert!(w.reports().contains(&Report::Sole(true)));
}

#[test]
fn without_the_rule_nobody_is_waited_for() {
    let mut w = World::without(T1, Rule::SoleFence);
    w.deaf.extend(BACKENDS);
    w.down.extend([T2, T3]);
    w.run(400);
    assert!(is_sole(&w));
}

#[test]
fn a_dead_backend_is_not_waited_for() {
    let mut w = World::new(T1);
    w.down.extend([T2, T3, B]);
    w.run(2500);
    assert!(!is_sole(&w));
    w.run(2500);
    assert!(is_sole(&w) && is_warm(&w), "an ingress host does not hear it either");
}

#[test]
fn what_others_voted_before_the_fence_is_learnt_first() {
    let mut w = World::new(T1);
    w.down.extend([T2, T3]);
    w.run(150);
    // Admitted by their votes a moment before.
    w.has(A, 9, &[flow(1).record(true, 5)]);
    w.run(250);
    assert!(is_sole(&w) && !is_warm(&w), "others that heard an agent have 300 ms");
    w.open(&flow(0));
    assert_eq!(w.drops().last(), Some(&Reason::Cold));
    w.run(400);
    assert!(is_warm(&w));
    w.sent();
    w.open(&flow(1));
    let state = w.one();
    assert_eq!((state.control.kind, state.control.backend), (Kind::State, Some(A)));
}

#[test]
fn a_list_of_a_backend_that_obeys_nobody_is_no_marker() {
    let mut w = World::new(T1);
    w.down.extend([T2, T3]);
    w.run(500);
    assert!(is_sole(&w));
    w.obeys(B, None);
    w.run(250);
    w.run(300);
    // It is seen in the list, and all begins anew.
    assert!(w.orders.contains_key(&(B, TWO)));
    w.run(1500);
    assert!(is_sole(&w) && is_warm(&w));
    assert_eq!(w.obeyed_by(B), Some(T1));
}

#[test]
fn alone_it_votes_once_and_is_head_and_second() {
    let mut w = sole();
    w.open(&flow(0));
    let open = w.one();
    assert!(BACKENDS.contains(&open.to));
    let c = open.control;
    assert_eq!((c.head, c.second, c.sender), (Some(T1), Some(T1), T1));
    assert_eq!((c.word_a, c.word_b), (boot(T1).0, boot(T1).0));
    assert!(flow(0).carries_packet(&open));
    // Accept: the chain is we alone.
    let backend = c.backend.unwrap();
    w.say_for(backend, INGRESS, &flow(0), None, Kind::Accept, |c| {
        (c.ingress, c.backend, c.word_a) = (Some(INGRESS), Some(backend), 7);
        (c.head, c.second) = (Some(T1), Some(T1));
    });
    assert_eq!(w.one().to, INGRESS);
    assert_eq!(w.tracker.flow(&flow(0).id).unwrap().state, FlowState::Established);
    assert_eq!(w.state(&flow(0)), (Some(backend), Flags::default()));
}

#[test]
fn alone_it_tries_the_next_backend_and_refuses_at_once() {
    let mut w = sole();
    w.open(&flow(0));
    for _ in 0..3 {
        let asked = w.one();
        w.reject(&flow(0), &asked);
    }
    let asked = w.one();
    assert_eq!(asked.control.second, Some(T1));
    w.reject(&flow(0), &asked);
    let last = w.one();
    assert_eq!((last.control.kind, last.to), (Kind::Reject, INGRESS));
    assert!(last.control.flags.has(Flags::FINAL));
}

#[test]
fn alone_it_does_not_say_that_nobody_knows() {
    let mut w = World::new(T1);
    assert_eq!(w.state(&flow(0)), (None, Flags::UNKNOWN));
    let mut w = sole();
    assert_eq!(w.state(&flow(0)), (None, Flags::PENDING));
    // Of a trio with two that answer it may.
    let other = Flow::of([T1, OUTSIDER, T2], RESET, 0);
    assert_eq!(w.state(&other), (None, Flags::UNKNOWN));
}

#[test]
fn alone_it_stands_second_for_nobody() {
    let mut w = sole();
    w.down.remove(&T2);
    w.run(100);
    w.drops();
    w.open_by(T2, &flow(0), A);
    w.refused(Reason::SoleOwner);
}

#[test]
fn when_one_is_back_two_vote_again_after_all_acknowledged() {
    let mut w = sole();
    w.deaf.insert(B);
    w.down.remove(&T2);
    w.run(600);
    assert!(is_sole(&w));
    w.drops();
    w.open(&flow(0));
    w.refused(Reason::Cold);
    assert_eq!(w.state(&flow(0)), (None, Flags::PENDING));
    assert!(w.says_cold(T2), "others are asked first");
    assert!(w.orders[&(B, TWO)] > 1);
    w.deaf.clear();
    w.run(300);
    assert!(!is_sole(&w) && is_warm(&w));
    assert_eq!(w.obeyed_by(A), None);
    assert!(w.reports().contains(&Report::Sole(false)));
    assert!(!w.says_cold(T2));
    w.sent();
    w.open(&flow(0));
    assert_eq!(w.one().to, T2);
}

#[test]
fn who_hears_no_ingress_host_does_not_decide_alone() {
    let ingress = [INGRESS, INGRESS_2];
    let mut w = World::new(T1);
    w.down.extend([T2, T3]);
    w.down.extend(ingress);
    w.run(2000);
    assert!(!is_sole(&w) && w.orders.is_empty());
    w.down.remove(&INGRESS_2);
    w.run(1000);
    assert!(is_sole(&w) && is_warm(&w));
    // Both are gone for a moment, and then for longer.
    w.down.extend(ingress);
    w.run(300);
    w.down.remove(&INGRESS_2);
    w.run(1000);
    assert!(is_sole(&w) && !w.orders.contains_key(&(A, TWO)));
    w.down.extend(ingress);
    w.run(1000);
    assert!(!is_sole(&w));
    assert_eq!(w.obeyed_by(A), None, "others may vote again");
}

#[test]
fn who_answers_and_is_not_yet_relied_upon_is_not_missing() {
    let mut w = World::new(T1);
    // As on a busy host: each fall makes it longer until they are up again.
    for up in [100, 200, 300, 500, 700] {
        w.down.extend([T2, T3]);
        w.run(150);
        w.down.clear();
        w.run(up);
    }
    assert!(!w.tracker.peers.alive(T2) && !w.tracker.peers.alive(T3));
    assert!(!is_sole(&w) && w.orders.is_empty());
}

#[test]
fn one_that_comes_back_for_a_moment_does_not_count() {
    let mut w = sole();
    w.down.remove(&T2);
    w.run(120);
    w.down.insert(T2);
    w.run(1000);
    assert!(is_sole(&w));
    assert!(!w.orders.contains_key(&(A, TWO)));
}

#[test]
fn an_attempt_is_given_up_when_one_is_back_or_another_was_first() {
    let mut w = World::new(T1);
    w.down.extend([T2, T3]);
    w.deaf.insert(B);
    w.run(400);
    assert_eq!(w.obeyed_by(A), Some(T1));
    w.down.clear();
    w.deaf.clear();
    w.run(600);
    assert!(!is_sole(&w) && is_warm(&w));
    assert_eq!(w.obeyed_by(A), None);

    let mut w = World::new(T1);
    w.down.extend([T2, T3]);
    w.obeys(B, Some(T2));
    w.run(700);
    assert!(!is_sole(&w));
    assert_eq!((w.obeyed_by(A), w.obeyed_by(B)), (None, Some(T2)));
    let orders = w.orders[&(A, SOLE)];
    w.run(400);
    assert_eq!(w.orders[&(A, SOLE)], orders, "it backs off for a second");
    w.obeys(B, None);
    w.run(2500);
    assert!(is_sole(&w) && is_warm(&w));
}

#[test]
fn an_owner_that_an_agent_obeys_no_more_begins_anew() {
    let mut w = sole();
    w.obeys(B, None);
    w.run(150);
    assert!(w.orders.contains_key(&(B, TWO)), "Probe says so");
    w.run(1000);
    assert!(is_sole(&w) && is_warm(&w));
    assert_eq!(w.obeyed_by(B), Some(T1));
}

#[test]
fn a_cluster_of_one_tracker_works_alone() {
    let others = [T2, T3, OUTSIDER];
    let mut w = World::cold(config(T1), later(1, &others), None);
    w.run(1500);
    assert!(is_sole(&w) && is_warm(&w));
    let mine = Flow::new(RESET, 0);
    w.sent();
    w.open(&mine);
    let open = w.one();
    assert_eq!((open.control.head, open.control.second), (Some(T1), Some(T1)));
    assert_eq!(w.state(&mine).1, Flags::PENDING);
}

#[test]
fn a_backend_that_began_anew_obeys_before_it_is_offered_anything() {
    let mut w = sole();
    let before = w.orders[&(B, SOLE)];
    w.reboot(B);
    w.run(3000);
    assert!(w.orders[&(B, SOLE)] > before);
    assert_eq!(w.obeyed_by(B), Some(T1));
    assert!(is_sole(&w) && is_warm(&w));
}

#[test]
fn a_new_epoch_ends_it() {
    let mut w = sole();
    w.apply(later(2, &[]), &[T1]);
    assert!(!is_sole(&w));
    assert_eq!(w.reports().last(), Some(&Report::Sole(false)));
}
