use std::cmp::Reverse;
use std::collections::BinaryHeap;

use jlb_role::Nanos;

use crate::server::Job;
use crate::site::{Site, Word};
use crate::{Outcome, Scenario};

/// What happens at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A job comes.
    Arrive,
    /// Its Open, or the Reject of its last candidate, is at the head of its chain.
    AtHead { job: Job },
    /// Its Open is at the second.
    AtSecond { job: Job, second: usize },
    /// Its Open is at the server that was picked.
    AtServer { job: Job },
    /// Its request is at the server that took it.
    Start { job: Job },
    /// A server is ready with a job, unless something came in between.
    End { server: usize, version: u32 },
    /// A message of a server reaches a tracker.
    Hears(Word),
    /// A server tells all trackers its load,
    Report { server: usize },
    /// which they hear.
    Reported { server: usize, live: u32 },
    /// The first server becomes slower.
    SlowDown,
    /// A look at all servers.
    Sample,
}

/// Events by time; those of one time in the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Due>>,
    number: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Nanos, event: Event) {
        self.number += 1;
        self.heap.push(Reverse(Due { at, number: self.number, event }));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    at: Nanos,
    number: u64,
    event: Event,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Runs a scenario to its end.
#[must_use]
pub fn run(scenario: &Scenario) -> Outcome {
    let mut queue = Queue::default();
    let mut site = Site::new(scenario, &mut queue);
    let end = Nanos((scenario.seconds * 1e9) as u64);
    while let Some(Reverse(Due { at, event, .. })) = queue.heap.pop() {
        if at >= end {
            break;
        }
        site.happens(at, event, &mut queue);
    }
    site.outcome()
}
