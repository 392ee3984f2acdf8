//! IP packets of clients and servers, byte by byte.

use core::net::{IpAddr, SocketAddr};

use jlb_wire::{Protocol, checksum};

/// The fields of a TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn tcp_packet(src: SocketAddr, dst: SocketAddr, s: &Segment) -> Vec<u8> {
    let len = 20 + s.payload.len();
    ip_packet(src.ip(), dst.ip(), (Protocol::Tcp, len, 16), |out| {
        let mut h = [0; 20];
        h[..2].copy_from_slice(&src.port().to_be_bytes());
        h[2..4].copy_from_slice(&dst.port().to_be_bytes());
        h[4..8].copy_from_slice(&s.seq.to_be_bytes());
        h[8..12].copy_from_slice(&s.ack.to_be_bytes());
        h[12..16].copy_from_slice(&[5 << 4, s.flags, 0xff, 0xff]);
        out.extend_from_slice(&h);
        out.extend_from_slice(&s.payload);
    })
}

pub(crate) fn udp_packet(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len();
    ip_packet(src.ip(), dst.ip(), (Protocol::Udp, len, 6), |out| {
        out.extend(src.port().to_be_bytes());
        out.extend(dst.port().to_be_bytes());
        out.extend((len as u16).to_be_bytes());
        out.extend([0, 0]);
        out.extend(payload);
    })
}

/// An IP header, then the `len` bytes that `write` adds, with the transport checksum at `checksum_at` in them. Both addresses
/// are of one family: the five-tuple that they come from sees to that.
fn ip_packet(
    src: IpAddr,
    dst: IpAddr,
    (protocol, len, checksum_at): (Protocol, usize, usize),
    write: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(40 + len);
    let addresses = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut h = [0; 20];
            h[0] = 0x45;
            h[2..4].copy_from_slice(&(20 + len as u16).to_be_bytes());
            h[6] = 0x40;
            (h[8], h[9]) = (64, protocol as u8);
            h[12..16].copy_from_slice(&src.octets());
            h[16..].copy_from_slice(&dst.octets());
            let sum = checksum::finish(checksum::sum(&h));
            h[10..12].copy_from_slice(&sum.to_be_bytes());
            out.extend_from_slice(&h);
            12..20
        }
        (src, dst) => {
            out.extend([0x60, 0, 0, 0]);
            out.extend((len as u16).to_be_bytes());
            out.extend([protocol as u8, 64]);
            out.extend(v6(src));
            out.extend(v6(dst));
            8..40
        }
    };
    let l4 = out.len();
    write(&mut out);
    let pseudo = checksum::pseudo_header(&out[addresses], len, protocol as u8);
    let sum = match checksum::finish(pseudo + checksum::sum(&out[l4..])) {
        // 0 would mean "no checksum" for UDP (RFC 768).
        0 if protocol == Protocol::Udp => 0xffff,
        sum => sum,
    };
    out[l4 + checksum_at..][..2].copy_from_slice(&sum.to_be_bytes());
    out
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

#[cfg(test)]
mod tests {
    use jlb_wire::{Packet, tcp_flags, transport_checksum_fits};

    use super::*;

    #[test]
    fn packets_parse_with_right_checksums() {
        for (src, dst) in
            [("10.9.0.1:40000", "203.0.113.1:80"), ("[fd09::1]:40000", "[fd77::1]:80")]
        {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            let s = Segment { seq: 7, ack: 9, flags: tcp_flags::SYN, payload: vec![1, 2, 3] };
            for bytes in [tcp_packet(src, dst, &s), udp_packet(src, dst, b"odd")] {
                let packet = Packet::parse(&bytes).unwrap();
                assert_eq!((packet.tuple.client(), packet.tuple.vip()), (src, dst));
                assert!(transport_checksum_fits(&bytes, &packet));
            }
        }
    }
}
