//! A whole JLB site on one machine, with network namespaces as its hosts.
//!
//! ```text
//!   client ── router ──┬── ingress-1 … ingress-3      front network, one bridge in the router
//!             (ECMP)   ├── tracker-1 … tracker-3
//!                      │
//!                      └── fabric ──┬── backend-1 … backend-4 (nginx, UDP echo)
//!                 "uplink", an own  └── etcd-1 … etcd-3, if asked for
//!                 link: its MTU can be made smaller
//! ```
//!
//! The router spreads packets for the VIPs over the ingress hosts. The backends are one routed hop behind them, so that
//! next hops which are gateways, and a path MTU, are always there.
//!
//! A [`Lab`] that was raised with [`Lab::up`] goes away when it is dropped; `jlb-lab up` keeps one. Everything that a lab
//! makes is written down before it is made ([`state`]), so that also a lab whose maker was killed can be taken down whole.

#![forbid(unsafe_code)]

mod bird;
pub mod config;
mod daemons;
mod error;
mod etcd;
pub mod fault;
mod lab;
mod members;
mod metrics;
mod network;
mod node;
mod path;
mod process;
mod servers;
pub mod state;
pub mod tools;
pub mod topology;
pub mod traffic;
pub mod vm;

pub use config::{Jlb, Service};
pub use daemons::binary;
pub use error::Error;
pub use lab::{Lab, NodeStatus, Status};
pub use metrics::Metrics;
pub use node::Node;
pub use path::FlowPath;
pub use process::Running;
pub use topology::LabConfig;
