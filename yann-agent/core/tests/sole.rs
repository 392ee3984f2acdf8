//! Where a tracker decides alone (rule 14).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use core::iter;
use std::sync::Arc;

use common::pair::{KEYS, Pair, signed};
use common::*;
use jlb_flow::PARTITIONS;
use jlb_role::{Collect, PacketBuf, Reason, Report, Role, UnderlayDst};
use jlb_wire::{
    Body, BodyKind, BootId, Content, Control, Epoch, Flags, MAX_BODY_PAYLOAD, MemberId, Outer,
    Probe, Refresh, SoleOwner, body_flags,
};
use jlb_yann_core::{AgentEvent, Verdict};

const SOLE: u16 = body_flags::SOLE_OWNER;
const TWO: u16 = body_flags::TWO_VOTES;

/// An Epoch body that the agent sent.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    to: MemberId,
    flags: u16,
    nonce: u64,
    owner: Option<MemberId>,
}

impl Pair {
    /// A tracker's order; without those members it would be alone.
    fn orders(
        &mut self,
        from: MemberId,
        (flags, nonce): (u16, u64),
        absent: &[MemberId],
    ) -> Vec<Reason> {
        let packet = self.order(from, (flags, nonce), absent);
        self.take(&packet)
    }

    fn order(
        &mut self,
        from: MemberId,
        (flags, nonce): (u16, u64),
        absent: &[MemberId],
    ) -> Vec<u8> {
        let body = Body { kind: BodyKind::Epoch, flags, ..self.pull(from, nonce) };
        let mut payload = [0; SoleOwner::MAX_LEN];
        let len = SoleOwner { owner: Some(from), worker: 0, workers: 1 }.emit(absent, &mut payload);
        signed(&body, &payload[..len])
    }

    fn said_of_owners(&mut self) -> Vec<Said> {
        let sent: Vec<_> = self.io.sent.drain(..).collect();
        let said = sent.iter().filter_map(|(buf, to)| {
            let outer = Outer::parse(buf.bytes(), 6081).unwrap();
            let Content::Body { body: at } = outer.content else { return None };
            let (body, payload) = Body::parse(&buf.bytes()[at..outer.len], &KEYS).unwrap();
            let UnderlayDst::Member(to) = *to else { panic!() };
            (body.kind == BodyKind::Epoch).then(|| {
                let (sole, _) = SoleOwner::parse(payload).unwrap();
                Said { to, flags: body.flags, nonce: body.nonce, owner: sole.owner }
            })
        });
        said.collect()
    }

    /// What the daemon does when owners change: kernel map, then the word.
    fn write(&mut self) -> bool {
        let (mut change, mut pulled) = (None, Vec::new());
        for report in self.io.reports.drain(..) {
            if let Report::SoleChanged { change: last } = report {
                change = Some(last);
            } else if let Report::Pulled { member, boot, sequence } = report {
                pulled.push((member, boot, sequence));
            }
        }
        let Some(change) = change else { return false };
        for (member, boot, sequence) in pulled {
            self.host.kernel.pulled(member, boot, sequence);
        }
        self.host.kernel.obey(self.agent.sole_owners(), self.agent.standings());
        let event = AgentEvent::SoleWritten { change };
        self.agent.event(self.host.now, event, &mut self.io);
        true
    }

    fn obeys(&self, owner: u16) -> bool {
        self.agent.sole_owners().iter().all(|&o| o == owner)
    }
}

fn ack(to: MemberId, flags: u16, nonce: u64, owner: MemberId) -> Said {
    Said { to, flags: flags | body_flags::ACK, nonce, owner: Some(owner) }
}

/// A host that obeys HEAD.
fn obedient() -> Pair {
    let mut pair = Pair::new();
    assert_eq!(pair.orders(HEAD, (SOLE, 7), &[SECOND, THIRD]), []);
    assert!(pair.write());
    pair.said_of_owners();
    pair
}

