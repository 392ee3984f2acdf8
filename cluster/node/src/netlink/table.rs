use core::net::IpAddr;
use std::collections::BTreeSet;

use jlb_neighbours::{MacAddr, Neighbours, Prefix};
use jlb_wire::MemberId;

/// Where a route leads, as seen from one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// To a router on the link.
    Gateway(IpAddr),
    /// To hosts on the link.
    OnLink,
    /// Not out of this interface, or nowhere at all.
    Nowhere,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// For these destinations.
    pub prefix: Prefix,
    /// Of equal prefixes the lowest metric counts; of those with the same, all are paths to there.
    pub metric: u32,
    /// To there.
    pub hop: Hop,
}

/// A host on the link that the kernel has heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address, unless the kernel is still asking or got no answer.
    pub mac: Option<MacAddr>,
    /// Whether the kernel has not checked it for a while. Our frames are no traffic of the kernel's, so it would not
    /// check by itself.
    pub is_stale: bool,
}

/// Routes and neighbours of a link, flattened for the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    members: Vec<(MemberId, MacAddr)>,
    routes: Vec<(Prefix, Option<MacAddr>)>,
    /// Hosts on the link that packets will go to, and whose Ethernet address is not known.
    pub unresolved: Vec<IpAddr>,
    /// The same, known, but not checked for a while.
    pub stale: Vec<IpAddr>,
}

impl Table {
    /// Flattens: a route becomes its gateway's Ethernet address, a host on the link a prefix of its own.
    #[must_use]
    pub fn new(
        mut routes: Vec<Route>,
        mut entries: Vec<Entry>,
        members: &[(MemberId, IpAddr)],
    ) -> Self {
        // Sorted, so that equal states of the kernel give equal tables. Of equal prefixes the last counts.
        routes.sort_by_key(|r| (r.prefix, core::cmp::Reverse(r.metric)));
        entries.sort_unstable();
        let entry =
            |ip: IpAddr| entries.binary_search_by_key(&ip, |e| e.address).ok().map(|i| entries[i]);
        let mac = |ip: IpAddr| entry(ip).and_then(|e| e.mac);

        // Of several paths, the first that leads to somebody.
        let next = |paths: &[Route]| {
            let gateways = paths.iter().filter_map(Route::gateway);
            gateways.clone().find(|&g| mac(g).is_some()).or_else(|| gateways.clone().next())
        };
        let same_prefix = routes.chunk_by(|a, b| a.prefix == b.prefix);
        let mut flat: Vec<_> = same_prefix
            .filter_map(|all| {
                let paths = best_of(all);
                Some((paths.first()?.prefix, next(paths).and_then(mac)))
            })
            .collect();
        flat.extend(entries.iter().filter_map(|e| Some((Prefix::host(e.address), Some(e.mac?)))));

        let mut wanted: BTreeSet<IpAddr> = routes.iter().filter_map(Route::gateway).collect();
        let mut found = Vec::new();
        for &(id, address) in members {
            let paths = best(&routes, address);
            let next = match paths.first().map(|r| r.hop) {
                Some(Hop::Gateway(gateway)) => next(paths).unwrap_or(gateway),
                Some(Hop::OnLink) => address,
                Some(Hop::Nowhere) | None => continue,
            };
            wanted.insert(next);
            found.extend(mac(next).map(|mac| (id, mac)));
        }
        let unresolved = wanted.iter().copied().filter(|&ip| mac(ip).is_none()).collect();
        let stale =
            wanted.iter().copied().filter(|&ip| entry(ip).is_some_and(|e| e.is_stale)).collect();
        Self { members: found, routes: flat, unresolved, stale }
    }

    /// For the workers.
    #[must_use]
    pub fn neighbours(&self) -> Neighbours {
        Neighbours::new(self.members.iter().copied(), self.routes.iter().copied())
    }

    /// Whether another table gives the workers the same.
    #[must_use]
    pub fn sends_like(&self, other: &Self) -> bool {
        self.members == other.members && self.routes == other.routes
    }
}

impl Route {
    fn gateway(&self) -> Option<IpAddr> {
        match self.hop {
            Hop::Gateway(gateway) => Some(gateway),
            Hop::OnLink | Hop::Nowhere => None,
        }
    }
}

/// Of sorted routes, the paths by the longest prefix that has the address.
fn best(routes: &[Route], address: IpAddr) -> &[Route] {
    let matching = routes
        .chunk_by(|a, b| a.prefix == b.prefix)
        .filter(|all| all.iter().any(|r| Prefix::new(address, r.prefix.len()) == Ok(r.prefix)));
    let longest = matching.max_by_key(|all| all.first().map(|r| r.prefix.len()));
    longest.map_or(&[], best_of)
}

