//! Which Ethernet address a packet goes to.
//!
//! The kernel resolves addresses (ARP, neighbour discovery) and knows the routes. Whoever reads them from the kernel
//! flattens both into one [`Neighbours`] and hands it to the workers, which only look up. A change makes a new one:
//! the structure never changes in place, so workers need no lock.
#![forbid(unsafe_code)]

mod mac;
mod prefix;
mod ranges;

use core::net::IpAddr;

use jlb_wire::MemberId;

pub use mac::{MacAddr, NotAMacAddr};
pub use prefix::{NotAPrefix, Prefix};
use ranges::Ranges;

/// A snapshot of who is reached by which Ethernet address.
///
/// Memory: 28 KiB for the members, and at most 80 bytes per prefix. Look-ups: an array access for a member, a
/// binary search for an address.
#[derive(Clone, Debug)]
pub struct Neighbours {
    /// Indexed by member id.
    members: Box<[Option<MacAddr>]>,
    v4: Ranges,
    v6: Ranges,
}

impl Neighbours {
    /// `members`: the Ethernet address by which each member is reached: its own on a shared link, a router's
    /// otherwise. `routes`: the same for everybody else: routes with their gateway's address, and hosts on the link
    /// as full-length prefixes. `None` marks destinations that must not be reached (an unresolved gateway, a
    /// blackhole), even where a shorter prefix knows a way. The longest prefix wins; of equal ones, the last.
    pub fn new(
        members: impl IntoIterator<Item = (MemberId, MacAddr)>,
        routes: impl IntoIterator<Item = (Prefix, Option<MacAddr>)>,
    ) -> Self {
        let mut table = vec![None; usize::from(MemberId::MAX) + 1].into_boxed_slice();
        for (member, mac) in members {
            table[member.index()] = Some(mac);
        }
        let (v4, v6): (Vec<_>, Vec<_>) =
            routes.into_iter().partition(|(p, _)| p.address().is_ipv4());
        Self { members: table, v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    /// Nobody is reached: the state before the kernel was asked.
    #[must_use]
    pub fn none() -> Self {
        Self::new([], [])
    }

    /// By which Ethernet address a member is reached.
    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<MacAddr> {
        self.members.get(id.index()).copied().flatten()
    }

    /// By which Ethernet address a host is reached.
    #[must_use]
    pub fn route(&self, to: IpAddr) -> Option<MacAddr> {
        match to {
            IpAddr::V4(a) => self.v4.find(u128::from(a.to_bits())),
            IpAddr::V6(a) => self.v6.find(a.to_bits()),
        }
    }
}

impl Default for Neighbours {
    fn default() -> Self {
        Self::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, n])
    }

    #[test]
    fn members_are_found_by_id() {
        let id = |n| MemberId::new(n).unwrap();
        let n = Neighbours::new([(id(1), mac(1)), (id(4095), mac(2))], []);
        assert_eq!(n.member(id(1)), Some(mac(1)));
        assert_eq!(n.member(id(4095)), Some(mac(2)));
        assert_eq!(n.member(id(2)), None);
    }

    #[test]
    fn the_longest_prefix_wins_and_families_do_not_mix() {
        let route = |p: &str, n: u8| (p.parse::<Prefix>().unwrap(), (n > 0).then(|| mac(n)));
        let n = Neighbours::new(
            [],
            [
                route("0.0.0.0/0", 1),
                route("10.0.0.0/8", 2),
                route("10.1.0.0/16", 0),
                route("10.1.2.3/32", 3),
                route("255.255.255.255/32", 4),
                route("2001:db8::/32", 5),
                route("2001:db8::1/128", 6),
            ],
        );
        let ask = |a: &str| n.route(a.parse().unwrap());
        assert_eq!(ask("9.255.255.255"), Some(mac(1)));
        assert_eq!(ask("10.0.0.0"), Some(mac(2)));
        assert_eq!(ask("10.1.0.1"), None, "a blackhole inside a shorter route");
        assert_eq!(ask("10.1.2.3"), Some(mac(3)));
        assert_eq!(ask("10.1.2.4"), None);
        assert_eq!(ask("10.255.255.255"), Some(mac(2)));
        assert_eq!(ask("11.0.0.0"), Some(mac(1)));
        assert_eq!(ask("255.255.255.254"), Some(mac(1)));
        assert_eq!(ask("255.255.255.255"), Some(mac(4)));
        assert_eq!(ask("::1"), None, "no default route for IPv6");
        assert_eq!(ask("2001:db8::1"), Some(mac(6)));
        assert_eq!(ask("2001:db8::2"), Some(mac(5)));
        assert_eq!(ask("2001:db9::"), None);
    }
}
