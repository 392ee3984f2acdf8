//! etcd on hosts of its own: where the member list comes from in a lab that has it.
//!
//! Debian's servers and `etcdctl`, without TLS: nobody else is on these networks. The data is in the lab's folder.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::AtPath;
use crate::fault::{self, Fault};
use crate::node::Node;
use crate::state::LabDir;
use crate::topology::{NodeId, NodeKind};
use crate::{Error, Lab, LabConfig, daemons, tools};

/// Its name in the lab's list of processes.
const NAME: &str = "etcd";
/// For its clients, and among its servers.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

fn url(node: NodeId, port: u16) -> String {
    let [v4, _]: [IpAddr; 2] = node.addresses();
    format!("http://{v4}:{port}")
}

fn servers(config: &LabConfig) -> Vec<NodeId> {
    let mut nodes = config.nodes();
    nodes.retain(|node| node.kind == NodeKind::Etcd);
    nodes
}

/// `[etcd]` of a host's `jlb.toml`; nothing in a lab without etcd.
pub(crate) fn section(config: &LabConfig, state: &Path) -> String {
    let urls: Vec<String> =
        servers(config).iter().map(|node| format!("\"{}\"", url(*node, CLIENT_PORT))).collect();
    let mut text = String::new();
    if !urls.is_empty() {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "\n[etcd]\nendpoints = [{}]\nstate_dir = \"{}\"\n",
            urls.join(", "),
            state.display()
        );
    }
    text
}

/// What a server must be told of the cluster, at its start and when its data is restored.
fn identity(config: &LabConfig, node: &Node) -> Result<Vec<String>, Error> {
    let peers: Vec<String> =
        servers(config).iter().map(|peer| format!("{peer}={}", url(*peer, PEER_PORT))).collect();
    Ok(vec![
        format!("--name={}", node.name()),
        format!("--data-dir={}", data(node)?.display()),
        format!("--initial-advertise-peer-urls={}", url(node.id(), PEER_PORT)),
        format!("--initial-cluster={}", peers.join(",")),
    ])
}

fn data(node: &Node) -> Result<PathBuf, Error> {
    Ok(node.dir()?.join("data"))
}

/// Starts the servers among these hosts, unless they run, and waits until each answers, for which most must run.
pub(crate) fn start(config: &LabConfig, nodes: &[Node]) -> Result<(), Error> {
    let mut started = Vec::new();
    for node in nodes.iter().filter(|node| node.id().kind == NodeKind::Etcd) {
        if is_running(node)? {
            continue;
        }
        let (client, peer) = (url(node.id(), CLIENT_PORT), url(node.id(), PEER_PORT));
        let mut arguments = identity(config, node)?;
        arguments.extend([
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
        ]);
        started.push((node, node.start(NAME, "etcd", &arguments)?));
    }
    for (node, server) in &started {
        // It asks for a key, which needs a leader.
        node.wait_ready(server, || ctl(node, &["endpoint", "health"]).is_ok())?;
    }
    Ok(())
}

fn is_running(node: &Node) -> Result<bool, Error> {
    Ok(node.processes()?.iter().any(|process| process.what == NAME))
}

/// Puts the first list into it.
pub(crate) fn fill(dir: &LabDir, config: &LabConfig) -> Result<(), Error> {
    if config.etcd > 0 {
        let list = dir.path().join("cluster.toml");
        jlbctl(dir, &["apply", &list.to_string_lossy()])?;
    }
    Ok(())
}

/// From the first server's host, which has its network also while nothing runs there.
fn jlbctl(dir: &LabDir, arguments: &[&str]) -> Result<String, Error> {
    let at = |kind| Node::new(NodeId { kind, index: 1 }, dir.clone());
    let program = daemons::binary("jlbctl")?;
    // Every host's file names the same servers.
    let host = at(NodeKind::Ingress).dir()?.join("jlb.toml");
    let mut command = at(NodeKind::Etcd).command(&program.to_string_lossy());
    command.arg("--config").arg(host).args(arguments);
    tools::run(&mut command, "")
}

fn ctl(node: &Node, arguments: &[&str]) -> Result<String, Error> {
    let endpoint = format!("--endpoints={}", url(node.id(), CLIENT_PORT));
    let mut command = node.command("etcdctl");
    command.args([&endpoint, "--command-timeout=2s"]).args(arguments);
    tools::run(&mut command, "")
}

impl Lab {
    /// Runs `jlbctl`; its standard output. An error if it does not succeed.
    pub fn jlbctl(&self, arguments: &[&str]) -> Result<String, Error> {
        self.etcd_nodes()?;
        jlbctl(self.dir(), arguments)
    }

    /// The leader among etcd's servers that run, if they have one.
    pub fn etcd_leader(&self) -> Result<Option<Node>, Error> {
        for node in self.etcd_nodes()? {
            if !is_running(&node)? {
                continue;
            }
            // One that has just started does not answer.
            let Ok(text) = ctl(&node, &["endpoint", "status", "-w", "json"]) else { continue };
            if leads(&text) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Writes a snapshot of etcd's data to a file.
    pub fn back_etcd_up(&self, to: &Path) -> Result<(), Error> {
        let nodes = self.etcd_nodes()?;
        ctl(&nodes[0], &["snapshot", "save", &to.to_string_lossy()]).map(drop)
    }

    /// Kills all servers of etcd, wipes their data, and starts them with that of a snapshot.
    pub fn restore_etcd(&self, from: &Path) -> Result<(), Error> {
        let nodes = self.etcd_nodes()?;
        fault::inject(self, &Fault::Kill(vec!["etcds".to_owned()]))?;
        for node in &nodes {
            let path = data(node)?;
            fs::remove_dir_all(&path).at(&path)?;
            let mut arguments =
                vec!["snapshot".to_owned(), "restore".to_owned(), from.display().to_string()];
            arguments.extend(identity(self.config(), node)?);
            node.run("etcdctl", &arguments)?;
        }
        self.start_etcd()
    }

    /// Starts those servers of etcd that do not run, with the data that they have.
    pub fn start_etcd(&self) -> Result<(), Error> {
        start(self.config(), &self.etcd_nodes()?)
    }

    /// At least one.
    fn etcd_nodes(&self) -> Result<Vec<Node>, Error> {
        let nodes = self.nodes_of(NodeKind::Etcd);
        if nodes.is_empty() { Err(Error::NoEtcd(self.name().to_owned())) } else { Ok(nodes) }
    }
}

/// Whether a server's own status says that it is the leader.
fn leads(status: &str) -> bool {
    let status: Value = serde_json::from_str(status).unwrap_or_default();
    let status = &status[0]["Status"];
    let leader = status["leader"].as_u64();
    leader.is_some_and(|id| id != 0) && leader == status["header"]["member_id"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_known_by_its_own_id() {
        let status = |member: u64, leader: u64| {
            format!(
                r#"[{{"Endpoint":"x","Status":{{"header":{{"member_id":{member}}},"leader":{leader}}}}}]"#
            )
        };
        assert!(leads(&status(10276657743932975437, 10276657743932975437)));
        assert!(!leads(&status(1, 2)) && !leads(&status(0, 0)) && !leads(""));
    }

    #[test]
    fn a_lab_without_etcd_has_no_section() {
        assert_eq!(section(&LabConfig::default(), Path::new("/state")), "");
        let config = LabConfig { etcd: 1, ..LabConfig::default() };
        assert_eq!(
            section(&config, Path::new("/state")),
            "\n[etcd]\nendpoints = [\"http://10.77.1.91:2379\"]\nstate_dir = \"/state\"\n"
        );
    }
}
