use core::fmt;

use jlb_role::Rule;

/// A rule of the protocol that the model can do without: what is then found is the reason for the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// One that the state machines can do without, too.
    Rule(Rule),
    /// A joiner waits until two of the old trio know the new epoch (rule 11).
    Confirmation,
    /// A tracker that has booted, and so does not know the old trio, waits for both others of its trio, alive or not.
    BootedWaitsForAll,
    /// `force(B)` is another value than `B`, and another question (rule 13).
    ForceApart,
    /// Who becomes sole owner waits until all agents have obeyed (rule 14).
    SoleFence,
    /// While a flow has a sole owner, that one does not say "unknown" (rule 14).
    SoleIsNoTwo,
    /// After a sole owner, an agent takes the votes only of trackers that have pulled again, and nothing that they sent
    /// before.
    PullAfterSole,
    /// A tracker votes, and says "unknown", only while at least one agent has told it lately that it has no sole owner but
    /// that tracker, and that it has pulled since it had one.
    SoleLease,
    /// A cold tracker is warm only when all agents have told it so lately.
    WarmIsAdmitted,
    /// What a proof of NotMine removes leaves a tombstone.
    ProofBuries,
    /// A marker counts only if all that came before it could be stored.
    MarkerIsWhole,
    /// A tracker that has booted is warm only when the others of its trio know its boot id.
    PeersKnowBoot,
}

impl Switch {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::Rule(Rule::TwoVotes),
        Self::Rule(Rule::FirstWriterWins),
        Self::Rule(Rule::DecideOnce),
        Self::Rule(Rule::Cold),
        Self::Rule(Rule::MarkersByWord),
        Self::Rule(Rule::TwoWitnesses),
        Self::Rule(Rule::MarkerFence),
        Self::Rule(Rule::TwoUnknown),
        Self::Rule(Rule::UnknownByNonce),
        Self::Rule(Rule::PendingNeverExpires),
        Self::Rule(Rule::SplitVotes),
        Self::Rule(Rule::Incumbent),
        Self::Rule(Rule::Tombstones),
        Self::Rule(Rule::OneEpoch),
        Self::Confirmation,
        Self::BootedWaitsForAll,
        Self::Rule(Rule::VersionedWord),
        Self::Rule(Rule::NotMine),
        Self::ProofBuries,
        Self::MarkerIsWhole,
        Self::PeersKnowBoot,
        Self::Rule(Rule::RefusalIsVoted),
        Self::ForceApart,
        Self::SoleFence,
        Self::SoleIsNoTwo,
        Self::PullAfterSole,
        Self::SoleLease,
        Self::WarmIsAdmitted,
    ];

    const fn bit(self) -> u64 {
        match self {
            Self::Rule(rule) => 1 << rule as u64,
            Self::WarmIsAdmitted => 1 << 53,
            Self::MarkerIsWhole => 1 << 54,
            Self::PeersKnowBoot => 1 << 55,
            Self::Confirmation => 1 << 56,
            Self::BootedWaitsForAll => 1 << 57,
            Self::ForceApart => 1 << 58,
            Self::SoleFence => 1 << 59,
            Self::SoleIsNoTwo => 1 << 60,
            Self::PullAfterSole => 1 << 61,
            Self::SoleLease => 1 << 62,
            Self::ProofBuries => 1 << 63,
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "{rule:?}"),
            Self::Confirmation
            | Self::BootedWaitsForAll
            | Self::ForceApart
            | Self::SoleFence
            | Self::SoleIsNoTwo
            | Self::PullAfterSole
            | Self::SoleLease
            | Self::WarmIsAdmitted
            | Self::ProofBuries
            | Self::MarkerIsWhole
            | Self::PeersKnowBoot => write!(f, "{self:?}"),
        }
    }
}

/// Which rules are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    off: u64,
}

impl Kept {
    /// All of them.
    pub const ALL: Self = Self { off: 0 };

    /// These, but for one.
    #[must_use]
    pub const fn without(self, switch: Switch) -> Self {
        Self { off: self.off | switch.bit() }
    }

    pub(crate) const fn on(self, rule: Rule) -> bool {
        self.has(Switch::Rule(rule))
    }

    pub(crate) const fn has(self, switch: Switch) -> bool {
        self.off & switch.bit() == 0
    }
}
