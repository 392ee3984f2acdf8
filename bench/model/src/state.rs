//! What there is: trackers, backends, and what was ever said.

/// Trackers at most: a trio, and one that joins.
pub(crate) const TRACKERS: usize = 4;
/// Backends at most.
pub(crate) const BACKENDS: usize = 3;
/// Incarnations of the one five-tuple.
pub(crate) const INCARNATIONS: usize = 2;

/// What trackers vote on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Candidate {
    /// This backend, if it wants.
    Backend(u8),
    /// This backend, whatever its load.
    Force(u8),
    /// Nobody.
    Refused,
}

impl Candidate {
    const fn code(self) -> u16 {
        match self {
            Self::Backend(b) => b as u16,
            Self::Force(b) => 3 + b as u16,
            Self::Refused => 6,
        }
    }

    const fn from_code(code: u16) -> Self {
        match code {
            0..3 => Self::Backend(code as u8),
            3..6 => Self::Force(code as u8 - 3),
            _ => Self::Refused,
        }
    }

    /// The backend that is asked.
    #[must_use]
    pub const fn backend(self) -> Option<usize> {
        match self {
            Self::Backend(b) | Self::Force(b) => Some(b as usize),
            Self::Refused => None,
        }
    }

    pub(crate) const fn is_forced(self) -> bool {
        matches!(self, Self::Force(_))
    }
}

/// "This tracker, in this boot and epoch, heads a chain for this candidate": an Open that any other may get, at any
/// time, as often as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vote(u16);

impl Vote {
    pub(crate) const fn new(
        (tracker, boot): (usize, u8),
        epoch: u8,
        incarnation: usize,
        candidate: Candidate,
    ) -> Self {
        Self(
            (tracker as u16)
                | (boot as u16) << 2
                | (epoch as u16) << 4
                | (incarnation as u16) << 5
                | candidate.code() << 6,
        )
    }

    pub(crate) const fn tracker(self) -> usize {
        (self.0 & 3) as usize
    }

    pub(crate) const fn boot(self) -> u8 {
        (self.0 >> 2 & 3) as u8
    }

    pub(crate) const fn epoch(self) -> u8 {
        (self.0 >> 4 & 1) as u8
    }

    pub(crate) const fn incarnation(self) -> usize {
        (self.0 >> 5 & 1) as usize
    }

    pub(crate) const fn candidate(self) -> Candidate {
        Candidate::from_code(self.0 >> 6)
    }
}

/// "These two, in these boots, voted in this epoch": an Open that the candidate's backend may get, at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offer(u16);

impl Offer {
    pub(crate) const fn new(vote: Vote, (second, boot): (usize, u8), epoch: u8) -> Self {
        let (head, head_boot) = (vote.tracker(), vote.boot());
        // Who heads makes no difference to the backend.
        let ((a, a_boot), (b, b_boot)) = if head <= second {
            ((head, head_boot), (second, boot))
        } else {
            ((second, boot), (head, head_boot))
        };
        Self(
            (a as u16)
                | (a_boot as u16) << 2
                | (b as u16) << 4
                | (b_boot as u16) << 6
                | (epoch as u16) << 8
                | (vote.incarnation() as u16) << 9
                | vote.candidate().code() << 10,
        )
    }

    pub(crate) const fn voters(self) -> [(usize, u8); 2] {
        [
            ((self.0 & 3) as usize, (self.0 >> 2 & 3) as u8),
            ((self.0 >> 4 & 3) as usize, (self.0 >> 6 & 3) as u8),
        ]
    }

    pub(crate) const fn epoch(self) -> u8 {
        (self.0 >> 8 & 1) as u8
    }

    pub(crate) const fn incarnation(self) -> usize {
        (self.0 >> 9 & 1) as usize
    }

    pub(crate) const fn candidate(self) -> Candidate {
        Candidate::from_code(self.0 >> 10)
    }
}

/// A sorted set of what was said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Said<T>(Vec<T>);

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord + Copy> Said<T> {
    pub(crate) fn say(&mut self, it: T) {
        if let Err(place) = self.0.binary_search(&it) {
            self.0.insert(place, it);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(T) -> bool) {
        self.0.retain(|&it| keep(it));
    }
}

/// What a tracker holds of the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    #[default]
    None,
    Pending(u8, Candidate),
    /// Incarnation and backend.
    Established(u8, u8),
}

