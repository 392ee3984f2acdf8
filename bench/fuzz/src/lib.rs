//! What is fuzzed: one function for each parser and state machine that meets bytes of strangers. Each takes any bytes and
//! panics when what must hold does not.
//!
//! | target | takes | what must hold |
//! |---|---|---|
//! | `wire` | an encapsulated packet, and a message without its MAC | no panic; what is parsed is written as it was read |
//! | `inner` | a client's packet | no panic; offsets lie inside; what is cut is a packet again |
//! | `host_toml`, `cluster_toml` | the two configuration files; the member list in etcd is the second one | no panic; every mistake lies inside the text |
//! | `ingress`, `tracker`, `agent` | a script of packets, messages, time and trouble for a state machine | no panic; the contract with the driver; bounds; nothing waits for ever |
//!
//! `bench/fuzz/targets` feeds them with libFuzzer; the corpus that it has found is replayed by this crate's tests.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "to panic is how a fuzz target says that something is wrong"
)]

mod agent;
mod files;
mod ingress;
mod inner;
mod play;
mod script;
mod site;
mod tracker;
mod wire;

pub use agent::agent;
pub use files::{cluster_toml, host_toml};
pub use ingress::ingress;
pub use inner::inner;
pub use tracker::tracker;
pub use wire::wire;

/// A target, under the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("wire", wire),
    ("inner", inner),
    ("host_toml", host_toml),
    ("cluster_toml", cluster_toml),
    ("ingress", ingress),
    ("tracker", tracker),
    ("agent", agent),
];
