//! Benches through real ports of DPDK, with a process of its own at either end.
//!
//! [`forward`] measures how many packets per second come back through our ingress, and how many through DPDK's own
//! `testpmd`, over the same kind of port.
//! [`generate`] sends clients' packets out of any port.
#![forbid(unsafe_code)]

mod dpdk;
mod error;
pub mod forward;
pub mod generate;

pub use error::PortsError;
