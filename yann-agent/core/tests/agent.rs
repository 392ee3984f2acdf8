//! The user half: what it says, to whom, and how often.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;

use common::pair::{Pair, signed};
use common::*;
use jlb_role::{AllRules, FakeBuf, Nanos, Reason, Report, Role, Samples, UnderlayDst};
use jlb_wire::{Body, BodyKind, Control, Flags, Incarnation, Kind, MemberId};
use jlb_yann_core::{
    Agent, AgentEvent, EventKind, KernelEvent, KernelLimits, Verdict, Word, first_sequence,
};

fn targets(sent: &[(MemberId, Control)]) -> Vec<u16> {
    let mut ids: Vec<_> = sent.iter().map(|(to, _)| to.as_u16()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_syn_ack_makes_an_accept_along_the_chain() {
    let mut pair = Pair::new();
    let tuple = tcp(1);
    pair.host.admit(&tuple, 700);
    assert_eq!(pair.tell(), []);
    pair.host.kernel.egress(pair.host.now, &reply(&tuple, 0x12, 701));
    pair.agent.event(pair.host.now, AgentEvent::Cpu(9), &mut pair.io);
    let sent = pair.tell();
    let [(to, accept)] = sent[..] else { panic!("{sent:?}") };
    assert_eq!((to, accept.kind, accept.receiver), (SECOND, Kind::Accept, INGRESS));
    assert_eq!(
        (accept.head, accept.second, accept.ingress),
        (Some(HEAD), Some(SECOND), Some(INGRESS))
    );
    assert_eq!((accept.incarnation, accept.word_a), (Incarnation(700), 101));
    assert_eq!((accept.cookie, accept.hop_budget), (0x0001_0002, 6));
    assert_eq!((accept.load.queue, accept.load.cpu, accept.load.live), (3, 9, 1));

    // A datagram that is forced in, at once.
    let open = pair.host.open(&udp(1), 0);
    pair.host.send(Control { flags: Flags::FORCE, ..open }, &udp(1));
    let sent = pair.tell();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].1.flags, sent[0].1.incarnation.0), (Flags::FORCE, 0x2121 + 102));
}

#[test]
fn a_canceller_gets_its_accept_itself() {
    let mut pair = Pair::new();
    let tuple = tcp(1);
    pair.host.admit(&tuple, 700);
    let cancel = pair.host.cancel(&tuple, 700);
    let cancel = Control { sender: THIRD, boot: boot(THIRD), ingress: Some(INGRESS_2), ..cancel };
    pair.host.send(cancel, &tuple);
    let sent = pair.tell();
    let [(to, accept)] = sent[..] else { panic!("{sent:?}") };
    assert_eq!((to, accept.receiver), (THIRD, INGRESS_2));
    assert_eq!((accept.head, accept.second), (Some(THIRD), None));
}

#[test]
fn a_close_is_repeated_until_everybody_has_heard_it() {
    let mut pair = Pair::new();
    let tuple = tcp(1);
    pair.host.establish(&tuple, 700);
    pair.host.receive(&data(INGRESS_2, &segment(&tuple, 0x10, 701)));
    pair.host.close(&tuple);
    let sent = pair.tell();
    assert_eq!(targets(&sent), [1, 2, 11, 12, 13], "the trio, and both ingress hosts");
    let close = sent[0].1;
    assert_eq!((close.kind, close.word_a, close.flags), (Kind::Close, 102, Flags::default()));
    assert_eq!(close.load.live, 0, "without this one");
    assert!(sent.iter().all(|(to, c)| c.receiver == *to));

    pair.pass(24);
    assert_eq!(pair.sent(), []);
    assert_eq!(pair.ack(HEAD, &tuple, &close), []);
    assert_eq!(pair.ack(INGRESS, &tuple, &close), []);
    pair.pass(1);
    assert_eq!(targets(&pair.sent()), [2, 12, 13], "to those who did not");
    for (wait, from) in [(50, SECOND), (100, THIRD)] {
        pair.pass(wait - 1);
        assert_eq!(pair.sent(), [], "not before {wait} ms");
        assert_eq!(pair.ack(from, &tuple, &close), []);
        pair.pass(1);
        assert!(!pair.sent().is_empty());
    }
    assert_eq!(pair.ack(INGRESS_2, &tuple, &close), []);
    for _ in 0..70 {
        pair.pass(100);
        assert_eq!(pair.sent(), [], "all have heard");
    }
    assert_eq!(pair.agent.closes(), 1, "remembered");
    pair.pass(1000);
    assert_eq!(pair.agent.closes(), 0, "and forgotten after 8 s");
}

