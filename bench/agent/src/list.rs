//! The member lists of the bench: a backend and its ingress host, and a tracker that exists on paper only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use jlb_flow::HashKey;
use jlb_map::{
    Addresses, Admission, Backend, Family, Keys, Member, MemberRole, OnExhausted, Policy,
    ReturnPath, Service, Snapshot, Spec, Underlay,
};
use jlb_wire::{Epoch, FiveTuple, MacKey, MacKeys, MemberId, Protocol, Version};
use jlb_yann::config::{self, FlowLimits, peer_boot};
use jlb_yann::maps::Maps;
use jlb_yann_core::maps::Shared;

use crate::Error;

/// The server's port.
pub(crate) const PORT: u16 = 5201;

pub(crate) const INGRESS: MemberId = id(1);
pub(crate) const HEAD: MemberId = id(11);
pub(crate) const SECOND: MemberId = id(12);
pub(crate) const BACKEND: MemberId = id(21);

pub(crate) const HASH_KEY: HashKey = HashKey([1; 16]);
const MAC_KEY: MacKey = MacKey([2; 16]);

/// Live flows and remembered answers that the programs have room for.
pub(crate) const CAPACITY: u32 = 1 << 17;

#[expect(clippy::expect_used, reason = "all numbers here are ids, as the compiler finds out")]
const fn id(n: u16) -> MemberId {
    MemberId::new(n).expect("1 to 4095")
}

pub(crate) const fn mac_keys() -> MacKeys {
    MacKeys::single(MAC_KEY)
}

/// A member's underlay address.
pub(crate) fn address(member: MemberId) -> IpAddr {
    // Of the low byte: ids here are below 256.
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, member.as_u16() as u8))
}

/// What a backend serves: one VIP, these ports.
pub(crate) struct Served {
    pub(crate) vip: IpAddr,
    pub(crate) ports: Vec<(u16, Admission)>,
}

/// The list in which `backend` is the backend and `ingress` the ingress host.
pub(crate) fn snapshot(
    (backend, ingress): (IpAddr, IpAddr),
    served: &Served,
) -> Result<Arc<Snapshot>, Error> {
    use MemberRole::{Backend as B, FlowTracker as T, Ingress as I};
    let member = |id: MemberId, role, at: IpAddr| {
        let v4 = if let IpAddr::V4(at) = at { Some(at) } else { None };
        Member {
            id,
            name: format!("m{id}"),
            role,
            addresses: Addresses { v4, v6: None },
            drain: false,
        }
    };
    let members = vec![
        member(INGRESS, I, ingress),
        member(HEAD, T, address(HEAD)),
        member(SECOND, T, address(SECOND)),
        member(BACKEND, B, backend),
    ];
    let service = |&(port, admission): &(u16, Admission)| Service {
        name: format!("port-{port}"),
        vips: vec![served.vip],
        port,
        protocol: Protocol::Tcp,
        backends: vec![Backend { admission, ..Backend::new(BACKEND) }],
        policy: Policy::Random,
        reject_ttl: 3,
        on_exhausted: OnExhausted::Reset,
        return_path: ReturnPath::Egress,
        admission: Admission::Accept,
    };
    let prefix = "10.9.0.0/24".parse().map_err(|_| Error::List("prefix".to_owned()))?;
    let spec = Spec {
        generation: 1,
        epoch: Epoch(1),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: HASH_KEY, mac_keys: mac_keys() },
        underlay: Underlay { prefixes: vec![prefix], prefer: Family::V4, port: 6081, mtu: 1500 },
        members,
        services: served.ports.iter().map(service).collect(),
    };
    Snapshot::build(spec).map_err(|mistakes| Error::List(format!("{mistakes:?}")))
}

/// Makes the maps as the daemon would, and lets it look alive for good.
pub(crate) fn configure(maps: &mut Maps, list: &Snapshot) -> Result<(), Error> {
    let limits = FlowLimits { capacity: CAPACITY, max_connections: 0 };
    config::configure(maps, BACKEND, list, limits, |_| None)?;
    let put = |e: &dyn std::fmt::Display| Error::Map(e.to_string());
    maps.word.set(0, &Shared { boot: 0x2121, counter: 1, sequence: 1 }).map_err(|e| put(&e))?;
    // A heartbeat of the future is fresh.
    maps.heartbeat.set(0, &(u64::MAX / 2)).map_err(|e| put(&e))?;
    for tracker in [HEAD, SECOND] {
        peer_boot(maps, tracker, boot(tracker), 0)?;
    }
    Ok(())
}

pub(crate) fn boot(member: MemberId) -> jlb_wire::BootId {
    jlb_wire::BootId(u64::from(member.as_u16()) * 1000)
}

/// A TCP flow.
pub(crate) fn tcp(client: SocketAddr, vip: SocketAddr) -> Result<FiveTuple, Error> {
    FiveTuple::new(client, vip, Protocol::Tcp).map_err(|e| Error::List(e.to_string()))
}
