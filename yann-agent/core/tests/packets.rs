//! Data, Probe, the way out, and what is none of our business.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;

use common::*;
use jlb_role::{AllRules, Nanos, Reason};
use jlb_wire::{
    Body, BodyKind, Content, IpHeader, Kind, MacKey, MacKeys, MemberId, Outer, Packet, Payload,
    Probe, Protocol, body_flags,
};
use jlb_yann_core::maps::flow_state;
use jlb_yann_core::{EventKind, TcpSocket, Verdict};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;

#[test]
fn what_is_not_for_us_passes() {
    let mut host = Host::new();
    let tuple = tcp(1);
    let whole = data(INGRESS, &segment(&tuple, ACK, 1));
    let change = |at: usize, to: u8| {
        let mut packet = whole.clone();
        packet[at] = to;
        fix_outer(&mut packet);
        packet
    };
    let mut others = vec![
        change(19, 22),  // another destination
        change(9, 6),    // TCP
        change(23, 80),  // another port
        change(6, 0x20), // a fragment
        headers(&tuple, 1),
        headers(&flow(1, "2001:db8::10", 80, Protocol::Tcp), 1),
        vec![],
        vec![0x45],
        vec![0x60; 39],
        vec![0xff; 90],
    ];
    others.extend((0..24).map(|len| whole[..len].to_vec()));
    for packet in others {
        assert_eq!(host.receive(&packet), Verdict::Pass, "{packet:02x?}");
    }
    assert_eq!(host.kernel.counters().drops.iter().sum::<u64>(), 0);
}

#[test]
fn what_is_for_us_but_broken_is_dropped() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.establish(&tuple, 1);
    let whole = data(INGRESS, &segment(&tuple, ACK, 1));
    let change = |at: usize, to: u8| {
        let mut packet = whole.clone();
        packet[at] = to;
        fix_outer(&mut packet);
        packet
    };
    let open = host.open(&tcp(2), 1);
    let open = packet(&open, &tcp(2));
    let bent = |at: usize, to: u8| {
        let mut packet = open.clone();
        packet[at] = to;
        packet
    };
    let bad_sum = {
        let mut packet = whole.clone();
        packet[8] ^= 1;
        packet
    };
    let mut trailing = open.clone();
    trailing.push(0);
    for at in [3, 25] {
        trailing[at] += 1;
    }
    fix_outer(&mut trailing);
    for (packet, reason) in [
        (whole[..whole.len() - 1].to_vec(), Reason::Truncated),
        (bad_sum, Reason::BadChecksum),
        (change(28, 0x40), Reason::BadGeneve),
        (change(30, 0x99), Reason::BadGeneve),
        (change(15, 99), Reason::NotAMember),
        (change(15, 11), Reason::NotAMember),
        (change(36 + 9, 1), Reason::BadChecksum),
        (bent(36 + 2, 0x82), Reason::UnknownCriticalOption),
        (bent(40 + 1, 2), Reason::WrongVersion),
        (bent(40, 99), Reason::WrongKind),
        (bent(40 + 24 + 7, 1), Reason::BadMac),
        (trailing, Reason::Malformed),
    ] {
        assert_eq!(host.dropped(&packet), Some(reason));
    }
    assert!(matches!(host.receive(&open), Verdict::Deliver(_)), "it was a good one");
}

#[test]
fn the_users_halfs_messages_pass() {
    let mut host = Host::new();
    let tuple = tcp(1);
    for kind in Kind::ALL.iter().copied().filter(|k| !matches!(k, Kind::Open | Kind::Cancel)) {
        let mut message = host.open(&tuple, 1);
        message.kind = kind;
        assert_eq!(host.send(message, &tuple), Verdict::Pass, "{kind:?}");
    }
    assert_eq!(host.receive(&probe(HEAD, body_flags::ANSWER)), Verdict::Pass);
    assert_eq!(host.receive(&body(HEAD, BodyKind::Epoch, 0, &[])), Verdict::Pass);
    assert_eq!(host.dropped(&probe(id(99), body_flags::ANSWER)), Some(Reason::NotAMember));
}

