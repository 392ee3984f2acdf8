//! Packets in the middle of flows that began elsewhere: Query, its answers, NotMine, dead backends.

use etherparse::TransportHeader;
use jlb_ingress_core::FlowState;
use jlb_role::{Reason, Rule, Without};
use jlb_wire::{Control, Epoch, Flags, Incarnation, Kind, not_mine_proof};

use crate::packets::{Client, Ip, tcp, udp, well_formed};
use crate::world::{
    BACKENDS, INGRESS, MIXES, Sent, Setup, World, established, id, pending, world, world_over,
};

/// Queries among what was sent since the last time.
fn queries(w: &mut World) -> Vec<(u16, Control)> {
    let query = |s| match s {
        Sent::Control(to, c, _) if c.kind == Kind::Query => Some((to, c)),
        _ => None,
    };
    w.sent().into_iter().filter_map(query).collect()
}

fn asked(packets: usize) -> Option<FlowState> {
    Some(FlowState::Asked { packets })
}

/// A tracker's answer to a Query.
fn answer(
    w: &mut World,
    (to, query): &(u16, Control),
    flow: &Client,
    change: impl FnOnce(&mut Control),
) -> Vec<u8> {
    let (nonce, cookie) = (query.word_a, query.cookie);
    w.message(*to, Kind::State, flow, 0, |c| {
        (c.word_a, c.cookie) = (nonce, cookie);
        change(c);
    })
}

fn unknown(w: &mut World, query: &(u16, Control), flow: &Client) {
    let unknown = answer(w, query, flow, |c| c.flags = Flags::UNKNOWN);
    w.rx([unknown]);
}

fn found(w: &mut World, query: &(u16, Control), flow: &Client, backend: u16) {
    let state = answer(w, query, flow, |c| {
        (c.backend, c.incarnation) = (Some(id(backend)), Incarnation(5));
    });
    w.rx([state]);
}

/// The RST to the client among what was sent: sequence and acknowledgement number, if any.
fn resets(w: &mut World) -> Vec<(u32, Option<u32>)> {
    let reset = |s| {
        let Sent::Client(bytes) = s else { return None };
        let TransportHeader::Tcp(h) = well_formed(&bytes).transport? else { return None };
        assert!(h.rst);
        Some((h.sequence_number, h.ack.then_some(h.acknowledgment_number)))
    };
    w.sent().into_iter().filter_map(reset).collect()
}

fn with_ack(flow: &Client, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let flags = |h: &mut etherparse::TcpHeader| (h.ack, h.acknowledgment_number) = (true, ack);
    flow.segment(seq, flags, payload, Ip::default())
}

#[test]
fn a_packet_of_an_unknown_flow_waits_for_the_trackers_word_and_goes_on_in_order() {
    for (outer, v6) in MIXES {
        let mut w = world_over(outer);
        let flow = tcp(v6);
        let packets: Vec<_> = (0..4).map(|n| flow.data(n, b"x")).collect();
        w.rx(packets.clone());
        let sent = queries(&mut w);
        assert_eq!(sent.len(), 1, "one question for all of them");
        let (to, query) = &sent[0];
        assert_eq!(*to, w.trio(&flow)[0]);
        assert_eq!((query.incarnation, query.ingress), (Incarnation(0), Some(id(INGRESS))));
        assert_eq!((query.backend, query.word_b), (None, 0));
        assert_eq!(w.flow(&flow), asked(4));
        found(&mut w, &sent[0], &flow, 22);
        let data: Vec<_> = packets.iter().map(|p| Sent::Data(22, 0, p.clone())).collect();
        assert_eq!(w.sent(), data);
        assert_eq!(w.flow(&flow), established(22, 5));
        assert_eq!((w.drops(), w.ingress.waiting()), (vec![], (0, 0)));
        assert_eq!(w.metric("jlb_queries_total", &[("result", "found")]), 1.0);
    }
}

#[test]
fn the_trackers_are_asked_one_after_the_other_until_a_second_has_passed() {
    let mut w = world();
    let flow = tcp(false);
    let trio = w.trio(&flow);
    let start = w.now;
    w.rx([flow.data(1, b"x")]);
    let mut seen = Vec::new();
    for _ in 0..1100 {
        let at = w.now.since(start).0 / 1_000_000;
        seen.extend(queries(&mut w).into_iter().map(|(to, _)| (at, to)));
        w.run(1);
    }
    let times = [0, 25, 75, 125, 250, 500];
    let expected: Vec<_> = times.into_iter().zip(trio.iter().copied().cycle()).collect();
    assert_eq!(seen, expected);
    assert_eq!((w.flow(&flow), w.drops()), (None, vec![Reason::QueryTimeout]));
    assert_eq!(resets(&mut w), [], "who got no answer knows nothing");
    assert_eq!(w.metric("jlb_queries_total", &[("result", "timeout")]), 1.0);
}

