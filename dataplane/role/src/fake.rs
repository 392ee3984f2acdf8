use std::collections::VecDeque;

use crate::{
    BUFFER_HEADROOM, BUFFER_ROOM, Io, NoRoom, PacketBuf, Reason, Report, UnderlayDst, WorkerId,
};

/// The one test double: a packet buffer on the heap, held to the same [`crate::conformance`] suite as the mbuf.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        Self { room: vec![0; START + BUFFER_ROOM].into(), start: START, end: START }
    }

    /// A buffer that holds `packet`.
    ///
    /// # Panics
    /// When the packet is longer than [`BUFFER_ROOM`].
    #[must_use]
    pub fn holding(packet: &[u8]) -> Self {
        Self::new().filled(packet)
    }

    /// The same buffer, but with `packet` in it, where a new one would have it. What else it held is still there, as in an
    /// mbuf that was used before.
    ///
    /// # Panics
    /// As [`Self::holding`].
    #[must_use]
    pub fn filled(mut self, packet: &[u8]) -> Self {
        self.start = START;
        self.end = START + packet.len();
        self.bytes_mut().copy_from_slice(packet);
        self
    }
}

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
    /// Buffers that were used before and are taken first. Whoever puts none here gets new ones.
    pub spare: Vec<FakeBuf>,
}

impl FakeIo {
    /// A buffer that holds `packet`: a spare one if there is one.
    ///
    /// # Panics
    /// As [`FakeBuf::holding`].
    pub fn holding(&mut self, packet: &[u8]) -> FakeBuf {
        self.spare.pop().unwrap_or_default().filled(packet)
    }
}

impl Io<FakeBuf> for FakeIo {
    fn alloc(&mut self) -> Option<FakeBuf> {
        (!self.exhausted).then(|| self.holding(&[]))
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
}
