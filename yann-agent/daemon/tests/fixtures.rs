//! The eBPF programs do what their reference model does: the rows of docs/protocol.md, section 6, hostile packets, and
//! random histories. What the model itself must do is tested in yann-agent/core.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../../core/tests/common/mod.rs"]
mod common;
mod pair;

use common::*;
use jlb_flow::PARTITIONS;
use jlb_map::Admission;
use jlb_role::{Nanos, Reason};
use jlb_wire::{
    BodyKind, BootId, Control, Epoch, FiveTuple, Flags, Incarnation, Kind, MacKey, MacKeys,
    Payload, Probe, Protocol, RejectReason, Version, body_flags,
};
use jlb_yann::bpffs;
use jlb_yann::changes::Changes;
use jlb_yann::maps::{ArrayOf, LAYOUT};
use jlb_yann::programs::{self, Capacities, Hook, Programs, ProgramsError};
use jlb_yann_core::maps::{Flow, Standing};
use jlb_yann_core::{DEFAULT_UDP_IDLE, KernelLimits, Verdict};
use pair::Pair;
use proptest::prelude::*;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;
const RST: u8 = 0x04;

fn v6(port: u16) -> FiveTuple {
    flow(port, "2001:db8::10", 80, Protocol::Tcp)
}

fn all_kinds() -> [FiveTuple; 4] {
    [tcp(5), udp(5), v6(5), flow(5, "2001:db8::10", 80, Protocol::Udp)]
}

impl Pair {
    fn admit(&mut self, tuple: &FiveTuple, isn: u32) -> Verdict {
        let open = self.host.open(tuple, isn);
        self.send(open, tuple)
    }

    fn send(&mut self, control: Control, tuple: &FiveTuple) -> Verdict {
        self.receive(&packet(&control, tuple))
    }

    fn reason(&mut self, control: Control, tuple: &FiveTuple) -> RejectReason {
        let verdict = self.send(control, tuple);
        let (reject, _) = said(&verdict, tuple);
        assert_eq!(reject.kind, Kind::Reject);
        reject.reason
    }
}

#[test]
fn a_map_of_more_flows_than_a_system_call_gives_is_read_whole() {
    let mut p = Pair::new(KernelLimits { flows: 16_384, ..LIMITS });
    let mut written: Vec<_> = (1..=10_000).map(udp).map(|tuple| *tuple.padded()).collect();
    for (n, tuple) in (1..).zip(&written) {
        p.maps.flows.set(tuple, &Flow { counter: n, ..Flow::default() }).unwrap();
    }
    let mut read = p.maps.flows.entries().unwrap();
    read.sort_by_key(|(_, flow)| flow.counter);
    assert!((1..).zip(&read).all(|(n, (_, flow))| flow.counter == n));
    let mut read: Vec<_> = read.into_iter().map(|(tuple, _)| tuple).collect();
    read.sort_unstable();
    written.sort_unstable();
    assert!(read == written, "{} of {}", read.len(), written.len());
}

#[test]
fn rows_of_open_and_cancel() {
    let mut p = Pair::new(LIMITS);
    for tuple in all_kinds() {
        p.begin(&snapshot(|_| {}), LIMITS);
        let isn = if pair::is_tcp(&tuple) { 700 } else { 0 };
        // Over either underlay, so also with another family inside than outside.
        for wrap in [outer, outer6] {
            let open = p.host.open(&tuple, isn);
            let inner = headers(&tuple, isn);
            p.receive(&packet_in(wrap(SECOND), &open, &tuple, &inner));
        }
        assert!(p.host.kernel.flow(&tuple).is_some());
        // Another incarnation, an incumbent: never admitted.
        p.admit(&tuple, isn + 1);
        for named in [0, 700, 5] {
            let open = p.host.open(&tuple, isn + 2);
            p.send(Control { flags: Flags::INCUMBENT, word_b: named, ..open }, &tuple);
        }
        // The SYN-ACK, once more, one of another connection; then an Open again.
        p.egress(&reply(&tuple, SYN_ACK, isn + 1));
        p.egress(&reply(&tuple, SYN_ACK, isn + 1));
        p.egress(&reply(&tuple, SYN_ACK, isn + 9));
        p.admit(&tuple, isn);
        let cancel = p.host.cancel(&tuple, isn);
        assert_eq!(p.send(cancel, &tuple), Verdict::Done, "live");
        let cancel = p.host.cancel(&tuple, isn + 1);
        p.send(cancel, &tuple);
        // Cut, forced, by the other tracker, as the second of two that were tried.
        let other = FiveTuple::new(
            std::net::SocketAddr::new(tuple.client().ip(), 6),
            tuple.vip(),
            tuple.protocol(),
        )
        .unwrap();
        let mut open = p.host.open_by((SECOND, HEAD), &other, isn);
        open.flags = Flags::CUT.with(Flags::FORCE);
        open.tried.push(OTHER);
        p.send(open, &other);
        assert_eq!(p.host.kernel.flow(&other).unwrap().tries, 2);
    }
}

