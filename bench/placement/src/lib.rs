//! How long clients of real servers wait, under one policy or another: what `hunting` simulates, in a lab.
//!
//! Every backend runs a small HTTP server ([`server`]) whose requests cost CPU, within a quota of its own ([`mod@quota`]); one of
//! them has only a part of it. Requests come at random (Poisson), each on a connection of its own, whether or not earlier ones were
//! answered ([`mod@load`]). Each policy has a lab of its own, and the same requests.
//!
//! ```text
//!   load on the client's host ──▶ router ──▶ ingress ──▶ backend: jlb-bench work-server in a cgroup
//! ```
#![forbid(unsafe_code)]

mod error;
mod figures;
mod load;
mod quota;
mod run;
pub mod server;

pub use error::Error;
pub use figures::{Figures, Outcome, Spread};
pub use run::{Options, run};
