//! Replies of backends on their way to the clients.

use core::net::IpAddr;

use etherparse::PacketBuilder;
use jlb_role::Reason;

use crate::packets::{Ip, ip_headers, server_packet, tcp, udp, vip};
use crate::world::{MIXES, Sent, TRACKERS, world, world_over};

#[test]
fn a_reply_is_taken_out_of_its_capsule_and_sent_to_the_client() {
    for (outer, v6) in MIXES {
        for flow in [tcp(v6), udp(v6)] {
            let mut w = world_over(outer);
            let reply = server_packet(&flow, b"reply", Ip::default());
            let padded = [w.egress(21, 0, &reply), vec![0; 5]].concat();
            w.rx([w.egress(22, 0, &reply), padded]);
            assert_eq!(w.sent(), [Sent::Client(reply.clone()), Sent::Client(reply)]);
            assert_eq!(w.metric("jlb_forwarded_packets_total", &[("path", "egress")]), 2.0);
        }
    }
}

#[test]
fn congestion_that_was_marked_outside_is_carried_inside() {
    for (outer, v6) in MIXES {
        let mut w = world_over(outer);
        // Outer, inner, and what comes out, with DSCP 46 inside (RFC 6040, figure 4).
        let cases =
            [(0u8, 0u8, 0u8), (0, 2, 2), (3, 1, 3), (3, 2, 3), (1, 2, 1), (2, 1, 1), (3, 3, 3)];
        for (outside, inside, expected) in cases {
            let with = |ecn: u8| Ip { traffic_class: 46 << 2 | ecn, ..Ip::default() };
            let reply = server_packet(&tcp(v6), b"reply", with(inside));
            w.rx([w.egress(21, outside, &reply)]);
            let expected = server_packet(&tcp(v6), b"reply", with(expected));
            assert_eq!(w.sent(), [Sent::Client(expected)]);
        }
        let reply = server_packet(&tcp(v6), b"reply", Ip::default());
        w.rx([w.egress(21, 3, &reply)]);
        assert_eq!((w.sent(), w.drops()), (vec![], vec![Reason::Congestion]));
    }
}

#[test]
fn fragments_and_icmp_of_a_server_are_passed_on() {
    let mut w = world();
    let ends = (vip(false), "198.51.100.9".parse::<IpAddr>().unwrap());
    let mut echo = Vec::new();
    let builder = PacketBuilder::ip(ip_headers(ends, 1, Ip::default()));
    builder.icmpv4_echo_reply(1, 2).write(&mut echo, b"pong").unwrap();
    w.rx([w.egress(21, 0, &echo)]);
    assert_eq!(w.sent(), [Sent::Client(echo.clone())]);

    let mut fragment = server_packet(&udp(false), &[1; 64], Ip::default());
    fragment[6] = 0x20;
    fragment[10..12].fill(0);
    let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&fragment[..20]));
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    w.rx([w.egress(21, 0, &fragment)]);
    assert_eq!(w.sent(), [Sent::Client(fragment)]);
}

#[test]
fn only_backends_may_send_and_only_from_a_vip_to_a_client() {
    for (outer, v6) in MIXES {
        let mut w = world_over(outer);
        let reply = server_packet(&tcp(v6), b"reply", Ip::default());
        w.rx([w.plain(TRACKERS[0], 0, &reply), w.plain(2, 0, &reply)]);
        assert_eq!(w.drops(), [Reason::NotAMember; 2]);

        let between = |src: IpAddr, dst: IpAddr| {
            let mut out = Vec::new();
            let builder = PacketBuilder::ip(ip_headers((src, dst), 17, Ip::default()));
            builder.udp(53, 40001).write(&mut out, b"x").unwrap();
            out
        };
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let (client, underlay) = if v6 {
            (ip("2001:db8:1::9"), ip("fd00::99"))
        } else {
            (ip("198.51.100.9"), ip("10.0.0.99"))
        };
        w.rx([
            w.egress(21, 0, &between(client, client)),
            w.egress(21, 0, &between(underlay, client)),
            w.egress(21, 0, &between(vip(v6), underlay)),
            w.egress(21, 0, &between(vip(v6), vip(v6))),
        ]);
        assert_eq!(
            w.drops(),
            [
                Reason::InnerNotVip,
                Reason::InnerNotVip,
                Reason::InnerToUnderlay,
                Reason::InnerToUnderlay
            ]
        );

        let mut cut = reply.clone();
        cut.truncate(reply.len() - 1);
        w.rx([w.egress(21, 0, &cut), w.egress(21, 0, &reply[..10])]);
        assert_eq!(w.drops(), [Reason::Truncated; 2]);
        assert_eq!(w.sent(), []);
    }
}