#[test]
fn rows_of_refusal_in_their_order() {
    let mut p = Pair::new(LIMITS);
    for tuple in all_kinds() {
        let isn = if pair::is_tcp(&tuple) { 700 } else { 0 };
        let service = usize::from(!pair::is_tcp(&tuple));
        for n in 0..7 {
            let list = snapshot(|s| {
                let b = &mut s.services[service].backends[0];
                if n <= 1 {
                    b.admission = Admission::Refuse;
                }
                if n <= 5 {
                    b.max_connections = limited(1);
                }
                s.members[5].drain = n <= 2;
            });
            let limits = if n == 4 { KernelLimits { flows: 1, ..LIMITS } } else { LIMITS };
            p.begin(&list, limits);
            // A flow that is in the way of the limits; admitted, while nothing is against it.
            let first = FiveTuple::new(
                std::net::SocketAddr::new(tuple.client().ip(), 9),
                tuple.vip(),
                tuple.protocol(),
            )
            .unwrap();
            if (4..=5).contains(&n) {
                assert!(matches!(p.admit(&first, isn), Verdict::Deliver(_)));
            }
            match n {
                0 => p.pass(301, false),
                3 => p.set_stack(0, 0, false),
                // One more than the limit is still accepted.
                6 => p.set_stack(2, 1, true),
                _ => {}
            }
            let expected = [
                RejectReason::AgentDown,
                RejectReason::Refuse,
                RejectReason::Drain,
                RejectReason::NoListener,
                RejectReason::TableFull,
                RejectReason::MaxConnections,
                RejectReason::QueueFull,
            ][n];
            let open = p.host.open(&tuple, isn);
            if expected == RejectReason::QueueFull && !pair::is_tcp(&tuple) {
                assert!(matches!(p.send(open, &tuple), Verdict::Deliver(_)));
                continue;
            }
            assert_eq!(p.reason(open, &tuple), expected, "{tuple:?}");
            // Remembered, also when asked otherwise; forced it is another question.
            let open = p.host.open(&tuple, isn);
            assert_eq!(p.reason(open, &tuple), expected);
            let cancel = p.host.cancel(&tuple, isn);
            assert_eq!(p.reason(cancel, &tuple), RejectReason::Cancelled);
            let forced = Control { flags: Flags::FORCE, ..p.host.open(&tuple, isn) };
            p.send(forced, &tuple);
            // The time of an answer goes by.
            p.pass(4000, true);
            p.admit(&tuple, isn);
            p.pass(8000, true);
            p.sweep(DEFAULT_UDP_IDLE);
            p.admit(&tuple, isn);
        }
    }
    // The host's own limit, over all services; force overrides it.
    p.begin(&snapshot(|_| {}), LIMITS);
    p.host.kernel.limit_connections(1);
    p.configure();
    assert!(matches!(p.admit(&udp(8), 0), Verdict::Deliver(_)));
    let open = p.host.open(&tcp(8), 1);
    assert_eq!(p.reason(open, &tcp(8)), RejectReason::MaxConnections);
    let forced = Control { flags: Flags::FORCE, ..p.host.open(&tcp(8), 1) };
    assert!(matches!(p.send(forced, &tcp(8)), Verdict::Deliver(_)));
    // What the host says of itself, and the flags that override it.
    let words = RejectReason::ALL.iter().copied().filter(|r| r.is_told());
    for word in words.map(Some).chain([None]) {
        p.begin(&snapshot(|_| {}), LIMITS);
        p.host.kernel.set_word(0, word);
        p.configure();
        let flags = [Flags(0), Flags::FORCE, Flags::PANIC, Flags::FORCE.with(Flags::PANIC)];
        let taken: Vec<_> = (1..)
            .zip(flags)
            .filter(|&(n, flags)| {
                let open = Control { flags, ..p.host.open(&tcp(n), 1) };
                matches!(p.send(open, &tcp(n)), Verdict::Deliver(_))
            })
            .map(|(n, _)| n)
            .collect();
        let expected: &[u16] = match word {
            None => &[1, 2, 3, 4],
            Some(RejectReason::Overloaded) => &[2, 4],
            Some(reason) if reason.is_of_health() => &[3, 4],
            Some(_) => &[],
        };
        assert_eq!(taken, expected, "{word:?}");
    }
    // Busier than others: the last one takes it all the same.
    p.begin(&snapshot(|_| {}), LIMITS);
    for (n, bar, refused) in
        [(1, 1, false), (2, 1, true), (3, 2, false), (4, 2, true), (5, 0, false)]
    {
        let load = jlb_wire::Bar(bar).to_wire();
        let open = Control { load, ..p.host.open(&tcp(n), 1) };
        if refused {
            assert_eq!(p.reason(open, &tcp(n)), RejectReason::Busy);
        } else {
            assert!(matches!(p.send(open, &tcp(n)), Verdict::Deliver(_)));
        }
    }
    p.begin(&snapshot(|_| {}), LIMITS);
    let elsewhere = flow(1, "203.0.113.10", 82, Protocol::Tcp);
    let open = p.host.open(&elsewhere, 700);
    assert_eq!(p.reason(open, &elsewhere), RejectReason::NotServed);
    // More answers than there is room for: no answer.
    for port in 0..10 {
        let tuple = flow(port, "203.0.113.10", 82, Protocol::Tcp);
        p.admit(&tuple, 1);
    }
    let late = flow(99, "203.0.113.10", 82, Protocol::Tcp);
    let open = p.host.open(&late, 1);
    assert_eq!(p.dropped(&packet(&open, &late)), Some(Reason::AnswersFull));
}

