//! A route as it is copied: read from one table, fitted to the encapsulated path, written to another.

use core::fmt;
use core::net::IpAddr;

use jlb_map::Family;
use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use crate::kernel::{NOBODY_V4, NOBODY_V6, ROUTE_PROTOCOL, address_family, set_table};

/// The lock of the MTU in `RTAX_LOCK`. With it, IPv4 would ignore "fragmentation needed" and clear DF.
const LOCK_MTU: u32 = 1 << 2;

/// That of IPv6's least MTU (RFC 8200 section 5).
const MIN_MSS_V6: u32 = 1280 - 60;

/// A route without what does not matter to a packet whose source is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) key: Key,
    kind: RouteType,
    scope: RouteScope,
    way: Way,
    /// In the order of their numbers.
    metrics: Vec<RouteMetric>,
}

/// Of routes with the same key in one table only one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) family: Family,
    pub(crate) destination: IpAddr,
    pub(crate) bits: u8,
    tos: u8,
    metric: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// Unreachable, and such.
    Nowhere,
    /// A nexthop object; it is the operator's, and shared.
    Object(u32),
    /// One or more.
    Hops(Vec<Hop>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hop {
    interface: u32,
    gateway: Option<IpAddr>,
    /// The gateway needs no route to it.
    on_link: bool,
    weight: u8,
}

/// What becomes of a route of the main table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Copyable {
    /// It is copied.
    Yes(Route),
    /// It should be, but this crate does not know how.
    NotKnown {
        /// Its destination.
        route: String,
        /// What is not known.
        why: &'static str,
    },
    /// It is none of our replies' business.
    No,
}

/// What packets of replies may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Encapsulated on the way out: the route's MTU.
    Mtu(u32),
    /// Sent as they are, but what comes in answer is encapsulated: the MSS of a packet of this size.
    Advertise(u32),
}

impl Route {
    /// Reads the kernel's message.
    pub(crate) fn read(message: &RouteMessage) -> Copyable {
        let header = &message.header;
        let Some(key) = Key::read(message) else { return Copyable::No };
        if matches!(key.destination, IpAddr::V6(a) if a.is_unicast_link_local()) {
            // Each interface has one, and no VIP talks to it.
            return Copyable::No;
        }
        let leads = header.kind == RouteType::Unicast;
        let nowhere =
            [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit, RouteType::Throw];
        // A clone is the kernel's note about one destination; a route for some sources is hardly for a VIP.
        if !(leads || nowhere.contains(&header.kind))
            || header.flags.contains(RouteFlags::Cloned)
            || header.source_prefix_length != 0
        {
            return Copyable::No;
        }
        let on_link = header.flags.contains(RouteFlags::Onlink);
        let mut hop = Hop { interface: 0, gateway: None, on_link, weight: 0 };
        let (mut object, mut paths, mut metrics, mut tunnel) = (None, None, Vec::new(), false);
        for attribute in &message.attributes {
            if let RouteAttribute::Oif(n) = attribute {
                hop.interface = *n;
            } else if let RouteAttribute::MultiPath(hops) = attribute {
                paths = Some(hops);
            } else if let RouteAttribute::NhId(n) = attribute {
                object = Some(*n);
            } else if let RouteAttribute::Metrics(m) = attribute {
                metrics.clone_from(m);
            } else if let RouteAttribute::Encap(_) = attribute {
                tunnel = true;
            } else {
                hop.gateway = hop.gateway.or(gateway(attribute));
            }
        }
        metrics.sort_by_key(RouteMetric::kind);
        let way = if !leads {
            Way::Nowhere
        } else if let Some(id) = object {
            Way::Object(id)
        } else if let Some(paths) = paths {
            tunnel |= paths.iter().any(is_tunnel);
            // A hop whose interface is down would be refused.
            let live = paths.iter().filter(|p| !p.flags.contains(RouteNextHopFlags::Dead));
            Way::hops(live.map(Hop::read).collect())
        } else if header.flags.contains(RouteFlags::Dead) {
            return Copyable::No;
        } else {
            Way::hops(vec![hop])
        };
        if tunnel && object.is_none() {
            let why = "it has an encapsulation of its own";
            return Copyable::NotKnown { route: key.to_string(), why };
        }
        if way == Way::Hops(Vec::new()) {
            return Copyable::No;
        }
        Copyable::Yes(Self { key, kind: header.kind, scope: header.scope, way, metrics })
    }

