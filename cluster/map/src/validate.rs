use core::net::IpAddr;
use std::collections::HashMap;

use jlb_wire::MemberId;

use crate::{
    Family, Fault, MAX_BACKENDS, MAX_MTU, MAX_PREFIXES, MAX_REJECT_TTL, MAX_SERVICES, MAX_VIPS,
    MAX_WEIGHT, MIN_MTU, Member, MemberField, MemberRole, Place, Problem, Service, ServiceField,
    Spec,
};

/// Everything that is wrong with a spec, in its order.
pub(crate) fn problems(spec: &Spec) -> Vec<Problem> {
    let mut check = Check { spec, found: Vec::new() };
    check.numbers();
    check.members();
    check.families();
    check.services();
    check.found
}

struct Check<'a> {
    spec: &'a Spec,
    found: Vec<Problem>,
}

impl<'a> Check<'a> {
    fn fault(&mut self, place: Place, fault: Fault) {
        self.found.push(Problem { place, fault });
    }

    fn size(&mut self, place: Place, count: usize, min: usize, max: usize) {
        if count < min {
            self.fault(place, Fault::Empty);
        } else if count > max {
            self.fault(place, Fault::TooMany { count, max });
        }
    }

    fn range(&mut self, place: Place, value: u64, min: u64, max: u64) {
        if !(min..=max).contains(&value) {
            self.fault(place, Fault::OutOfRange { value, min, max });
        }
    }

    fn numbers(&mut self) {
        let Spec { generation, epoch, keys, underlay, .. } = self.spec;
        if *generation == 0 {
            self.fault(Place::Generation, Fault::ZeroNumber);
        }
        if epoch.0 == 0 {
            self.fault(Place::Epoch, Fault::ZeroNumber);
        }
        let macs = [Some(keys.mac_keys.current), keys.mac_keys.other];
        if keys.hash_key.0 == [0; 16] || macs.into_iter().flatten().any(|k| k.0 == [0; 16]) {
            self.fault(Place::Keys, Fault::ZeroKey);
        }
        self.size(Place::Prefixes, underlay.prefixes.len(), 1, MAX_PREFIXES);
        self.range(Place::Port, underlay.port.into(), 1, u16::MAX.into());
        self.range(Place::Mtu, underlay.mtu.into(), MIN_MTU.into(), MAX_MTU.into());
    }

    fn members(&mut self) {
        let mut ids: HashMap<MemberId, &'a str> = HashMap::new();
        let mut names: HashMap<&'a str, ()> = HashMap::new();
        let mut addresses: HashMap<IpAddr, &'a str> = HashMap::new();
        self.size(Place::Members, self.spec.members.len(), 1, MemberId::MAX.into());
        for (i, m) in self.spec.members.iter().enumerate() {
            let at = |field| Place::Member(i, field);
            if let Some(&other) = ids.get(&m.id) {
                self.fault(
                    at(MemberField::Id),
                    Fault::DuplicateId { id: m.id, other: other.to_owned() },
                );
            } else {
                ids.insert(m.id, &m.name);
            }
            self.name(at(MemberField::Name), &m.name, &mut names);
            if m.addresses.iter().next().is_none() {
                self.fault(at(MemberField::Addresses), Fault::NoAddress);
            }
            for address in m.addresses.iter() {
                if let Some(&other) = addresses.get(&address) {
                    let other = other.to_owned();
                    self.fault(
                        at(MemberField::Addresses),
                        Fault::DuplicateAddress { address, other },
                    );
                } else {
                    addresses.insert(address, &m.name);
                }
                if !usable(address) {
                    self.fault(at(MemberField::Addresses), Fault::UnusableAddress(address));
                } else if !self.in_underlay(address) && !self.spec.underlay.prefixes.is_empty() {
                    self.fault(at(MemberField::Addresses), Fault::OutsideUnderlay(address));
                }
            }
        }
    }

