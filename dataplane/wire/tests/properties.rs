//! Round trips, and parsers that never panic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{KEYS, control, tuple};
use jlb_wire::{
    Body, Content, Control, ControlError, FiveTuple, Flags, Glance, Incarnation, Kind, Load,
    MAX_FLOW_HEADERS, MacKey, MacKeys, MemberId, OpenCut, Outer, Packet, PacketError, Probe,
    Protocol, Refresh, RejectReason, flow_headers, mend, transport_checksum_fits,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn any_tuple() -> impl Strategy<Value = FiveTuple> {
    let v4 = any::<([u8; 4], [u8; 4], u16, u16)>()
        .prop_map(|(a, b, p, q)| (SocketAddr::new(a.into(), p), SocketAddr::new(b.into(), q)));
    let v6 = any::<([u8; 14], [u8; 14], u16, u16)>().prop_map(|(a, b, p, q)| {
        let ip = |bytes: [u8; 14]| {
            let mut all = [0x20, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            all[2..].copy_from_slice(&bytes);
            IpAddr::from(all)
        };
        (SocketAddr::new(ip(a), p), SocketAddr::new(ip(b), q))
    });
    (prop_oneof![v4, v6], any_protocol()).prop_map(|((c, v), p)| FiveTuple::new(c, v, p).unwrap())
}

/// A client's packet with so much payload and right checksums.
fn client_packet(tuple: &FiveTuple, incarnation: u32, payload: &[u8]) -> Vec<u8> {
    let mut headers = [0; MAX_FLOW_HEADERS];
    let len = flow_headers(tuple, Incarnation(incarnation), &mut headers);
    let parsed = Packet::parse(&headers[..len]).unwrap();
    let mut bytes = headers[..len].to_vec();
    bytes.extend_from_slice(payload);
    let whole = Packet { len: bytes.len(), ..parsed };
    mend(&mut bytes, &whole).unwrap();
    bytes
}

proptest! {
    #[test]
    fn five_tuple_round_trips(tuple in any_tuple()) {
        prop_assert_eq!(FiveTuple::from_padded(*tuple.padded()), Some(tuple));
        prop_assert_eq!(FiveTuple::new(tuple.client(), tuple.vip(), tuple.protocol()), Ok(tuple));
        prop_assert_eq!(tuple.canonical().len(), if tuple.is_v6() { 40 } else { 16 });
    }

    #[test]
    fn flow_headers_parse_back(tuple in any_tuple(), isn: u32) {
        let mut out = [0; MAX_FLOW_HEADERS];
        let len = flow_headers(&tuple, Incarnation(isn), &mut out);
        let packet = Packet::parse(&out[..len]).unwrap();
        prop_assert_eq!(packet.tuple, tuple);
        prop_assert_eq!((packet.len, packet.payload), (len, len));
        prop_assert!(packet.can_open());
        prop_assert_eq!(packet.incarnation().0, if tuple.protocol() == Protocol::Tcp { isn } else { 0 });
        prop_assert!(transport_checksum_fits(&out[..len], &packet));
    }

    #[test]
    fn control_round_trips_and_is_bound_to_everything(
        tuple in any_tuple(), other in any_tuple(), kind in 0..Kind::ALL.len(), reason in 0..RejectReason::ALL.len(),
        words: (u64, u64, u64, u32), incarnation: u32, queue: u16, flags in 0..=Flags::KNOWN.0, flip in 0..Control::LEN * 8,
    ) {
        let message = Control {
            kind: Kind::ALL[kind], reason: RejectReason::ALL[reason], word_a: words.0, word_b: words.1,
            sequence: words.2, incarnation: Incarnation(incarnation), load: Load { queue, cpu: 1, live: words.3 }, flags: Flags(flags),
            ..control(Kind::Open)
        };
        let option = message.emit(&tuple, &KEYS);
        prop_assert_eq!(Control::parse(&option[4..], &tuple, &KEYS), Ok(message));

        if other != tuple {
            prop_assert_eq!(Control::parse(&option[4..], &other, &KEYS), Err(ControlError::Mac));
        }
        let wrong = MacKeys::single(MacKey([9; 16]));
        prop_assert_eq!(Control::parse(&option[4..], &tuple, &wrong), Err(ControlError::Mac));
        let rotated = MacKeys { other: Some(KEYS.current), ..wrong };
        prop_assert_eq!(Control::parse(&option[4..], &tuple, &rotated), Ok(message));

        let mut flipped = option;
        flipped[4 + flip / 8] ^= 1 << (flip % 8);
        let parsed = Control::parse(&flipped[4..], &tuple, &KEYS);
        if flip / 8 == 2 {
            // The hop budget alone may change on the way.
            let hop_budget = flipped[6];
            prop_assert_eq!(parsed, Ok(Control { hop_budget, ..message }));
        } else {
            prop_assert!(parsed.is_err());
        }
    }

    #[test]
    fn forwarding_keeps_all_but_the_hop_budget(tuple in any_tuple(), hops in 0u8..8) {
        let message = Control { hop_budget: hops, ..control(Kind::Accept) };
        let option: [u8; Control::LEN] = message.emit(&tuple, &KEYS)[4..].try_into().unwrap();
        let forwarded = Control::forwarded(&option);
        prop_assert_eq!(forwarded.is_none(), hops == 0);
        if let Some(forwarded) = forwarded {
            let expected = Control { hop_budget: hops - 1, ..message };
            prop_assert_eq!(Control::parse(&forwarded[4..], &tuple, &KEYS), Ok(expected));
        }
    }

    #[test]
    fn open_cut_gives_a_whole_packet(tuple in any_tuple(), payload in vec(any::<u8>(), 0..1200)) {
        let whole = client_packet(&tuple, 1, &payload);
        let parsed = Packet::parse(&whole).unwrap();
        prop_assert_eq!(parsed.len, whole.len());
        prop_assert!(transport_checksum_fits(&whole, &parsed));
        let cut = OpenCut::of(&parsed);
        prop_assert_eq!(cut.cut, payload.len() > jlb_wire::OPEN_PAYLOAD);
        let mut bytes = whole[..cut.len].to_vec();
        if cut.cut {
            mend(&mut bytes, &parsed).unwrap();
        }
        let again = Packet::parse(&bytes).unwrap();
        prop_assert_eq!(again.tuple, tuple);
        prop_assert_eq!(again.len, bytes.len());
        prop_assert!(transport_checksum_fits(&bytes, &again));
    }

    /// What is usual is seen at a glance, and a glance never sees anything else than the parser.
    #[test]
    fn a_glance_sees_what_the_parser_sees(
        tuple in any_tuple(), payload in vec(any::<u8>(), 0..100), at in 0usize..64, byte: u8, padding in 0usize..9, cut: bool,
    ) {
        let mut bytes = client_packet(&tuple, 1, &payload);
        bytes.resize(bytes.len() + padding, 0xaa);
        let whole = Packet::parse(&bytes).unwrap();
        prop_assert_eq!(Glance::at(&bytes), Some(Glance::of(&whole)));
        prop_assert_eq!(Glance::of(&whole).tuple(), tuple);

        let at = at % bytes.len();
        let old = std::mem::replace(&mut bytes[at], byte);
        // Most mutations of an IPv4 header are caught by its checksum: let half of them pass.
        if !tuple.is_v6() && at < 20 && cut {
            let word = |b: &[u8], n: usize| u32::from(u16::from_be_bytes([b[n & !1], b[n | 1]]));
            let new = word(&bytes, at);
            let mut before = bytes.clone();
            before[at] = old;
            let sum = 0xffff - word(&bytes, 10) + (0xffff - word(&before, at)) + new;
            let mended = jlb_wire::checksum::finish(sum);
            if at / 2 != 5 {
                bytes[10..12].copy_from_slice(&mended.to_be_bytes());
            }
        } else if cut {
            bytes.truncate(at);
        }
        if let Some(glance) = Glance::at(&bytes) {
            let parsed = Packet::parse(&bytes);
            prop_assert_eq!(parsed.map(|p| Glance::of(&p)), Ok(glance));
        }
    }

    #[test]
    fn parsers_never_panic_on_noise(bytes in vec(any::<u8>(), 0..400)) {
        let _ = Outer::parse(&bytes, 6081);
        let _ = Packet::parse(&bytes);
        let _ = Glance::at(&bytes);
        let _ = Body::parse(&bytes, &KEYS);
        let _ = Probe::parse(&bytes);
        let _ = jlb_wire::SoleOwner::parse(&bytes).map(|(_, absent)| absent.iter().count());
        let _ = Refresh::parse(&bytes).map(|(_, records)| records.iter().count());
        let _ = Control::parse(&bytes, &tuple(false, Protocol::Tcp), &KEYS);
    }

    #[test]
    fn parsers_never_panic_near_the_truth(sample in 0usize..82, at in 0usize..200, byte: u8, len in 0usize..300) {
        let samples = common::samples();
        let mut bytes = samples[sample % samples.len()].1.clone();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(len);
        let Ok(outer) = Outer::parse(&bytes, 6081) else { return Ok(()) };
        match outer.content {
            Content::Plain { inner } => {
                let _ = Packet::parse(&bytes[inner..outer.len]);
            }
            Content::Control { option, inner } => {
                if let Ok(packet) = Packet::parse(&bytes[inner..outer.len]) {
                    let _ = Control::parse(&bytes[option..], &packet.tuple, &KEYS);
                }
            }
            Content::Body { body } => {
                let _ = Body::parse(&bytes[body..outer.len], &KEYS);
            }
        }
    }
}

#[test]
fn every_sample_parses_back() {
    for (name, bytes) in common::samples() {
        let outer = Outer::parse(&bytes, 6081).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(outer.len, bytes.len(), "{name}");
        match outer.content {
            Content::Plain { inner } => assert!(Packet::parse(&bytes[inner..]).is_ok(), "{name}"),
            Content::Control { option, inner } => {
                let packet = Packet::parse(&bytes[inner..]).unwrap();
                let message = Control::parse(&bytes[option..], &packet.tuple, &KEYS).unwrap();
                assert_eq!(message, control(message.kind), "{name}");
            }
            Content::Body { body } => assert!(Body::parse(&bytes[body..], &KEYS).is_ok(), "{name}"),
        }
    }
}

#[test]
fn probe_lists_silent_backends() {
    let probe = Probe { generation: 1, digest: 2, heartbeat_age_ms: 3, worker: 4, shut_out: 5 };
    let ids: Vec<_> = (1..=900).filter_map(MemberId::new).collect();
    let mut out = [0; jlb_wire::MAX_BODY_PAYLOAD];
    let len = probe.emit_with(&ids, &mut out);
    let (again, silent) = Probe::parse(&out[..len]).unwrap();
    assert_eq!(again, probe);
    assert!(silent.iter().eq(ids[..Probe::MAX_SILENT].iter().copied()));
}

#[test]
fn truncated_and_contradicting_packets_are_named() {
    let whole = client_packet(&tuple(false, Protocol::Tcp), 1, b"hello");
    assert_eq!(Packet::parse(&whole[..whole.len() - 1]), Err(PacketError::Truncated));
    let mut fragment = whole.clone();
    fragment[6] = 0x20;
    assert_eq!(Packet::parse(&fragment), Err(PacketError::BadChecksum));
    let mut icmp = whole.clone();
    (icmp[9], icmp[10], icmp[11]) = (1, 0, 0);
    let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&icmp[..20]));
    icmp[10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(Packet::parse(&icmp), Err(PacketError::Protocol(1)));
    assert_eq!(Packet::parse(&[]), Err(PacketError::Truncated));
    assert_eq!(Packet::parse(&[0x50; 60]), Err(PacketError::Malformed));
}