    /// Everything to nobody on this interface.
    pub(crate) fn to_nobody(family: Family, interface: u32) -> Self {
        let (destination, nobody, metric) = match family {
            Family::V4 => ([0; 4].into(), NOBODY_V4, 0),
            // What the kernel takes when none is given.
            Family::V6 => ([0; 16].into(), NOBODY_V6, 1024),
        };
        Self {
            key: Key { family, destination, bits: 0, tos: 0, metric },
            kind: RouteType::Unicast,
            scope: RouteScope::Universe,
            way: Way::hops(vec![Hop {
                interface,
                gateway: Some(nobody),
                on_link: true,
                weight: 0,
            }]),
            metrics: Vec::new(),
        }
    }

    /// What makes the kernel have it, in a table of ours.
    pub(crate) fn message(&self, table: u32) -> RouteMessage {
        let mut message = self.key.message(table);
        message.header.scope = self.scope;
        message.header.kind = self.kind;
        let attributes = &mut message.attributes;
        if !self.metrics.is_empty() {
            attributes.push(RouteAttribute::Metrics(self.metrics.clone()));
        }
        match &self.way {
            Way::Nowhere => {}
            Way::Object(id) => attributes.push(RouteAttribute::NhId(*id)),
            Way::Hops(hops) => {
                if let [hop] = hops[..] {
                    attributes.push(RouteAttribute::Oif(hop.interface));
                    attributes.extend(hop.gateway.map(|g| gateway_attribute(self.key.family, g)));
                    if hop.on_link {
                        message.header.flags |= RouteFlags::Onlink;
                    }
                } else {
                    let paths = hops.iter().map(|h| h.path(self.key.family)).collect();
                    attributes.push(RouteAttribute::MultiPath(paths));
                }
            }
        }
        message
    }

    /// The same for replies.
    pub(crate) fn fitted(mut self, limit: Limit) -> Self {
        if self.kind != RouteType::Unicast {
            self.metrics.clear();
            return self;
        }
        let headers = if self.key.family == Family::V4 { 20 + 20 } else { 40 + 20 };
        let size = match limit {
            Limit::Mtu(size) | Limit::Advertise(size) => size,
        };
        let mut mss = size.saturating_sub(headers);
        let mtu = self
            .metrics
            .iter()
            .find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
        // Where a route has no MSS, the kernel derives it from the MTU; with one, the MTU does not count.
        mss = mss.min(mtu.map_or(mss, |mtu| mtu.saturating_sub(headers)));
        let has_mss = self.metrics.iter().any(|m| matches!(m, RouteMetric::Advmss(_)));
        if let (Limit::Mtu(size), None) = (limit, mtu) {
            self.metrics.push(RouteMetric::Mtu(size));
        }
        // What the kernel derives for IPv6 it does not let sink below this.
        let too_small = self.key.family == Family::V6 && mss < MIN_MSS_V6;
        if !has_mss && (too_small || matches!(limit, Limit::Advertise(_))) {
            self.metrics.push(RouteMetric::Advmss(mss));
        }
        for metric in &mut self.metrics {
            if let RouteMetric::Mtu(mtu) = metric {
                if let Limit::Mtu(size) = limit {
                    *mtu = size.min(*mtu);
                }
            } else if let RouteMetric::Advmss(n) = metric {
                *n = mss.min(*n);
            } else if let RouteMetric::Lock(bits) = metric
                && matches!(limit, Limit::Mtu(_))
            {
                *bits &= !LOCK_MTU;
            }
        }
        self.metrics.retain(|m| *m != RouteMetric::Lock(0));
        self.metrics.sort_by_key(RouteMetric::kind);
        self
    }

