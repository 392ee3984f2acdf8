use core::net::{IpAddr, SocketAddr};

use jlb_map::{MemberRole, ServiceId, Snapshot};
use jlb_wire::{FiveTuple, Protocol};

/// What the packet path asks of the configuration, as sorted arrays: a handful of compares per packet, no hashing.
#[derive(Debug)]
pub(crate) struct Directory {
    services_v4: Box<[(u64, ServiceId)]>,
    services_v6: Box<[((u128, u32), ServiceId)]>,
    vips: Addresses,
    backends: Addresses,
}

/// A set of addresses.
#[derive(Debug, Default)]
struct Addresses {
    v4: Vec<u32>,
    v6: Vec<u128>,
}

impl Directory {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let (mut vips, mut backends) = (Addresses::default(), Addresses::default());
        for (id, service) in (0..).map(ServiceId).zip(snapshot.services()) {
            let rest = port_and_protocol(service.port, service.protocol);
            for &vip in &service.vips {
                vips.push(vip);
                match vip {
                    IpAddr::V4(vip) => v4.push((key_v4(vip.to_bits(), rest), id)),
                    IpAddr::V6(vip) => v6.push(((vip.to_bits(), rest), id)),
                }
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        vips.sort();
        for member in snapshot.members().iter().filter(|m| m.role == MemberRole::Backend) {
            member.addresses.iter().for_each(|a| backends.push(a));
        }
        backends.sort();
        Self { services_v4: v4.into(), services_v6: v6.into(), vips, backends }
    }

    /// The service that a client's packet is for.
    #[inline]
    pub(crate) fn service(&self, tuple: &FiveTuple) -> Option<ServiceId> {
        let rest = port_and_protocol(tuple.vip().port(), tuple.protocol());
        match tuple.vip() {
            SocketAddr::V4(vip) => find(&self.services_v4, &key_v4(vip.ip().to_bits(), rest)),
            SocketAddr::V6(vip) => find(&self.services_v6, &(vip.ip().to_bits(), rest)),
        }
    }

    /// Whether any service has that address.
    #[inline]
    pub(crate) fn is_vip(&self, ip: IpAddr) -> bool {
        self.vips.contains(ip)
    }

    /// Whether that is a backend's underlay address.
    #[inline]
    pub(crate) fn is_backend(&self, ip: IpAddr) -> bool {
        self.backends.contains(ip)
    }
}

impl Addresses {
    fn push(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.v4.push(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.push(ip.to_bits()),
        }
    }

    /// Also removes what is there twice (one VIP of many services).
    fn sort(&mut self) {
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v6.sort_unstable();
        self.v6.dedup();
    }

    #[inline]
    fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.binary_search(&ip.to_bits()).is_ok(),
            IpAddr::V6(ip) => self.v6.binary_search(&ip.to_bits()).is_ok(),
        }
    }
}

fn port_and_protocol(port: u16, protocol: Protocol) -> u32 {
    u32::from(port) << 8 | protocol as u32
}

fn key_v4(vip: u32, rest: u32) -> u64 {
    u64::from(vip) << 32 | u64::from(rest)
}

#[inline]
fn find<K: Ord>(sorted: &[(K, ServiceId)], key: &K) -> Option<ServiceId> {
    sorted.binary_search_by(|(k, _)| k.cmp(key)).ok().map(|at| sorted[at].1)
}
