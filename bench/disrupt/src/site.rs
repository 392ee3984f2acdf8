//! A lab to break things in, and what can be read off it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jlb_config::{ClusterFile, KeyFile, parse_cluster};
use jlb_flow::FlowHasher;
use jlb_lab::topology::{NodeKind, VIP_PREFIX};
use jlb_lab::{Lab, LabConfig, Node, Running, Service};
use jlb_map::Snapshot;
use jlb_wire::{FiveTuple, Protocol};
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::Error;
use crate::error::Doing as _;
use crate::load::Flow;
use crate::server;

/// A lab with the sequence server on its backends.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) client: Node,
    router: Node,
}

/// Which hosts carry a connection, as its backend's agent sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) backend: String,
    /// That its last packet came from.
    pub(crate) ingress: String,
}

/// What `jlb-yann flows -o json` says of a flow, as far as it is needed here.
#[derive(Deserialize)]
struct FlowLine {
    client: SocketAddr,
    vip: SocketAddr,
    protocol: String,
    ingress: String,
}

/// The service that the connections use; its backends are those of the lab unless `backends` names some.
pub(crate) fn service(backends: &[&str]) -> Service {
    Service {
        backends: backends.iter().map(|name| format!("\"{name}\"")).collect(),
        ..Service::new("sequence", "tcp", server::PORT)
    }
}

impl Site {
    /// Raises it, servers and all. It goes down when it is dropped.
    pub(crate) fn up(name: &str, config: &LabConfig) -> Result<Self, Error> {
        let program = program("jlb-bench")?;
        let lab = Lab::up(name, config)?;
        for node in lab.nodes_of(NodeKind::Backend) {
            let arguments =
                ["disrupt-server", "--port", &server::PORT.to_string(), "--name", &node.name()];
            let server = node.start("sequence", &program.to_string_lossy(), &arguments)?;
            let listens = || {
                matches!(
                    node.within(|| TcpStream::connect(("::1", server::PORT)).is_ok()),
                    Ok(true)
                )
            };
            node.wait_ready(&server, listens)?;
        }
        let (client, router) = (lab.node("client")?, lab.node("router")?);
        Ok(Self { lab, client, router })
    }

    /// The daemon of a host, which runs.
    pub(crate) fn daemon(&self, node: &str) -> Result<Running, Error> {
        self.lab.node(node)?.daemon()?.ok_or_else(|| Error::Unreadable {
            what: node.to_owned(),
            why: "its daemon does not run".to_owned(),
        })
    }

    /// Starts the daemons of these hosts again, and waits until all members have found each other.
    pub(crate) fn restart(&self, nodes: &[&str]) -> Result<(), Error> {
        let nodes: Result<Vec<Node>, _> = nodes.iter().map(|name| self.lab.node(name)).collect();
        Ok(self.lab.start_daemons(&nodes?)?)
    }

    pub(crate) fn names_of(&self, kind: NodeKind) -> Vec<String> {
        self.lab.nodes_of(kind).iter().map(Node::name).collect()
    }

    /// The sum of a counter over all hosts of a kind. A daemon that does not answer counts nothing.
    pub(crate) fn sum(&self, kind: NodeKind, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let nodes = self.lab.nodes_of(kind);
        nodes.iter().filter_map(|node| node.metrics().ok()?.sum(metric, labels)).sum()
    }

    /// Every connection that an agent knows, by the client's end.
    pub(crate) fn carried(&self) -> Result<BTreeMap<SocketAddr, Carried>, Error> {
        let program = program("jlb-yann")?.to_string_lossy().into_owned();
        let cluster = self.lab.path().join("cluster.toml").to_string_lossy().into_owned();
        let mut all = BTreeMap::new();
        for node in self.lab.nodes_of(NodeKind::Backend) {
            let own = node.dir()?.join("jlb.toml").to_string_lossy().into_owned();
            let arguments = ["--config", &own, "--cluster", &cluster, "flows", "-o", "json"];
            let text = node.run(&program, &arguments)?;
            let lines: Vec<FlowLine> =
                serde_json::from_str(&text).map_err(|error| Error::Unreadable {
                    what: format!("jlb-yann flows on {}", node.name()),
                    why: error.to_string(),
                })?;
            all.extend(
                lines
                    .into_iter()
                    .filter(|line| line.protocol == "tcp" && line.vip.port() == server::PORT)
                    .map(|l| (l.client, Carried { backend: node.name(), ingress: l.ingress })),
            );
        }
        Ok(all)
    }

