//! What must always hold (design, section 8), watched from outside at every step: on the wire, at the stacks' doors, at
//! the clients. Nothing here asks a role what it believes, except how much it holds.

mod durable;
mod opens;
mod order;
mod silence;
mod sticky;

use core::fmt;

use jlb_role::Nanos;
use jlb_wire::FiveTuple;

pub(crate) use durable::Durable;
pub(crate) use opens::Opens;
pub(crate) use order::Order;
pub(crate) use silence::Silence;
pub(crate) use sticky::Sticky;

/// Violations kept of one run: the first is what counts, the rest is company.
const MOST: usize = 16;

/// What was violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// 1: all packets of one incarnation of a flow that any host delivers to its stack are delivered on one backend.
    Stickiness,
    /// 2: once a client can have seen a SYN-ACK, its connection lives as long as its backend's host, and goes on once
    /// the faults have ended.
    Durability,
    /// 3: every Open ends in Accept or as the service's `on_exhausted` says, within TTL + 1 tries and 1 s, else in a
    /// counted timeout; where nothing goes wrong, clients get what they came for.
    Termination,
    /// 4: after closes and quiet nobody holds a flow, then no trace of it; pools are at their starting level.
    NoLeak,
    /// 5: no packet from outside makes more than a constant number inside.
    NoAmplification,
    /// An established connection is not reset while its server still has it.
    Survival,
    /// What waited for an answer goes on in the order in which it came.
    Order,
    /// Clients and servers get the bytes that the other side sent, in well-formed packets.
    Bytes,
    /// A role broke its contract with the driver.
    Contract,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stickiness => "stickiness (1)",
            Self::Durability => "durability (2)",
            Self::Termination => "termination (3)",
            Self::NoLeak => "no leak (4)",
            Self::NoAmplification => "no amplification (5)",
            Self::Survival => "survival",
            Self::Order => "order",
            Self::Bytes => "bytes",
            Self::Contract => "contract",
        })
    }
}

/// One thing that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What was violated.
    pub invariant: Invariant,
    /// When, in virtual time.
    pub at: Nanos,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.invariant, self.at, self.what)
    }
}

/// The violations of one run.
#[derive(Debug, Default)]
pub(crate) struct Found(pub(crate) Vec<Violation>);

impl Found {
    pub(crate) fn add(&mut self, invariant: Invariant, at: Nanos, what: impl FnOnce() -> String) {
        if self.0.len() < MOST {
            self.0.push(Violation { invariant, at, what: what() });
        }
    }
}

/// An incarnation of a flow, as the clients began it: a TCP connection by its ISN, a UDP conversation by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Life {
    pub(crate) tuple: FiveTuple,
    pub(crate) isn: u32,
}
