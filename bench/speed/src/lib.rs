//! How fast the packet path is, measured on the production code: a worker of `jlb-runtime` with the role of
//! `jlb-ingress` or `jlb-flowtracker`, on real packet buffers. Only the network card is missing: in its place is a ring of DPDK, which the
//! bench fills before and empties after each turn of the worker's loop, on the same core.
//!
//! What makes a figure honest here:
//! - the packets lie in more memory than the L2 cache holds, written long before they are read, as a card writes them;
//! - each packet is of a flow drawn at random from all of them;
//! - the clock runs over whole turns of the worker's loop (Ethernet, time, heartbeat, commands, timers, Probe), and what
//!   the bench itself costs is measured apart ([`Figures::harness_ns`]);
//! - every packet that came out is compared with what must come out, once per run, by a decoder that is not ours;
//! - flows are opened as in life: SYN, Open, Accept.
#![forbid(unsafe_code)]

mod alu;
mod cable;
pub mod check;
mod circuit;
mod error;
mod hotpath;
mod instructions;
mod machine;
pub mod members;
mod rig;
pub mod site;
mod spread;
mod tracker;
pub mod traffic;

pub use error::SpeedError;
pub use hotpath::{Figures, Hotpath, run};
pub use instructions::{Piece, run_piece};
pub use jlb_map::Policy;
pub use machine::{Borrowed, Machine, NoHugepages};
pub use spread::Spread;
pub use tracker::{NewFlowFigures, NewFlows, run_tracker};
pub use traffic::What;
