//! What is quick of `jlb-bench model`: small configurations to their end, and the rules that they are lost without.

use jlb_model::{Config, Kept, Outcome, Switch, Violation, search};
use jlb_role::Rule;

#[expect(clippy::panic, reason = "a test")]
fn outcome(name: &str, kept: Kept) -> Outcome {
    let Some(config) = Config::named(name) else { panic!("no configuration {name}") };
    search(config, kept, None)
}

#[test]
fn with_all_rules_nothing_is_violated() {
    for name in ["opening", "life", "refusal", "reuse", "crash-refusal"] {
        let outcome = outcome(name, Kept::ALL);
        assert!(outcome.complete, "{name}: {:?}", outcome.finding);
    }
}

#[test]
fn without_a_rule_its_counterexample_is_found() {
    let two = Violation::TwoBackends;
    let canaries = [
        (Switch::Rule(Rule::TwoVotes), "opening", two),
        (Switch::Rule(Rule::FirstWriterWins), "opening", two),
        (Switch::Rule(Rule::DecideOnce), "opening", two),
        (Switch::Rule(Rule::SplitVotes), "opening", two),
        (Switch::Rule(Rule::PendingNeverExpires), "opening", Violation::Unknown),
        (Switch::Rule(Rule::TwoUnknown), "life", Violation::Unknown),
        (Switch::Rule(Rule::UnknownByNonce), "life", Violation::Unknown),
        (Switch::Rule(Rule::VersionedWord), "life", Violation::Unknown),
        (Switch::Rule(Rule::Tombstones), "life", two),
        (Switch::ProofBuries, "life", two),
        (Switch::Rule(Rule::Incumbent), "reuse", Violation::TwoLive),
        (Switch::Rule(Rule::NotMine), "reuse", Violation::Delivered),
        (Switch::Rule(Rule::RefusalIsVoted), "refusal", Violation::Refused),
        (Switch::ForceApart, "refusal", Violation::Refused),
        (Switch::PeersKnowBoot, "crash-refusal", Violation::Refused),
        (Switch::Rule(Rule::Cold), "crash", Violation::Unknown),
        (Switch::SoleFence, "sole", two),
        (Switch::PullAfterSole, "sole", two),
        (Switch::WarmIsAdmitted, "sole", two),
        (Switch::SoleLease, "sole-lossy", Violation::Unknown),
    ];
    for (switch, name, violation) in canaries {
        let found = outcome(name, Kept::ALL.without(switch)).finding;
        assert_eq!(found.map(|f| f.violation), Some(violation), "{name} without {switch}");
    }
}

#[test]
fn what_is_found_is_the_shortest_way() {
    let kept = Kept::ALL.without(Switch::Rule(Rule::TwoVotes));
    let steps = outcome("opening", kept).finding.unwrap().steps;
    assert_eq!(steps.len(), 4, "{steps:#?}");
}

#[test]
fn a_bound_is_not_mistaken_for_the_end() {
    let config = Config::named("reuse").unwrap();
    let outcome = search(config, Kept::ALL, Some(2000));
    assert!(!outcome.complete && outcome.finding.is_none());
}
