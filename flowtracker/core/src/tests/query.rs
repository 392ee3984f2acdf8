//! Query: what an ingress is told of a flow that it does not know.

use jlb_role::Reason;
use jlb_wire::{Epoch, Flags, Kind, MemberId};

use super::world::*;
use crate::FlowState;

const A: MemberId = BACKENDS[0];
const B: MemberId = BACKENDS[1];

#[test]
fn an_established_flow_is_named_with_its_backend_and_incarnation() {
    for (port, incarnation) in [(RESET, 1000), (DNS, 7)] {
        let flow = Flow::new(port, 0).incarnation(incarnation);
        let mut w = World::new(T2);
        w.accept(&flow, A, 5);
        assert_eq!(w.state(&flow), (Some(A), Flags::default()));
        assert_eq!(w.query(&flow, None)[0].control.incarnation, flow.incarnation);
    }
}

#[test]
fn nobody_knows_it_is_said_with_the_nonce() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T3);
    assert_eq!(w.state(&flow), (None, Flags::UNKNOWN));
    let sent = w.query(&flow, None);
    assert_eq!((sent.len(), sent[0].control.epoch), (1, Epoch(1)));
    assert_eq!(w.tracker.counts(), crate::Counts::default());
}

#[test]
fn a_pending_flow_is_not_yet_known_and_its_backend_is_hurried() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.open(&flow);
    let backend = w.one().control.backend.unwrap();
    // It was just driven.
    assert_eq!(w.query(&flow, None).len(), 1);
    w.run(25);
    let sent = w.query(&flow, None);
    let kinds: Vec<_> = sent.iter().map(|s| (s.control.kind, s.to)).collect();
    assert_eq!(kinds, [(Kind::Cancel, backend), (Kind::State, INGRESS_2)]);
    assert_eq!(sent[1].control.flags, Flags::PENDING);
    assert_eq!(w.query(&flow, None).len(), 1, "not more often than every 25 ms");
    w.run(25);
    assert_eq!(w.query(&flow, None).len(), 2);
    w.say_for(backend, INGRESS, &flow, None, Kind::Accept, |c| {
        (c.ingress, c.backend, c.word_a, c.head) = (Some(INGRESS), Some(backend), 9, Some(T1));
    });
    assert_eq!(w.state(&flow), (Some(backend), Flags::default()));
}

#[test]
fn a_flow_that_has_just_ended_still_goes_to_its_backend() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.accept(&flow, A, 5);
    w.close(&flow, A, 6);
    assert_eq!(w.state(&flow), (Some(A), Flags::default()));
    w.run(CLOSING + 1);
    assert_eq!(w.state(&flow), (None, Flags::UNKNOWN));
    // A datagram flow's tombstone is found without its number.
    let flow = Flow::new(DNS, 0).incarnation(7);
    w.close(&flow, A, 6);
    assert_eq!(w.state(&flow), (Some(A), Flags::default()));
    w.run(REPLAY_WINDOW + 1);
    assert_eq!(w.state(&flow), (None, Flags::UNKNOWN));
}

#[test]
fn a_backends_later_word_that_it_has_no_such_flow_removes_the_entry() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.accept(&flow, A, 5);
    let flags = |sent: Vec<Sent>| (sent[0].control.backend, sent[0].control.flags);
    for (backend, counter) in [(A, 5), (A, 4), (B, 9)] {
        let sent = w.query(&flow, Some((backend, counter)));
        assert_eq!(flags(sent), (Some(A), Flags::default()), "{backend} {counter}");
    }
    let sent = w.query(&flow, Some((A, 6)));
    assert_eq!(flags(sent), (None, Flags::UNKNOWN));
    let left = crate::Counts { tombstones: 1, ..crate::Counts::default() };
    assert_eq!((w.tracker.flow(&flow.id), w.tracker.counts()), (None, left));
    // What was still under way of it does not begin it anew.
    w.open_by(T2, &flow, B);
    w.refused(Reason::Unexpected);

    // A datagram flow's tombstone would lead the next datagram back to where it is not.
    let flow = Flow::new(DNS, 0).incarnation(7);
    let mut w = World::new(T1);
    w.accept(&flow, A, 5);
    let sent = w.query(&flow, Some((A, 6)));
    assert_eq!(flags(sent), (None, Flags::UNKNOWN));
    assert_eq!(w.tracker.counts(), crate::Counts::default());
}

#[test]
fn a_word_of_another_boot_disproves_nothing() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.accept(&flow, A, 5);
    w.sent();
    w.say(INGRESS, &flow.incarnation(0), Kind::Query, |c| {
        (c.ingress, c.backend) = (Some(INGRESS), Some(A));
        c.word_b = jlb_wire::not_mine_proof(jlb_wire::BootId(77), 9);
    });
    assert_eq!(w.one().control.backend, Some(A));
}

#[test]
fn a_dead_backends_flows_are_held_no_more_until_it_speaks_again() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.accept(&flow, A, 5);
    let pending = Flow::new(RESET, 1);
    w.open_by(T2, &pending, A);
    w.sent();
    // Nobody obeys it alone: that is another test's.
    w.deaf.extend(BACKENDS);
    w.down.insert(A);
    w.down.extend(OTHERS);
    w.run(4500);
    assert!(!w.tracker.peers().dead(w.now, A, true), "nobody else says so");
    assert!(w.tracker.flow(&pending.id).is_some());
    // The others do not hear it either, and now they say so.
    w.down.retain(|id| !OTHERS.contains(id));
    w.run(100);
    assert_eq!(w.state(&flow), (None, Flags::UNKNOWN));
    w.run(1100);
    assert_eq!(w.tracker.flow(&pending.id), None, "its vote is free");
    // A host that was only cut off has its flows still.
    w.down.remove(&A);
    w.has(A, 9, &[flow.record(true, 5)]);
    w.run(200);
    assert_eq!(w.state(&flow), (Some(A), Flags::default()));
}

#[test]
fn who_does_not_own_the_partition_passes_the_question_on_unless_it_is_of_a_later_epoch() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(OUTSIDER);
    let sent = w.query(&flow, None);
    assert_eq!((sent.len(), sent[0].to, sent[0].control.kind), (1, T1, Kind::Query));
    assert_eq!((sent[0].control.sender, sent[0].control.receiver), (INGRESS_2, OUTSIDER));
    w.down.insert(T1);
    w.run(200);
    assert_eq!(w.query(&flow, None)[0].to, T2, "the first that lives");
    w.apply(later(2, &[]), &[INGRESS_2]);
    assert!(w.query(&flow, None).is_empty());
    w.refused(Reason::WrongEpoch);
}

#[test]
fn what_another_tracker_passes_on_is_answered_to_the_ingress() {
    let flow = Flow::new(RESET, 0);
    let mut asked = World::new(OUTSIDER);
    asked.run(100);
    asked.query(&flow, None);
    let sent = asked.last.unwrap();
    let mut w = World::new(T1);
    w.receive(sent);
    assert_eq!(w.one().to, INGRESS_2);
    assert_eq!(w.drops(), []);
}

#[test]
fn an_established_flow_is_told_in_the_cold_too() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.mute.extend([B]);
    w.has(A, 9, &[flow.record(true, 5)]);
    w.restart(spec());
    w.run(300);
    assert!(w.metric("jlb_cold_partitions", &[]) > 0.0);
    assert_eq!(w.state(&flow), (Some(A), Flags::default()));
    let other = Flow::new(RESET, 1);
    assert_eq!(w.state(&other), (None, Flags::PENDING), "never unknown");
    w.open(&flow);
    assert_eq!(w.one().control.kind, Kind::State);
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Established);
}
