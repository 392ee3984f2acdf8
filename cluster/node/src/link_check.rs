use core::net::IpAddr;

use crate::netlink::{Link, NetlinkError};

/// What is wrong with the kernel's interface on the underlay, for a member that has these addresses: empty when it is
/// as it should be. The kernel answers ARP and neighbour discovery only for what it has itself, so nobody finds a host
/// that lacks its own address. `mtu`: bytes of the packets that are sent on it, if they are sent on this interface.
pub(crate) fn trouble(
    interface: &str,
    link: &Result<Link, NetlinkError>,
    addresses: impl Iterator<Item = IpAddr>,
    mtu: Option<u16>,
) -> Vec<String> {
    let link = match link {
        Ok(link) => link,
        Err(e) => return vec![e.to_string()],
    };
    let mut reasons = Vec::new();
    if !link.is_up {
        reasons.push(format!("interface `{interface}` is down or has no carrier"));
    }
    if let Some(mtu) = mtu.filter(|&mtu| link.mtu < mtu.into()) {
        let has = link.mtu;
        reasons.push(format!("interface `{interface}` has an MTU of {has}, and dpdk.mtu is {mtu}"));
    }
    let missing = addresses.filter(|a| !link.addresses.contains(a));
    reasons.extend(missing.map(|a| {
        format!("{a}, the address of this host in cluster.toml, is not on interface `{interface}`")
    }));
    reasons
}

#[cfg(test)]
mod tests {
    use jlb_neighbours::MacAddr;

    use super::*;

    #[test]
    fn an_interface_without_the_address_or_the_link_is_told() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let link = |is_up, has: &[&str]| {
            let addresses = has.iter().map(|s| ip(s)).collect();
            Ok(Link { index: 2, mac: MacAddr([2; 6]), mtu: 1500, is_up, addresses })
        };
        let of = |link| {
            trouble("eth0", &link, ["10.1.0.11", "fd00:1::11"].map(ip).into_iter(), Some(1500))
        };
        assert_eq!(of(link(true, &["10.1.0.11", "fe80::1", "fd00:1::11"])), Vec::<String>::new());
        assert_eq!(of(link(false, &["10.1.0.11", "fd00:1::11"])).len(), 1);
        let [ref missing] = of(link(true, &["10.1.0.11"]))[..] else { panic!("one reason") };
        assert!(missing.starts_with("fd00:1::11, ") && missing.contains("`eth0`"), "{missing}");
        let small = |mtu| {
            let link = link(true, &[]).map(|link| Link { mtu: 1400, ..link });
            trouble("eth0", &link, core::iter::empty(), mtu)
        };
        assert_eq!(
            small(Some(1500)),
            ["interface `eth0` has an MTU of 1400, and dpdk.mtu is 1500"]
        );
        assert_eq!((small(Some(1400)), small(None)), (vec![], vec![]));
        let gone = of(Err(NetlinkError::NoInterface("eth0".into())));
        assert_eq!(gone, ["there is no interface `eth0`"]);
    }
}
