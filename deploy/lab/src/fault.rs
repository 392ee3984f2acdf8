//! Things that go wrong on purpose, and how they are mended.

use std::fmt::Write;

use nix::sys::signal::Signal;

use crate::node::Node;
use crate::process::{self, Running};
use crate::topology::NodeKind;
use crate::{Error, Lab, tools};

/// MTU of every cable of a lab that nobody has touched.
const USUAL_MTU: u16 = 1500;

/// One fault. Each stays until [`heal`]; what [`Fault::Stop`] ended stays ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Ends what runs on these hosts: SIGTERM, after three seconds SIGKILL.
    Stop(Vec<String>),
    /// SIGKILL at once.
    Kill(Vec<String>),
    /// SIGSTOP: processes are there and do nothing.
    Freeze(Vec<String>),
    /// The far end of their cable is switched off; the hosts keep their addresses.
    Unplug(Vec<String>),
    /// The link between the router and the backends' network carries no larger packet, both ways.
    Mtu(u16),
    /// So many of a thousand packets are lost to and from these hosts.
    Loss {
        /// Whose cables.
        nodes: Vec<String>,
        /// Of a thousand, 1 to 1000.
        permille: u16,
    },
}

/// Does it. Names are hosts, or `ingresses`, `trackers`, `backends`.
pub fn inject(lab: &Lab, fault: &Fault) -> Result<(), Error> {
    match fault {
        Fault::Stop(names) => {
            let nodes = lab.select(names)?;
            // First what the lab started, which ends its own children in order.
            for node in &nodes {
                process::end(&node.processes()?);
            }
            let pids: Vec<i32> =
                process::end(&all_on(&nodes)?).iter().map(|process| process.pid).collect();
            if pids.is_empty() {
                Ok(())
            } else {
                Err(Error::Immortal { lab: lab.name().to_owned(), pids })
            }
        }
        Fault::Kill(names) => signal(&lab.select(names)?, Signal::SIGKILL),
        Fault::Freeze(names) => signal(&lab.select(names)?, Signal::SIGSTOP),
        Fault::Unplug(names) => {
            for (node, port) in ports(&lab.select(names)?) {
                node.shell(&format!("ip link set {port} down"))?;
            }
            Ok(())
        }
        Fault::Mtu(bytes) => set_mtu(lab, *bytes),
        Fault::Loss { nodes, permille } => {
            for (node, port) in ports(&lab.select(nodes)?) {
                node.shell(&lose(&port, *permille))?;
            }
            Ok(())
        }
    }
}

/// Mends everything that can be mended: thaws, plugs in, MTU 1500, no loss.
pub fn heal(lab: &Lab) -> Result<(), Error> {
    let nodes = lab.nodes();
    signal(&nodes, Signal::SIGCONT)?;
    for (node, port) in ports(&nodes) {
        let table = table(&port);
        // "add" makes a table that may be missing, so that "delete" finds one.
        node.shell(&format!(
            "ip link set {port} up
nft -f - <<'END'
add table netdev {table}
delete table netdev {table}
END
"
        ))?;
    }
    set_mtu(lab, USUAL_MTU)
}

fn all_on(nodes: &[Node]) -> Result<Vec<Running>, Error> {
    let mut all = Vec::new();
    for node in nodes {
        all.extend(tools::inside(&node.namespace())?);
    }
    Ok(all)
}

fn signal(nodes: &[Node], signal: Signal) -> Result<(), Error> {
    for process in all_on(nodes)? {
        process.signal(signal);
    }
    Ok(())
}

fn ports(nodes: &[Node]) -> impl Iterator<Item = (Node, String)> {
    nodes.iter().filter_map(Node::port)
}

fn set_mtu(lab: &Lab, bytes: u16) -> Result<(), Error> {
    for kind in [NodeKind::Router, NodeKind::Fabric] {
        for node in lab.nodes_of(kind) {
            node.shell(&format!("ip link set uplink mtu {bytes}"))?;
        }
    }
    Ok(())
}

fn table(port: &str) -> String {
    format!("jlb_loss_{}", port.replace('-', "_"))
}

/// At the far end of the cable, since DPDK takes its copy of a frame before the chains of its own host see it.
fn lose(port: &str, permille: u16) -> String {
    let table = table(port);
    // nft refuses `< 1000`, a comparison that is always true.
    let last = permille.saturating_sub(1);
    let mut script = format!(
        "nft -f - <<'END'\nadd table netdev {table}\ndelete table netdev {table}\ntable netdev {table} {{\n"
    );
    for hook in ["ingress", "egress"] {
        // Writing to a String does not fail.
        let _ = writeln!(
            script,
            "  chain {hook} {{ type filter hook {hook} device \"{port}\" priority 0; numgen random mod 1000 <= {last} drop; }}"
        );
    }
    script.push_str("}\nEND\n");
    script
}
