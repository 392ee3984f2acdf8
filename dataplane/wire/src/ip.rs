//! An IP header and nothing behind it: for packets that are passed on whatever they carry.

use core::net::IpAddr;

use crate::bytes::{be16, take};
use crate::{PacketError, checksum};

/// A parsed IP header. Fragments and all protocols are well-formed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Length of the packet by this header; never more than the bytes that were parsed.
    pub len: usize,
    /// The protocol (IPv6: of what follows the fixed header).
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
}

impl IpHeader {
    /// Parses the header at the front. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// [`PacketError`], but neither `Fragment` nor `Protocol`.
    pub fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        let header = match bytes.first().map(|b| b >> 4) {
            Some(4) => {
                let h: [u8; 20] = take(bytes, 0).ok_or(PacketError::Truncated)?;
                let header_len = usize::from(h[0] & 0x0f) * 4;
                let len = usize::from(be16(&h, 2));
                if header_len < 20 || len < header_len {
                    return Err(PacketError::Malformed);
                }
                let options = bytes.get(..header_len).ok_or(PacketError::Truncated)?;
                if checksum::finish(checksum::sum(options)) != 0 {
                    return Err(PacketError::BadChecksum);
                }
                Self {
                    src: IpAddr::from([h[12], h[13], h[14], h[15]]),
                    dst: IpAddr::from([h[16], h[17], h[18], h[19]]),
                    len,
                    protocol: h[9],
                    traffic_class: h[1],
                }
            }
            Some(6) => {
                let h: [u8; 40] = take(bytes, 0).ok_or(PacketError::Truncated)?;
                let src: [u8; 16] = take(&h, 8).ok_or(PacketError::Malformed)?;
                let dst: [u8; 16] = take(&h, 24).ok_or(PacketError::Malformed)?;
                Self {
                    src: src.into(),
                    dst: dst.into(),
                    len: 40 + usize::from(be16(&h, 4)),
                    protocol: h[6],
                    traffic_class: (h[0] << 4) | (h[1] >> 4),
                }
            }
            Some(_) => return Err(PacketError::Malformed),
            None => return Err(PacketError::Truncated),
        };
        if bytes.len() < header.len { Err(PacketError::Truncated) } else { Ok(header) }
    }

    /// Writes other DSCP and ECN bits into a packet that [`Self::parse`] took, and mends an IPv4 header's checksum
    /// by the difference (RFC 1624).
    pub fn set_traffic_class(bytes: &mut [u8], traffic_class: u8) {
        match bytes {
            [first, second, ..] if *first >> 4 == 6 => {
                *first = 0x60 | traffic_class >> 4;
                *second = traffic_class << 4 | *second & 0x0f;
            }
            [_, old, _, _, _, _, _, _, _, _, high, low, ..] => {
                let sum = u16::from_be_bytes([*high, *low]);
                // ~(~HC + ~m + m'), where the other byte of the word stays.
                let mended =
                    u32::from(!sum) + u32::from(!u16::from(*old)) + u32::from(traffic_class);
                [*high, *low] = checksum::finish(mended).to_be_bytes();
                *old = traffic_class;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FiveTuple, Incarnation, MAX_FLOW_HEADERS, Protocol, flow_headers};

    fn packet(v6: bool) -> Vec<u8> {
        let tuple = if v6 {
            FiveTuple::v6([1; 16], [2; 16], [3; 4], Protocol::Tcp)
        } else {
            FiveTuple::v4([1; 4], [2; 4], [3; 4], Protocol::Tcp)
        };
        let mut out = [0; MAX_FLOW_HEADERS];
        let len = flow_headers(&tuple, Incarnation(9), &mut out);
        out[..len].to_vec()
    }

    #[test]
    fn every_traffic_class_can_be_set_and_nothing_else_changes() {
        for v6 in [false, true] {
            for from in 0..=255 {
                let mut bytes = packet(v6);
                IpHeader::set_traffic_class(&mut bytes, from);
                let before = IpHeader::parse(&bytes).unwrap();
                assert_eq!(before, IpHeader { traffic_class: from, ..before });
                for to in [0, 1, 2, 3, 0xb8, 0xff] {
                    let mut bytes = bytes.clone();
                    IpHeader::set_traffic_class(&mut bytes, to);
                    // The IPv4 checksum is part of what parse checks.
                    let after = IpHeader::parse(&bytes).unwrap();
                    assert_eq!(after, IpHeader { traffic_class: to, ..before });
                }
            }
        }
    }

    #[test]
    fn lengths_and_checksum_are_checked() {
        for v6 in [false, true] {
            let whole = packet(v6);
            assert_eq!(IpHeader::parse(&whole).unwrap().len, whole.len());
            for cut in 0..whole.len() {
                assert_eq!(IpHeader::parse(&whole[..cut]), Err(PacketError::Truncated), "{cut}");
            }
        }
        let mut bad = packet(false);
        bad[8] ^= 1;
        assert_eq!(IpHeader::parse(&bad), Err(PacketError::BadChecksum));
        assert_eq!(IpHeader::parse(&[0x50; 60]), Err(PacketError::Malformed));
    }
}
