//! What does not fit the underlay.

use etherparse::{Icmpv4Type, Icmpv6Type, TransportHeader, icmpv4};
use jlb_map::Family;
use jlb_role::Reason;

use crate::packets::{Ip, client_address, tcp, udp, vip, well_formed};
use crate::world::{MIXES, Sent, Setup, spec, world, world_over};

/// Bytes of the largest inner packet.
fn room(outer: Family) -> usize {
    match outer {
        Family::V4 => 1500 - 36,
        Family::V6 => 1500 - 56,
    }
}

#[test]
fn the_largest_packet_that_fits_goes_and_the_next_byte_is_answered() {
    for (outer, v6) in MIXES {
        let mut w = world_over(outer);
        let flow = tcp(v6);
        w.establish(&flow, 1, 21);
        let headers = flow.data(1, b"").len();
        let fits = flow.data(1, &vec![1; room(outer) - headers]);
        let too_big = flow.data(1, &vec![1; room(outer) - headers + 1]);
        w.rx([fits.clone(), too_big.clone()]);
        let sent = w.sent();
        let [Sent::Data(21, 0, data), Sent::Client(answer)] = &sent[..] else { panic!() };
        assert_eq!(*data, fits);
        let parsed = well_formed(answer);
        let ip = jlb_wire::IpHeader::parse(answer).unwrap();
        assert_eq!((ip.src, ip.dst), (vip(v6), client_address(v6)));
        match parsed.transport.unwrap() {
            TransportHeader::Icmpv4(h) if !v6 => {
                let next_hop_mtu = room(outer) as u16;
                let needed = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
                assert_eq!(h.icmp_type, Icmpv4Type::DestinationUnreachable(needed));
            }
            TransportHeader::Icmpv6(h) if v6 => {
                let mtu = room(outer) as u32;
                assert_eq!(h.icmp_type, Icmpv6Type::PacketTooBig { mtu });
            }
            other => panic!("{other:?}"),
        }
        let quote = parsed.payload.slice();
        assert!(quote.len() >= 28 && *quote == too_big[..quote.len()]);
        assert!(answer.len() <= if v6 { 1280 } else { 576 });
        assert_eq!(w.drops(), [Reason::TooBig]);
    }
}

#[test]
fn ipv4_without_df_is_fragmented_inside() {
    for outer in [Family::V4, Family::V6] {
        let mut w = world_over(outer);
        let flow = udp(false);
        w.establish(&flow, 1, 21);
        let payload: Vec<_> = (0..1472).map(|n| n as u8).collect();
        let ip = Ip { dont_fragment: false, traffic_class: 0xb8 };
        let whole = flow.datagram_with(&payload, ip);
        w.rx([whole.clone()]);
        let mut rebuilt = Vec::new();
        let sent = w.sent();
        assert_eq!(sent.len(), 2);
        for s in &sent {
            let Sent::Data(21, 0xb8, piece) = s else { panic!("{s:?}") };
            assert!(piece.len() <= room(outer));
            let offset = usize::from(u16::from_be_bytes([piece[6] & 0x1f, piece[7]])) * 8;
            assert_eq!((offset, &piece[4..6]), (rebuilt.len(), &whole[4..6]));
            rebuilt.extend_from_slice(&piece[20..]);
        }
        assert_eq!(rebuilt, whole[20..]);
        assert_eq!(w.drops(), []);
        assert_eq!(w.metric("jlb_forwarded_packets_total", &[("path", "data")]), 2.0);
    }
}

#[test]
fn without_buffers_nothing_goes_in_part() {
    let mut w = world();
    w.establish(&udp(false), 1, 21);
    w.establish(&tcp(false), 1, 21);
    w.io.exhausted = true;
    let ip = Ip { dont_fragment: false, ..Ip::default() };
    w.rx([udp(false).datagram_with(&[1; 1472], ip), tcp(false).data(1, &[1; 1460])]);
    assert_eq!((w.sent(), w.drops()), (vec![], vec![Reason::NoBuffer, Reason::TooBig]));
    assert_eq!(w.metric("jlb_replies_withheld_total", &[("kind", "too_big")]), 1.0);
}

#[test]
fn a_queued_packet_that_does_not_fit_is_answered_when_it_is_flushed() {
    let mut w = world();
    w.rx([udp(true).datagram(&[1; 1450])]);
    w.sent();
    let accept = w.accept(21, &udp(true), 1);
    w.rx([accept]);
    let sent = w.sent();
    assert!(matches!(&sent[..], [Sent::Client(_)]), "{sent:?}");
    assert_eq!(w.drops(), [Reason::TooBig]);
}

#[test]
fn too_big_is_rate_limited() {
    let mut w = world();
    w.establish(&tcp(false), 1, 21);
    w.rx((0..200).map(|n| tcp(false).data(n, &[1; 1460])));
    assert_eq!(w.sent().len(), 100);
    assert_eq!(w.drops().len(), 200);
    w.run(10);
    w.rx((0..200).map(|n| tcp(false).data(n, &[1; 1460])));
    assert_eq!(w.sent().len(), 10, "1000 per second");
}

#[test]
fn a_smaller_underlay_counts() {
    let mut spec = spec(Family::V6);
    spec.underlay.mtu = 1300;
    let mut w = Setup { spec, ..Setup::default() }.build();
    w.establish(&tcp(true), 1, 21);
    w.rx([
        tcp(true).data(1, &vec![1; 1300 - 56 - 60]),
        tcp(true).data(1, &vec![1; 1300 - 56 - 59]),
    ]);
    let sent = w.sent();
    assert!(matches!(&sent[..], [Sent::Data(..), Sent::Client(_)]), "{sent:?}");
}