    /// The member list in force.
    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        let path = self.cluster_file();
        let text = fs::read_to_string(&path).doing(path.to_string_lossy())?;
        let mut read_key = |key: &Path| {
            let mode = fs::metadata(key)?.permissions().mode();
            Ok(KeyFile { text: fs::read_to_string(key)?, mode })
        };
        parse_cluster(ClusterFile { name: &path.to_string_lossy(), text: &text }, &mut read_key)
            .map_err(|mistakes| Error::Unreadable {
                what: path.to_string_lossy().into_owned(),
                why: mistakes.to_string(),
            })
    }

    /// The trackers with the number of these flows in whose trio they have that rank (0: primary), most of them first.
    pub(crate) fn trackers_by_rank(
        &self,
        flows: &[Flow],
        rank: usize,
    ) -> Result<Vec<(String, usize)>, Error> {
        let snapshot = self.snapshot()?;
        let hasher = FlowHasher::new(snapshot.keys().hash_key);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for flow in flows {
            // Both ends are of one family: the connection is there.
            let Ok(tuple) = FiveTuple::new(flow.client, flow.vip, Protocol::Tcp) else { continue };
            let trio = snapshot.trio(hasher.id(&tuple).partition());
            if let Some(member) = trio.at(rank).and_then(|id| snapshot.member(id)) {
                *counts.entry(member.name.clone()).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Ok(counts)
    }

    fn cluster_file(&self) -> PathBuf {
        self.lab.path().join("cluster.toml")
    }

    /// Changes the member list under a higher generation, and tells all daemons to read it. Gives that generation.
    pub(crate) fn reload(&self, change: impl FnOnce(&mut MemberList)) -> Result<u64, Error> {
        let path = self.cluster_file();
        let text = fs::read_to_string(&path).doing(path.to_string_lossy())?;
        let mut list = MemberList { text };
        change(&mut list);
        let generation = list.raise("generation");
        // In one piece: a daemon may be reading it.
        let new = path.with_extension("toml.new");
        fs::write(&new, list.text).doing(new.to_string_lossy())?;
        fs::rename(&new, &path).doing(path.to_string_lossy())?;
        for node in self.lab.nodes() {
            node.signal_daemon(Signal::SIGHUP)?;
        }
        Ok(generation)
    }

    /// Whether every daemon that runs has that member list in force.
    pub(crate) fn has_generation(&self, generation: u64) -> bool {
        let is_there = |node: &Node| match node.daemon() {
            Ok(Some(_)) => node.metrics().is_ok_and(|metrics| {
                metrics.sum("jlb_membership_generation", &[]) == Some(generation as f64)
            }),
            Ok(None) | Err(_) => true,
        };
        self.lab.nodes().iter().all(is_there)
    }

    /// The next hops of the router for the VIPs of a family (0: v4, 1: v6), in its order.
    pub(crate) fn next_hops(&self, family: usize) -> Result<Vec<String>, Error> {
        let text =
            self.router.run("ip", &[["-4", "-6"][family], "route", "show", VIP_PREFIX[family]])?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let ingresses = self.lab.nodes_of(NodeKind::Ingress);
        let gateways = words.windows(2).filter(|pair| pair[0] == "via").map(|pair| pair[1]);
        Ok(gateways
            .filter_map(|gateway| {
                let has = |node: &&Node| node.addresses()[family].to_string() == gateway;
                ingresses.iter().find(has).map(Node::name)
            })
            .collect())
    }

    /// Has the router send the VIPs to these ingress hosts, in this order.
    pub(crate) fn route(&self, ingresses: &[String]) -> Result<(), Error> {
        for (family, prefix) in VIP_PREFIX.iter().enumerate() {
            let mut script = format!("ip {} route replace {prefix}", ["-4", "-6"][family]);
            for name in ingresses {
                let gateway = self.lab.node(name)?.addresses()[family];
                script.push_str(&format!(" nexthop via {gateway}"));
            }
            self.router.shell(&script)?;
        }
        Ok(())
    }
}

/// `cluster.toml` of the lab as text, to be changed.
#[derive(Debug)]
pub(crate) struct MemberList {
    text: String,
}

impl MemberList {
    /// Counts a number at the top of the file up; the new one.
    pub(crate) fn raise(&mut self, key: &str) -> u64 {
        let mut raised = 0;
        let lines = self.text.lines().map(|line| {
            match line.strip_prefix(key).and_then(|rest| rest.strip_prefix(" = ")) {
                Some(number) if raised == 0 => {
                    raised = number.parse::<u64>().unwrap_or(0) + 1;
                    format!("{key} = {raised}\n")
                }
                Some(_) | None => format!("{line}\n"),
            }
        });
        self.text = lines.collect();
        raised
    }

    /// Sets `drain` of a member.
    pub(crate) fn drain(&mut self, member: &str) {
        let name = format!("name = \"{member}\"\n");
        self.text = self.text.replace(&name, &format!("{name}drain = true\n"));
    }

    /// Takes a member out, which no service names; its entry, to be put back.
    pub(crate) fn remove(&mut self, member: &str) -> String {
        let name = format!("\nname = \"{member}\"\n");
        let mut removed = String::new();
        let parts: Vec<&str> = self.text.split("\n\n").collect();
        let kept = parts.iter().filter(|part| {
            let is_it = part.starts_with("[[member]]") && format!("{part}\n").contains(&name);
            if is_it {
                removed = (**part).to_owned();
            }
            !is_it
        });
        self.text = kept.copied().collect::<Vec<_>>().join("\n\n");
        removed
    }

    /// Puts back what [`MemberList::remove`] took out.
    pub(crate) fn insert(&mut self, entry: &str) {
        self.text = self.text.replacen("\n[[service]]", &format!("\n{entry}\n\n[[service]]"), 1);
    }

    /// Adds a backend to the service of the connections.
    pub(crate) fn serve(&mut self, backend: &str) {
        let begin = self.text.find("name = \"sequence\"").unwrap_or(self.text.len());
        let (before, service) = self.text.split_at(begin);
        let service = service.replacen("backends = [", &format!("backends = [\"{backend}\", "), 1);
        self.text = format!("{before}{service}");
    }
}

/// A program of this workspace: where `JLB_BIN_DIR` says, else beside this one.
fn program(name: &str) -> Result<PathBuf, Error> {
    let dir = match std::env::var_os("JLB_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let this = std::env::current_exe().doing("/proc/self/exe")?;
            let dir = this.parent().map(Path::to_owned).unwrap_or_default();
            // Test binaries lie one deeper.
            if dir.ends_with("deps") {
                dir.parent().map(Path::to_owned).unwrap_or_default()
            } else {
                dir
            }
        }
    };
    let path = dir.join(name);
    if path.is_file() { Ok(path) } else { Err(Error::NoBinary(path)) }
}

