//! Faults of cables. All are made at the far end, since DPDK takes its copy of a frame before the chains of its own host
//! see it.

use std::fmt::Write;
use std::net::IpAddr;

use super::not_there;
use crate::node::Node;
use crate::topology::NodeKind;
use crate::{Error, Lab};

/// MTU of every cable of a lab that nobody has touched.
const USUAL_MTU: u16 = 1500;

/// What an nftables table of ours is for: each kind has a table of its own at each port, so that they add up.
const KINDS: [&str; 4] = ["silence", "partition", "loss", "duplicate"];

pub(super) fn unplug(nodes: &[Node]) -> Result<(), Error> {
    for (node, port) in ports(nodes)? {
        node.shell(&format!("ip link set {port} down"))?;
        if link(&node, &port)?["operstate"] != "DOWN" {
            return Err(not_there("unplug", format!("{port} is still up")));
        }
    }
    Ok(())
}

pub(super) fn silence(nodes: &[Node]) -> Result<(), Error> {
    for (node, port) in ports(nodes)? {
        rules(&node, &port, "silence", |_| "drop".to_owned())?;
    }
    Ok(())
}

pub(super) fn partition(one: &[Node], other: &[Node]) -> Result<(), Error> {
    let addresses = other.iter().flat_map(Node::addresses);
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
    let list = |all: &[IpAddr]| all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let (v4, v6) = (list(&v4), list(&v6));
    for (node, port) in ports(one)? {
        rules(&node, &port, "partition", |hook| {
            // What comes in at the far end goes out of the host, to the others.
            let end = if hook == "ingress" { "daddr" } else { "saddr" };
            format!("ip {end} {{ {v4} }} drop; ip6 {end} {{ {v6} }} drop")
        })?;
    }
    Ok(())
}

pub(super) fn lose(nodes: &[Node], permille: u16) -> Result<(), Error> {
    // nft refuses `< 1000`, a comparison that is always true.
    let last = permille.saturating_sub(1);
    for (node, port) in ports(nodes)? {
        rules(&node, &port, "loss", |_| format!("numgen random mod 1000 <= {last} drop"))?;
    }
    Ok(())
}

/// On the way to the hosts only: a copy of what comes from them would have to be sent by the port that it came from.
pub(super) fn duplicate(nodes: &[Node], permille: u16) -> Result<(), Error> {
    let last = permille.saturating_sub(1);
    for (node, port) in ports(nodes)? {
        rules(&node, &port, "duplicate", |hook| match hook {
            "egress" => format!("numgen random mod 1000 <= {last} dup to \"{port}\""),
            _ => "accept".to_owned(),
        })?;
    }
    Ok(())
}

pub(super) fn set_mtu(lab: &Lab, bytes: u16) -> Result<(), Error> {
    for kind in [NodeKind::Router, NodeKind::Fabric] {
        for node in lab.nodes_of(kind) {
            node.shell(&format!("ip link set uplink mtu {bytes}"))?;
            if link(&node, "uplink")?["mtu"] != bytes {
                return Err(not_there("mtu", format!("the uplink of {} has another", node.name())));
            }
        }
    }
    Ok(())
}

pub(super) fn mend(lab: &Lab) -> Result<(), Error> {
    for (node, port) in lab.nodes().iter().filter_map(Node::port) {
        let mut script = format!("ip link set {port} up\nnft -f - <<'END'\n");
        for kind in KINDS {
            let table = table(kind, &port);
            // "add" makes a table that may be missing, so that "delete" finds one. Writing to a String does not fail.
            let _ = writeln!(script, "add table netdev {table}\ndelete table netdev {table}");
        }
        script.push_str("END\n");
        node.shell(&script)?;
    }
    set_mtu(lab, USUAL_MTU)
}

/// Where the cables of these hosts end; an error for a host that has none of its own.
fn ports(nodes: &[Node]) -> Result<Vec<(Node, String)>, Error> {
    let one = |node: &Node| {
        let port = node.port();
        port.ok_or_else(|| not_there("fault of a cable", format!("{} has none", node.name())))
    };
    nodes.iter().map(one).collect()
}

fn link(node: &Node, name: &str) -> Result<serde_json::Value, Error> {
    let answer = node.run("ip", &["-j", "link", "show", name])?;
    let links: Option<serde_json::Value> = serde_json::from_str(&answer).ok();
    Ok(links
        .and_then(|mut links| links.get_mut(0).map(serde_json::Value::take))
        .unwrap_or_default())
}

fn table(kind: &str, port: &str) -> String {
    format!("jlb_{kind}_{}", port.replace('-', "_"))
}

/// Puts the rules of one kind in force at a port, in place of those that were there, and reads them back.
fn rules(
    node: &Node,
    port: &str,
    kind: &'static str,
    rules: impl Fn(&str) -> String,
) -> Result<(), Error> {
    let table = table(kind, port);
    let mut script = format!(
        "nft -f - <<'END'\nadd table netdev {table}\ndelete table netdev {table}\ntable netdev {table} {{\n"
    );
    for hook in ["ingress", "egress"] {
        let rules = rules(hook);
        // Writing to a String does not fail.
        let _ = writeln!(
            script,
            "  chain {hook} {{ type filter hook {hook} device \"{port}\" priority 0; {rules}; }}"
        );
    }
    script.push_str("}\nEND\n");
    node.shell(&script)?;

    let there = node.run("nft", &["list", "table", "netdev", &table])?;
    let hooked = |hook: &str| there.contains(&format!("hook {hook} device \"{port}\""));
    let acts = there.contains("drop") || there.contains("dup to");
    if hooked("ingress") && hooked("egress") && acts {
        Ok(())
    } else {
        Err(not_there(kind, format!("nft has other rules at {port}:\n{there}")))
    }
}
