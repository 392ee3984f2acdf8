//! A lab as a whole: up, down, what runs there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde::Serialize;

use crate::error::AtPath;
use crate::fault::{self, VipRoute};
use crate::node::Node;
use crate::process::{self, Running};
use crate::state::{Entry, LabDir};
use crate::topology::{NodeId, NodeKind};
use crate::{Error, Jlb, LabConfig, bird, daemons, etcd, network, servers, tools};

/// Members find each other within a second or two.
const SETTLING: Duration = Duration::from_secs(10);

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    dir: LabDir,
    config: LabConfig,
    /// Whether it goes down when this value is dropped.
    owned: bool,
}

/// What [`Lab::status`] says.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The lab's name.
    pub lab: String,
    /// `up`, `unfinished` (its maker died, or is at work), `busy`.
    pub state: &'static str,
    /// Its folder.
    pub dir: PathBuf,
    /// Its hosts.
    pub nodes: Vec<NodeStatus>,
    /// Where its router sends packets for VIPs; empty while it has no router.
    pub routes: Vec<VipRoute>,
}

/// One host in a [`Status`].
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Its network namespace.
    pub namespace: String,
    /// Its addresses.
    pub addresses: [std::net::IpAddr; 2],
    /// What runs there.
    pub processes: Vec<Running>,
}

