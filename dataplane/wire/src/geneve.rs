//! The outside of every JLB packet: IP, UDP and Geneve (RFC 8926).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Ver|  Opt Len  |O|C|    Rsvd.  |          Protocol Type        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        Virtual Network Identifier (VNI), 0    |    Reserved   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use core::net::IpAddr;

use thiserror::Error;

use crate::bytes::{be16, take};
use crate::{CONTROL_OPTION_LEN, checksum};

/// The UDP port of Geneve (RFC 8926, section 3.3), unless configured otherwise.
pub const GENEVE_PORT: u16 = 6081;
/// Option class of JLB's control option, from the experimental range 0xFF00–0xFFFF (RFC 8926, section 7).
pub const OPTION_CLASS: u16 = 0xff4a;
/// Type of JLB's control option; its highest bit says critical: who does not know it must drop the packet.
pub const OPTION_TYPE: u8 = 0x81;

/// IPv4 as the Geneve payload.
pub const ETHERTYPE_V4: u16 = 0x0800;
/// IPv6 as the Geneve payload.
pub const ETHERTYPE_V6: u16 = 0x86dd;
/// A JLB body as the Geneve payload: the local experimental EtherType 1 (IEEE Std 802).
pub const ETHERTYPE_BODY: u16 = 0x88b5;

const UDP_LEN: usize = 8;
const GENEVE_LEN: usize = 8;
const FLAG_CONTROL: u8 = 0x80;
const FLAG_CRITICAL: u8 = 0x40;
const TTL: u8 = 64;

/// Bytes that `Data` and `Egress` add over an IPv4 underlay.
pub const OVERHEAD_V4: usize = 20 + UDP_LEN + GENEVE_LEN;
/// Bytes that `Data` and `Egress` add over an IPv6 underlay.
pub const OVERHEAD_V6: usize = 40 + UDP_LEN + GENEVE_LEN;

/// Why a packet on the Geneve port is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GeneveError {
    /// Shorter than its headers say.
    #[error("encapsulated packet is shorter than its headers say")]
    Truncated,
    /// The outer IP header is malformed.
    #[error("malformed outer header")]
    Malformed,
    /// The outer IPv4 header checksum does not fit.
    #[error("wrong outer IPv4 header checksum")]
    BadChecksum,
    /// The outer packet is a fragment.
    #[error("fragment of an encapsulated packet")]
    Fragment,
    /// Not UDP to that port.
    #[error("not UDP to the Geneve port")]
    NotGeneve,
    /// A Geneve version, flag, protocol or option length that cannot be.
    #[error("malformed Geneve header")]
    Geneve,
    /// A critical option that we do not know.
    #[error("unknown critical Geneve option")]
    UnknownCriticalOption,
}

/// What a Geneve packet carries. Offsets are into the bytes that were parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A client's or a server's packet, no option: `Data` or `Egress`.
    Plain {
        /// Where the inner IP header begins.
        inner: usize,
    },
    /// A control message and the inner packet that it is about.
    Control {
        /// Where the body of the control option begins ([`crate::Control::LEN`] bytes).
        option: usize,
        /// Where the inner IP header begins.
        inner: usize,
    },
    /// A message without inner packet: see [`crate::Body`].
    Body {
        /// Where it begins.
        body: usize,
    },
}

/// A parsed outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Outer source address.
    pub src: IpAddr,
    /// Outer destination address.
    pub dst: IpAddr,
    /// Outer UDP source port.
    pub source_port: u16,
    /// Outer DSCP and ECN.
    pub traffic_class: u8,
    /// Length of the whole packet by its IP header; the rest is padding.
    pub len: usize,
    /// What it carries.
    pub content: Content,
}

impl Outer {
    /// Parses from the outer IP header on. Never panics, whatever the bytes.
    ///
    /// The outer UDP checksum is not looked at: members send 0 on IPv4 and IPv6 alike (RFC 6935, RFC 6936); what
    /// must be right is under the MAC, the rest is the client's and has its own checksum.
    ///
    /// # Errors
    /// [`GeneveError`].
    pub fn parse(bytes: &[u8], port: u16) -> Result<Self, GeneveError> {
        let ip = OuterIp::parse(bytes)?;
        let udp: [u8; UDP_LEN] =
            take(&bytes[..ip.len], ip.header_len).ok_or(GeneveError::Truncated)?;
        if be16(&udp, 2) != port {
            return Err(GeneveError::NotGeneve);
        }
        if usize::from(be16(&udp, 4)) != ip.len - ip.header_len {
            return Err(GeneveError::Truncated);
        }
        let content = parse_geneve(&bytes[..ip.len], ip.header_len + UDP_LEN)?;
        Ok(Self {
            src: ip.src,
            dst: ip.dst,
            source_port: be16(&udp, 0),
            traffic_class: ip.traffic_class,
            len: ip.len,
            content,
        })
    }
}