    pub(crate) fn is_default(&self) -> bool {
        self.key.bits == 0 && self.kind == RouteType::Unicast
    }

    /// The interfaces that it leaves by; a nexthop object does not tell.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = u32> {
        let hops = if let Way::Hops(hops) = &self.way { &hops[..] } else { &[] };
        hops.iter().map(|h| h.interface)
    }

    /// Gateways must be reachable when a route that needs them is added.
    fn has_gateway(&self) -> bool {
        match &self.way {
            Way::Nowhere => false,
            Way::Object(_) => true,
            Way::Hops(hops) => hops.iter().any(|h| h.gateway.is_some()),
        }
    }
}

impl Key {
    /// `None` when it is neither IPv4 nor IPv6.
    pub(crate) fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let mut families = [Family::V4, Family::V6].into_iter();
        let family = families.find(|&f| address_family(f) == header.address_family)?;
        let mut key = Self {
            family,
            destination: if family == Family::V4 { [0; 4].into() } else { [0; 16].into() },
            bits: header.destination_prefix_length,
            tos: header.tos,
            metric: 0,
        };
        for attribute in &message.attributes {
            if let RouteAttribute::Destination(a) = attribute {
                key.destination = ip(a)?;
            } else if let RouteAttribute::Priority(n) = attribute {
                key.metric = *n;
            }
        }
        Some(key)
    }

    /// What names the route in a table of ours, to the kernel: wherever it leads.
    pub(crate) fn message(&self, table: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = address_family(self.family);
        header.destination_prefix_length = self.bits;
        header.tos = self.tos;
        header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        header.scope = RouteScope::NoWhere;
        set_table(&mut message, table);
        if self.bits > 0 {
            message.attributes.push(RouteAttribute::Destination(self.destination.into()));
        }
        // In IPv6 none is a number too: the default one.
        if self.metric > 0 {
            message.attributes.push(RouteAttribute::Priority(self.metric));
        }
        message
    }
}

/// Of several routes with one key the kernel uses the first, or (IPv6, with gateways, as router advertisements make them)
/// all.
/// Sorted so that each can be added: links first, then the more specific ones.
pub(crate) fn merged(routes: Vec<Route>) -> Vec<Route> {
    let mut merged: Vec<Route> = Vec::with_capacity(routes.len());
    let mut sorted = routes;
    sorted.sort_by_key(|r| r.key);
    for route in sorted {
        match merged.last_mut().filter(|last| last.key == route.key) {
            None => merged.push(route),
            Some(last) => {
                let joins = |r: &Route| match &r.way {
                    Way::Hops(hops) => hops.iter().all(|h| h.gateway.is_some()),
                    Way::Nowhere | Way::Object(_) => false,
                };
                let joinable = route.key.family == Family::V6 && joins(last) && joins(&route);
                if let (true, Way::Hops(hops), Way::Hops(more)) =
                    (joinable, &mut last.way, route.way)
                {
                    hops.extend(more);
                    *hops = sorted_hops(core::mem::take(hops));
                }
            }
        }
    }
    merged.sort_by_key(|r| (r.has_gateway(), core::cmp::Reverse(r.key.bits), r.key));
    merged
}

impl Way {
    fn hops(hops: Vec<Hop>) -> Self {
        Self::Hops(sorted_hops(hops))
    }
}

fn sorted_hops(mut hops: Vec<Hop>) -> Vec<Hop> {
    hops.sort_unstable();
    hops.dedup();
    if let [only] = &mut hops[..] {
        // A weight among one means nothing.
        only.weight = 0;
    }
    hops
}

