use jlb_flow::{Cookie, FlowId, TimerId};
use jlb_role::Nanos;
use jlb_wire::{Bar, BootId, Control, FiveTuple, Flags, Incarnation, MemberId, Protocol, Tried};

/// What a flow table holds for a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// Waits for the backend's word; the rest is in the pool.
    Pending(Cookie),
    /// On its backend.
    Established {
        /// Boot of the agent that said so, and its counter then.
        boot: BootId,
        counter: u64,
        incarnation: Incarnation,
        backend: MemberId,
        protocol: Protocol,
        /// The latest pull of the backend's flows that knew of it, or ran when the backend accepted it; 0 for none.
        listed: u8,
    },
    /// Closed; goes when the timer fires.
    Closing { timer: TimerId, incarnation: Incarnation, backend: MemberId, protocol: Protocol },
}

// A bucket of four is two cache lines.
const _: () = assert!(size_of::<Entry>() == 24);

/// What trackers vote on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Candidate {
    /// This backend, if it wants.
    Backend(MemberId),
    /// This backend, whatever its load: another value than the former, and another question.
    Force(MemberId),
    /// Nobody: the client is refused.
    Refused,
}

impl Candidate {
    /// The one that an Open names.
    pub(crate) const fn of(control: &Control) -> Option<Self> {
        if control.flags.has(Flags::REFUSED) {
            return Some(Self::Refused);
        }
        match control.backend {
            Some(backend) if control.flags.has(Flags::FORCE) => Some(Self::Force(backend)),
            Some(backend) => Some(Self::Backend(backend)),
            None => None,
        }
    }

    /// The backend that is asked.
    #[must_use]
    pub const fn backend(self) -> Option<MemberId> {
        match self {
            Self::Backend(id) | Self::Force(id) => Some(id),
            Self::Refused => None,
        }
    }

    pub(crate) const fn flags(self) -> Flags {
        match self {
            Self::Backend(_) => Flags(0),
            Self::Force(_) => Flags::FORCE,
            Self::Refused => Flags::REFUSED,
        }
    }
}

/// A vote of ours that its backend has not yet answered. Never [`Candidate::Refused`]: that one is a [`Refusal`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) tuple: FiveTuple,
    pub(crate) flow: FlowId,
    pub(crate) incarnation: Incarnation,
    /// The backend, and whether it is forced.
    pub(crate) backend: MemberId,
    pub(crate) force: bool,
    /// That backend said no; only then may another one take its place (rule 2).
    pub(crate) refused: bool,
    /// We lost a split vote: once refused, the entry goes and the other head's candidate is adopted (rule 7).
    pub(crate) yields: bool,
    /// Who led the chain when this was stored or driven, and the boot id that stood for its vote.
    pub(crate) head: MemberId,
    pub(crate) head_boot: BootId,
    /// Who waits for the answer, and its word.
    pub(crate) ingress: MemberId,
    pub(crate) cookie: u32,
    pub(crate) reject_ttl: u8,
    pub(crate) tried: Tried,
    /// How busy the backend may be, where others can be asked.
    pub(crate) bar: Bar,
    /// The last one that refused only because of the bar: it could take the flow.
    pub(crate) able: Option<MemberId>,
    /// That it is unwell is no reason to refuse.
    pub(crate) panic: bool,
    /// When to cancel, and how often that was done since the entry was last driven.
    pub(crate) timer: Option<TimerId>,
    pub(crate) cancels: u32,
    /// When the entry was last driven or cancelled.
    pub(crate) asked_at: Nanos,
}

impl Pending {
    pub(crate) const fn candidate(&self) -> Candidate {
        if self.force { Candidate::Force(self.backend) } else { Candidate::Backend(self.backend) }
    }

    /// Time from one Cancel to the next: 200 ms after the entry was driven, then 200, 400, 800 and 1000 ms.
    pub(crate) const fn cancel_after(&self) -> Nanos {
        match self.cancels {
            0 | 1 => Nanos::from_millis(200),
            2 => Nanos::from_millis(400),
            3 => Nanos::from_millis(800),
            _ => Nanos::from_secs(1),
        }
    }
}

/// A flow that ended. Stands against whatever of it is still under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tombstone {
    pub(crate) backend: MemberId,
    /// Boot of the agent that said so.
    pub(crate) boot: BootId,
    pub(crate) incarnation: Incarnation,
}

impl Tombstone {
    /// Whether a word of that backend and boot about that incarnation is from before the end. For UDP, where the
    /// incarnation is not in the key: an agent's numbers for a flow rise while it keeps its boot.
    pub(crate) fn covers(
        &self,
        protocol: Protocol,
        backend: MemberId,
        (boot, incarnation): (BootId, Incarnation),
    ) -> bool {
        let before = self.incarnation.0.wrapping_sub(incarnation.0) < 1 << 31;
        self.backend == backend
            && match protocol {
                Protocol::Tcp => true,
                Protocol::Udp => self.boot == boot && before,
            }
    }
}

/// A vote to refuse the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// Another tracker has stored it too: then it may be told to the client (rule 13).
    pub(crate) voted: bool,
    pub(crate) head: MemberId,
    pub(crate) tried: Tried,
}

/// An entry, for status and checkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// Which flow of that five-tuple; 0 for a pending one over UDP.
    pub incarnation: Incarnation,
    /// Its backend, or the one that is asked.
    pub backend: MemberId,
    /// How far it is.
    pub state: FlowState,
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// Waits for the backend's word.
    Pending {
        /// The backend must take it, whatever its load.
        force: bool,
        /// The backend said no.
        refused: bool,
    },
    /// On its backend.
    Established,
    /// Ended a moment ago.
    Closing,
}