impl Lab {
    /// Raises a lab. It goes down when the value is dropped, and if this process is killed, when the next lab is raised.
    pub fn up(name: &str, config: &LabConfig) -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        config.check()?;
        take_down_orphans()?;
        let (dir, lock) = LabDir::claim(name)?;
        let made = make(&dir, config);
        drop(lock);
        if let Err(error) = made {
            // The first error is the one to tell; what could not be removed stays written down.
            let _ = Self::down(name);
            return Err(error);
        }
        Ok(Self { dir, config: config.clone(), owned: true })
    }

    /// Finds a lab that is up; it stays up when the value is dropped.
    pub fn open(name: &str) -> Result<Self, Error> {
        let dir = LabDir::find(name)?.ok_or_else(|| Error::NoLab(name.to_owned()))?;
        let config = dir.ready()?.ok_or_else(|| Error::Unfinished(name.to_owned()))?;
        Ok(Self { dir, config, owned: false })
    }

    /// Leaves the lab up when this value is dropped and when this process ends.
    pub fn keep(mut self) -> Result<(), Error> {
        self.dir.note(&Entry::Kept)?;
        self.owned = false;
        Ok(())
    }

    /// Takes a lab down, whatever state it is in; whether there was one.
    pub fn down(name: &str) -> Result<bool, Error> {
        let Some(dir) = LabDir::find(name)? else { return Ok(false) };
        if !geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let _lock = dir.lock()?;
        // Another process may have taken it down while we waited.
        if !dir.path().is_dir() {
            return Ok(false);
        }
        remove(&dir)?;
        Ok(true)
    }

    /// Names of all labs, up or half way.
    pub fn list() -> Result<Vec<String>, Error> {
        LabDir::all()
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        self.dir.name()
    }

    /// The folder of its files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The file that nginx serves as `/payload`, if the lab has one.
    pub fn payload(&self) -> PathBuf {
        self.dir.path().join(servers::PAYLOAD)
    }

    /// Where the agent of that backend pins its eBPF maps.
    pub fn pins(&self, backend: &str) -> PathBuf {
        daemons::bpf(&self.dir).join(backend)
    }

    /// `cluster.toml`: the member list that was last put in force.
    pub fn member_list(&self) -> PathBuf {
        self.dir.path().join("cluster.toml")
    }

    /// What it consists of.
    pub fn config(&self) -> &LabConfig {
        &self.config
    }

    /// One host, by name.
    pub fn node(&self, name: &str) -> Result<Node, Error> {
        let nodes = self.config.nodes();
        nodes.iter().find(|node| node.to_string() == name).map(|&id| self.node_at(id)).ok_or_else(
            || {
                let known: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                Error::NoNode {
                    lab: self.name().to_owned(),
                    node: name.to_owned(),
                    known: known.join(", "),
                }
            },
        )
    }

    /// All hosts.
    pub fn nodes(&self) -> Vec<Node> {
        self.config.nodes().into_iter().map(|id| self.node_at(id)).collect()
    }

    /// All hosts of one kind.
    pub fn nodes_of(&self, kind: NodeKind) -> Vec<Node> {
        self.nodes().into_iter().filter(|node| node.id().kind == kind).collect()
    }

    /// Hosts by name, or by kind: `ingresses`, `trackers`, `backends`, `etcds`.
    pub fn select(&self, names: &[String]) -> Result<Vec<Node>, Error> {
        let mut selected = Vec::new();
        for name in names {
            match name.as_str() {
                "ingresses" => selected.extend(self.nodes_of(NodeKind::Ingress)),
                "trackers" => selected.extend(self.nodes_of(NodeKind::Tracker)),
                "backends" => selected.extend(self.nodes_of(NodeKind::Backend)),
                "etcds" => selected.extend(self.nodes_of(NodeKind::Etcd)),
                one => selected.push(self.node(one)?),
            }
        }
        Ok(selected)
    }

    /// Starts the daemons of these hosts again, after they were stopped, and etcd and BIRD where they do not run, and waits until
    /// they may take traffic and, if nobody is cut off, have found each other and are the router's next hops.
    pub fn start_daemons(&self, nodes: &[Node]) -> Result<(), Error> {
        etcd::start(&self.config, nodes)?;
        bird::start(&self.config, nodes)?;
        daemons::start(&self.dir, &self.config, nodes)?;
        self.settle(SETTLING)?;
        let mut ingresses = nodes.to_vec();
        ingresses.retain(|node| node.id().kind == NodeKind::Ingress);
        self.wait_routes(&ingresses, SETTLING).map(drop)
    }

    /// Starts the daemons of these hosts, and does not wait until they are ready.
    pub fn launch_daemons(&self, nodes: &[Node]) -> Result<(), Error> {
        daemons::launch(&self.dir, &self.config, nodes).map(drop)
    }

    /// Waits until the router sends packets for VIPs to each of these ingress hosts, at most so long; whether it does.
    pub fn wait_routes(&self, to: &[Node], at_most: Duration) -> Result<bool, Error> {
        bird::wait_routes(&self.node("router")?, to, at_most)
    }

    /// Waits until every daemon has heard from all members that it asks, at most so long; whether it has.
    pub fn settle(&self, at_most: Duration) -> Result<bool, Error> {
        daemons::settle(&self.nodes(), at_most)
    }

    /// Waits until each of these hosts' daemons holds a member for up, or for down, at most so long; whether they do.
    pub fn wait_seen(
        &self,
        by: &[Node],
        member: &str,
        up: bool,
        at_most: Duration,
    ) -> Result<bool, Error> {
        daemons::wait_seen(by, member, up, at_most)
    }

    /// Daemons that are started from now on are those in this folder; none: of this build.
    pub fn use_programs(&mut self, folder: Option<&Path>) -> Result<(), Error> {
        let jlb =
            self.config.jlb.as_mut().ok_or_else(|| Error::NoJlb(self.dir.name().to_owned()))?;
        jlb.programs = folder.map(Path::to_owned);
        self.dir.note(&Entry::Ready(self.config.clone()))
    }

    /// Puts a changed member list in force, with a higher generation: writes it, and tells all daemons to read it (SIGHUP);
    /// with etcd, by `jlbctl apply`. They do so soon after this returns: look at their metrics.
    pub fn reload(&mut self, change: impl FnOnce(&mut Jlb)) -> Result<(), Error> {
        let jlb =
            self.config.jlb.as_mut().ok_or_else(|| Error::NoJlb(self.dir.name().to_owned()))?;
        change(jlb);
        jlb.generation += 1;
        let jlb = jlb.clone();
        daemons::write_cluster(&self.dir, &self.config, &jlb)?;
        if self.config.etcd > 0 {
            self.jlbctl(&["apply", &self.member_list().to_string_lossy()])?;
        } else {
            for node in self.nodes() {
                node.signal_daemon(Signal::SIGHUP)?;
            }
        }
        self.dir.note(&Entry::Ready(self.config.clone()))
    }

    /// Files that clients have uploaded under this name (`PUT /upload/NAME`), with the backend that has each.
    pub fn uploaded(&self, file: &str) -> Result<Vec<(Node, PathBuf)>, Error> {
        let mut found = Vec::new();
        for node in self.nodes_of(NodeKind::Backend) {
            let path = servers::upload_dir(&node)?.join(file);
            if path.is_file() {
                found.push((node, path));
            }
        }
        Ok(found)
    }

    /// What is there, also of a lab that was not raised to the end.
    pub fn status(name: &str) -> Result<Status, Error> {
        let dir = LabDir::find(name)?.ok_or_else(|| Error::NoLab(name.to_owned()))?;
        let config = dir.ready()?;
        let state = match (&config, dir.is_locked()) {
            (_, true) => "busy",
            (Some(_), false) => "up",
            (None, false) => "unfinished",
        };
        let mut processes = dir.processes()?;
        processes.retain(Running::is_alive);
        let nodes = config.iter().flat_map(LabConfig::nodes).map(|id| {
            let node = Node::new(id, dir.clone());
            let name = node.name();
            NodeStatus {
                namespace: node.namespace(),
                addresses: node.addresses(),
                processes: processes
                    .iter()
                    .filter(|process| process.node == name)
                    .cloned()
                    .collect(),
                node: name,
            }
        });
        let nodes: Vec<NodeStatus> = nodes.collect();
        Ok(Status {
            lab: name.to_owned(),
            state,
            routes: match &config {
                Some(config) => {
                    let lab = Self { dir: dir.clone(), config: config.clone(), owned: false };
                    fault::vip_routes(&lab).unwrap_or_default()
                }
                None => Vec::new(),
            },
            nodes,
            dir: dir.path().to_owned(),
        })
    }

    pub(crate) fn dir(&self) -> &LabDir {
        &self.dir
    }

    fn node_at(&self, id: NodeId) -> Node {
        Node::new(id, self.dir.clone())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned {
            // What could not be removed stays written down, for `jlb-lab down`.
            let _ = Self::down(self.name());
        }
    }
}