#[test]
fn an_order_is_acknowledged_after_the_kernel_half_has_it() {
    let mut pair = Pair::new();
    assert_eq!(pair.orders(HEAD, (SOLE, 7), &[SECOND, THIRD]), []);
    assert_eq!(pair.said_of_owners(), []);
    assert_eq!(pair.orders(HEAD, (SOLE, 7), &[SECOND, THIRD]), [], "repeated");
    assert_eq!(pair.said_of_owners(), []);
    assert!(pair.write() && pair.obeys(11));
    assert_eq!(pair.said_of_owners(), [ack(HEAD, SOLE, 7, HEAD)]);
    assert_eq!(pair.orders(HEAD, (SOLE, 7), &[SECOND, THIRD]), []);
    assert_eq!(pair.said_of_owners(), [ack(HEAD, SOLE, 7, HEAD)], "at once now");
    assert!(!pair.write());
}

#[test]
fn only_the_partitions_that_are_meant_are_given_away() {
    let mut pair = Pair::new();
    assert_eq!(pair.orders(HEAD, (SOLE, 7), &[SECOND]), [Reason::Malformed], "THIRD is there");
    let body = Body { kind: BodyKind::Epoch, flags: SOLE, ..pair.pull(HEAD, 8) };
    let mut payload = [0; SoleOwner::MAX_LEN];
    let sole = SoleOwner { owner: Some(HEAD), worker: 1, workers: 2 };
    let len = sole.emit(&[SECOND, THIRD], &mut payload);
    assert_eq!(pair.take(&signed(&body, &payload[..len])), []);
    for (partition, owner) in pair.agent.sole_owners().iter().enumerate() {
        assert_eq!(*owner, if partition % 2 == 1 { 11 } else { 0 });
    }
}

#[test]
fn a_second_owner_is_told_of_the_first() {
    let mut pair = obedient();
    assert_eq!(pair.orders(SECOND, (SOLE, 9), &[HEAD, THIRD]), []);
    assert_eq!(pair.said_of_owners(), [ack(SECOND, SOLE, 9, HEAD)]);
    assert!(!pair.write() && pair.obeys(11));
    // Nor can it end that.
    assert_eq!(pair.orders(SECOND, (TWO, 10), &[HEAD, THIRD]), []);
    assert!(!pair.write() && pair.obeys(11));
}

#[test]
fn its_owner_ends_it_and_the_kernel_half_comes_first() {
    let mut pair = obedient();
    let late = pair.order(HEAD, (SOLE, 7), &[SECOND, THIRD]);
    assert_eq!(pair.orders(HEAD, (TWO, 8), &[SECOND, THIRD]), []);
    assert_eq!(pair.said_of_owners(), []);
    assert!(pair.write() && pair.obeys(0));
    assert_eq!(pair.said_of_owners(), [ack(HEAD, TWO, 8, HEAD)]);
    assert_eq!(pair.take(&late), [Reason::Unexpected], "overtaken");
    assert!(pair.obeys(0));
    pair.pass(500);
    assert_eq!(pair.said_of_owners(), []);
}

#[test]
fn an_owner_that_falls_silent_or_begins_anew_decides_no_more() {
    let mut pair = obedient();
    pair.pass(2_999);
    assert!(pair.obeys(11));
    pair.pass(1);
    assert!(pair.write() && pair.obeys(0));

    let mut pair = obedient();
    pair.reboot(HEAD, BootId(4711));
    assert!(pair.obeys(0));
}

#[test]
fn a_new_epoch_ends_it_and_orders_of_another_one_are_none() {
    let mut pair = obedient();
    let list = snapshot(|s| (s.generation, s.epoch) = (8, Epoch(3)));
    pair.agent.event(pair.host.now, AgentEvent::Snapshot(list), &mut pair.io);
    assert!(pair.write() && pair.obeys(0));
    assert_eq!(pair.orders(HEAD, (SOLE, 9), &[SECOND, THIRD]), [Reason::WrongEpoch]);

    let mut pair = obedient();
    let list = snapshot(|s| {
        s.generation = 8;
        s.members.retain(|m| m.id != HEAD);
    });
    pair.agent.event(pair.host.now, AgentEvent::Snapshot(list), &mut pair.io);
    assert!(pair.obeys(0), "its owner is gone from the list");
}

