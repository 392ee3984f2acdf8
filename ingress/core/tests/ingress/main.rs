//! The ingress by section 4 of `docs/protocol.md`, row by row, in virtual time. The other members are played by their
//! own `Peers`, so every message is one that they would believe and sign.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "tests")]

mod answers;
mod closing;
mod egress;
mod established;
mod hostile;
mod mtu;
mod opening;
mod packets;
mod properties;
mod query;
mod status;
mod world;
