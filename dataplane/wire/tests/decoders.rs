//! What we send, shown to decoders that others wrote: tshark, and scapy with a SipHash of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A capture of every sample: classic pcap, link type 101 (raw IP).
fn capture(dir: &Path) -> PathBuf {
    let mut pcap = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
        pcap.extend_from_slice(&word.to_le_bytes());
    }
    for (_, bytes) in common::samples() {
        let len = u32::try_from(bytes.len()).unwrap();
        for word in [0, 0, len, len] {
            pcap.extend_from_slice(&word.to_le_bytes());
        }
        pcap.extend_from_slice(&bytes);
    }
    let path = dir.join(format!("jlb-wire-{}.pcap", std::process::id()));
    std::fs::write(&path, pcap).unwrap();
    path
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; `make setup` installs it"));
    let (stdout, stderr) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{program} failed:\n{stdout}\n{stderr}");
    stdout.into_owned()
}

#[test]
fn tshark_decodes_every_packet_without_complaint() {
    let dir = tempdir();
    let pcap = capture(&dir);
    let args = [
        "-r",
        pcap.to_str().unwrap(),
        "-o",
        "ip.check_checksum:TRUE",
        "-o",
        "tcp.check_checksum:TRUE",
    ];
    let fields =
        ["-T", "fields", "-E", "separator=;", "-e", "frame.protocols", "-e", "geneve.option.class"];
    let more = ["-e", "_ws.malformed", "-e", "ip.checksum.status", "-e", "tcp.checksum.status"];
    let table = run("tshark", &[&args[..], &fields[..], &more[..]].concat());
    let samples = common::samples();
    assert_eq!(table.lines().count(), samples.len());
    for (line, (name, _)) in table.lines().zip(&samples) {
        let columns: Vec<_> = line.split(';').collect();
        assert!(columns[0].contains("udp:geneve"), "{name}: {line}");
        let control =
            !name.starts_with("data-") && (name.contains("-tcp-") || name.contains("-udp-"));
        assert_eq!(columns[1].to_lowercase().contains("ff4a"), control, "{name}: {line}");
        if name.contains("-tcp-") {
            assert!(columns[0].ends_with(":tcp"), "{name}: the inner packet is decoded: {line}");
        }
        assert_eq!(columns[2], "", "{name} is malformed");
        // 0: wrong, 1: right, 2: not checked.
        assert!(!columns[3].split(',').any(|s| s == "0"), "{name}: IP checksum");
        assert!(!columns[4].split(',').any(|s| s == "0"), "{name}: TCP checksum");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn scapy_agrees_field_by_field_and_on_the_mac() {
    let dir = tempdir();
    let pcap = capture(&dir);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/decode.py");
    let said = run("/usr/bin/python3", &[script, pcap.to_str().unwrap()]);
    assert_eq!(said.trim(), format!("{} packets agree", common::samples().len()));
    std::fs::remove_dir_all(dir).unwrap();
}

fn tempdir() -> PathBuf {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("jlb-wire-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
