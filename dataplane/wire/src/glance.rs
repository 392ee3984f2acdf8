//! What a packet is, at a glance: the few fields that forwarding a packet of a known flow needs.

use crate::{FiveTuple, Packet, Protocol};

/// A client's packet without anything unusual: IPv4 without options or IPv6 without extension headers, no fragment, TCP
/// or UDP, all lengths and the IPv4 checksum right.
///
/// [`Glance::at`] takes what [`Packet::parse`] takes and reads the same from it, or gives `None`:
/// then that is to say what the packet is. The other way round is not so: what is unusual may be right all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// The canonical bytes of the tuple, as 64-bit words in little-endian order: 2 of IPv4, 5 of IPv6.
    words: [u64; 5],
    /// Length of the packet by its IP header; never more than the bytes that were looked at.
    pub len: u16,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Whether it is IPv6.
    pub v6: bool,
    /// Of TCP, its flags: see [`crate::tcp_flags`]. 0 for UDP.
    pub flags: u8,
}

const TCP: u8 = Protocol::Tcp as u8;
const UDP: u8 = Protocol::Udp as u8;

impl Glance {
    /// Looks at a packet, from its IP header on.
    #[must_use]
    #[inline]
    pub fn at(bytes: &[u8]) -> Option<Self> {
        let mut glance = Self::default();
        glance.look(bytes).then_some(glance)
    }

    /// As [`Self::at`], into a place: where it stays, it is not copied. `false`: nothing usual, and no glance.
    #[must_use]
    #[inline]
    pub fn look(&mut self, bytes: &[u8]) -> bool {
        match bytes.first() {
            Some(0x45) => self.look_at_v4(bytes),
            Some(0x60..=0x6f) => self.look_at_v6(bytes),
            Some(_) | None => false,
        }
    }

    /// The same of a packet that was parsed in full.
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        let words = words_of(&packet.tuple);
        // A parsed packet is no longer than its IP header can say: 65,535, and 40 more with IPv6. Those that long do not
        // fit any buffer.
        let len = u16::try_from(packet.len).unwrap_or(u16::MAX);
        let flags = packet.tcp.map_or(0, |tcp| tcp.flags);
        let (traffic_class, v6) = (packet.traffic_class, packet.tuple.is_v6());
        Self { words, len, traffic_class, v6, flags }
    }

    #[inline]
    fn look_at_v4(&mut self, bytes: &[u8]) -> bool {
        let Some(h) = bytes.first_chunk::<28>() else { return false };
        let len = u16::from_be_bytes([h[2], h[3]]);
        // RFC 1071: the sum may be taken in any byte order, and in wider words.
        let sum = (0..5).map(|n| u64::from(le32(h, 4 * n))).sum::<u64>();
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        // More fragments, or an offset.
        let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x3fff;
        let ports = u64::from(le32(h, 20));
        self.words = [le64(h, 12), ports | u64::from(h[9]) << 32 | 4 << 40, 0, 0, 0];
        (self.len, self.traffic_class, self.v6) = (len, h[1], false);
        let (whole, flags) = transport(bytes, usize::from(len), 20, h[9]);
        self.flags = flags;
        sum == 0xffff && fragment == 0 && usize::from(len) <= bytes.len() && whole
    }

    #[inline]
    fn look_at_v6(&mut self, bytes: &[u8]) -> bool {
        let Some(h) = bytes.first_chunk::<48>() else { return false };
        let Some(len) = u16::from_be_bytes([h[4], h[5]]).checked_add(40) else { return false };
        let ports = u64::from(le32(h, 40));
        let last = ports | u64::from(h[6]) << 32 | 6 << 40;
        self.words = [le64(h, 8), le64(h, 16), le64(h, 24), le64(h, 32), last];
        (self.len, self.traffic_class, self.v6) = (len, h[0] << 4 | h[1] >> 4, true);
        let (whole, flags) = transport(bytes, usize::from(len), 40, h[6]);
        self.flags = flags;
        usize::from(len) <= bytes.len() && whole
    }

    /// The tuple's canonical bytes as 64-bit words in little-endian order: 2 of IPv4 and zeros behind them, 5 of IPv6.
    #[must_use]
    #[inline]
    pub const fn words(&self) -> &[u64; 5] {
        &self.words
    }

    /// The tuple.
    #[must_use]
    pub fn tuple(&self) -> FiveTuple {
        let mut bytes = [0; FiveTuple::LEN];
        for (out, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.words) {
            *out = word.to_le_bytes();
        }
        FiveTuple::of_padded(bytes)
    }
}

/// The words of a tuple, as [`Glance::words`] has them.
#[must_use]
#[inline]
pub fn words_of(tuple: &FiveTuple) -> [u64; 5] {
    let mut words = [0; 5];
    for (word, bytes) in words.iter_mut().zip(tuple.padded().as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Whether there is a whole TCP or UDP header, with the lengths that it says; and TCP's flags.
#[inline]
fn transport(bytes: &[u8], len: usize, at: usize, protocol: u8) -> (bool, u8) {
    // Both are looked at where they may be, since which of the two comes next cannot be guessed.
    let [offset, flags] = bytes.get(at + 12..at + 14).map_or([0; 2], |b| [b[0], b[1]]);
    let [high, low] = bytes.get(at + 4..at + 6).map_or([0; 2], |b| [b[0], b[1]]);
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (header, least) =
        if protocol == TCP { (usize::from(offset >> 4) * 4, 20) } else { (length, 8) };
    let whole = (protocol == TCP || protocol == UDP) && header >= least && at + header <= len;
    (whole, if protocol == TCP { flags } else { 0 })
}

#[inline]
fn le32<const N: usize>(h: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

#[inline]
fn le64<const N: usize>(h: &[u8; N], at: usize) -> u64 {
    u64::from(le32(h, at)) | u64::from(le32(h, at + 4)) << 32
}
