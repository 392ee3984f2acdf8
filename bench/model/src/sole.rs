//! The sole owner's mode (rule 14): one tracker that takes both others for dead, rightly or not.

use crate::action::Action;
use crate::config::Notices;
use crate::model::Abstract;
use crate::state::{Mode, State};
use crate::switch::Switch;

impl Abstract {
    pub(crate) fn sole_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let config = &self.config;
        for (t, tracker) in state.trackers[..config.trackers()].iter().enumerate() {
            let name = t as u8;
            match tracker.mode {
                Mode::Two if t < config.lonely && state.fences < config.fences => {
                    actions.push(Action::Fence { tracker: name });
                }
                Mode::Two => {}
                Mode::Fencing => {
                    actions.push(Action::Pull { tracker: name });
                    actions.push(Action::Return { tracker: name });
                }
                Mode::Pulling => {
                    actions.push(Action::Sole { tracker: name });
                    actions.push(Action::Return { tracker: name });
                }
                Mode::Sole => actions.push(Action::Return { tracker: name }),
                Mode::Ending => actions.push(Action::Normal { tracker: name }),
            }
            for (b, backend) in state.backends[..config.backends].iter().enumerate() {
                let to = b as u8;
                let acked = tracker.acks >> b & 1 != 0;
                if tracker.mode == Mode::Fencing && !acked {
                    actions.push(Action::Obey { backend: to, tracker: name });
                }
                if tracker.mode == Mode::Ending && !acked {
                    actions.push(Action::Release { backend: to, tracker: name });
                }
                let knows = tracker.cold && tracker.markers >> b & 1 == 0;
                if !backend.admits(t) && !knows {
                    actions.push(Action::Notice { tracker: name, backend: to });
                }
            }
        }
        for (b, backend) in state.backends[..config.backends].iter().enumerate() {
            if config.silence && backend.sole != 0 {
                actions.push(Action::Silent { backend: b as u8 });
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are steps of other parts")]
    pub(crate) fn sole_step(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        match action {
            Action::Fence { tracker } => {
                let tracker = &mut next.trackers[usize::from(tracker)];
                (tracker.mode, tracker.acks) = (Mode::Fencing, 0);
                next.fences += 1;
            }
            Action::Obey { backend, tracker } => {
                self.obey(&mut next, backend.into(), tracker.into())?;
            }
            Action::Notice { tracker, backend } => {
                let tracker = &mut next.trackers[usize::from(tracker)];
                if !tracker.cold {
                    (tracker.cold, tracker.markers) = (true, self.config.all_backends());
                }
                tracker.markers &= !(1 << backend);
                tracker.listed[usize::from(backend)] = 0;
            }
            Action::Pull { tracker } => {
                let tracker = &mut next.trackers[usize::from(tracker)];
                if tracker.acks != self.config.all_backends() && self.kept.has(Switch::SoleFence) {
                    return None;
                }
                (tracker.mode, tracker.cold, tracker.markers) = (Mode::Pulling, true, 0);
                tracker.listed = Default::default();
            }
            Action::Sole { tracker } => {
                let t = usize::from(tracker);
                let alone = !self.kept.has(Switch::SoleFence)
                    || last.trackers[t].markers == self.config.all_backends();
                let heard = self.config.notices == Notices::Lossy
                    || last.trackers[..3].iter().all(|other| other.cold);
                if !alone || !heard {
                    return None;
                }
                let tracker = &mut next.trackers[t];
                (tracker.mode, tracker.cold, tracker.markers) = (Mode::Sole, false, 0);
                tracker.listed = Default::default();
            }
            Action::Return { tracker } => {
                let tracker = &mut next.trackers[usize::from(tracker)];
                (tracker.mode, tracker.acks) = (Mode::Ending, 0);
                // A marker under the mode that it gave up does not count for another.
                tracker.markers = 0;
                tracker.listed = Default::default();
            }
            Action::Release { backend, tracker } => {
                let at = &mut next.backends[usize::from(backend)];
                if at.sole == tracker + 1 {
                    at.sole = 0;
                }
                next.trackers[usize::from(tracker)].acks |= 1 << backend;
            }
            Action::Normal { tracker } => {
                let tracker = &mut next.trackers[usize::from(tracker)];
                if tracker.acks != self.config.all_backends() {
                    return None;
                }
                (tracker.mode, tracker.acks) = (Mode::Two, 0);
            }
            Action::Silent { backend } => next.backends[usize::from(backend)].sole = 0,
            _ => return None,
        }
        (next != *last).then_some(next)
    }

    /// An agent obeys one owner at a time.
    fn obey(&self, next: &mut State, b: usize, t: usize) -> Option<()> {
        let boot = next.trackers[t].boot;
        let backend = &mut next.backends[b];
        if backend.boots[t] != boot || backend.sole != 0 && usize::from(backend.sole) != t + 1 {
            // It is told who owns it, and gives up: [`Action::Return`].
            return None;
        }
        backend.sole = t as u8 + 1;
        if self.kept.has(Switch::PullAfterSole) {
            backend.unpulled |= 0b111 & !(1 << t);
        }
        next.trackers[t].acks |= 1 << b;
        Some(())
    }

    /// Whether an agent has told a tracker lately that it is not shut out: no sole owner but it stands, and it has pulled
    /// since one did. An owner needs all agents, so it is enough to hear of one that there is none.
    pub(crate) fn holds_lease(&self, last: &State, t: usize) -> bool {
        self.config.fences == 0
            || !self.kept.has(Switch::SoleLease)
            || last.backends[..self.config.backends].iter().any(|b| b.admits(t))
    }

    /// Whether all agents say so, when it is to become warm.
    pub(crate) fn is_admitted(&self, last: &State, t: usize) -> bool {
        self.config.fences == 0
            || !self.kept.has(Switch::WarmIsAdmitted)
            || last.backends[..self.config.backends].iter().all(|b| b.admits(t))
    }
}
