//! Trackers pull the flows of this host, and ingress hosts hear of packets that are not for it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::pair::{Pair, signed};
use common::*;
use jlb_role::{Collect, FakeBuf, Nanos, Reason, Report, Role, Rule, Samples, Without};
use jlb_wire::{
    Body, BootId, Epoch, FiveTuple, Incarnation, Kind, MAX_BODY_PAYLOAD, MemberId, Refresh,
    RefreshRecord, body_flags,
};
use jlb_yann_core::{Agent, AgentEvent, EventKind, REFRESH_IDLE, REFRESH_SESSIONS, Verdict};

const FIRST: Refresh =
    Refresh { batch: 0, batches: 0, worker: 0, workers: 1, sole: 0, shut_out: 0, counter: 0 };
const NONCE: u64 = 0x1234;

impl Pair {
    fn pulls(&mut self, from: MemberId, nonce: u64, asked: Refresh) -> Vec<Reason> {
        let body = self.pull(from, nonce);
        self.take(&signed(&body, &payload(asked, &[])))
    }

    fn collects(&mut self) -> Vec<Collect> {
        let reports = self.io.reports.drain(..);
        reports.filter_map(|r| if let Report::Collect(c) = r { Some(c) } else { None }).collect()
    }

    fn gives(&mut self, order: Collect, counter: u64, records: &Arc<[RefreshRecord]>) {
        let records = Arc::clone(records);
        let (tracker, nonce) = (order.tracker, order.nonce);
        let event = AgentEvent::Flows { tracker, nonce, counter, records };
        self.agent.event(self.host.now, event, &mut self.io);
        // As many ticks as it takes.
        while self.due() {
            self.pass(0);
        }
    }

    fn due(&self) -> bool {
        Role::<FakeBuf>::next_deadline(&self.agent).is_some_and(|at| at <= self.host.now)
    }

    /// What one worker of a tracker gets in the end: records, and the counter of END.
    fn whole(&mut self, from: MemberId, nonce: u64, asked: Refresh) -> (Vec<RefreshRecord>, u64) {
        let mut all = Vec::new();
        for batch in 0.. {
            assert_eq!(self.pulls(from, nonce, Refresh { batch, ..asked }), []);
            let answers = self.answers();
            let [(body, refresh, records)] = &answers[..] else { panic!("{answers:?}") };
            assert_eq!((body.receiver, body.nonce, body.epoch), (from, nonce, Epoch(2)));
            assert_eq!(
                (refresh.batch, refresh.worker, refresh.workers),
                (batch, asked.worker, asked.workers)
            );
            if body.flags == body_flags::END {
                assert_eq!((refresh.batches, records.len()), (batch, 0));
                return (all, refresh.counter);
            }
            assert_eq!(body.flags, body_flags::BATCH);
            assert!(batch < refresh.batches);
            all.extend(records);
        }
        unreachable!()
    }
}

fn payload(refresh: Refresh, records: &[RefreshRecord]) -> Vec<u8> {
    let mut out = [0; MAX_BODY_PAYLOAD];
    let len = refresh.emit(records, &mut out);
    out[..len].to_vec()
}

fn many(n: u16) -> Arc<[RefreshRecord]> {
    (0..n).map(|port| record(tcp(port), u64::from(port))).collect()
}

fn record(tuple: FiveTuple, counter: u64) -> RefreshRecord {
    RefreshRecord { tuple, incarnation: Incarnation(7), live: true, counter }
}

