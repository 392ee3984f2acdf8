//! The configuration of JLB in a lab: `cluster.toml`, its keys, and each host's `jlb.toml`. Only text is made here.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::LabConfig;
use crate::topology::{ECHO_PORT, HTTP_PORT, NodeId, NodeKind, VIP};

/// Where every daemon serves `/metrics`, `/healthz` and `/readyz`, on the loopback of its host.
pub const ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 9750);

/// How JLB is set up in a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jlb {
    /// Of the member list; a reload needs a higher one.
    pub generation: u64,
    /// Of the set of trackers; a change of that needs a higher one.
    pub epoch: u32,
    /// `protocol`: the version that the members speak.
    pub protocol: u8,
    /// Folder of the daemons that are started from now on; none: of this build.
    pub programs: Option<PathBuf>,
    /// Hosts that are not in the member list: their daemons are not started. Name them in no service.
    pub absent: Vec<String>,
    /// Backends with `drain = true`.
    pub draining: Vec<String>,
    /// Workers of each ingress and tracker, 1 to 16.
    pub workers: u8,
    /// `flow_capacity` of each ingress and tracker.
    pub flow_capacity: u32,
    /// Whether members speak IPv6 with each other; every host has both.
    pub prefer_v6: bool,
    /// `underlay.mtu`, 1280 to 1500: largest packet that every path between members carries.
    pub mtu: u16,
    /// `node.log` of every daemon.
    pub log: String,
    /// What is served.
    pub services: Vec<Service>,
    /// TOML that is appended to `cluster.toml`, for tests of what is not covered here.
    pub more: String,
    /// TOML that is appended to the `jlb.toml` of each backend: `[[health]]`, `[admission]`.
    pub agents: String,
}

/// One `[[service]]`, on [`VIP`] in both families.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Port on VIP and backends alike.
    pub port: u16,
    /// TOML of each backend: `"backend-1"` with its quotes, or a table. Empty: all backends of the lab.
    pub backends: Vec<String>,
    /// Further lines, such as `on_exhausted = "force"`.
    pub more: String,
}

impl Default for Jlb {
    fn default() -> Self {
        Self {
            generation: 1,
            epoch: 1,
            protocol: 1,
            programs: None,
            absent: Vec::new(),
            draining: Vec::new(),
            workers: 1,
            flow_capacity: 65_536,
            prefer_v6: false,
            mtu: 1500,
            log: "info".to_owned(),
            services: vec![
                Service::new("web", "tcp", HTTP_PORT),
                Service::new("echo", "udp", ECHO_PORT),
            ],
            more: String::new(),
            agents: String::new(),
        }
    }
}

impl Jlb {
    /// Whether a host is in the member list, if its kind is one that can be.
    pub fn has(&self, name: &str) -> bool {
        !self.absent.iter().any(|absent| absent == name)
    }
}

impl Service {
    /// A service on all backends, with the defaults of `cluster.toml`.
    pub fn new(name: &str, protocol: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            protocol: protocol.to_owned(),
            port,
            backends: Vec::new(),
            more: String::new(),
        }
    }
}

/// The daemon of a host, and the `role` of the host in `cluster.toml`; none on hosts that are no members.
pub fn daemon_and_role(kind: NodeKind) -> Option<(&'static str, &'static str)> {
    match kind {
        NodeKind::Ingress => Some(("jlb-ingress", "ingress")),
        NodeKind::Tracker => Some(("jlb-flowtracker", "flowtracker")),
        NodeKind::Backend => Some(("jlb-yann", "backend")),
        NodeKind::Client | NodeKind::Router | NodeKind::Fabric | NodeKind::Etcd => None,
    }
}

/// A host's member id: `ingress-2` is 2, `tracker-2` 102, `backend-2` 202.
fn member_id(node: NodeId) -> u16 {
    let kind = match node.kind {
        NodeKind::Tracker => 100,
        NodeKind::Backend => 200,
        NodeKind::Client
        | NodeKind::Router
        | NodeKind::Fabric
        | NodeKind::Ingress
        | NodeKind::Etcd => 0,
    };
    kind + u16::from(node.index)
}

/// `cluster.toml`, the same on every host. The keys lie in that folder: `hash.key`, `mac.key`. It is named, since a list in
/// etcd lies nowhere.
pub(crate) fn cluster_toml(config: &LabConfig, jlb: &Jlb, keys: &Path) -> String {
    let nodes = config.nodes();
    let prefer = if jlb.prefer_v6 { "v6" } else { "v4" };
    let mut text = format!(
        r#"# Written by jlb-lab.
generation = {}
epoch = {}
protocol = {}

[keys]
hash_key_file = "{}/hash.key"
mac_key_files = ["{}/mac.key"]

[underlay]
prefixes = ["10.77.0.0/16", "fd00:77::/32"]
prefer = "{prefer}"
mtu = {}
"#,
        jlb.generation,
        jlb.epoch,
        jlb.protocol,
        keys.display(),
        keys.display(),
        jlb.mtu
    );
    for node in nodes.iter().filter(|node| jlb.has(&node.to_string())) {
        let Some((_, role)) = daemon_and_role(node.kind) else { continue };
        let [v4, v6] = node.addresses();
        let drain = if jlb.draining.contains(&node.to_string()) { "drain = true\n" } else { "" };
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "\n[[member]]\nid = {}\nname = \"{node}\"\nrole = \"{role}\"\naddresses = [\"{v4}\", \"{v6}\"]\n{drain}",
            member_id(*node)
        );
    }
    let all: Vec<String> = nodes
        .iter()
        .filter(|node| node.kind == NodeKind::Backend && jlb.has(&node.to_string()))
        .map(|node| format!("\"{node}\""))
        .collect();
    let vips: Vec<String> = VIP.iter().map(|vip: &IpAddr| format!("\"{vip}\"")).collect();
    for service in &jlb.services {
        let backends = if service.backends.is_empty() { &all } else { &service.backends };
        let _ = write!(
            text,
            "\n[[service]]\nname = \"{}\"\nvips = [{}]\nport = {}\nprotocol = \"{}\"\nbackends = [{}]\n{}\n",
            service.name,
            vips.join(", "),
            service.port,
            service.protocol,
            backends.join(", "),
            service.more
        );
    }
    text.push_str(&jlb.more);
    text
}

