//! What a tracker does (docs/protocol.md, section 5).

use jlb_role::Rule;

use crate::action::Action;
use crate::model::Abstract;
use crate::state::{
    Candidate, Entry, INCARNATIONS, Mode, Offer, State, TRACKERS, Tracker, UNVOTED, VOTED,
    Violation, Vote,
};
use crate::switch::Switch;

/// What stands in the way of an Open.
enum Standing {
    Free,
    Pending(Candidate),
    Refused,
    /// Established, an incumbent, or over: no vote is given.
    Taken,
}

impl Abstract {
    pub(crate) fn tracker_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let config = &self.config;
        for t in 0..config.trackers() {
            let (tracker, at) = (t as u8, &state.trackers[t]);
            for incarnation in 0..config.incarnations as u8 {
                for candidate in self.candidates(state) {
                    actions.push(Action::Head { tracker, incarnation, candidate });
                }
            }
            for incarnation in 0..config.flows() as u8 {
                // Who has left the trio learns nothing that matters.
                let learns = if config.in_trio(t, at.epoch) { config.backends } else { 0 };
                for backend in 0..learns as u8 {
                    let b = &state.backends[usize::from(backend)];
                    if b.took(incarnation.into()) {
                        actions.push(Action::Accept { tracker, backend, incarnation });
                    }
                    if b.closed(incarnation.into()) {
                        actions.push(Action::Close { tracker, backend, incarnation });
                    }
                }
            }
            for vote in state.votes.iter() {
                actions.push(Action::Second { tracker, vote });
            }
            if let Entry::Pending(incarnation, stored) = at.entry {
                actions.push(Action::Again { tracker });
                if state.has_refused(incarnation.into(), stored) {
                    actions.push(Action::Free { tracker });
                    for candidate in self.candidates(state) {
                        actions.push(Action::Next { tracker, candidate });
                    }
                    if let (true, Candidate::Backend(b)) = (config.force, stored) {
                        let candidate = Candidate::Force(b);
                        actions.push(Action::Next { tracker, candidate });
                    }
                }
                if !self.kept.on(Rule::PendingNeverExpires) {
                    actions.push(Action::Expire { tracker });
                }
            } else if at.refusals.contains(&UNVOTED) {
                actions.push(Action::Again { tracker });
            }
            if config.queries {
                actions.push(Action::Unknown { tracker });
                actions.push(Action::Proof { tracker });
            }
            if state.crashes < config.crashes {
                actions.push(Action::Crash { tracker });
            }
            for backend in 0..config.backends as u8 {
                if at.listed[usize::from(backend)] != 0 {
                    actions.push(Action::Receive { tracker, backend });
                }
                if at.cold && !self.kept.on(Rule::MarkersByWord) {
                    actions.push(Action::WriteOff { tracker, backend });
                }
                if !self.kept.on(Rule::TwoWitnesses) {
                    actions.push(Action::Dead { tracker, backend });
                }
            }
            if at.cold {
                actions.push(Action::Warm { tracker });
            }
            if config.change.is_some() && at.epoch == 0 {
                actions.push(Action::List { tracker });
            }
        }
    }

    /// What may be voted on first.
    fn candidates(&self, state: &State) -> impl Iterator<Item = Candidate> + use<> {
        let named = (0..=usize::from(state.used)).filter(|&b| b < self.config.backends);
        let last = self.config.refusal.then_some(Candidate::Refused);
        named.map(|b| Candidate::Backend(b as u8)).collect::<Vec<_>>().into_iter().chain(last)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are steps of other parts")]
    pub(crate) fn tracker_step(&self, last: &State, action: Action) -> Option<State> {
        match action {
            Action::Head { tracker, incarnation, candidate } => {
                self.head(last, tracker.into(), incarnation.into(), candidate)
            }
            Action::Again { tracker } => self.again(last, tracker.into()),
            Action::Second { tracker, vote } => self.second(last, tracker.into(), vote),
            Action::Next { tracker, candidate } => {
                self.next_candidate(last, tracker.into(), candidate)
            }
            Action::Free { tracker } | Action::Expire { tracker } => {
                let mut next = last.clone();
                next.trackers[usize::from(tracker)].entry = Entry::None;
                Some(next)
            }
            Action::Accept { tracker, backend, incarnation } => {
                self.changed(last, tracker.into(), |kept, t| kept.accept(t, backend, incarnation))
            }
            Action::Close { tracker, backend, incarnation } => {
                self.changed(last, tracker.into(), |kept, t| kept.close(t, backend, incarnation))
            }
            Action::Unknown { tracker } => self.unknown(last, tracker.into()),
            Action::Proof { tracker } => self.proof(last, tracker.into()),
            Action::Crash { tracker } => Some(self.crash(last, tracker.into())),
            Action::Receive { tracker, backend } => {
                self.changed(last, tracker.into(), |kept, t| kept.receive(t, tracker, backend))
            }
            Action::WriteOff { tracker, backend } => {
                self.changed(last, tracker.into(), |_, t| t.markers |= 1 << backend)
            }
            Action::Dead { tracker, backend } => self.changed(last, tracker.into(), |_, t| {
                if t.cold {
                    t.markers |= 1 << backend;
                }
                if let Entry::Established(_, at) = t.entry
                    && at == backend
                {
                    t.entry = Entry::None;
                }
            }),
            Action::Warm { tracker } => self.warm(last, tracker.into()),
            Action::List { tracker } => Some(self.list(last, tracker.into())),
            _ => None,
        }
    }

    /// What a step makes of one tracker, if anything.
    fn changed(
        &self,
        last: &State,
        t: usize,
        step: impl FnOnce(&Self, &mut Tracker),
    ) -> Option<State> {
        let mut tracker = last.trackers[t];
        step(self, &mut tracker);
        if tracker == last.trackers[t] {
            return None;
        }
        let mut next = last.clone();
        next.trackers[t] = tracker;
        Some(next)
    }

    /// Whether a tracker heads and seconds.
    fn votes(&self, last: &State, t: usize) -> bool {
        let tracker = &last.trackers[t];
        self.config.in_trio(t, tracker.epoch)
            && (!tracker.cold || !self.kept.on(Rule::Cold))
            && tracker.mode != Mode::Ending
            && (tracker.mode == Mode::Sole || self.holds_lease(last, t))
    }

    fn standing(&self, tracker: &Tracker, incarnation: usize) -> Standing {
        match tracker.entry {
            Entry::Pending(its, candidate) if usize::from(its) == incarnation => {
                return Standing::Pending(candidate);
            }
            Entry::Established(its, _) if usize::from(its) == incarnation || self.config.udp => {
                return Standing::Taken;
            }
            Entry::Pending(..) | Entry::Established(..) if self.kept.on(Rule::Incumbent) => {
                return Standing::Taken;
            }
            Entry::Pending(..) | Entry::Established(..) | Entry::None => {}
        }
        if tracker.refusals[incarnation] != 0 {
            return Standing::Refused;
        }
        if tracker.tombs[incarnation] != 0 && !self.config.udp {
            Standing::Taken
        } else {
            Standing::Free
        }
    }

    fn head(
        &self,
        last: &State,
        t: usize,
        incarnation: usize,
        candidate: Candidate,
    ) -> Option<State> {
        if !self.votes(last, t)
            || last.has_refused(incarnation, candidate)
            || !matches!(self.standing(&last.trackers[t], incarnation), Standing::Free)
        {
            return None;
        }
        let mut next = last.clone();
        self.propose(&mut next, t, incarnation, candidate);
        Some(next)
    }

    /// A vote of our own, stored, and what is said with it.
    fn propose(&self, next: &mut State, t: usize, incarnation: usize, candidate: Candidate) {
        let tracker = &mut next.trackers[t];
        if candidate == Candidate::Refused {
            let alone = !self.kept.on(Rule::RefusalIsVoted) || tracker.mode == Mode::Sole;
            tracker.refusals[incarnation] = if alone { VOTED } else { UNVOTED };
            if matches!(tracker.entry, Entry::Pending(its, _) if usize::from(its) == incarnation) {
                tracker.entry = Entry::None;
            }
            if alone {
                self.refuse_client(next, incarnation);
                return;
            }
        } else {
            tracker.entry = Entry::Pending(incarnation as u8, candidate);
        }
        self.drive(next, t, incarnation, candidate);
    }

    /// Sends what is stored on its way.
    fn drive(&self, next: &mut State, t: usize, incarnation: usize, candidate: Candidate) {
        let Tracker { boot, epoch, mode, .. } = next.trackers[t];
        next.name(incarnation, candidate);
        let vote = Vote::new((t, boot), epoch, incarnation, candidate);
        if mode == Mode::Sole {
            next.offers.say(Offer::new(vote, (t, boot), epoch));
            return;
        }
        next.votes.say(vote);
        if !self.kept.on(Rule::TwoVotes) {
            for second in (0..TRACKERS).filter(|&s| s != t && self.config.in_trio(s, epoch)) {
                let boot = next.trackers[second].boot;
                next.offers.say(Offer::new(vote, (second, boot), epoch));
            }
        }
    }

    fn again(&self, last: &State, t: usize) -> Option<State> {
        if !self.votes(last, t) {
            return None;
        }
        let mut next = last.clone();
        if let Entry::Pending(incarnation, candidate) = last.trackers[t].entry {
            self.drive(&mut next, t, incarnation.into(), candidate);
        }
        for incarnation in 0..INCARNATIONS {
            if last.trackers[t].refusals[incarnation] == UNVOTED {
                self.drive(&mut next, t, incarnation, Candidate::Refused);
            }
        }
        (next != *last).then_some(next)
    }

    fn second(&self, last: &State, t: usize, vote: Vote) -> Option<State> {
        let tracker = &last.trackers[t];
        let epoch = tracker.epoch;
        if vote.tracker() == t
            || !self.votes(last, t)
            || !self.config.in_trio(vote.tracker(), epoch)
            || vote.epoch() != epoch && self.kept.on(Rule::OneEpoch)
            // Of a vote for a backend the agent's fence is enough.
            || vote.candidate() == Candidate::Refused && self.disowned(&last.trackers, vote)
        {
            return None;
        }
        let (incarnation, candidate) = (vote.incarnation(), vote.candidate());
        let adopts = match self.standing(tracker, incarnation) {
            Standing::Free => true,
            Standing::Refused if candidate == Candidate::Refused => true,
            Standing::Taken | Standing::Refused => return None,
            Standing::Pending(stored) if stored == candidate => false,
            Standing::Pending(stored)
                if !self.kept.has(Switch::ForceApart)
                    && stored.backend() == candidate.backend() =>
            {
                false
            }
            Standing::Pending(stored) => {
                let gives_way = last.has_refused(incarnation, stored)
                    || !self.kept.on(Rule::FirstWriterWins)
                    || !self.kept.on(Rule::SplitVotes) && vote.tracker() < t;
                if !gives_way {
                    return None;
                }
                true
            }
        };
        let mut next = last.clone();
        if candidate == Candidate::Refused {
            next.trackers[t].refusals[incarnation] = VOTED;
            if let Entry::Pending(its, _) = tracker.entry
                && usize::from(its) == incarnation
            {
                next.trackers[t].entry = Entry::None;
            }
            self.refuse_client(&mut next, incarnation);
        } else {
            if adopts {
                next.trackers[t].entry = Entry::Pending(incarnation as u8, candidate);
                next.name(incarnation, candidate);
            }
            next.offers.say(Offer::new(vote, (t, tracker.boot), epoch));
        }
        (next != *last).then_some(next)
    }

    /// The client is told that nobody takes its flow.
    fn refuse_client(&self, next: &mut State, incarnation: usize) {
        if next.backends.iter().any(|b| b.lives(incarnation)) {
            next.violate(Violation::Refused);
        }
        next.refused |= 1 << incarnation;
    }

    /// The backend's word is enough for another try, whether we are cold or not.
    fn next_candidate(&self, last: &State, t: usize, candidate: Candidate) -> Option<State> {
        let tracker = &last.trackers[t];
        let Entry::Pending(incarnation, _) = tracker.entry else { return None };
        let incarnation = usize::from(incarnation);
        if last.has_refused(incarnation, candidate) || !self.config.in_trio(t, tracker.epoch) {
            return None;
        }
        let mut next = last.clone();
        self.propose(&mut next, t, incarnation, candidate);
        Some(next)
    }

    fn accept(&self, tracker: &mut Tracker, backend: u8, incarnation: u8) {
        let later = if self.config.udp { INCARNATIONS } else { usize::from(incarnation) + 1 };
        if tracker.tombs[usize::from(incarnation)..later].contains(&(backend + 1)) {
            return;
        }
        let ours = match tracker.entry {
            Entry::None => true,
            Entry::Pending(its, candidate) => {
                let its = self.config.udp || its == incarnation;
                its && candidate.backend() == Some(backend.into())
            }
            Entry::Established(..) => false,
        };
        if ours || !self.kept.on(Rule::FirstWriterWins) {
            tracker.entry = Entry::Established(incarnation, backend);
        }
    }

    fn close(&self, tracker: &mut Tracker, backend: u8, incarnation: u8) {
        if self.kept.on(Rule::Tombstones) {
            tracker.tombs[usize::from(incarnation)] = backend + 1;
        }
        let ended = match tracker.entry {
            Entry::Established(its, at) => its == incarnation && at == backend,
            // A pending UDP flow has no number yet: this may be the end of the one before.
            Entry::Pending(its, candidate) => {
                let its = !self.config.udp && its == incarnation;
                its && candidate.backend() == Some(backend.into())
            }
            Entry::None => false,
        };
        if ended {
            tracker.entry = Entry::None;
        }
    }

    fn unknown(&self, last: &State, t: usize) -> Option<State> {
        let tracker = &last.trackers[t];
        let bit = 1 << (t + 4 * usize::from(tracker.epoch));
        // A packet that waits is of a flow that lives; that of another time is not what it asks about.
        let asked = last.any_live() || !self.kept.on(Rule::UnknownByNonce);
        let alone = matches!(tracker.mode, Mode::Sole | Mode::Ending);
        if !asked
            || last.unknown & bit != 0
            || !self.config.in_trio(t, tracker.epoch)
            || tracker.cold && self.kept.on(Rule::Cold)
            || tracker.entry != Entry::None
            || alone && self.kept.has(Switch::SoleIsNoTwo)
            || !self.holds_lease(last, t)
        {
            return None;
        }
        let mut next = last.clone();
        next.unknown |= bit;
        Some(next)
    }

    fn proof(&self, last: &State, t: usize) -> Option<State> {
        let Entry::Established(incarnation, b) = last.trackers[t].entry else { return None };
        let backend = &last.backends[usize::from(b)];
        let proven = backend.closed(incarnation.into())
            || backend.denied && !self.kept.on(Rule::VersionedWord);
        if !proven {
            return None;
        }
        let mut next = last.clone();
        next.trackers[t].entry = Entry::None;
        if self.kept.has(Switch::ProofBuries) && self.kept.on(Rule::Tombstones) {
            next.trackers[t].tombs[usize::from(incarnation)] = b + 1;
        }
        Some(next)
    }

    fn crash(&self, last: &State, t: usize) -> State {
        let mut next = last.clone();
        let Tracker { boot, epoch, .. } = last.trackers[t];
        let cold = self.kept.on(Rule::Cold);
        next.trackers[t] =
            Tracker { boot: boot + 1, epoch, cold, booted: cold, ..Tracker::default() };
        next.crashes += 1;
        next
    }

    /// A marker, and the list that came before it.
    pub(crate) fn receive(&self, tracker: &mut Tracker, t: u8, backend: u8) {
        let mut listed = core::mem::take(&mut tracker.listed[usize::from(backend)]) - 1;
        let mut whole = true;
        for incarnation in 0..INCARNATIONS as u8 {
            match listed % 3 {
                1 => {
                    self.accept(tracker, backend, incarnation);
                    whole &= tracker.entry == Entry::Established(incarnation, backend)
                        || tracker.tombs[usize::from(incarnation)] == backend + 1;
                }
                2 => self.close(tracker, backend, incarnation),
                _ => {}
            }
            listed /= 3;
        }
        // While there is a sole owner, only its own markers count.
        let owner = if matches!(tracker.mode, Mode::Pulling | Mode::Sole) { t + 1 } else { 0 };
        if listed == owner && (whole || !self.kept.has(Switch::MarkerIsWhole)) {
            tracker.markers |= 1 << backend;
        }
    }

    fn warm(&self, last: &State, t: usize) -> Option<State> {
        let tracker = &last.trackers[t];
        let ready = tracker.markers == self.config.all_backends()
            && tracker.mode != Mode::Pulling
            && self.is_admitted(last, t)
            && self.confirmed(last, t);
        if !ready {
            return None;
        }
        let mut next = last.clone();
        let tracker = &mut next.trackers[t];
        (tracker.cold, tracker.booted, tracker.markers) = (false, false, 0);
        tracker.listed = Default::default();
        Some(next)
    }

    /// Whether enough others are in our epoch (rule 11).
    fn confirmed(&self, last: &State, t: usize) -> bool {
        let Tracker { epoch, booted, .. } = last.trackers[t];
        if epoch == 0 || !self.kept.has(Switch::Confirmation) {
            return true;
        }
        let others = |of: u8| (0..TRACKERS).filter(move |&o| o != t && self.config.in_trio(o, of));
        let knows = |&o: &usize| last.trackers[o].epoch >= epoch;
        if !booted {
            return others(epoch - 1).filter(knows).count() >= 2;
        }
        // Whom it takes for dead it does not wait for, and it may be wrong.
        !self.kept.has(Switch::BootedWaitsForAll) || others(epoch).all(|o| knows(&o))
    }

    fn list(&self, last: &State, t: usize) -> State {
        let mut next = last.clone();
        let tracker = &mut next.trackers[t];
        let (was, is) = (self.config.in_trio(t, 0), self.config.in_trio(t, 1));
        tracker.epoch = 1;
        tracker.markers = 0;
        tracker.listed = Default::default();
        if is && !was && self.kept.on(Rule::Cold) {
            (tracker.cold, tracker.booted) = (true, false);
        }
        if was && !is && matches!(tracker.entry, Entry::Established(..)) {
            tracker.entry = Entry::None;
        }
        next
    }
}
