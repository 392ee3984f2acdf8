//! Accept, State and Reject.

use etherparse::{Icmpv4Type, Icmpv6Type, TransportHeader, icmpv4, icmpv6};
use jlb_role::{Reason, Rule, Without};
use jlb_wire::{Flags, Kind, Protocol};

use crate::packets::{Client, client_address, tcp, udp, vip, well_formed};
use crate::world::{
    MIXES, Sent, Setup, TRACKERS, World, established, id, pending, world, world_over,
};

/// All flows that there can be.
fn flows(v6: bool) -> [Client; 2] {
    [tcp(v6), udp(v6)]
}

/// The incarnation that the backend's word names: of a datagram flow, its own number.
fn number(flow: &Client) -> u32 {
    if flow.protocol == Protocol::Tcp { 1000 } else { 3 }
}

fn data(to: u16, packets: &[Vec<u8>]) -> Vec<Sent> {
    packets.iter().map(|p| Sent::Data(to, 0, p.clone())).collect()
}

#[test]
fn accept_establishes_and_flushes_the_queue_in_order_without_the_packet_inside_open() {
    for (outer, v6) in MIXES {
        for flow in flows(v6) {
            let mut w = world_over(outer);
            let queue: Vec<_> = (1..=8).map(|n| flow.later(1000 + n)).collect();
            w.rx([flow.opener(1000)]);
            w.rx(queue.clone());
            w.sent();
            let accept = w.accept(22, &flow, number(&flow));
            w.rx([accept]);
            assert_eq!(w.sent(), data(22, &queue));
            assert_eq!(w.flow(&flow), established(22, number(&flow)));
            assert_eq!((w.drops(), w.ingress.waiting()), (vec![], (0, 0)));
            w.run(1100);
            assert_eq!((w.sent(), w.drops()), (vec![], vec![]), "its timers are gone");
        }
    }
}

#[test]
fn accept_straight_from_the_backend_counts_too() {
    let mut w = world();
    w.rx([tcp(false).syn(1000)]);
    let accept = w.message(21, Kind::Accept, &tcp(false), 1000, |_| {});
    w.rx([accept]);
    assert_eq!(w.flow(&tcp(false)), established(21, 1000));
}

#[test]
fn after_accept_a_cut_datagram_goes_whole_and_a_cut_syn_does_not_go_again() {
    for (outer, v6) in MIXES {
        let long = [7; 300];
        let mut w = world_over(outer);
        w.rx([udp(v6).datagram(&long), udp(v6).datagram(b"next")]);
        w.sent();
        let accept = w.accept(21, &udp(v6), 1);
        w.rx([accept]);
        let both = [udp(v6).datagram(&long), udp(v6).datagram(b"next")];
        assert_eq!(w.sent(), data(21, &both));

        w.rx([tcp(v6).segment(1, |h| h.syn = true, &long, Default::default())]);
        w.sent();
        let accept = w.accept(21, &tcp(v6), 1);
        w.rx([accept]);
        assert_eq!(w.sent(), []);
        assert_eq!(w.drops(), []);
    }
}

#[test]
fn state_establishes_and_sends_the_packet_inside_open_first() {
    for (outer, v6) in MIXES {
        for flow in flows(v6) {
            let mut w = world_over(outer);
            let packets = [flow.opener(1000), flow.later(1001), flow.later(1002)];
            w.rx(packets.clone());
            w.sent();
            let state = w.state(12, &flow, number(&flow), 21);
            w.rx([state]);
            assert_eq!(w.sent(), data(21, &packets));
            assert_eq!(w.flow(&flow), established(21, number(&flow)));
            let (service, result) =
                (if flow.protocol == Protocol::Tcp { "web" } else { "dns" }, "found");
            let labels = [("service", service), ("result", result)];
            assert_eq!(w.metric("jlb_opens_total", &labels), 1.0);
        }
    }
}

#[test]
fn state_pending_and_unknown_change_nothing() {
    for flags in [Flags::PENDING, Flags::UNKNOWN] {
        let mut w = world();
        w.rx([tcp(false).syn(1)]);
        let state = w.message(11, Kind::State, &tcp(false), 1, |c| c.flags = flags);
        w.rx([state]);
        assert_eq!((w.flow(&tcp(false)), w.drops()), (pending(1, 1), vec![]));
        w.run(130);
        assert_eq!(w.opens().len(), 4, "the retransmitter goes on");
    }
}