#[test]
fn what_two_trackers_do_not_know_is_reset_where_the_client_expects_it() {
    let mut w = world();
    let flow = tcp(false);
    w.rx([with_ack(&flow, 100, 7001, b"ab")]);
    let first = queries(&mut w);
    unknown(&mut w, &first[0], &flow);
    let second = queries(&mut w);
    assert_eq!(second.len(), 1, "the next one is asked at once");
    assert_ne!(second[0].0, first[0].0);
    assert_eq!(second[0].1.word_a, first[0].1.word_a, "the same round");
    assert_eq!(w.flow(&flow), asked(1));
    unknown(&mut w, &first[0], &flow);
    assert_eq!(w.flow(&flow), asked(1), "one tracker twice is not two");
    w.sent();
    unknown(&mut w, &second[0], &flow);
    assert_eq!(resets(&mut w), [(7001, None)]);
    assert_eq!((w.flow(&flow), w.drops()), (None, vec![Reason::UnknownFlow]));
    // Its next packets are not asked about at once; then they are.
    w.rx([flow.data(1, b"x")]);
    assert_eq!((queries(&mut w).len(), w.drops()), (0, vec![Reason::UnknownFlow]));
    w.run(200);
    w.rx([flow.data(1, b"x")]);
    assert_eq!(queries(&mut w).len(), 1);
}

#[test]
fn a_packet_without_ack_is_reset_at_zero_with_an_ack_and_a_reset_never() {
    let mut w = world();
    for (port, flags, expected) in [(1, "fin", vec![(0, Some(101))]), (2, "rst", vec![])] {
        let flow = Client { port, ..tcp(true) };
        let packet = flow.segment(
            100,
            |h| (h.fin, h.rst) = (flags == "fin", flags == "rst"),
            &[],
            Ip::default(),
        );
        w.rx([packet]);
        let first = queries(&mut w);
        unknown(&mut w, &first[0], &flow);
        let second = queries(&mut w);
        unknown(&mut w, &second[0], &flow);
        assert_eq!(resets(&mut w), expected, "{flags}");
    }
}

#[test]
fn nobody_knows_is_said_only_of_packets_that_came_before_the_question() {
    for rules in [Without(None), Without(Some(Rule::UnknownByNonce))] {
        let mut w = Setup { rules, ..Setup::default() }.build();
        let flow = tcp(false);
        w.rx([with_ack(&flow, 1, 10, b"old")]);
        let first = queries(&mut w);
        w.rx([with_ack(&flow, 900, 20, b"new")]);
        unknown(&mut w, &first[0], &flow);
        let second = queries(&mut w);
        unknown(&mut w, &second[0], &flow);
        if rules == Without(None) {
            let sent = w.sent();
            let again: Vec<_> = sent
                .iter()
                .filter_map(|s| match s {
                    Sent::Control(to, c, _) if c.kind == Kind::Query => Some((*to, *c)),
                    _ => None,
                })
                .collect();
            assert_eq!(again.len(), 1, "the newer packet begins another round");
            assert_ne!(again[0].1.word_a, first[0].1.word_a);
            assert_eq!(w.flow(&flow), asked(1));
            // An answer to the round before says nothing now.
            unknown(&mut w, &second[0], &flow);
            assert_eq!(w.drops(), [Reason::UnknownFlow, Reason::Unexpected]);
            found(&mut w, &again[0], &flow, 21);
            assert_eq!(w.flow(&flow), established(21, 5));
        } else {
            assert_eq!(w.flow(&flow), None, "the canary");
        }
    }
}

#[test]
fn a_tracker_of_another_epoch_or_trio_does_not_make_a_flow_unknown() {
    let mut w = world();
    let flow = tcp(false);
    w.rx([flow.data(1, b"x")]);
    let first = queries(&mut w);
    unknown(&mut w, &first[0], &flow);
    let second = queries(&mut w);
    let mut spec = crate::world::spec(jlb_map::Family::V4);
    (spec.generation, spec.epoch) = (2, Epoch(2));
    let snapshot = jlb_map::Snapshot::build(spec).unwrap();
    let now = w.now;
    w.others.get_mut(&second[0].0).unwrap().0.update(snapshot, now);
    unknown(&mut w, &second[0], &flow);
    assert_eq!((w.flow(&flow), w.drops()), (asked(1), vec![Reason::WrongEpoch]));
}

