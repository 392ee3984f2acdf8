//! The eBPF maps, with the types of [`jlb_yann_core::maps`] for their bytes. The one place that knows aya's maps.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use jlb_flow::PARTITIONS;
use jlb_wire::MemberId;
use jlb_yann_core::Owners;
use jlb_yann_core::maps::{
    AddressKey, Answer, AnswerKey, Egress, Flow, Host, Member, MemberAt, Service, ServiceKey,
    Shared, Standing, Vip, Window, WindowKey,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots for services: as many as a cluster may have.
pub const SLOTS: u32 = 1024;

/// Number of the maps' layout: raised with every change that makes pinned maps of a former version useless.
pub const LAYOUT: u32 = 1;

/// Why a map cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// It is not in the object, or not pinned.
    #[error("there is no eBPF map `{0}`")]
    Missing(&'static str),
    /// The kernel refused.
    #[error("eBPF map: {0}")]
    Kernel(#[from] MapError),
}

/// An array map.
pub struct ArrayOf<V, const N: usize> {
    map: Array<MapData, [u8; N]>,
    value: PhantomData<V>,
}

impl<V: FromBytes + IntoBytes + Immutable, const N: usize> ArrayOf<V, N> {
    const FITS: () = assert!(size_of::<V>() == N);

    fn new(map: Map) -> Result<Self, MapError> {
        let () = Self::FITS;
        Ok(Self { map: Array::try_from(map)?, value: PhantomData })
    }

    /// The value at an index.
    ///
    /// # Errors
    /// When there is no such index.
    pub fn get(&self, index: u32) -> Result<V, MapError> {
        self.map.get(&index, 0).map(|bytes| read(&bytes))
    }

    /// Puts a value at an index.
    ///
    /// # Errors
    /// When there is no such index.
    pub fn set(&mut self, index: u32, value: &V) -> Result<(), MapError> {
        self.map.set(index, bytes(value), 0)
    }

    /// How many there are; never 0.
    #[expect(clippy::len_without_is_empty, reason = "an array map is never empty")]
    pub fn len(&self) -> u32 {
        self.map.len()
    }
}

/// A hash map.
pub struct HashOf<K, V, const KN: usize, const VN: usize> {
    map: HashMap<MapData, [u8; KN], [u8; VN]>,
    /// Another handle of it, for what aya cannot.
    handle: OwnedFd,
    types: PhantomData<(K, V)>,
}

impl<K, V, const KN: usize, const VN: usize> HashOf<K, V, KN, VN>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    const FITS: () = assert!(size_of::<K>() == KN && size_of::<V>() == VN);

    fn new(map: Map) -> Result<Self, MapError> {
        let () = Self::FITS;
        // BPF_MAP_TYPE_UNSPEC: aya does not say which one it is.
        let Map::HashMap(data) = map else {
            return Err(MapError::InvalidMapType { map_type: 0 });
        };
        let handle = data.fd().as_fd().try_clone_to_owned();
        let handle = handle.map_err(|io_error| failed("dup", io_error))?;
        Ok(Self { map: HashMap::try_from(Map::HashMap(data))?, handle, types: PhantomData })
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<V> {
        self.map.get(&bytes(key), 0).ok().map(|bytes| read(&bytes))
    }

    /// Puts a value under a key.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.map.insert(bytes::<K, KN>(key), bytes::<V, VN>(value), 0)
    }

    /// Takes a key away, if it is there.
    pub fn remove(&mut self, key: &K) {
        // That it is not there is all the same.
        let _ = self.map.remove(&bytes(key));
    }

    /// Gives each entry that is there all the time, once. Of those that come and go meanwhile some are missing.
    ///
    /// # Errors
    /// When the kernel refuses: then not all were given.
    pub fn each(&self, mut each: impl FnMut(K, V)) -> Result<(), MapError> {
        let give = |key: &[u8; KN], value: &[u8; VN]| each(read(key), read(value));
        jlb_bpf_batch::each(self.handle.as_fd(), give)
            .map_err(|io_error| failed("bpf_map_lookup_batch", io_error))
    }

    /// The same as a list.
    ///
    /// # Errors
    /// The same.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        let mut entries = Vec::new();
        self.each(|key, value| entries.push((key, value)))?;
        Ok(entries)
    }

    /// Makes the map hold exactly these entries. What stays is never away.
    ///
    /// # Errors
    /// When they do not all fit.
    pub fn replace(&mut self, entries: &[(K, V)]) -> Result<(), MapError>
    where
        K: PartialEq,
    {
        let old: Vec<[u8; KN]> = self.map.keys().filter_map(Result::ok).collect();
        for key in old {
            if !entries.iter().any(|(k, _)| bytes::<K, KN>(k) == key) {
                let _ = self.map.remove(&key);
            }
        }
        entries.iter().try_for_each(|(k, v)| self.set(k, v))
    }
}

