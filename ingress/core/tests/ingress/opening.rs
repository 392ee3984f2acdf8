//! A flow's first packet, its Opens, and what waits meanwhile.

use jlb_role::{Reason, Rule, Without};
use jlb_wire::{Flags, IpHeader, Kind, Protocol};

use crate::packets::{Client, tcp, udp, well_formed};
use crate::world::{INGRESS, MIXES, Sent, Setup, id, ms, pending, spec, world, world_over};

#[test]
fn a_first_packet_opens_its_flow_at_the_first_tracker() {
    for (outer, v6) in MIXES {
        for flow in [tcp(v6), udp(v6)] {
            let mut w = world_over(outer);
            let first = flow.opener(5000);
            w.rx([first.clone()]);
            let isn = if flow.protocol == Protocol::Tcp { 5000 } else { 0 };
            assert_eq!(w.flow(&flow), pending(isn, 1));
            let opens = w.opens();
            let [(to, open, inner)] = &opens[..] else { panic!("{opens:?}") };
            assert_eq!(*to, w.trio(&flow)[0]);
            assert_eq!(*inner, first);
            assert_eq!((open.kind, open.flags), (Kind::Open, Flags::default()));
            assert_eq!((open.incarnation.0, open.reject_ttl), (isn, 2));
            assert_eq!((open.ingress, open.sender), (Some(id(INGRESS)), id(INGRESS)));
            assert_eq!((open.head, open.second, open.backend), (None, None, None));
            assert!(jlb_flow::Cookie::from_wire(open.cookie).is_some());
            assert_eq!(w.drops(), []);
        }
    }
}

#[test]
fn what_is_for_no_service_is_dropped_by_its_reason() {
    for v6 in [false, true] {
        let mut w = world();
        let other_port = Client { vip_port: 8080, ..tcp(v6) };
        let other_protocol = Client { vip_port: 80, ..udp(v6) };
        w.rx([other_port.syn(1), other_protocol.datagram(b"x")]);
        assert_eq!(w.drops(), [Reason::NoService; 2]);

        // Turned round, the destination is the client.
        let elsewhere = crate::packets::server_packet(&tcp(v6), b"", Default::default());
        w.rx([elsewhere]);
        assert_eq!(w.drops(), [Reason::NotForUs]);
        assert_eq!((w.sent(), w.ingress.waiting()), (vec![], (0, 0)));
    }
}

#[test]
fn icmp_to_a_vip_is_not_carried_yet() {
    let mut w = world();
    let mut echo = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4([198, 51, 100, 9], [203, 0, 113, 10], 9);
    builder.icmpv4_echo_request(1, 2).write(&mut echo, b"ping").unwrap();
    let mut elsewhere = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4([198, 51, 100, 9], [203, 0, 113, 99], 9);
    builder.icmpv4_echo_request(1, 2).write(&mut elsewhere, b"ping").unwrap();
    w.rx([echo, elsewhere]);
    assert_eq!(w.drops(), [Reason::UnsupportedProtocol, Reason::NotForUs]);
}

#[test]
fn a_datagram_to_the_vip_at_the_geneve_port_is_a_clients() {
    for (outer, v6) in MIXES {
        let mut w = world_over(outer);
        let flow = Client { vip_port: 6081, ..udp(v6) };
        w.rx([flow.datagram(b"hello")]);
        assert_eq!((w.opens().len(), w.flow(&flow)), (1, pending(0, 1)));
    }
}

#[test]
fn opens_go_twice_to_the_first_tracker_then_to_the_next_ranks_and_no_more() {
    let mut w = world();
    let flow = tcp(false);
    let trio = w.trio(&flow);
    let start = w.now;
    w.rx([flow.syn(1)]);
    let mut seen = Vec::new();
    for _ in 0..1100 {
        seen.extend(w.opens().into_iter().map(|(to, ..)| (w.now.since(start), to)));
        w.run(1);
    }
    let rank = |n: usize| trio[n];
    assert_eq!(seen, [(ms(0), rank(0)), (ms(25), rank(0)), (ms(75), rank(1)), (ms(125), rank(2))]);
}

#[test]
fn a_suspect_is_asked_last() {
    let flow = tcp(false);
    let mut w = world();
    let trio = w.trio(&flow);
    w.down.insert(trio[0]);
    w.run(100);
    assert!(!w.ingress.peers().alive(id(trio[0])));
    w.rx([flow.syn(1)]);
    w.run(50);
    let asked: Vec<_> = w.opens().into_iter().map(|(to, ..)| to).collect();
    assert_eq!(asked, [trio[1], trio[1]]);
    w.down.clear();
    w.run(100);
    let asked: Vec<_> = w.opens().into_iter().map(|(to, ..)| to).collect();
    assert_eq!(asked, [trio[2], trio[0]]);
}

