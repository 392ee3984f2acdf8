//! Control messages: one critical Geneve option, the same 88 bytes for every kind.
//!
//! ```text
//!  0      1          2           3           4 … 7
//! +------+----------+-----------+-----------+-----------------------+
//! | kind | version  | hop budget| reject TTL| epoch                 |  0
//! +------+----------+-----------+-----------+-----------------------+
//! | incarnation                             | cookie                |  8
//! +-----------------------------------------+-----------------------+
//! | ingress         | head                  | second    | backend   | 16
//! +-----------------+-----------------------+-----------+-----------+
//! | sender          | receiver              | flags     |reason| 0  | 24
//! +-----------------+-----------------------+-----------+-----------+
//! | load: queue     | load: cpu             | tried[0]  | tried[1]  | 32
//! +-----------------------------------------+-----------+-----------+
//! | tried[2]        | tried[3]              | load: live            | 40
//! +-----------------+-----------------------+-----------------------+
//! | boot id of the sender                                           | 48
//! | sequence number of the sender                                   | 56
//! | first word (see Kind)                                           | 64
//! | second word (see Kind)                                          | 72
//! | MAC                                                             | 80
//! +-----------------------------------------------------------------+ 88
//! ```
//! The MAC covers the first 80 bytes with the hop budget as 0, then the padded canonical five-tuple (40 bytes) of
//! the inner packet. Sender and receiver are inside.

use thiserror::Error;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::geneve::{OPTION_CLASS, OPTION_TYPE};
use crate::{BootId, Epoch, FiveTuple, Incarnation, MacKeys, MemberId, Seal, Signed, Version};

/// The option with its 4-byte header.
pub const CONTROL_OPTION_LEN: usize = 4 + Control::LEN;
/// A message may be forwarded so often: ingress → head → second → backend is two forwards, and a tracker of a
/// newer map may add one on each leg.
pub const HOP_BUDGET: u8 = 6;
/// Backends that an Open can name as already tried: reject TTL 3 makes 4 candidates.
pub const MAX_TRIED: usize = 4;

// One option is at most 31 words (RFC 8926, section 3.5).
const _: () = assert!(Control::LEN <= 124 && Control::LEN.is_multiple_of(4));
const _: () = assert!(size_of::<Layout>() == Control::LEN);

macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $value:literal => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])+ $variant = $value,)+ }
        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// From the wire.
            #[must_use]
            pub const fn from_wire(n: u8) -> Option<Self> {
                match n { $($value => Some(Self::$variant),)+ _ => None }
            }
            /// As in metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}
pub(crate) use wire_enum;

wire_enum! {
    /// What a control message says.
    Kind {
        /// Please take this new flow. Words: boot ids of head and second (0 while nobody voted). Carries the client's
        /// packet.
        Open = 1 => "open",
        /// The backend took it. Word: the backend's counter.
        Accept = 2 => "accept",
        /// The backend refused it (or, with [`Flags::FINAL`], the trackers gave up). Word: the backend's counter.
        /// Carries the client's packet as the Open did, so that no tracker must keep it.
        Reject = 3 => "reject",
        /// A tracker asks the backend of a pending entry to decide now.
        Cancel = 4 => "cancel",
        /// An ingress asks where a flow lives. Words: nonce; after a NotMine, with that backend named, its
        /// [`not_mine_proof`], else 0.
        Query = 5 => "query",
        /// A tracker says where a flow lives. Word: nonce of the Query, 0 when it answers an Open.
        State = 6 => "state",
        /// A backend got a packet of a flow that it does not have, nor had when its counter was the word.
        NotMine = 7 => "not_mine",
        /// The backend says that the flow ended; with [`Flags::ACK`], the answer to that. Word: the backend's counter.
        Close = 8 => "close",
    }
}

