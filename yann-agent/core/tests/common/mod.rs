//! One backend host in a small cluster, and messages for it made by hand.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a fixture that several test binaries use parts of"
)]

pub mod pair;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use jlb_flow::{FlowHasher, HashKey};
use jlb_map::{
    Addresses, Admission, Backend, Family, Keys, Member, MemberRole, OnExhausted, Policy,
    ReturnPath, Service, Snapshot, Spec, Underlay,
};
use jlb_role::{AllRules, Nanos, Reason, Rules};
use jlb_wire::{
    Body, BodyKind, BootId, Control, Encapsulation, Epoch, FiveTuple, Flags, HOP_BUDGET,
    Incarnation, Kind, Load, MAX_FLOW_HEADERS, MacKey, MacKeys, MemberId, Outer, Packet, Payload,
    Probe, Protocol, RejectReason, Tried, Version, checksum, flow_headers,
};
use jlb_yann_core::{
    EventKind, Kernel, KernelEvent, KernelLimits, Listener, Sockets, TcpSocket, Verdict, Word,
};

pub const INGRESS: MemberId = id(1);
pub const INGRESS_2: MemberId = id(2);
pub const HEAD: MemberId = id(11);
pub const SECOND: MemberId = id(12);
pub const THIRD: MemberId = id(13);
pub const ME: MemberId = id(21);
pub const OTHER: MemberId = id(22);
pub const BOOT: BootId = BootId(0x2121);
pub const START: Nanos = Nanos::from_secs(1000);

pub const fn id(n: u16) -> MemberId {
    MemberId::new(n).unwrap()
}

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn boot(member: MemberId) -> BootId {
    BootId(u64::from(member.as_u16()) * 1000)
}

/// Ingress 1 and 2, trackers 11 to 13, backends 21 and 22, at 10.0.0.id and fd00::id. Services: TCP and UDP on port 80
/// of a v4 and a v6 VIP through egress hosts, TCP 81 direct, TCP 82 of the other backend only.
pub fn spec() -> Spec {
    use MemberRole::{Backend as B, FlowTracker as T, Ingress as I};
    let members = [(1, I), (2, I), (11, T), (12, T), (13, T), (21, B), (22, B)];
    let members = members.map(|(n, role)| Member {
        id: id(n),
        name: format!("m{n}"),
        role,
        addresses: Addresses {
            v4: Some(format!("10.0.0.{n}").parse().unwrap()),
            v6: Some(format!("fd00::{n}").parse().unwrap()),
        },
        drain: false,
    });
    let service = |name: &str, port, protocol, backends: &[MemberId], return_path| Service {
        name: name.into(),
        vips: vec![ip("203.0.113.10"), ip("2001:db8::10")],
        port,
        protocol,
        backends: backends.iter().map(|&b| Backend::new(b)).collect(),
        policy: Policy::Random,
        reject_ttl: 3,
        on_exhausted: OnExhausted::Reset,
        return_path,
        admission: Admission::Accept,
    };
    let both = [ME, OTHER];
    Spec {
        generation: 7,
        epoch: Epoch(2),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: HashKey([1; 16]), mac_keys: MacKeys::single(MacKey([2; 16])) },
        underlay: Underlay {
            prefixes: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            prefer: Family::V4,
            port: 6081,
            mtu: 1500,
        },
        members: members.to_vec(),
        services: vec![
            service("web", 80, Protocol::Tcp, &both, ReturnPath::Egress),
            service("echo", 80, Protocol::Udp, &both, ReturnPath::Egress),
            service("fast", 81, Protocol::Tcp, &both, ReturnPath::Direct),
            service("elsewhere", 82, Protocol::Tcp, &[OTHER], ReturnPath::Egress),
        ],
    }
}

pub fn snapshot(change: impl FnOnce(&mut Spec)) -> Arc<Snapshot> {
    let mut spec = spec();
    change(&mut spec);
    Snapshot::build(spec).unwrap()
}

/// As the service "web" stands in the list for this backend.
pub fn web(spec: &mut Spec) -> &mut Backend {
    &mut spec.services[0].backends[0]
}