#[test]
fn a_close_that_nobody_hears_is_repeated_eight_times() {
    let mut pair = Pair::new();
    pair.host.establish(&tcp(1), 700);
    pair.host.close(&tcp(1));
    let mut closes = pair.tell().len();
    for _ in 0..9000 {
        pair.pass(1);
        closes += pair.sent().len();
    }
    assert_eq!(closes, 4 * 9);
    assert_eq!(pair.agent.closes(), 0);
    let mut samples = Samples::default();
    <Agent as Role<FakeBuf>>::collect(&pair.agent, &mut samples);
    assert_eq!(samples.sum("jlb_closes_unacknowledged_total", &[]), 1.0);
}

#[test]
fn only_the_acknowledgement_of_this_close_by_its_target_counts() {
    let mut pair = Pair::new();
    let tuple = tcp(1);
    pair.host.establish(&tuple, 700);
    pair.host.close(&tuple);
    let close = pair.tell()[0].1;
    let unexpected = [Reason::Unexpected];
    assert_eq!(pair.ack(HEAD, &tuple, &Control { word_a: 9, ..close }), unexpected);
    let other = Control { incarnation: Incarnation(701), ..close };
    assert_eq!(pair.ack(HEAD, &tuple, &other), unexpected);
    assert_eq!(pair.ack(INGRESS_2, &tuple, &close), unexpected, "who was not told");
    assert_eq!(pair.ack(HEAD, &tcp(2), &close), unexpected);
    pair.pass(25);
    assert_eq!(targets(&pair.sent()), [1, 11, 12, 13]);
}

#[test]
fn who_still_believes_in_a_closed_flow_is_told_again() {
    let mut pair = Pair::new();
    let tuple = tcp(1);
    pair.host.establish(&tuple, 700);
    pair.host.close(&tuple);
    let close = pair.tell()[0].1;
    for from in [INGRESS, HEAD, SECOND, THIRD] {
        pair.ack(from, &tuple, &close);
    }
    // A SYN of the next connection comes to us as Data, from an ingress that was not told. Its own five-tuple is all
    // that names the flow.
    let stale = data(INGRESS_2, &segment(&tuple, 0x02, 9000));
    pair.host.receive(&stale);
    assert_eq!(pair.tell(), [], "just told");
    pair.pass(25);
    pair.host.receive(&stale);
    let sent = pair.tell();
    assert_eq!(targets(&sent), [1, 2, 11, 12, 13]);
    assert!(sent.iter().all(|(_, c)| c.incarnation.0 == 700 && c.word_a == close.word_a));
}

#[test]
fn one_packet_does_not_have_all_closes_of_its_five_tuple_said_again() {
    let mut pair = Pair::new();
    let now = pair.host.now;
    let limits = KernelLimits { answers: 64, ..LIMITS };
    pair.host = Host::of(&snapshot(|_| {}), limits, AllRules);
    pair.host.now = now;
    let tuple = tcp(1);
    for isn in 1..=40 {
        pair.host.establish(&tuple, 1000 * isn);
        pair.host.close(&tuple);
        for (to, close) in pair.tell() {
            assert_eq!(pair.ack(to, &tuple, &close), []);
        }
    }
    let mut said = std::collections::BTreeSet::new();
    for n in 0..10 {
        pair.pass(25);
        pair.host.receive(&data(INGRESS_2, &segment(&tuple, 0x02, 90_000 + n)));
        let sent = pair.tell();
        assert_eq!(sent.len(), 4 * 5, "of four flows, to four hosts and who asked");
        for (to, close) in sent {
            said.insert(close.incarnation);
            assert_eq!(pair.ack(to, &tuple, &close), []);
        }
    }
    assert_eq!(said.len(), 40, "but in the end of all");
}

#[test]
fn what_only_the_kernel_half_remembers_is_said_too() {
    let mut pair = Pair::new();
    let tuple = tcp(1);
    pair.host.establish(&tuple, 700);
    pair.host.close(&tuple);
    pair.host.events();
    // The daemon was down when that happened.
    let told: Vec<_> =
        pair.host.kernel.answers().filter_map(|(k, a)| KernelEvent::of_answer(k, a)).collect();
    for event in told {
        pair.agent.event(pair.host.now, AgentEvent::Kernel(event), &mut pair.io);
    }
    let sent = pair.sent();
    assert_eq!(targets(&sent), [1, 11, 12, 13]);
    assert_eq!(sent[0].1.word_a, 102);
}

