//! The shape of the cluster and of its services.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::num::NonZeroU32;

use jlb_flow::HashKey;
use jlb_map::{
    Addresses, Admission, Backend, Family, Keys, Member, MemberRole, OnExhausted, Policy, Prefix,
    ReturnPath, Service, Spec, Underlay,
};
use jlb_role::Nanos;
use jlb_wire::{Epoch, MacKey, MacKeys, MemberId, Protocol, Version};

use super::Expectation;
use crate::random::Random;
use crate::stack::Accepting;

#[derive(Clone, Copy)]
pub(super) struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    pub(super) const V4: Self = Self { v4: true, v6: false };

    pub(super) fn draw(r: &mut Random) -> Self {
        let (v4, v6) = r.pick([(true, false), (false, true), (true, true)]);
        Self { v4, v6 }
    }
}

/// The first list of members, with keys of this seed.
pub(super) fn spec(
    seed: u64,
    prefer: Family,
    members: Vec<Member>,
    services: Vec<Service>,
) -> Spec {
    Spec {
        generation: 1,
        epoch: Epoch(1),
        protocol: Version::OLDEST,
        keys: Keys {
            hash_key: HashKey(u128::from(seed).wrapping_add(1).to_be_bytes()),
            mac_keys: MacKeys::single(MacKey(*b"simulated secret")),
        },
        underlay: Underlay { prefixes: prefixes(), prefer, port: 6081, mtu: 1500 },
        members,
        services,
    }
}

fn prefixes() -> Vec<Prefix> {
    let v4 = Prefix::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 16);
    let v6 = Prefix::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)), 64);
    [v4, v6].into_iter().flatten().collect()
}

pub(super) fn members(
    ingress: u16,
    trackers: u16,
    backends: u16,
    families: Families,
) -> Vec<Member> {
    let roles = [
        (MemberRole::Ingress, ingress),
        (MemberRole::FlowTracker, trackers),
        (MemberRole::Backend, backends),
    ];
    let roles = roles.into_iter().flat_map(|(role, n)| (1..=n).map(move |i| (role, i)));
    (1..).zip(roles).filter_map(|(id, (role, i))| named(id, role, i, families)).collect()
}

/// One that is added later.
pub(super) fn member(id: u16, role: MemberRole, families: Families) -> Option<Member> {
    // Its number is no other's.
    named(id, role, 100 + id, families)
}

fn named(id: u16, role: MemberRole, i: u16, families: Families) -> Option<Member> {
    let v4 = Ipv4Addr::new(10, 0, role as u8, i as u8);
    let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, role as u16, i);
    Some(Member {
        id: MemberId::new(id)?,
        name: format!("{role}-{i}"),
        role,
        addresses: Addresses { v4: families.v4.then_some(v4), v6: families.v6.then_some(v6) },
        drain: false,
    })
}

pub(super) struct DrawnService {
    pub(super) service: Service,
    pub(super) accepting: Accepting,
    pub(super) expectation: Expectation,
    pub(super) deaf: Vec<MemberId>,
}

impl DrawnService {
    /// Backends have the ids behind `before`.
    pub(super) fn draw(r: &mut Random, n: u16, before: u16, backends: u16) -> Self {
        let protocol = r.pick([Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
        let reject_ttl = r.below(4) as u8;
        let on_exhausted = r.pick([OnExhausted::Force, OnExhausted::Reset, OnExhausted::Drop]);
        // How this service's backends may refuse: not at all, by order, by load, or since nobody listens.
        let trouble = r.below(6);
        let mut entries = Vec::new();
        let mut deaf = Vec::new();
        let mut refusing = 0;
        let mut limited = false;
        for id in (1..=backends).filter_map(|i| MemberId::new(before + i)) {
            let mut backend = Backend::new(id);
            match trouble {
                1 | 2 if r.once_in(2) => backend.admission = Admission::Refuse,
                3 if r.once_in(2) => {
                    backend.max_connections = NonZeroU32::new(1 + r.below(2) as u32);
                }
                4 if r.once_in(2) => deaf.push(id),
                _ => {}
            }
            let refuses = backend.admission == Admission::Refuse || deaf.contains(&id);
            refusing += u32::from(refuses);
            limited |= backend.max_connections.is_some();
            entries.push(backend);
        }
        let slow = trouble == 5 && protocol == Protocol::Tcp;
        let accepting = if slow {
            Accepting {
                limit: 1 + r.below(3) as u32,
                every: Nanos::from_millis(r.between(20, 300)),
            }
        } else {
            Accepting { limit: 128, every: Nanos(10_000) }
        };
        let expectation = if refusing == u32::from(backends) {
            Expectation::Refused
        } else if limited || slow || refusing > u32::from(reject_ttl) {
            Expectation::Either
        } else {
            Expectation::Admitted
        };
        let octet = 1 + n as u8;
        let vips = match r.below(3) {
            0 => vec![vip4(octet)],
            1 => vec![vip6(n + 1)],
            _ => vec![vip4(octet), vip6(n + 1)],
        };
        let service = Service {
            name: format!("service-{n}"),
            vips,
            // The underlay's own port is a port like any other outside.
            port: if r.once_in(8) { 6081 } else { 80 + n },
            protocol,
            backends: entries,
            // Of a copy: what else a seed means stays the same.
            policy: r.clone().pick(Policy::ALL),
            reject_ttl,
            on_exhausted,
            return_path: r.pick([ReturnPath::Egress, ReturnPath::Egress, ReturnPath::Direct]),
            admission: Admission::Accept,
        };
        Self { service, accepting, expectation, deaf }
    }
}

pub(super) fn vip4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, n))
}

pub(super) fn vip6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, n))
}