/// A tracker's way to being the sole owner and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// Two votes.
    #[default]
    Two,
    /// Tells the agents, and waits for all.
    Fencing,
    /// Pulls anew.
    Pulling,
    /// Alone.
    Sole,
    /// Tells the agents that it is over.
    Ending,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tracker {
    pub(crate) boot: u8,
    pub(crate) epoch: u8,
    pub(crate) cold: bool,
    /// Cold since it booted: it does not know the old trio.
    pub(crate) booted: bool,
    pub(crate) entry: Entry,
    /// By incarnation: the backend that closed it, plus 1.
    pub(crate) tombs: [u8; INCARNATIONS],
    /// By incarnation: nothing, our own vote to refuse, or one that another has stored too.
    pub(crate) refusals: [u8; INCARNATIONS],
    /// Backends whose marker is here, a bit each.
    pub(crate) markers: u8,
    /// By backend: what it listed for us and is under way, plus 1.
    pub(crate) listed: [u8; BACKENDS],
    pub(crate) mode: Mode,
    /// Agents that have obeyed, a bit each.
    pub(crate) acks: u8,
}

pub(crate) const UNVOTED: u8 = 1;
pub(crate) const VOTED: u8 = 2;

pub(crate) const LIVE: u8 = 1;
pub(crate) const CLOSED: u8 = 2;
pub(crate) const REJECTED: u8 = 4;
pub(crate) const FORCE_REJECTED: u8 = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Backend {
    pub(crate) epoch: u8,
    /// By incarnation, what was decided.
    pub(crate) answers: [u8; INCARNATIONS],
    /// By tracker, its boot as it is known here.
    pub(crate) boots: [u8; TRACKERS],
    /// The sole owner, plus 1.
    pub(crate) sole: u8,
    /// Trackers that have not pulled since there was a sole owner, a bit each.
    pub(crate) unpulled: u8,
    /// A NotMine was said here while nothing was live.
    pub(crate) denied: bool,
}

impl Backend {
    pub(crate) const fn took(&self, incarnation: usize) -> bool {
        self.answers[incarnation] & (LIVE | CLOSED) != 0
    }

    pub(crate) const fn lives(&self, incarnation: usize) -> bool {
        self.answers[incarnation] & LIVE != 0
    }

    pub(crate) const fn closed(&self, incarnation: usize) -> bool {
        self.answers[incarnation] & CLOSED != 0
    }

    pub(crate) const fn rejected(&self, incarnation: usize, forced: bool) -> bool {
        self.answers[incarnation] & if forced { FORCE_REJECTED } else { REJECTED } != 0
    }

    /// Whether a tracker is not shut out: nobody else is the sole owner, and it has pulled since somebody was.
    pub(crate) const fn admits(&self, tracker: usize) -> bool {
        (self.sole == 0 || self.sole as usize == tracker + 1) && self.unpulled >> tracker & 1 == 0
    }

    pub(crate) fn live(&self) -> Option<usize> {
        (0..INCARNATIONS).find(|&i| self.lives(i))
    }
}

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// One incarnation was taken by two backends (invariant 1).
    TwoBackends,
    /// Two incarnations of the five-tuple live, on two backends: one of them gets the other's packets (invariant 1).
    TwoLive,
    /// A packet of a live flow was delivered on a backend that it does not live on (invariant 1).
    Delivered,
    /// A client was told that nobody knows its live flow (invariant 2).
    Unknown,
    /// A client was told that nobody takes its flow, and it lives (invariant 2).
    Refused,
}

impl Violation {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::TwoBackends, Self::TwoLive, Self::Delivered, Self::Unknown, Self::Refused];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwoBackends => "one incarnation on two backends",
            Self::TwoLive => "two live flows of one five-tuple on two backends",
            Self::Delivered => "a live flow's packet delivered elsewhere",
            Self::Unknown => "a live flow answered with \"nobody knows\"",
            Self::Refused => "a live flow refused",
        }
    }
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) trackers: [Tracker; TRACKERS],
    pub(crate) backends: [Backend; BACKENDS],
    pub(crate) votes: Said<Vote>,
    pub(crate) offers: Said<Offer>,
    /// Candidates that a backend may be told to cancel, by incarnation a byte.
    pub(crate) proposed: [u8; INCARNATIONS],
    /// How many backends were ever a candidate: they are named in that order.
    pub(crate) used: u8,
    /// Who said that it knows nothing, a bit per tracker and epoch.
    pub(crate) unknown: u8,
    /// Incarnations whose refusal was said to the client, a bit each.
    pub(crate) refused: u8,
    /// UDP flows that were numbered.
    pub(crate) numbered: u8,
    pub(crate) crashes: u8,
    pub(crate) fences: u8,
    pub(crate) violation: Option<Violation>,
}

impl State {
    /// Whether the backend of a candidate said no to it.
    pub(crate) fn has_refused(&self, incarnation: usize, candidate: Candidate) -> bool {
        candidate
            .backend()
            .is_some_and(|b| self.backends[b].rejected(incarnation, candidate.is_forced()))
    }

    /// The incarnation that lives somewhere.
    pub(crate) fn any_live(&self) -> bool {
        self.backends.iter().any(|b| b.live().is_some())
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }
}
