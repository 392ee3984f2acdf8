use core::hash::{BuildHasherDefault, Hash, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashMap;
use jlb_flow::Partition;
use jlb_wire::{Epoch, MemberId, Protocol, Version};

use crate::{
    Digest, Family, Keys, Maglev, Member, MemberRole, Policy, Prefix, Problems, Service, ServiceId,
    Spec, Trio, digest, partition, validate,
};

/// The cluster at one generation: checked, immutable, with the look-ups that the packet path needs.
#[derive(Debug)]
pub struct Snapshot {
    spec: Spec,
    digest: Digest,
    /// Position in `spec.members` by member id.
    positions: Box<[Option<u16>]>,
    by_address: HashMap<Address, u16, BuildHasherDefault<Spread>>,
    by_vip: HashMap<(IpAddr, u16, Protocol), ServiceId, ahash::RandomState>,
    vips: HashMap<Address, (), BuildHasherDefault<Spread>>,
    by_role: [Box<[MemberId]>; MemberRole::ALL.len()],
    trios: Box<[Trio]>,
    /// By service; of those whose policy asks for it.
    maglev: Box<[Option<Maglev>]>,
}

impl Snapshot {
    /// Checks a spec as a whole and makes the snapshot. Takes about 0.1 ms per tracker, for the partition map, and some
    /// milliseconds per service with the policy `consistent-hash`, for its table.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn build(spec: Spec) -> Result<Arc<Self>, Problems> {
        let problems = validate::problems(&spec);
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let mut positions = vec![None; usize::from(MemberId::MAX) + 1].into_boxed_slice();
        let mut by_address = HashMap::default();
        for (position, m) in (0..).zip(&spec.members) {
            positions[m.id.index()] = Some(position);
            by_address.extend(m.addresses.iter().map(|a| (Address::of(a), position)));
        }
        let mut by_vip = HashMap::with_hasher(hasher());
        let mut vips = HashMap::default();
        for (id, s) in (0..).map(ServiceId).zip(&spec.services) {
            by_vip.extend(s.vips.iter().map(|&vip| ((vip, s.port, s.protocol), id)));
            vips.extend(s.vips.iter().map(|&vip| (Address::of(vip), ())));
        }
        let by_role = MemberRole::ALL.map(|role| {
            let mut ids: Vec<_> =
                spec.members.iter().filter(|m| m.role == role).map(|m| m.id).collect();
            ids.sort_unstable();
            ids.into_boxed_slice()
        });
        let trios =
            partition::trios(spec.keys.hash_key, &by_role[MemberRole::FlowTracker as usize - 1]);
        let maglev = spec.services.iter().map(|s| {
            let wanted = s.policy == Policy::ConsistentHash;
            wanted.then(|| Maglev::new(spec.keys.hash_key, s)).flatten()
        });
        let maglev = maglev.collect();
        let digest = digest::digest(&spec);
        Ok(Arc::new(Self {
            spec,
            digest,
            positions,
            by_address,
            by_vip,
            vips,
            by_role,
            trios,
            maglev,
        }))
    }

    /// Raised by every change of the list.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.spec.generation
    }

    /// Raised when the set of trackers changes.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.spec.epoch
    }

    /// The version of the protocol that the members speak.
    #[must_use]
    pub fn protocol(&self) -> Version {
        self.spec.protocol
    }

    /// The list's content in 64 bits.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The secrets.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.spec.keys
    }

    /// UDP port of encapsulated traffic.
    #[must_use]
    pub fn geneve_port(&self) -> u16 {
        self.spec.underlay.port
    }

    /// Bytes of the largest IP packet between members.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.spec.underlay.mtu
    }

    /// The family used between members that have both.
    #[must_use]
    pub fn prefer(&self) -> Family {
        self.spec.underlay.prefer
    }

    /// Where members live.
    #[must_use]
    pub fn underlay_prefixes(&self) -> &[Prefix] {
        &self.spec.underlay.prefixes
    }

    /// Whether an address belongs to the underlay.
    #[must_use]
    pub fn in_underlay(&self, ip: IpAddr) -> bool {
        self.spec.underlay.prefixes.iter().any(|p| p.contains(ip))
    }

    /// All members, in the order of the list.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.spec.members
    }

    /// The ids of a role's members, in ascending order.
    #[must_use]
    pub fn with_role(&self, role: MemberRole) -> &[MemberId] {
        &self.by_role[role as usize - 1]
    }

    /// A member by id.
    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.positions[id.index()].map(|p| &self.spec.members[usize::from(p)])
    }

    /// A member by one of its underlay addresses.
    #[must_use]
    pub fn member_by_address(&self, address: IpAddr) -> Option<&Member> {
        self.by_address.get(&Address::of(address)).map(|&p| &self.spec.members[usize::from(p)])
    }

    /// A member by name. Not for the packet path: it walks the list.
    #[must_use]
    pub fn member_by_name(&self, name: &str) -> Option<&Member> {
        self.spec.members.iter().find(|m| m.name == name)
    }

    /// All services; a [`ServiceId`] is the index.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.spec.services
    }

    /// The service at a VIP, port and protocol.
    #[must_use]
    pub fn service(&self, vip: IpAddr, port: u16, protocol: Protocol) -> Option<ServiceId> {
        self.by_vip.get(&(vip, port, protocol)).copied()
    }

    /// A service by its id of this snapshot.
    #[must_use]
    pub fn service_by_id(&self, id: ServiceId) -> Option<&Service> {
        self.spec.services.get(id.index())
    }

    /// The table of a service whose policy is [`Policy::ConsistentHash`].
    #[must_use]
    pub fn maglev(&self, id: ServiceId) -> Option<&Maglev> {
        self.maglev.get(id.index())?.as_ref()
    }

    /// Whether an address is a VIP of any service.
    #[must_use]
    pub fn is_vip(&self, ip: IpAddr) -> bool {
        self.vips.contains_key(&Address::of(ip))
    }

    /// The trackers that own a partition.
    #[must_use]
    pub fn trio(&self, partition: Partition) -> Trio {
        self.trios[partition.index()]
    }

    /// The partitions of one of a tracker's workers (partition modulo `workers`) in whose trio it is alone but for members
    /// that are absent: what it may come to own alone (rule 14). None for a worker that there cannot be.
    pub fn lonely(
        &self,
        owner: MemberId,
        (worker, workers): (u8, u8),
        is_absent: impl Fn(MemberId) -> bool,
    ) -> impl Iterator<Item = Partition> {
        let (worker, workers) = (usize::from(worker), usize::from(workers));
        Partition::all().filter(move |&partition| {
            let trio = self.trio(partition);
            worker < workers
                && partition.index() % workers == worker
                && trio.contains(owner)
                && trio.iter().all(|id| id == owner || is_absent(id))
        })
    }

    /// Source and destination address of packets from one member to another: the preferred family if both have it,
    /// else the other. `None` when there is no such member; two members that must talk always have a common family.
    #[must_use]
    pub fn underlay_pair(&self, from: MemberId, to: MemberId) -> Option<(IpAddr, IpAddr)> {
        let (from, to) = (self.member(from)?.addresses, self.member(to)?.addresses);
        let v4 =
            || Some((from.v4?, to.v4?)).map(|(a, b): (Ipv4Addr, Ipv4Addr)| (a.into(), b.into()));
        let v6 =
            || Some((from.v6?, to.v6?)).map(|(a, b): (Ipv6Addr, Ipv6Addr)| (a.into(), b.into()));
        match self.spec.underlay.prefer {
            Family::V4 => v4().or_else(v6),
            Family::V6 => v6().or_else(v4),
        }
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }
}

/// An address as a key that takes one step to hash, not one for each of an `IpAddr`'s parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    bits: u128,
    v6: bool,
}

impl Address {
    const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self { bits: ip.to_bits() as u128, v6: false },
            IpAddr::V6(ip) => Self { bits: ip.to_bits(), v6: true },
        }
    }
}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The families seldom have the same bits, and then they share a place.
        state.write_u128(self.bits);
    }
}

/// Spreads addresses over a table's places: one multiplication. The operator chooses what is stored, so nobody else can make it
/// collide.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u128(b.into()));
    }

    fn write_u128(&mut self, n: u128) {
        let folded = self.0.rotate_left(5) ^ n as u64 ^ (n >> 64) as u64;
        self.0 = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// The table takes places from the low bits, which tell least of a product.
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// Fixed seeds: what is stored comes from the operator, so nobody outside can choose colliding keys, and two runs of
/// the simulator must be equal.
fn hasher() -> ahash::RandomState {
    ahash::RandomState::with_seeds(0x6a6c_6231, 0x6a6c_6232, 0x6a6c_6233, 0x6a6c_6234)
}
