//! A lab to break things in, and what can be read off it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jlb_config::{ClusterFile, KeyFile, parse_cluster};
use jlb_flow::FlowHasher;
use jlb_lab::config::daemon_and_role;
use jlb_lab::fault::{self, vip_routes};
use jlb_lab::topology::NodeKind;
use jlb_lab::{Lab, LabConfig, Node, Running, Service, binary};
use jlb_map::Snapshot;
use jlb_wire::{FiveTuple, Protocol};
use serde::Deserialize;

use crate::Error;
use crate::error::Doing as _;
use crate::load::Flow;
use crate::server;

/// Members that were away are relied upon again, and announce again, within this.
const WHOLE: Duration = Duration::from_secs(10);

/// A lab with the sequence server on its backends.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) client: Node,
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

/// The service that the connections use.
pub(crate) fn service() -> Service {
    Service::new("sequence", "tcp", server::PORT)
}

impl Site {
    /// Raises it, servers and all. It goes down when it is dropped.
    pub(crate) fn up(name: &str, config: &LabConfig) -> Result<Self, Error> {
        let program = binary("jlb-bench")?;
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
        let client = lab.node("client")?;
        Ok(Self { lab, client })
    }

    /// The daemon of a host, which runs.
    pub(crate) fn daemon(&self, node: &str) -> Result<Running, Error> {
        self.lab.node(node)?.daemon()?.ok_or_else(|| Error::Unreadable {
            what: node.to_owned(),
            why: "its daemon does not run".to_owned(),
        })
    }

    /// Starts the daemon of a host again, and waits until all members have found each other.
    pub(crate) fn restart(&self, node: &str) -> Result<(), Error> {
        Ok(self.lab.start_daemons(&[self.lab.node(node)?])?)
    }

    /// Makes the site whole again after a fault: cables, routes, etcd, drained backends, daemons.
    pub(crate) fn mend(&mut self) -> Result<(), Error> {
        fault::heal(&self.lab)?;
        if self.lab.config().etcd > 0 {
            self.lab.start_etcd()?;
        }
        let jlb = self.lab.config().jlb.clone().unwrap_or_default();
        for backend in &jlb.draining {
            self.lab.drain(backend, false)?;
        }
        let mut ended = Vec::new();
        for node in self.lab.nodes() {
            let is_member = daemon_and_role(node.id().kind).is_some() && jlb.has(&node.name());
            if is_member && node.daemon()?.is_none() {
                ended.push(node);
            }
        }
        self.lab.start_daemons(&ended)?;
        let lab = self.lab.name().to_owned();
        if !self.lab.settle(WHOLE)? {
            return Err(jlb_lab::Error::NotSettled { lab }.into());
        }
        self.wait_routes()
    }

    /// Waits until the router sends packets to all ingress hosts.
    pub(crate) fn wait_routes(&self) -> Result<(), Error> {
        if !self.lab.wait_routes(&self.lab.nodes_of(NodeKind::Ingress), WHOLE)? {
            let lab = self.lab.name().to_owned();
            return Err(jlb_lab::Error::NoRoutes { lab }.into());
        }
        Ok(())
    }

    pub(crate) fn names_of(&self, kind: NodeKind) -> Vec<String> {
        self.lab.nodes_of(kind).iter().map(Node::name).collect()
    }

    /// Every connection that an agent knows, by the client's end.
    pub(crate) fn carried(&self) -> Result<BTreeMap<SocketAddr, Carried>, Error> {
        let program = binary("jlb-yann")?.to_string_lossy().into_owned();
        let cluster = self.lab.member_list().to_string_lossy().into_owned();
        let mut all = BTreeMap::new();
        let is_member =
            |node: &Node| self.lab.config().jlb.as_ref().is_some_and(|jlb| jlb.has(&node.name()));
        for node in self.lab.nodes_of(NodeKind::Backend).into_iter().filter(is_member) {
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
        let path = self.lab.member_list();
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

    /// Whether the router has routes for VIPs by a routing protocol, and not static ones of the lab.
    pub(crate) fn learns_routes(&self) -> Result<bool, Error> {
        let router = self.lab.node("router")?;
        for family in ["-4", "-6"] {
            if !router.run("ip", &[family, "route", "show", "proto", "bird"])?.trim().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The ingress hosts that the router sends packets for VIPs to, over either family, first those that come first.
    pub(crate) fn next_hops(&self) -> Result<Vec<String>, Error> {
        let routes = vip_routes(&self.lab)?;
        let is_fault = routes.iter().any(|route| route.is_fault);
        let mut hops: Vec<String> = Vec::new();
        // What a fault has put there goes before what the router has by itself.
        for route in routes.into_iter().filter(|route| route.is_fault == is_fault) {
            for hop in route.next_hops {
                if !hops.contains(&hop) {
                    hops.push(hop);
                }
            }
        }
        Ok(hops)
    }
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
