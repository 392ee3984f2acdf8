//! The examples for operators are right, and the defaults that they show are the defaults.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use jlb_config::{ClusterFile, FileKind, Host, KeyFile, parse_cluster};
use jlb_map::{MemberRole, Snapshot};

const CLUSTER: &str = include_str!("../../../deploy/examples/cluster.toml");
const HOSTS: [(&str, MemberRole); 3] = [
    (include_str!("../../../deploy/examples/ingress.toml"), MemberRole::Ingress),
    (include_str!("../../../deploy/examples/flowtracker.toml"), MemberRole::FlowTracker),
    (include_str!("../../../deploy/examples/backend.toml"), MemberRole::Backend),
];

/// With the lines that show a default (`#key = …`) in force.
fn explicit(text: &str) -> String {
    let is_key = |c: char| c.is_ascii_lowercase();
    let line = |l: &str| match l.strip_prefix('#') {
        Some(shown) if shown.starts_with(is_key) => format!("{shown}\n"),
        Some(_) | None => format!("{l}\n"),
    };
    text.lines().map(line).collect()
}

/// With the section `[etcd]` in force, which the examples show commented.
fn with_etcd(text: &str) -> String {
    let (before, after) = text.split_once("\n# [etcd]\n").unwrap();
    let (section, after) = after.split_once("\n\n").unwrap();
    let is_key = |l: &&str| l.split(' ').nth(1) == Some("=");
    let keys: Vec<_> =
        section.lines().filter_map(|l| l.strip_prefix("# ")).filter(is_key).collect();
    assert_eq!(keys.len(), 8, "every key of [etcd]: {keys:?}");
    format!("{before}\n[etcd]\n{}\n\n{after}", keys.join("\n"))
}

/// With the sections of a backend's health in force, which its example shows commented.
fn with_health(text: &str) -> String {
    let line = |l: &str| match l.strip_prefix("# ") {
        Some(shown) if shown.starts_with('[') || shown.split(' ').nth(1) == Some("=") => {
            format!("{shown}\n")
        }
        Some(_) | None => format!("{l}\n"),
    };
    let (before, after) = text.split_at(text.find("# [admission]").unwrap());
    format!("{before}{}", after.lines().map(line).collect::<String>())
}

fn host(text: &str) -> Host {
    Host::parse("example", text).unwrap_or_else(|m| panic!("{m}"))
}

fn cluster(text: &str) -> Arc<Snapshot> {
    let mut read =
        |path: &Path| Ok(KeyFile { text: format!("{:032x}", path.as_os_str().len()), mode: 0o600 });
    parse_cluster(ClusterFile { name: "/etc/jlb/cluster.toml", text }, &mut read)
        .unwrap_or_else(|m| panic!("{m}"))
}

#[test]
fn each_daemon_takes_its_example() {
    for (text, role) in HOSTS {
        assert_eq!(FileKind::of("example", text), FileKind::Host);
        let found = host(text).find_in(&cluster(CLUSTER), role);
        found.unwrap_or_else(|m| panic!("{m}"));
    }
    assert_eq!(FileKind::of("example", CLUSTER), FileKind::Cluster);
}

#[test]
fn each_daemon_takes_its_example_with_etcd() {
    for (text, role) in HOSTS {
        let shown = host(&with_etcd(text));
        shown.find_in(&cluster(CLUSTER), role).unwrap_or_else(|m| panic!("{m}"));
        assert_eq!(host(text).etcd, None);
        let etcd = shown.etcd.unwrap();
        assert_eq!(
            (etcd.prefix.as_str(), etcd.state_dir.to_str()),
            ("/jlb/", Some("/var/lib/jlb"))
        );
        assert!(etcd.endpoints.len() == 3 && etcd.identity.is_some() && etcd.user.is_some());
    }
}

#[test]
fn the_shown_checks_and_limits_are_right() {
    let (text, role) = HOSTS[2];
    let shown = host(&with_health(text));
    shown.check_against(&cluster(CLUSTER), role).unwrap_or_else(|m| panic!("{m}"));
    assert_eq!((shown.health.len(), shown.admission.cpu), (3, Some(0.95)));
    assert!(shown.admission.memory.is_some() && shown.admission.pressure.is_some());
    let [http, exec, agent] = &shown.health[..] else { unreachable!() };
    // What is shown and has a default shows that.
    assert_eq!((http.interval, http.timeout), (exec.interval, exec.timeout));
    assert_eq!((http.rise, http.fall), (exec.rise, exec.fall));
    assert!(agent.agent_check.is_some() && agent.probe.is_none() && http.target.is_some());
    assert_eq!((host(text).health, host(text).admission.cpu), (Vec::new(), None));
}

#[test]
fn the_shown_defaults_are_the_defaults() {
    for (text, _) in HOSTS {
        let (short, long) = (host(text), host(&explicit(text)));
        assert_eq!(short.node, long.node);
        assert_eq!((short.dpdk, short.ingress), (long.dpdk, long.ingress));
        assert_eq!((short.flowtracker, short.yann), (long.flowtracker, long.yann));
    }
    let (short, long) = (cluster(CLUSTER), cluster(&explicit(CLUSTER)));
    assert_eq!(short.digest(), long.digest());
}

#[test]
fn every_optional_key_is_shown() {
    let keys = |text: &str| {
        explicit(text).lines().filter(|l| l.contains(" = ") && !l.starts_with('#')).count()
    };
    // [node] 5, [dpdk] 9, and the section of the role; max_connections has no default to show.
    assert_eq!(HOSTS.map(|(text, _)| keys(text)), [5 + 9 + 3, 5 + 9 + 3, 5 + 4]);
}