wire_enum! {
    /// Why a flow was refused: the label `reason` of `jlb_rejects_total`.
    RejectReason {
        /// Not a refusal.
        None = 0 => "none",
        /// Nobody listens on VIP:port.
        NoListener = 1 => "no_listener",
        /// The listener's accept queue is too deep.
        QueueFull = 2 => "queue_full",
        /// As many flows as configured.
        MaxConnections = 3 => "max_connections",
        /// Configured to refuse.
        Refuse = 4 => "refuse",
        /// The agent's flow table is full.
        TableFull = 5 => "table_full",
        /// The agent's daemon is down; its eBPF half answers.
        AgentDown = 6 => "agent_down",
        /// The host is being drained.
        Drain = 7 => "drain",
        /// A tracker cancelled the offer.
        Cancelled = 8 => "cancelled",
        /// No candidate is left (said by trackers).
        Exhausted = 9 => "exhausted",
        /// Not a service of this host.
        NotServed = 10 => "not_served",
        /// Others are less busy, or the host has more than it wants: no candidate that is asked last says this.
        Busy = 11 => "busy",
        /// The host's own health check of the service fails.
        Unhealthy = 12 => "unhealthy",
        /// CPU, memory or pressure of the host is over its threshold.
        Overloaded = 13 => "overloaded",
        /// The application says that it is down.
        Down = 14 => "down",
    }
}

// The agent counts decisions by slot × 16 + reason.
const _: () = assert!(RejectReason::ALL.len() <= 16);

impl RejectReason {
    /// Whether the next flow will most likely be refused for the same reason, however few flows the host has: one with a low
    /// limit of its own has fewer than all others, and would be asked first for each.
    #[must_use]
    pub const fn lasts(self) -> bool {
        match self {
            Self::NoListener
            | Self::Refuse
            | Self::TableFull
            | Self::AgentDown
            | Self::Drain
            | Self::NotServed
            | Self::QueueFull
            | Self::MaxConnections
            | Self::Unhealthy
            | Self::Overloaded
            | Self::Down => true,
            Self::None | Self::Cancelled | Self::Exhausted | Self::Busy => false,
        }
    }

    /// Whether a host that refuses for this reason says so unasked, in its Loads, and also when it is over.
    #[must_use]
    pub const fn is_told(self) -> bool {
        self.is_of_health() || matches!(self, Self::Drain | Self::Overloaded)
    }

    /// Whether it says that the service does not work on that host.
    #[must_use]
    pub const fn is_of_health(self) -> bool {
        matches!(self, Self::Unhealthy | Self::Down)
    }
}

/// What an ingress passes on of a NotMine: the low 48 bits of the backend's counter under the low 16 of its boot id, so
/// that the word of another boot does not count.
#[must_use]
pub const fn not_mine_proof(boot: BootId, counter: u64) -> u64 {
    boot.0 << 48 | counter & COUNTER_MASK
}

/// Whether a proof speaks of that boot, and of a time after `counter` was drawn.
#[must_use]
pub const fn proves_over(proof: u64, boot: BootId, counter: u64) -> bool {
    proof >> 48 == boot.0 & 0xffff && proof & COUNTER_MASK > counter & COUNTER_MASK
}

/// A counter that rises a million times a second takes nine years to use up.
const COUNTER_MASK: u64 = (1 << 48) - 1;

/// Flags of a control message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// Open: the last candidate must take it, whatever its load.
    pub const FORCE: Self = Self(1);
    /// Open: the five-tuple has an incumbent of another incarnation at this backend. Never admits; asks for its word.
    pub const INCUMBENT: Self = Self(1 << 1);
    /// Reject: the trackers' last word to the ingress.
    pub const FINAL: Self = Self(1 << 2);
    /// The inner packet is cut (a SYN's data, a datagram's payload): the whole one follows after Accept.
    pub const CUT: Self = Self(1 << 3);
    /// Close: it is acknowledged.
    pub const ACK: Self = Self(1 << 4);
    /// Open between trackers: the candidate is "refused" (design, rule 13); no backend.
    pub const REFUSED: Self = Self(1 << 5);
    /// State: this tracker does not know the flow.
    pub const UNKNOWN: Self = Self(1 << 6);
    /// State: there is a pending entry: ask again.
    pub const PENDING: Self = Self(1 << 7);
    /// Open: most backends of the service are unwell. So that this one is (`unhealthy`, `down`) is no reason to refuse.
    pub const PANIC: Self = Self(1 << 8);
    /// All flags that version 1 knows.
    pub const KNOWN: Self = Self(0x1ff);

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With `other` set too.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// With `other` set or cleared.
    #[must_use]
    pub const fn set(self, other: Self, on: bool) -> Self {
        Self(if on { self.0 | other.0 } else { self.0 & !other.0 })
    }
}

