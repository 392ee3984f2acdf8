//! Which hosts a lab has, and their addresses. Nothing here touches the machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{Error, Jlb};

/// The client's addresses.
pub const CLIENT: [IpAddr; 2] = [v4(198, 51, 100, 9), v6([0x2001, 0xdb8, 1, 0, 0, 0, 0, 9])];
/// The first VIP of each family. The whole prefixes 203.0.113.0/24 and 2001:db8:beef::/64 go to the ingress hosts.
pub const VIP: [IpAddr; 2] = [v4(203, 0, 113, 10), v6([0x2001, 0xdb8, 0xbeef, 0, 0, 0, 0, 0x10])];
/// Prefixes that the router sends to the ingress hosts.
pub const VIP_PREFIX: [&str; 2] = ["203.0.113.0/24", "2001:db8:beef::/64"];
/// Metric of the router's routes for VIPs, the one that BIRD gives (`krt_metric`).
pub(crate) const VIP_METRIC: u32 = 32;
/// nginx on every backend.
pub const HTTP_PORT: u16 = 80;
/// The UDP echo server on every backend (RFC 862).
pub const ECHO_PORT: u16 = 7;

/// The address plan has room for this many hosts of one kind.
pub const MAX_OF_A_KIND: u8 = 20;

/// What a lab consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabConfig {
    /// Ingress (and egress) hosts, 1 to 20.
    pub ingresses: u8,
    /// Flow trackers, 1 to 20.
    pub trackers: u8,
    /// Backends, 1 to 20.
    pub backends: u8,
    /// Servers of etcd, which the member list comes from: 1 or 3; 0: it comes from `cluster.toml`.
    pub etcd: u8,
    /// Whether nginx and the UDP echo run on the backends.
    pub servers: bool,
    /// Bytes of the file `/payload` that nginx serves; 0: no such file.
    pub payload_bytes: u64,
    /// How JLB's daemons are set up and started; none: only the hosts.
    pub jlb: Option<Jlb>,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            ingresses: 3,
            trackers: 3,
            backends: 4,
            etcd: 0,
            servers: true,
            payload_bytes: 0,
            jlb: None,
        }
    }
}

impl LabConfig {
    /// The hosts, in the order in which they are made.
    pub fn nodes(&self) -> Vec<NodeId> {
        let many = |kind, n| (1..=n).map(move |index| NodeId { kind, index });
        [NodeKind::Client, NodeKind::Router, NodeKind::Fabric]
            .into_iter()
            .map(|kind| NodeId { kind, index: 0 })
            .chain(many(NodeKind::Ingress, self.ingresses))
            .chain(many(NodeKind::Tracker, self.trackers))
            .chain(many(NodeKind::Backend, self.backends))
            .chain(many(NodeKind::Etcd, self.etcd))
            .collect()
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let counts = [
            ("ingresses", self.ingresses),
            ("trackers", self.trackers),
            ("backends", self.backends),
        ];
        for (what, value) in counts {
            if !(1..=MAX_OF_A_KIND).contains(&value) {
                return Err(Error::OutOfBounds { what, value, max: MAX_OF_A_KIND });
            }
        }
        if !matches!(self.etcd, 0 | 1 | 3) {
            return Err(Error::EtcdServers(self.etcd));
        }
        Ok(())
    }
}

/// What a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Where curl runs.
    Client,
    /// Spreads VIP traffic over the ingress hosts by ECMP; holds the front bridge.
    Router,
    /// One hop behind the router; holds the bridge of the backends.
    Fabric,
    /// Ingress and egress.
    Ingress,
    /// Flow tracker.
    Tracker,
    /// Server with an agent.
    Backend,
    /// Server of etcd, on the backends' network.
    Etcd,
}

/// One host. Written `client`, `ingress-2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// What it is.
    pub kind: NodeKind,
    /// From 1; 0 where there is only one.
    pub index: u8,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            NodeKind::Client => f.write_str("client"),
            NodeKind::Router => f.write_str("router"),
            NodeKind::Fabric => f.write_str("fabric"),
            NodeKind::Ingress => write!(f, "ingress-{}", self.index),
            NodeKind::Tracker => write!(f, "tracker-{}", self.index),
            NodeKind::Backend => write!(f, "backend-{}", self.index),
            NodeKind::Etcd => write!(f, "etcd-{}", self.index),
        }
    }
}

