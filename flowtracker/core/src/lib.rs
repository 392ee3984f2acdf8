//! The flow tracker: which flow is on which backend.
//!
//! An ingress that meets a new flow sends **Open** to a tracker of the flow's trio. That one heads the chain: it picks
//! a backend, stores the choice and asks another tracker of the trio to stand second; the second stores it too and asks
//! the backend. So a backend only ever decides on what two trackers have written down, and what it answers comes back
//! the same way: **Accept** is stored as established, **Reject** makes the head pick another one.
//!
//! The rules that keep one flow on one backend whatever is lost, doubled, reordered or wrongly suspected are those of
//! `docs/protocol.md`, section 5; each is one `if self.rules.on(Rule::…)` here.
//!
//! | module | |
//! |---|---|
//! | `tracker` | the role: who gets a packet, time, events |
//! | `open` | Open from an ingress, from a tracker |
//! | `answer` | Accept, Reject, Close |
//! | `query` | Query; what belongs to other trackers |
//! | `pull` | Refresh: the backends tell what flows they have |
//! | `refresh` | one pull: batches asked for and come |
//! | `sources` | the backends' end markers, and whom to pull when |
//! | `warmth` | the partitions of which we do not yet know all flows |
//! | `lease` | whether another one may decide alone |
//! | `sole` | the last one of a trio decides alone |
//! | `leave` | when we may go without loss |
//! | `send` | the messages that we write |
//! | `store` | flows, pending entries, tombstones, refusals; all bounded |
//! | `choice` | whom new flows may be offered to |
//! | `pick` | the policies: who is offered one, by what is known of the backends' load |
#![forbid(unsafe_code)]

mod answer;
mod choice;
mod entry;
mod lease;
mod leave;
mod metrics;
mod open;
pub mod pick;
mod pull;
mod query;
mod refresh;
mod send;
mod sole;
mod sources;
mod store;
mod tracker;
mod warmth;

pub use entry::{Candidate, FlowState, FlowView};
pub use store::Counts;
pub use tracker::{Tracker, TrackerConfig, TrackerEvent};

#[cfg(test)]
mod tests;