pub fn limited(n: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(n)
}

pub fn flow(client_port: u16, vip: &str, port: u16, protocol: Protocol) -> FiveTuple {
    let vip = ip(vip);
    let client = if vip.is_ipv4() { ip("198.51.100.9") } else { ip("2001:db8:1::9") };
    FiveTuple::new(SocketAddr::new(client, client_port), SocketAddr::new(vip, port), protocol)
        .unwrap()
}

pub fn tcp(client_port: u16) -> FiveTuple {
    flow(client_port, "203.0.113.10", 80, Protocol::Tcp)
}

pub fn udp(client_port: u16) -> FiveTuple {
    flow(client_port, "203.0.113.10", 80, Protocol::Udp)
}

/// The host's TCP/IP stack, as far as a look-up sees it.
#[derive(Clone, Debug)]
pub struct Stack {
    pub listener: Option<Listener>,
    pub udp: bool,
    pub cookies: bool,
    pub tcp: BTreeMap<FiveTuple, TcpSocket>,
}

impl Default for Stack {
    fn default() -> Self {
        let listener = Some(Listener { depth: 3, limit: 128 });
        Self { listener, udp: true, cookies: false, tcp: BTreeMap::new() }
    }
}

impl Sockets for Stack {
    fn tcp(&self, flow: &FiveTuple) -> Option<TcpSocket> {
        let own = self.tcp.get(flow).copied();
        own.or_else(|| self.listener.map(|_| TcpSocket::Listening))
    }
    fn listener(&self, _: &FiveTuple) -> Option<Listener> {
        self.listener
    }
    fn udp(&self, _: &FiveTuple) -> bool {
        self.udp
    }
    fn syn_cookies(&self, _: SocketAddr) -> bool {
        self.cookies
    }
}

pub struct Host<R: Rules = AllRules> {
    pub kernel: Kernel<R>,
    pub stack: Stack,
    pub now: Nanos,
    sequence: u64,
}

pub const LIMITS: KernelLimits = KernelLimits { flows: 8, answers: 8, events: 64 };

impl Host {
    pub fn new() -> Self {
        Self::of(&snapshot(|_| {}), LIMITS, AllRules)
    }
}

impl<R: Rules> Host<R> {
    pub fn of(snapshot: &Snapshot, limits: KernelLimits, rules: R) -> Self {
        let word = Arc::new(Word::at(BOOT, 100, 500));
        let mut kernel = Kernel::new(ME, snapshot, limits, rules, word, START);
        for member in [INGRESS, INGRESS_2, HEAD, SECOND, THIRD] {
            kernel.peer_boot(member, boot(member), 0);
        }
        Self { kernel, stack: Stack::default(), now: START, sequence: 0 }
    }

    pub fn pass(&mut self, ms: u64) {
        self.now = self.now + Nanos::from_millis(ms);
        self.kernel.heartbeat(self.now);
    }

    pub fn receive(&mut self, packet: &[u8]) -> Verdict {
        self.kernel.ingress(self.now, packet, &self.stack)
    }

    /// An Open for a SYN with that ISN (UDP: 0) by head and second.
    pub fn open(&mut self, tuple: &FiveTuple, isn: u32) -> Control {
        self.sequence += 1;
        Control {
            kind: Kind::Open,
            version: Version::OLDEST,
            hop_budget: HOP_BUDGET,
            reject_ttl: 3,
            epoch: Epoch(2),
            incarnation: Incarnation(isn),
            cookie: 0x0001_0002,
            ingress: Some(INGRESS),
            head: Some(HEAD),
            second: Some(SECOND),
            backend: Some(ME),
            sender: SECOND,
            receiver: ME,
            flags: Flags::default(),
            reason: RejectReason::None,
            load: Load::default(),
            tried: Tried::default(),
            boot: boot(SECOND),
            sequence: self.sequence,
            word_a: boot(HEAD).0,
            word_b: boot(SECOND).0,
        }
        .for_flow(tuple)
    }

