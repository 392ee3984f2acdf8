//! What a commit must hold: nothing violated, the same seed the same run, every canary caught.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};

use jlb_sim::{CANARIES, Part, catch_of, minimise, run, run_without};

/// Seeds of one test; `jlb-bench sim` runs as many as you like.
const SEEDS: u64 = 50;

fn nothing_is_violated(first: u64) {
    for seed in first..first + SEEDS {
        let report = run(seed, None, None).unwrap();
        assert!(report.violations.is_empty(), "{report}\nreplay: {}", report.replay(None));
    }
}

// Four tests, so that they run side by side.
#[test]
fn first_quarter_of_the_seeds_violates_nothing() {
    nothing_is_violated(0);
}

#[test]
fn second_quarter_of_the_seeds_violates_nothing() {
    nothing_is_violated(SEEDS);
}

#[test]
fn third_quarter_of_the_seeds_violates_nothing() {
    nothing_is_violated(2 * SEEDS);
}

#[test]
fn last_quarter_of_the_seeds_violates_nothing() {
    nothing_is_violated(3 * SEEDS);
}

#[test]
fn a_seed_gives_the_same_run_again_with_and_without_a_trace() {
    for seed in [3, 4] {
        let lines = Arc::new(Mutex::new(0_u64));
        let counted = Arc::clone(&lines);
        let sink = Box::new(move |_: &str| *counted.lock().unwrap() += 1);
        let (plain, traced) =
            (run(seed, None, None).unwrap(), run(seed, None, Some(sink)).unwrap());
        assert_eq!(plain.event_hash, traced.event_hash, "seed {seed}");
        assert_eq!((plain.events, plain.virtual_time), (traced.events, traced.virtual_time));
        assert_eq!(traced.events, *lines.lock().unwrap(), "one line per event");
    }
    assert_ne!(run(3, None, None).unwrap().event_hash, run(4, None, None).unwrap().event_hash);
}

#[test]
fn what_a_violation_does_not_need_is_left_out() {
    let (seed, rule) = (2, Some(jlb_role::Rule::TwoVotes));
    let whole = run(seed, rule, None).unwrap();
    let left_out = minimise(seed, rule).unwrap();
    let rest = run_without(seed, &left_out, rule, None).unwrap();
    assert_eq!(rest.violations[0].invariant, whole.violations[0].invariant);
    let clients = left_out.iter().filter(|part| matches!(part, Part::Client(_))).count();
    assert_eq!(clients, 24, "one client is enough, of 25");
    // As it is said to whoever replays it.
    assert!(left_out.iter().all(|part| part.to_string().parse() == Ok(*part)));
    assert!(minimise(seed, None).unwrap().is_empty(), "nothing is violated");
}

#[test]
fn every_canary_is_caught() {
    for rule in CANARIES {
        let seeds = catch_of(rule).seeds();
        let seen = |&seed: &u64| !run(seed, Some(rule), None).unwrap().violations.is_empty();
        assert!(
            seeds.is_empty() || seeds.iter().any(seen),
            "{rule:?} is off and {seeds:?} saw nothing"
        );
    }
}

#[test]
fn every_rule_is_a_canary() {
    // `catch_of` knows them all, by its match; here they stand in their order.
    assert!((0..).zip(CANARIES).all(|(n, rule)| rule as u8 == n));
}
