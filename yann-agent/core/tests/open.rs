//! Open and Cancel: every row of docs/protocol.md, section 6.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::*;
use jlb_map::Admission;
use jlb_role::{AllRules, Reason, Rule, Without};
use jlb_wire::{
    Bar, BootId, Control, Epoch, FiveTuple, Flags, Incarnation, Kind, MemberId, Protocol,
    RejectReason,
};
use jlb_yann_core::maps::{answer_kind, flow_state};
use jlb_yann_core::{EventKind, KernelLimits, Listener, TcpSocket, Verdict};

#[test]
fn an_open_with_two_votes_is_admitted_and_its_syn_delivered() {
    for tuple in [tcp(1), flow(1, "2001:db8::10", 80, Protocol::Tcp)] {
        let mut host = Host::new();
        assert_eq!(host.admit(&tuple, 700), Verdict::Deliver(headers(&tuple, 700)));
        let flow = *host.kernel.flow(&tuple).unwrap();
        assert_eq!((flow.incarnation, flow.state), (700, flow_state::ADMITTED));
        assert_eq!((flow.head, flow.second, flow.asker), (11, 12, 1));
        assert_eq!((flow.ingress, flow.counter, flow.queue), ([1, 0, 0, 0], 101, 3));
        assert_eq!(host.kernel.live(0), 1);
        assert_eq!(host.events(), [], "the SYN-ACK is the accept signal");

        let open = host.open(&tuple, 700);
        let over_v6 = packet_in(outer6(SECOND), &open, &tuple, &headers(&tuple, 700));
        assert!(matches!(host.receive(&over_v6), Verdict::Deliver(_)), "no SYN-ACK yet: again");
    }
}

#[test]
fn a_datagram_is_admitted_with_a_number_of_ours() {
    let mut host = Host::new();
    let tuple = udp(1);
    assert!(matches!(host.admit(&tuple, 0), Verdict::Deliver(_)));
    let e = host.events()[0];
    assert_eq!((e.kind, e.tuple), (EventKind::UdpAdmitted, Some(tuple)));
    assert_eq!(e.incarnation, Incarnation(0x2121 + 101));
    assert_eq!((e.asker, e.second, e.cookie), (Some(INGRESS), Some(SECOND), 0x0001_0002));

    assert_eq!(host.admit(&tuple, 0), Verdict::Done, "never delivered twice");
    assert_eq!(host.event_kinds(), [EventKind::RepeatAccept]);

    let other = udp(2);
    let open = Control { flags: Flags::CUT, ..host.open(&other, 0) };
    assert_eq!(host.send(open, &other), Verdict::Done, "a cut datagram is not delivered");
    assert_eq!(host.event_kinds(), [EventKind::UdpAdmitted]);
    let first = host.kernel.flow(&tuple).unwrap().incarnation;
    assert_ne!(host.kernel.flow(&other).unwrap().incarnation, first);
}

#[test]
fn an_open_that_cannot_be_believed_is_dropped() {
    type Change = fn(&mut Control);
    let cases: [(Change, Reason); 15] = [
        (|c| c.epoch = Epoch(3), Reason::WrongEpoch),
        (|c| c.receiver = OTHER, Reason::NotAddressee),
        (|c| c.backend = Some(OTHER), Reason::NotAddressee),
        (|c| c.boot = BootId(1), Reason::UnknownBoot),
        (|c| c.word_a = 1, Reason::UnknownBoot),
        (|c| c.word_b = 1, Reason::UnknownBoot),
        (|c| c.second = None, Reason::Unexpected),
        (|c| c.head = None, Reason::Unexpected),
        (|c| (c.head, c.word_a) = (Some(SECOND), c.word_b), Reason::Unexpected),
        (|c| c.second = Some(THIRD), Reason::Unexpected),
        (|c| (c.head, c.word_a) = (Some(INGRESS), boot(INGRESS).0), Reason::Unexpected),
        (|c| c.sequence = 17 << 56, Reason::Malformed),
        (|c| c.incarnation = Incarnation(9), Reason::Malformed),
        (|c| c.sender = HEAD, Reason::NotAMember),
        (|c| c.kind = Kind::Open, Reason::BadMac),
    ];
    for (n, (change, reason)) in cases.into_iter().enumerate() {
        let mut host = Host::new();
        let tuple = tcp(1);
        let mut open = host.open(&tuple, 700);
        change(&mut open);
        let mut bytes = packet_in(outer(SECOND), &open, &tuple, &headers(&tuple, 700));
        if reason == Reason::BadMac {
            bytes[36 + 4 + 30] ^= 1;
        }
        assert_eq!(host.dropped(&bytes), Some(reason), "case {n}");
        assert_eq!((host.kernel.flow_count(), host.kernel.answers().count()), (0, 0), "case {n}");
        let learnt = host.events();
        assert_eq!(!learnt.is_empty(), reason == Reason::UnknownBoot);
        assert!(learnt.iter().all(|e| e.kind == EventKind::Learn && e.peer.is_some()));
    }
}