/// The load of a host, as every Accept, Reject and Close carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Load {
    /// Depth of the listener's accept queue.
    pub queue: u16,
    /// CPU utilisation, 0 ..= 65535 for 0 ..= 1.
    pub cpu: u16,
    /// Live flows of the service on this host. In a tracker's Open, the [`Bar`].
    pub live: u32,
}

/// What a tracker's Open says of the others that it could ask: a candidate that has this many live flows of the service,
/// or more, is to refuse. 0: it is the last that will be asked, so only what it cannot bear counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bar(pub u32);

impl Bar {
    /// The last candidate: nobody else will be asked.
    pub const LAST: Self = Self(0);
    /// There are others, of whose load nothing is known.
    pub const UNKNOWN: Self = Self(u32::MAX);

    /// Whether a candidate with so many live flows leaves the flow to others.
    #[must_use]
    pub const fn refuses(self, live: u32) -> bool {
        self.0 != 0 && live >= self.0
    }

    /// As an Open carries it.
    #[must_use]
    pub const fn to_wire(self) -> Load {
        Load { queue: 0, cpu: 0, live: self.0 }
    }
}

/// A control message, without its MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// What it says.
    pub kind: Kind,
    /// Protocol version.
    pub version: Version,
    /// Forwards that are left. Not under the MAC.
    pub hop_budget: u8,
    /// Rejects that are left before the flow is exhausted.
    pub reject_ttl: u8,
    /// Epoch of the sender's member list.
    pub epoch: Epoch,
    /// Of the flow.
    pub incarnation: Incarnation,
    /// The ingress's own word, echoed.
    pub cookie: u32,
    /// The ingress that asked.
    pub ingress: Option<MemberId>,
    /// The tracker that heads the chain.
    pub head: Option<MemberId>,
    /// The tracker that stands second in it.
    pub second: Option<MemberId>,
    /// The candidate, or the flow's backend.
    pub backend: Option<MemberId>,
    /// Who signed it.
    pub sender: MemberId,
    /// For whom it was signed in the end (forwarders on the way verify it too).
    pub receiver: MemberId,
    /// See [`Flags`].
    pub flags: Flags,
    /// Why, in a Reject.
    pub reason: RejectReason,
    /// The backend's load, in its own messages; in a tracker's Open the [`Bar`].
    pub load: Load,
    /// Backends that refused already, in order.
    pub tried: Tried,
    /// Boot id of the sender.
    pub boot: BootId,
    /// Sequence number of the sender; its top 8 bits name the worker.
    pub sequence: u64,
    /// First word: see [`Kind`].
    pub word_a: u64,
    /// Second word: see [`Kind`].
    pub word_b: u64,
}

/// A list of at most [`MAX_TRIED`] members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tried([u16; MAX_TRIED]);

impl Tried {
    /// Adds one at the end; `false` when the list is full.
    pub fn push(&mut self, id: MemberId) -> bool {
        match self.0.iter_mut().find(|slot| **slot == 0) {
            Some(slot) => {
                *slot = id.as_u16();
                true
            }
            None => false,
        }
    }

    /// Whether it holds `id`.
    #[must_use]
    pub fn contains(&self, id: MemberId) -> bool {
        self.0.contains(&id.as_u16())
    }

