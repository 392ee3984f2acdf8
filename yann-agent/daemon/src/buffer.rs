//! A packet buffer of the heap, for the few packets that the user half handles.

use jlb_role::{BUFFER_HEADROOM, BUFFER_ROOM, NoRoom, PacketBuf};

/// One packet, from its outer IP header.
#[derive(Debug)]
pub struct Buffer {
    room: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        // As much in front as an mbuf has.
        let start = BUFFER_HEADROOM * 2;
        Self { room: vec![0; start + BUFFER_ROOM].into(), start, end: start }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketBuf for Buffer {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        jlb_role::conformance(Buffer::new);
    }
}
