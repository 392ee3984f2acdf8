//! What docs/operations.md says of reasons and metrics is what the daemons say.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jlb_role::Reason;
use jlb_wire::RejectReason;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    fs::read_to_string(root().join("docs/operations.md")).unwrap()
}

/// The first cell of each row of the table under a heading, without its backticks. Every cell says something.
fn rows(page: &str, heading: &str) -> Vec<String> {
    let section = page.split("\n## ").find(|s| s.starts_with(heading)).unwrap();
    let table = section.lines().filter(|l| l.starts_with("| `"));
    table
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            assert!(cells.len() == 3 && cells.iter().all(|c| !c.is_empty()), "{line}");
            cells[0].trim_matches('`').to_owned()
        })
        .collect()
}

#[test]
fn every_reason_has_its_row() {
    let page = page();
    let drops: Vec<_> = Reason::ALL.iter().map(|r| r.label()).collect();
    assert_eq!(rows(&page, "Drops"), drops, "in the order of jlb_role::Reason");
    let refusals = RejectReason::ALL.iter().filter(|&&r| r != RejectReason::None);
    let refusals: Vec<_> = refusals.map(|r| r.label()).collect();
    assert_eq!(rows(&page, "Refusals"), refusals, "in the order of jlb_wire::RejectReason");
}

/// All `jlb_…` in a text, where `starts` says that one begins.
fn names(text: &str, starts: char, into: &mut BTreeSet<String>) {
    for part in text.split(starts).filter(|part| part.starts_with("jlb_")) {
        let end = part.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(part.len());
        into.insert(part[..end].to_owned());
    }
}

fn sources(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            names(&fs::read_to_string(&path).unwrap(), '"', into);
        }
    }
}

#[test]
fn every_metric_that_is_named_exists() {
    let (mut there, mut named) = (BTreeSet::new(), BTreeSet::new());
    for folder in ["cluster", "dataplane", "ingress", "flowtracker", "yann-agent"] {
        sources(&root().join(folder), &mut there);
    }
    names(&page(), '`', &mut named);
    assert!(named.len() > 10 && there.len() > named.len());
    let unknown: Vec<_> = named.difference(&there).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