#[test]
fn with_two_trackers_the_first_is_asked_again_last() {
    let mut spec = spec(jlb_map::Family::V4);
    spec.members.retain(|m| m.id != id(13));
    let mut w = Setup { spec, ..Setup::default() }.build();
    let flow = tcp(true);
    let trio = w.trio(&flow);
    w.rx([flow.syn(1)]);
    w.run(900);
    let asked: Vec<_> = w.opens().into_iter().map(|(to, ..)| to).collect();
    assert_eq!(asked, [trio[0], trio[0], trio[1], trio[0]]);
}

#[test]
fn after_a_second_the_flow_is_freed_with_its_queue_and_without_a_word() {
    for flow in [tcp(false), udp(true)] {
        let mut w = world();
        w.rx([flow.opener(1), flow.later(2), flow.later(3)]);
        assert_eq!(w.ingress.waiting(), (1, 3));
        w.run(998);
        assert_eq!(w.drops(), []);
        w.opens();
        w.run(4);
        assert_eq!(w.drops(), [Reason::OpenTimeout; 3]);
        assert_eq!((w.sent(), w.flow(&flow), w.ingress.waiting()), (vec![], None, (0, 0)));
        let service = if flow.protocol == Protocol::Tcp { "web" } else { "dns" };
        let labels = [("service", service), ("result", "timeout")];
        assert_eq!(w.metric("jlb_opens_total", &labels), 1.0);

        w.rx([flow.opener(9)]);
        assert_eq!(w.opens().len(), 1, "the client's next try starts again");
    }
}

#[test]
fn a_repeated_syn_is_dropped_while_its_open_is_under_way() {
    let mut w = world();
    let flow = tcp(false);
    w.rx([flow.syn(1), flow.syn(1)]);
    w.rx([flow.syn(1)]);
    assert_eq!(w.drops(), [Reason::DuplicateSyn; 2]);
    assert_eq!((w.opens().len(), w.flow(&flow)), (1, pending(1, 1)));
}

#[test]
fn a_syn_of_another_isn_does_not_displace_a_pending_flow() {
    let mut w = world();
    let flow = tcp(false);
    w.rx([flow.syn(1), flow.data(2, b"GET")]);
    w.rx([flow.syn(5)]);
    assert_eq!(w.drops(), [Reason::DuplicateSyn]);
    assert_eq!(w.flow(&flow), pending(1, 2));

    // The canary: without the rule it does.
    let mut w = Setup { rules: Without(Some(Rule::Incumbent)), ..Setup::default() }.build();
    w.rx([flow.syn(1), flow.data(2, b"GET")]);
    w.rx([flow.syn(5)]);
    assert_eq!(w.drops(), [Reason::DuplicateSyn; 2], "the packets of the displaced one");
    assert_eq!(w.flow(&flow), pending(5, 1));
}

#[test]
fn at_most_eight_packets_wait_behind_the_first() {
    for flow in [tcp(true), udp(false)] {
        let mut w = world();
        w.rx([flow.opener(1)]);
        w.rx((0..10).map(|n| flow.later(n)));
        assert_eq!(w.drops(), [Reason::PendingQueueFull; 2]);
        assert_eq!(w.ingress.waiting(), (1, 9));
    }
}

#[test]
fn a_long_datagram_goes_into_open_as_headers_and_a_long_syn_without_its_data() {
    for (outer, v6) in MIXES {
        let long = [7; 300];
        let datagram = udp(v6).datagram(&long);
        let syn = tcp(v6).segment(1, |h| h.syn = true, &long, Default::default());
        for (flow, first) in [(udp(v6), datagram), (tcp(v6), syn)] {
            let mut w = world_over(outer);
            w.rx([first.clone()]);
            let opens = w.opens();
            let [(_, open, inner)] = &opens[..] else { panic!("{opens:?}") };
            assert_eq!(open.flags, Flags::CUT);
            assert_eq!(inner.len(), first.len() - long.len());
            // The receiver has checked lengths and checksums already; the rest is as it was.
            let headers = well_formed(inner);
            assert!(headers.payload.slice().is_empty());
            assert_eq!(jlb_wire::Packet::parse(inner).unwrap().tuple, flow.tuple());
        }
        let mut w = world_over(outer);
        w.rx([udp(v6).datagram(&long[..256])]);
        assert_eq!(w.opens()[0].1.flags, Flags::default(), "256 bytes go whole");
    }
}

#[test]
fn link_padding_behind_a_packet_goes_nowhere() {
    let mut w = world();
    let flow = tcp(false);
    let padded = [flow.syn(1), vec![0xee; 6]].concat();
    w.rx([padded]);
    assert_eq!(w.opens()[0].2, flow.syn(1));
    let later = [flow.data(2, b""), vec![0xee; 6]].concat();
    w.rx([later]);
    let accept = w.accept(21, &flow, 1);
    w.rx([accept]);
    assert_eq!(w.sent(), [Sent::Data(21, 0, flow.data(2, b""))]);
}