#[test]
fn with_too_many_closes_they_are_said_once() {
    let mut pair = Pair::with(1, &Word::new(BOOT));
    for n in 1..=2 {
        pair.host.establish(&tcp(n), 700);
        pair.host.close(&tcp(n));
        assert_eq!(pair.tell().len(), 4);
    }
    assert_eq!(pair.agent.closes(), 1);
    pair.pass(25);
    assert_eq!(pair.sent().len(), 4, "of the first one");
    let mut samples = Samples::default();
    <Agent as Role<FakeBuf>>::collect(&pair.agent, &mut samples);
    assert_eq!(samples.sum("jlb_closes_unrepeated_total", &[]), 1.0);
}

#[test]
fn boots_are_learnt_by_probe_and_at_once_when_unknown() {
    let mut pair = Pair::new();
    let booted = |pair: &mut Pair| {
        let reports: Vec<_> = pair.io.reports.drain(..).collect();
        let mut ids: Vec<_> = (reports.iter())
            .filter_map(|r| {
                let Report::PeerBoot { member, boot: b, .. } = r else { return None };
                (*b == boot(*member)).then(|| member.as_u16())
            })
            .collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(booted(&mut pair), [1, 2, 11, 12, 13], "ingress hosts and trackers");
    pair.pass(100);
    assert_eq!(pair.io.sent.len(), 0, "not yet their turn");
    let learn = Control { boot: jlb_wire::BootId(77), ..pair.host.open(&tcp(1), 1) };
    assert_eq!(pair.host.send(learn, &tcp(1)), Verdict::Drop(Reason::UnknownBoot));
    let event = pair.host.events()[0];
    assert_eq!((event.kind, event.peer), (EventKind::Learn, Some(SECOND)));
    pair.agent.event(pair.host.now, AgentEvent::Kernel(event), &mut pair.io);
    assert_eq!(<Agent as Role<FakeBuf>>::next_deadline(&pair.agent), Some(Nanos::ZERO), "at once");
    pair.pass(0);
    assert_eq!(pair.io.sent.pop_back().unwrap().1, UnderlayDst::Member(SECOND));
}

#[test]
fn a_new_daemon_uses_no_sequence_number_twice() {
    let word = Word::new(BOOT);
    let mut highest = 0;
    for start in 1..=3 {
        let mut pair = Pair::with(64, &word);
        pair.host.admit(&udp(1), 0);
        let sequence = pair.tell()[0].1.sequence;
        assert!(sequence > highest && sequence > first_sequence(start));
        assert_eq!(sequence >> 56, 1, "not the kernel half's");
        highest = sequence;
    }
}

#[test]
fn what_is_not_for_the_user_half_is_dropped_and_counted() {
    let mut pair = Pair::new();
    let tuple = tcp(1);
    assert_eq!(pair.take(&data(INGRESS, &segment(&tuple, 0x10, 1))), [Reason::WrongKind]);
    let mut message = pair.host.open(&tuple, 1);
    (message.kind, message.sequence) = (Kind::State, 1 << 40);
    assert_eq!(pair.take(&packet(&message, &tuple)), [Reason::WrongKind]);
    assert_eq!(pair.take(&[0x45; 12]), [Reason::Truncated]);
    assert_eq!(pair.take(&body(HEAD, BodyKind::Epoch, 0, &[])), [Reason::UnknownBoot]);
    let epoch = Body { kind: BodyKind::Epoch, flags: 0, ..pair.pull(HEAD, 1) };
    assert_eq!(pair.take(&signed(&epoch, &[])), [Reason::WrongKind]);
}

#[test]
fn a_new_list_changes_the_targets() {
    let mut pair = Pair::new();
    pair.host.establish(&tcp(1), 700);
    pair.host.close(&tcp(1));
    let without = snapshot(|s| {
        s.generation += 1;
        s.members.retain(|m| m.id != INGRESS && m.id != THIRD);
    });
    let event = AgentEvent::Snapshot(Arc::clone(&without));
    pair.agent.event(pair.host.now, event, &mut pair.io);
    assert_eq!(targets(&pair.tell()), [11, 12]);
    let mut samples = Samples::default();
    <Agent as Role<FakeBuf>>::collect(&pair.agent, &mut samples);
    assert_eq!(samples.sum("jlb_member_up", &[]), 3.0);
    assert_eq!(samples.sum("jlb_messages_total", &[("kind", "close"), ("direction", "sent")]), 2.0);
}
