use jlb_wire::{
    Body, BodyKind, BootId, CONTROL_OPTION_LEN, Content, Control, Encapsulation, Epoch, FiveTuple,
    Flags, GENEVE_PORT, Incarnation, Kind, Load, LoadReport, MAX_BODY_PAYLOAD, MacKey, MacKeys,
    MemberId, Outer, Payload, Probe, Refresh, RefreshRecord, RejectReason, ServiceLoad, SoleOwner,
    Tried, Version,
};

use crate::script::Script;

const KEYS: MacKeys = MacKeys::single(MacKey([2; 16]));

/// Bytes as an encapsulated packet; and as fields of a message and the payload of a body, which a MAC would else keep out.
pub fn wire(bytes: &[u8]) {
    outer(bytes);
    payloads(bytes);
    let mut script = Script::new(bytes);
    control(&mut script);
    body(&mut script);
}

fn outer(bytes: &[u8]) {
    let Ok(outer) = Outer::parse(bytes, GENEVE_PORT) else { return };
    assert!(outer.len <= bytes.len());
    let packet = &bytes[..outer.len];
    // Nobody but a member could have signed these.
    match outer.content {
        Content::Plain { inner } => assert!(inner <= outer.len),
        Content::Control { option, inner } => {
            assert!(option <= inner && inner <= outer.len);
            if let Ok(parsed) = jlb_wire::Packet::parse(&packet[inner..]) {
                let control = Control::parse(&packet[option..inner], &parsed.tuple, &KEYS);
                assert!(control.is_err() || control.is_ok_and(|c| c.version <= Version::NEWEST));
            }
        }
        Content::Body { body } => {
            if let Ok((_, payload)) = Body::parse(&packet[body..], &KEYS) {
                assert!(payload.len() <= MAX_BODY_PAYLOAD);
            }
        }
    }
    let v6 = outer.dst.is_ipv6();
    let e = Encapsulation {
        src: outer.src,
        dst: outer.dst,
        source_port: outer.source_port,
        port: GENEVE_PORT,
        traffic_class: outer.traffic_class,
    };
    let mut again = vec![0; e.header_len(Payload::Plain { v6 })];
    let inner = 60;
    e.emit(Payload::Plain { v6 }, inner, &mut again).expect("it has the length that it asked for");
    again.resize(again.len() + inner, 0);
    let parsed = Outer::parse(&again, GENEVE_PORT).expect("what we write we read");
    assert_eq!((parsed.src, parsed.dst, parsed.source_port), (e.src, e.dst, e.source_port));
    assert_eq!((parsed.traffic_class, parsed.len), (e.traffic_class, again.len()));
}

fn payloads(bytes: &[u8]) {
    if let Some((probe, silent)) = Probe::parse(bytes) {
        let silent: Vec<MemberId> = silent.iter().collect();
        let mut out = [0; MAX_BODY_PAYLOAD];
        let len = probe.emit_with(&silent, &mut out);
        let (again, members) = Probe::parse(&out[..len]).expect("what we write we read");
        assert_eq!(again, probe);
        assert!(members.iter().eq(silent.into_iter().take(Probe::MAX_SILENT)));
    }
    if let Some((load, services)) = LoadReport::parse(bytes) {
        let services: Vec<ServiceLoad> = services.iter().collect();
        let mut out = [0; MAX_BODY_PAYLOAD];
        let len = load.emit(&services, &mut out);
        let (again, told) = LoadReport::parse(&out[..len]).expect("what we write we read");
        assert_eq!(again, load);
        assert!(told.iter().eq(services.into_iter().take(LoadReport::MAX_SERVICES)));
    }
    if let Some((sole, absent)) = SoleOwner::parse(bytes) {
        let absent: Vec<MemberId> = absent.iter().collect();
        let mut out = [0; SoleOwner::MAX_LEN];
        let len = sole.emit(&absent, &mut out);
        let (again, members) = SoleOwner::parse(&out[..len]).expect("what we write we read");
        assert_eq!(again, sole);
        assert!(members.iter().eq(absent));
    }
    if let Some((refresh, records)) = Refresh::parse(bytes) {
        let records: Vec<RefreshRecord> = records.iter().flatten().collect();
        let mut out = [0; MAX_BODY_PAYLOAD];
        let len = refresh.emit(&records, &mut out);
        let (again, records_again) = Refresh::parse(&out[..len]).expect("what we write we read");
        assert_eq!(again, refresh);
        let written = records.into_iter().take(Refresh::MAX_RECORDS).map(Some);
        assert!(records_again.iter().eq(written));
    }
}