#[test]
fn only_the_packet_of_its_signer_counts() {
    let mut host = Host::new();
    let tuple = tcp(1);
    let open = host.open(&tuple, 700);
    let by = |from| packet_in(outer(from), &open, &tuple, &headers(&tuple, 700));
    assert_eq!(host.dropped(&by(HEAD)), Some(Reason::NotAMember));
    assert_eq!(host.dropped(&by(id(99))), Some(Reason::NotAMember));
    let open = Control { sender: INGRESS, boot: boot(INGRESS), ..host.open(&tuple, 700) };
    assert_eq!(host.dropped(&packet(&open, &tuple)), Some(Reason::NotAMember));
    assert_eq!(host.kernel.flow_count(), 0);
}

#[test]
fn a_sequence_number_counts_once() {
    let mut host = Host::new();
    let tuple = tcp(1);
    let open = packet(&host.open(&tuple, 700), &tuple);
    assert!(matches!(host.receive(&open), Verdict::Deliver(_)));
    assert_eq!(host.dropped(&open), Some(Reason::Replayed));
    // Another worker of the same tracker counts for itself.
    let other = Control { sequence: 1 << 56 | 1, ..host.open(&tuple, 700) };
    assert!(matches!(host.send(other, &tuple), Verdict::Deliver(_)));
    // A new boot has a new window; the old one is nobody's.
    host.kernel.peer_boot(SECOND, BootId(5), 40);
    let mut open = host.open(&tuple, 700);
    assert_eq!(host.dropped(&packet(&open, &tuple)), Some(Reason::UnknownBoot));
    (open.boot, open.word_b, open.sequence) = (BootId(5), 5, 40);
    assert_eq!(host.dropped(&packet(&open, &tuple)), Some(Reason::Replayed));
    open.sequence = 41;
    assert!(matches!(host.send(open, &tuple), Verdict::Deliver(_)));
}

/// Everything that the host can have against a flow, in the order in which it counts: each case has all that come
/// later against it too.
#[test]
fn the_first_reason_counts() {
    let order = [
        RejectReason::AgentDown,
        RejectReason::Refuse,
        RejectReason::Drain,
        RejectReason::NoListener,
        RejectReason::TableFull,
        RejectReason::MaxConnections,
        RejectReason::QueueFull,
    ];
    for (n, reason) in order.into_iter().enumerate() {
        let snapshot = snapshot(|s| {
            if n <= 1 {
                web(s).admission = Admission::Refuse;
            }
            s.members[5].drain = n <= 2;
            web(s).max_connections = if n <= 5 { limited(1) } else { None };
        });
        let flows = if n <= 4 { 1 } else { 8 };
        let mut host = Host::of(&snapshot, KernelLimits { flows, ..LIMITS }, AllRules);
        if (4..=5).contains(&n) {
            host.stack.listener = Some(Listener { depth: 0, limit: 128 });
            host.establish(&tcp(1), 1);
        }
        let no_listener = n <= 3;
        host.stack.listener = (!no_listener).then_some(Listener { depth: 129, limit: 128 });
        if n == 0 {
            host.now = host.now + jlb_role::Nanos::from_millis(301);
        }
        let tuple = tcp(2);
        let open = Control { flags: Flags::CUT, ..host.open(&tuple, 700) };
        let reject = host.refusal(open, &tuple);
        assert_eq!(reject.reason, reason);
        assert_eq!(host.kernel.flow(&tuple), None);
        assert_eq!(host.kernel.counters().rejected.get(&(0, reason as u8)), Some(&1));

        // FORCE overrides the last two only, and is another question.
        let open = Control { flags: Flags::FORCE, ..host.open(&tuple, 700) };
        let verdict = host.send(open, &tuple);
        if n >= 5 {
            assert!(matches!(verdict, Verdict::Deliver(_)));
            assert_eq!(host.kernel.flow(&tuple).unwrap().flags & 1, 1);
        } else {
            let (forced, _) = said(&verdict, &tuple);
            assert_eq!((forced.reason, forced.flags), (reason, Flags::FORCE));
            assert_eq!(host.kernel.answers().count(), 2);
        }
    }
}

