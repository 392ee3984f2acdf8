//! Makes the hosts of a lab and their cables.

use std::fmt::Write;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::error::AtPath;
use crate::node::Node;
use crate::state::{Entry, LabDir};
use crate::topology::{
    LabConfig, NodeId, NodeKind, PREFIX_LENGTH, ROUTER_AT_CLIENT, UPLINK_FABRIC, UPLINK_ROUTER,
    VIP_METRIC, VIP_PREFIX,
};
use crate::{Error, tools};

/// Three solicitations, a second apart.
const INTRODUCTION: Duration = Duration::from_secs(4);

/// All namespaces, cables, addresses and routes.
pub(crate) fn make(dir: &LabDir, config: &LabConfig) -> Result<(), Error> {
    let nodes = config.nodes();
    let mut batch = String::new();
    for node in &nodes {
        let namespace = dir.namespace(&node.to_string());
        dir.note(&Entry::Namespace(namespace.clone()))?;
        line(&mut batch, format_args!("netns add {namespace}"));
    }
    tools::ip_batch(None, &batch)?;

    // Before there are interfaces: they take their defaults when they are made.
    for &node in &nodes {
        tools::shell(&dir.namespace(&node.to_string()), &sysctls(node))?;
    }
    tools::ip_batch(None, &cables(dir, &nodes))?;
    for &node in &nodes {
        let namespace = dir.namespace(&node.to_string());
        tools::ip_batch(
            Some(&namespace),
            &addresses_and_routes(node, &nodes, config.jlb.is_none()),
        )?;
        let script = offloads(node, &nodes);
        if !script.is_empty() {
            tools::shell(&namespace, &script)?;
        }
    }
    Ok(())
}

/// Has the router learn the ingress hosts' hardware addresses. Among IPv6 next hops the kernel passes over those that it
/// does not know, so that the first flows would move to another one when it does.
pub(crate) fn introduce(dir: &LabDir, config: &LabConfig) -> Result<(), Error> {
    let nodes = config.nodes();
    let ingresses: Vec<IpAddr> = nodes
        .iter()
        .filter(|node| node.kind == NodeKind::Ingress)
        .flat_map(|node| node.addresses())
        .collect();
    let greet = || -> std::io::Result<()> {
        for &address in &ingresses {
            // Port 9 discards (RFC 863). What matters is what goes before.
            UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?
                .send_to(b"", (address, 9))?;
        }
        Ok(())
    };
    let router = Node::new(NodeId { kind: NodeKind::Router, index: 0 }, dir.clone());
    router.within(greet)?.at(router.namespace())?;
    let deadline = Instant::now() + INTRODUCTION;
    while Instant::now() < deadline {
        let neighbours = router.run("ip", &["neigh", "show", "dev", "front"])?;
        let known = |address: &IpAddr| neighbours.contains(&format!("{address} lladdr"));
        if ingresses.iter().all(known) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::NoNeighbours { lab: dir.name().to_owned() })
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{arguments}");
}

fn sysctls(node: NodeId) -> String {
    let forwards = matches!(node.kind, NodeKind::Router | NodeKind::Fabric);
    let mut script = String::new();
    let mut set = |key: &str, value: &str| {
        line(&mut script, format_args!("echo '{value}' >/proc/sys/net/{key}"));
    };
    // First: switching it resets other keys. A new namespace may inherit it switched on.
    let forward = if forwards { "1" } else { "0" };
    set("ipv4/ip_forward", forward);
    set("ipv6/conf/all/forwarding", forward);
    for scope in ["all", "default"] {
        set(&format!("ipv6/conf/{scope}/disable_ipv6"), "0");
        // An address can be used at once: nobody else is on these cables.
        set(&format!("ipv6/conf/{scope}/accept_dad"), "0");
        set(&format!("ipv6/conf/{scope}/accept_ra"), "0");
        set(&format!("ipv4/conf/{scope}/rp_filter"), "0");
        set(&format!("ipv4/conf/{scope}/send_redirects"), "0");
        set(&format!("ipv4/conf/{scope}/accept_redirects"), "0");
    }
    match node.kind {
        NodeKind::Router => {
            // By addresses, ports and protocol, so that one client's connections spread over all ingress hosts. Not policy 1:
            // between namespaces it takes the hash that the client's socket left in the packet, which is random, and
            // another one after a retransmission. A router knows headers only.
            for family in ["ipv4", "ipv6"] {
                set(&format!("{family}/fib_multipath_hash_policy"), "3");
                set(&format!("{family}/fib_multipath_hash_fields"), "0x37");
            }
        }
        // 10,000 connections within a minute from one address.
        NodeKind::Client => set("ipv4/ip_local_port_range", "10000 65000"),
        NodeKind::Fabric
        | NodeKind::Ingress
        | NodeKind::Tracker
        | NodeKind::Backend
        | NodeKind::Etcd => {}
    }
    script
}

/// Each host has one `eth0`; the far end is named after the host. Both ends are made where they belong, so that nothing is
/// ever in the machine's own namespace.
fn cables(dir: &LabDir, nodes: &[NodeId]) -> String {
    let router = dir.namespace("router");
    let fabric = dir.namespace("fabric");
    let mut batch = String::new();
    line(
        &mut batch,
        format_args!("link add uplink netns {router} type veth peer name uplink netns {fabric}"),
    );
    for node in nodes {
        let far = match node.kind {
            NodeKind::Client | NodeKind::Ingress | NodeKind::Tracker => &router,
            NodeKind::Backend | NodeKind::Etcd => &fabric,
            NodeKind::Router | NodeKind::Fabric => continue,
        };
        let near = dir.namespace(&node.to_string());
        line(
            &mut batch,
            format_args!("link add eth0 netns {near} type veth peer name {node} netns {far}"),
        );
    }
    batch
}

