//! Where the router sends packets for VIPs, and other next hops than it has by itself.
//!
//! Those are routes of our own with a better metric beside those that are there, so that BIRD, which looks after its own,
//! neither removes them nor notices.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use super::not_there;
use crate::node::Node;
use crate::topology::{NodeKind, is_vip};
use crate::{Error, Lab};

/// Better than [`crate::topology::VIP_METRIC`], that of every other route.
const METRIC: u32 = 1;
/// In the kernel's table of who made a route (`rtm_protocol`), by which ours are found again.
const PROTOCOL: &str = "199";

/// A route of the router for VIPs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VipRoute {
    /// As `ip route` writes it.
    pub prefix: String,
    /// In the kernel's order; hosts of the lab by their names.
    pub next_hops: Vec<String>,
    /// Whether a fault has put it before the one that the router has by itself.
    pub is_fault: bool,
    #[serde(skip)]
    pub(crate) address: IpAddr,
    #[serde(skip)]
    gateways: Vec<IpAddr>,
}

/// The routes for VIPs that the router has, of both families.
pub fn vip_routes(lab: &Lab) -> Result<Vec<VipRoute>, Error> {
    read(&lab.node("router")?, &lab.nodes_of(NodeKind::Ingress))
}

pub(crate) fn read(router: &Node, ingresses: &[Node]) -> Result<Vec<VipRoute>, Error> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let answer = router.run("ip", &[family, "-j", "route", "show"])?;
        let all: Vec<Value> = serde_json::from_str(&answer).unwrap_or_default();
        routes.extend(all.iter().filter_map(|route| parse(route, ingresses)));
    }
    Ok(routes)
}

fn parse(route: &Value, ingresses: &[Node]) -> Option<VipRoute> {
    let prefix = route["dst"].as_str()?;
    let address = prefix.split('/').next()?.parse().ok()?;
    if !is_vip(address) {
        return None;
    }
    let gateway = |hop: &Value| hop["gateway"].as_str()?.parse::<IpAddr>().ok();
    let gateways: Vec<IpAddr> = match route["nexthops"].as_array() {
        Some(hops) => hops.iter().filter_map(gateway).collect(),
        None => gateway(route).into_iter().collect(),
    };
    let name = |gateway: &IpAddr| {
        let node = ingresses.iter().find(|node| node.addresses().contains(gateway));
        node.map_or_else(|| gateway.to_string(), Node::name)
    };
    Some(VipRoute {
        prefix: prefix.to_owned(),
        next_hops: gateways.iter().map(name).collect(),
        is_fault: route["metric"] == METRIC,
        address,
        gateways,
    })
}

pub(super) fn without(lab: &Lab, ingress: &Node) -> Result<(), Error> {
    replace(lab, "next hop removed", |hops| {
        let left: Vec<IpAddr> =
            hops.iter().copied().filter(|hop| !ingress.addresses().contains(hop)).collect();
        (left.len() < hops.len() && !left.is_empty()).then_some(left)
    })
}

/// By one place: each flow's hash falls on the same place, where another host is now.
pub(super) fn reorder(lab: &Lab) -> Result<(), Error> {
    replace(lab, "next hops reordered", |hops| {
        let mut other = hops.to_vec();
        other.rotate_left(1.min(hops.len()));
        (hops.len() > 1).then_some(other)
    })
}

fn replace(
    lab: &Lab,
    fault: &'static str,
    change: impl Fn(&[IpAddr]) -> Option<Vec<IpAddr>>,
) -> Result<(), Error> {
    let router = lab.node("router")?;
    let mut wanted = Vec::new();
    for route in vip_routes(lab)?.into_iter().filter(|route| !route.is_fault) {
        let hops = change(&route.gateways).ok_or_else(|| {
            not_there(fault, format!("{} has next hops {:?}", route.prefix, route.next_hops))
        })?;
        wanted.push((route.prefix, hops));
    }
    if wanted.is_empty() {
        return Err(not_there(fault, "the router has no routes for VIPs"));
    }
    for (prefix, hops) in &wanted {
        let mut words: Vec<String> =
            ["route", "replace", prefix, "metric", &METRIC.to_string(), "proto", PROTOCOL]
                .map(str::to_owned)
                .to_vec();
        for hop in hops {
            words.extend(["nexthop".to_owned(), "via".to_owned(), hop.to_string()]);
        }
        router.run("ip", &words)?;
    }
    let now = vip_routes(lab)?;
    let is_there = |(prefix, hops): &(String, Vec<IpAddr>)| {
        now.iter().any(|route| route.is_fault && route.prefix == *prefix && route.gateways == *hops)
    };
    if wanted.iter().all(is_there) {
        Ok(())
    } else {
        Err(not_there(fault, format!("the router has {now:?}")))
    }
}

pub(super) fn mend(lab: &Lab) -> Result<(), Error> {
    let router = lab.node("router")?;
    for family in ["-4", "-6"] {
        router.run("ip", &[family, "route", "flush", "table", "main", "proto", PROTOCOL])?;
    }
    Ok(())
}
