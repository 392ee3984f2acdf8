//! Packets of every kind, with fixed fields: the golden vectors and what the independent decoders are shown.

use std::net::{IpAddr, SocketAddr};

use jlb_wire::{
    Body, BodyKind, BootId, Control, Encapsulation, Epoch, FiveTuple, Flags, Incarnation, Kind,
    Load, LoadReport, MAX_FLOW_HEADERS, MacKey, MacKeys, MemberId, Payload, Probe, Protocol,
    Refresh, RefreshRecord, RejectReason, ServiceLoad, SoleOwner, Tried, Version, body_flags,
    entropy_port, flow_headers,
};

pub(crate) const KEYS: MacKeys = MacKeys::single(MacKey([
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
]));

pub(crate) fn tuple(v6: bool, protocol: Protocol) -> FiveTuple {
    let (client, vip): (SocketAddr, SocketAddr) = if v6 {
        ("[2001:db8:1::9]:41112".parse().unwrap(), "[2001:db8:beef::10]:80".parse().unwrap())
    } else {
        ("198.51.100.9:41112".parse().unwrap(), "203.0.113.10:80".parse().unwrap())
    };
    FiveTuple::new(client, vip, protocol).unwrap()
}

pub(crate) fn control(kind: Kind) -> Control {
    let id = |n| MemberId::new(n).unwrap();
    let mut tried = Tried::default();
    assert!(tried.push(id(31)) && tried.push(id(32)));
    Control {
        kind,
        version: Version::OLDEST,
        hop_budget: 6,
        reject_ttl: 3,
        epoch: Epoch(7),
        incarnation: Incarnation(0xdead_beef),
        cookie: 0x1234_5678,
        ingress: Some(id(1)),
        head: Some(id(21)),
        second: Some(id(22)),
        backend: Some(id(33)),
        sender: id(22),
        receiver: id(33),
        flags: Flags::FORCE.with(Flags::CUT),
        reason: if kind == Kind::Reject { RejectReason::QueueFull } else { RejectReason::None },
        load: Load { queue: 5, cpu: 0x8000, live: 7 },
        tried,
        boot: BootId(0x1122_3344_5566_7788),
        sequence: (2 << 56) | 77,
        word_a: 0xaaaa_aaaa_0000_0001,
        word_b: 0xbbbb_bbbb_0000_0002,
    }
}

fn underlay(v6: bool) -> Encapsulation {
    let ends: (IpAddr, IpAddr) = if v6 {
        ("fd00:77::1".parse().unwrap(), "fd00:77::33".parse().unwrap())
    } else {
        ("10.77.0.1".parse().unwrap(), "10.77.0.33".parse().unwrap())
    };
    let port = entropy_port(0x1234_5678_9abc_def0);
    Encapsulation { src: ends.0, dst: ends.1, source_port: port, port: 6081, traffic_class: 0 }
}

fn packet(outer: &Encapsulation, payload: Payload<'_>, inner: &[u8]) -> Vec<u8> {
    let mut out = vec![0; outer.header_len(payload)];
    outer.emit(payload, inner.len(), &mut out).unwrap();
    out.extend_from_slice(inner);
    out
}

fn body(kind: BodyKind, flags: u16, payload: &[u8]) -> Vec<u8> {
    let id = |n| MemberId::new(n).unwrap();
    let body = Body {
        kind,
        version: Version::OLDEST,
        flags,
        epoch: Epoch(7),
        sender: id(21),
        receiver: id(33),
        boot: BootId(0x1122_3344_5566_7788),
        sequence: 78,
        nonce: 0x0102_0304_0506_0708,
    };
    let mut out = vec![0; Body::len_with(payload.len())];
    body.emit(payload, &KEYS, &mut out).unwrap();
    out
}

/// Name and bytes (from the outer IP header) of every sample.
pub(crate) fn samples() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (outer_v6, inner_v6) in [(false, false), (false, true), (true, false), (true, true)] {
        let (outer, family) = (underlay(outer_v6), |v6| if v6 { "v6" } else { "v4" });
        let name = |what: &str| format!("{what}-{}-in-{}", family(inner_v6), family(outer_v6));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let tuple = tuple(inner_v6, protocol);
            let mut headers = [0; MAX_FLOW_HEADERS];
            let len = flow_headers(&tuple, Incarnation(0xdead_beef), &mut headers);
            let inner = &headers[..len];
            let label = protocol.label();
            all.push((
                name(&format!("data-{label}")),
                packet(&outer, Payload::Plain { v6: inner_v6 }, inner),
            ));
            for &kind in Kind::ALL {
                let option = control(kind).emit(&tuple, &KEYS);
                let payload = Payload::Control { option: &option, v6: inner_v6 };
                all.push((
                    name(&format!("{}-{label}", kind.label())),
                    packet(&outer, payload, inner),
                ));
            }
        }
    }
    let probe =
        Probe { generation: 12, digest: 0xfeed, heartbeat_age_ms: 40, worker: 1, shut_out: 0 };
    let mut room = [0; jlb_wire::MAX_BODY_PAYLOAD];
    let answer =
        probe.emit_with(&[MemberId::new(33).unwrap(), MemberId::new(34).unwrap()], &mut room);
    let load = LoadReport { generation: 12, live: 1000, cpu: 0x8000, worker: 1 };
    let services = [(0, 900), (3, 100)].map(|(service, live)| ServiceLoad {
        service,
        live,
        unwilling: None,
        share: 100,
    });
    let mut load_room = [0; jlb_wire::MAX_BODY_PAYLOAD];
    let load = load.emit(&services, &mut load_room);
    let records: Vec<_> = [(false, Protocol::Tcp), (true, Protocol::Udp)]
        .map(|(v6, p)| RefreshRecord {
            tuple: tuple(v6, p),
            incarnation: Incarnation(5),
            live: !v6,
            counter: 10,
        })
        .into();
    let refresh =
        Refresh { batch: 3, batches: 7, worker: 1, workers: 2, sole: 0, shut_out: 0, counter: 11 };
    let mut batch_room = [0; jlb_wire::MAX_BODY_PAYLOAD];
    let batch = refresh.emit(&records, &mut batch_room);
    let owner = SoleOwner { owner: MemberId::new(21), worker: 1, workers: 2 };
    let mut epoch_room = [0; SoleOwner::MAX_LEN];
    let epoch =
        owner.emit(&[MemberId::new(22).unwrap(), MemberId::new(23).unwrap()], &mut epoch_room);
    let bodies = [
        ("probe", body(BodyKind::Probe, 0, &probe.emit())),
        ("probe-answer", body(BodyKind::Probe, body_flags::ANSWER, &room[..answer])),
        ("load", body(BodyKind::Load, 0, &load_room[..load])),
        ("refresh", body(BodyKind::Refresh, body_flags::BATCH, &batch_room[..batch])),
        ("epoch", body(BodyKind::Epoch, body_flags::SOLE_OWNER, &epoch_room[..epoch])),
    ];
    for v6 in [false, true] {
        for (name, bytes) in &bodies {
            let name = format!("{name}-in-{}", if v6 { "v6" } else { "v4" });
            all.push((name, packet(&underlay(v6), Payload::Body, bytes)));
        }
    }
    all
}
