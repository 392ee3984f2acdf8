use jlb_role::Rule;

/// Whether switching a rule off is seen today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Catch {
    /// Within so many seeds, from this one on.
    Within {
        /// The first seed.
        first: u64,
        /// How many.
        seeds: u64,
    },
    /// By one of these at least: it takes a coincidence that few seeds have.
    Among(&'static [u64]),
    /// Not yet, for this reason.
    NotYet(&'static str),
}

impl Catch {
    /// The seeds of which one at least must see it.
    #[must_use]
    pub fn seeds(self) -> Vec<u64> {
        match self {
            Self::Within { first, seeds } => (first..first + seeds).collect(),
            Self::Among(seeds) => seeds.to_vec(),
            Self::NotYet(_) => Vec::new(),
        }
    }
}

/// Every rule that can be switched off.
pub const CANARIES: [Rule; Rule::ALL.len()] = Rule::ALL;

/// By when a checker must see that a rule is off. The suite fails when one does not: the proof that the checkers can
/// see. What takes a rare coincidence has seeds in which it was found, so that the proof is quick, and several of them, so
/// that it does not hang on one; `jlb-bench sim --without RULE --seeds 1000` finds others when a change has moved them.
#[must_use]
pub const fn catch_of(rule: Rule) -> Catch {
    match rule {
        Rule::TwoVotes
        | Rule::DecideOnce
        | Rule::OneRetransmitter
        | Rule::Incumbent
        | Rule::RejectTtl
        | Rule::FlushInOrder
        | Rule::FreeQueue
        | Rule::NotMine => Catch::Within { first: 0, seeds: 20 },
        Rule::FirstWriterWins => Catch::Among(&[88, 110, 130]),
        Rule::Tombstones => Catch::Among(&[456, 485, 650]),
        Rule::PendingNeverExpires => Catch::Among(&[17, 314, 336]),
        Rule::SplitVotes => Catch::Among(&[307, 415, 475, 562, 907, 908]),
        Rule::RefusalIsVoted => Catch::Among(&[131, 305, 450]),
        Rule::Cold => Catch::Among(&[117, 138, 157]),
        Rule::TwoUnknown | Rule::UnknownByNonce => Catch::Within { first: 50, seeds: 30 },
        Rule::MarkersByWord => Catch::Within { first: 130, seeds: 30 },
        Rule::TwoWitnesses => Catch::Within { first: 170, seeds: 10 },
        Rule::MarkerFence => Catch::Within { first: 270, seeds: 10 },
        Rule::SoleFence => Catch::Among(&[562, 700, 803]),
        Rule::OneEpoch => Catch::NotYet(
            "each joiner has every marker of its epoch before it is warm, and the flow's voters are asked beside it; the \
             drill `two_epochs` has not met the moment at which both that answer first know nothing",
        ),
        Rule::VersionedWord => Catch::NotYet(
            "within one incarnation an agent's words keep their order by tombstones and its own memory of 8 s, and a proof \
             of NotMine is compared with the counter of admission, which is the same in every word of it",
        ),
    }
}