#[test]
fn an_answer_that_fits_nothing_pending_is_unexpected() {
    let flow = tcp(false);
    let mut w = world();
    let accept = w.accept(21, &flow, 1);
    let state = w.state(11, &flow, 1, 21);
    let refuse = w.refuse(&flow, 1, 0);
    w.rx([accept, state, refuse]);
    assert_eq!(w.drops(), [Reason::Unexpected; 3], "nothing is known");
    assert_eq!(w.flow(&flow), None);

    w.rx([flow.syn(1)]);
    let accept = w.accept(21, &flow, 2);
    let state = w.state(11, &flow, 2, 21);
    let refuse = w.refuse(&flow, 2, 0);
    w.rx([accept, state, refuse]);
    assert_eq!(w.drops(), [Reason::Unexpected; 3], "another incarnation");
    assert_eq!(w.flow(&flow), pending(1, 1));

    let accept = w.accept(21, &flow, 1);
    w.rx([accept]);
    let (again, other) = (w.accept(21, &flow, 1), w.accept(22, &flow, 1));
    let refuse = w.refuse(&flow, 1, 0);
    w.rx([again, other, refuse]);
    assert_eq!(w.drops(), [Reason::Unexpected; 3], "it is established");
    assert_eq!(w.flow(&flow), established(21, 1));
}

#[test]
fn a_backend_that_is_not_in_the_list_gets_no_flow() {
    let mut w = world();
    w.rx([tcp(false).syn(1)]);
    let state = w.state(11, &tcp(false), 1, 12);
    w.rx([state]);
    assert_eq!(w.drops(), [Reason::NoBackend], "12 is a tracker");
    assert_eq!(w.flow(&tcp(false)), pending(1, 1));
    let nobody = w.message(11, Kind::State, &tcp(false), 1, |_| {});
    w.rx([nobody]);
    assert_eq!(w.drops(), [Reason::Malformed]);
}

/// The flow's cookie, by its Open.
fn cookie(w: &mut World) -> u32 {
    w.opens()[0].1.cookie
}

#[test]
fn a_refused_connection_is_reset_at_once_and_acceptably() {
    for (outer, v6) in MIXES {
        let flow = tcp(v6);
        for isn in [1000, u32::MAX] {
            let mut w = world_over(outer);
            w.rx([flow.syn(isn), flow.data(isn, b"x")]);
            let cookie = cookie(&mut w);
            let refuse = w.refuse(&flow, isn, cookie);
            w.rx([refuse]);
            let sent = w.sent();
            let [Sent::Client(reset)] = &sent[..] else { panic!("{sent:?}") };
            let headers = well_formed(reset);
            let Some(TransportHeader::Tcp(t)) = headers.transport else { panic!() };
            let ip = jlb_wire::IpHeader::parse(reset).unwrap();
            assert_eq!((ip.src, ip.dst), (vip(v6), client_address(v6)));
            assert_eq!((t.source_port, t.destination_port), (80, 40001));
            // RFC 9293, 3.10.7.3: in SYN-SENT a RST counts when ISS < SEG.ACK =< SND.NXT.
            assert_eq!((t.rst, t.ack, t.syn, t.fin), (true, true, false, false));
            assert_eq!((t.sequence_number, t.acknowledgment_number), (0, isn.wrapping_add(1)));
            assert_eq!(w.drops(), [Reason::RefusedReset; 2]);
            assert_eq!((w.flow(&flow), w.ingress.waiting()), (None, (0, 0)));
        }
    }
}