/// Of sorted routes to one prefix, those of the lowest metric.
fn best_of(all: &[Route]) -> &[Route] {
    all.chunk_by(|a, b| a.metric == b.metric).next_back().unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn route(prefix: &str, metric: u32, hop: Hop) -> Route {
        Route { prefix: prefix.parse().unwrap(), metric, hop }
    }

    fn via(gateway: &str) -> Hop {
        Hop::Gateway(ip(gateway))
    }

    fn entry(address: &str, mac: u8) -> Entry {
        Entry {
            address: ip(address),
            mac: (mac > 0).then_some(MacAddr([2, 0, 0, 0, 0, mac])),
            is_stale: mac > 9,
        }
    }

    fn id(n: u16) -> MemberId {
        MemberId::new(n).unwrap()
    }

    fn mac(n: u8) -> Option<MacAddr> {
        Some(MacAddr([2, 0, 0, 0, 0, n]))
    }

    #[test]
    fn routes_and_hosts_on_the_link_become_ethernet_addresses() {
        let table = Table::new(
            vec![
                route("0.0.0.0/0", 100, via("10.0.0.1")),
                route("10.0.0.0/24", 0, Hop::OnLink),
                route("10.9.0.0/16", 0, Hop::Nowhere),
                route("172.16.0.0/12", 20, via("10.0.0.3")),
                route("172.16.0.0/12", 10, via("10.0.0.2")),
                route("2001:db8::/32", 0, via("fe80::1")),
            ],
            vec![
                entry("10.0.0.1", 1),
                entry("10.0.0.2", 12),
                entry("fe80::1", 5),
                entry("10.0.0.9", 9),
            ],
            &[
                (id(1), ip("10.0.0.2")),
                (id(2), ip("10.0.0.4")),
                (id(3), ip("172.16.5.5")),
                (id(4), ip("10.9.1.1")),
            ],
        );
        let n = table.neighbours();
        let ask = |a: &str| n.route(ip(a));
        assert_eq!(ask("198.51.100.1"), mac(1), "through the default gateway");
        assert_eq!(ask("10.0.0.9"), mac(9), "on the link");
        assert_eq!(ask("10.0.0.10"), None, "on the link and unknown: never through the gateway");
        assert_eq!(ask("10.9.3.3"), None, "out of another interface");
        assert_eq!(ask("172.16.1.1"), mac(12), "the lower metric counts");
        assert_eq!(ask("2001:db8::7"), mac(5));
        assert_eq!(ask("2001:db9::7"), None);
        assert_eq!([1, 2, 3, 4].map(|n_| n.member(id(n_))), [mac(12), None, mac(12), None]);
        assert_eq!(table.unresolved, [ip("10.0.0.3"), ip("10.0.0.4")]);
        assert_eq!(table.stale, [ip("10.0.0.2")]);
    }

    #[test]
    fn of_several_paths_one_that_leads_to_somebody_is_taken() {
        let routes = || {
            vec![
                route("0.0.0.0/0", 7, via("10.0.0.1")),
                route("0.0.0.0/0", 7, via("10.0.0.2")),
                route("0.0.0.0/0", 9, via("10.0.0.3")),
                route("10.0.0.0/24", 0, Hop::OnLink),
            ]
        };
        let members = [(id(1), ip("172.16.5.5"))];
        let with = |entries: &[(&str, u8)]| {
            let entries = entries.iter().map(|&(a, m)| entry(a, m)).collect();
            let table = Table::new(routes(), entries, &members);
            let n = table.neighbours();
            assert_eq!(n.route(ip("192.0.2.1")), n.member(id(1)));
            (n.member(id(1)), table.unresolved)
        };
        let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        assert_eq!(with(&[(all[0], 1), (all[1], 2)]), (mac(1), vec![ip(all[2])]));
        let failed = with(&[(all[0], 0), (all[1], 2), (all[2], 3)]);
        assert_eq!(failed, (mac(2), vec![ip(all[0])]), "the first is asked for again");
        let other_metric = with(&[(all[2], 3)]);
        assert_eq!(other_metric.0, None, "as the kernel does it");
    }

    #[test]
    fn a_route_out_of_another_interface_is_no_match_for_our_own() {
        let elsewhere = route("0.0.0.0/0", u32::MAX, Hop::Nowhere);
        let ours = route("0.0.0.0/0", 200, via("10.0.0.1"));
        for routes in [vec![elsewhere, ours], vec![ours, elsewhere]] {
            let table = Table::new(routes, vec![entry("10.0.0.1", 1)], &[]);
            assert_eq!(table.neighbours().route(ip("192.0.2.1")), mac(1));
        }
        let table = Table::new(vec![elsewhere], vec![], &[]);
        assert_eq!(table.neighbours().route(ip("192.0.2.1")), None);
    }

    #[test]
    fn the_order_of_the_kernels_answers_does_not_matter() {
        let routes =
            [route("0.0.0.0/0", 2, via("10.0.0.1")), route("0.0.0.0/0", 1, via("10.0.0.2"))];
        let entries = [entry("10.0.0.1", 1), entry("10.0.0.2", 2)];
        let reversed = |mut v: Vec<Route>| {
            v.reverse();
            v
        };
        let a = Table::new(routes.to_vec(), entries.to_vec(), &[]);
        let b = Table::new(reversed(routes.to_vec()), vec![entries[1], entries[0]], &[]);
        assert!(a.sends_like(&b));
        assert_eq!(a.neighbours().route(ip("192.0.2.1")), mac(2));
        let other = Table::new(routes.to_vec(), vec![entry("10.0.0.2", 3)], &[]);
        assert!(!a.sends_like(&other));
    }
}
