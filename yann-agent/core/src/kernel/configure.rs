//! What the daemon writes into the maps.

use jlb_flow::PARTITIONS;
use jlb_map::{Family, MemberRole, ReturnPath, Snapshot};
use jlb_role::{Rule, Rules};
use jlb_wire::{BootId, MemberId, RejectReason, Version};

use super::{Kernel, window};
use crate::maps::{
    AddressKey, Egress, Host, Key, MAX_EGRESS, Member, MemberAt, Service, ServiceKey, Standing,
    Vip, WindowKey, host_flags, service_admission,
};

/// What a snapshot becomes in the maps of one backend host. The daemon writes the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The host map; `flow_capacity`, `max_connections` and `cpu` are left 0.
    pub host: Host,
    /// The map of services.
    pub services: Vec<(ServiceKey, Service)>,
    /// The map of VIPs.
    pub vips: Vec<(AddressKey, Vip)>,
    /// The map of members.
    pub members: Vec<(MemberId, Member)>,
    /// The map of members by address.
    pub addresses: Vec<(AddressKey, MemberAt)>,
    /// Those that replies may leave through, by id.
    pub egress_hosts: Vec<MemberId>,
}

impl Configuration {
    /// For that member.
    #[must_use]
    pub fn new(me: MemberId, snapshot: &Snapshot) -> Self {
        let mut out = Self { host: host(me, snapshot), ..Self::default() };
        for (slot, service) in (0..).zip(snapshot.services()) {
            let Some(backend) = service.backend(me) else { continue };
            let value = Service {
                max_connections: backend.max_connections.map_or(0, core::num::NonZeroU32::get),
                slot,
                admission: if service.admits(me) {
                    service_admission::ACCEPT
                } else {
                    service_admission::REFUSE
                },
                return_path: service.return_path as u8,
            };
            for &vip in &service.vips {
                out.services.push((ServiceKey::new(vip, service.port, service.protocol), value));
                let key = AddressKey::new(vip);
                let through = service.return_path as u8;
                match out.vips.iter_mut().find(|(k, _)| *k == key) {
                    // Egress is the smaller number, and goes before direct.
                    Some((_, vip)) => vip.return_path = vip.return_path.min(through),
                    None => out.vips.push((key, Vip { return_path: through, pad: [0; 3] })),
                }
            }
        }
        for m in snapshot.members() {
            let mut value = Member { role: m.role as u8, ..Member::default() };
            if let Some(v4) = m.addresses.v4 {
                (value.v4, value.families) = (v4.octets(), value.families | Member::V4);
            }
            if let Some(v6) = m.addresses.v6 {
                (value.v6, value.families) = (v6.octets(), value.families | Member::V6);
            }
            out.members.push((m.id, value));
            let at = MemberAt { id: m.id.as_u16(), role: m.role as u8, pad: 0 };
            out.addresses.extend(m.addresses.iter().map(|ip| (AddressKey::new(ip), at)));
        }
        let ingress = snapshot.with_role(MemberRole::Ingress);
        out.egress_hosts = ingress.iter().copied().take(MAX_EGRESS).collect();
        out.host.egress_hosts = out.egress_hosts.len() as u16;
        out
    }
}

// Egress before direct: see above.
const _: () = assert!((ReturnPath::Egress as u8) < ReturnPath::Direct as u8);

fn host(me: MemberId, snapshot: &Snapshot) -> Host {
    let keys = snapshot.keys();
    let mut host = Host {
        hash_key: Key(keys.hash_key.0),
        mac_key: Key(keys.mac_keys.current.0),
        other_mac_key: Key(keys.mac_keys.other.map_or([0; 16], |key| key.0)),
        epoch: snapshot.epoch().0,
        generation: snapshot.generation(),
        digest: snapshot.digest().0,
        id: me.as_u16(),
        port: snapshot.geneve_port(),
        oldest_version: Version::OLDEST.as_u8(),
        newest_version: Version::NEWEST.as_u8(),
        ..Host::default()
    };
    let mut set = |flag, on| host.flags |= if on { flag } else { 0 };
    set(host_flags::OTHER_KEY, keys.mac_keys.other.is_some());
    set(host_flags::PREFER_V6, snapshot.prefer() == Family::V6);
    if let Some(member) = snapshot.member(me) {
        set(host_flags::DRAIN, member.drain);
        set(host_flags::V4, member.addresses.v4.is_some());
        set(host_flags::V6, member.addresses.v6.is_some());
        host.v4 = member.addresses.v4.map_or([0; 4], |a| a.octets());
        host.v6 = member.addresses.v6.map_or([0; 16], |a| a.octets());
    }
    host
}