#[test]
fn data_reaches_the_flows_that_are_here() {
    let open = Some(TcpSocket::Open);
    let time_wait = Some(TcpSocket::TimeWait);
    // Flow in the map, socket, flags, sequence number: delivered?
    let cases = [
        (true, None, ACK, 9, true),
        (true, open, ACK, 9, true),
        (false, open, ACK, 9, true),
        (false, time_wait, ACK, 9, true),
        (false, None, ACK, 9, false),
        (true, None, SYN, 700, true),
        (true, None, SYN, 701, false),
        (true, open, SYN, 701, true),
        (false, open, SYN, 701, true),
        (false, time_wait, SYN, 701, false),
        (false, None, SYN, 701, false),
    ];
    for (n, (in_map, socket, flags, seq, delivered)) in cases.into_iter().enumerate() {
        let mut host = Host::new();
        let tuple = tcp(1);
        if in_map {
            host.admit(&tuple, 700);
        }
        if let Some(socket) = socket {
            host.stack.tcp.insert(tuple, socket);
        }
        let inner = segment(&tuple, flags, seq);
        let packet = data(INGRESS_2, &inner);
        if delivered {
            assert_eq!(host.receive(&packet), Verdict::Deliver(inner), "case {n}");
        } else {
            assert_eq!(host.dropped(&packet), Some(Reason::NoFlow), "case {n}");
        }
        let said = host.event_kinds();
        let expected: &[EventKind] = if delivered {
            &[]
        } else if flags == ACK {
            &[EventKind::NotMine]
        } else {
            &[EventKind::RepeatClose]
        };
        assert_eq!(said, expected, "case {n}");
    }
}

#[test]
fn datagrams_reach_the_flows_in_the_map_only() {
    let mut host = Host::new();
    let packet = data(INGRESS, &headers(&udp(1), 0));
    assert_eq!(host.dropped(&packet), Some(Reason::NoFlow));
    host.admit(&udp(1), 0);
    assert_eq!(host.receive(&packet), Verdict::Deliver(headers(&udp(1), 0)));
}

#[test]
fn data_is_for_services_of_this_host_and_from_ingress_hosts() {
    let mut host = Host::new();
    for tuple in
        [flow(1, "203.0.113.10", 82, Protocol::Tcp), flow(1, "10.0.0.21", 22, Protocol::Tcp)]
    {
        host.stack.tcp.insert(tuple, TcpSocket::Open);
        let packet = data(INGRESS, &segment(&tuple, ACK, 1));
        assert_eq!(host.dropped(&packet), Some(Reason::InnerNotVip));
    }
    host.stack.tcp.insert(tcp(1), TcpSocket::Open);
    for from in [HEAD, OTHER, id(77)] {
        let packet = data(from, &segment(&tcp(1), ACK, 1));
        assert_eq!(host.dropped(&packet), Some(Reason::NotAMember));
    }
}

#[test]
fn a_syn_of_a_closed_flow_in_data_brings_its_close() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.establish(&tuple, 700);
    host.close(&tuple);
    host.events();
    for (isn, named) in [(700, 700), (9000, 0)] {
        assert_eq!(
            host.dropped(&data(INGRESS_2, &segment(&tuple, SYN, isn))),
            Some(Reason::NoFlow)
        );
        let e = host.events()[0];
        assert_eq!((e.kind, e.incarnation.0), (EventKind::RepeatClose, named));
        assert_eq!(e.peer, Some(INGRESS_2));
    }
}

#[test]
fn the_last_four_ingress_hosts_are_remembered() {
    let list = snapshot(|s| {
        for n in 3..=6 {
            let mut m = s.members[0].clone();
            (m.id, m.name) = (id(n), format!("m{n}"));
            m.addresses.v4 = Some(format!("10.0.0.{n}").parse().unwrap());
            m.addresses.v6 = Some(format!("fd00::{n}").parse().unwrap());
            s.members.push(m);
        }
    });
    let mut host = Host::of(&list, LIMITS, AllRules);
    let tuple = tcp(1);
    host.admit(&tuple, 1);
    let mut seen = |from: u16| {
        host.receive(&data(id(from), &segment(&tuple, ACK, 2)));
        host.kernel.flow(&tuple).unwrap().ingress
    };
    assert_eq!(seen(1), [1, 0, 0, 0]);
    assert_eq!(seen(2), [2, 1, 0, 0]);
    assert_eq!(seen(1), [1, 2, 0, 0]);
    assert_eq!((seen(3), seen(4)), ([3, 1, 2, 0], [4, 3, 1, 2]));
    assert_eq!(seen(1), [1, 4, 3, 2]);
    assert_eq!(seen(5), [5, 1, 4, 3], "the oldest goes");
}

#[test]
fn congestion_that_was_marked_outside_reaches_the_stack() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.establish(&tuple, 1);
    let with = |class: u8| {
        let mut inner = segment(&tuple, ACK, 2);
        IpHeader::set_traffic_class(&mut inner, class);
        inner
    };
    let marked = |inner: &[u8]| {
        let outer = jlb_wire::Encapsulation { traffic_class: 3, ..outer(INGRESS) };
        wrapped(outer, Payload::Plain { v6: false }, inner)
    };
    assert_eq!(host.receive(&marked(&with(0xba))), Verdict::Deliver(with(0xbb)));
    assert_eq!(host.dropped(&marked(&with(0))), Some(Reason::Congestion));
}

