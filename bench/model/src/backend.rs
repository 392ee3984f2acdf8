//! What a backend does (docs/protocol.md, section 6).

use jlb_role::Rule;

use crate::action::Action;
use crate::model::{Abstract, cancel_bit};
use crate::state::{
    CLOSED, Entry, FORCE_REJECTED, INCARNATIONS, LIVE, Offer, REJECTED, Said, State, Violation,
};
use crate::switch::Switch;

impl Abstract {
    pub(crate) fn backend_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let config = &self.config;
        for offer in state.offers.iter() {
            actions.push(Action::Take { offer });
        }
        for b in 0..config.backends {
            let (backend, at) = (b as u8, &state.backends[b]);
            for incarnation in 0..config.incarnations {
                for forced in [false, true] {
                    if state.proposed[incarnation] & cancel_bit(b, forced) != 0 {
                        let incarnation = incarnation as u8;
                        actions.push(Action::Cancel { backend, incarnation, forced });
                    }
                }
            }
            for incarnation in (0..config.flows()).filter(|&i| config.closes && at.lives(i)) {
                actions.push(Action::End { backend, incarnation: incarnation as u8 });
            }
            if !self.kept.on(Rule::VersionedWord) && !at.denied && at.live().is_none() {
                actions.push(Action::Deny { backend });
            }
            for (t, tracker) in state.trackers[..config.trackers()].iter().enumerate() {
                let asks = tracker.cold && tracker.markers >> b & 1 == 0;
                if asks {
                    actions.push(Action::Marker { backend, tracker: t as u8 });
                }
                // Else it can wait until it must: knowing it only makes fewer offers good.
                let hurries = config.fences > 0
                    || !self.kept.on(Rule::Cold)
                    || !self.kept.on(Rule::MarkersByWord)
                    || !self.kept.on(Rule::TwoWitnesses);
                if hurries && at.boots[t] < tracker.boot {
                    actions.push(Action::Boot { backend, tracker: t as u8 });
                }
            }
            if config.change.is_some() && at.epoch == 0 {
                actions.push(Action::BackendList { backend });
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are steps of other parts")]
    pub(crate) fn backend_step(&self, last: &State, action: Action) -> Option<State> {
        match action {
            Action::Take { offer } => self.take(last, offer),
            Action::Cancel { backend, incarnation, forced } => {
                if last.backends[usize::from(backend)].live().is_some() && self.config.udp {
                    // Accept once more.
                    return None;
                }
                let mut next = last.clone();
                let answer = if forced { FORCE_REJECTED } else { REJECTED };
                next.backends[usize::from(backend)].answers[usize::from(incarnation)] |= answer;
                Some(next)
            }
            Action::End { backend, incarnation } => {
                let mut next = last.clone();
                let answer =
                    &mut next.backends[usize::from(backend)].answers[usize::from(incarnation)];
                *answer = *answer & !LIVE | CLOSED;
                if self.config.udp {
                    next.settle(backend, incarnation);
                }
                Some(next)
            }
            Action::Deny { backend } => {
                let mut next = last.clone();
                next.backends[usize::from(backend)].denied = true;
                Some(next)
            }
            Action::Marker { backend, tracker } => {
                self.marker(last, backend.into(), tracker.into())
            }
            Action::Boot { backend, tracker } => {
                let mut next = last.clone();
                self.learn_boot(&mut next, backend.into(), tracker.into());
                Some(next)
            }
            Action::BackendList { backend } => {
                let mut next = last.clone();
                let at = &mut next.backends[usize::from(backend)];
                (at.epoch, at.sole) = (1, 0);
                Some(next)
            }
            _ => None,
        }
    }

    /// Whether the offer's votes count here.
    fn believes(&self, last: &State, offer: Offer) -> bool {
        let Some(b) = offer.candidate().backend() else { return false };
        let backend = &last.backends[b];
        let [one, other] = offer.voters();
        let known = |(tracker, boot): (usize, u8)| {
            backend.boots[tracker] == boot
                || !self.kept.on(Rule::MarkerFence) && backend.boots[tracker] > boot
        };
        let in_epoch = backend.epoch == offer.epoch() || !self.kept.on(Rule::OneEpoch);
        let alone = one.0 == other.0;
        let votes = match backend.sole {
            0 => !alone,
            owner => alone && one.0 == usize::from(owner - 1),
        };
        let pulled = alone
            || !self.kept.has(Switch::PullAfterSole)
            || offer.voters().iter().all(|(tracker, _)| backend.unpulled >> tracker & 1 == 0);
        in_epoch && votes && pulled && known(one) && known(other)
    }

    /// Whether the host has not yet decided what the offer asks.
    fn is_open(&self, last: &State, offer: Offer) -> bool {
        let Some(b) = offer.candidate().backend() else { return false };
        let backend = &last.backends[b];
        let incarnation = offer.incarnation();
        if backend.live().is_some() {
            // It, or another one that is not displaced.
            return false;
        }
        let decided = backend.closed(incarnation) && !self.config.udp
            || backend.rejected(incarnation, offer.candidate().is_forced());
        !decided || !self.kept.on(Rule::DecideOnce)
    }

    fn take(&self, last: &State, offer: Offer) -> Option<State> {
        if !self.believes(last, offer) || !self.is_open(last, offer) {
            return None;
        }
        let mut next = last.clone();
        let b = offer.candidate().backend()?;
        let mut number = offer.incarnation();
        if self.config.udp {
            number = usize::from(next.numbered);
            next.numbered += 1;
        }
        *next.backends[b].answers.get_mut(number)? |= LIVE;
        // Who was refused must not be served: without a crash the votes to refuse stand.
        if self.config.crashes == 0 && next.refused >> offer.incarnation() & 1 != 0 {
            next.violate(Violation::Refused);
        }
        Some(next)
    }

    /// Knows the tracker's boot, and from then on no other one of it; lists all; and that is under way.
    fn marker(&self, last: &State, b: usize, t: usize) -> Option<State> {
        let tracker = &last.trackers[t];
        let same_epoch = last.backends[b].epoch == tracker.epoch || !self.kept.on(Rule::OneEpoch);
        if !same_epoch || !self.config.in_trio(t, tracker.epoch) {
            return None;
        }
        let mut next = last.clone();
        self.learn_boot(&mut next, b, t);
        let backend = &mut next.backends[b];
        let nobody_else = backend.sole == 0 || usize::from(backend.sole) == t + 1;
        if nobody_else && backend.unpulled >> t & 1 != 0 {
            backend.unpulled &= !(1 << t);
            // What it sent before it pulled counts no more. (Who is asked again sends it again.)
            next.offers.retain(|offer| {
                offer.candidate().backend() != Some(b) || offer.voters().iter().all(|v| v.0 != t)
            });
        }
        let backend = &mut next.backends[b];
        let mut listed = backend.sole;
        for incarnation in (0..INCARNATIONS).rev() {
            let word = match () {
                () if backend.lives(incarnation) => 1,
                () if backend.closed(incarnation) => 2,
                () => 0,
            };
            listed = listed * 3 + word;
        }
        next.trackers[t].listed[b] = listed + 1;
        if self.config.prompt {
            self.receive(&mut next.trackers[t], t as u8, b as u8);
        }
        (next != *last).then_some(next)
    }

    fn learn_boot(&self, next: &mut State, b: usize, t: usize) {
        let boot = next.trackers[t].boot;
        let backend = &mut next.backends[b];
        if backend.boots[t] != boot {
            backend.boots[t] = boot;
            if usize::from(backend.sole) == t + 1 {
                backend.sole = 0;
            }
        }
    }
}

impl State {
    /// A UDP flow ends when it was idle for long: all that was under way of its opening has arrived, or never will.
    fn settle(&mut self, backend: u8, incarnation: u8) {
        self.offers = Said::default();
        self.votes = Said::default();
        for tracker in &mut self.trackers {
            if let Entry::Pending(_, candidate) = tracker.entry
                && candidate.backend() == Some(backend.into())
            {
                tracker.entry = Entry::Established(incarnation, backend);
            }
        }
    }
}
