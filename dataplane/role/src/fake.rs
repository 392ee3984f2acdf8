use std::cell::RefCell;
use std::collections::VecDeque;

use crate::{
    BUFFER_HEADROOM, BUFFER_ROOM, Io, NoRoom, PacketBuf, Reason, Report, UnderlayDst, WorkerId,
};

thread_local! {
    /// Memory of buffers that went out of scope, for those to come: an mbuf goes back to its pool then.
    static USED: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Buffers of which a thread keeps the memory: 8 MiB.
const USED_MOST: usize = 4096;

/// The one test double: a packet buffer on the heap, held to the same [`crate::conformance`] suite as the mbuf.
///
/// What a buffer held is still in its memory when another one is made of it, as with an mbuf.
#[derive(Clone, Debug)]
pub struct FakeBuf {
    room: Box<[u8]>,
    start: usize,
    end: usize,
}

/// As much headroom as an mbuf has on receipt (RTE_PKTMBUF_HEADROOM).
const START: usize = if BUFFER_HEADROOM > 128 { BUFFER_HEADROOM } else { 128 };

impl FakeBuf {
    /// An empty buffer, as [`Io::alloc`] gives it.
    #[must_use]
    pub fn new() -> Self {
        let used = USED.with(|used| used.borrow_mut().pop());
        let room = used.unwrap_or_else(|| vec![0; START + BUFFER_ROOM].into());
        Self { room, start: START, end: START }
    }

    /// A buffer that holds `packet`.
    ///
    /// # Panics
    /// When the packet is longer than [`BUFFER_ROOM`].
    #[must_use]
    pub fn holding(packet: &[u8]) -> Self {
        let mut buf = Self::new();
        buf.end += packet.len();
        buf.bytes_mut().copy_from_slice(packet);
        buf
    }

    /// Has this thread make its next buffers of fresh memory: what they hold beyond their packets then depends on nothing
    /// that went before.
    pub fn forget_used() {
        USED.with(|used| used.borrow_mut().clear());
    }
}

impl Drop for FakeBuf {
    fn drop(&mut self) {
        let room = core::mem::take(&mut self.room);
        // A thread that ends has no list any more: then it is just freed.
        let _ = USED.try_with(|used| {
            let mut used = used.borrow_mut();
            if used.len() < USED_MOST {
                used.push(room);
            }
        });
    }
}

/// Equal when they hold the same packet.
impl PartialEq for FakeBuf {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for FakeBuf {}

impl Default for FakeBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketBuf for FakeBuf {
    fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.end]
    }
    fn headroom(&self) -> usize {
        self.start
    }
    fn tailroom(&self) -> usize {
        self.room.len() - self.end
    }
    fn prepend(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        self.start = self.start.checked_sub(n).ok_or(NoRoom)?;
        Ok(&mut self.room[self.start..self.start + n])
    }
    fn append(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        if n > self.tailroom() {
            return Err(NoRoom);
        }
        self.end += n;
        Ok(&mut self.room[self.end - n..self.end])
    }
    fn trim_front(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.len() {
            return Err(NoRoom);
        }
        self.start += n;
        Ok(())
    }
    fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }
}

/// An [`Io`] that remembers everything, for unit tests and the simulator. Buffers in use are bounded.
#[derive(Debug, Default)]
pub struct FakeIo {
    /// Sent packets, oldest first.
    pub sent: VecDeque<(FakeBuf, UnderlayDst)>,
    /// Dropped packets, oldest first.
    pub dropped: VecDeque<(FakeBuf, Reason)>,
    /// Packets handed to another worker.
    pub handed: VecDeque<(FakeBuf, WorkerId)>,
    /// Reports, oldest first.
    pub reports: VecDeque<Report>,
    /// When true, `alloc` fails: an empty mempool.
    pub exhausted: bool,
}

impl Io<FakeBuf> for FakeIo {
    fn alloc(&mut self) -> Option<FakeBuf> {
        (!self.exhausted).then(FakeBuf::new)
    }
    fn send(&mut self, b: FakeBuf, to: UnderlayDst) {
        self.sent.push_back((b, to));
    }
    fn drop(&mut self, b: FakeBuf, why: Reason) {
        self.dropped.push_back((b, why));
    }
    fn hand_over(&mut self, b: FakeBuf, to: WorkerId) {
        self.handed.push_back((b, to));
    }
    fn report(&mut self, r: Report) {
        self.reports.push_back(r);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fake_buffer_conforms() {
        crate::conformance(FakeBuf::new);
    }

    #[test]
    fn memory_is_used_again_until_it_is_forgotten() {
        FakeBuf::forget_used();
        let place = |buf: &FakeBuf| buf.room.as_ptr();
        let first = FakeBuf::holding(b"first");
        let memory = place(&first);
        drop(first);
        let mut second = FakeBuf::holding(b"2nd");
        assert_eq!((place(&second), second.bytes()), (memory, &b"2nd"[..]));
        assert_eq!(second.append(2).unwrap(), b"st", "as undefined as in an mbuf");
        drop(second);
        FakeBuf::forget_used();
        assert_eq!(FakeBuf::holding(b"2nd").append(2).unwrap(), [0; 2]);
    }
}