#[test]
fn a_pull_orders_a_collection_and_is_answered_when_that_is_there() {
    let mut pair = Pair::new();
    pair.collects();
    assert_eq!(pair.pulls(HEAD, NONCE, FIRST), []);
    let order = Collect { tracker: HEAD, boot: boot(HEAD), nonce: NONCE };
    assert_eq!(pair.collects(), [order]);
    assert_eq!(pair.pulls(HEAD, NONCE, FIRST), [], "repeated");
    assert_eq!((pair.collects(), pair.answers()), (vec![], vec![]));

    pair.host.establish(&tcp(1), 700);
    pair.host.admit(&udp(2), 0);
    pair.host.establish(&tcp(3), 900);
    pair.host.close(&tcp(3));
    pair.host.stack.listener = None;
    pair.host.admit(&tcp(4), 1);
    let (counter, records) = pair.host.kernel.refresh_records(pair.host.now);
    let live: Vec<_> = records.iter().map(|r| (r.tuple, r.live)).collect();
    assert_eq!(live, [(tcp(1), true), (udp(2), true), (tcp(3), false)], "no refusals");
    let flow = pair.host.kernel.flow(&tcp(1)).unwrap();
    assert_eq!((records[0].incarnation.0, records[0].counter), (700, flow.counter));
    assert!(records[2].counter > flow.counter && records[2].counter <= counter);
    let order = Collect { nonce: 9, ..order };
    pair.gives(order, counter, &records.clone().into());
    assert_eq!(pair.pulls(HEAD, NONCE, FIRST), []);
    assert_eq!(pair.answers(), [], "another session's");
    pair.gives(Collect { nonce: NONCE, ..order }, counter, &records.clone().into());
    for _ in 0..2 {
        // Three trackers in all: each is of every trio.
        assert_eq!(pair.whole(HEAD, NONCE, FIRST), (records.clone(), counter));
    }
    assert_eq!(pair.pulls(HEAD, NONCE, Refresh { batch: 2, ..FIRST }), [Reason::Malformed]);
    let mut samples = Samples::default();
    <Agent as Role<FakeBuf>>::collect(&pair.agent, &mut samples);
    assert_eq!(samples.sum("jlb_refresh_flows_total", &[]), 6.0);
    assert_eq!(samples.sum("jlb_refresh_sessions", &[]), 1.0);
}

#[test]
fn what_closed_long_ago_is_not_listed() {
    let mut host = Host::new();
    host.establish(&tcp(1), 700);
    host.close(&tcp(1));
    host.pass(7_999);
    assert_eq!(host.kernel.refresh_records(host.now).1.len(), 1);
    host.pass(1);
    assert_eq!(host.kernel.refresh_records(host.now).1, []);
}

#[test]
fn each_worker_gets_the_flows_of_its_partitions() {
    let mut pair = Pair::new();
    // More than one tick looks at.
    let records = many(20_000);
    let mut seen = BTreeSet::new();
    for worker in 0..3 {
        let asked = Refresh { worker, workers: 3, ..FIRST };
        pair.collects();
        pair.pulls(SECOND, NONCE, asked);
        let order = pair.collects()[0];
        pair.gives(order, 5, &records);
        let (mine, _) = pair.whole(SECOND, NONCE, asked);
        for r in mine {
            assert_eq!(partition(&r.tuple).index() % 3, usize::from(worker));
            assert!(seen.insert(r.tuple));
        }
    }
    assert_eq!(seen.len(), records.len());
}

#[test]
fn a_tracker_gets_the_flows_only_in_whose_trio_it_is() {
    let mut pair = Pair::new();
    let list = snapshot(|s| {
        s.generation += 1;
        let mut fourth = s.members[4].clone();
        (fourth.id, fourth.name) = (id(14), "m14".into());
        fourth.addresses.v4 = Some("10.0.0.14".parse().unwrap());
        fourth.addresses.v6 = Some("fd00::14".parse().unwrap());
        s.members.push(fourth);
    });
    let event = AgentEvent::Snapshot(Arc::clone(&list));
    pair.agent.event(pair.host.now, event, &mut pair.io);
    pair.collects();
    pair.pulls(HEAD, NONCE, FIRST);
    let order = pair.collects()[0];
    let records = many(500);
    pair.gives(order, 5, &records);
    let (mine, _) = pair.whole(HEAD, NONCE, FIRST);
    let expected: Vec<_> =
        records.iter().filter(|r| list.trio(partition(&r.tuple)).contains(HEAD)).copied().collect();
    assert!(!expected.is_empty() && expected.len() < records.len());
    assert_eq!(mine, expected);
}

