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
    /// Not yet, for this reason.
    NotYet(&'static str),
}

/// Every rule that can be switched off.
pub const CANARIES: [Rule; Rule::ALL.len()] = Rule::ALL;

/// By when a checker must see that a rule is off. The suite fails when one does not: the proof that the checkers can
/// see. What takes a rare coincidence has a window of seeds in which it was found, so that the proof is quick;
/// `jlb-bench sim --without RULE --seeds 1000` finds others when a change of the plans has moved them.
#[must_use]
pub const fn catch_of(rule: Rule) -> Catch {
    match rule {
        Rule::TwoVotes
        | Rule::FirstWriterWins
        | Rule::DecideOnce
        | Rule::OneRetransmitter
        | Rule::Incumbent
        | Rule::Tombstones
        | Rule::RejectTtl
        | Rule::FlushInOrder
        | Rule::FreeQueue => Catch::Within { first: 0, seeds: 20 },
        Rule::PendingNeverExpires => Catch::Within { first: 190, seeds: 20 },
        Rule::SplitVotes => Catch::Within { first: 170, seeds: 20 },
        Rule::RefusalIsVoted => Catch::Within { first: 120, seeds: 20 },
        Rule::Cold
        | Rule::MarkersByWord
        | Rule::MarkerFence
        | Rule::TwoUnknown
        | Rule::UnknownByNonce
        | Rule::OneEpoch
        | Rule::NotMine
        | Rule::TwoWitnesses => Catch::NotYet("members neither crash nor restart yet"),
        Rule::VersionedWord => Catch::NotYet(
            "within one incarnation an agent's words keep their order by tombstones and its own memory of 8 s; a lower \
             counter comes with Refresh, and with agents that restart",
        ),
    }
}