#[test]
fn what_the_host_says_of_itself_is_refused_unless_the_open_overrides_it() {
    let none = Flags(0);
    let cases = [
        (RejectReason::Unhealthy, [none, Flags::FORCE], Flags::PANIC),
        (RejectReason::Down, [none, Flags::FORCE], Flags::PANIC),
        (RejectReason::Overloaded, [none, Flags::PANIC], Flags::FORCE),
    ];
    for (reason, refused, taken) in cases {
        let mut host = Host::new();
        host.establish(&tcp(1), 1);
        host.kernel.set_word(0, Some(reason));
        for (n, flags) in (2..).zip(refused) {
            let open = Control { flags, ..host.open(&tcp(n), 700) };
            assert_eq!(host.refusal(open, &tcp(n)).reason, reason, "{flags:?}");
        }
        let open = Control { flags: taken, ..host.open(&tcp(9), 700) };
        assert!(matches!(host.send(open, &tcp(9)), Verdict::Deliver(_)), "{reason:?}");
        // Other services, and what is established, are not concerned.
        assert!(matches!(host.admit(&udp(1), 0), Verdict::Deliver(_)));
        host.admit(&tcp(1), 1);
        assert_eq!(host.events().last().map(|e| e.kind), Some(EventKind::RepeatAccept));
        host.kernel.set_word(0, None);
        assert!(matches!(host.admit(&tcp(10), 1), Verdict::Deliver(_)));
    }
    // By the list it refuses whatever it says.
    let mut host = Host::of(&snapshot(|s| web(s).admission = Admission::Refuse), LIMITS, AllRules);
    for word in [Some(RejectReason::Drain), None] {
        host.kernel.set_word(0, word);
        let tuple = tcp(if word.is_some() { 1 } else { 2 });
        let open = host.open(&tuple, 700);
        assert_eq!(host.refusal(open, &tuple).reason, RejectReason::Refuse);
    }
}

#[test]
fn a_queue_at_its_limit_takes_one_more() {
    let mut host = Host::new();
    host.stack.listener = Some(Listener { depth: 128, limit: 128 });
    assert!(matches!(host.admit(&tcp(1), 1), Verdict::Deliver(_)));
}

