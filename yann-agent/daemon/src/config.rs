//! Writes what the cluster's list says into the maps.

use std::collections::BTreeMap;

use jlb_map::{ServiceId, Snapshot};
use jlb_wire::{BootId, MemberId, RejectReason};
use jlb_yann_core::maps::{Egress, Host, ServiceKey, Window, WindowKey};
use jlb_yann_core::{Configuration, NO_SERVICE};

use crate::maps::{LockedWindow, Maps, MapsError, SLOTS};

/// Workers that a member can have.
const WORKERS: u8 = 16;

/// How many live flows the host takes.
#[derive(Clone, Copy, Debug)]
pub struct FlowLimits {
    /// Entries of their map.
    pub capacity: u32,
    /// As many as it wants; 0: no limit.
    pub max_connections: u32,
}

/// Which slot of the maps each of this host's services has, by its number in the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots(BTreeMap<u16, u16>);

impl Slots {
    /// The slot of a service.
    #[must_use]
    pub fn of(&self, number: u16) -> Option<u16> {
        self.0.get(&number).copied()
    }

    /// The number of the service in a slot; [`NO_SERVICE`] when the list has it no more.
    #[must_use]
    pub fn number(&self, slot: u16) -> u16 {
        // A host has few services, and this is done for flows that begin or end.
        let found = self.0.iter().find(|&(_, &s)| s == slot);
        found.map_or(NO_SERVICE, |(&number, _)| number)
    }
}

/// Makes the maps as a snapshot wants them, while the programs run on. `word`: why the host wants no new flows of a service,
/// if it wants none. Gives the slots.
///
/// # Errors
/// When a map refuses.
pub fn configure(
    maps: &mut Maps,
    me: MemberId,
    cluster: &Snapshot,
    limits: FlowLimits,
    word: impl Fn(&str) -> Option<RejectReason>,
) -> Result<Slots, MapsError> {
    let c = Configuration::new(me, cluster);
    let slots = slots(maps, cluster, me)?;
    let services: Vec<_> = (c.services.into_iter())
        .map(|(key, mut service)| {
            // The core numbers services by their place in the list.
            let place = service.slot;
            service.slot = slots.of(place).unwrap_or(NO_SERVICE);
            let name = cluster.service_by_id(ServiceId(place)).map(|s| &s.name);
            (key, service.with_word(name.and_then(|name| word(name))))
        })
        .collect();
    maps.services.replace(&services)?;
    maps.vips.replace(&c.vips)?;
    maps.member_addresses.replace(&c.addresses)?;
    let mut members = vec![None; usize::from(MemberId::MAX) + 1];
    for (id, member) in &c.members {
        members[id.index()] = Some(*member);
    }
    for (index, member) in (0..).zip(members) {
        let value = member.unwrap_or_default();
        if maps.members.get(index)? != value {
            maps.members.set(index, &value)?;
        }
        if member.is_none() && maps.boots.get(index)? != 0 {
            maps.boots.set(index, &0)?;
        }
    }
    egress_hosts(maps, &c.egress_hosts)?;
    let cpu = maps.host.get(0)?.cpu;
    // Last: with an id in it the programs begin to work.
    let FlowLimits { capacity: flow_capacity, max_connections } = limits;
    maps.host.set(0, &Host { flow_capacity, max_connections, cpu, ..c.host })?;
    Ok(slots)
}

/// Only what the host wants has changed.
///
/// # Errors
/// When a map refuses.
pub fn say(
    maps: &mut Maps,
    me: MemberId,
    cluster: &Snapshot,
    word: impl Fn(&str) -> Option<RejectReason>,
) -> Result<(), MapsError> {
    for service in cluster.services().iter().filter(|s| s.backend(me).is_some()) {
        let word = word(&service.name);
        for &vip in &service.vips {
            let key = ServiceKey::new(vip, service.port, service.protocol);
            let Some(was) = maps.services.get(&key) else { continue };
            let is = was.with_word(word);
            if is != was {
                maps.services.set(&key, &is)?;
            }
        }
    }
    Ok(())
}