fn make(dir: &LabDir, config: &LabConfig) -> Result<(), Error> {
    if let Some((pid, start)) = process::myself() {
        dir.note(&Entry::Owner { pid, start })?;
    }
    network::make(dir, config)?;
    network::introduce(dir, config)?;
    let nodes: Vec<Node> =
        config.nodes().into_iter().map(|id| Node::new(id, dir.clone())).collect();
    if config.servers {
        servers::start(dir, config, &nodes)?;
    }
    if let Some(jlb) = &config.jlb {
        daemons::prepare(dir, config, jlb)?;
        etcd::start(config, &nodes)?;
        etcd::fill(dir, config)?;
        bird::start(config, &nodes)?;
        daemons::start(dir, config, &nodes)?;
        if !daemons::settle(&nodes, SETTLING)? {
            return Err(Error::NotSettled { lab: dir.name().to_owned() });
        }
        let mut ingresses: Vec<Node> = nodes;
        ingresses.retain(|node| node.id().kind == NodeKind::Ingress && jlb.has(&node.name()));
        let router = Node::new(NodeId { kind: NodeKind::Router, index: 0 }, dir.clone());
        if !bird::wait_routes(&router, &ingresses, SETTLING)? {
            return Err(Error::NoRoutes { lab: dir.name().to_owned() });
        }
    }
    dir.note(&Entry::Ready(config.clone()))
}

/// Labs of processes that were killed before they could take them down.
fn take_down_orphans() -> Result<(), Error> {
    for name in LabDir::all()? {
        // One that another process removes meanwhile is as good as removed.
        let Ok(Some(dir)) = LabDir::find(&name) else { continue };
        if !dir.is_locked() && dir.is_orphaned().unwrap_or(false) {
            Lab::down(&name)?;
        }
    }
    Ok(())
}

fn remove(dir: &LabDir) -> Result<(), Error> {
    let started = dir.processes()?;
    let mut left = process::end(&started);

    let journal = dir.journal()?;
    for entry in &journal {
        if let Entry::Namespace(namespace) = entry {
            // What the servers and `jlb-lab exec` have started there.
            left.extend(process::end(&tools::inside(namespace)?));
        }
    }
    if !left.is_empty() {
        let pids = left.iter().map(|process| process.pid).collect();
        return Err(Error::Immortal { lab: dir.name().to_owned(), pids });
    }

    for entry in journal.iter().rev() {
        match entry {
            Entry::Namespace(namespace) if tools::namespace_exists(namespace) => {
                tools::run(Command::new("ip").args(["netns", "delete", namespace]), "")?;
            }
            Entry::Mount(path) if is_mounted(path)? => {
                tools::run(Command::new("umount").arg(path), "")?;
            }
            Entry::Namespace(_)
            | Entry::Mount(_)
            | Entry::Owner { .. }
            | Entry::Kept
            | Entry::Ready(_) => {}
        }
    }
    match fs::remove_dir_all(dir.path()) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(Error::File { path: dir.path().to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_mounted(path: &Path) -> Result<bool, Error> {
    let mounts = "/proc/self/mounts";
    let text = fs::read_to_string(mounts).at(mounts)?;
    Ok(text.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == path)))
}