#[test]
fn an_open_that_cannot_be_believed_is_dropped() {
    type Change = fn(&mut Control);
    let changes: [Change; 18] = [
        |c| c.epoch = Epoch(3),
        |c| c.receiver = OTHER,
        |c| c.backend = Some(OTHER),
        |c| c.backend = None,
        |c| c.boot = BootId(1),
        |c| c.word_a = 1,
        |c| c.word_b = 1,
        |c| c.second = None,
        |c| c.head = None,
        |c| (c.head, c.word_a) = (Some(SECOND), c.word_b),
        |c| c.second = Some(THIRD),
        |c| (c.head, c.word_a) = (Some(INGRESS), boot(INGRESS).0),
        |c| c.sequence = 17 << 56,
        |c| c.incarnation = Incarnation(9),
        |c| c.sender = HEAD,
        |c| c.sender = INGRESS,
        |c| c.flags = Flags(1 << 9),
        |c| c.kind = Kind::Query,
    ];
    let mut p = Pair::new(LIMITS);
    for tuple in all_kinds() {
        for change in changes {
            p.begin(&snapshot(|_| {}), LIMITS);
            for by in [SECOND, HEAD, OTHER, id(99)] {
                let mut open = p.host.open(&tuple, 700);
                change(&mut open);
                let isn = if pair::is_tcp(&tuple) { 700 } else { 0 };
                p.receive(&packet_in(outer(by), &open, &tuple, &headers(&tuple, isn)));
            }
            assert_eq!(p.host.kernel.flow_count(), 0);
        }
    }
    p.begin(&snapshot(|_| {}), LIMITS);
    // Not a SYN; another key; the key before; replayed; a new boot.
    let tuple = tcp(1);
    let open = p.host.open(&tuple, 700);
    let data = segment(&tuple, ACK, 700);
    assert_eq!(p.dropped(&packet_in(outer(SECOND), &open, &tuple, &data)), Some(Reason::Malformed));
    // Behind the outer headers (IPv4) and the option's own.
    let version_at = 36 + 4 + 1;
    let mut bytes = packet(&p.host.open(&tuple, 700), &tuple);
    for version in [0, Version::NEWEST.as_u8() + 1] {
        let spoken = std::mem::replace(&mut bytes[version_at], version);
        assert_eq!(p.dropped(&bytes), Some(Reason::WrongVersion));
        bytes[version_at] = spoken;
    }
    assert!(matches!(p.receive(&bytes), Verdict::Deliver(_)));
    assert_eq!(p.dropped(&bytes), Some(Reason::Replayed));
    let far = Control { sequence: 5000, ..p.host.open(&tuple, 700) };
    p.send(far, &tuple);
    for sequence in [3977, 3976, 4999, 4999, 5001, 5064, 5063, 6088, 5065, 1 << 56 | 3] {
        let open = Control { sequence, ..p.host.open(&tuple, 700) };
        p.send(open, &tuple);
    }
    p.host.kernel.peer_boot(SECOND, BootId(77), 40);
    jlb_yann::config::peer_boot(&mut p.maps, SECOND, BootId(77), 40).unwrap();
    for (boot, sequence) in [(12000, 6100), (77, 40), (77, 41), (77, 1 << 56 | 9)] {
        let boot = BootId(boot);
        let open = p.host.open(&tuple, 700);
        p.send(Control { boot, word_b: boot.0, sequence, ..open }, &tuple);
    }
    let rotated = snapshot(|s| {
        s.keys.mac_keys = MacKeys { current: MacKey([9; 16]), other: Some(MacKey([2; 16])) };
    });
    p.begin(&rotated, LIMITS);
    assert!(matches!(p.admit(&tuple, 700), Verdict::Deliver(_)), "the other key verifies");
    let late = udp(9);
    p.set_stack(0, 0, false);
    assert!(matches!(p.admit(&late, 0), Verdict::Send { .. }), "and the first one signs");
}

