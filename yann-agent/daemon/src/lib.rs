//! The agent of a backend host (YANN), as a daemon around [`jlb_yann_core`].
//!
//! | module | does |
//! |---|---|
//! | [`programs`] | loads the eBPF half (`yann-agent/bpf`), attaches it, takes it away |
//! | [`maps`] | the maps that both halves share, typed |
//! | [`config`] | writes the member list into them |
//! | [`changes`] | what attaching needs, and how it is undone (for VIPs, routes and sysctls: `jlb_hostnet`) |
//! | `health`, `load` | whether the services work, and how busy the host is: what `[[health]]` and `[admission]` ask for |
//! | [`collect`] | reads flows out of them, for trackers that pull |
//! | [`socket`], [`buffer`] | the user half's packets |
//! | [`daemon`] | all of that under `jlb_node`'s control thread |
//! | [`commands`] | `detach`, `status`, `flows` |
//!
//! Programs, maps and changes outlive the daemon: a flow does not notice that it was killed. The next one takes them over.
#![forbid(unsafe_code)]

pub mod bpffs;
pub mod buffer;
pub mod changes;
pub mod collect;
pub mod commands;
pub mod config;
pub mod daemon;
mod health;
mod load;
pub mod maps;
mod metrics;
pub mod programs;
pub mod socket;