#[test]
fn a_pull_of_another_epoch_is_not_answered_and_a_new_epoch_begins_anew() {
    let mut pair = Pair::new();
    pair.pulls(HEAD, NONCE, FIRST);
    let order = pair.collects().pop().unwrap();
    pair.gives(order, 5, &many(1));
    let next = Body { epoch: Epoch(3), ..pair.pull(HEAD, NONCE) };
    assert_eq!(pair.take(&signed(&next, &payload(FIRST, &[]))), [Reason::WrongEpoch]);
    let list = snapshot(|s| (s.generation, s.epoch) = (8, Epoch(3)));
    pair.agent.event(pair.host.now, AgentEvent::Snapshot(list), &mut pair.io);
    assert_eq!(pair.pulls(HEAD, NONCE, FIRST), [Reason::WrongEpoch], "now the old one");
    let next = Body { epoch: Epoch(3), ..pair.pull(HEAD, NONCE) };
    assert_eq!(pair.take(&signed(&next, &payload(FIRST, &[]))), []);
    assert_eq!(pair.answers(), []);
    assert_eq!(pair.collects().len(), 1, "collected once more");
}

#[test]
fn a_new_nonce_is_a_new_session_once_the_former_was_served() {
    let mut pair = Pair::new();
    pair.pulls(HEAD, NONCE, FIRST);
    let order = pair.collects().pop().unwrap();
    assert_eq!(order.nonce, NONCE);
    pair.pass(1000);
    pair.pulls(HEAD, NONCE + 1, FIRST);
    assert_eq!(pair.collects(), [], "what is under way serves it");
    pair.gives(order, 5, &many(1));
    pair.whole(HEAD, NONCE + 1, FIRST);
    pair.pulls(HEAD, NONCE + 2, FIRST);
    assert_eq!(pair.answers(), []);
    assert_eq!(pair.collects()[0].nonce, NONCE + 2);
    pair.pass(2001);
    pair.pulls(HEAD, NONCE + 3, FIRST);
    assert_eq!(pair.collects()[0].nonce, NONCE + 3, "that was long ago");
}

#[test]
fn idle_sessions_are_forgotten_and_there_are_not_too_many() {
    let mut pair = Pair::new();
    for worker in 0..16 {
        for (tracker, n) in [(HEAD, 0), (SECOND, 1), (THIRD, 2)] {
            pair.pulls(tracker, n, Refresh { worker, workers: 16, ..FIRST });
        }
    }
    assert_eq!(pair.collects().len(), 48);
    let event = snapshot(|s| {
        s.generation += 1;
        s.members[0].role = jlb_map::MemberRole::FlowTracker;
        s.members[1].role = jlb_map::MemberRole::FlowTracker;
    });
    pair.agent.event(pair.host.now, AgentEvent::Snapshot(event), &mut pair.io);
    for worker in 0..16 {
        assert_eq!(pair.pulls(INGRESS, 3, Refresh { worker, workers: 16, ..FIRST }), []);
    }
    assert_eq!(pair.collects().len() + 48, REFRESH_SESSIONS);
    assert_eq!(pair.pulls(INGRESS_2, 4, FIRST), [Reason::NotReady]);
    pair.host.now = pair.host.now + REFRESH_IDLE - Nanos(1);
    pair.pass(0);
    assert_eq!(pair.pulls(INGRESS_2, 4, FIRST), [Reason::NotReady]);
    pair.host.now = pair.host.now + Nanos(1);
    assert!(pair.due());
    pair.pass(0);
    assert_eq!(pair.pulls(INGRESS_2, 4, FIRST), []);
}

#[test]
fn a_pull_that_makes_no_sense_is_dropped_and_counted() {
    let mut pair = Pair::new();
    for asked in [
        Refresh { workers: 0, ..FIRST },
        Refresh { workers: 17, ..FIRST },
        Refresh { worker: 2, workers: 2, ..FIRST },
    ] {
        assert_eq!(pair.pulls(HEAD, NONCE, asked), [Reason::Malformed]);
    }
    let body = pair.pull(HEAD, NONCE);
    let with_records = payload(FIRST, &[record(tcp(1), 1)]);
    assert_eq!(pair.take(&signed(&body, &with_records)), [Reason::Malformed]);
    let body = Body { flags: body_flags::BATCH, ..pair.pull(HEAD, NONCE) };
    assert_eq!(pair.take(&signed(&body, &payload(FIRST, &[]))), [Reason::WrongKind]);
    let body = pair.pull(INGRESS, NONCE);
    assert_eq!(pair.take(&signed(&body, &payload(FIRST, &[]))), [Reason::NotAMember]);
    let body = Body { boot: BootId(1), ..pair.pull(HEAD, NONCE) };
    assert_eq!(pair.take(&signed(&body, &payload(FIRST, &[]))), [Reason::UnknownBoot]);
    assert_eq!(pair.collects(), []);
}

