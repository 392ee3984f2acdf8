use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};
use std::ffi::CString;

use arrayvec::ArrayVec;
use jlb_dpdk_sys::{RTE_MEMPOOL_CACHE_MAX_SIZE, RTE_PKTMBUF_HEADROOM, rte_mbuf, rte_mempool};
use jlb_role::{BUFFER_HEADROOM, BUFFER_ROOM};
use nix::errno::Errno;
use thiserror::Error;

use crate::{Eal, Mbuf, errno};

/// Bytes behind the headroom of a buffer unless told otherwise: a whole number of KiB, since NICs round down to that
/// and would split larger frames, and room for a 1500-byte packet with its encapsulation.
pub const ROOM: u16 = 2048;

/// The largest room that leaves the whole buffer's length a u16.
const MAX_ROOM: u16 = u16::MAX - RTE_PKTMBUF_HEADROOM as u16;

const _: () =
    assert!(ROOM as usize >= BUFFER_ROOM && RTE_PKTMBUF_HEADROOM as usize >= BUFFER_HEADROOM);

/// A pool was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PoolError {
    /// Room for what the roles expect, and small enough for a 16-bit length.
    #[error("a buffer's room must be {BUFFER_ROOM} to {MAX_ROOM} bytes, not {0}")]
    Room(u16),
    /// DPDK refused.
    #[error("cannot make a pool of {buffers} packet buffers of {room} bytes{}", hint(*.source))]
    Create {
        /// Wanted buffers.
        buffers: u32,
        /// Of this room.
        room: u16,
        /// Why not.
        source: Errno,
    },
}

fn hint(e: Errno) -> &'static str {
    if e == Errno::ENOMEM { " (give DPDK more memory)" } else { "" }
}

/// A fixed number of packet buffers, shared by all workers; each lcore keeps a small cache of its own.
///
/// The pool itself lives until [`Eal::cleanup`]: this is a handle.
#[derive(Clone, Debug)]
pub struct Mempool {
    raw: RawPool,
    /// While there is a handle, DPDK stays.
    _eal: Eal,
}

#[derive(Clone, Debug)]
pub(crate) struct RawPool(NonNull<rte_mempool>);

// SAFETY: a mempool may be used by all threads at once: its ring is multi-producer and multi-consumer, and its caches
// belong to lcores.
unsafe impl Send for RawPool {}
// SAFETY: as above.
unsafe impl Sync for RawPool {}

impl RawPool {
    pub(crate) fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as the EAL. The count is a snapshot.
        unsafe { jlb_dpdk_sys::rte_mempool_in_use_count(self.0.as_ptr()) }
    }
}

impl Mempool {
    /// A pool of that many buffers (best: a power of two minus one) with [`RTE_PKTMBUF_HEADROOM`] bytes of headroom
    /// and `room` bytes behind it. Memory: about `room` + 320 bytes each.
    ///
    /// # Errors
    /// When `room` is out of range or there is not enough memory.
    pub fn new(eal: &Eal, buffers: u32, room: u16) -> Result<Self, PoolError> {
        // Names are unique, and at most 25 bytes long.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("jlb-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).unwrap_or_default();

        let data_room = u16::try_from(RTE_PKTMBUF_HEADROOM).ok().and_then(|h| room.checked_add(h));
        let data_room =
            data_room.filter(|_| usize::from(room) >= BUFFER_ROOM).ok_or(PoolError::Room(room))?;
        // A cache must be at most two thirds of the pool; small pools would starve the other lcores.
        let cache = (buffers / 32).min(RTE_MEMPOOL_CACHE_MAX_SIZE / 2);
        let mut pools = eal.exclusive();
        // SAFETY: plain values, and a name that is copied. −1: memory of any NUMA node.
        let raw = unsafe {
            jlb_dpdk_sys::rte_pktmbuf_pool_create(name.as_ptr(), buffers, cache, 0, data_room, -1)
        };
        let raw = NonNull::new(raw).map(RawPool).ok_or_else(|| PoolError::Create {
            buffers,
            room,
            source: errno::last(),
        })?;
        pools.push(raw.clone());
        drop(pools);
        Ok(Self { raw, _eal: eal.clone() })
    }

    /// An empty buffer, or `None` when the pool is empty.
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive.
        let mbuf = unsafe { jlb_dpdk_sys::jlb_mbuf_alloc(self.as_ptr()) };
        // SAFETY: a fresh mbuf is reset: one segment, one reference, empty; and it is ours alone.
        NonNull::new(mbuf).map(|mbuf| unsafe { Mbuf::from_raw(mbuf) })
    }

    /// Fills `buffers` up with empty buffers in one go, or leaves it alone when the pool has not that many.
    pub fn alloc_bulk<const N: usize>(&self, buffers: &mut ArrayVec<Mbuf, N>) {
        let wanted = buffers.remaining_capacity();
        let mut fresh = [ptr::null_mut::<rte_mbuf>(); N];
        // SAFETY: the pool is alive; `fresh` has room for `wanted`, which is at most N. On success each of the first
        // `wanted` is a reset mbuf that is ours alone.
        let missing = unsafe {
            jlb_dpdk_sys::jlb_mbuf_alloc_bulk(self.as_ptr(), fresh.as_mut_ptr(), wanted as u32)
        };
        if missing != 0 {
            return;
        }
        for mbuf in fresh.into_iter().take(wanted).filter_map(NonNull::new) {
            // SAFETY: see above.
            buffers.push(unsafe { Mbuf::from_raw(mbuf) });
        }
    }

    /// Buffers that are out: in drivers' rings, queues and hands.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.raw.in_use()
    }

    /// Buffers that can be had.
    #[must_use]
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is alive. The count is a snapshot.
        unsafe { jlb_dpdk_sys::rte_mempool_avail_count(self.as_ptr()) }
    }

    pub(crate) fn as_ptr(&self) -> *mut rte_mempool {
        self.raw.0.as_ptr()
    }
}