/// The slot of each of this host's services, by its place in the list. A slot stays with the service of that name; one
/// is given away again when its service is gone with all its flows.
fn slots(maps: &mut Maps, cluster: &Snapshot, me: MemberId) -> Result<Slots, MapsError> {
    let ours: Vec<(u16, [u8; 64])> = (0..)
        .zip(cluster.services())
        .filter(|(_, s)| s.backend(me).is_some())
        .map(|(place, s)| (place, padded(&s.name)))
        .collect();
    let mut of_name = BTreeMap::new();
    let mut free = Vec::new();
    for slot in (0..SLOTS).rev() {
        let name = maps.slots.get(slot)?;
        if ours.iter().any(|(_, n)| *n == name) {
            of_name.insert(name, slot as u16);
        } else if name == [0; 64] || maps.live.get(slot)? == 0 {
            free.push(slot as u16);
        }
    }
    let mut out = BTreeMap::new();
    for (place, name) in ours {
        let slot = match of_name.get(&name) {
            Some(&slot) => slot,
            None => {
                let Some(slot) = free.pop() else { continue };
                maps.slots.set(slot.into(), &name)?;
                slot
            }
        };
        out.insert(place, slot);
    }
    Ok(Slots(out))
}

/// Names have at most 63 bytes.
fn padded(name: &str) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

/// The name of the service in a slot.
pub fn service_name(maps: &Maps, slot: u16) -> Option<String> {
    let bytes = maps.slots.get(slot.into()).ok()?;
    let name = bytes.split(|&b| b == 0).next().filter(|n| !n.is_empty())?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Those that were heard stay heard.
fn egress_hosts(maps: &mut Maps, wanted: &[MemberId]) -> Result<(), MapsError> {
    let mut old = Vec::new();
    for index in 0..maps.egress_hosts.len() {
        old.push(maps.egress_hosts.get(index)?);
    }
    for (index, id) in (0..).zip(wanted) {
        let member = id.as_u16();
        let heard = old.iter().find(|e| e.member == member).map_or(0, |e| e.heard);
        maps.egress_hosts.set(index, &Egress { heard, member, pad: [0; 6] })?;
    }
    Ok(())
}

/// A member answered our Probe with this boot id, under this sequence number.
///
/// # Errors
/// When a map refuses.
pub fn peer_boot(
    maps: &mut Maps,
    member: MemberId,
    boot: BootId,
    sequence: u64,
) -> Result<(), MapsError> {
    let worker = (sequence >> 56) as u8;
    if worker < WORKERS {
        let key = WindowKey { member: member.as_u16(), worker, pad: 0 };
        // Nothing before this answer is new. A window of this very boot knows better.
        if maps.windows.get(&key).is_none_or(|w| w.boot != boot.0) {
            let window = Window { highest: sequence, seen: [u64::MAX; 16] };
            maps.windows.set(&key, &LockedWindow { lock: 0, pad: 0, boot: boot.0, window })?;
        }
    }
    maps.boots.set(member.as_u16().into(), &boot.0)?;
    Ok(())
}

/// A tracker's worker that was shut out has pulled: no message of it up to this one is new.
///
/// # Errors
/// When a map refuses.
pub fn pulled(
    maps: &mut Maps,
    member: MemberId,
    boot: BootId,
    sequence: u64,
) -> Result<(), MapsError> {
    let worker = (sequence >> 56) as u8;
    if worker < WORKERS {
        let key = WindowKey { member: member.as_u16(), worker, pad: 0 };
        let known = maps.windows.get(&key).filter(|w| w.boot == boot.0);
        let highest = known.map_or(sequence, |w| w.window.highest.max(sequence));
        // What comes at this very moment is lost or seen twice: votes of that worker do not count yet, and a Cancel is repeated.
        let window = Window { highest, seen: [u64::MAX; 16] };
        maps.windows.set(&key, &LockedWindow { lock: 0, pad: 0, boot: boot.0, window })?;
    }
    Ok(())
}

/// The inode number of our network namespace: what tells its sockets from others'.
///
/// # Errors
/// When there is no `/proc`.
pub fn own_namespace() -> std::io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    // The thread's: a test may have moved one of many.
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino() as u32)
}