impl<R: Rules> Kernel<R> {
    /// A new member list. Live flows, answers, boot ids and windows stay; live flows are counted again, since slots
    /// may have changed. What the host said of its services is to be said again.
    pub fn configure(&mut self, snapshot: &Snapshot) {
        let c = Configuration::new(self.me, snapshot);
        let Host { cpu, max_connections, .. } = self.host;
        let flow_capacity = self.limits.flows as u32;
        self.host = Host { flow_capacity, cpu, max_connections, ..c.host };
        self.keys = snapshot.keys().mac_keys;
        self.hasher = jlb_flow::FlowHasher::new(snapshot.keys().hash_key);
        self.services = c.services.into_iter().collect();
        self.vips = c.vips.into_iter().collect();
        self.members = c.members.into_iter().collect();
        self.addresses = c.addresses.into_iter().collect();
        let heard = core::mem::take(&mut self.egress_hosts);
        let heard = |member| heard.iter().find(|e| e.member == member).map_or(0, |e| e.heard);
        self.egress_hosts = (c.egress_hosts.iter().map(|id| id.as_u16()))
            .map(|member| Egress { heard: heard(member), member, pad: [0; 6] })
            .collect();
        self.boots.retain(|id, _| self.members.contains_key(id));
        let known = |id: u16| MemberId::new(id).is_some_and(|id| self.members.contains_key(&id));
        self.windows.retain(|key, _| known(key.member));
        self.live = vec![0; snapshot.services().len()];
        for (tuple, flow) in &mut self.flows {
            if let Some(service) = self.services.get(&ServiceKey::of(tuple)) {
                flow.service = service.slot;
                self.live[usize::from(service.slot)] += 1;
            } else {
                flow.service = NO_SERVICE;
            }
        }
    }

    /// A member answered our Probe with this boot id and sequence number ([`jlb_role::Report::PeerBoot`]).
    pub fn peer_boot(&mut self, member: MemberId, boot: BootId, sequence: u64) {
        if !self.members.contains_key(&member) {
            return;
        }
        let former = self.boots.insert(member, boot);
        if former != Some(boot) {
            if !self.rules.on(Rule::MarkerFence) {
                self.former_boots.extend(former.map(|former| (member, former)));
            }
            self.windows.retain(|key, _| key.member != member.as_u16());
        }
        let key = WindowKey { member: member.as_u16(), worker: (sequence >> 56) as u8, pad: 0 };
        if key.worker < window::WORKERS {
            self.windows.entry(key).or_insert_with(|| window::starting_at(sequence));
        }
    }

    /// Who decides alone, by partition ([`crate::Agent::sole_owners`]), and what trackers' votes are worth
    /// ([`crate::Agent::standings`]).
    pub fn obey(
        &mut self,
        owners: &[u16; PARTITIONS],
        standings: impl Iterator<Item = (MemberId, Standing)>,
    ) {
        self.sole.copy_from_slice(owners);
        self.standings.extend(standings);
    }

    /// Takes no message of that worker up to this one any more ([`jlb_role::Report::Pulled`]).
    pub fn pulled(&mut self, member: MemberId, boot: BootId, sequence: u64) {
        let key = WindowKey { member: member.as_u16(), worker: (sequence >> 56) as u8, pad: 0 };
        if self.boots.get(&member) == Some(&boot) && key.worker < window::WORKERS {
            let highest = self.windows.get(&key).map_or(0, |window| window.highest);
            self.windows.insert(key, window::starting_at(highest.max(sequence)));
        }
    }

    /// The host itself refuses new flows of the service in that slot, or takes them again.
    pub fn set_word(&mut self, slot: u16, word: Option<RejectReason>) {
        for service in self.services.values_mut().filter(|service| service.slot == slot) {
            *service = service.with_word(word);
        }
    }

    /// Live flows of all services that the host wants to have; 0: no limit (`max_connections` of its own file).
    pub fn limit_connections(&mut self, max_connections: u32) {
        self.host.max_connections = max_connections;
    }

    /// The host's CPU load, 0 ..= 65535 for 0 ..= 1: what Rejects carry.
    pub fn cpu_load(&mut self, cpu: u16) {
        self.host.cpu = cpu;
    }
}

/// Slot of a live flow whose service is gone.
pub const NO_SERVICE: u16 = u16::MAX;