#[test]
fn a_tracker_that_waits_itself_is_asked_again() {
    let mut w = world();
    let flow = tcp(false);
    w.rx([flow.data(1, b"x")]);
    let first = queries(&mut w);
    let not_yet = answer(&mut w, &first[0], &flow, |c| c.flags = Flags::PENDING);
    w.rx([not_yet]);
    assert_eq!((w.flow(&flow), w.drops()), (asked(1), vec![]));
    w.run(30);
    assert_eq!(queries(&mut w).len(), 1);
}

#[test]
fn a_syn_in_the_midst_of_a_question_waits_for_its_answer() {
    let mut w = world();
    let flow = tcp(false);
    w.rx([flow.data(1, b"x"), flow.syn(77)]);
    assert_eq!((w.drops(), w.flow(&flow)), (vec![Reason::DuplicateSyn], asked(1)));
}

#[test]
fn questions_take_half_of_the_pool_at_most() {
    let mut w = Setup { pending: 4, ..Setup::default() }.build();
    let flow = |port| Client { port, ..tcp(false) };
    w.rx((1..=3).map(|port| flow(port).data(1, b"x")));
    assert_eq!((queries(&mut w).len(), w.drops()), (2, vec![Reason::PendingFull]));
    w.rx([flow(9).syn(1), flow(10).syn(1)]);
    assert_eq!((w.flow(&flow(10)), w.drops()), (pending(1, 1), vec![]), "new flows have theirs");
    w.run(1100);
    w.drops();
    w.sent();
    w.rx([flow(4).data(1, b"x")]);
    assert_eq!(queries(&mut w).len(), 1, "and it is given back");
}

#[test]
fn what_a_backend_does_not_have_is_asked_about_with_proof() {
    for flow in [tcp(false), udp(true)] {
        let mut w = world();
        w.establish(&flow, 5, 21);
        let counter = |c: &mut Control| (c.word_a, c.backend) = (300, Some(id(21)));
        let other = w.message(22, Kind::NotMine, &flow, 0, counter);
        w.rx([other]);
        assert_eq!((w.flow(&flow), w.drops()), (established(21, 5), vec![Reason::Unexpected]));
        let not_mine = w.message(21, Kind::NotMine, &flow, 0, counter);
        w.rx([not_mine]);
        let sent = queries(&mut w);
        assert_eq!(sent[0].1.backend, Some(id(21)));
        assert_eq!(sent[0].1.word_b, not_mine_proof(jlb_wire::BootId(21), 300));
        assert_eq!(w.flow(&flow), asked(0));
        found(&mut w, &sent[0], &flow, 22);
        assert_eq!(w.flow(&flow), established(22, 5), "mended");

        let not_mine = w.message(22, Kind::NotMine, &flow, 0, |c| c.word_a = 9);
        w.rx([not_mine]);
        let first = queries(&mut w);
        unknown(&mut w, &first[0], &flow);
        let second = queries(&mut w);
        unknown(&mut w, &second[0], &flow);
        assert_eq!((w.flow(&flow), resets(&mut w)), (None, vec![]), "no packet, no RST");
        assert_eq!(w.drops(), []);
    }
}

#[test]
fn clients_of_a_dead_backend_are_told_with_their_next_packet() {
    let mut w = world();
    let (flow, other, datagrams) = (tcp(false), Client { port: 2, ..tcp(false) }, udp(false));
    w.establish(&flow, 5, 21);
    w.establish(&other, 6, 22);
    w.establish(&datagrams, 7, 21);
    w.down.insert(21);
    w.run(2900);
    w.rx([flow.data(1, b"x")]);
    assert_eq!(
        (w.flow(&flow), w.drops()),
        (established(21, 5), vec![]),
        "a suspect keeps what it has"
    );
    // The trackers do not hear it either: their answers to Probe say so.
    for _ in 0..500 {
        for n in BACKENDS {
            assert_eq!(n == 21, !w.ingress.peers().alive(id(n)));
        }
        w.run(1);
    }
    w.drops();
    w.sent();
    w.rx([with_ack(&flow, 9, 4000, b"hello"), other.data(1, b"x")]);
    let sent = w.sent();
    assert!(matches!(sent[..], [Sent::Client(_), Sent::Data(22, ..)]), "{sent:?}");
    assert_eq!((w.flow(&flow), w.drops()), (None, vec![Reason::BackendDead]));
    // What can open opens anew.
    w.rx([datagrams.datagram(b"x")]);
    assert_eq!((w.opens().len(), w.flow(&datagrams)), (1, pending(0, 1)));
}
