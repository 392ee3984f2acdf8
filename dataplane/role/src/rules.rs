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

/// At most one rule is broken: a canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without(pub Option<Rule>);

impl Rules for Without {
    #[inline]
    fn on(self, rule: Rule) -> bool {
        self.0 != Some(rule)
    }
}
