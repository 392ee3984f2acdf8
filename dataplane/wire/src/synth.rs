//! Packets that JLB writes itself: the flow headers of control messages, and the cut packet inside an Open.

use crate::inner::tcp_flags;
use crate::{EmitError, FiveTuple, Incarnation, Packet, Protocol, checksum};

/// Bytes of a client's payload that an Open carries at most.
pub const OPEN_PAYLOAD: usize = 256;
/// The longest [`flow_headers`]: IPv6 and TCP.
pub const MAX_FLOW_HEADERS: usize = 60;

/// How much of a client's packet goes into its Open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenCut {
    /// So many bytes from the start.
    pub len: usize,
    /// Less than the whole packet: [`mend`] must be called on the copy, and the flag `CUT` be set.
    pub cut: bool,
}

impl OpenCut {
    /// Whole when the payload is short. A longer datagram goes as headers only, since half a datagram is of no use; a
    /// longer SYN loses its data, which the client sends again.
    #[must_use]
    pub const fn of(packet: &Packet) -> Self {
        if packet.len - packet.payload <= OPEN_PAYLOAD {
            Self { len: packet.len, cut: false }
        } else {
            Self { len: packet.payload, cut: true }
        }
    }
}

/// Makes the first bytes of a packet a packet of its own: mends the lengths and checksums of the IP and transport
/// headers to the bytes that are there. `packet` is the parse of the whole one; `bytes` are its first
/// [`OpenCut::len`] bytes.
///
/// # Errors
/// [`EmitError`] when `bytes` do not hold the headers.
pub fn mend(bytes: &mut [u8], packet: &Packet) -> Result<(), EmitError> {
    let total = u16::try_from(bytes.len()).map_err(|_| EmitError)?;
    if bytes.len() < packet.payload {
        return Err(EmitError);
    }
    if packet.tuple.is_v6() {
        bytes[4..6].copy_from_slice(&(total - 40).to_be_bytes());
    } else {
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum::finish(checksum::sum(&bytes[..packet.l4]));
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if packet.tcp.is_none() {
        let udp_len = total - u16::try_from(packet.l4).map_err(|_| EmitError)?;
        bytes[packet.l4 + 4..packet.l4 + 6].copy_from_slice(&udp_len.to_be_bytes());
    }
    transport_checksum(bytes, packet.l4, &packet.tuple);
    Ok(())
}

/// Whether the TCP or UDP checksum of a packet fits (an IPv4 UDP checksum of 0 means none).
#[must_use]
pub fn transport_checksum_fits(bytes: &[u8], packet: &Packet) -> bool {
    let segment = &bytes[packet.l4..packet.len];
    if packet.tcp.is_none() && !packet.tuple.is_v6() && segment[6..8] == [0, 0] {
        return true;
    }
    let pseudo =
        checksum::pseudo_header(addresses(bytes), segment.len(), packet.tuple.protocol() as u8);
    checksum::finish(pseudo + checksum::sum(segment)) == 0
}

/// Writes IP and transport headers of the direction client → VIP, without payload, which stand for the flow in
/// control messages that carry no client packet: for TCP a SYN with the incarnation as sequence number. Gives its
/// length: 28, 40, 48 or 60 bytes.
#[must_use]
pub fn flow_headers(
    tuple: &FiveTuple,
    incarnation: Incarnation,
    out: &mut [u8; MAX_FLOW_HEADERS],
) -> usize {
    out.fill(0);
    let l4 = if tuple.is_v6() { 40 } else { 20 };
    let l4_len: u8 = match tuple.protocol() {
        Protocol::Tcp => 20,
        Protocol::Udp => 8,
    };
    let len = l4 + usize::from(l4_len);
    let addresses_len = if tuple.is_v6() { 32 } else { 8 };
    if tuple.is_v6() {
        out[0] = 0x60;
        out[5] = l4_len;
        out[6] = tuple.protocol() as u8;
        out[7] = 64;
        out[8..40].copy_from_slice(&tuple.padded()[..addresses_len]);
    } else {
        out[0] = 0x45;
        out[3] = 20 + l4_len;
        out[6] = 0x40;
        out[8] = 64;
        out[9] = tuple.protocol() as u8;
        out[12..20].copy_from_slice(&tuple.padded()[..addresses_len]);
        let sum = checksum::finish(checksum::sum(&out[..20]));
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    out[l4..l4 + 4].copy_from_slice(&tuple.padded()[addresses_len..addresses_len + 4]);
    match tuple.protocol() {
        Protocol::Tcp => {
            out[l4 + 4..l4 + 8].copy_from_slice(&incarnation.0.to_be_bytes());
            out[l4 + 12] = 5 << 4;
            out[l4 + 13] = tcp_flags::SYN;
        }
        Protocol::Udp => out[l4 + 5] = 8,
    }
    transport_checksum(&mut out[..len], l4, tuple);
    len
}

fn transport_checksum(bytes: &mut [u8], l4: usize, tuple: &FiveTuple) {
    let at = l4
        + match tuple.protocol() {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
        };
    bytes[at..at + 2].copy_from_slice(&[0, 0]);
    let pseudo =
        checksum::pseudo_header(addresses(bytes), bytes.len() - l4, tuple.protocol() as u8);
    let sum = match checksum::finish(pseudo + checksum::sum(&bytes[l4..])) {
        // 0 would mean "no checksum" for UDP (RFC 768).
        0 if tuple.protocol() == Protocol::Udp => 0xffff,
        sum => sum,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn addresses(bytes: &[u8]) -> &[u8] {
    if bytes[0] >> 4 == 6 { &bytes[8..40] } else { &bytes[12..20] }
}