#[test]
fn rows_of_a_sole_owner() {
    let mut p = Pair::new(LIMITS);
    for tuple in all_kinds() {
        p.begin(&snapshot(|_| {}), LIMITS);
        let isn = if pair::is_tcp(&tuple) { 700 } else { 0 };
        let alone = p.host.open_by((SECOND, SECOND), &tuple, isn);
        assert_eq!(p.dropped(&packet(&alone, &tuple)), Some(Reason::Unexpected));
        // Another partition's owner is nobody here.
        let mut owners = [SECOND.as_u16(); PARTITIONS];
        owners[partition(&tuple).index()] = 0;
        p.obey(&owners);
        let alone = p.host.open_by((SECOND, SECOND), &tuple, isn);
        assert_eq!(p.dropped(&packet(&alone, &tuple)), Some(Reason::Unexpected));
        let mut owners = [HEAD.as_u16(); PARTITIONS];
        owners[partition(&tuple).index()] = SECOND.as_u16();
        p.obey(&owners);
        for votes in [(HEAD, SECOND), (SECOND, HEAD), (HEAD, HEAD)] {
            let open = p.host.open_by(votes, &tuple, isn);
            assert_eq!(p.dropped(&packet(&open, &tuple)), Some(Reason::SoleOwner));
        }
        let open = p.host.open_by((SECOND, SECOND), &tuple, isn);
        let other_boot = Control { word_b: open.word_b + 1, ..open };
        assert_eq!(p.dropped(&packet(&other_boot, &tuple)), Some(Reason::SoleOwner));
        let open = p.host.open_by((SECOND, SECOND), &tuple, isn);
        p.send(open, &tuple);
        assert!(p.host.kernel.flow(&tuple).is_some());
    }
}

#[test]
fn rows_of_who_has_not_pulled_since() {
    let mut p = Pair::new(LIMITS);
    let shut_out = |mask| Standing { shut_out: mask, number: 9, ..Standing::default() };
    for tuple in all_kinds() {
        p.begin(&snapshot(|_| {}), LIMITS);
        let isn = if pair::is_tcp(&tuple) { 700 } else { 0 };
        // The head's worker is not known here: any of them counts. Of the second's it is the one that sends.
        for (tracker, mask, refused) in
            [(HEAD, 2, true), (SECOND, 1, true), (SECOND, 2, false), (THIRD, 0xffff, false)]
        {
            p.stand(tracker, shut_out(mask));
            let open = p.host.open(&tuple, isn);
            let why = refused.then_some(Reason::SoleOwner);
            assert_eq!(p.dropped(&packet(&open, &tuple)), why, "{tracker:?} {mask}");
            p.stand(tracker, Standing::default());
        }
    }
}

#[test]
fn rows_of_what_was_sent_before_a_pull() {
    let mut p = Pair::new(LIMITS);
    p.begin(&snapshot(|_| {}), LIMITS);
    let (first, late, next) = (tcp(1), tcp(2), tcp(3));
    let late_open = p.host.open(&late, 700);
    let open = p.host.open(&first, 700);
    p.send(open, &first);
    for pulled in [open.sequence + 5, open.sequence + 2] {
        p.pulled(SECOND, pulled);
        assert_eq!(p.dropped(&packet(&late_open, &late)), Some(Reason::Replayed));
    }
    for (sequence, why) in [(open.sequence + 5, Some(Reason::Replayed)), (open.sequence + 6, None)]
    {
        let open = Control { sequence, ..p.host.open(&next, 700) };
        assert_eq!(p.dropped(&packet(&open, &next)), why);
    }
}