#[test]
fn a_packet_of_an_unknown_flow_is_told_to_its_ingress_once() {
    let mut pair = Pair::new();
    let tuple = tcp(1);
    let counter = pair.host.kernel.refresh_records(START).0;
    assert_eq!(
        pair.host.dropped(&data(INGRESS_2, &segment(&tuple, 0x10, 5))),
        Some(Reason::NoFlow)
    );
    let sent = pair.tell();
    let [(to, said)] = sent[..] else { panic!("{sent:?}") };
    assert_eq!((to, said.receiver, said.kind), (INGRESS_2, INGRESS_2, Kind::NotMine));
    assert_eq!((said.incarnation.0, said.word_a), (0, counter + 1));
    pair.pass(1000);
    assert_eq!(pair.tell(), []);
    let mut samples = Samples::default();
    <Agent as Role<FakeBuf>>::collect(&pair.agent, &mut samples);
    assert_eq!(samples.sum("jlb_not_mine_total", &[]), 1.0);
}

#[test]
fn a_new_syn_brings_the_close_of_what_was_here_else_not_mine() {
    let mut pair = Pair::new();
    let tuple = tcp(1);
    let syn = data(INGRESS_2, &segment(&tuple, 2, 9000));
    pair.host.receive(&syn);
    let sent = pair.tell();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0, sent[0].1.kind), (INGRESS_2, Kind::NotMine));
    pair.host.establish(&tuple, 700);
    pair.host.close(&tuple);
    pair.tell();
    pair.pass(30);
    pair.sent();
    pair.host.receive(&syn);
    assert!(pair.tell().iter().all(|(_, c)| c.kind == Kind::Close && c.incarnation.0 == 700));
    // In the map, though its socket is gone: nothing may be said of it.
    let held = tcp(2);
    pair.host.establish(&held, 700);
    pair.host.stack.tcp.remove(&held);
    pair.host.receive(&data(INGRESS, &segment(&held, 2, 9000)));
    assert_eq!(pair.tell(), []);
}

#[test]
fn a_reset_makes_no_not_mine() {
    let mut host = Host::new();
    assert_eq!(host.dropped(&data(INGRESS, &segment(&tcp(1), 0x14, 5))), Some(Reason::NoFlow));
    assert_eq!(host.events(), []);
    let datagram = data(INGRESS, &headers(&udp(1), 0));
    assert_eq!(host.dropped(&datagram), Some(Reason::NoFlow));
    assert_eq!(host.event_kinds(), [EventKind::NotMine]);
}

#[test]
fn without_the_rule_a_packet_of_an_unknown_flow_is_delivered() {
    let mut host = Host::of(&snapshot(|_| {}), LIMITS, Without(Some(Rule::NotMine)));
    let inner = segment(&tcp(1), 0x10, 5);
    assert_eq!(host.receive(&data(INGRESS, &inner)), Verdict::Deliver(inner));
    assert_eq!(host.events(), []);
}

#[test]
fn a_former_boot_has_no_vote_but_for_the_canary() {
    let mut host = Host::new();
    let open = host.open(&tcp(1), 700);
    host.kernel.peer_boot(HEAD, BootId(77), 0);
    assert_eq!(host.dropped(&packet(&open, &tcp(1))), Some(Reason::UnknownBoot));
    let mut host = Host::of(&snapshot(|_| {}), LIMITS, Without(Some(Rule::MarkerFence)));
    for member in [HEAD, SECOND] {
        let tuple = tcp(member.as_u16());
        let open = host.open(&tuple, 700);
        host.kernel.peer_boot(member, BootId(77), 0);
        assert!(matches!(host.receive(&packet(&open, &tuple)), Verdict::Deliver(_)));
        let never = jlb_wire::Control { word_a: 3, ..host.open(&tuple, 700) };
        assert_eq!(host.dropped(&packet(&never, &tuple)), Some(Reason::UnknownBoot));
    }
}
