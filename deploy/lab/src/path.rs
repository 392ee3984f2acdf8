//! Which hosts a flow goes through, worked out beside the daemons: the router is asked for its next hop, and the trackers
//! follow from the keys and the member list.

use std::fs;
use std::net::{IpAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use jlb_config::{ClusterFile, KeyFile, parse_cluster};
use jlb_flow::FlowHasher;
use jlb_map::Snapshot;
use jlb_wire::{FiveTuple, Protocol};

use crate::error::AtPath;
use crate::topology::NodeKind;
use crate::{Error, Lab};

/// The hosts that know a flow, while all of them are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowPath {
    /// Where the router sends its packets.
    pub ingress: String,
    /// Trackers of its partition, first rank first.
    pub trackers: Vec<String>,
}

impl Lab {
    /// The way of a flow from a client to a VIP. IPv4 only, see [`Lab::ingress_of`].
    pub fn path_of(
        &self,
        client: SocketAddrV4,
        vip: SocketAddrV4,
        protocol: Protocol,
    ) -> Result<FlowPath, Error> {
        Ok(FlowPath {
            ingress: self.ingress_of(client, vip, protocol)?,
            trackers: self.trackers_of(client, vip, protocol)?,
        })
    }

    /// The ingress host that the router picks for a flow. IPv4 only: for IPv6 the kernel (6.18) names another next hop
    /// than it takes.
    pub fn ingress_of(
        &self,
        client: SocketAddrV4,
        vip: SocketAddrV4,
        protocol: Protocol,
    ) -> Result<String, Error> {
        let [to, from] = [vip, client].map(|end| end.ip().to_string());
        let [dport, sport] = [vip, client].map(|end| end.port().to_string());
        let protocol = protocol.label();
        let mut words = vec!["-j", "route", "get", &to, "from", &from, "iif", "client"];
        words.extend(["ipproto", protocol, "sport", &sport, "dport", &dport]);
        let answer = self.node("router")?.run("ip", &words)?;
        let unexpected = || Error::Command {
            what: format!("ip {}", words.join(" ")),
            status: "no ingress host in its answer".to_owned(),
            stderr: answer.clone(),
        };
        let routes: serde_json::Value = serde_json::from_str(&answer).map_err(|_| unexpected())?;
        let gateway: IpAddr = routes[0]["gateway"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(unexpected)?;
        let mut ingresses = self.nodes_of(NodeKind::Ingress).into_iter();
        let ingress =
            ingresses.find(|node| node.addresses().contains(&gateway)).ok_or_else(unexpected)?;
        Ok(ingress.name())
    }

    fn trackers_of(
        &self,
        client: SocketAddrV4,
        vip: SocketAddrV4,
        protocol: Protocol,
    ) -> Result<Vec<String>, Error> {
        let path = self.path().join("cluster.toml");
        let snapshot = load(&path)?;
        let tuple = FiveTuple::new(client.into(), vip.into(), protocol).map_err(|error| {
            Error::Damaged { path: path.clone(), why: format!("{client} to {vip}: {error}") }
        })?;
        let partition = FlowHasher::new(snapshot.keys().hash_key).id(&tuple).partition();
        let trio = snapshot.trio(partition);
        Ok(trio
            .iter()
            .filter_map(|id| snapshot.member(id))
            .map(|member| member.name.clone())
            .collect())
    }
}

fn load(path: &Path) -> Result<Arc<Snapshot>, Error> {
    let text = fs::read_to_string(path).at(path)?;
    let mut read_key = |key: &Path| {
        Ok(KeyFile {
            text: fs::read_to_string(key)?,
            mode: fs::metadata(key)?.permissions().mode(),
        })
    };
    parse_cluster(ClusterFile { name: &path.to_string_lossy(), text: &text }, &mut read_key)
        .map_err(|mistakes| Error::Damaged { path: path.to_owned(), why: mistakes.to_string() })
}
