use thiserror::Error;

/// Bytes that a fresh buffer of [`crate::Io::alloc`] has free in front: an Ethernet header, VLAN tags, and slack.
pub const BUFFER_HEADROOM: usize = 64;
/// Bytes that a fresh buffer of [`crate::Io::alloc`] can hold behind that headroom.
pub const BUFFER_ROOM: usize = 1920;

/// There is not enough head- or tailroom, or not that much data to take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no room in the packet buffer")]
pub struct NoRoom;

/// One packet, from its outermost IP header on (the link layer belongs to the driver), in one contiguous segment.
///
/// Buffers move by value: whoever holds it owns it, and hands it to exactly one of [`crate::Io::send`],
/// [`crate::Io::drop`], [`crate::Io::hand_over`], or keeps it. A control message that was understood and used is no
/// drop: its buffer just goes out of scope, which frees it.
pub trait PacketBuf: Sized {
    /// The packet.
    fn bytes(&self) -> &[u8];
    /// The packet, to be changed in place.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Free bytes in front of the packet.
    fn headroom(&self) -> usize;
    /// Free bytes behind the packet.
    fn tailroom(&self) -> usize;
    /// Grows the packet by `n` bytes at the front and gives these, with undefined content.
    ///
    /// # Errors
    /// [`NoRoom`], with the packet unchanged, when `n` exceeds the headroom.
    fn prepend(&mut self, n: usize) -> Result<&mut [u8], NoRoom>;
    /// Grows the packet by `n` bytes at the end and gives these, with undefined content.
    ///
    /// # Errors
    /// [`NoRoom`], with the packet unchanged, when `n` exceeds the tailroom.
    fn append(&mut self, n: usize) -> Result<&mut [u8], NoRoom>;
    /// Takes `n` bytes away at the front.
    ///
    /// # Errors
    /// [`NoRoom`], with the packet unchanged, when the packet is shorter than that.
    fn trim_front(&mut self, n: usize) -> Result<(), NoRoom>;
    /// Cuts the packet to its first `len` bytes; does nothing when it is not longer.
    fn truncate(&mut self, len: usize);

    /// The packet's length.
    fn len(&self) -> usize {
        self.bytes().len()
    }
    /// Whether the packet has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What every [`PacketBuf`] must do: run by the tests of the fake buffer and of the real mbuf.
///
/// `fresh` gives an empty buffer as [`crate::Io::alloc`] does.
///
/// # Panics
/// When the buffer breaks the contract.
#[expect(clippy::expect_used, reason = "a test suite that other crates' tests run")]
pub fn conformance<B: PacketBuf>(mut fresh: impl FnMut() -> B) {
    let mut b = fresh();
    assert!(b.is_empty(), "a fresh buffer is empty");
    assert!(b.headroom() >= BUFFER_HEADROOM, "headroom {}", b.headroom());
    assert!(b.tailroom() >= BUFFER_ROOM, "tailroom {}", b.tailroom());

    let (head, tail) = (b.headroom(), b.tailroom());
    b.append(4).expect("tailroom was shown").copy_from_slice(b"cdef");
    b.prepend(2).expect("headroom was shown").copy_from_slice(b"ab");
    assert_eq!(b.bytes(), b"abcdef");
    assert_eq!((b.headroom(), b.tailroom()), (head - 2, tail - 4));

    assert_eq!(b.trim_front(7), Err(NoRoom));
    assert_eq!(b.bytes(), b"abcdef", "a refused trim changes nothing");
    b.trim_front(1).expect("it has six bytes");
    b.truncate(100);
    b.truncate(3);
    b.bytes_mut()[0] = b'B';
    assert_eq!(b.bytes(), b"Bcd");
    assert_eq!((b.headroom(), b.tailroom()), (head - 1, tail - 2));

    let (head, tail) = (b.headroom(), b.tailroom());
    assert_eq!(b.prepend(head + 1).err(), Some(NoRoom));
    assert_eq!(b.append(tail + 1).err(), Some(NoRoom));
    assert_eq!(b.bytes(), b"Bcd", "a refused growth changes nothing");
    b.prepend(head).expect("exactly the headroom");
    b.append(tail).expect("exactly the tailroom");
    assert_eq!(b.len(), head + 3 + tail);
    assert_eq!((b.headroom(), b.tailroom()), (0, 0));
    b.truncate(0);
    assert!(b.is_empty());
}
