use core::time::Duration;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::config::Config;
use crate::model::Abstract;
use crate::state::Violation;
use crate::switch::Kept;

/// A shortest way to a violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was violated.
    pub violation: Violation,
    /// Every step, in words.
    pub steps: Vec<String>,
}

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// States seen.
    pub states: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// Every state was seen: none was left out, by a bound or because of a finding.
    pub complete: bool,
    /// The first violation.
    pub finding: Option<Finding>,
    /// How long it took.
    pub took: Duration,
}

/// Searches all that can happen, nearest first, until something is violated, or there is nothing left, or `states` are
/// seen. One thread, so that what is found is shortest.
#[must_use]
pub fn search(config: &Config, kept: Kept, states: Option<usize>) -> Outcome {
    let began = Instant::now();
    let model = Abstract::new(*config, kept);
    let mut checker = model.checker().threads(1).finish_when(HasDiscoveries::Any);
    if let Some(states) = states {
        checker = checker.target_state_count(states);
    }
    let checker = checker.spawn_bfs().join();
    let finding = Violation::ALL.into_iter().find_map(|violation| {
        let path = checker.discovery(violation.name())?;
        let steps = path.into_actions().iter().map(ToString::to_string).collect();
        Some(Finding { violation, steps })
    });
    // The bound counts what is generated, seen before or not.
    let bounded = states.is_some_and(|states| checker.state_count() >= states);
    Outcome {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        complete: !bounded && finding.is_none(),
        finding,
        took: began.elapsed(),
    }
}