#[test]
fn a_full_pool_and_a_full_table_refuse_new_flows_only() {
    let flows: Vec<_> = (0..5).map(|n| Client { port: 50000 + n, ..tcp(false) }).collect();
    let mut w = Setup { pending: 4, ..Setup::default() }.build();
    w.rx(flows.iter().map(|f| f.syn(1)));
    assert_eq!(w.drops(), [Reason::PendingFull]);
    let accept = w.accept(21, &flows[0], 1);
    w.rx([accept, flows[4].syn(1)]);
    assert_eq!(w.drops(), []);
    assert_eq!(w.flow(&flows[4]), pending(1, 1));

    let mut w = Setup { flows: 4, ..Setup::default() }.build();
    w.establish(&flows[0], 1, 21);
    w.rx(flows[1..].iter().map(|f| f.syn(1)));
    assert_eq!(w.drops(), [Reason::FlowTableFull]);
    assert_eq!(w.ingress.waiting(), (3, 3));
    w.sent();
    w.rx([flows[0].data(2, b"x")]);
    assert_eq!(w.sent(), [Sent::Data(21, 0, flows[0].data(2, b"x"))], "the old one goes on");
}

#[test]
fn a_first_packet_with_a_wrong_checksum_opens_nothing() {
    for flow in [tcp(false), tcp(true), udp(false), udp(true)] {
        let mut w = world();
        let mut broken = flow.opener(1);
        *broken.last_mut().unwrap() ^= 1;
        w.bad_clients = true;
        w.rx([broken]);
        assert_eq!((w.drops(), w.opens().len()), (vec![Reason::BadChecksum], 0));
        w.rx([flow.opener(1)]);
        assert_eq!((w.drops(), w.opens().len()), (vec![], 1));
    }
}

#[test]
fn what_waits_never_takes_the_last_buffers() {
    let flows: Vec<_> = (0..4).map(|n| Client { port: 50000 + n, ..tcp(false) }).collect();
    let mut w = world();
    w.ingress = w.ingress.hold_at_most(5);
    w.rx([flows[0].syn(1)]);
    w.rx((0..3).map(|n| flows[0].later(n)));
    w.rx([flows[1].syn(1), flows[2].syn(1), flows[0].later(4)]);
    assert_eq!(w.drops(), [Reason::PendingFull, Reason::PendingQueueFull]);
    assert_eq!(w.ingress.waiting(), (2, 5));

    // One flow's answer makes room for others, another's end too.
    let accept = w.accept(21, &flows[0], 1);
    w.rx([accept, flows[2].syn(1), flows[2].later(2), flows[3].syn(1)]);
    assert_eq!((w.drops(), w.ingress.waiting()), (vec![], (3, 4)));
    w.run(1100);
    assert_eq!((w.drops(), w.ingress.waiting()), (vec![Reason::OpenTimeout; 4], (0, 0)));
    w.rx([flows[3].syn(2)]);
    w.rx((0..5).map(|n| flows[3].later(n)));
    assert_eq!((w.drops(), w.ingress.waiting()), (vec![Reason::PendingQueueFull], (1, 5)));
}

#[test]
fn without_buffers_the_open_goes_at_the_next_turn() {
    let mut w = world();
    let flow = tcp(false);
    w.io.exhausted = true;
    w.rx([flow.syn(1)]);
    assert_eq!((w.opens().len(), w.drops()), (0, vec![]));
    w.io.exhausted = false;
    w.run(26);
    assert_eq!(w.opens().len(), 1);
}

#[test]
fn headers_too_long_for_an_open_are_refused_at_once() {
    let mut w = world();
    // A destination options header of 1320 bytes before TCP.
    let syn = tcp(true).syn(1);
    let mut extension = vec![0; 1320];
    (extension[0], extension[1]) = (6, (1320 / 8 - 1) as u8);
    let mut long = syn.clone();
    long[6] = 60;
    long.splice(40..40, extension);
    let len = (long.len() - 40) as u16;
    long[4..6].copy_from_slice(&len.to_be_bytes());
    assert!(IpHeader::parse(&long).is_ok());
    w.rx([long]);
    assert_eq!(w.drops(), [Reason::TooBig]);
    assert_eq!(w.ingress.waiting(), (0, 0));
}

#[test]
fn without_rule_8_opens_go_on() {
    let rules = Without(Some(Rule::OneRetransmitter));
    let mut w = Setup { rules, ..Setup::default() }.build();
    w.rx([tcp(false).syn(1)]);
    w.run(1100);
    assert_eq!(w.opens().len(), 40, "one each 25 ms");
    assert_eq!(w.drops(), [Reason::OpenTimeout]);
}

#[test]
fn without_freeing_queues_packets_stay_for_ever() {
    let mut w = Setup { rules: Without(Some(Rule::FreeQueue)), ..Setup::default() }.build();
    w.rx([tcp(false).syn(1), tcp(false).data(2, b"x")]);
    w.run(2000);
    assert_eq!((w.drops(), w.flow(&tcp(false))), (vec![], None));
    assert_eq!(w.ingress.waiting(), (1, 2));
}