/// The state of a process, proc_pid_stat(5) field 3: `T` is stopped.
pub(crate) fn process_state(process: &Running) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Polls until it is so, at most so long; whether it was.
pub(crate) fn wait_until(at_most: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + at_most;
    while !is_so() {
        if std::time::Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> MemberList {
        let text = "generation = 3\nepoch = 1\n\n[[member]]\nid = 1\nname = \"a\"\nrole = \"x\"\n\n\
             [[member]]\nid = 2\nname = \"b\"\nrole = \"x\"\n\n[[service]]\nname = \"web\"\nbackends = [\"a\"]\n\n\
             [[service]]\nname = \"sequence\"\nbackends = [\"a\"]\n";
        MemberList { text: text.to_owned() }
    }

    #[test]
    fn numbers_are_raised_and_members_drained() {
        let mut list = list();
        assert_eq!((list.raise("generation"), list.raise("epoch")), (4, 2));
        assert!(list.text.starts_with("generation = 4\nepoch = 2\n"));
        list.drain("b");
        assert!(list.text.contains("name = \"b\"\ndrain = true\nrole"));
    }

    #[test]
    fn a_member_is_taken_out_and_put_back_and_a_backend_joins_the_service() {
        let mut list = list();
        let entry = list.remove("b");
        assert_eq!(entry, "[[member]]\nid = 2\nname = \"b\"\nrole = \"x\"");
        assert!(!list.text.contains("\"b\"") && list.text.contains("\"a\""));
        list.insert(&entry);
        assert_eq!(list.text.matches("[[member]]").count(), 2);
        assert!(list.text.contains("name = \"b\"\nrole = \"x\"\n\n[[service]]\nname = \"web\""));
        list.serve("b");
        assert!(list.text.contains("\"web\"\nbackends = [\"a\"]"));
        assert!(list.text.contains("\"sequence\"\nbackends = [\"b\", \"a\"]"));
    }
}