    /// The same by other trackers.
    pub fn open_by(
        &mut self,
        (head, second): (MemberId, MemberId),
        tuple: &FiveTuple,
        isn: u32,
    ) -> Control {
        Control {
            head: Some(head),
            second: Some(second),
            sender: second,
            boot: boot(second),
            word_a: boot(head).0,
            word_b: boot(second).0,
            ..self.open(tuple, isn)
        }
    }

    pub fn cancel(&mut self, tuple: &FiveTuple, isn: u32) -> Control {
        Control { kind: Kind::Cancel, backend: None, word_a: 0, word_b: 0, ..self.open(tuple, isn) }
    }

    pub fn send(&mut self, control: Control, tuple: &FiveTuple) -> Verdict {
        self.receive(&packet(&control, tuple))
    }

    pub fn admit(&mut self, tuple: &FiveTuple, isn: u32) -> Verdict {
        let open = self.open(tuple, isn);
        self.send(open, tuple)
    }

    /// Admitted, its SYN-ACK seen, the handshake complete.
    pub fn establish(&mut self, tuple: &FiveTuple, isn: u32) {
        assert!(matches!(self.admit(tuple, isn), Verdict::Deliver(_)));
        self.stack.tcp.insert(*tuple, TcpSocket::Open);
        let answer = reply(tuple, 0x12, isn + 1);
        assert!(matches!(self.kernel.egress(self.now, &answer), Verdict::Send { .. }));
        self.kernel.socket_established(tuple);
        self.events();
    }

    pub fn close(&mut self, tuple: &FiveTuple) {
        self.stack.tcp.remove(tuple);
        self.kernel.socket_closed(self.now, tuple);
    }

    pub fn events(&mut self) -> Vec<KernelEvent> {
        std::iter::from_fn(|| self.kernel.pop_event()).collect()
    }

    pub fn event_kinds(&mut self) -> Vec<EventKind> {
        self.events().iter().map(|e| e.kind).collect()
    }

    /// The reason for which this was dropped, which is also counted.
    pub fn dropped(&mut self, packet: &[u8]) -> Option<Reason> {
        let before = self.kernel.counters().clone();
        if let Verdict::Drop(why) = self.receive(packet) {
            assert_eq!(self.kernel.counters().dropped(why), before.dropped(why) + 1);
            return Some(why);
        }
        assert_eq!(self.kernel.counters().drops, before.drops);
        None
    }

    pub fn refusal(&mut self, control: Control, tuple: &FiveTuple) -> Control {
        let verdict = self.send(control, tuple);
        let (reject, _) = said(&verdict, tuple);
        assert_eq!(reject.kind, Kind::Reject);
        reject
    }
}

trait ForFlow {
    fn for_flow(self, tuple: &FiveTuple) -> Self;
}

impl ForFlow for Control {
    fn for_flow(mut self, tuple: &FiveTuple) -> Self {
        if tuple.protocol() == Protocol::Udp {
            self.incarnation = Incarnation(0);
        }
        self
    }
}

/// The control message in an answer, with its inner packet; its MAC fits and it goes by the way it came.
pub fn said(verdict: &Verdict, tuple: &FiveTuple) -> (Control, Vec<u8>) {
    let Verdict::Send { packet, .. } = verdict else { panic!("{verdict:?}") };
    let outer = Outer::parse(packet, 6081).unwrap();
    let jlb_wire::Content::Control { option, inner } = outer.content else { panic!("{outer:?}") };
    let keys = MacKeys::single(MacKey([2; 16]));
    let parsed = Packet::parse(&packet[inner..]).unwrap();
    assert_eq!(parsed.tuple, *tuple);
    (Control::parse(&packet[option..], tuple, &keys).unwrap(), packet[inner..].to_vec())
}

pub fn headers(tuple: &FiveTuple, isn: u32) -> Vec<u8> {
    let mut out = [0; MAX_FLOW_HEADERS];
    let len = flow_headers(tuple, Incarnation(isn), &mut out);
    out[..len].to_vec()
}