#[test]
fn what_makes_no_sense_is_dropped_and_counted() {
    let mut pair = Pair::new();
    for (flags, why) in
        [(SOLE | TWO, Reason::WrongKind), (SOLE | body_flags::ACK, Reason::WrongKind)]
    {
        assert_eq!(pair.orders(HEAD, (flags, 7), &[SECOND, THIRD]), [why]);
    }
    for (owner, worker, workers) in [(SECOND, 0, 1), (HEAD, 1, 1), (HEAD, 0, 0), (HEAD, 0, 17)] {
        let body = Body { kind: BodyKind::Epoch, flags: SOLE, ..pair.pull(HEAD, 8) };
        let mut payload = [0; SoleOwner::MAX_LEN];
        let sole = SoleOwner { owner: Some(owner), worker, workers };
        let len = sole.emit(&[SECOND, THIRD], &mut payload);
        assert_eq!(pair.take(&signed(&body, &payload[..len])), [Reason::Malformed]);
    }
    assert!(pair.obeys(0));
}

#[test]
fn the_end_marker_names_the_owner_and_sessions_begin_anew_with_it() {
    let mut pair = Pair::new();
    let end_for = |pair: &mut Pair, from, nonce| {
        let asked = Refresh {
            batch: 0,
            batches: 0,
            worker: 0,
            workers: 1,
            sole: 0,
            shut_out: 0,
            counter: 0,
        };
        let mut payload = [0; MAX_BODY_PAYLOAD];
        let len = asked.emit(&[], &mut payload);
        pair.io.reports.clear();
        let pull = signed(&pair.pull(from, nonce), &payload[..len]);
        assert_eq!(pair.take(&pull), []);
        if let Some(Report::Collect(Collect { tracker, nonce, .. })) = pair.io.reports.pop_back() {
            let event = AgentEvent::Flows { tracker, nonce, counter: 5, records: Arc::new([]) };
            pair.agent.event(pair.host.now, event, &mut pair.io);
            pair.pass(0);
        }
        pair.io.sent.clear();
        let pull = signed(&pair.pull(from, nonce), &payload[..len]);
        assert_eq!(pair.take(&pull), []);
        pair.answers().first().map(|(_, refresh, _)| refresh.sole)
    };
    assert_eq!(end_for(&mut pair, HEAD, 1), Some(0));
    // While the kernel half does not have it, nothing is said.
    pair.orders(HEAD, (SOLE, 7), &[SECOND, THIRD]);
    let pull = pair.pull(HEAD, 1);
    let asked =
        Refresh { batch: 0, batches: 0, worker: 0, workers: 1, sole: 0, shut_out: 0, counter: 0 };
    let mut payload = [0; MAX_BODY_PAYLOAD];
    let len = asked.emit(&[], &mut payload);
    assert_eq!(pair.take(&signed(&pull, &payload[..len])), [Reason::NotReady]);
    assert!(pair.write());
    assert_eq!(end_for(&mut pair, HEAD, 1), Some(HEAD.as_u16()));
    pair.orders(HEAD, (TWO, 8), &[]);
    assert!(pair.write());
    assert_eq!(end_for(&mut pair, SECOND, 1), Some(0));
}