    /// How many it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().take_while(|&&slot| slot != 0).count()
    }

    /// Whether it holds nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0[0] == 0
    }

    /// Puts one that it holds behind all others.
    pub fn move_to_end(&mut self, id: MemberId) {
        let len = self.len();
        if let Some(at) = self.0.iter().position(|&slot| slot == id.as_u16()) {
            self.0[at..len].rotate_left(1);
        }
    }

    /// Its members, in order.
    pub fn iter(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.0.iter().filter_map(|&slot| MemberId::new(slot))
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Layout {
    kind: u8,
    version: u8,
    hop_budget: u8,
    reject_ttl: u8,
    epoch: U32,
    incarnation: U32,
    cookie: U32,
    ingress: U16,
    head: U16,
    second: U16,
    backend: U16,
    sender: U16,
    receiver: U16,
    flags: U16,
    reason: u8,
    reserved: u8,
    queue: U16,
    cpu: U16,
    tried: [U16; MAX_TRIED],
    live: U32,
    boot: U64,
    sequence: U64,
    word_a: U64,
    word_b: U64,
    mac: U64,
}

/// Why a control option is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// Shorter than 88 bytes.
    #[error("control message is too short")]
    Truncated,
    /// A version that we do not speak.
    #[error("control message of version {0}")]
    Version(u8),
    /// A kind that we do not know.
    #[error("control message of unknown kind {0}")]
    Kind(u8),
    /// A member id, flag or reason that cannot be.
    #[error("control message with an impossible field")]
    Malformed,
    /// The MAC does not fit.
    #[error("wrong message authentication code")]
    Mac,
}

impl Control {
    /// Bytes of the option's body.
    pub const LEN: usize = 88;
    pub(crate) const SIGNED: usize = Self::LEN - 8;
    pub(crate) const HOP_BUDGET_AT: usize = 2;

    /// Parses the option's body and verifies its MAC for the five-tuple of the inner packet (client → VIP).
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn parse(option: &[u8], tuple: &FiveTuple, keys: &MacKeys) -> Result<Self, ControlError> {
        let fits =
            Self::mac_of(option).zip(Signed::of(option, tuple)).is_some_and(|(mac, signed)| {
                mac == signed.mac(&keys.current)
                    || keys.other.is_some_and(|k| mac == signed.mac(&k))
            });
        Self::parse_verified(option, fits)
    }

    /// As [`Self::parse`], for an option of which is known whether its MAC fits: see [`MacKeys::fit`].
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn parse_verified(option: &[u8], fits: bool) -> Result<Self, ControlError> {
        let (layout, _) = Layout::ref_from_prefix(option).map_err(|_| ControlError::Truncated)?;
        if Version::new(layout.version).is_none() {
            return Err(ControlError::Version(layout.version));
        }
        if !fits {
            return Err(ControlError::Mac);
        }
        Self::from_layout(layout)
    }

    /// What an option's body says that it is, before anything of it is believed: its kind and incarnation. Good for fetching
    /// memory, and for nothing else.
    #[must_use]
    pub fn hint(option: &[u8]) -> Option<(Kind, Incarnation)> {
        let (layout, _) = Layout::ref_from_prefix(option).ok()?;
        Some((Kind::from_wire(layout.kind)?, Incarnation(layout.incarnation.get())))
    }

    /// The MAC that an option's body carries; `None` when it is too short.
    #[must_use]
    pub fn mac_of(option: &[u8]) -> Option<u64> {
        let mac = option.get(Self::SIGNED..)?.first_chunk()?;
        Some(u64::from_be_bytes(*mac))
    }

    /// The option, signed, with its header: what [`crate::Payload::Control`] takes.
    #[must_use]
    pub fn emit(&self, tuple: &FiveTuple, keys: &MacKeys) -> [u8; CONTROL_OPTION_LEN] {
        let mut out = self.emit_unsigned();
        Seal::new(keys.current, *tuple, CONTROL_OPTION_LEN - Self::LEN).write(&mut out);
        out
    }

