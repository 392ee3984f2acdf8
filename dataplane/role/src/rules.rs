/// The rules of the protocol that a canary can switch off (design, section 5). Each is one `if` in a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Rule {
    /// A backend takes an Open only after two distinct trio members stored it (rule 1).
    TwoVotes,
    /// A tracker never replaces a candidate that has not refused (rule 2).
    FirstWriterWins,
    /// A backend decides once per (flow, incarnation) and repeats its answer (rule 3).
    DecideOnce,
    /// A pending vote is freed only by its backend's word, never by time alone (rule 7).
    PendingNeverExpires,
    /// Of two heads, the lower-ranked one cancels and adopts (rule 7).
    SplitVotes,
    /// Only the ingress retransmits, four times (rule 8).
    OneRetransmitter,
    /// A SYN with another ISN displaces neither an established nor a pending entry (rule 9).
    Incumbent,
    /// A Close leaves a tombstone at trackers (rule 10).
    Tombstones,
    /// A backend's word with a lower counter of the same boot is ignored (rule 12).
    VersionedWord,
    /// Refusing a client needs two votes (rule 13).
    RefusalIsVoted,
    /// Reject TTL and the list of tried backends bound the tries (design, section 4).
    RejectTtl,
    /// The queue of a pending flow is flushed in order (design, section 4).
    FlushInOrder,
    /// A pending entry's queue is freed with it (design, section 8: no leak).
    FreeQueue,
    /// A tracker that has just started neither heads, votes nor says "unknown" before it has all markers (rule 4).
    Cold,
    /// A missing marker is never written off by the tracker's own timer (rule 4).
    MarkersByWord,
    /// After its marker to a tracker's boot, an agent takes no vote of another boot of it (rule 5).
    MarkerFence,
    /// "Nobody knows" needs two trackers of one epoch (rule 6).
    TwoUnknown,
    /// "Nobody knows" is said of packets only that came before the Query (rule 6).
    UnknownByNonce,
    /// Both votes and the agent are of one epoch, and a joiner waits for the old trio (rule 11).
    OneEpoch,
    /// A packet of a flow that is not here is never delivered (NotMine).
    NotMine,
    /// A backend is dead only when two members do not hear it (design, section 4).
    TwoWitnesses,
    /// A tracker decides alone only after all live agents have acknowledged that (rule 14).
    SoleFence,
}

/// Which rules are on: a type parameter of every role.
///
/// The daemons use [`AllRules`], a constant that costs nothing; the simulator [`Without`], a value.
pub trait Rules: Copy {
    /// Whether `rule` is kept.
    fn on(self, rule: Rule) -> bool;
}

/// Every rule is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllRules;

impl Rules for AllRules {
    #[inline]
    fn on(self, _: Rule) -> bool {
        true
    }
}

impl Rule {
    /// All rules, in order.
    pub const ALL: [Self; 22] = [
        Self::TwoVotes,
        Self::FirstWriterWins,
        Self::DecideOnce,
        Self::PendingNeverExpires,
        Self::SplitVotes,
        Self::OneRetransmitter,
        Self::Incumbent,
        Self::Tombstones,
        Self::VersionedWord,
        Self::RefusalIsVoted,
        Self::RejectTtl,
        Self::FlushInOrder,
        Self::FreeQueue,
        Self::Cold,
        Self::MarkersByWord,
        Self::MarkerFence,
        Self::TwoUnknown,
        Self::UnknownByNonce,
        Self::OneEpoch,
        Self::NotMine,
        Self::TwoWitnesses,
        Self::SoleFence,
    ];
}

/// At most one rule is broken: a canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without(pub Option<Rule>);

impl Rules for Without {
    #[inline]
    fn on(self, rule: Rule) -> bool {
        self.0 != Some(rule)
    }
}
