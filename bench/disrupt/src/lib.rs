//! Holds connections through a lab, breaks something, and says what became of them.
//!
//! A [`run()`] raises a lab of its own, opens long TCP connections through its VIPs (v4 and v6), measures what waits for an
//! answer are usual, injects one of the [`FAULTS`], sees that it took hold, and counts:
//!
//! | | a connection, or flow, … | seen by |
//! |---|---|---|
//! | broken | that ended though its client and its own backend live, or had no answer for [`load::SILENT`], or a wrong one | the client |
//! | ended with its backend | whose own backend was killed | the client |
//! | misdelivered | that another backend answered than its own; every answer names its backend ([`mod@frame`]) | the client |
//! | moved | that another ingress host carries than before, to the same backend | the agents (`jlb-yann flows`), before the fault, where the fault is mended in steps at each of them, and at the end |
//! | stalled | that waited longer than usual ([`stall`]) | the client |
//!
//! Short connections come all the while, and UDP flows.
//!
//! [`rebuild()`] is for numbers of flows that a machine has no sockets for: how long trackers need that have lost all.
//!
//! ```text
//!   client: load ──▶ router ──▶ ingress ──▶ backend: jlb-bench disrupt-server, udp-echo
//!     ▲ phases                    ▲              ▲
//!     └──────────── run ── fault ─┴── site: jlb-lab, metrics, jlb-yann flows
//! ```
#![forbid(unsafe_code)]

mod error;
mod fault;
pub mod frame;
pub mod load;
mod outcome;
mod progress;
mod rebuild;
mod run;
mod scene;
pub mod server;
mod site;
pub mod stall;

pub use error::Error;
pub use fault::{FAULTS, Fault, find};
pub use outcome::{Details, Happened, Outcome};
pub use progress::Progress;
pub use rebuild::{RebuildOptions, Rebuilt, rebuild};
pub use run::{BEFORE, Options, run, run_in_turn};
