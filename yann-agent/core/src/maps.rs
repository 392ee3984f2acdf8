//! The layouts of the eBPF maps, and of the records in the ring buffer: what `yann-agent/bpf` has as C structs.
//!
//! Numbers are in the host's byte order, times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`), addresses
//! and ports are in network order, member ids are 0 for nobody. All padding is explicit and 0.
//!
//! | map | key | value | size |
//! |---|---|---|---|
//! | flows | padded five-tuple | [`Flow`] | configured |
//! | answers | [`AnswerKey`] | [`Answer`] | configured |
//! | services | [`ServiceKey`] | [`Service`] | 16 × 1024 |
//! | live flows per service | slot (array) | `u32` | 1024 |
//! | VIPs | [`AddressKey`] | [`Vip`] | 16 × 1024 |
//! | members | id (array) | [`Member`] | 4096 |
//! | members by address | [`AddressKey`] | [`MemberAt`] | 2 × 4095 |
//! | boot ids | id (array) | `u64`, 0 = not known | 4096 |
//! | standing: which trackers are shut out, and obeyed | id (array) | [`Standing`] | 4096 |
//! | windows | [`WindowKey`] | [`Window`] | 16 per member |
//! | egress hosts | index (array) | [`Egress`] | [`MAX_EGRESS`] |
//! | host | 0 (array) | [`Host`] | 1 |
//! | word | 0 (array) | [`Shared`] | 1 |
//! | not mine: when the next such event would be due at the rate that is allowed | 0 (per-CPU array) | `u64` | 1 |
//! | heartbeat: when the daemon last said that it is there | 0 (array) | `u64` | 1 |
//! | starts: how often the user half has started | 0 (array) | `u64` | 1 |

use core::fmt;
use core::net::IpAddr;

use jlb_role::{Nanos, Reason};
use jlb_wire::{FiveTuple, Incarnation, Protocol, RefreshRecord, RejectReason};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Ingress hosts that one flow remembers: those which sent a packet of it last.
pub const INGRESS_HOSTS: usize = 4;
/// Ingress hosts among which an agent chooses where replies leave: the first ones by id. The eBPF program walks them
/// for each packet.
pub const MAX_EGRESS: usize = 64;

/// How long a remembered answer stands: longer than pending entries and replay last (design, section 4).
pub const ANSWER_LIFETIME: Nanos = Nanos::from_secs(8);
/// The same for a refused datagram flow, whose next one looks just alike: the replay window only. Trackers remember that
/// all have refused a little longer, and ask nobody meanwhile.
pub const UDP_REJECT_LIFETIME: Nanos = Nanos::from_secs(4);
/// A daemon's heartbeat may be so old before it counts as down.
pub const HEARTBEAT_LIMIT: Nanos = Nanos::from_millis(300);
/// An egress host was heard if it asked us so lately.
pub const EGRESS_LIMIT: Nanos = Nanos::from_millis(300);

