//! BIRD on the router and the ingress hosts, with the files of `deploy/bird`: the router learns where VIPs are.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use crate::error::AtPath;
use crate::fault::vip_routes_of;
use crate::node::Node;
use crate::process::Running;
use crate::topology::{NodeId, NodeKind, VIP, VIP_PREFIX};
use crate::{Error, LabConfig};

/// Its name in the lab's list of processes.
const NAME: &str = "bird";
/// Autonomous systems: of the router, of the ingress hosts (RFC 6996: private ones).
const ROUTER_AS: u32 = 65_000;
const INGRESS_AS: u32 = 65_001;

const ROUTER_CONF: &str = include_str!("../../bird/router.conf");
const INGRESS_CONF: &str = include_str!("../../bird/ingress.conf");
const JLB_CONF: &str = include_str!("../../bird/jlb.conf");

/// Starts BIRD on those of the hosts that have one, unless it runs there.
pub(crate) fn start(config: &LabConfig, nodes: &[Node]) -> Result<(), Error> {
    let mut started = Vec::new();
    for node in nodes {
        let files: &[(&str, String)] = match node.id().kind {
            NodeKind::Router => &[
                ("bird.conf", ROUTER_CONF.to_owned()),
                ("site.conf", site(node.id())),
                ("ingresses.conf", ingresses(config)),
            ],
            NodeKind::Ingress => &[
                ("bird.conf", INGRESS_CONF.to_owned()),
                ("jlb.conf", JLB_CONF.to_owned()),
                ("site.conf", site(node.id())),
            ],
            NodeKind::Client
            | NodeKind::Fabric
            | NodeKind::Tracker
            | NodeKind::Backend
            | NodeKind::Etcd => continue,
        };
        if node.processes()?.iter().any(|process| process.what == NAME) {
            continue;
        }
        let dir = node.dir()?;
        for (name, text) in files {
            let path = dir.join(name);
            fs::write(&path, text).at(&path)?;
        }
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let arguments = [
            "-f".to_owned(),
            "-c".to_owned(),
            path("bird.conf"),
            "-s".to_owned(),
            path("bird.ctl"),
        ];
        started.push((node, node.start(NAME, "bird", &arguments)?));
    }
    for (node, bird) in &started {
        node.wait_ready(bird, || is_up(node, bird))?;
    }
    Ok(())
}

fn is_up(node: &Node, bird: &Running) -> bool {
    bird.is_alive() && node.dir().is_ok_and(|dir| dir.join("bird.ctl").exists())
}

/// Waits until the router sends packets for every VIP to each of these ingress hosts, at most so long; whether it does.
pub(crate) fn wait_routes(
    router: &Node,
    ingresses: &[Node],
    at_most: Duration,
) -> Result<bool, Error> {
    let deadline = Instant::now() + at_most;
    loop {
        let routes = vip_routes_of(router, ingresses)?;
        let leads = |vip: &std::net::IpAddr, ingress: &Node| {
            let name = ingress.name();
            routes.iter().any(|r| !r.is_fault && r.address == *vip && r.next_hops.contains(&name))
        };
        if VIP.iter().all(|vip| ingresses.iter().all(|ingress| leads(vip, ingress))) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `deploy/bird/site.conf` says on another site.
fn site(node: NodeId) -> String {
    let router = NodeId { kind: NodeKind::Router, index: 0 };
    let [router4, router6] = router.addresses();
    let [vips4, vips6] = VIP_PREFIX;
    format!(
        "# Written by jlb-lab.
define JLB_ROUTER_ID = {};
define JLB_AS = {INGRESS_AS};
define JLB_ROUTER_AS = {ROUTER_AS};
define JLB_ROUTER4 = {router4};
define JLB_ROUTER6 = {router6};
define JLB_VIPS4 = [ {vips4}{{32,32}} ];
define JLB_VIPS6 = [ {vips6}{{128,128}} ];
",
        node.addresses()[0]
    )
}

fn ingresses(config: &LabConfig) -> String {
    let mut text = "# Written by jlb-lab.\n".to_owned();
    for node in config.nodes().into_iter().filter(|node| node.kind == NodeKind::Ingress) {
        for (family, address) in [4, 6].into_iter().zip(node.addresses()) {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "protocol bgp ingress{}_{family} from jlb_ingress{family} {{ neighbor {address} as JLB_AS; }}",
                node.index
            );
        }
    }
    text
}