struct OuterIp {
    src: IpAddr,
    dst: IpAddr,
    header_len: usize,
    len: usize,
    traffic_class: u8,
}

impl OuterIp {
    fn parse(bytes: &[u8]) -> Result<Self, GeneveError> {
        match bytes.first().map(|b| b >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            Some(_) => Err(GeneveError::Malformed),
            None => Err(GeneveError::Truncated),
        }
    }

    fn parse_v4(bytes: &[u8]) -> Result<Self, GeneveError> {
        let h: [u8; 20] = take(bytes, 0).ok_or(GeneveError::Truncated)?;
        let header_len = usize::from(h[0] & 0x0f) * 4;
        let len = usize::from(be16(&h, 2));
        if header_len < 20 || len < header_len {
            return Err(GeneveError::Malformed);
        }
        if h[9] != 17 {
            return Err(GeneveError::NotGeneve);
        }
        if bytes.len() < len {
            return Err(GeneveError::Truncated);
        }
        if checksum::finish(checksum::sum(&bytes[..header_len])) != 0 {
            return Err(GeneveError::BadChecksum);
        }
        if be16(&h, 6) & 0x3fff != 0 {
            return Err(GeneveError::Fragment);
        }
        Ok(Self {
            src: IpAddr::from([h[12], h[13], h[14], h[15]]),
            dst: IpAddr::from([h[16], h[17], h[18], h[19]]),
            header_len,
            len,
            traffic_class: h[1],
        })
    }

    fn parse_v6(bytes: &[u8]) -> Result<Self, GeneveError> {
        let h: [u8; 40] = take(bytes, 0).ok_or(GeneveError::Truncated)?;
        let len = 40 + usize::from(be16(&h, 4));
        match h[6] {
            17 => {}
            44 => return Err(GeneveError::Fragment),
            // Members send no extension headers.
            _ => return Err(GeneveError::NotGeneve),
        }
        if bytes.len() < len {
            return Err(GeneveError::Truncated);
        }
        let src: [u8; 16] = take(&h, 8).ok_or(GeneveError::Malformed)?;
        let dst: [u8; 16] = take(&h, 24).ok_or(GeneveError::Malformed)?;
        Ok(Self {
            src: src.into(),
            dst: dst.into(),
            header_len: 40,
            len,
            traffic_class: (h[0] << 4) | (h[1] >> 4),
        })
    }
}

fn parse_geneve(bytes: &[u8], at: usize) -> Result<Content, GeneveError> {
    let h: [u8; GENEVE_LEN] = take(bytes, at).ok_or(GeneveError::Truncated)?;
    if h[0] >> 6 != 0 {
        return Err(GeneveError::Geneve);
    }
    let options = at + GENEVE_LEN;
    let payload = options + usize::from(h[0] & 0x3f) * 4;
    if payload > bytes.len() {
        return Err(GeneveError::Truncated);
    }
    let ours = find_option(&bytes[..payload], options)?;
    match (be16(&h, 2), ours) {
        (ETHERTYPE_V4 | ETHERTYPE_V6, Some(option)) => {
            Ok(Content::Control { option, inner: payload })
        }
        (ETHERTYPE_V4 | ETHERTYPE_V6, None) => Ok(Content::Plain { inner: payload }),
        (ETHERTYPE_BODY, None) if h[1] & FLAG_CONTROL != 0 => Ok(Content::Body { body: payload }),
        _ => Err(GeneveError::Geneve),
    }
}

/// Where the body of our option begins. Options that we do not know are skipped unless critical.
fn find_option(bytes: &[u8], mut at: usize) -> Result<Option<usize>, GeneveError> {
    let mut ours = None;
    // At most 63 × 4 bytes of options, 4 bytes each at least: bounded.
    while at < bytes.len() {
        let h: [u8; 4] = take(bytes, at).ok_or(GeneveError::Geneve)?;
        let body = at + 4;
        let end = body + usize::from(h[3] & 0x1f) * 4;
        if end > bytes.len() {
            return Err(GeneveError::Geneve);
        }
        if be16(&h, 0) == OPTION_CLASS && h[2] == OPTION_TYPE {
            if end - body != crate::Control::LEN || ours.is_some() {
                return Err(GeneveError::Geneve);
            }
            ours = Some(body);
        } else if h[2] & 0x80 != 0 {
            return Err(GeneveError::UnknownCriticalOption);
        }
        at = end;
    }
    Ok(ours)
}

/// The fields of an outer header that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    /// Outer source: our underlay address.
    pub src: IpAddr,
    /// Outer destination, of the same family: the member's underlay address.
    pub dst: IpAddr,
    /// Flow entropy: see [`entropy_port`].
    pub source_port: u16,
    /// Outer UDP destination port.
    pub port: u16,
    /// Outer DSCP and ECN: the inner packet's (RFC 6040, normal mode).
    pub traffic_class: u8,
}

