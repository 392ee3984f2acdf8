//! What load has to say about a new flow. (What is configured against it, or missing, comes before: docs/protocol.md,
//! section 6.) The kernel half asks this for every flow that it has not decided on; the bench for every simulated one.

use jlb_wire::{Bar, RejectReason};

/// How busy a host is when it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// Live flows of the service.
    pub live: u32,
    /// Live flows of all services.
    pub all: u32,
    /// Depth of the listener's accept queue, young requests included.
    pub queue: u32,
}

/// How busy it may be; 0 for no limit, but of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Live flows of the service.
    pub live: u32,
    /// Live flows of all services.
    pub all: u32,
    /// What the listener's accept queue holds at most.
    pub queue: u32,
}

impl Busy {
    /// Why the flow is to be refused, if it is not forced: because this host cannot bear it, or because others are less
    /// busy (`bar`).
    #[must_use]
    pub const fn refusal(&self, limits: &Limits, bar: Bar) -> Option<RejectReason> {
        if limits.live != 0 && self.live >= limits.live || limits.all != 0 && self.all >= limits.all
        {
            Some(RejectReason::MaxConnections)
        } else if self.queue > limits.queue {
            Some(RejectReason::QueueFull)
        } else if bar.refuses(self.live) {
            Some(RejectReason::Busy)
        } else {
            None
        }
    }
}