/// A host's `jlb.toml`; none on hosts that are no members. `bpf` is a folder on a bpffs that all hosts of the lab share,
/// `etcd` a section `[etcd]` or nothing.
pub(crate) fn jlb_toml(node: NodeId, jlb: &Jlb, bpf: &Path, etcd: &str) -> Option<String> {
    let (_, role) = daemon_and_role(node.kind)?;
    let ([a, b, c, d], port) = ADMIN;
    let mut text = format!(
        "# Written by jlb-lab.\n[node]\nname = \"{node}\"\nadmin = \"{a}.{b}.{c}.{d}:{port}\"\nlog = \"{}\"\n",
        jlb.log
    );
    let section = match node.kind {
        NodeKind::Backend => {
            let pins = bpf.join(node.to_string());
            let yann = format!("interfaces = [\"eth0\"]\nbpf_pins = \"{}\"\n", pins.display());
            format!("\n[yann]\n{yann}{}", jlb.agents)
        }
        NodeKind::Ingress | NodeKind::Tracker => {
            // Small, since a lab has many hosts and little traffic; no hugepages, since a machine may have none.
            let announce = match node.kind {
                NodeKind::Ingress => "\n[ingress.announce]\n",
                NodeKind::Client
                | NodeKind::Router
                | NodeKind::Fabric
                | NodeKind::Tracker
                | NodeKind::Backend
                | NodeKind::Etcd => "",
            };
            let flows = jlb.flow_capacity;
            format!("{}\n[{role}]\nflow_capacity = {flows}\n{announce}", dpdk_section(jlb.workers))
        }
        NodeKind::Client | NodeKind::Router | NodeKind::Fabric | NodeKind::Etcd => return None,
    };
    text.push_str(&section);
    text.push_str(etcd);
    Some(text)
}

fn dpdk_section(workers: u8) -> String {
    // One queue pair for each worker; the kernel spreads flows over them.
    format!(
        r#"
[dpdk]
port = "net_af_packet0,iface=eth0,qpairs={workers},qdisc_bypass=1,blocksz=65536,framesz=2048,framecnt=4096"
hugepages = false
memory_mb = 96
buffers = 16384
workers = {workers}
"#
    )
}

#[cfg(test)]
mod tests {
    use jlb_config::{ClusterFile, Host, KeyFile, parse_cluster};
    use jlb_map::MemberRole;

    use super::*;
    use crate::etcd;

    #[test]
    fn every_host_gets_a_file_that_its_daemon_takes() {
        for node in LabConfig::default().nodes() {
            let config = LabConfig { etcd: 3, ..LabConfig::default() };
            let etcd = etcd::section(&config, Path::new("/state"));
            let jlb = Jlb { workers: 2, ..Jlb::default() };
            let text = jlb_toml(node, &jlb, Path::new("/bpf"), &etcd);
            let Some((_, role)) = daemon_and_role(node.kind) else {
                assert_eq!(text, None);
                continue;
            };
            let host = Host::parse("jlb.toml", &text.unwrap()).unwrap_or_else(|m| panic!("{m}"));
            let role = MemberRole::ALL.into_iter().find(|r| r.label() == role).unwrap();
            assert!(host.has(role));
            assert_eq!(host.etcd.map(|etcd| etcd.endpoints.len()), Some(3));
            if let Some(dpdk) = host.dpdk {
                assert_eq!(
                    (dpdk.workers, dpdk.hugepages, dpdk.interface.as_str()),
                    (2, false, "eth0")
                );
            }
        }
    }

    #[test]
    fn the_cluster_file_becomes_a_snapshot() {
        let mut jlb = Jlb { prefer_v6: true, mtu: 1300, ..Jlb::default() };
        jlb.services[0].backends =
            vec!["{ member = \"backend-2\", admission = \"refuse\" }".to_owned()];
        jlb.services[0].more = "on_exhausted = \"force\"".to_owned();
        let mut key = |path: &Path| {
            let text = if path.ends_with("hash.key") { "11" } else { "22" }.repeat(16);
            Ok(KeyFile { text, mode: 0o600 })
        };
        jlb.absent = vec!["tracker-3".to_owned()];
        jlb.draining = vec!["backend-3".to_owned()];
        let text = cluster_toml(&LabConfig::default(), &jlb, Path::new("/keys"));
        let snapshot = parse_cluster(ClusterFile { name: "cluster.toml", text: &text }, &mut key)
            .unwrap_or_else(|m| panic!("{m}"));
        assert_eq!(snapshot.members().len(), 9);
        assert_eq!(snapshot.services().len(), 2);
        assert_eq!(snapshot.services()[0].backends.len(), 1);
        assert_eq!(snapshot.mtu(), 1300);
        let [ingress, backend] =
            ["ingress-1", "backend-4"].map(|name| snapshot.member_by_name(name).unwrap().id);
        let (from, to) = snapshot.underlay_pair(ingress, backend).unwrap();
        assert!(from.is_ipv6() && to.is_ipv6());
    }
}