macro_rules! layout {
    ($(#[$meta:meta])* $name:ident: $size:literal { $($(#[doc = $doc:literal])+ $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(C)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: $type,)+ }
        impl Default for $name {
            /// All bytes 0.
            fn default() -> Self {
                Self::new_zeroed()
            }
        }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

/// Values of [`Flow::state`].
pub mod flow_state {
    /// The SYN went to the stack; no SYN-ACK was seen yet.
    pub const ADMITTED: u8 = 1;
    /// The SYN-ACK was seen; UDP: from the start.
    pub const ACCEPTED: u8 = 2;
    /// TCP: the handshake is complete, so the kernel will report CLOSE.
    pub const ESTABLISHED: u8 = 3;
}

/// Bits of [`Flow::flags`].
pub mod flow_flags {
    /// Admitted by an Open with FORCE.
    pub const FORCE: u8 = 1;
    /// The listener sent SYN cookies while the flow was not established.
    pub const COOKIES: u8 = 1 << 1;
}

layout! {
    /// A live flow. Key: the padded canonical five-tuple, client → VIP.
    Flow: 72 {
        /// The client's initial sequence number; for UDP a number that the agent gave.
        incarnation: u32,
        /// The ingress's cookie, of the last Open.
        cookie: u32,
        /// The backend's counter at admission, for every Accept of this flow.
        counter: u64,
        /// When it was admitted.
        admitted: u64,
        /// When its last packet was seen, in either direction.
        last_packet: u64,
        /// When it last had a socket, as far as somebody looked; at first when it was admitted.
        socket_seen: u64,
        /// Bucket hash of the flow id (bytes 8–15, little-endian): entropy port, choice of the egress host.
        hash: u64,
        /// Head of the chain, of the last Open.
        head: u16,
        /// Second of the chain, of the last Open.
        second: u16,
        /// The ingress that asked, of the last Open.
        asker: u16,
        /// Slot of the service.
        service: u16,
        /// Ingress hosts that packets came from, newest first.
        ingress: [u16; INGRESS_HOSTS],
        /// Depth of the listener's queue at admission.
        queue: u16,
        /// See [`flow_state`].
        state: u8,
        /// See [`flow_flags`].
        flags: u8,
        /// Candidates that were asked by the last Open, this one included.
        tries: u8,
        /// 0.
        pad: [u8; 3],
    }
}

/// Values of [`Answer::kind`].
pub mod answer_kind {
    /// Refused.
    pub const REJECTED: u8 = 1;
    /// Admitted once, and over.
    pub const CLOSED: u8 = 2;
}

layout! {
    /// Whose answer is remembered.
    AnswerKey: 48 {
        /// The padded canonical five-tuple, client → VIP.
        tuple: [u8; FiveTuple::LEN],
        /// Incarnation that the Open named (0 for a refused UDP flow), or of the flow that is over.
        incarnation: u32,
        /// 1: the answer to an Open with FORCE. 0 for a flow that is over.
        force: u8,
        /// 0.
        pad: [u8; 3],
    }
}

layout! {
    /// A remembered answer.
    Answer: 32 {
        /// When it was given.
        at: u64,
        /// The backend's counter then.
        counter: u64,
        /// Closed: the flow's ingress hosts, newest first.
        ingress: [u16; INGRESS_HOSTS],
        /// Slot of the service.
        service: u16,
        /// See [`answer_kind`].
        kind: u8,
        /// Rejected: [`jlb_wire::RejectReason`] as on the wire.
        reason: u8,
        /// 0.
        pad: [u8; 4],
    }
}

layout! {
    /// VIP, port and protocol of a service of this host.
    ServiceKey: 20 {
        /// IPv4: 4 bytes, then 0.
        vip: [u8; 16],
        /// Network order.
        port: [u8; 2],
        /// IP protocol number.
        protocol: u8,
        /// 4 or 6.
        family: u8,
    }
}

/// Values of [`Service::admission`]. Any other is the [`RejectReason`], as on the wire, for which this host says itself that
/// it refuses new flows.
pub mod service_admission {
    /// Takes new flows.
    pub const ACCEPT: u8 = 1;
    /// Refuses them: `admission` of the service or of this backend.
    pub const REFUSE: u8 = 2;
}

layout! {
    /// A service, as this host serves it.
    Service: 8 {
        /// Live flows that it may have here; 0: no limit.
        max_connections: u32,
        /// Where its live flows are counted.
        slot: u16,
        /// See [`service_admission`].
        admission: u8,
        /// 1: replies go through an egress host. 2: straight to the client.
        return_path: u8,
    }
}

layout! {
    /// An address.
    AddressKey: 20 {
        /// IPv4: 4 bytes, then 0.
        address: [u8; 16],
        /// 4 or 6.
        family: u8,
        /// 0.
        pad: [u8; 3],
    }
}

layout! {
    /// A VIP of this host, for fragments, which have no ports.
    Vip: 4 {
        /// 1 when any of its services replies through an egress host, else 2.
        return_path: u8,
        /// 0.
        pad: [u8; 3],
    }
}

layout! {
    /// A member of the cluster; all 0: none.
    Member: 24 {
        /// Its IPv6 address, or 0.
        v6: [u8; 16],
        /// Its IPv4 address, or 0.
        v4: [u8; 4],
        /// As in `jlb_map::MemberRole`.
        role: u8,
        /// [`Member::V4`], [`Member::V6`]: those that it has.
        families: u8,
        /// 0.
        pad: [u8; 2],
    }
}

layout! {
    /// Who has an address.
    MemberAt: 4 {
        /// Who.
        id: u16,
        /// As in `jlb_map::MemberRole`.
        role: u8,
        /// 0.
        pad: u8,
    }
}

layout! {
    /// What a tracker's votes are worth here since one of them decided alone (rule 14). A bit per worker.
    Standing: 8 {
        /// Workers that are shut out: another tracker decides alone, or they have not pulled since it did.
        shut_out: u16,
        /// Workers that we obey alone.
        obeyed: u16,
        /// How often it was shut out: 1 to 255, and round again.
        number: u8,
        /// 0.
        pad: [u8; 3],
    }
}

impl Standing {
    /// What Probe answers to that worker: the number of its being shut out, or 0.
    #[must_use]
    pub const fn shut_out(&self, worker: u8) -> u8 {
        if self.shut_out >> (worker & 15) & 1 != 0 { self.number } else { 0 }
    }

    /// Whether we obey that worker alone.
    #[must_use]
    pub const fn is_obeyed(&self, worker: u8) -> bool {
        self.obeyed >> (worker & 15) & 1 != 0
    }
}

layout! {
    /// A sender of sequence numbers.
    WindowKey: 4 {
        /// Member id.
        member: u16,
        /// The top 8 bits of its sequence numbers, at most 15.
        worker: u8,
        /// 0.
        pad: u8,
    }
}

layout! {
    /// Which of the last 1024 sequence numbers were seen: bit `n % 64` of word `n % 1024 / 64` stands for `n`.
    Window: 136 {
        /// The highest one.
        highest: u64,
        /// A ring of bits behind it.
        seen: [u64; 16],
    }
}

layout! {
    /// An ingress host, as the way out.
    Egress: 16 {
        /// When it last asked us; 0: never, or it said that it leaves.
        heard: u64,
        /// Who.
        member: u16,
        /// 0.
        pad: [u8; 6],
    }
}

/// Bits of [`Host::flags`].
pub mod host_flags {
    /// `other_mac_key` is a key.
    pub const OTHER_KEY: u16 = 1;
    /// The host is drained.
    pub const DRAIN: u16 = 1 << 1;
    /// `underlay.prefer` is IPv6.
    pub const PREFER_V6: u16 = 1 << 2;
    /// This host has an IPv4 underlay address.
    pub const V4: u16 = 1 << 3;
    /// This host has an IPv6 underlay address.
    pub const V6: u16 = 1 << 4;
}

layout! {
    /// What the programs must know of the cluster and of this host.
    Host: 112 {
        /// `hash_key`.
        hash_key: Key,
        /// The MAC key that signs.
        mac_key: Key,
        /// The MAC key that verifies too.
        other_mac_key: Key,
        /// Our IPv6 underlay address, or 0.
        v6: [u8; 16],
        /// Our IPv4 underlay address, or 0.
        v4: [u8; 4],
        /// Epoch of the member list.
        epoch: u32,
        /// Generation of the member list.
        generation: u64,
        /// Digest of the member list.
        digest: u64,
        /// Live flows that the map of flows takes.
        flow_capacity: u32,
        /// Our member id.
        id: u16,
        /// UDP port of the underlay, host order.
        port: u16,
        /// See [`host_flags`].
        flags: u16,
        /// CPU load, 0 ..= 65535 for 0 ..= 1.
        cpu: u16,
        /// Egress hosts in their array.
        egress_hosts: u16,
        /// Oldest version of the protocol that is understood.
        oldest_version: u8,
        /// Newest one.
        newest_version: u8,
        /// Live flows of all services that this host wants to have; 0: no limit.
        max_connections: u32,
        /// 0.
        pad_2: [u8; 4],
    }
}

layout! {
    /// What makes this backend's word a new one: pinned, so that it survives the daemon. The kernel half alone counts in it.
    Shared: 24 {
        /// 64 random bits of the first attach.
        boot: u64,
        /// The backend's counter, as used last.
        counter: u64,
        /// Sequence number of the kernel half (worker 0), as used last.
        sequence: u64,
    }
}

layout! {
    /// A record of the ring buffer; [`crate::KernelEvent`] is what it says.
    EventRecord: 88 {
        /// See [`crate::EventKind`].
        kind: u8,
        /// [`flow_flags`].
        flags: u8,
        /// The canceller; the member whose boot is unknown; who still believes in a flow that is over or not here.
        peer: u16,
        /// Incarnation of the flow.
        incarnation: u32,
        /// The backend's counter.
        counter: u64,
        /// The padded canonical five-tuple.
        tuple: [u8; FiveTuple::LEN],
        /// The ingress's cookie.
        cookie: u32,
        /// Head of the chain.
        head: u16,
        /// Second of the chain.
        second: u16,
        /// The ingress that asked.
        asker: u16,
        /// Depth of the listener's queue.
        queue: u16,
        /// Ingress hosts that packets came from, newest first.
        ingress: [u16; INGRESS_HOSTS],
        /// Slot of the service.
        service: u16,
        /// 0.
        pad: [u8; 2],
        /// Live flows of the service, this one as it is now.
        live: u32,
        /// 0.
        pad_2: [u8; 4],
    }
}

/// 128 secret bits; `Debug` does not show them.
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[repr(C)]
pub struct Key(pub [u8; 16]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Flow {
    /// As trackers are told of it.
    #[must_use]
    pub const fn record(&self, tuple: FiveTuple) -> RefreshRecord {
        let incarnation = Incarnation(self.incarnation);
        RefreshRecord { tuple, incarnation, live: true, counter: self.counter }
    }
}

impl Answer {
    /// As trackers are told of a flow that closed lately. `None` for a refusal, and when its time is over.
    #[must_use]
    pub fn record(&self, now: Nanos, key: &AnswerKey) -> Option<RefreshRecord> {
        let stands = now.since(Nanos(self.at)) < key.lifetime(self);
        if self.kind != answer_kind::CLOSED || !stands {
            return None;
        }
        let tuple = FiveTuple::from_padded(key.tuple)?;
        let incarnation = Incarnation(key.incarnation);
        Some(RefreshRecord { tuple, incarnation, live: false, counter: self.counter })
    }
}

/// Reasons in the per-CPU array of counters: index = [`Reason`] as a number.
pub const DROP_COUNTERS: usize = Reason::ALL.len();

impl Member {
    /// It has an IPv4 address.
    pub const V4: u8 = 1;
    /// It has an IPv6 address.
    pub const V6: u8 = 2;
}

impl Service {
    /// Why new flows are refused, before anything else is looked at.
    #[must_use]
    pub fn refusal(&self) -> Option<RejectReason> {
        match self.admission {
            service_admission::ACCEPT => None,
            service_admission::REFUSE => Some(RejectReason::Refuse),
            word => Some(RejectReason::from_wire(word).unwrap_or(RejectReason::Refuse)),
        }
    }

    /// As the host wants it by itself: `None`, it takes new flows. What the member list refuses stays refused.
    #[must_use]
    pub fn with_word(self, word: Option<RejectReason>) -> Self {
        let admission = match self.admission {
            service_admission::REFUSE => service_admission::REFUSE,
            _ => word.map_or(service_admission::ACCEPT, |reason| reason as u8),
        };
        Self { admission, ..self }
    }
}

impl AddressKey {
    /// The key of an address.
    #[must_use]
    pub fn new(ip: IpAddr) -> Self {
        let (address, family) = padded(ip);
        Self { address, family, pad: [0; 3] }
    }
}

impl ServiceKey {
    /// The key of a service.
    #[must_use]
    pub fn new(vip: IpAddr, port: u16, protocol: Protocol) -> Self {
        let (vip, family) = padded(vip);
        Self { vip, port: port.to_be_bytes(), protocol: protocol as u8, family }
    }

    /// The key of the service that a flow is for.
    #[must_use]
    pub fn of(tuple: &FiveTuple) -> Self {
        let vip = tuple.vip();
        Self::new(vip.ip(), vip.port(), tuple.protocol())
    }
}

impl AnswerKey {
    /// The key of an answer.
    #[must_use]
    pub fn new(tuple: &FiveTuple, incarnation: u32, force: bool) -> Self {
        Self { tuple: *tuple.padded(), incarnation, force: u8::from(force), pad: [0; 3] }
    }

    /// How long an answer under this key stands, from the last time that it was said.
    #[must_use]
    pub fn lifetime(&self, answer: &Answer) -> Nanos {
        let udp = FiveTuple::from_padded(self.tuple)
            .is_some_and(|tuple| tuple.protocol() == Protocol::Udp);
        if udp && answer.kind == answer_kind::REJECTED {
            UDP_REJECT_LIFETIME
        } else {
            ANSWER_LIFETIME
        }
    }
}

fn padded(ip: IpAddr) -> ([u8; 16], u8) {
    match ip {
        IpAddr::V4(a) => {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&a.octets());
            (address, 4)
        }
        IpAddr::V6(a) => (a.octets(), 6),
    }
}