#[test]
fn fragments_for_a_vip_reach_the_stack() {
    let mut host = Host::new();
    let mut inner = segment(&tcp(1), ACK, 1);
    inner[6] = 0x20;
    inner[10..12].fill(0);
    let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&inner[..20]));
    inner[10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(host.receive(&data(INGRESS, &inner)), Verdict::Deliver(inner.clone()));
    let open = host.open(&tcp(1), 1);
    let in_open = packet_in(outer(SECOND), &open, &tcp(1), &inner);
    assert_eq!(host.dropped(&in_open), Some(Reason::Fragment));
    inner[19] = 99;
    inner[10..12].fill(0);
    let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&inner[..20]));
    inner[10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(host.dropped(&data(INGRESS, &inner)), Some(Reason::InnerNotVip));
}

#[test]
fn a_probe_is_answered_whoevers_boot_it_names() {
    let mut host = Host::new();
    host.now = host.now + Nanos::from_millis(40);
    for (from, question) in [(HEAD, probe(HEAD, 0)), (INGRESS, probe(INGRESS, 0))] {
        let verdict = host.receive(&question);
        let Verdict::Send { packet, to } = verdict else { panic!("{verdict:?}") };
        assert_eq!((to, packet.len()), (from, question.len()), "no amplification");
        let outer = Outer::parse(&packet, 6081).unwrap();
        assert_eq!(outer.source_port, 50_000);
        let Content::Body { body } = outer.content else { panic!() };
        let keys = MacKeys::single(MacKey([2; 16]));
        let (body, payload) = Body::parse(&packet[body..], &keys).unwrap();
        assert_eq!((body.flags, body.sender, body.receiver), (body_flags::ANSWER, ME, from));
        assert_eq!((body.boot, body.nonce), (BOOT, 0xabcd));
        let (told, _) = Probe::parse(payload).unwrap();
        let digest = snapshot(|_| {}).digest().0;
        let expected =
            Probe { generation: 7, digest, heartbeat_age_ms: 40, worker: 3, shut_out: 0 };
        assert_eq!(told, expected);
    }
    let mut sequence = BTreeSet::new();
    for _ in 0..3 {
        let Verdict::Send { packet, .. } = host.receive(&probe(HEAD, 0)) else { panic!() };
        sequence.insert(packet[36 + 24..36 + 32].to_vec());
    }
    assert_eq!(sequence.len(), 3);
}

#[test]
fn a_bad_probe_is_not_answered() {
    let mut host = Host::new();
    let good = probe(HEAD, 0);
    let change = |at: usize, to: u8| {
        let mut packet = good.clone();
        packet[at] = to;
        fix_outer(&mut packet);
        packet
    };
    for (packet, reason) in [
        (change(15, 12), Reason::NotAMember),
        (change(36 + 1, 9), Reason::WrongVersion),
        (change(36, 9), Reason::WrongKind),
        (change(36 + 13, 9), Reason::Malformed),
        (change(36 + 30, 9), Reason::BadMac),
        (body(HEAD, BodyKind::Probe, 0, &[0; 26]), Reason::Malformed),
        (body(HEAD, BodyKind::Probe, 0, &[0; 20]), Reason::Malformed),
    ] {
        assert_eq!(host.dropped(&packet), Some(reason));
    }
}

#[test]
fn a_syn_ack_leaves_only_for_an_admitted_flow() {
    let mut host = Host::new();
    for (tuple, direct) in [(tcp(1), false), (flow(1, "203.0.113.10", 81, Protocol::Tcp), true)] {
        let answer = reply(&tuple, SYN_ACK, 701);
        let refused = Verdict::Drop(Reason::NotAdmitted);
        assert_eq!(host.kernel.egress(host.now, &answer), refused);
        host.admit(&tuple, 700);
        let wrong = reply(&tuple, SYN_ACK, 9);
        assert_eq!(host.kernel.egress(host.now, &wrong), refused, "of another incarnation");
        assert_eq!(host.events(), []);
        let verdict = host.kernel.egress(host.now, &answer);
        assert_eq!(verdict == Verdict::Pass, direct, "{verdict:?}");
        let e = host.events()[0];
        assert_eq!((e.kind, e.tuple, e.incarnation.0), (EventKind::SynAckSeen, Some(tuple), 700));
        assert_eq!((e.second, e.asker, e.counter), (Some(SECOND), Some(INGRESS), e.counter));
        assert_eq!(host.kernel.flow(&tuple).unwrap().state, flow_state::ACCEPTED);
        host.kernel.egress(host.now, &answer);
        assert_eq!(host.events(), [], "told once");
    }
    assert_eq!(host.kernel.counters().dropped(Reason::NotAdmitted), 4);
}