/// A per-CPU array of counters.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// The sum over all CPUs.
    pub fn sum(&self, index: u32) -> u64 {
        self.0.get(&index, 0).map_or(0, |values| values.iter().sum())
    }

    /// 0 on all CPUs.
    ///
    /// # Errors
    /// When there is no such index.
    pub fn clear(&mut self, index: u32) -> Result<(), MapError> {
        let cpus = aya::util::nr_cpus();
        let cpus = cpus.map_err(|(_, io_error)| failed("possible CPUs", io_error))?;
        let zeros = aya::maps::PerCpuValues::try_from(vec![0; cpus])
            .map_err(|io_error| failed("per-CPU values", io_error))?;
        self.0.set(index, zeros, 0)
    }
}

/// A window in its map: with its lock, and the boot id for which it stands.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug)]
#[repr(C)]
pub struct LockedWindow {
    /// The kernel's spin lock; 0.
    pub lock: u32,
    /// 0.
    pub pad: u32,
    /// Whose numbers these are.
    pub boot: u64,
    /// The window.
    pub window: Window,
}

/// Index in [`Maps::tally`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tally {
    /// TCP, the SYN went to the stack.
    Admitted = 0,
    /// TCP, the SYN-ACK was seen.
    Accepted = 1,
    /// TCP, the handshake is complete.
    Established = 2,
    /// UDP.
    Udp = 3,
    /// Remembered refusals.
    Rejected = 4,
    /// Remembered ends.
    Closed = 5,
}

macro_rules! maps {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty,)+) => {
        /// All maps that the two halves share.
        pub struct Maps { $($(#[doc = $doc])+ pub $name: $type,)+ }

        impl Maps {
            /// Their names: as in the object, and as pins.
            pub const NAMES: &[&'static str] = &[$(stringify!($name),)+];

            /// From wherever `map` takes them.
            ///
            /// # Errors
            /// When one is missing or of another shape.
            pub fn from(mut map: impl FnMut(&'static str) -> Result<Map, MapsError>) -> Result<Self, MapsError> {
                Ok(Self { $($name: <$type>::new(map(stringify!($name))?)?,)+ })
            }
        }
    };
}

maps! {
    /// What the programs must know.
    host: ArrayOf<Host, 112>,
    /// When the daemon last said that it is there.
    heartbeat: ArrayOf<u64, 8>,
    /// Inode number of the network namespace.
    namespace: ArrayOf<u32, 4>,
    /// Boot id, counter, sequence.
    word: ArrayOf<Shared, 24>,
    /// [`LAYOUT`] of whoever made them.
    layout: ArrayOf<u32, 4>,
    /// Starts of the daemon.
    starts: ArrayOf<u64, 8>,
    /// Live flows by padded five-tuple.
    flows: HashOf<[u8; 40], Flow, 40, 72>,
    /// Remembered answers.
    answers: HashOf<AnswerKey, Answer, 48, 32>,
    /// Services of this host.
    services: HashOf<ServiceKey, Service, 20, 8>,
    /// VIPs of this host.
    vips: HashOf<AddressKey, Vip, 20, 4>,
    /// Live flows by slot.
    live: ArrayOf<u32, 4>,
    /// Live flows of all services.
    live_all: ArrayOf<u32, 4>,
    /// What the last sweep counted: see [`Tally`].
    tally: ArrayOf<u64, 8>,
    /// Decisions: slot × 16 + reason.
    decisions: Counters,
    /// Members by id.
    members: ArrayOf<Member, 24>,
    /// Members by address.
    member_addresses: HashOf<AddressKey, MemberAt, 20, 4>,
    /// Boot ids by member id.
    boots: ArrayOf<u64, 8>,
    /// Sole owners, by partition.
    sole: ArrayOf<u16, 2>,
    /// What trackers' votes are worth, by member id.
    standing: ArrayOf<Standing, 8>,
    /// Sequence windows.
    windows: HashOf<WindowKey, LockedWindow, 4, 152>,
    /// Ways out.
    egress_hosts: ArrayOf<Egress, 16>,
    /// Locks of five-tuples.
    locks: ArrayOf<u32, 4>,
    /// Names of services, by slot.
    slots: ArrayOf<[u8; 64], 64>,
    /// What was changed on this host.
    changes: ArrayOf<[u8; 512], 512>,
    /// Drops by reason.
    drops: Counters,
    /// Events that found the ring full.
    lost: Counters,
    /// When the next NotMine would be due.
    not_mine: Counters,
    /// From the kernel half.
    events: Ring,
}

/// The ring buffer.
pub struct Ring(pub RingBuf<MapData>);

impl Ring {
    fn new(map: Map) -> Result<Self, MapError> {
        RingBuf::try_from(map).map(Self)
    }
}

impl Counters {
    fn new(map: Map) -> Result<Self, MapError> {
        PerCpuArray::try_from(map).map(Self)
    }
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl<V, const N: usize> fmt::Debug for ArrayOf<V, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArrayOf({})", self.map.len())
    }
}

impl<V: FromBytes + IntoBytes + Immutable, const N: usize> ArrayOf<V, N> {
    /// A pinned one.
    ///
    /// # Errors
    /// When it is not there.
    pub fn pinned(pins: &Path, name: &'static str) -> Result<Self, MapsError> {
        Ok(Self::new(pinned(pins, name)?)?)
    }
}

impl<K, V, const KN: usize, const VN: usize> HashOf<K, V, KN, VN>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    /// A pinned one.
    ///
    /// # Errors
    /// When it is not there.
    pub fn pinned(pins: &Path, name: &'static str) -> Result<Self, MapsError> {
        Ok(Self::new(pinned(pins, name)?)?)
    }
}

impl<K, V, const KN: usize, const VN: usize> fmt::Debug for HashOf<K, V, KN, VN> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashOf").finish_non_exhaustive()
    }
}