fn member(s: &mut Script<'_>) -> MemberId {
    MemberId::new(1 + s.short() % 4095).expect("1 to 4095 are ids")
}

fn somebody(s: &mut Script<'_>) -> Option<MemberId> {
    MemberId::new(s.short())
}

fn control(s: &mut Script<'_>) {
    let Some(kind) = Kind::from_wire(1 + s.below(8)) else { return };
    let mut tried = Tried::default();
    for _ in 0..s.below(5) {
        tried.push(member(s));
    }
    let control = Control {
        kind,
        version: Version::OLDEST,
        hop_budget: s.byte(),
        reject_ttl: s.byte(),
        epoch: Epoch(s.word()),
        incarnation: Incarnation(s.word()),
        cookie: s.word(),
        ingress: somebody(s),
        head: somebody(s),
        second: somebody(s),
        backend: somebody(s),
        sender: member(s),
        receiver: member(s),
        flags: Flags(u16::from(s.byte())),
        reason: s.pick(RejectReason::ALL),
        load: Load { queue: s.short(), cpu: s.short(), live: s.word() },
        tried,
        boot: BootId(s.long()),
        sequence: s.long(),
        word_a: s.long(),
        word_b: s.long(),
    };
    let tuple =
        FiveTuple::v4([198, 51, 100, 1], [203, 0, 113, 10], [1, 2, 0, 80], jlb_wire::Protocol::Tcp);
    let option: [u8; CONTROL_OPTION_LEN] = control.emit(&tuple, &KEYS);
    let body: &[u8; Control::LEN] = option.last_chunk().expect("a header and the body");
    assert_eq!(Control::parse(body, &tuple, &KEYS), Ok(control));
    // One hop less under the same MAC.
    let forwarded = Control::forwarded(body);
    assert_eq!(forwarded.is_some(), control.hop_budget > 0);
    if let Some(forwarded) = forwarded {
        let less = Control { hop_budget: control.hop_budget - 1, ..control };
        assert_eq!(Control::parse(&forwarded[4..], &tuple, &KEYS), Ok(less));
    }
    // No bit of it can be changed; but the hop budget is no part of what is signed.
    let (at, bit) = (usize::from(s.below(Control::LEN as u8)), s.below(8));
    let mut changed = *body;
    changed[at] ^= 1 << bit;
    assert_eq!(Control::parse(&changed, &tuple, &KEYS).is_ok(), at == 2, "byte {at}, bit {bit}");
}

fn body(s: &mut Script<'_>) {
    let body = Body {
        kind: s.pick(&[BodyKind::Probe, BodyKind::Load, BodyKind::Refresh, BodyKind::Epoch]),
        version: Version::OLDEST,
        flags: s.short(),
        epoch: Epoch(s.word()),
        sender: member(s),
        receiver: member(s),
        boot: BootId(s.long()),
        sequence: s.long(),
        nonce: s.long(),
    };
    let payload = s.take(MAX_BODY_PAYLOAD);
    let mut out = vec![0; Body::len_with(payload.len())];
    body.emit(payload, &KEYS, &mut out).expect("it has the length that it asked for");
    assert_eq!(Body::parse(&out, &KEYS), Ok((body, payload)));
    payloads(payload);
}
