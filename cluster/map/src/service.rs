use core::net::IpAddr;
use core::num::NonZeroU32;

use jlb_wire::{MemberId, Protocol};

/// Weight of a backend that the configuration gives none.
pub const DEFAULT_WEIGHT: u16 = 100;
/// Largest weight.
pub const MAX_WEIGHT: u16 = 1000;
/// Further backends that are tried after the first one refused.
pub const DEFAULT_REJECT_TTL: u8 = 3;
/// A control message carries four backends that were tried, so there are four candidates at most.
pub const MAX_REJECT_TTL: u8 = 3;

/// A service's index in [`crate::Snapshot::services`], dense from 0. It belongs to its snapshot: another one may
/// number differently, and it is never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u16);

impl ServiceId {
    /// As an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a tracker picks a backend. Whether that one takes the flow is its own decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Policy {
    /// At random, by weight.
    Random = 1,
    /// One after the other, as often as their weights say. Each tracker counts for itself.
    RoundRobin = 2,
    /// At random, by weight, among those that have room under their `max_connections`; nobody has: refused at once.
    MaxConnections = 3,
    /// The one that has the fewest flows for its weight. The default, by data: docs/load-balancing.md.
    #[default]
    LeastConnections = 4,
    /// Of two that are drawn at random, by weight, the one that has fewer flows for its weight.
    PowerOfTwo = 5,
    /// The one that the flow's hash belongs to ([`crate::Maglev`]); who refuses sends it to the next hash.
    ConsistentHash = 6,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Random,
        Self::RoundRobin,
        Self::MaxConnections,
        Self::LeastConnections,
        Self::PowerOfTwo,
        Self::ConsistentHash,
    ];

    /// As it is written.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::MaxConnections => "max-connections",
            Self::LeastConnections => "least-connections",
            Self::PowerOfTwo => "power-of-two",
            Self::ConsistentHash => "consistent-hash",
        }
    }
}

/// Whether new flows are taken at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Admission {
    /// By the host's own load.
    #[default]
    Accept = 1,
    /// Never: every Open is answered with Reject.
    Refuse = 2,
}

/// What becomes of a flow that every candidate refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OnExhausted {
    /// The last candidate must take it.
    Force = 1,
    /// The client gets a reset at once.
    #[default]
    Reset = 2,
    /// The client gets nothing; counted.
    Drop = 3,
}

/// How replies reach the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReturnPath {
    /// Through an egress server.
    #[default]
    Egress = 1,
    /// Straight from the backend.
    Direct = 2,
}

/// A backend as one service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Which member.
    pub member: MemberId,
    /// Its share of new flows relative to the others: 1 to [`MAX_WEIGHT`].
    pub weight: u16,
    /// Whether this backend takes new flows of this service.
    pub admission: Admission,
    /// Live flows of this service that this backend may have; `None`: no limit.
    pub max_connections: Option<NonZeroU32>,
}

impl Backend {
    /// A backend with default settings.
    #[must_use]
    pub const fn new(member: MemberId) -> Self {
        Self { member, weight: DEFAULT_WEIGHT, admission: Admission::Accept, max_connections: None }
    }
}

/// Something that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name for people and metric labels: 1 to 63 of `a-z A-Z 0-9 . _ -`, unique.
    pub name: String,
    /// The addresses that clients connect to, in any mix of families.
    pub vips: Vec<IpAddr>,
    /// The port, at the VIP and at the backends alike.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who serves it.
    pub backends: Vec<Backend>,
    /// How one of them is picked.
    pub policy: Policy,
    /// Further backends tried after the first refused: 0 to [`MAX_REJECT_TTL`].
    pub reject_ttl: u8,
    /// What happens when all refused.
    pub on_exhausted: OnExhausted,
    /// How replies travel.
    pub return_path: ReturnPath,
    /// Whether the service takes new flows on any backend.
    pub admission: Admission,
}

impl Service {
    /// The entry of one backend, if it serves this service.
    #[must_use]
    pub fn backend(&self, member: MemberId) -> Option<&Backend> {
        self.backends.iter().find(|b| b.member == member)
    }

    /// Whether this backend may take new flows of this service, load and drain aside: `admission` of both.
    #[must_use]
    pub fn admits(&self, member: MemberId) -> bool {
        self.admission == Admission::Accept
            && self.backend(member).is_some_and(|b| b.admission == Admission::Accept)
    }
}
