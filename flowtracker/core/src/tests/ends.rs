//! Close, tombstones, and what comes after.

use jlb_role::{Reason, Rule};
use jlb_wire::{Flags, Incarnation, Kind};

use super::world::*;
use crate::{Counts, FlowState};

const A: jlb_wire::MemberId = BACKENDS[0];
const B: jlb_wire::MemberId = BACKENDS[1];

/// The flow is established on A with counter 5.
fn established(flow: &Flow) -> World {
    let mut w = World::new(T1);
    w.accept(flow, A, 5);
    w.one();
    w
}

#[test]
fn a_close_is_acknowledged_and_leaves_a_closing_entry_and_a_tombstone() {
    let flow = Flow::new(RESET, 0);
    let mut w = established(&flow);
    w.close(&flow, A, 6);
    let ack = w.one();
    assert_eq!((ack.to, ack.control.kind, ack.control.flags), (A, Kind::Close, Flags::ACK));
    assert_eq!((ack.control.word_a, ack.control.incarnation), (6, flow.incarnation));
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Closing);
    assert_eq!(w.metric("jlb_flows", &[("state", "closing"), ("protocol", "tcp")]), 1.0);
    assert_eq!(w.metric("jlb_remembered", &[("kind", "tombstone")]), 1.0);
    w.run(CLOSING - 1);
    assert_eq!(w.tracker.counts().closing, [1, 0]);
    w.run(2);
    assert_eq!((w.tracker.flow(&flow.id), w.tracker.counts().tombstones), (None, 1));
    w.run(REPLAY_WINDOW - CLOSING);
    assert_eq!(w.tracker.counts(), Counts::default(), "no trace of it");
}

#[test]
fn a_close_of_the_unknown_is_acknowledged_and_remembered() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T3);
    w.close(&flow, A, 6);
    assert_eq!(w.one().control.flags, Flags::ACK);
    assert_eq!((w.tracker.counts().closing, w.tracker.counts().tombstones), ([0, 0], 1));
    w.accept(&flow, A, 5);
    w.refused(Reason::StaleCounter);
}

#[test]
fn an_old_duplicate_of_a_closed_flow_opens_nothing() {
    let flow = Flow::new(RESET, 0);
    for wait in [0, CLOSING + 10] {
        let mut w = established(&flow);
        w.close(&flow, A, 6);
        w.run(wait);
        w.sent();
        w.open(&flow);
        w.refused(Reason::Unexpected);
        w.open_by(T2, &flow, A);
        w.refused(Reason::Unexpected);
        w.accept(&flow, A, 7);
        w.refused(Reason::StaleCounter);
    }
    let mut w = World::without(T1, Rule::Tombstones);
    w.accept(&flow, A, 5);
    w.close(&flow, A, 6);
    w.sent();
    w.open(&flow);
    assert_eq!(w.one().control.kind, Kind::Open, "the canary opens it once more");
}

#[test]
fn another_incarnation_of_a_closed_flow_opens_at_once() {
    let flow = Flow::new(RESET, 0);
    let mut w = established(&flow);
    w.close(&flow, A, 6);
    w.sent();
    w.open(&flow.incarnation(2000));
    let asked = w.one();
    assert_eq!((asked.control.kind, asked.control.flags), (Kind::Open, Flags::default()));
    assert_eq!(w.tracker.flow(&flow.id).unwrap().incarnation, Incarnation(2000));
    // The closing entry's timer must not take the new one away.
    let backend = asked.control.backend.unwrap();
    w.accept(&flow.incarnation(2000), backend, 9);
    w.run(CLOSING + 10);
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Established);
    assert_eq!(w.tracker.counts().timers, 0);
}

#[test]
fn a_closed_udp_flow_goes_to_the_same_backend_which_numbers_it() {
    let flow = Flow::new(DNS, 0);
    for wait in [0, CLOSING + 10] {
        let mut w = World::new(T1);
        w.accept(&flow.incarnation(7), B, 5);
        w.close(&flow.incarnation(7), B, 6);
        w.run(wait);
        w.sent();
        w.open(&flow);
        let asked = w.one();
        assert_eq!((asked.control.backend, asked.control.incarnation), (Some(B), Incarnation(0)));
        w.accept(&flow.incarnation(7), B, 5);
        w.refused(Reason::StaleCounter);
        w.accept(&flow.incarnation(8), B, 7);
        assert_eq!(w.one().to, INGRESS);
        assert_eq!(w.tracker.flow(&flow.id).unwrap().incarnation, Incarnation(8));
        // The former's Close once more.
        w.close(&flow.incarnation(7), B, 6);
        assert_eq!(w.one().control.flags, Flags::ACK);
        assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Established);
    }
    // As second, any candidate will do: the head knows.
    let mut w = World::new(T2);
    w.close(&flow.incarnation(7), B, 6);
    w.sent();
    w.open_by(T1, &flow, A);
    assert_eq!(w.one().to, A);
}