fn addresses_and_routes(node: NodeId, nodes: &[NodeId], static_routes: bool) -> String {
    let mut batch = "link set lo up\n".to_owned();
    let text = &mut batch;
    match node.kind {
        NodeKind::Router => {
            bridge(text, "front", nodes, |kind| {
                matches!(kind, NodeKind::Ingress | NodeKind::Tracker)
            });
            interface(text, "front", node.addresses());
            interface(text, "client", ROUTER_AT_CLIENT);
            interface(text, "uplink", UPLINK_ROUTER);
            line(text, format_args!("route add 10.77.1.0/24 via {}", UPLINK_FABRIC[0]));
            line(text, format_args!("route add fd00:77:1::/64 via {}", UPLINK_FABRIC[1]));
            // Without JLB nobody announces them.
            for (family, prefix) in VIP_PREFIX.iter().enumerate().filter(|_| static_routes) {
                let mut route = format!("route add {prefix} metric {VIP_METRIC}");
                for ingress in nodes.iter().filter(|node| node.kind == NodeKind::Ingress) {
                    let _ = write!(route, " nexthop via {}", ingress.addresses()[family]);
                }
                line(text, format_args!("{route}"));
            }
        }
        NodeKind::Fabric => {
            bridge(text, "back", nodes, |kind| matches!(kind, NodeKind::Backend | NodeKind::Etcd));
            interface(text, "back", node.addresses());
            interface(text, "uplink", UPLINK_FABRIC);
        }
        NodeKind::Client
        | NodeKind::Ingress
        | NodeKind::Tracker
        | NodeKind::Backend
        | NodeKind::Etcd => {
            interface(text, "eth0", node.addresses());
        }
    }
    for gateway in node.gateway().into_iter().flatten() {
        line(text, format_args!("route add default via {gateway}"));
    }
    batch
}

/// A bridge with the cables of these hosts. No snooping: nobody here asks for multicast groups, and neighbour discovery
/// needs them.
fn bridge(text: &mut String, name: &str, nodes: &[NodeId], has: impl Fn(NodeKind) -> bool) {
    line(text, format_args!("link add {name} type bridge mcast_snooping 0 forward_delay 0"));
    for node in nodes.iter().filter(|node| has(node.kind)) {
        line(text, format_args!("link set {node} master {name} up"));
    }
}

fn interface(text: &mut String, name: &str, addresses: [IpAddr; 2]) {
    line(text, format_args!("link set {name} up"));
    for (address, length) in addresses.iter().zip(PREFIX_LENGTH) {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        line(text, format_args!("addr add {address}/{length} dev {name}{nodad}"));
    }
}

/// A DPDK port on af_packet takes frames as they come: no super-packets and no checksums left for a card to fill in.
/// The client's too: what it sends reaches a DPDK port through bridges that pass such frames on.
/// The backends keep theirs: their eBPF works on super-packets, and the router's ports cut them.
fn offloads(node: NodeId, nodes: &[NodeId]) -> String {
    let mut script = String::new();
    let mut off = |interface: &str| {
        line(
            &mut script,
            format_args!("ethtool -K {interface} tx off tso off gso off gro off >/dev/null"),
        );
    };
    match node.kind {
        NodeKind::Router => {
            for node in nodes.iter().filter(|node| node.kind == NodeKind::Client || node.has_dpdk())
            {
                off(&node.to_string());
            }
        }
        NodeKind::Client => off("eth0"),
        NodeKind::Ingress | NodeKind::Tracker => {
            off("eth0");
            script.push_str(&quiet());
        }
        NodeKind::Fabric | NodeKind::Backend | NodeKind::Etcd => {}
    }
    script
}

/// The kernel of a DPDK host sees on af_packet every frame that DPDK sees (which takes its copy before this chain). It
/// must not answer for it: "port unreachable" for Geneve, say.
fn quiet() -> String {
    let [vip4, vip6] = VIP_PREFIX;
    format!(
        "nft -f - <<'END'
table netdev jlb {{
  chain quiet {{
    type filter hook ingress device \"eth0\" priority 0;
    udp dport 6081 drop
    ip daddr {vip4} drop
    ip6 daddr {vip6} drop
  }}
}}
END
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_spreads_both_families_over_every_ingress() {
        let nodes = LabConfig::default().nodes();
        let batch = addresses_and_routes(nodes[1], &nodes, true);
        for expected in [
            "route add 203.0.113.0/24 metric 32 nexthop via 10.77.0.11 nexthop via 10.77.0.12 nexthop via 10.77.0.13\n",
            "route add 2001:db8:beef::/64 metric 32 nexthop via fd00:77::11 nexthop via fd00:77::12 nexthop via fd00:77::13\n",
        ] {
            assert!(batch.contains(expected), "{batch}");
        }
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        let config =
            LabConfig { ingresses: 20, trackers: 20, backends: 20, ..LabConfig::default() };
        // IFNAMSIZ is 16 with the closing zero.
        assert!(config.nodes().iter().all(|node| node.to_string().len() <= 15));
    }
}