#[test]
fn a_refused_datagram_is_answered_port_unreachable() {
    for (outer, v6) in MIXES {
        // For datagrams, `force` that was refused ends like `reset`.
        for flow in [udp(v6), Client { vip_port: 6081, ..udp(v6) }] {
            let mut w = world_over(outer);
            let first = flow.datagram(&[9; 700]);
            w.rx([first.clone(), flow.datagram(b"y")]);
            let cookie = cookie(&mut w);
            let refuse = w.refuse(&flow, 0, cookie);
            w.rx([refuse]);
            let sent = w.sent();
            let [Sent::Client(unreachable)] = &sent[..] else { panic!("{sent:?}") };
            let headers = well_formed(unreachable);
            let ip = jlb_wire::IpHeader::parse(unreachable).unwrap();
            assert_eq!((ip.src, ip.dst), (vip(v6), client_address(v6)));
            match headers.transport.unwrap() {
                TransportHeader::Icmpv4(h) if !v6 => {
                    let port = icmpv4::DestUnreachableHeader::Port;
                    assert_eq!(h.icmp_type, Icmpv4Type::DestinationUnreachable(port));
                    assert_eq!(unreachable.len(), 576);
                }
                TransportHeader::Icmpv6(h) if v6 => {
                    let port = icmpv6::DestUnreachableCode::Port;
                    assert_eq!(h.icmp_type, Icmpv6Type::DestinationUnreachable(port));
                    assert_eq!(unreachable.len(), 48 + first.len());
                }
                other => panic!("{other:?}"),
            }
            let quote = headers.payload.slice();
            assert_eq!(quote, &first[..quote.len()]);
            assert_eq!(w.drops(), [Reason::RefusedReset; 2]);
            assert_eq!(w.metric("jlb_replies_total", &[("kind", "port_unreachable")]), 1.0);
        }
    }
}

#[test]
fn a_service_that_drops_says_nothing() {
    let mut w = world();
    let flow = Client { vip_port: 81, ..tcp(false) };
    w.rx([flow.syn(1), flow.data(2, b"x")]);
    let cookie = cookie(&mut w);
    let refuse = w.refuse(&flow, 1, cookie);
    w.rx([refuse]);
    assert_eq!((w.sent(), w.drops()), (vec![], vec![Reason::RefusedDrop; 2]));
    let labels = [("service", "quiet"), ("result", "refused")];
    assert_eq!(w.metric("jlb_opens_total", &labels), 1.0);
    assert_eq!((w.flow(&flow), w.ingress.waiting()), (None, (0, 0)));
}

#[test]
fn the_refusal_of_an_earlier_open_does_not_end_a_later_one_of_datagrams() {
    let mut w = world();
    let flow = udp(false);
    w.rx([flow.datagram(b"x")]);
    let earlier = cookie(&mut w);
    w.run(1100);
    w.drops();
    w.rx([flow.datagram(b"y")]);
    w.sent();
    let refuse = w.refuse(&flow, 0, earlier);
    w.rx([refuse]);
    assert_eq!((w.drops(), w.sent()), (vec![Reason::StaleCookie], vec![]));
    assert_eq!(w.flow(&flow), pending(0, 1));

    // A connection has its incarnation: whichever Open of it was refused.
    let flow = tcp(false);
    w.rx([flow.syn(1)]);
    w.sent();
    let refuse = w.refuse(&flow, 1, 12345);
    w.rx([refuse]);
    assert_eq!((w.drops(), w.sent().len()), (vec![Reason::RefusedReset], 1));
}

#[test]
fn the_accept_of_an_earlier_open_leaves_no_datagram_behind() {
    let mut w = world();
    let flow = udp(false);
    w.rx([flow.datagram(b"x")]);
    let earlier = cookie(&mut w);
    w.run(1100);
    w.drops();
    w.rx([flow.datagram(b"y"), flow.datagram(b"z")]);
    w.sent();
    // The backend took "x", and its word of that was slow. It never saw "y".
    let accept = w.message(21, Kind::Accept, &flow, 3, |c| c.cookie = earlier);
    w.rx([accept]);
    assert_eq!(w.sent(), data(21, &[flow.datagram(b"y"), flow.datagram(b"z")]));
}

#[test]
fn only_the_trackers_can_refuse_for_good() {
    let mut w = world();
    let flow = tcp(false);
    w.rx([flow.syn(1)]);
    w.sent();
    let by_backend = w.message(21, Kind::Reject, &flow, 1, |_| {});
    let forwarded = w.forwarded(TRACKERS[0], &flow, &by_backend);
    let pretended = w.message(21, Kind::Reject, &flow, 1, |c| c.flags = Flags::FINAL);
    w.rx([forwarded, pretended]);
    assert_eq!(w.drops(), [Reason::WrongKind, Reason::NotAMember]);
    assert_eq!((w.flow(&flow), w.sent()), (pending(1, 1), vec![]));
}