#[test]
fn who_is_busier_than_the_bar_leaves_the_flow_to_others_and_every_word_says_how_busy() {
    let mut host = Host::new();
    let open = |host: &mut Host, tuple: &FiveTuple, bar: Bar| Control {
        load: bar.to_wire(),
        ..host.open(tuple, 700)
    };
    // Nothing lives here: even the lowest bar is met.
    let first = open(&mut host, &tcp(1), Bar(1));
    assert!(matches!(host.send(first, &tcp(1)), Verdict::Deliver(_)));
    let second = open(&mut host, &tcp(2), Bar(1));
    let reject = host.refusal(second, &tcp(2));
    assert_eq!((reject.reason, reject.load.live), (RejectReason::Busy, 1));
    // It was decided: whatever the bar is when it is asked again.
    let again = open(&mut host, &tcp(2), Bar::LAST);
    assert_eq!(host.refusal(again, &tcp(2)).reason, RejectReason::Busy);
    // Another flow, with more room; one that is forced; and one for whom this host is the last.
    for (n, bar, flags) in [(3, Bar(2), 0), (4, Bar(1), 1), (5, Bar::LAST, 0), (6, Bar::UNKNOWN, 0)]
    {
        let asked = Control { flags: Flags(flags), ..open(&mut host, &tcp(n), bar) };
        assert!(matches!(host.send(asked, &tcp(n)), Verdict::Deliver(_)), "{bar:?}");
    }
    // The live flows of another service do not count.
    let other = udp(7);
    let asked = Control { load: Bar(1).to_wire(), ..host.open(&other, 0) };
    assert!(matches!(host.send(asked, &other), Verdict::Deliver(_)));
    // A hard reason is told before this one.
    host.stack.listener = Some(Listener { depth: 129, limit: 128 });
    let asked = open(&mut host, &tcp(8), Bar(1));
    assert_eq!(host.refusal(asked, &tcp(8)).reason, RejectReason::QueueFull);
}

#[test]
fn a_service_that_is_not_here_is_refused_whoever_asks() {
    let mut host = Host::new();
    for tuple in
        [flow(1, "203.0.113.10", 82, Protocol::Tcp), flow(1, "192.0.2.1", 80, Protocol::Tcp)]
    {
        let open = host.open(&tuple, 1);
        assert_eq!(host.refusal(open, &tuple).reason, RejectReason::NotServed);
    }
    host.stack.udp = false;
    let open = host.open(&udp(1), 0);
    assert_eq!(host.refusal(open, &udp(1)).reason, RejectReason::NoListener);
}

#[test]
fn a_reject_says_all_that_the_trackers_need() {
    let mut host = Host::new();
    host.stack.listener = None;
    host.kernel.cpu_load(0x7777);
    let tuple = tcp(1);
    let mut open = host.open(&tuple, 700);
    (open.flags, open.hop_budget, open.reject_ttl) = (Flags::FORCE.with(Flags::CUT), 2, 1);
    open.tried.push(OTHER);
    let mut inner = headers(&tuple, 700);
    inner[1] = 0xb8;
    inner[10..12].fill(0);
    let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&inner[..20]));
    inner[10..12].copy_from_slice(&sum.to_be_bytes());
    let question = packet_in(outer6(SECOND), &open, &tuple, &inner);
    let verdict = host.receive(&question);
    let Verdict::Send { packet, to } = &verdict else { panic!("{verdict:?}") };
    assert_eq!(*to, SECOND);
    let outer = jlb_wire::Outer::parse(packet, 6081).unwrap();
    assert_eq!((outer.src, outer.dst), (ip("fd00::21"), ip("fd00::12")), "by the way it came");
    assert_eq!((outer.source_port, outer.traffic_class), (entropy(&tuple), 0xb8));
    let (reject, carried) = said(&verdict, &tuple);
    assert_eq!(carried, inner, "what the Open carried");
    let expected = Control {
        kind: Kind::Reject,
        hop_budget: 6,
        sender: ME,
        receiver: HEAD,
        reason: RejectReason::NoListener,
        load: jlb_wire::Load { queue: 0, cpu: 0x7777, live: 0 },
        boot: BOOT,
        sequence: 501,
        word_a: 101,
        word_b: 0,
        ..open
    };
    assert_eq!(reject, expected);
}