#[test]
fn a_collection_from_before_a_change_is_not_taken_for_one_from_after_it() {
    let mut pair = Pair::new();
    let asked =
        Refresh { batch: 0, batches: 0, worker: 0, workers: 1, sole: 0, shut_out: 0, counter: 0 };
    let mut payload = [0; MAX_BODY_PAYLOAD];
    let len = asked.emit(&[], &mut payload);
    let pull = |pair: &mut Pair| {
        pair.io.reports.retain(|r| matches!(r, Report::SoleChanged { .. }));
        let pull = signed(&pair.pull(SECOND, 1), &payload[..len]);
        pair.take(&pull);
        pair.io
            .reports
            .iter()
            .find_map(|r| if let Report::Collect(c) = r { Some(*c) } else { None })
    };
    let before = pull(&mut pair).unwrap();
    pair.orders(HEAD, (SOLE, 7), &[SECOND, THIRD]);
    pair.write();
    pair.orders(HEAD, (TWO, 8), &[]);
    pair.write();
    let after = pull(&mut pair).unwrap();
    assert_ne!(before.nonce, after.nonce);
    let Collect { tracker, nonce, .. } = before;
    let event = AgentEvent::Flows { tracker, nonce, counter: 5, records: Arc::new([]) };
    pair.agent.event(pair.host.now, event, &mut pair.io);
    pair.pass(0);
    pair.io.sent.clear();
    assert_eq!(pull(&mut pair), None);
    assert_eq!(pair.answers(), []);
}

#[test]
fn a_new_user_half_goes_on_to_obey_whom_the_kernel_half_obeys() {
    let before = obedient();
    let mut pair = Pair::new();
    let owners = *before.host.kernel.sole_owners();
    pair.agent.adopt_sole_owners(pair.host.now, &owners, before.host.kernel.standings(), boot);
    pair.pass(100);
    assert!(pair.obeys(11) && !pair.write());
    let same = pair.agent.standings().eq(before.host.kernel.standings());
    assert!(same, "and whom that shuts out");
    let mut pair = Pair::new();
    let standings = before.host.kernel.standings();
    pair.agent.adopt_sole_owners(pair.host.now, &owners, standings, |_| BootId(4711));
    pair.pass(1);
    assert!(pair.obeys(0), "it began anew meanwhile");
}

#[test]
fn a_sole_owner_admits_by_its_own_vote_and_nobody_else_does() {
    let mut host = Host::new();
    let tuple = tcp(1);
    let alone = host.open_by((SECOND, SECOND), &tuple, 700);
    assert_eq!(host.dropped(&packet(&alone, &tuple)), Some(Reason::Unexpected));
    host.kernel.obey(&[SECOND.as_u16(); PARTITIONS], iter::empty());
    for votes in [(HEAD, SECOND), (SECOND, HEAD), (HEAD, HEAD)] {
        let open = host.open_by(votes, &tuple, 700);
        assert_eq!(host.dropped(&packet(&open, &tuple)), Some(Reason::SoleOwner));
    }
    for word in [|c: &mut Control| c.word_a += 1, |c: &mut Control| c.word_b += 1] {
        let mut open = host.open_by((SECOND, SECOND), &tuple, 700);
        word(&mut open);
        assert_eq!(host.dropped(&packet(&open, &tuple)), Some(Reason::SoleOwner));
    }
    let open = host.open_by((SECOND, SECOND), &tuple, 700);
    assert!(matches!(host.send(open, &tuple), Verdict::Deliver(_)));
    host.kernel.obey(&[0; PARTITIONS], iter::empty());
    let open = host.open_by((SECOND, SECOND), &tcp(2), 700);
    assert_eq!(host.dropped(&packet(&open, &tcp(2))), Some(Reason::Unexpected));
    assert!(matches!(host.admit(&tcp(2), 700), Verdict::Deliver(_)));
}

#[test]
fn only_the_partitions_that_are_written_are_its_own() {
    let mut host = Host::new();
    let (its, other) = (tcp(1), tcp(2));
    let mut owners = [0; PARTITIONS];
    owners[partition(&its).index()] = SECOND.as_u16();
    assert_ne!(partition(&its), partition(&other));
    host.kernel.obey(&owners, iter::empty());
    let open = host.open(&its, 700);
    assert_eq!(host.dropped(&packet(&open, &its)), Some(Reason::SoleOwner));
    assert!(matches!(host.admit(&other, 700), Verdict::Deliver(_)));
}

