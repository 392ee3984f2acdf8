//! What every daemon needs, so that a daemon's `main` is short:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use jlb_map::MemberRole;
//! use jlb_node::{Program, Start};
//! # struct Ingress;
//! # #[derive(Debug, thiserror::Error)]
//! # #[error("")]
//! # struct Failed;
//! # impl jlb_node::Daemon for Ingress {
//! #     type Error = Failed;
//! #     async fn work(&mut self) -> Result<(), Failed> { std::future::pending().await }
//! #     fn apply(&mut self, _: &std::sync::Arc<jlb_map::Snapshot>) -> Result<(), Failed> { Ok(()) }
//! #     async fn collect(&mut self, _: &mut jlb_role::Samples) {}
//! #     fn is_alive(&mut self) -> bool { true }
//! #     fn not_ready(&mut self) -> Vec<String> { Vec::new() }
//! #     fn status(&mut self) -> serde_json::Value { serde_json::Value::Null }
//! #     async fn stop(&mut self) {}
//! # }
//! # impl Ingress { fn start(_: &jlb_node::Setup) -> Result<Self, Failed> { Ok(Self) } }
//!
//! fn main() -> ExitCode {
//!     let program = Program {
//!         name: "jlb-ingress",
//!         about: "Balances client connections",
//!         version: env!("CARGO_PKG_VERSION"),
//!         role: MemberRole::Ingress,
//!     };
//!     match program.start(program.command(), std::env::args_os()) {
//!         Start::Run(setup) => jlb_node::run(&setup, Ingress::start),
//!         Start::Other { .. } => ExitCode::from(jlb_node::EXIT_USAGE),
//!         Start::Exit(code) => code,
//!     }
//! }
//! ```
//!
//! [`run`] is the control thread: one tokio `current_thread` runtime that owns the [`Daemon`], so nothing in it needs
//! a lock. It reloads on SIGHUP, follows etcd if `[etcd]` is there, stops on SIGTERM and SIGINT, answers the admin endpoint (`/metrics`, `/healthz`,
//! `/readyz`, `/status`), tells systemd, and hands over what the kernel knows about [neighbours](netlink).
#![forbid(unsafe_code)]

mod admin;
mod cli;
mod control;
mod daemon;
mod files;
mod link_check;
mod logging;
mod membership;
mod metrics;
pub mod netlink;
mod random;

pub use clap;
pub use cli::{EXIT_CONFIG, EXIT_USAGE, Paths, Program, Start};
pub use control::run;
pub use daemon::{Daemon, Setup};
pub use files::{LoadError, load_cluster, load_host, read_key};
pub use membership::known_cluster;
pub use random::{fresh_boot_id, random_u64};
pub use serde_json;