#[test]
fn rows_of_what_probe_says_of_votes() {
    let mut p = Pair::new(LIMITS);
    p.begin(&snapshot(|_| {}), LIMITS);
    for standing in [
        Standing { shut_out: 1 << 3, number: 255, ..Standing::default() },
        Standing { shut_out: !(1 << 3), obeyed: 1 << 3, number: 1, ..Standing::default() },
        Standing { shut_out: 0xffff, obeyed: !(1 << 3), number: 7, ..Standing::default() },
    ] {
        p.stand(HEAD, standing);
        // Of worker 3; and who is no tracker.
        for from in [HEAD, SECOND, INGRESS] {
            p.receive(&probe(from, 0));
        }
    }
}

#[test]
fn rows_of_data_and_closes() {
    let mut p = Pair::new(LIMITS);
    for tuple in [tcp(40_001), v6(40_002)] {
        p.begin(&snapshot(|_| {}), LIMITS);
        p.set_stack(0, 16, true);
        let isn = 700;
        let from = |ingress, flags, seq| data(ingress, &segment(&tuple, flags, seq));
        assert_eq!(p.dropped(&from(INGRESS, ACK, 1)), Some(Reason::NoFlow));
        assert_eq!(p.dropped(&from(SECOND, ACK, 1)), Some(Reason::NotAMember));
        p.admit(&tuple, isn);
        assert!(matches!(p.receive(&from(INGRESS_2, ACK, 1)), Verdict::Deliver(_)));
        assert!(matches!(p.receive(&from(INGRESS, SYN, isn)), Verdict::Deliver(_)));
        assert_eq!(p.dropped(&from(INGRESS, SYN, isn + 1)), Some(Reason::NoFlow));
        p.egress(&reply(&tuple, SYN_ACK, isn + 1));
        p.connect(&tuple);
        assert!(
            matches!(p.receive(&from(INGRESS, SYN, isn + 1)), Verdict::Deliver(_)),
            "challenge"
        );
        let open = p.host.open(&tuple, isn + 1);
        let incumbent = Control { flags: Flags::INCUMBENT, word_b: 0, ..open };
        assert!(matches!(p.send(incumbent, &tuple), Verdict::Deliver(_)));
        p.time_wait(&tuple);
        assert!(matches!(p.receive(&from(INGRESS, ACK, 1)), Verdict::Deliver(_)), "TIME_WAIT");
        assert_eq!(p.dropped(&from(INGRESS, SYN, isn)), Some(Reason::NoFlow));
        // Asked again it is closed; asked for another incarnation it is admitted.
        assert_eq!(p.admit(&tuple, isn), Verdict::Done);
        let cancel = p.host.cancel(&tuple, isn);
        assert_eq!(p.send(cancel, &tuple), Verdict::Done);
        assert!(matches!(p.admit(&tuple, isn + 5), Verdict::Deliver(_)), "the listener is found");
        p.pass(3000, true);
        p.sweep(DEFAULT_UDP_IDLE);
        assert_eq!(p.host.kernel.flow_count(), 0, "no socket for 3 s");
    }
    // UDP: idle, or without socket.
    p.begin(&snapshot(|_| {}), LIMITS);
    p.admit(&udp(1), 0);
    p.pass(5000, true);
    p.receive(&data(INGRESS, &headers(&udp(1), 0)));
    p.sweep(Nanos::from_secs(4));
    assert_eq!(p.host.kernel.flow_count(), 1);
    p.pass(4000, true);
    p.sweep(Nanos::from_secs(4));
    assert_eq!(p.host.kernel.flow_count(), 0);
    p.admit(&udp(2), 0);
    p.set_stack(0, 16, false);
    p.sweep(Nanos::from_secs(4));
    assert_eq!(p.host.kernel.flow_count(), 0);
    assert_eq!(p.dropped(&data(INGRESS, &headers(&udp(3), 0))), Some(Reason::NoFlow));
}

#[test]
fn rows_of_not_mine() {
    let mut p = Pair::new(LIMITS);
    for tuple in all_kinds() {
        p.begin(&snapshot(|_| {}), LIMITS);
        let from = |flags, seq| data(INGRESS, &segment(&tuple, flags, seq));
        for flags in [ACK, SYN_ACK, RST, RST | ACK, SYN] {
            assert_eq!(p.dropped(&from(flags, 700)), Some(Reason::NoFlow));
        }
        // In the map, of another incarnation, without a socket.
        p.admit(&tuple, if pair::is_tcp(&tuple) { 700 } else { 0 });
        p.receive(&from(SYN, 9000));
        p.receive(&from(SYN, 700));
    }
    // Many at once; the model counts them all.
    let packet = data(INGRESS, &segment(&tcp(9), ACK, 1));
    let told = p.flood(&packet, 1000);
    assert!((256..1000).contains(&told), "{told}");
}