    /// Everybody talks to everybody, but for two ingress hosts and for two backends.
    fn families(&mut self) {
        for (i, m) in self.spec.members.iter().enumerate() {
            let Some(own) = only_family(m) else { continue };
            let stranger = self.spec.members.iter().find(|o| {
                only_family(o).is_some_and(|f| f != own)
                    && (o.role != m.role || m.role == MemberRole::FlowTracker)
            });
            if let Some(o) = stranger {
                let fault = Fault::NoCommonFamily { own, other: o.name.clone(), role: o.role };
                self.fault(Place::Member(i, MemberField::Addresses), fault);
            }
        }
    }

    fn services(&mut self) {
        let mut names: HashMap<&'a str, ()> = HashMap::new();
        let mut vips = HashMap::new();
        let members: HashMap<MemberId, &Member> =
            self.spec.members.iter().map(|m| (m.id, m)).collect();
        self.size(Place::Services, self.spec.services.len(), 0, MAX_SERVICES);
        for (i, s) in self.spec.services.iter().enumerate() {
            let at = |field| Place::Service(i, field);
            self.name(at(ServiceField::Name), &s.name, &mut names);
            self.size(at(ServiceField::Vips), s.vips.len(), 1, MAX_VIPS);
            self.range(at(ServiceField::Port), s.port.into(), 1, u16::MAX.into());
            self.range(at(ServiceField::RejectTtl), s.reject_ttl.into(), 0, MAX_REJECT_TTL.into());
            for (j, &vip) in s.vips.iter().enumerate() {
                let at = at(ServiceField::Vip(j));
                if !usable(vip) {
                    self.fault(at, Fault::UnusableAddress(vip));
                } else if self.in_underlay(vip) {
                    self.fault(at, Fault::VipInUnderlay(vip));
                }
                let (port, protocol) = (s.port, s.protocol);
                if let Some(other) = vips.insert((vip, port, protocol), s.name.clone()) {
                    self.fault(at, Fault::DuplicateVip { vip, port, protocol, other });
                }
            }
            self.backends(i, s, &members);
        }
    }

    fn backends(&mut self, i: usize, s: &Service, members: &HashMap<MemberId, &Member>) {
        self.size(Place::Service(i, ServiceField::Backends), s.backends.len(), 1, MAX_BACKENDS);
        let mut seen: HashMap<MemberId, ()> = HashMap::new();
        for (j, b) in s.backends.iter().enumerate() {
            let at = Place::Service(i, ServiceField::Backend(j));
            match members.get(&b.member) {
                None => self.fault(at, Fault::NoSuchMember(b.member)),
                Some(m) if m.role != MemberRole::Backend => {
                    self.fault(at, Fault::NotABackend { name: m.name.clone(), role: m.role });
                }
                Some(m) => {
                    if seen.insert(b.member, ()).is_some() {
                        self.fault(at, Fault::DuplicateBackend(m.name.clone()));
                    }
                }
            }
            let weight = Place::Service(i, ServiceField::Weight(j));
            self.range(weight, b.weight.into(), 1, MAX_WEIGHT.into());
        }
    }

    fn name(&mut self, place: Place, name: &'a str, seen: &mut HashMap<&'a str, ()>) {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if name.is_empty() || name.len() > 63 || !name.bytes().all(fits) {
            self.fault(place, Fault::BadName(name.to_owned()));
        } else if seen.insert(name, ()).is_some() {
            self.fault(place, Fault::DuplicateName(name.to_owned()));
        }
    }

    fn in_underlay(&self, ip: IpAddr) -> bool {
        self.spec.underlay.prefixes.iter().any(|p| p.contains(ip))
    }
}

/// The one family that a member has, when it has one only.
fn only_family(m: &Member) -> Option<Family> {
    match (m.addresses.v4, m.addresses.v6) {
        (Some(_), None) => Some(Family::V4),
        (None, Some(_)) => Some(Family::V6),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

/// Whether a host may have this address: link-local ones need a scope that nothing here carries, and IPv4 in disguise
/// would be one address under two names.
fn usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => {
            !(a.is_unspecified()
                || a.is_loopback()
                || a.is_multicast()
                || a.is_broadcast()
                || a.is_link_local())
        }
        IpAddr::V6(a) => {
            !(a.is_unspecified()
                || a.is_loopback()
                || a.is_multicast()
                || a.is_unicast_link_local()
                || a.to_ipv4_mapped().is_some())
        }
    }
}
