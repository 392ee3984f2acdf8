//! The client's packet: IPv4 or IPv6 with TCP or UDP.

use thiserror::Error;

use crate::bytes::{be16, be32, take};
use crate::{FiveTuple, Incarnation, Protocol, checksum};

/// TCP flags (RFC 9293, section 3.1).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field is valid.
    pub const ACK: u8 = 0x10;
}

/// IPv6 extension headers that are skipped at most: more is not seen from honest hosts (RFC 8504 lets a host limit them).
const MAX_EXTENSION_HEADERS: usize = 4;

/// Why a packet is not one that can be balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Shorter than its headers say.
    #[error("packet is shorter than its headers say")]
    Truncated,
    /// Neither IPv4 nor IPv6, or lengths that contradict each other.
    #[error("malformed IP or transport header")]
    Malformed,
    /// The IPv4 header checksum does not fit.
    #[error("wrong IPv4 header checksum")]
    BadChecksum,
    /// A fragment.
    #[error("IP fragment")]
    Fragment,
    /// Neither TCP nor UDP.
    #[error("IP protocol {0} is not balanced")]
    Protocol(u8),
}

/// A parsed packet. Offsets are into the bytes that were parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source, destination, ports, protocol *as in the packet*: for a client's packet, client → VIP.
    pub tuple: FiveTuple,
    /// Where the TCP or UDP header begins.
    pub l4: usize,
    /// Where the payload begins.
    pub payload: usize,
    /// Length of the packet by its IP header; never more than the bytes that were parsed.
    pub len: usize,
    /// DSCP and ECN, as in the IP header.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Must not be fragmented: DF, or IPv6.
    pub dont_fragment: bool,
    /// The TCP fields; `None` for UDP.
    pub tcp: Option<Tcp>,
}

/// The fields of a TCP header that JLB looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// See [`tcp_flags`].
    pub flags: u8,
}

impl Tcp {
    /// A connection's first packet: SYN without ACK or RST.
    #[must_use]
    #[inline]
    pub const fn is_open(self) -> bool {
        self.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN
    }

    /// The server's answer to it.
    #[must_use]
    pub const fn is_syn_ack(self) -> bool {
        self.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST)
            == tcp_flags::SYN | tcp_flags::ACK
    }
}

impl Packet {
    /// Parses from the IP header on. Never panics, whatever the bytes. Bytes behind the IP length are ignored
    /// (Ethernet padding).
    ///
    /// # Errors
    /// [`PacketError`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        match bytes.first().map(|b| b >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            Some(_) => Err(PacketError::Malformed),
            None => Err(PacketError::Truncated),
        }
    }

    /// Whether it may begin a flow: a SYN, or any UDP datagram.
    #[must_use]
    #[inline]
    pub const fn can_open(&self) -> bool {
        match self.tcp {
            Some(tcp) => tcp.is_open(),
            None => true,
        }
    }

    /// The incarnation that an Open for this packet names: the ISN, or 0 for UDP.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        match self.tcp {
            Some(tcp) => Incarnation(tcp.seq),
            None => Incarnation(0),
        }
    }

    fn parse_v4(bytes: &[u8]) -> Result<Self, PacketError> {
        let header: [u8; 20] = take(bytes, 0).ok_or(PacketError::Truncated)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let len = usize::from(be16(&header, 2));
        if header_len < 20 || len < header_len {
            return Err(PacketError::Malformed);
        }
        if bytes.len() < len {
            return Err(PacketError::Truncated);
        }
        if checksum::finish(checksum::sum(&bytes[..header_len])) != 0 {
            return Err(PacketError::BadChecksum);
        }
        // More fragments, or an offset (RFC 791); DF is bit 0x4000.
        if be16(&header, 6) & 0x3fff != 0 {
            return Err(PacketError::Fragment);
        }
        let protocol = Protocol::from_number(header[9]).ok_or(PacketError::Protocol(header[9]))?;
        let l4 = L4::parse(&bytes[..len], header_len, protocol)?;
        let (src, dst) = (
            [header[12], header[13], header[14], header[15]],
            [header[16], header[17], header[18], header[19]],
        );
        Ok(Self {
            tuple: FiveTuple::v4(src, dst, l4.ports, protocol),
            l4: header_len,
            payload: l4.payload,
            len,
            traffic_class: header[1],
            ttl: header[8],
            dont_fragment: header[6] & 0x40 != 0,
            tcp: l4.tcp,
        })
    }

    fn parse_v6(bytes: &[u8]) -> Result<Self, PacketError> {
        let header: [u8; 40] = take(bytes, 0).ok_or(PacketError::Truncated)?;
        let len = 40 + usize::from(be16(&header, 4));
        if bytes.len() < len {
            return Err(PacketError::Truncated);
        }
        let (at, protocol) = skip_extension_headers(&bytes[..len], header[6])?;
        let l4 = L4::parse(&bytes[..len], at, protocol)?;
        let src: [u8; 16] = take(&header, 8).ok_or(PacketError::Malformed)?;
        let dst: [u8; 16] = take(&header, 24).ok_or(PacketError::Malformed)?;
        Ok(Self {
            tuple: FiveTuple::v6(src, dst, l4.ports, protocol),
            l4: at,
            payload: l4.payload,
            len,
            traffic_class: (header[0] << 4) | (header[1] >> 4),
            ttl: header[7],
            dont_fragment: true,
            tcp: l4.tcp,
        })
    }
}

/// Hop-by-hop (0), routing (43) and destination (60) options (RFC 8200, section 4).
fn skip_extension_headers(bytes: &[u8], first: u8) -> Result<(usize, Protocol), PacketError> {
    let (mut at, mut next) = (40, first);
    for _ in 0..=MAX_EXTENSION_HEADERS {
        match next {
            0 | 43 | 60 => {
                let extension: [u8; 2] = take(bytes, at).ok_or(PacketError::Truncated)?;
                next = extension[0];
                at += (usize::from(extension[1]) + 1) * 8;
            }
            44 => return Err(PacketError::Fragment),
            n => return Protocol::from_number(n).map(|p| (at, p)).ok_or(PacketError::Protocol(n)),
        }
    }
    Err(PacketError::Malformed)
}

struct L4 {
    ports: [u8; 4],
    payload: usize,
    tcp: Option<Tcp>,
}

impl L4 {
    fn parse(bytes: &[u8], at: usize, protocol: Protocol) -> Result<Self, PacketError> {
        match protocol {
            Protocol::Tcp => {
                let h: [u8; 20] = take(bytes, at).ok_or(PacketError::Truncated)?;
                let header_len = usize::from(h[12] >> 4) * 4;
                if header_len < 20 {
                    return Err(PacketError::Malformed);
                }
                let payload = at + header_len;
                if payload > bytes.len() {
                    return Err(PacketError::Truncated);
                }
                let tcp = Tcp { seq: be32(&h, 4), ack: be32(&h, 8), flags: h[13] };
                Ok(Self { ports: [h[0], h[1], h[2], h[3]], payload, tcp: Some(tcp) })
            }
            Protocol::Udp => {
                let h: [u8; 8] = take(bytes, at).ok_or(PacketError::Truncated)?;
                let length = usize::from(be16(&h, 4));
                if length < 8 {
                    return Err(PacketError::Malformed);
                }
                if at + length > bytes.len() {
                    return Err(PacketError::Truncated);
                }
                Ok(Self { ports: [h[0], h[1], h[2], h[3]], payload: at + 8, tcp: None })
            }
        }
    }
}