#[test]
fn a_sole_owner_that_began_anew_has_no_vote() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.kernel.obey(&[SECOND.as_u16(); PARTITIONS], iter::empty());
    let open = host.open_by((SECOND, SECOND), &tuple, 700);
    host.kernel.peer_boot(SECOND, BootId(77), 0);
    assert_eq!(host.dropped(&packet(&open, &tuple)), Some(Reason::UnknownBoot));
}

#[test]
fn an_incumbent_and_a_cancel_need_no_vote() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.kernel.obey(&[SECOND.as_u16(); PARTITIONS], iter::empty());
    let open = host.open(&tuple, 700);
    let open = Control { flags: Flags::INCUMBENT, ..open };
    assert_eq!(host.send(open, &tuple), Verdict::Done);
    let cancel = host.cancel(&tuple, 700);
    assert!(matches!(host.send(cancel, &tuple), Verdict::Send { .. }));
}

impl Pair {
    /// A pull of a tracker's only worker that knows of being shut out for the so-manieth time.
    fn pull_knowing(&mut self, from: MemberId, (nonce, shut_out): (u64, u8)) -> Vec<Reason> {
        let packet = self.pull_of(from, (0, 1), (nonce, shut_out));
        self.take(&packet)
    }

    fn pull_of(
        &mut self,
        from: MemberId,
        (worker, workers): (u8, u8),
        (nonce, shut_out): (u64, u8),
    ) -> Vec<u8> {
        let asked =
            Refresh { batch: 0, batches: 0, worker, workers, sole: 0, shut_out, counter: 0 };
        let mut payload = [0; MAX_BODY_PAYLOAD];
        let len = asked.emit(&[], &mut payload);
        signed(&self.pull(from, nonce), &payload[..len])
    }

    /// What the kernel half answers to a tracker's Probe: of being shut out, and of being obeyed.
    fn probed(&mut self, from: MemberId) -> (u8, bool) {
        let asked = Probe { generation: 7, digest: 0, heartbeat_age_ms: 0, worker: 0, shut_out: 0 };
        let packet = body(from, BodyKind::Probe, 0, &asked.emit());
        let Verdict::Send { packet, .. } = self.host.receive(&packet) else { panic!() };
        let Content::Body { body: at } = Outer::parse(&packet, 6081).unwrap().content else {
            panic!()
        };
        let (body, payload) = Body::parse(&packet[at..], &KEYS).unwrap();
        let (probe, _) = Probe::parse(payload).unwrap();
        (probe.shut_out, body.flags & body_flags::OBEYS != 0)
    }
}

#[test]
fn who_is_not_the_owner_is_shut_out_until_it_has_pulled_after_its_end() {
    let mut pair = obedient();
    assert_eq!(pair.probed(HEAD), (0, true));
    assert_eq!((pair.probed(SECOND), pair.probed(THIRD)), ((1, false), (1, false)));
    assert_eq!(pair.pull_knowing(SECOND, (1, 1)), [Reason::SoleOwner], "its end is not known");
    pair.orders(HEAD, (TWO, 8), &[SECOND, THIRD]);
    assert!(pair.write());
    assert_eq!((pair.probed(HEAD), pair.probed(SECOND)), ((0, false), (1, false)));
    assert_eq!(pair.pull_knowing(SECOND, (2, 1)), []);
    assert!(pair.write());
    assert_eq!((pair.probed(SECOND), pair.probed(THIRD)), ((0, false), (1, false)));
}