fn pinned(pins: &Path, name: &'static str) -> Result<Map, MapsError> {
    let data = MapData::from_pin(pins.join(name)).map_err(|_| MapsError::Missing(name))?;
    Ok(Map::from_map_data(data)?)
}

impl Maps {
    /// Forgets all flows, answers and sole owners: they are of a network that is gone.
    ///
    /// # Errors
    /// When a map does not work.
    pub fn forget_flows(&mut self) -> Result<(), MapsError> {
        self.flows.replace(&[])?;
        self.answers.replace(&[])?;
        for slot in 0..self.live.len() {
            self.live.set(slot, &0)?;
        }
        self.live_all.set(0, &0)?;
        for id in 0..self.standing.len() {
            self.standing.set(id, &Standing::default())?;
        }
        self.set_sole_owners(&[0; PARTITIONS])
    }

    /// Who decides alone, by partition.
    ///
    /// # Errors
    /// When the map does not work.
    pub fn sole_owners(&self) -> Result<Box<Owners>, MapsError> {
        let mut owners = Box::new([0; PARTITIONS]);
        for (partition, owner) in (0..).zip(owners.iter_mut()) {
            *owner = self.sole.get(partition)?;
        }
        Ok(owners)
    }

    /// What trackers' votes are worth.
    ///
    /// # Errors
    /// When the map does not work.
    pub fn standings(&self) -> Result<Vec<(MemberId, Standing)>, MapsError> {
        let ids = (1..=MemberId::MAX).filter_map(MemberId::new);
        Ok(ids
            .map(|id| Ok((id, self.standing.get(id.as_u16().into())?)))
            .collect::<Result<_, MapError>>()?)
    }

    /// Says what they are worth.
    ///
    /// # Errors
    /// When the map does not work.
    pub fn set_standings(
        &mut self,
        standings: impl Iterator<Item = (MemberId, Standing)>,
    ) -> Result<(), MapsError> {
        for (id, standing) in standings {
            self.standing.set(id.as_u16().into(), &standing)?;
        }
        Ok(())
    }

    /// Says who decides alone. What stays is never away.
    ///
    /// # Errors
    /// When the map does not work.
    pub fn set_sole_owners(&mut self, owners: &Owners) -> Result<(), MapsError> {
        for (partition, owner) in (0..).zip(owners) {
            if self.sole.get(partition)? != *owner {
                self.sole.set(partition, owner)?;
            }
        }
        Ok(())
    }

    /// Live flows of a service, by slot; 0 when that cannot be read.
    pub fn live_flows(&self, slot: u16) -> u32 {
        self.live.get(slot.into()).unwrap_or(0)
    }

    /// From their pins.
    ///
    /// # Errors
    /// [`MapsError::Missing`] when they are not all there.
    pub fn pinned(pins: &Path) -> Result<Self, MapsError> {
        Self::from(|name| pinned(pins, name))
    }
}

fn failed(call: &'static str, io_error: std::io::Error) -> MapError {
    MapError::SyscallError(aya::sys::SyscallError { call, io_error })
}

fn bytes<V: IntoBytes + Immutable, const N: usize>(value: &V) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(value.as_bytes());
    bytes
}

fn read<V: FromBytes>(bytes: &[u8]) -> V {
    // The lengths are equal by construction: FITS.
    V::read_from_bytes(bytes).unwrap_or_else(|_| V::new_zeroed())
}