#[test]
fn congestion_is_carried_inside() {
    let mut p = Pair::new(LIMITS);
    for tuple in [tcp(1), v6(1)] {
        p.admit(&tuple, 700);
        for class in 0..=255u8 {
            let mut inner = segment(&tuple, ACK, 1);
            jlb_wire::IpHeader::set_traffic_class(&mut inner, class);
            for wrap in [outer, outer6] {
                for ecn in 0..4 {
                    let outer = jlb_wire::Encapsulation { traffic_class: ecn, ..wrap(INGRESS) };
                    p.receive(&wrapped(outer, Payload::Plain { v6: tuple.is_v6() }, &inner));
                }
            }
            let mut out = reply(&tuple, ACK, 1);
            jlb_wire::IpHeader::set_traffic_class(&mut out, class);
            p.egress(&out);
        }
    }
}

#[test]
fn probe_is_answered_and_makes_a_way_out() {
    let mut p = Pair::new(LIMITS);
    for (heard, leaving) in [(INGRESS, 0), (INGRESS_2, 0), (INGRESS, body_flags::LEAVING)] {
        p.receive(&probe(heard, leaving));
        for port in 0..40 {
            for tuple in [tcp(port), v6(port)] {
                assert!(matches!(p.egress(&reply(&tuple, ACK, 1)), Verdict::Send { .. }));
            }
        }
    }
    p.pass(301, true);
    for port in 0..40 {
        p.egress(&reply(&tcp(port), ACK, 1));
    }
    p.receive(&probe(HEAD, 0));
    p.pass(100, false);
    // Another age of the heartbeat by the time that it runs is no other behaviour: only fresh ones are compared.
    p.pass(1, true);
    let payload =
        Probe { generation: 1, digest: 2, heartbeat_age_ms: 0, worker: 3, shut_out: 0 }.emit();
    let mut with_list = payload;
    with_list[23] = 1;
    for packet in [
        probe(OTHER, 0),
        probe(HEAD, body_flags::ANSWER),
        body(HEAD, BodyKind::Load, 0, &payload),
        body(HEAD, BodyKind::Probe, 0, &payload[..20]),
        body(HEAD, BodyKind::Probe, 0, &with_list),
        body(id(99), BodyKind::Probe, 0, &payload),
    ] {
        p.receive(&packet);
        for at in 28..packet.len() {
            let mut bent = packet.clone();
            bent[at] ^= 1;
            p.receive(&bent);
        }
    }
    // Prefers IPv6; direct; a VIP's fragments.
    p.begin(&snapshot(|s| s.underlay.prefer = jlb_map::Family::V6), LIMITS);
    for tuple in [tcp(1), v6(1), flow(1, "203.0.113.10", 81, Protocol::Tcp)] {
        p.egress(&reply(&tuple, ACK, 1));
        p.egress(&reply(&tuple, SYN_ACK, 1));
        let mut fragment = reply(&tuple, ACK, 1);
        if tuple.is_v6() {
            fragment[6] = 44;
        } else {
            fragment[6] = 0x20;
            fix_outer(&mut fragment);
        }
        p.egress(&fragment);
        let mut fragment = segment(&tuple, ACK, 1);
        if tuple.is_v6() {
            fragment[6] = 44;
        } else {
            fragment[7] = 9;
            fix_outer(&mut fragment);
        }
        p.receive(&data(INGRESS, &fragment));
        p.egress(&segment(&tuple, RST, 1));
    }
}

#[test]
fn broken_packets_are_broken_for_both() {
    let mut p = Pair::new(LIMITS);
    p.admit(&tcp(1), 1);
    p.admit(&v6(1), 1);
    let open = p.host.open(&tcp(2), 1);
    let wholes = [
        data(INGRESS, &segment(&tcp(1), ACK, 1)),
        data(INGRESS, &segment(&v6(1), ACK, 1)),
        wrapped(outer6(INGRESS), Payload::Plain { v6: true }, &segment(&v6(1), ACK, 1)),
        packet(&open, &tcp(2)),
        probe(HEAD, 0),
    ];
    for whole in &wholes {
        // The kernel runs no test on less than an IP header.
        for len in ip_len(whole)..whole.len() {
            p.receive(&whole[..len]);
        }
        for at in 0..whole.len() {
            for to in [0, 1, 0x0f, 0x40, 0x60, 0x7f, 0xff] {
                let mut bent = whole.clone();
                bent[at] = to;
                p.receive(&bent);
                if whole[0] == 0x45 && at < 20 {
                    fix_outer(&mut bent);
                    p.receive(&bent);
                }
            }
        }
    }
    for tuple in [tcp(1), v6(1), udp(1)] {
        let whole = reply(&tuple, ACK, 1);
        for len in ip_len(&whole)..whole.len() {
            p.egress(&whole[..len]);
        }
        for at in 0..whole.len() {
            for to in [0, 1, 0x40, 0xff] {
                let mut bent = whole.clone();
                bent[at] = to;
                p.egress(&bent);
            }
        }
    }
}