#[test]
fn what_was_refused_stays_refused_with_the_same_word() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.stack.listener = None;
    let open = host.open(&tuple, 700);
    let first = host.refusal(open, &tuple);
    host.stack = Stack::default();
    let open = host.open_by((THIRD, HEAD), &tuple, 700);
    let again = host.refusal(open, &tuple);
    assert_eq!((again.reason, again.word_a), (RejectReason::NoListener, first.word_a));
    assert_eq!((again.receiver, again.second), (THIRD, Some(HEAD)), "to those who ask now");
    assert_eq!(host.kernel.counters().rejected.values().sum::<u64>(), 1);
    host.pass(7999);
    let open = host.open(&tuple, 700);
    assert_eq!(host.refusal(open, &tuple).reason, RejectReason::NoListener);
    host.pass(7999);
    let open = host.open(&tuple, 700);
    assert_eq!(host.refusal(open, &tuple).word_a, first.word_a, "stands anew each time it is said");
    host.pass(8000);
    assert!(matches!(host.admit(&tuple, 700), Verdict::Deliver(_)), "8 s after it was last said");
    assert!(matches!(host.admit(&tcp(2), 9), Verdict::Deliver(_)), "another flow is another");
}

/// Found by the simulator (seed 4733): an Open that was under way when the refusal was last said came when it was forgotten,
/// and another backend had taken the flow meanwhile.
#[test]
fn a_refused_datagram_flow_may_ask_again_when_no_vote_can_be_under_way() {
    let mut host = Host::new();
    host.stack.udp = false;
    let open = host.open(&udp(1), 0);
    host.refusal(open, &udp(1));
    host.stack.udp = true;
    host.pass(3999);
    let open = host.open(&udp(1), 0);
    host.refusal(open, &udp(1));
    host.pass(3999);
    let cancel = host.cancel(&udp(1), 0);
    host.refusal(cancel, &udp(1));
    host.pass(4000);
    assert!(matches!(host.admit(&udp(1), 0), Verdict::Deliver(_)), "4 s after it was last said");
}

#[test]
fn with_no_room_for_answers_nothing_is_said() {
    let mut host = Host::of(&snapshot(|_| {}), KernelLimits { answers: 1, ..LIMITS }, AllRules);
    host.stack.listener = None;
    let open = host.open(&tcp(1), 1);
    host.refusal(open, &tcp(1));
    let open = packet(&host.open(&tcp(2), 1), &tcp(2));
    assert_eq!(host.dropped(&open), Some(Reason::AnswersFull));
    let open = host.open(&tcp(1), 1);
    assert_eq!(host.refusal(open, &tcp(1)).word_a, 101, "what is known is repeated");
    host.stack = Stack::default();
    assert!(matches!(host.admit(&tcp(2), 1), Verdict::Deliver(_)), "admission needs no answer");
}

#[test]
fn a_repeated_open_gets_accept_again_along_its_own_chain() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.establish(&tuple, 700);
    let open =
        Control { cookie: 9, ingress: Some(INGRESS_2), ..host.open_by((THIRD, HEAD), &tuple, 700) };
    assert_eq!(host.send(open, &tuple), Verdict::Done);
    let e = host.events()[0];
    assert_eq!((e.kind, e.counter, e.queue), (EventKind::RepeatAccept, 101, 3));
    assert_eq!((e.head, e.second, e.asker), (Some(THIRD), Some(HEAD), Some(INGRESS_2)));
    assert_eq!(e.cookie, 9);
    assert_eq!(e.ingress[..2], [Some(INGRESS_2), Some(INGRESS)]);
    assert_eq!(host.kernel.live(0), 1);
}

#[test]
fn an_incumbent_is_never_displaced() {
    for flags in [Flags::default(), Flags::INCUMBENT] {
        let mut host = Host::new();
        let tuple = tcp(1);
        host.establish(&tuple, 700);
        let open = Control { flags, word_b: boot(SECOND).0, ..host.open(&tuple, 9000) };
        let named = if flags == Flags::INCUMBENT { 700 } else { open.word_b };
        let open = Control { word_b: named, ..open };
        assert_eq!(host.send(open, &tuple), Verdict::Deliver(headers(&tuple, 9000)), "a challenge");
        assert_eq!(host.kernel.flow(&tuple).unwrap().incarnation, 700);
        assert_eq!(host.events(), []);

        // The stack knows better: it is over.
        host.stack.tcp.insert(tuple, TcpSocket::TimeWait);
        let open = Control { flags, word_b: named, ..host.open(&tuple, 9000) };
        assert_eq!(host.send(open, &tuple), Verdict::Done);
        assert_eq!(host.event_kinds(), [EventKind::Closed]);
        assert_eq!(host.kernel.flow_count(), 0);
        if flags == Flags::default() {
            assert!(matches!(host.admit(&tuple, 9000), Verdict::Deliver(_)), "the way is free");
        }
    }
}