impl NodeId {
    /// Its own addresses, v4 and v6: on the front or the back network, or the client's.
    pub fn addresses(self) -> [IpAddr; 2] {
        let front =
            |host: u8| [v4(10, 77, 0, host), v6([0xfd00, 0x77, 0, 0, 0, 0, 0, readable(host)])];
        let back =
            |host: u8| [v4(10, 77, 1, host), v6([0xfd00, 0x77, 1, 0, 0, 0, 0, readable(host)])];
        match self.kind {
            NodeKind::Client => CLIENT,
            NodeKind::Router => front(1),
            NodeKind::Fabric => back(1),
            NodeKind::Ingress => front(10 + self.index),
            NodeKind::Tracker => front(40 + self.index),
            NodeKind::Backend => back(70 + self.index),
            NodeKind::Etcd => back(90 + self.index),
        }
    }

    /// Its first hop, v4 and v6; none where routes are more than a default one.
    pub fn gateway(self) -> Option<[IpAddr; 2]> {
        let only = |kind| Self { kind, index: 0 };
        match self.kind {
            NodeKind::Client => Some(ROUTER_AT_CLIENT),
            NodeKind::Ingress | NodeKind::Tracker => Some(only(NodeKind::Router).addresses()),
            NodeKind::Backend | NodeKind::Etcd => Some(only(NodeKind::Fabric).addresses()),
            NodeKind::Fabric => Some(UPLINK_ROUTER),
            NodeKind::Router => None,
        }
    }

    /// Whether DPDK reads its interface.
    pub fn has_dpdk(self) -> bool {
        match self.kind {
            NodeKind::Ingress | NodeKind::Tracker => true,
            NodeKind::Client
            | NodeKind::Router
            | NodeKind::Fabric
            | NodeKind::Backend
            | NodeKind::Etcd => false,
        }
    }
}

/// The router on the client's network.
pub(crate) const ROUTER_AT_CLIENT: [IpAddr; 2] =
    [v4(198, 51, 100, 1), v6([0x2001, 0xdb8, 1, 0, 0, 0, 0, 1])];
/// The router's end of the uplink.
pub(crate) const UPLINK_ROUTER: [IpAddr; 2] =
    [v4(10, 77, 2, 1), v6([0xfd00, 0x77, 2, 0, 0, 0, 0, 1])];
/// The fabric's end of the uplink.
pub(crate) const UPLINK_FABRIC: [IpAddr; 2] =
    [v4(10, 77, 2, 2), v6([0xfd00, 0x77, 2, 0, 0, 0, 0, 2])];

/// Whether an address is in one of [`VIP_PREFIX`].
pub(crate) fn is_vip(address: IpAddr) -> bool {
    match (address, VIP[0], VIP[1]) {
        (IpAddr::V4(a), IpAddr::V4(vip), _) => a.octets()[..3] == vip.octets()[..3],
        (IpAddr::V6(a), _, IpAddr::V6(vip)) => a.segments()[..4] == vip.segments()[..4],
        (IpAddr::V4(_) | IpAddr::V6(_), _, _) => false,
    }
}

/// 42 as 0x42: the last digits of a host's v6 address look like those of its v4 address.
const fn readable(host: u8) -> u16 {
    (host / 10 * 16 + host % 10) as u16
}

/// All networks of a lab are of these lengths, v4 and v6.
pub(crate) const PREFIX_LENGTH: [u8; 2] = [24, 64];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(s: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn largest() -> LabConfig {
        LabConfig {
            ingresses: MAX_OF_A_KIND,
            trackers: MAX_OF_A_KIND,
            backends: MAX_OF_A_KIND,
            etcd: 3,
            ..LabConfig::default()
        }
    }

    #[test]
    fn no_two_hosts_share_an_address_or_a_name() {
        let nodes = largest().nodes();
        let addresses: BTreeSet<IpAddr> = nodes.iter().flat_map(|node| node.addresses()).collect();
        let names: BTreeSet<String> = nodes.iter().map(ToString::to_string).collect();
        assert_eq!(addresses.len(), 2 * nodes.len());
        assert_eq!(names.len(), nodes.len());
        assert_eq!(nodes.len(), 66);
    }

    #[test]
    fn the_usual_lab_has_thirteen_hosts() {
        assert_eq!(LabConfig::default().nodes().len(), 13);
    }

    #[test]
    fn a_lab_without_trackers_or_with_too_many_is_refused() {
        for trackers in [0, MAX_OF_A_KIND + 1] {
            let config = LabConfig { trackers, ..LabConfig::default() };
            assert!(matches!(config.check(), Err(Error::OutOfBounds { what: "trackers", .. })));
        }
        assert!(largest().check().is_ok());
        // Two servers of etcd survive less than one.
        for etcd in [2, 4] {
            let config = LabConfig { etcd, ..LabConfig::default() };
            assert!(matches!(config.check(), Err(Error::EtcdServers(_))));
        }
    }
}
