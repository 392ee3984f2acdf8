//! Golden vectors: the bytes of every kind of packet, fixed for good. A change here is a change of the protocol.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::fmt::Write as _;

const VECTORS: &str = include_str!("vectors/packets.hex");

#[test]
fn packets_are_what_they_were() {
    let mut now = String::new();
    for (name, bytes) in common::samples() {
        write!(now, "{name} ").unwrap();
        bytes.iter().for_each(|b| write!(now, "{b:02x}").unwrap());
        now.push('\n');
    }
    if std::env::var_os("JLB_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/packets.hex"), &now)
            .unwrap();
        return;
    }
    for (new, old) in now.lines().zip(VECTORS.lines()) {
        assert_eq!(new, old);
    }
    assert_eq!(now.lines().count(), VECTORS.lines().count());
}