#[test]
fn an_incumbent_in_its_handshake_is_left_to_the_sweep() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.admit(&tuple, 700);
    let open = packet(&host.open(&tuple, 9000), &tuple);
    assert_eq!(host.dropped(&open), Some(Reason::DuplicateSyn));
    assert_eq!(host.kernel.flow(&tuple).unwrap().incarnation, 700);
}

/// An Open that only asks: one tracker is enough, and it never admits.
#[test]
fn asked_about_an_incumbent_the_backend_says_what_it_knows() {
    let ask = |host: &mut Host, incumbent: u32| {
        let tuple = tcp(1);
        let open = host.open(&tuple, 9000);
        let open = Control {
            flags: Flags::INCUMBENT,
            head: Some(SECOND),
            second: None,
            word_a: boot(SECOND).0,
            word_b: u64::from(incumbent),
            ..open
        };
        host.send(open, &tuple)
    };
    let tuple = tcp(1);

    let mut host = Host::new();
    assert_eq!(ask(&mut host, 0), Verdict::Done, "not named and not known: whatever closed lately");
    let e = host.events()[0];
    assert_eq!((e.kind, e.incarnation.0, e.peer), (EventKind::RepeatClose, 0, Some(SECOND)));

    assert_eq!(ask(&mut host, 700), Verdict::Done, "long over: closed once more");
    let e = host.events()[0];
    assert_eq!((e.kind, e.incarnation.0, e.counter), (EventKind::RepeatClose, 700, 101));
    let open = host.open(&tuple, 700);
    assert_eq!(host.send(open, &tuple), Verdict::Done);
    assert_eq!(host.event_kinds(), [EventKind::RepeatClose], "and so for good");

    let mut host = Host::new();
    host.establish(&tuple, 700);
    host.close(&tuple);
    host.events();
    host.admit(&tuple, 9000);
    assert_eq!(ask(&mut host, 700), Verdict::Done, "a newer one lives");
    assert_eq!(host.event_kinds(), [EventKind::RepeatClose]);
    assert_eq!(host.kernel.flow(&tuple).unwrap().incarnation, 9000);

    let mut host = Host::new();
    host.stack.listener = None;
    host.admit(&tuple, 700);
    assert_eq!(ask(&mut host, 700), Verdict::Drop(Reason::Unexpected), "refused: no incumbent");
    assert_eq!(host.events(), []);
}

#[test]
fn what_is_over_is_over() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.establish(&tuple, 700);
    host.close(&tuple);
    let closed = host.events()[0];
    assert_eq!((closed.kind, closed.counter), (EventKind::Closed, 102));
    assert_eq!(host.kernel.live(0), 0);
    for flags in [Flags::default(), Flags::FORCE] {
        let open = Control { flags, ..host.open(&tuple, 700) };
        assert_eq!(host.send(open, &tuple), Verdict::Done);
        let e = host.events()[0];
        assert_eq!((e.kind, e.counter), (EventKind::RepeatClose, 102));
    }
    assert!(matches!(host.admit(&tuple, 701), Verdict::Deliver(_)), "the next connection");

    let mut host = Host::new();
    host.admit(&udp(1), 0);
    host.stack.udp = false;
    host.kernel.sweep(host.now, jlb_yann_core::DEFAULT_UDP_IDLE, &host.stack);
    host.stack.udp = true;
    assert_eq!(host.kernel.flow_count(), 0);
    assert!(matches!(host.admit(&udp(1), 0), Verdict::Deliver(_)), "UDP: a new one at once");
}