#[test]
fn refusals_are_rate_limited() {
    let mut w = Setup { pending: 2000, flows: 4000, ..Setup::default() }.build();
    let flows: Vec<_> = (0..1500).map(|n| Client { port: 10_000 + n, ..tcp(false) }).collect();
    w.rx(flows.iter().map(|f| f.syn(1)));
    w.sent();
    for flow in &flows {
        let refuse = w.refuse(flow, 1, 0);
        w.rx([refuse]);
    }
    assert_eq!(w.drops(), vec![Reason::RefusedReset; 1500]);
    assert_eq!(w.sent().len(), 1000, "all at one moment");
    assert_eq!(w.metric("jlb_replies_total", &[("kind", "reset")]), 1000.0);
    assert_eq!(w.metric("jlb_replies_withheld_total", &[("kind", "reset")]), 500.0);
}

#[test]
fn nobody_is_answered_who_cannot_be_a_client() {
    use etherparse::{PacketBuilder, TcpHeader};
    let mut w = world();
    let sources =
        ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "10.0.0.21", "203.0.113.10"];
    for source in sources {
        let ends = (source.parse().unwrap(), vip(false));
        let ip = crate::packets::ip_headers(ends, 6, Default::default());
        let mut header = TcpHeader::new(40001, 80, 1, 100);
        header.syn = true;
        let mut syn = Vec::new();
        PacketBuilder::ip(ip).tcp_header(header).write(&mut syn, &[]).unwrap();
        w.rx([syn.clone()]);
        let (_, open, _) = w.opens().remove(0);
        let tuple = jlb_wire::Packet::parse(&syn).unwrap().tuple;
        let flow_id = jlb_flow::FlowHasher::new(crate::world::KEY).id(&tuple);
        let (peers, _) = w.others.get_mut(&12).unwrap();
        let mut io = jlb_role::FakeIo::default();
        let mut refuse = peers.control(Kind::Reject, open.incarnation);
        refuse.flags = Flags::FINAL;
        peers.send_headers(id(1), refuse, (&tuple, &flow_id), &mut io);
        w.rx([jlb_role::PacketBuf::bytes(&io.sent[0].0).to_vec()]);
        assert_eq!((w.drops(), w.sent()), (vec![Reason::RefusedReset], vec![]), "{source}");
    }
}

#[test]
fn without_order_the_queue_is_flushed_out_of_order() {
    let mut w = Setup { rules: Without(Some(Rule::FlushInOrder)), ..Setup::default() }.build();
    let flow = tcp(false);
    w.rx([flow.syn(1), flow.later(2), flow.later(3)]);
    w.sent();
    let accept = w.accept(21, &flow, 1);
    w.rx([accept]);
    assert_eq!(w.sent(), data(21, &[flow.later(3), flow.later(2)]));
}

#[test]
fn packets_behind_an_accept_in_one_burst_keep_their_order() {
    for accept_first in [false, true] {
        let mut w = world();
        let flow = tcp(false);
        w.rx([flow.syn(1), flow.later(2)]);
        w.sent();
        let mut burst = vec![flow.later(3), flow.later(4)];
        let accept = w.accept(21, &flow, 1);
        burst.insert(if accept_first { 0 } else { 2 }, accept);
        w.rx(burst);
        assert_eq!(w.sent(), data(21, &[flow.later(2), flow.later(3), flow.later(4)]));
    }
}

#[test]
fn a_backends_word_counts_whatever_its_epoch() {
    let flow = tcp(false);
    let mut w = world();
    w.rx([flow.opener(1000)]);
    w.sent();
    let mut spec = crate::world::spec(jlb_map::Family::V4);
    (spec.generation, spec.epoch) = (2, jlb_wire::Epoch(2));
    let (peers, _) = w.others.get_mut(&22).unwrap();
    peers.update(jlb_map::Snapshot::build(spec).unwrap(), w.now);
    let accept = w.accept(22, &flow, 1000);
    w.rx([accept]);
    assert_eq!(w.flow(&flow), established(22, 1000));
}
