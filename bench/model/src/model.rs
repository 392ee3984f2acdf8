use core::sync::atomic::{AtomicBool, Ordering};

use jlb_role::Rule;
use stateright::{Model, Property};

use crate::action::Action;
use crate::config::Config;
use crate::state::{BACKENDS, Candidate, INCARNATIONS, State, TRACKERS, Tracker, Violation, Vote};
use crate::switch::{Kept, Switch};

/// A configuration, and the rules that are kept in it.
#[derive(Debug)]
pub struct Abstract {
    /// What is combined.
    pub config: Config,
    /// What holds.
    pub kept: Kept,
    /// A violation was seen.
    violated: AtomicBool,
}

impl Model for Abstract {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State::default();
        if self.config.change.is_some_and(|change| change.joiner_boots) {
            let cold = self.kept.on(Rule::Cold);
            state.trackers[3] = Tracker { epoch: 1, cold, booted: cold, ..Tracker::default() };
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.violation.is_some() {
            return;
        }
        self.tracker_actions(state, actions);
        self.backend_actions(state, actions);
        if self.config.fences > 0 {
            self.sole_actions(state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = self
            .tracker_step(last, action)
            .or_else(|| self.backend_step(last, action))
            .or_else(|| self.sole_step(last, action))?;
        self.judge(&mut next);
        self.forget(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let never = |violation: Violation, condition: fn(&Self, &State) -> bool| {
            Property::always(violation.name(), condition)
        };
        vec![
            never(Violation::TwoBackends, |m, s| m.holds(s, Violation::TwoBackends)),
            never(Violation::TwoLive, |m, s| m.holds(s, Violation::TwoLive)),
            never(Violation::Delivered, |m, s| m.holds(s, Violation::Delivered)),
            never(Violation::Unknown, |m, s| m.holds(s, Violation::Unknown)),
            never(Violation::Refused, |m, s| m.holds(s, Violation::Refused)),
        ]
    }
}

impl Abstract {
    /// This configuration with these rules.
    #[must_use]
    pub const fn new(config: Config, kept: Kept) -> Self {
        Self { config, kept, violated: AtomicBool::new(false) }
    }

    /// Whether that was not violated. Only the first state in which something is counts, since the checker keeps the last
    /// that it is told of within some 1500 states, and states come nearest first.
    fn holds(&self, state: &State, violation: Violation) -> bool {
        state.violation != Some(violation) || self.violated.swap(true, Ordering::Relaxed)
    }

    /// Looks at what backends hold and clients are told.
    fn judge(&self, next: &mut State) {
        let config = &self.config;
        for i in 0..config.flows() {
            if next.backends.iter().filter(|b| b.took(i)).count() > 1 {
                next.violate(Violation::TwoBackends);
            }
        }
        let Some(home) = next.backends.iter().position(|b| b.live().is_some()) else { return };
        if next.backends.iter().filter(|b| b.live().is_some()).count() > 1 {
            next.violate(Violation::TwoLive);
        }
        let mut others = next.backends.iter().enumerate().filter(|&(b, _)| b != home);
        if !self.kept.on(Rule::NotMine)
            // Some ingress host was told of that backend, and never of its Close.
            && others.any(|(_, b)| (0..INCARNATIONS).any(|i| b.took(i)))
        {
            next.violate(Violation::Delivered);
        }
        if self.nobody_knows(next.unknown) {
            next.violate(Violation::Unknown);
        }
    }

    /// Whether some ingress host has what it takes to answer a client with a reset.
    fn nobody_knows(&self, unknown: u8) -> bool {
        let needed = if self.kept.on(Rule::TwoUnknown) { 2 } else { 1 };
        let of = |epoch: u8| {
            let said = move |t: usize| unknown >> (t + 4 * usize::from(epoch)) & 1 != 0;
            (0..TRACKERS).filter(move |&t| self.config.in_trio(t, epoch) && said(t))
        };
        if self.kept.on(Rule::OneEpoch) {
            return (0..2).any(|epoch| of(epoch).count() >= needed);
        }
        (0..TRACKERS).filter(|&t| of(0).chain(of(1)).any(|u| u == t)).count() >= needed
    }

    /// Whether the others know that a vote is of a former boot.
    pub(crate) fn disowned(&self, trackers: &[Tracker], vote: Vote) -> bool {
        let tracker = &trackers[vote.tracker()];
        self.kept.has(Switch::PeersKnowBoot) && tracker.boot != vote.boot() && !tracker.cold
    }

    /// Drops what can make no difference any more, so that states which behave alike are one.
    fn forget(&self, next: &mut State) {
        let kept = self.kept;
        let backends = next.backends;
        let decided = |incarnation: usize, candidate: Candidate| {
            candidate.backend().is_some_and(|b| {
                let backend = &backends[b];
                if self.config.udp {
                    return backend.rejected(incarnation, candidate.is_forced());
                }
                backend.closed(incarnation) && kept.on(Rule::DecideOnce)
                    || backend.lives(incarnation)
                    || backend.rejected(incarnation, candidate.is_forced())
                        && kept.on(Rule::DecideOnce)
            })
        };
        let fenced = |candidate: Candidate, (tracker, boot): (usize, u8)| {
            kept.on(Rule::MarkerFence)
                && candidate.backend().is_some_and(|b| backends[b].boots[tracker] > boot)
        };
        next.offers.retain(|offer| {
            let candidate = offer.candidate();
            let late = kept.on(Rule::OneEpoch)
                && candidate.backend().is_some_and(|b| backends[b].epoch > offer.epoch());
            !late
                && !decided(offer.incarnation(), candidate)
                && !offer.voters().into_iter().any(|voter| fenced(candidate, voter))
        });
        let trackers = &next.trackers[..self.config.trackers()];
        let oldest = trackers.iter().map(|t| t.epoch).min().unwrap_or_default();
        next.votes.retain(|vote| {
            let candidate = vote.candidate();
            let late = kept.on(Rule::OneEpoch) && vote.epoch() < oldest;
            let former = candidate == Candidate::Refused && self.disowned(trackers, vote);
            let gone = late || former || decided(vote.incarnation(), candidate);
            !gone && !fenced(candidate, (vote.tracker(), vote.boot()))
        });
        for (incarnation, proposed) in next.proposed.iter_mut().enumerate() {
            for (b, backend) in backends.iter().enumerate() {
                for forced in [false, true] {
                    let took = backend.took(incarnation) && !self.config.udp;
                    if took || backend.rejected(incarnation, forced) {
                        *proposed &= !cancel_bit(b, forced);
                    }
                }
            }
        }
        if self.kept.on(Rule::UnknownByNonce) && !next.any_live() {
            next.unknown = 0;
        }
    }
}

pub(crate) const fn cancel_bit(backend: usize, forced: bool) -> u8 {
    1 << (backend + if forced { BACKENDS } else { 0 })
}

impl State {
    pub(crate) fn name(&mut self, incarnation: usize, candidate: Candidate) {
        if let Some(b) = candidate.backend() {
            self.used = self.used.max(b as u8 + 1);
            self.proposed[incarnation] |= cancel_bit(b, candidate.is_forced());
        }
    }
}