#[test]
fn cancel_of_a_live_flow_is_answered_with_accept() {
    for (tuple, seen) in [(tcp(1), false), (tcp(2), true), (udp(1), false)] {
        let mut host = Host::new();
        if seen {
            host.establish(&tuple, 700);
        } else {
            host.admit(&tuple, 700);
        }
        host.events();
        let cancel = Control { sender: THIRD, boot: boot(THIRD), ..host.cancel(&tuple, 700) };
        assert_eq!(host.send(cancel, &tuple), Verdict::Done);
        let e = host.events()[0];
        assert_eq!((e.kind, e.peer), (EventKind::CancelledButLive, Some(THIRD)));
        assert_eq!((e.asker, e.counter), (Some(INGRESS), 101));
    }
}

#[test]
fn cancel_of_what_never_came_forbids_it() {
    let mut host = Host::new();
    let tuple = tcp(1);
    let cancel = Control { head: Some(HEAD), ..host.cancel(&tuple, 700) };
    let reject = host.refusal(cancel, &tuple);
    assert_eq!(reject.reason, RejectReason::Cancelled);
    assert_eq!((reject.receiver, reject.head, reject.second), (SECOND, Some(SECOND), None));
    let open = host.open(&tuple, 700);
    assert_eq!(host.refusal(open, &tuple).reason, RejectReason::Cancelled);
    let forced = Control { flags: Flags::FORCE, ..host.open(&tuple, 700) };
    assert!(matches!(host.send(forced, &tuple), Verdict::Deliver(_)), "another candidate");

    let mut host = Host::new();
    host.stack.listener = None;
    host.admit(&tuple, 700);
    let cancel = host.cancel(&tuple, 700);
    let reject = host.refusal(cancel, &tuple);
    assert_eq!((reject.reason, reject.word_a), (RejectReason::Cancelled, 101));
    let key = host.kernel.answers().next().unwrap();
    assert_eq!(key.1.reason, RejectReason::NoListener as u8, "the first answer stays");
}

#[test]
fn cancel_of_a_closed_flow_gets_its_close() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.establish(&tuple, 700);
    host.close(&tuple);
    host.events();
    let cancel = host.cancel(&tuple, 700);
    assert_eq!(host.send(cancel, &tuple), Verdict::Done);
    let e = host.events()[0];
    assert_eq!((e.kind, e.counter, e.peer), (EventKind::RepeatClose, 102, Some(SECOND)));
}

#[test]
fn the_canaries_break_what_they_should() {
    let without = |rule| Host::of(&snapshot(|_| {}), LIMITS, Without(Some(rule)));
    let mut host = without(Rule::TwoVotes);
    let tuple = tcp(1);
    let open = Control { head: None, ..host.open(&tuple, 1) };
    assert!(matches!(host.send(open, &tuple), Verdict::Deliver(_)));

    let mut host = without(Rule::DecideOnce);
    host.stack.listener = None;
    let open = host.open(&tuple, 1);
    host.refusal(open, &tuple);
    host.stack = Stack::default();
    let open = host.open(&tuple, 1);
    assert!(matches!(host.send(open, &tuple), Verdict::Deliver(_)), "said no before");
}

#[test]
fn a_new_list_counts_anew_and_keeps_what_lives() {
    let mut host = Host::new();
    host.establish(&tcp(1), 1);
    host.admit(&udp(1), 0);
    assert_eq!((host.kernel.live(0), host.kernel.live(1)), (1, 1));
    let next = snapshot(|s| {
        s.generation += 1;
        s.services.swap(0, 1);
        s.members.remove(4);
    });
    host.kernel.configure(&next);
    assert_eq!((host.kernel.live(0), host.kernel.live(1)), (1, 1));
    assert_eq!(host.kernel.flow(&tcp(1)).unwrap().service, 1);
    assert!(!host.kernel.boots().any(|(id, _)| *id == THIRD));
    assert!(!host.kernel.windows().any(|(key, _)| Some(THIRD) == MemberId::new(key.member)));
    host.close(&tcp(1));
    assert_eq!((host.kernel.live(0), host.kernel.live(1)), (1, 0));
    assert_eq!(host.kernel.answers().next().unwrap().1.kind, answer_kind::CLOSED);
}
