//! What is combined with what: each configuration is small enough to be searched to its end.

use crate::state::INCARNATIONS;

/// A change of the list's epoch. Trackers 0, 1 and 2 are the old trio, 3 joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who leaves the trio for it.
    pub leaver: usize,
    /// The joiner has just booted, with the new list, and never saw the old one.
    pub joiner_boots: bool,
}

/// Whether an agent's word that a partition has a sole owner reaches the other trackers in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notices {
    /// All trackers are cold before the owner goes on.
    Timely,
    /// Any may be lost.
    Lossy,
}

/// What the model combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Backends.
    pub backends: usize,
    /// Incarnations of the five-tuple whose SYN may come at any time: two are a spoofed SYN, or a reused port.
    pub incarnations: usize,
    /// UDP: no Open says which flow of the five-tuple it is about, the agent that takes one numbers it.
    pub udp: bool,
    /// Trackers that crash and restart.
    pub crashes: u8,
    /// A client can be refused, with two votes.
    pub refusal: bool,
    /// A backend can be forced.
    pub force: bool,
    /// Flows end.
    pub closes: bool,
    /// Other ingress hosts ask where the flow lives.
    pub queries: bool,
    /// The epoch changes once.
    pub change: Option<Change>,
    /// Trackers may fence as sole owner, so many times in all.
    pub fences: u8,
    /// So many trackers are ever wrong about both others.
    pub lonely: usize,
    /// Agents, too, take the sole owner for dead.
    pub silence: bool,
    /// Where its search stops unless told otherwise: steps, seen before or not. None: at its end.
    pub bound: Option<usize>,
    /// Markers are received as they are made. (Other configurations have them late.)
    pub prompt: bool,
    /// Of fences.
    pub notices: Notices,
}

/// Some minutes' worth of steps.
const MINUTES: Option<usize> = Some(30_000_000);

/// Nothing but opening a flow.
const OPENING: Config = Config {
    name: "opening",
    about: "any tracker heads, any refusal, two votes",
    backends: 3,
    incarnations: 1,
    udp: false,
    crashes: 0,
    refusal: false,
    force: false,
    closes: false,
    queries: true,
    change: None,
    fences: 0,
    lonely: 1,
    silence: false,
    bound: None,
    prompt: false,
    notices: Notices::Timely,
};

const SOLE: Config = Config {
    name: "sole",
    about: "a sole owner, and the way back; all notices come in time",
    backends: 2,
    fences: 1,
    prompt: true,
    ..OPENING
};

const JOINS: Change = Change { leaver: 2, joiner_boots: false };
const BOOTS: Change = Change { leaver: 2, joiner_boots: true };

/// All configurations.
pub const CONFIGS: &[Config] = &[
    OPENING,
    Config {
        name: "life",
        about: "open, close, asked from anywhere, old SYNs",
        backends: 2,
        closes: true,
        ..OPENING
    },
    Config {
        name: "refusal",
        about: "refusing the client is voted, force is another question",
        backends: 2,
        refusal: true,
        force: true,
        closes: true,
        ..OPENING
    },
    Config {
        name: "reuse",
        about: "a spoofed SYN, or a port used again",
        backends: 2,
        incarnations: 2,
        closes: true,
        ..OPENING
    },
    Config {
        name: "crash",
        about: "a tracker crashes and restarts",
        backends: 3,
        crashes: 1,
        closes: true,
        ..OPENING
    },
    Config {
        name: "crashes",
        about: "two crashes with restart",
        backends: 2,
        crashes: 2,
        closes: true,
        ..OPENING
    },
    Config {
        name: "crash-reuse",
        about: "a crash with restart, and a spoofed SYN or a port used again",
        backends: 2,
        incarnations: 2,
        crashes: 1,
        closes: true,
        ..OPENING
    },
    Config {
        name: "crash-refusal",
        about: "a crash with restart while the client is refused",
        backends: 2,
        crashes: 1,
        refusal: true,
        ..OPENING
    },
    Config {
        name: "udp",
        about: "UDP: two flows of one five-tuple, one after the other",
        backends: 2,
        udp: true,
        queries: false,
        closes: true,
        ..OPENING
    },
    Config {
        name: "udp-crash",
        about: "UDP, and a crash with restart",
        backends: 2,
        udp: true,
        queries: false,
        crashes: 1,
        closes: true,
        ..OPENING
    },
    Config {
        name: "epoch",
        about: "a running tracker joins the trio, another leaves it",
        backends: 2,
        closes: true,
        change: Some(JOINS),
        ..OPENING
    },
    Config {
        name: "epoch-boot",
        about: "a tracker that has just booted joins the trio, another leaves it",
        backends: 2,
        closes: true,
        change: Some(BOOTS),
        ..OPENING
    },
    Config {
        name: "epoch-crash",
        about: "a crash with restart during a change of epoch",
        backends: 2,
        crashes: 1,
        change: Some(JOINS),
        ..OPENING
    },
    Config {
        name: "epoch-boot-crash",
        about: "a crash with restart while a tracker boots into the trio",
        backends: 2,
        crashes: 1,
        change: Some(BOOTS),
        ..OPENING
    },
    Config {
        name: "epoch-reuse",
        about: "a spoofed SYN or a port used again during a change of epoch",
        backends: 2,
        incarnations: 2,
        closes: true,
        queries: false,
        change: Some(JOINS),
        bound: MINUTES,
        ..OPENING
    },
    SOLE,
    Config {
        name: "sole-lossy",
        about: "a sole owner that nobody hears of but the agents",
        notices: Notices::Lossy,
        ..SOLE
    },
    Config {
        name: "sole-silent",
        about: "a sole owner that agents take for dead",
        notices: Notices::Lossy,
        silence: true,
        ..SOLE
    },
    Config {
        name: "sole-crash",
        about: "a crash with restart around a sole owner",
        crashes: 1,
        notices: Notices::Lossy,
        ..SOLE
    },
    Config {
        name: "soles",
        about: "two that want to be sole owner, one after the other or at once",
        fences: 2,
        lonely: 2,
        notices: Notices::Lossy,
        bound: MINUTES,
        ..SOLE
    },
];

impl Config {
    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        CONFIGS.iter().find(|c| c.name == name)
    }

    /// How many trackers there are.
    pub(crate) const fn trackers(&self) -> usize {
        if self.change.is_some() { 4 } else { 3 }
    }

    /// Whether a tracker is of the trio, by the list of that epoch.
    pub(crate) fn in_trio(&self, tracker: usize, epoch: u8) -> bool {
        match self.change {
            Some(change) if epoch == 1 => tracker != change.leaver,
            Some(_) | None => tracker < 3,
        }
    }

    /// Flows of the five-tuple that there can be.
    pub(crate) const fn flows(&self) -> usize {
        if self.udp { INCARNATIONS } else { self.incarnations }
    }

    pub(crate) const fn all_backends(&self) -> u8 {
        (1 << self.backends) - 1
    }
}