#[test]
fn a_pull_that_does_not_know_of_it_ends_nothing() {
    let mut pair = obedient();
    // Held up until all is over: what it asked for lacks what the owner decided.
    let late = pair.pull_of(SECOND, (0, 1), (2, 0));
    pair.orders(HEAD, (TWO, 8), &[SECOND, THIRD]);
    assert!(pair.write());
    assert_eq!(pair.take(&late), []);
    assert!(!pair.write());
    // Again, and a pull that knew of the first time.
    pair.orders(HEAD, (SOLE, 9), &[SECOND, THIRD]);
    assert!(pair.write());
    let late = pair.pull_of(SECOND, (0, 1), (3, 1));
    pair.orders(HEAD, (TWO, 10), &[SECOND, THIRD]);
    assert!(pair.write());
    assert_eq!(pair.take(&late), []);
    assert!(!pair.write());
    assert_eq!(pair.probed(SECOND), (2, false));
}

#[test]
fn each_worker_pulls_for_itself() {
    let mut pair = obedient();
    pair.orders(HEAD, (TWO, 8), &[SECOND, THIRD]);
    assert!(pair.write());
    let standing = |pair: &Pair| pair.agent.standings().find(|(id, _)| *id == SECOND).unwrap().1;
    for (worker, left) in [(1, 0b101), (0, 0b100), (2, 0)] {
        let pull = pair.pull_of(SECOND, (worker, 3), (20 + u64::from(worker), 1));
        assert_eq!(pair.take(&pull), []);
        assert!(pair.write());
        assert_eq!(standing(&pair).shut_out, left);
    }
}

#[test]
fn an_owner_is_not_shut_out_by_itself_and_by_its_predecessor_until_it_pulls() {
    let mut pair = obedient();
    pair.orders(HEAD, (TWO, 8), &[SECOND, THIRD]);
    pair.write();
    pair.orders(SECOND, (SOLE, 9), &[HEAD, THIRD]);
    assert!(pair.write() && pair.obeys(SECOND.as_u16()));
    assert_eq!((pair.probed(SECOND), pair.probed(HEAD)), ((1, true), (1, false)));
    assert_eq!(pair.pull_knowing(SECOND, (3, 1)), []);
    assert!(pair.write());
    assert_eq!(pair.probed(SECOND), (0, true));
}

#[test]
fn votes_of_who_has_not_pulled_do_not_count_nor_do_those_from_before_it_did() {
    let mut pair = Pair::new();
    let (tuple, before) = (tcp(1), tcp(2));
    let late = pair.host.open(&before, 700);
    pair.orders(HEAD, (SOLE, 7), &[SECOND, THIRD]);
    assert!(pair.write());
    pair.orders(HEAD, (TWO, 8), &[SECOND, THIRD]);
    assert!(pair.write());
    let open = pair.host.open(&tuple, 700);
    assert_eq!(pair.host.dropped(&packet(&open, &tuple)), Some(Reason::SoleOwner));
    // By THIRD, with SECOND at its head.
    let open = pair.host.open_by((SECOND, THIRD), &tuple, 700);
    assert_eq!(pair.host.dropped(&packet(&open, &tuple)), Some(Reason::SoleOwner));
    pair.sequence = late.sequence + 100;
    assert_eq!(pair.pull_knowing(SECOND, (3, 1)), []);
    assert!(pair.write());
    assert_eq!(pair.host.dropped(&packet(&late, &before)), Some(Reason::Replayed));
    let mut open = pair.host.open(&tuple, 700);
    open.sequence = pair.sequence + 1;
    assert!(matches!(pair.host.send(open, &tuple), Verdict::Deliver(_)));
}

#[test]
fn a_new_epoch_leaves_those_shut_out_who_have_not_pulled() {
    let mut pair = obedient();
    let list = snapshot(|s| (s.generation, s.epoch) = (8, Epoch(3)));
    pair.agent.event(pair.host.now, AgentEvent::Snapshot(list), &mut pair.io);
    assert!(pair.write() && pair.obeys(0));
    assert_eq!((pair.probed(HEAD), pair.probed(SECOND)), ((0, false), (1, false)));
}
