//! Close, and the two seconds after it.

use jlb_ingress_core::FlowCounts;
use jlb_wire::{Control, Flags, Kind, Protocol};

use crate::packets::{Client, tcp, udp};
use crate::world::{MIXES, Sent, Setup, World, closing, established, pending, world, world_over};

fn close(w: &mut World, backend: u16, flow: &Client, incarnation: u32) -> Vec<u8> {
    w.message(backend, Kind::Close, flow, incarnation, |c| {
        c.word_a = 99;
        c.cookie = 5;
    })
}

/// What was sent is one Close ACK, and the rest.
#[track_caller]
fn acknowledged(w: &mut World, by: u16, incarnation: u32) -> Vec<Sent> {
    let mut sent = w.sent();
    let Some(Sent::Control(to, ack, _)) = sent.pop() else { panic!("no acknowledgement") };
    let Control { kind, flags, word_a, cookie, .. } = ack;
    assert_eq!((kind, flags, word_a, cookie), (Kind::Close, Flags::ACK, 99, 5));
    assert_eq!((to, ack.incarnation.0), (by, incarnation));
    sent
}

#[test]
fn a_closed_flow_stays_for_two_seconds_and_leads_to_its_backend() {
    for (outer, v6) in MIXES {
        for flow in [tcp(v6), udp(v6)] {
            let mut w = world_over(outer);
            w.establish(&flow, 1, 21);
            let bytes = close(&mut w, 21, &flow, 1);
            w.rx([bytes]);
            assert_eq!(acknowledged(&mut w, 21, 1), []);
            assert_eq!(w.flow(&flow), closing(21, 1));
            w.run(1990);
            w.rx([flow.later(7)]);
            assert_eq!(w.sent(), [Sent::Data(21, 0, flow.later(7))]);
            w.run(20);
            assert_eq!((w.flow(&flow), w.drops()), (None, vec![]));
            assert_eq!(w.ingress.flows(), FlowCounts::default());
            for state in ["pending", "established", "closing"] {
                assert_eq!(w.metric("jlb_flows", &[("state", state)]), 0.0);
            }
        }
    }
}

#[test]
fn a_close_is_acknowledged_known_or_not() {
    let mut w = world();
    let flow = tcp(false);
    let bytes = close(&mut w, 21, &flow, 1);
    w.rx([bytes]);
    assert_eq!(acknowledged(&mut w, 21, 1), []);
    assert_eq!((w.flow(&flow), w.drops()), (None, vec![]));

    w.establish(&flow, 1, 21);
    for (backend, incarnation) in [(22, 1), (21, 2)] {
        let bytes = close(&mut w, backend, &flow, incarnation);
        w.rx([bytes]);
        assert_eq!(acknowledged(&mut w, backend, incarnation), []);
        assert_eq!(w.flow(&flow), established(21, 1), "another backend's, another incarnation's");
    }

    for _ in 0..2 {
        let bytes = close(&mut w, 21, &flow, 1);
        w.rx([bytes]);
        assert_eq!(acknowledged(&mut w, 21, 1), []);
        assert_eq!(w.flow(&flow), closing(21, 1));
        w.run(1500);
    }
    assert_eq!(w.flow(&flow), None, "a repeated Close does not begin the time again");
}

#[test]
fn a_new_connection_of_the_five_tuple_opens_while_the_old_one_closes() {
    let mut w = world();
    let flow = tcp(false);
    w.establish(&flow, 1, 21);
    let bytes = close(&mut w, 21, &flow, 1);
    w.rx([bytes, flow.syn(1), flow.data(2, b"late")]);
    let sent = acknowledged_first(&mut w);
    assert_eq!(sent, [Sent::Data(21, 0, flow.syn(1)), Sent::Data(21, 0, flow.data(2, b"late"))]);

    w.rx([flow.syn(500)]);
    assert_eq!((w.opens().len(), w.flow(&flow)), (1, pending(500, 1)));
    let accept = w.accept(22, &flow, 500);
    w.rx([accept]);
    w.run(3000);
    assert_eq!(w.flow(&flow), established(22, 500), "the end of the old one is not its end");
    assert_eq!(w.ingress.flows(), FlowCounts { established: 1, ..FlowCounts::default() });
}

/// Takes a Close ACK off the front.
fn acknowledged_first(w: &mut World) -> Vec<Sent> {
    let mut sent = w.sent();
    assert!(matches!(sent.remove(0), Sent::Control(_, c, _) if c.kind == Kind::Close));
    sent
}

#[test]
fn a_datagram_opens_anew_only_after_the_closing_time() {
    let mut w = world();
    let flow = udp(false);
    w.establish(&flow, 1, 21);
    let bytes = close(&mut w, 21, &flow, 1);
    w.rx([bytes, flow.later(2)]);
    assert_eq!(acknowledged_first(&mut w), [Sent::Data(21, 0, flow.later(2))]);
    w.run(2010);
    w.rx([flow.later(3)]);
    assert_eq!((w.opens().len(), w.flow(&flow)), (1, pending(0, 1)));
}

#[test]
fn a_close_that_overtook_its_accept_ends_the_connection_and_flushes_its_queue() {
    let mut w = world();
    let flow = tcp(false);
    w.rx([flow.syn(1), flow.later(2)]);
    w.sent();
    let bytes = close(&mut w, 21, &flow, 1);
    w.rx([bytes]);
    assert_eq!(acknowledged(&mut w, 21, 1), [Sent::Data(21, 0, flow.later(2))]);
    assert_eq!((w.flow(&flow), w.ingress.waiting()), (closing(21, 1), (0, 0)));
    w.run(2100);
    assert_eq!((w.flow(&flow), w.drops()), (None, vec![]));

    // Of datagrams it may be an earlier flow's.
    let flow = udp(false);
    w.rx([flow.datagram(b"x")]);
    w.sent();
    for incarnation in [0, 1] {
        let bytes = close(&mut w, 21, &flow, incarnation);
        w.rx([bytes]);
        assert_eq!(acknowledged(&mut w, 21, incarnation), []);
        assert_eq!(w.flow(&flow), pending(0, 1));
    }
}

#[test]
fn ten_thousand_closes_in_two_seconds_stay_within_the_tables_bounds() {
    let mut w = Setup { flows: 100, ..Setup::default() }.build();
    for round in 0..500 {
        let flow = Client { port: 1000 + round % 7, ..tcp(false) };
        assert_eq!(flow.protocol, Protocol::Tcp);
        w.rx([flow.syn(u32::from(round))]);
        let accept = w.accept(21, &flow, u32::from(round));
        let bytes = close(&mut w, 21, &flow, u32::from(round));
        w.rx([accept]);
        w.rx([bytes]);
        w.run(1);
    }
    assert_eq!(w.drops(), []);
    assert!(w.ingress.flows().closing <= 7);
    w.run(2100);
    assert_eq!(w.ingress.flows(), FlowCounts::default());
}