/// A client's packet: TCP with these flags, without payload.
pub fn segment(tuple: &FiveTuple, flags: u8, seq: u32) -> Vec<u8> {
    let mut packet = headers(tuple, seq);
    let l4 = if tuple.is_v6() { 40 } else { 20 };
    if tuple.protocol() == Protocol::Tcp {
        packet[l4 + 13] = flags;
        mend(&mut packet);
    }
    packet
}

/// The server's packet of that flow: TCP with these flags and that acknowledgement.
pub fn reply(tuple: &FiveTuple, flags: u8, ack: u32) -> Vec<u8> {
    let reversed = FiveTuple::new(tuple.vip(), tuple.client(), tuple.protocol()).unwrap();
    let mut packet = segment(&reversed, flags, 77);
    let l4 = if tuple.is_v6() { 40 } else { 20 };
    if tuple.protocol() == Protocol::Tcp {
        packet[l4 + 8..l4 + 12].copy_from_slice(&ack.to_be_bytes());
        mend(&mut packet);
    }
    packet
}

fn mend(packet: &mut [u8]) {
    let parsed = Packet::parse(packet).unwrap();
    jlb_wire::mend(packet, &parsed).unwrap();
}

pub fn partition(tuple: &FiveTuple) -> jlb_flow::Partition {
    FlowHasher::new(HashKey([1; 16])).id(tuple).partition()
}

pub fn entropy(tuple: &FiveTuple) -> u16 {
    jlb_wire::entropy_port(FlowHasher::new(HashKey([1; 16])).id(tuple).bucket_hash())
}

pub fn outer(from: MemberId) -> Encapsulation {
    Encapsulation {
        src: ip(&format!("10.0.0.{from}")),
        dst: ip("10.0.0.21"),
        source_port: 50_000,
        port: 6081,
        traffic_class: 0,
    }
}

pub fn outer6(from: MemberId) -> Encapsulation {
    let (src, dst) = (ip(&format!("fd00::{from}")), ip("fd00::21"));
    Encapsulation { src, dst, ..outer(from) }
}

pub fn wrapped(outer: Encapsulation, payload: Payload<'_>, inner: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; outer.header_len(payload)];
    outer.emit(payload, inner.len(), &mut packet).unwrap();
    packet.extend_from_slice(inner);
    packet
}

/// A control message as its sender sends it, about flow headers.
pub fn packet(control: &Control, tuple: &FiveTuple) -> Vec<u8> {
    packet_in(outer(control.sender), control, tuple, &headers(tuple, control.incarnation.0))
}

pub fn packet_in(
    outer: Encapsulation,
    control: &Control,
    tuple: &FiveTuple,
    inner: &[u8],
) -> Vec<u8> {
    let option = control.emit(tuple, &MacKeys::single(MacKey([2; 16])));
    wrapped(outer, Payload::Control { option: &option, v6: tuple.is_v6() }, inner)
}

pub fn data(from: MemberId, inner: &[u8]) -> Vec<u8> {
    wrapped(outer(from), Payload::Plain { v6: inner[0] >> 4 == 6 }, inner)
}

pub fn probe(from: MemberId, flags: u16) -> Vec<u8> {
    let probe = Probe { generation: 1, digest: 2, heartbeat_age_ms: 0, worker: 3, shut_out: 0 };
    body(from, BodyKind::Probe, flags, &probe.emit())
}

pub fn body(from: MemberId, kind: BodyKind, flags: u16, payload: &[u8]) -> Vec<u8> {
    let body = Body {
        kind,
        version: Version::OLDEST,
        flags,
        epoch: Epoch(2),
        sender: from,
        receiver: ME,
        boot: BootId(99),
        sequence: 1,
        nonce: 0xabcd,
    };
    let mut bytes = vec![0; Body::len_with(payload.len())];
    body.emit(payload, &MacKeys::single(MacKey([2; 16])), &mut bytes).unwrap();
    wrapped(outer(from), Payload::Body, &bytes)
}

/// After a change of the outer IPv4 header.
pub fn fix_outer(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&packet[..20]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}
