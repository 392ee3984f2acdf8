//! What the fuzzers have found worth keeping, once more: every input of the corpus through its target.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::path::Path;

use jlb_fuzz::TARGETS;

fn replay(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(n, _)| *n == name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no corpus");
    for file in files {
        // Which one it was, when it fails.
        println!("{}", file.display());
        target(&fs::read(&file).unwrap());
    }
}

#[test]
fn wire() {
    replay("wire");
}

#[test]
fn inner() {
    replay("inner");
}

#[test]
fn host_toml() {
    replay("host_toml");
}

#[test]
fn cluster_toml() {
    replay("cluster_toml");
}

#[test]
fn ingress() {
    replay("ingress");
}

#[test]
fn tracker() {
    replay("tracker");
}

#[test]
fn agent() {
    replay("agent");
}

/// Any bytes will do, and none.
#[test]
fn every_target_takes_whatever_comes() {
    let mut state = 1_u64;
    let mut noise = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for (_, target) in TARGETS {
        target(&[]);
        for len in [1, 20, 100, 400, 1500] {
            let bytes: Vec<u8> = (0..len).map(|_| noise()).collect();
            target(&bytes);
        }
    }
}
