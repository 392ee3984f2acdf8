//! The cluster that the bench plays.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jlb_flow::HashKey;
use jlb_map::{
    Addresses, Admission, Backend, DEFAULT_REJECT_TTL, Family, Keys, Member, MemberRole,
    OnExhausted, Policy, Prefix, Problems, ReturnPath, Service, Snapshot, Spec, Underlay,
};
use jlb_runtime::{MacAddr, Neighbours};
use jlb_wire::{Epoch, GENEVE_PORT, MacKey, MacKeys, MemberId, Protocol};

/// One service in four is UDP.
pub const SERVICES: u32 = 16;
/// Hosts that flows are spread over.
pub const BACKENDS: u32 = 64;
const INGRESS: u16 = 1;
const TRACKERS: [u16; 3] = [2, 3, 4];
const FIRST_BACKEND: u16 = 100;
/// Where everything goes that is for no member.
pub const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 0xff]);

/// The ingress: what is measured, or who opens the flows of the tracker that is.
pub fn ingress() -> MemberId {
    member_id(INGRESS)
}

/// The tracker that is measured, when it is not the ingress.
pub fn tracker() -> MemberId {
    member_id(TRACKERS[0])
}

/// The backend that has flow number `n`.
pub fn backend_of(n: u32) -> MemberId {
    // Neighbouring flows are on different backends; which services they belong to does not matter.
    member_id(FIRST_BACKEND + (n.wrapping_mul(0x9e37_79b9) >> 16) as u16 % BACKENDS as u16)
}

#[expect(clippy::expect_used, reason = "all numbers here are ids")]
fn member_id(n: u16) -> MemberId {
    MemberId::new(n).expect("a member's number")
}

/// One VIP for each service and family.
pub fn vip(service: u32, v6: bool) -> IpAddr {
    let n = service as u8 + 1;
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, n.into()).into()
    } else {
        Ipv4Addr::new(203, 0, 113, n).into()
    }
}

/// What a service speaks.
pub const fn protocol(service: u32) -> Protocol {
    if service % 4 == 3 { Protocol::Udp } else { Protocol::Tcp }
}

/// Where a service listens.
pub const fn port(service: u32) -> u16 {
    8000 + service as u16
}

/// The snapshot that everybody has, with an underlay of that family, and services of that policy.
///
/// # Errors
/// None: it is no contradiction.
pub fn snapshot(v6: bool, policy: Policy) -> Result<Arc<Snapshot>, Problems> {
    let ids = |role, ids: &[u16]| ids.iter().map(|&n| member(n, role)).collect::<Vec<_>>();
    let backends: Vec<u16> = (FIRST_BACKEND..FIRST_BACKEND + BACKENDS as u16).collect();
    let prefixes = [("10.0.0.0", 16), ("fd00::", 64)];
    Snapshot::build(Spec {
        generation: 1,
        epoch: Epoch(1),
        protocol: jlb_wire::Version::OLDEST,
        keys: Keys { hash_key: HashKey([7; 16]), mac_keys: MacKeys::single(MacKey([9; 16])) },
        underlay: Underlay {
            prefixes: prefixes
                .iter()
                .filter_map(|(ip, len)| Prefix::new(ip.parse().ok()?, *len).ok())
                .collect(),
            prefer: if v6 { Family::V6 } else { Family::V4 },
            port: GENEVE_PORT,
            mtu: 1500,
        },
        members: [
            ids(MemberRole::Ingress, &[INGRESS]),
            ids(MemberRole::FlowTracker, &TRACKERS),
            ids(MemberRole::Backend, &backends),
        ]
        .concat(),
        services: (0..SERVICES).map(|n| service(n, &backends, policy)).collect(),
    })
}

fn member(n: u16, role: MemberRole) -> Member {
    let [high, low] = n.to_be_bytes();
    let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
    let addresses = Addresses { v4: Some(Ipv4Addr::new(10, 0, high, low)), v6: Some(v6) };
    Member { id: member_id(n), name: format!("m{n}"), role, addresses, drain: false }
}

fn service(n: u32, backends: &[u16], policy: Policy) -> Service {
    Service {
        name: format!("s{n}"),
        vips: vec![vip(n, false), vip(n, true)],
        port: port(n),
        protocol: protocol(n),
        backends: backends.iter().map(|&b| Backend::new(member_id(b))).collect(),
        policy,
        reject_ttl: DEFAULT_REJECT_TTL,
        on_exhausted: OnExhausted::Reset,
        return_path: ReturnPath::Egress,
        admission: Admission::Accept,
    }
}

/// By which Ethernet address a member is reached.
pub fn mac_of(member: MemberId) -> MacAddr {
    let [high, low] = member.as_u16().to_be_bytes();
    MacAddr([2, 0, 0, 0, high, low])
}

/// Every member by its own address, everybody else by a gateway.
pub fn neighbours(snapshot: &Snapshot) -> Arc<ArcSwap<Neighbours>> {
    let members = snapshot.members().iter().map(|m| (m.id, mac_of(m.id)));
    let everybody = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let routes = everybody
        .into_iter()
        .filter_map(|ip| Some((jlb_runtime::Prefix::new(ip, 0).ok()?, Some(GATEWAY))));
    Arc::new(ArcSwap::from_pointee(Neighbours::new(members, routes)))
}