/// What follows the Geneve header that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// An inner packet, without option.
    Plain {
        /// Whether it is IPv6.
        v6: bool,
    },
    /// A control option, and an inner packet behind it.
    Control {
        /// The option with its header, from [`crate::Control::emit`].
        option: &'a [u8; CONTROL_OPTION_LEN],
        /// Whether the inner packet is IPv6.
        v6: bool,
    },
    /// A body.
    Body,
}

impl Payload<'_> {
    const fn option_len(&self) -> usize {
        match self {
            Self::Control { .. } => CONTROL_OPTION_LEN,
            Self::Plain { .. } | Self::Body => 0,
        }
    }
}

impl Encapsulation {
    /// Bytes that [`Self::emit`] writes: outer IP, UDP, Geneve, option.
    #[must_use]
    pub const fn header_len(&self, payload: Payload<'_>) -> usize {
        let ip = if self.dst.is_ipv6() { OVERHEAD_V6 } else { OVERHEAD_V4 };
        ip + payload.option_len()
    }

    /// Writes the header into `out`, which is exactly [`Self::header_len`] long and lies before an inner packet (or
    /// body) of `inner_len` bytes.
    ///
    /// # Errors
    /// [`EmitError`] when `out` has another length, the addresses differ in family, or the whole exceeds 65,535 bytes.
    pub fn emit(
        &self,
        payload: Payload<'_>,
        inner_len: usize,
        out: &mut [u8],
    ) -> Result<(), EmitError> {
        if out.len() != self.header_len(payload) {
            return Err(EmitError);
        }
        let total = u16::try_from(out.len() + inner_len).map_err(|_| EmitError)?;
        let ip_len = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut h = [0; 20];
                h[0] = 0x45;
                h[1] = self.traffic_class;
                h[2..4].copy_from_slice(&total.to_be_bytes());
                h[6] = 0x40; // DF: the inner packet is what gets fragmented, if anything
                h[8] = TTL;
                h[9] = 17;
                h[12..16].copy_from_slice(&src.octets());
                h[16..20].copy_from_slice(&dst.octets());
                let sum = checksum::finish(checksum::sum(&h));
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                out[..20].copy_from_slice(&h);
                20
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let h = &mut out[..40];
                h[0] = 0x60 | (self.traffic_class >> 4);
                h[1] = self.traffic_class << 4;
                // The flow label: the same entropy, for routers that hash it (RFC 6438).
                h[2..4].copy_from_slice(&self.source_port.to_be_bytes());
                h[4..6].copy_from_slice(&(total - 40).to_be_bytes());
                h[6] = 17;
                h[7] = TTL;
                h[8..24].copy_from_slice(&src.octets());
                h[24..40].copy_from_slice(&dst.octets());
                40
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                return Err(EmitError);
            }
        };
        let udp_len = total - ip_len as u16;
        let udp = &mut out[ip_len..ip_len + UDP_LEN];
        udp[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        udp[2..4].copy_from_slice(&self.port.to_be_bytes());
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        udp[6..8].copy_from_slice(&[0, 0]);
        emit_geneve(payload, &mut out[ip_len + UDP_LEN..]);
        Ok(())
    }
}

fn emit_geneve(payload: Payload<'_>, out: &mut [u8]) {
    let (flags, ethertype) = match payload {
        Payload::Plain { v6 } => (0, ethertype(v6)),
        Payload::Control { v6, .. } => (FLAG_CRITICAL, ethertype(v6)),
        Payload::Body => (FLAG_CONTROL, ETHERTYPE_BODY),
    };
    let option_words = (payload.option_len() / 4) as u8;
    out[0] = option_words;
    out[1] = flags;
    out[2..4].copy_from_slice(&ethertype.to_be_bytes());
    out[4..8].copy_from_slice(&[0; 4]);
    if let Payload::Control { option, .. } = payload {
        out[GENEVE_LEN..].copy_from_slice(option);
    }
}

const fn ethertype(v6: bool) -> u16 {
    if v6 { ETHERTYPE_V6 } else { ETHERTYPE_V4 }
}

/// A header could not be written: lengths or families do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the header does not fit what it is written for")]
pub struct EmitError;

/// The outer UDP source port for a flow hash: 49152–65535, so that routers and NIC queues spread flows (RFC 8926,
/// section 3.3).
#[must_use]
pub const fn entropy_port(hash: u64) -> u16 {
    0xc000 | ((hash >> 32) as u16 & 0x3fff)
}

/// The inner traffic class after decapsulation (RFC 6040, figure 4): congestion that was marked outside is carried
/// inside. `None`: the packet must be dropped, since its sender cannot be told.
#[must_use]
pub const fn decapsulated_traffic_class(outer: u8, inner: u8) -> Option<u8> {
    const CE: u8 = 0b11;
    const ECT1: u8 = 0b01;
    match (outer & 0b11, inner & 0b11) {
        (CE, 0b00) => None,
        (CE, _) => Some(inner | CE),
        (ECT1, 0b10) => Some((inner & !0b11) | ECT1),
        _ => Some(inner),
    }
}
