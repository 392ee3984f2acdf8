use core::ptr::NonNull;
use core::{fmt, slice};

use arrayvec::ArrayVec;
use jlb_dpdk_sys::rte_mbuf;
use jlb_role::{NoRoom, PacketBuf};

/// A packet in DPDK's memory. Dropping it gives it back to its pool; many at once: [`Mbuf::free_bulk`].
///
/// Always: one segment, one reference, `data_off + data_len <= buf_len`, and nobody else looks at it.
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: it owns its packet, and a pool takes packets back from any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// # Safety
    /// The mbuf must be as the type says: owned by the caller, of one segment and one reference, with its data inside
    /// its buffer.
    pub(crate) const unsafe fn from_raw(mbuf: NonNull<rte_mbuf>) -> Self {
        Self(mbuf)
    }

    /// Gives all of them back in one call.
    pub fn free_bulk<const N: usize>(packets: &mut ArrayVec<Self, N>) {
        let count = packets.len() as u32;
        // SAFETY: an Mbuf is a pointer to an mbuf (`repr(transparent)`), and DPDK takes them over here.
        unsafe { jlb_dpdk_sys::rte_pktmbuf_free_bulk(packets.as_mut_ptr().cast(), count) };
        // SAFETY: no element is left to us, and none may be dropped.
        unsafe { packets.set_len(0) };
    }

    /// The packet's meta data.
    fn head(&self) -> &rte_mbuf {
        // SAFETY: owned and alive until dropped.
        unsafe { self.0.as_ref() }
    }

    fn head_mut(&mut self) -> &mut rte_mbuf {
        // SAFETY: owned and alive until dropped, and `&mut self` is the only way here.
        unsafe { self.0.as_mut() }
    }

    /// Whether it is one segment, as it must be: asked of packets that a driver gave.
    pub(crate) fn is_single(&self) -> bool {
        self.head().nb_segs == 1
    }

    /// Asks for the cache line of the head that everything here reads, without waiting for it.
    #[inline]
    pub(crate) fn fetch_head(&self) {
        prefetch(self.0.as_ptr().cast());
    }

    /// Asks for the packet's first cache lines, as far as headers go, and for the one in front of it.
    #[inline]
    pub(crate) fn fetch_data(&self) {
        let head = self.head();
        // Not dereferenced, so wherever it points.
        let data = head.buf_addr.cast::<u8>().wrapping_add(usize::from(head.data_off));
        prefetch(data);
        prefetch(data.wrapping_sub(CACHE_LINE));
        // A bare header with little behind it is the most frequent packet, and needs no more.
        if usize::from(head.data_len) > CACHE_LINE {
            (1..HEADER_LINES).for_each(|line| prefetch(data.wrapping_add(line * CACHE_LINE)));
        }
    }

    fn set_len(&mut self, len: u16) {
        let head = self.head_mut();
        head.data_len = len;
        head.pkt_len = u32::from(len);
    }

    /// Bytes `start..start + n` of the data.
    fn part_mut(&mut self, start: usize, n: usize) -> &mut [u8] {
        &mut self.bytes_mut()[start..start + n]
    }
}

const CACHE_LINE: usize = 64;
/// In which the headers of nearly all packets are: a control message over IPv6 with a client's TCP header has 220 bytes.
const HEADER_LINES: usize = 4;

/// Asks for the cache line at a place, without waiting for it.
#[inline(always)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "stable Rust has no prefetch there")
)]
fn prefetch(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: `prefetcht0` belongs to the x86_64 baseline and cannot fault, wherever the pointer leads.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
}

impl PacketBuf for Mbuf {
    fn bytes(&self) -> &[u8] {
        let head = self.head();
        // SAFETY: `data_off` lies inside the buffer.
        let start = unsafe { head.buf_addr.cast::<u8>().add(usize::from(head.data_off)) };
        // SAFETY: `data_len` bytes from there lie inside the buffer, which was mapped with defined content.
        unsafe { slice::from_raw_parts(start, usize::from(head.data_len)) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let head = self.head_mut();
        // SAFETY: `data_off` lies inside the buffer.
        let start = unsafe { head.buf_addr.cast::<u8>().add(usize::from(head.data_off)) };
        // SAFETY: as in `bytes`; one owner, one reference, one `&mut`.
        unsafe { slice::from_raw_parts_mut(start, usize::from(head.data_len)) }
    }

    fn headroom(&self) -> usize {
        usize::from(self.head().data_off)
    }

    fn tailroom(&self) -> usize {
        let head = self.head();
        usize::from(head.buf_len - head.data_off - head.data_len)
    }

    fn prepend(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        if n > self.headroom() {
            return Err(NoRoom);
        }
        let head = self.head_mut();
        // Fits: at most the headroom, which is a u16.
        head.data_off -= n as u16;
        let len = head.data_len + n as u16;
        self.set_len(len);
        Ok(self.part_mut(0, n))
    }

    fn append(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        if n > self.tailroom() {
            return Err(NoRoom);
        }
        let old = self.len();
        self.set_len((old + n) as u16);
        Ok(self.part_mut(old, n))
    }

    fn trim_front(&mut self, n: usize) -> Result<(), NoRoom> {
        let rest = self.len().checked_sub(n).ok_or(NoRoom)?;
        self.head_mut().data_off += n as u16;
        self.set_len(rest as u16);
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.set_len(len as u16);
        }
    }

    fn len(&self) -> usize {
        usize::from(self.head().data_len)
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: owned, and never used again.
        unsafe { jlb_dpdk_sys::jlb_mbuf_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mbuf").field(&self.bytes()).finish()
    }
}