impl Hop {
    fn read(path: &RouteNextHop) -> Self {
        Self {
            interface: path.interface_index,
            gateway: path.attributes.iter().find_map(gateway),
            on_link: path.flags.contains(RouteNextHopFlags::Onlink),
            weight: path.hops,
        }
    }

    fn path(self, family: Family) -> RouteNextHop {
        let mut path = RouteNextHop::default();
        path.interface_index = self.interface;
        path.hops = self.weight;
        if self.on_link {
            path.flags = RouteNextHopFlags::Onlink;
        }
        path.attributes.extend(self.gateway.map(|g| gateway_attribute(family, g)));
        path
    }
}

fn is_tunnel(path: &RouteNextHop) -> bool {
    path.attributes.iter().any(|a| matches!(a, RouteAttribute::Encap(_)))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(a) = address {
        Some(IpAddr::V4(*a))
    } else if let RouteAddress::Inet6(a) = address {
        Some(IpAddr::V6(*a))
    } else {
        None
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    if let RouteAttribute::Gateway(a) = attribute {
        ip(a)
    } else if let RouteAttribute::Via(RouteVia::Inet(a)) = attribute {
        Some(IpAddr::V4(*a))
    } else if let RouteAttribute::Via(RouteVia::Inet6(a)) = attribute {
        Some(IpAddr::V6(*a))
    } else {
        None
    }
}

/// IPv4 may go by way of an IPv6 gateway (RFC 5549).
fn gateway_attribute(family: Family, gateway: IpAddr) -> RouteAttribute {
    match (family, gateway) {
        (Family::V4, IpAddr::V6(a)) => RouteAttribute::Via(RouteVia::Inet6(a)),
        (Family::V6, IpAddr::V4(a)) => RouteAttribute::Via(RouteVia::Inet(a)),
        (Family::V4, IpAddr::V4(_)) | (Family::V6, IpAddr::V6(_)) => {
            RouteAttribute::Gateway(gateway.into())
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == 0 {
            let family = self.family;
            write!(f, "default ({family})")?;
        } else {
            write!(f, "{}/{}", self.destination, self.bits)?;
        }
        if self.metric > 0 { write!(f, " metric {}", self.metric) } else { Ok(()) }
    }
}

/// What is ours about it.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        for metric in &self.metrics {
            if let RouteMetric::Mtu(mtu) = metric {
                write!(f, " mtu {mtu}")?;
            } else if let RouteMetric::Advmss(mss) = metric {
                write!(f, " advmss {mss}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RouteMetric::{Advmss, InitCwnd, Lock, Mtu};

    fn route(destination: &str, metrics: &[RouteMetric]) -> Route {
        let destination: IpAddr = destination.parse().unwrap();
        let family = if destination.is_ipv4() { Family::V4 } else { Family::V6 };
        Route {
            key: Key { family, destination, bits: 8, tos: 0, metric: 0 },
            kind: RouteType::Unicast,
            scope: RouteScope::Universe,
            way: Way::hops(vec![Hop { interface: 1, gateway: None, on_link: false, weight: 0 }]),
            metrics: metrics.to_vec(),
        }
    }

    #[test]
    fn replies_get_no_more_than_fits_and_no_more_than_the_route_had() {
        let (mtu, advertise) = (Limit::Mtu, Limit::Advertise);
        for (destination, had, limit, expected) in [
            ("10.0.0.0", &[][..], mtu(1464), &[Mtu(1464)][..]),
            ("10.0.0.0", &[Mtu(1400)], mtu(1464), &[Mtu(1400)]),
            ("10.0.0.0", &[Lock(4), Mtu(9000)], mtu(1464), &[Mtu(1464)]),
            ("10.0.0.0", &[Lock(4 | 8), Mtu(9000)], mtu(1464), &[Lock(8), Mtu(1464)]),
            (
                "10.0.0.0",
                &[Advmss(1460), InitCwnd(20)],
                mtu(1464),
                &[Mtu(1464), Advmss(1424), InitCwnd(20)],
            ),
            ("10.0.0.0", &[Advmss(900)], mtu(1464), &[Mtu(1464), Advmss(900)]),
            ("10.0.0.0", &[], advertise(1464), &[Advmss(1424)]),
            (
                "10.0.0.0",
                &[Lock(4), Mtu(1400)],
                advertise(1464),
                &[Lock(4), Mtu(1400), Advmss(1360)],
            ),
            ("2001:db8::", &[], mtu(1464), &[Mtu(1464)]),
            ("2001:db8::", &[], mtu(1264), &[Mtu(1264), Advmss(1204)]),
            ("2001:db8::", &[], advertise(1464), &[Advmss(1404)]),
        ] {
            let fitted = route(destination, had).fitted(limit);
            assert_eq!(fitted.metrics, expected, "{destination} {had:?} {limit:?}");
        }
    }

    #[test]
    fn a_copy_reads_back_as_it_was_written() {
        let gateway = |s: &str| s.parse().ok();
        let hop = |interface, gateway, on_link, weight| Hop { interface, gateway, on_link, weight };
        for way in [
            Way::Object(7),
            Way::hops(vec![hop(2, None, false, 0)]),
            Way::hops(vec![hop(2, gateway("10.9.9.9"), true, 0)]),
            Way::hops(vec![hop(2, gateway("fe80::1"), false, 0)]),
            Way::hops(vec![
                hop(3, gateway("10.0.0.2"), false, 4),
                hop(2, gateway("10.0.0.1"), false, 0),
            ]),
        ] {
            let route = Route { way, ..route("10.0.0.0", &[Mtu(1464)]) };
            assert_eq!(Route::read(&route.message(6081)), Copyable::Yes(route.clone()));
        }
        let nowhere =
            Route { kind: RouteType::BlackHole, way: Way::Nowhere, ..route("2001:db8::", &[]) };
        assert_eq!(Route::read(&nowhere.message(77)), Copyable::Yes(nowhere.clone()));
    }

    #[test]
    fn equal_keys_are_one_route_and_links_come_first() {
        let via = |destination: &str, gateway: &str| {
            let gateway = Some(gateway.parse().unwrap());
            let hops = vec![Hop { interface: 1, gateway, on_link: false, weight: 0 }];
            Route { way: Way::hops(hops), ..route(destination, &[]) }
        };
        let link = route("10.0.0.0", &[]);
        let first = via("192.0.0.0", "10.0.0.1");
        let routes = vec![first.clone(), via("192.0.0.0", "10.0.0.2"), link.clone()];
        assert_eq!(merged(routes), [link, first]);

        let both = merged(vec![via("2001:db8::", "fe80::1"), via("2001:db8::", "fe80::2")]);
        assert_eq!(both.len(), 1);
        assert!(matches!(&both[0].way, Way::Hops(hops) if hops.len() == 2));
        let links = merged(vec![route("2001:db8::", &[]), route("2001:db8::", &[])]);
        assert_eq!(links, [route("2001:db8::", &[])]);
    }

    #[test]
    fn what_is_none_of_a_replys_business_is_not_copied() {
        assert_eq!(Route::read(&route("fe80::", &[]).message(254)), Copyable::No);
        let mut message = route("10.0.0.0", &[]).message(254);
        message.header.kind = RouteType::Local;
        assert_eq!(Route::read(&message), Copyable::No);
        message.header.kind = RouteType::Unicast;
        message.header.source_prefix_length = 24;
        assert_eq!(Route::read(&message), Copyable::No);
        message.header.source_prefix_length = 0;
        message.attributes.push(RouteAttribute::Encap(Vec::new()));
        assert!(matches!(Route::read(&message), Copyable::NotKnown { .. }));
    }
}