    /// As [`Self::emit`], but for the MAC, which is left to a [`Seal`].
    #[must_use]
    pub fn emit_unsigned(&self) -> [u8; CONTROL_OPTION_LEN] {
        let mut out = [0; CONTROL_OPTION_LEN];
        out[..2].copy_from_slice(&OPTION_CLASS.to_be_bytes());
        out[2] = OPTION_TYPE;
        out[3] = (Self::LEN / 4) as u8;
        out[4..].copy_from_slice(self.to_layout().as_bytes());
        out
    }

    /// A forwarder's copy of a received option: the sender's MAC and all else stay, one hop less. `None` when the
    /// budget is used up.
    #[must_use]
    pub fn forwarded(option: &[u8; Self::LEN]) -> Option<[u8; CONTROL_OPTION_LEN]> {
        let left = option[Self::HOP_BUDGET_AT].checked_sub(1)?;
        let mut out = [0; CONTROL_OPTION_LEN];
        out[..2].copy_from_slice(&OPTION_CLASS.to_be_bytes());
        out[2] = OPTION_TYPE;
        out[3] = (Self::LEN / 4) as u8;
        out[4..].copy_from_slice(option);
        out[4 + Self::HOP_BUDGET_AT] = left;
        Some(out)
    }

    fn from_layout(l: &Layout) -> Result<Self, ControlError> {
        let optional = |id: U16| match id.get() {
            0 => Ok(None),
            id => MemberId::new(id).map(Some).ok_or(ControlError::Malformed),
        };
        let required = |id: U16| MemberId::new(id.get()).ok_or(ControlError::Malformed);
        let mut tried = Tried::default();
        for (slot, id) in tried.0.iter_mut().zip(l.tried) {
            *slot = MemberId::to_wire(optional(id)?);
        }
        if tried.0[tried.len()..].iter().any(|&id| id != 0) || l.flags.get() & !Flags::KNOWN.0 != 0
        {
            return Err(ControlError::Malformed);
        }
        Ok(Self {
            kind: Kind::from_wire(l.kind).ok_or(ControlError::Kind(l.kind))?,
            version: Version::new(l.version).ok_or(ControlError::Version(l.version))?,
            hop_budget: l.hop_budget,
            reject_ttl: l.reject_ttl,
            epoch: Epoch(l.epoch.get()),
            incarnation: Incarnation(l.incarnation.get()),
            cookie: l.cookie.get(),
            ingress: optional(l.ingress)?,
            head: optional(l.head)?,
            second: optional(l.second)?,
            backend: optional(l.backend)?,
            sender: required(l.sender)?,
            receiver: required(l.receiver)?,
            flags: Flags(l.flags.get()),
            reason: RejectReason::from_wire(l.reason).ok_or(ControlError::Malformed)?,
            load: Load { queue: l.queue.get(), cpu: l.cpu.get(), live: l.live.get() },
            tried,
            boot: BootId(l.boot.get()),
            sequence: l.sequence.get(),
            word_a: l.word_a.get(),
            word_b: l.word_b.get(),
        })
    }

    fn to_layout(self) -> Layout {
        let id = |id: Option<MemberId>| U16::new(MemberId::to_wire(id));
        Layout {
            kind: self.kind as u8,
            version: self.version.as_u8(),
            hop_budget: self.hop_budget,
            reject_ttl: self.reject_ttl,
            epoch: self.epoch.0.into(),
            incarnation: self.incarnation.0.into(),
            cookie: self.cookie.into(),
            ingress: id(self.ingress),
            head: id(self.head),
            second: id(self.second),
            backend: id(self.backend),
            sender: self.sender.as_u16().into(),
            receiver: self.receiver.as_u16().into(),
            flags: self.flags.0.into(),
            reason: self.reason as u8,
            reserved: 0,
            queue: self.load.queue.into(),
            cpu: self.load.cpu.into(),
            tried: self.tried.0.map(U16::new),
            live: self.load.live.into(),
            boot: self.boot.0.into(),
            sequence: self.sequence.into(),
            word_a: self.word_a.into(),
            word_b: self.word_b.into(),
            mac: 0.into(),
        }
    }
}
