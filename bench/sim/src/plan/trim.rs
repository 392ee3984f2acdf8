//! What is left out of a drawn plan, to see what a violation needs.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeSet;

use super::{Bounds, Plan};
use crate::fabric::Faults;

/// A kind of trouble that can be left out as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// What the network between members does to packets.
    Inside,
    /// What the network between clients and the cluster does to packets.
    Outside,
    /// Links that lose, are deaf or slow.
    Links,
    /// Server processes that restart.
    Restarts,
    /// SYNs in other clients' names.
    Spoofs,
    /// Packets of former connections.
    Strays,
    /// Empty mempools.
    Buffers,
    /// Tables that are full before long.
    Bounds,
    /// Clocks that drift.
    Drift,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Inside,
        Self::Outside,
        Self::Links,
        Self::Restarts,
        Self::Spoofs,
        Self::Strays,
        Self::Buffers,
        Self::Bounds,
        Self::Drift,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Outside => "outside",
            Self::Links => "links",
            Self::Restarts => "restarts",
            Self::Spoofs => "spoofs",
            Self::Strays => "strays",
            Self::Buffers => "buffers",
            Self::Bounds => "bounds",
            Self::Drift => "drift",
        }
    }
}

/// One part of a plan. As text `inside`, `fault-3`, `client-17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A kind of trouble.
    Trouble(Trouble),
    /// The fault of that number, in the order of time.
    Fault(usize),
    /// The client of that number, and those who use its port after it.
    Client(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trouble(trouble) => f.write_str(trouble.name()),
            Self::Fault(n) => write!(f, "fault-{n}"),
            Self::Client(n) => write!(f, "client-{n}"),
        }
    }
}

/// A text that names no part of a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither fault-N nor client-N nor a kind of trouble: {0}")]
pub struct NoSuchPart(String);

impl FromStr for Part {
    type Err = NoSuchPart;

    fn from_str(text: &str) -> Result<Self, NoSuchPart> {
        let numbered = |prefix: &str| text.strip_prefix(prefix).and_then(|n| n.parse().ok());
        if let Some(n) = numbered("fault-") {
            return Ok(Self::Fault(n));
        }
        if let Some(n) = numbered("client-") {
            return Ok(Self::Client(n));
        }
        let trouble = Trouble::ALL.into_iter().find(|trouble| trouble.name() == text);
        trouble.map(Self::Trouble).ok_or_else(|| NoSuchPart(text.to_owned()))
    }
}

impl Plan {
    /// Everything that can be left out, the largest parts first.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let troubles = Trouble::ALL.into_iter().map(Part::Trouble);
        let faults = (0..self.faults.len()).map(Part::Fault);
        let clients = (0..self.clients.len()).map(Part::Client);
        troubles.chain(faults).chain(clients).collect()
    }

    /// Leaves these out.
    pub(crate) fn leave_out(&mut self, parts: &BTreeSet<Part>) {
        for part in parts {
            match part {
                Part::Trouble(trouble) => self.without(*trouble),
                Part::Client(n) => self.silence(*n),
                Part::Fault(_) => {}
            }
        }
        let faults = core::mem::take(&mut self.faults).into_iter().enumerate();
        let kept = faults.filter(|(n, _)| !parts.contains(&Part::Fault(*n)));
        self.faults = kept.map(|(_, fault)| fault).collect();
    }

    fn without(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Inside => self.inside = Faults::none(),
            Trouble::Outside => self.outside = Faults::none(),
            Trouble::Links => {
                self.bad_links.clear();
                self.deaf_links.clear();
                self.slow_links.clear();
                self.late_orders.clear();
            }
            Trouble::Restarts => self.restarts.clear(),
            Trouble::Spoofs => self.spoofs.clear(),
            Trouble::Strays => self.strays.clear(),
            Trouble::Buffers => (self.no_buffer, self.short_of_buffers) = (0, false),
            Trouble::Bounds => self.bounds = Bounds::AMPLE,
            Trouble::Drift => self.drift.clear(),
        }
    }

    /// A client never comes, nor do those who wait for its end.
    fn silence(&mut self, client: usize) {
        let mut last = Some(client);
        for n in client..self.clients.len() {
            let c = &mut self.clients[n];
            if n == client || c.predecessor.is_some() && c.predecessor == last {
                c.stay_away();
                last = Some(n);
                self.spoofs.retain(|&(_, of)| of != n);
                self.strays.retain(|&(_, of)| of != n);
            }
        }
    }
}