#[test]
fn a_close_overtakes_its_accept() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.open(&flow);
    let backend = w.one().control.backend.unwrap();
    let other = BACKENDS.into_iter().find(|&b| b != backend).unwrap();
    w.close(&flow.incarnation(999), backend, 1);
    w.close(&flow, other, 1);
    assert!(matches!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Pending { .. }));
    w.sent();
    w.close(&flow, backend, 6);
    assert_eq!(w.one().control.flags, Flags::ACK);
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Closing);
    w.accept(&flow, backend, 5);
    w.refused(Reason::StaleCounter);
    w.run(CLOSING + 1);
    assert_eq!((w.tracker.flow(&flow.id), w.tracker.counts().timers), (None, 0));
}

#[test]
fn a_close_of_another_flow_or_an_older_word_ends_nothing() {
    let flow = Flow::new(RESET, 0);
    let mut w = established(&flow);
    w.close(&flow, B, 6);
    w.close(&flow.incarnation(999), A, 6);
    w.close(&flow, A, 4);
    let acks = w.sent();
    assert_eq!(acks.len(), 3);
    assert!(acks.iter().all(|s| s.control.flags == Flags::ACK), "acknowledged all the same");
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Established);
    w.say(A, &flow, Kind::Close, |c| c.backend = Some(B));
    w.refused(Reason::Malformed);

    let mut w = World::without(T1, Rule::VersionedWord);
    w.accept(&flow, A, 5);
    w.close(&flow, A, 4);
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Closing, "the canary obeys");
}

#[test]
fn without_room_for_a_tombstone_the_close_is_not_acknowledged() {
    let config = crate::TrackerConfig { remembered_capacity: 2, ..config(T1) };
    let mut w = World::with(config, spec(), None);
    let flows = [0, 1, 2].map(|n| Flow::new(RESET, n));
    for flow in &flows {
        w.accept(flow, A, 5);
    }
    w.sent();
    w.close(&flows[0], A, 6);
    w.close(&flows[1], A, 7);
    assert_eq!(w.sent().len(), 2);
    w.close(&flows[2], A, 8);
    w.refused(Reason::AnswersFull);
    assert_eq!(w.tracker.flow(&flows[2].id).unwrap().state, FlowState::Established);
    w.run(REPLAY_WINDOW + 1);
    w.close(&flows[2], A, 8);
    assert_eq!(w.one().control.flags, Flags::ACK, "the agent says it again");
}

#[test]
fn a_closed_udp_flow_does_not_wait_for_a_backend_that_is_gone() {
    let flow = Flow::new(DNS, 0);
    let mut w = World::new(T1);
    w.accept(&flow.incarnation(7), B, 5);
    w.close(&flow.incarnation(7), B, 6);
    w.down.insert(B);
    w.run(600);
    w.sent();
    w.open(&flow);
    let asked = w.one().control.backend.unwrap();
    assert_ne!(asked, B, "a suspect gets no new flows");
}

#[test]
fn a_new_boot_of_a_backend_voids_its_flows() {
    for port in [RESET, DNS] {
        let flow = Flow::new(port, 0).incarnation(7);
        let other = Flow::new(port, 1).incarnation(7);
        let mut w = World::new(T1);
        w.accept(&flow, A, 5);
        w.accept(&other, B, 5);
        w.sent();
        w.reboot(A);
        // Not yet known: what it said still counts.
        assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Established);
        w.run(200);
        w.drops();
        assert_eq!(w.tracker.flow(&flow.id), None, "no Close would ever come");
        assert_eq!(w.tracker.flow(&other.id).unwrap().backend, B);
        assert_eq!(w.tracker.counts().established.iter().sum::<usize>(), 1);
        w.open(&Flow::new(port, 0));
        assert_eq!(w.one().control.kind, Kind::Open, "for UDP no State that leads nowhere");
    }
}

#[test]
fn a_backend_that_leaves_the_list_takes_its_flows_along() {
    let flows = [0, 1].map(|n| Flow::new(RESET, n));
    let mut w = World::new(T1);
    w.accept(&flows[0], A, 5);
    w.accept(&flows[1], B, 5);
    w.sent();
    let mut without = spec();
    without.generation = 2;
    without.members.retain(|m| m.id != A);
    for service in &mut without.services {
        service.backends.retain(|b| b.member != A);
    }
    let snapshot = jlb_map::Snapshot::build(without).unwrap();
    let event = crate::TrackerEvent::Snapshot(snapshot);
    jlb_role::Role::event(&mut w.tracker, w.now, event, &mut w.io);
    w.run(5);
    assert_eq!(w.tracker.flow(&flows[0].id), None);
    assert_eq!(w.tracker.flow(&flows[1].id).unwrap().backend, B);
    assert_eq!(w.tracker.counts().established, [1, 0]);
}

#[test]
fn a_vote_for_a_dead_backend_is_free_as_soon_as_somebody_asks() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.open(&flow);
    let first = w.one().control.backend.unwrap();
    w.down.insert(first);
    // Suspected, not dead: rule 7 keeps the vote.
    w.run(1000);
    w.sent();
    w.open(&flow);
    assert_eq!(w.one().control.backend, Some(first));
    while !w.tracker.peers().dead(w.now, first, true) {
        assert!(w.tracker.flow(&flow.id).is_some());
        w.run(1);
        if w.now.0.is_multiple_of(500_000_000) {
            w.sent();
            w.open(&flow);
        }
    }
    w.sent();
    w.open(&flow);
    let next = w.one().control.backend;
    assert!(next.is_some() && next != Some(first));
}
