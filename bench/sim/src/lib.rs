//! The production state machines of ingress, tracker and agent, unchanged, in one thread on virtual time.
//!
//! A seed says everything: the shape of the cluster, its services, what the network does to packets, what clients and
//! servers say to each other. The same seed gives the same run, event by event, on any machine: [`run()`].
//!
//! | part | does |
//! |---|---|
//! | `plan` | draws all of that from the seed (swarm testing: each seed has its own kinds of trouble) |
//! | `world` | the event queue's loop: links, ECMP, workers, hosts, clients; drives the roles under the contract of `jlb-role` |
//! | `stack`, `tcp` | a backend's sockets and servers; one end of a TCP connection |
//! | `check` | the invariants of the design's section 8, watched from outside at every step |
//! | [`CANARIES`] | the rules that must not be switched off without a checker seeing it |
//!
//! **What is assumed.** Invariant 1 parts the incarnations of a datagram flow by its backend's Close, or by its host
//! having let go of it, and lets late segments of a connection that is over go where its five-tuple went meanwhile.
//! Clients give up a SYN after 7 s, within what agents remember; ISNs of one five-tuple rise. Invariants 1 and 2 leave
//! out the flows of a host that died, and of one that may rightly count as dead though it lives, since neither of two
//! members heard it for 3 s; these are seen from outside and counted ([`Report::written_off`]).
#![forbid(unsafe_code)]

mod backend;
mod bytes;
mod canaries;
mod check;
mod client;
mod fabric;
mod map;
mod plan;
mod queue;
mod random;
mod run;
mod script;
mod seen;
mod stack;
mod tcp;
mod trace;
mod worker;
mod world;

pub use canaries::{CANARIES, Catch, catch_of};
pub use check::{Invariant, Violation};
pub use plan::{NoSuchPart, Part, Trouble};
pub use run::{Failure, Report, minimise, run, run_reference, run_without};
pub use trace::Sink;