fn ip_len(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 6 { 40 } else { 20 }
}

#[derive(Clone, Debug)]
enum Step {
    Open { port: u16, isn: u32, udp: bool, flags: u16, swap: bool, named: u64 },
    Cancel { port: u16, isn: u32, udp: bool },
    Data { port: u16, isn: u32, udp: bool, tcp_flags: u8, from: u16 },
    Reply { port: u16, isn: u32, udp: bool, tcp_flags: u8 },
    Connect(u16),
    Disconnect(u16),
    Sweep,
    Pass { tens: u64, beat: bool },
    Probe { from: u16, leaving: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let (port, isn) = (|| 0..4u16, || 1..4u32);
    let tcp_flags = || prop::sample::select(vec![SYN, ACK, SYN_ACK, RST, 0x11]);
    prop_oneof![
        6 => (port(), isn(), any::<bool>(), 0..16u16, any::<bool>(), 0..4u64)
            .prop_map(|(port, isn, udp, flags, swap, named)| Step::Open { port, isn, udp, flags, swap, named }),
        2 => (port(), isn(), any::<bool>()).prop_map(|(port, isn, udp)| Step::Cancel { port, isn, udp }),
        3 => (port(), isn(), any::<bool>(), tcp_flags(), 1..3u16)
            .prop_map(|(port, isn, udp, tcp_flags, from)| Step::Data { port, isn, udp, tcp_flags, from }),
        3 => (port(), isn(), any::<bool>(), tcp_flags())
            .prop_map(|(port, isn, udp, tcp_flags)| Step::Reply { port, isn, udp, tcp_flags }),
        2 => port().prop_map(Step::Connect),
        2 => port().prop_map(Step::Disconnect),
        1 => Just(Step::Sweep),
        2 => (prop::sample::select(vec![2u64, 40, 100, 310, 500]), prop::bool::weighted(0.9))
            .prop_map(|(tens, beat)| Step::Pass { tens, beat }),
        1 => (1..3u16, any::<bool>()).prop_map(|(from, leaving)| Step::Probe { from, leaving }),
    ]
}

/// Ports that nobody else binds.
fn tuple(port: u16, is_udp: bool) -> FiveTuple {
    match (is_udp, port % 2) {
        (true, _) => udp(41_000 + port),
        (false, 0) => tcp(41_000 + port),
        (false, _) => v6(41_000 + port),
    }
}

fn take(p: &mut Pair, step: &Step) {
    match *step {
        Step::Open { port, isn, udp, flags, swap, named } => {
            let tuple = tuple(port, udp);
            let open = if swap {
                p.host.open_by((SECOND, HEAD), &tuple, isn)
            } else {
                p.host.open(&tuple, isn)
            };
            // FORCE, INCUMBENT, CUT.
            let incumbent = if flags & 2 != 0 && flags & 8 != 0 { 2 } else { 0 };
            let flags = Flags((flags & 1) | incumbent | (flags & 4) << 1);
            let word_b = if flags.has(Flags::INCUMBENT) { named } else { open.word_b };
            p.send(Control { flags, word_b, ..open }, &tuple);
        }
        Step::Cancel { port, isn, udp } => {
            let tuple = tuple(port, udp);
            let cancel = p.host.cancel(&tuple, isn);
            p.send(cancel, &tuple);
        }
        Step::Data { port, isn, udp, tcp_flags, from } => {
            p.receive(&data(id(from), &segment(&tuple(port, udp), tcp_flags, isn)));
        }
        Step::Reply { port, isn, udp, tcp_flags } => {
            p.egress(&reply(&tuple(port, udp), tcp_flags, isn + 1));
        }
        Step::Connect(port) => p.connect(&tuple(port, false)),
        Step::Disconnect(port) => p.disconnect(&tuple(port, false)),
        Step::Sweep => p.sweep(DEFAULT_UDP_IDLE),
        Step::Pass { tens, beat } => p.pass(tens * 10, beat),
        Step::Probe { from, leaving } => {
            // Its answer says how old the heartbeat is, to the millisecond.
            p.pass(0, true);
            p.receive(&probe(id(from), if leaving { body_flags::LEAVING } else { 0 }));
        }
    }
}

#[test]
fn random_histories_are_the_same_for_both() {
    // Never so many answers that a sweep finds no room: which flow then ends is a matter of hash order.
    let limits = KernelLimits { flows: 3, answers: 160, events: 64 };
    let pair = std::cell::RefCell::new(Pair::new(limits));
    let list = snapshot(|s| web(s).max_connections = limited(2));
    let cases = std::env::var("JLB_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let config = ProptestConfig { cases, failure_persistence: None, ..Default::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let steps = prop::collection::vec(step(), 1..80);
    runner
        .run(&steps, |steps| {
            let mut p = pair.borrow_mut();
            p.begin(&list, limits);
            p.set_stack(0, 16, true);
            for step in &steps {
                take(&mut p, step);
            }
            Ok(())
        })
        .unwrap();
}

/// The above (but for what only takes long) on the kernel that Debian 12 users have, where programs are filters of a clsact qdisc.
#[test]
fn debians_own_kernel_says_the_same() {
    let mut vm = jlb_lab::vm::Vm::new().unwrap();
    for module in ["veth", "sch_ingress", "cls_bpf"] {
        vm.module(module).unwrap();
    }
    let this = std::env::current_exe().unwrap();
    vm.program(&this).unwrap();
    vm.program(std::path::Path::new("/usr/sbin/tc")).unwrap();
    let name = this.file_name().unwrap().to_string_lossy();
    let script = format!(
        "uname -r
RUST_BACKTRACE=0 JLB_CASES=15 /bin/{name} --test-threads 1 --skip debians_own_kernel --skip broken
exit $?
"
    );
    // Emulated it takes a minute alone on a core.
    let outcome = vm.run(&script, std::time::Duration::from_secs(600)).unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    assert!(outcome.output.starts_with("6.1."), "{}", outcome.output);
    assert!(outcome.output.contains("test result: ok."), "{}", outcome.output);
}

/// Before Linux 6.6 there are no links for TC programs: filters are put into a qdisc, replaced there, and found again.
#[test]
fn filters_are_attached_replaced_and_taken_away() {
    pair::own_namespace();
    let run = |program: &str, arguments: &str| {
        let output =
            std::process::Command::new(program).args(arguments.split(' ')).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    run("ip", "link add eth0 type veth peer name eth1");
    let pins = std::env::temp_dir().join(format!("jlbt-yann-pins-{}", std::process::id()));
    std::fs::create_dir_all(&pins).unwrap();
    let mounted = bpffs::ensure(&pins).unwrap();
    assert_eq!(mounted.as_ref(), Some(&pins));
    let interfaces = ["eth0".to_owned()];
    let filters = || {
        ["ingress", "egress"].map(|at| {
            run("tc", &format!("filter show dev eth0 {at}")).matches("direct-action").count()
        })
    };
    for _ in 0..2 {
        let capacities = Capacities { flows: 16, answers: 16 };
        let (mut programs, maps) = Programs::load(Some(&pins), capacities).unwrap();
        let mut changes = Changes::load(maps.changes);
        programs.attach(&pins, &interfaces, Hook::Clsact, &mut changes).unwrap();
        assert_eq!(filters(), [1, 1]);
        assert_eq!(changes.iter().count(), 1, "the qdisc");
        // The daemon is gone; they stay.
        drop(programs);
        assert_eq!(filters(), [1, 1]);
    }
    // Another version leaves them alone.
    let mut layout = ArrayOf::<u32, 4>::pinned(&pins, "layout").unwrap();
    layout.set(0, &(LAYOUT + 1)).unwrap();
    let refused = Programs::load(Some(&pins), Capacities { flows: 16, answers: 16 });
    assert!(matches!(refused, Err(ProgramsError::Layout { .. })), "{refused:?}");
    let list = ArrayOf::pinned(&pins, "changes").unwrap();
    assert!(Changes::load(list).undo(|_| false).is_empty());
    programs::detach(&pins, &interfaces).unwrap();
    assert_eq!(filters(), [0, 0]);
    assert!(!run("tc", "qdisc show dev eth0").contains("clsact"));
    assert!(ArrayOf::<u64, 8>::pinned(&pins, "heartbeat").is_err());
    bpffs::unmount(&pins).unwrap();
    std::fs::remove_dir(&pins).unwrap();
}