#[test]
fn replies_go_to_the_egress_host_that_was_heard() {
    let mut host = Host::new();
    let out = |host: &mut Host, tuple: &jlb_wire::FiveTuple| -> MemberId {
        let inner = reply(tuple, ACK, 1);
        let verdict = host.kernel.egress(host.now, &inner);
        let Verdict::Send { packet, to } = verdict else { panic!("{verdict:?}") };
        let outer = Outer::parse(&packet, 6081).unwrap();
        let Content::Plain { inner: at } = outer.content else { panic!("{outer:?}") };
        assert_eq!(packet[at..], inner, "left alone, TTL included");
        assert_eq!(outer.dst, ip(&format!("10.0.0.{to}")));
        assert_eq!(outer.source_port, entropy(tuple));
        to
    };
    let rank_1: Vec<_> = (0..40).map(|n| out(&mut host, &tcp(n))).collect();
    assert!(rank_1.contains(&INGRESS) && rank_1.contains(&INGRESS_2), "both get a share");
    let over_v6 = flow(3, "2001:db8::10", 80, Protocol::Tcp);
    out(&mut host, &over_v6);

    host.receive(&probe(INGRESS, 0));
    assert!((0..40).all(|n| out(&mut host, &tcp(n)) == INGRESS), "the one that was heard");
    host.pass(300);
    host.receive(&probe(INGRESS_2, 0));
    let all: Vec<_> = (0..40).map(|n| out(&mut host, &tcp(n))).collect();
    assert_eq!(all, rank_1, "both heard within 300 ms");
    host.pass(1);
    assert!((0..40).all(|n| out(&mut host, &tcp(n)) == INGRESS_2), "the other is silent");
    host.receive(&probe(INGRESS, 0));
    host.receive(&probe(INGRESS_2, body_flags::LEAVING));
    assert!((0..40).all(|n| out(&mut host, &tcp(n)) == INGRESS), "who leaves is no way out");
    host.pass(1000);
    let all: Vec<_> = (0..40).map(|n| out(&mut host, &tcp(n))).collect();
    assert_eq!(all, rank_1, "nobody heard: as if all were");
}

#[test]
fn a_live_flow_leaves_as_one_that_is_not_in_the_map() {
    let mut host = Host::new();
    let inner = reply(&tcp(1), ACK, 1);
    let before = host.kernel.egress(host.now, &inner);
    host.establish(&tcp(1), 700);
    assert_eq!(host.kernel.egress(host.now, &inner), before, "hash in the map or not");
}

#[test]
fn what_is_no_reply_of_a_service_is_left_alone() {
    let mut host = Host::new();
    let tuple = tcp(1);
    let icmp = {
        let mut packet = reply(&tuple, ACK, 1);
        packet[9] = 1;
        fix_outer(&mut packet);
        packet
    };
    for packet in [
        reply(&flow(1, "192.0.2.1", 80, Protocol::Tcp), SYN_ACK, 1),
        reply(&flow(1, "203.0.113.10", 82, Protocol::Tcp), ACK, 1),
        reply(&flow(1, "203.0.113.10", 81, Protocol::Tcp), ACK, 1),
        icmp,
        data(INGRESS, &reply(&tuple, ACK, 1)),
        vec![0x45; 10],
    ] {
        assert_eq!(host.kernel.egress(host.now, &packet), Verdict::Pass);
    }
    // Fragments of a reply follow one another, by their addresses.
    let mut fragment = reply(&udp(1), 0, 0);
    (fragment[6], fragment[7]) = (0, 8);
    fix_outer(&mut fragment);
    let verdict = host.kernel.egress(host.now, &fragment);
    let Verdict::Send { packet, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(packet[36..], fragment);
    assert!(Packet::parse(&fragment).is_err());
}

#[test]
fn the_outer_family_is_the_preferred_one_that_both_have() {
    let out = |change: fn(&mut jlb_map::Spec)| {
        let mut host = Host::of(&snapshot(change), LIMITS, AllRules);
        let verdict = host.kernel.egress(host.now, &reply(&tcp(1), ACK, 1));
        let Verdict::Send { packet, .. } = verdict else { panic!("{verdict:?}") };
        Outer::parse(&packet, 6081).unwrap().src.is_ipv4()
    };
    assert!(out(|_| {}));
    assert!(!out(|s| s.underlay.prefer = jlb_map::Family::V6));
    assert!(!out(|s| (0..2).for_each(|n| s.members[n].addresses.v4 = None)));
}
