//! Hunting for a server: how long clients wait under one way of balancing or another.
//!
//! Jobs come at random (Poisson) to servers that share their cores among the jobs that they have. A balancer says which
//! server gets a job. JLB's own is not modelled but run: each tracker is a [`jlb_flowtracker_core::pick::Picker`] and
//! each server decides by [`jlb_yann_core::admission`], with the messages between them under way for as long as hops
//! take. Beside it stand the balancers of the literature, some of which know what nobody can know (oracles).
//!
//! | module | |
//! |---|---|
//! | `scenario` | what is simulated |
//! | `run` | the loop: events by time |
//! | `site` | who is there, and what happens to a job |
//! | `trackers` | what the trackers know and do |
//! | `server` | processor sharing |
//! | `law` | how long jobs are |
//! | `outcome` | the figures |
//! | `plot` | SVG |
//!
//! Times are in virtual seconds; a seed means the same run on every machine.
#![forbid(unsafe_code)]

mod law;
mod outcome;
mod plot;
mod run;
mod scenario;
mod server;
mod site;
mod trackers;

pub use law::Law;
pub use outcome::Outcome;
pub use plot::{Curve, Plot};
pub use run::run;
pub use scenario::{Balancer, Cores, Scenario, SlowDown};
