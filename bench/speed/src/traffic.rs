//! The clients' packets.

use core::net::IpAddr;

use jlb_map::Snapshot;
use jlb_wire::{
    Encapsulation, FiveTuple, GENEVE_PORT, OVERHEAD_V4, OVERHEAD_V6, Payload, Protocol, checksum,
    tcp_flags,
};

use crate::site;

/// Client ports in use.
const PORTS: u32 = 64;
/// What addresses of 11.0.0.0/8, ports and services make room for.
pub const MOST_FLOWS: u32 = 1 << 28;
/// As a 64-byte frame has it: 60 bytes and the frame's checksum.
const SMALLEST_FRAME: usize = 60;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of the longest frame here: Ethernet, the capsule, IPv6, TCP.
pub const LONGEST: usize = ETHERNET + OVERHEAD_V6 + 40 + 20;

/// Which packets are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum What {
    /// Packets of established flows: three in four TCP, the others UDP, as the services are.
    #[default]
    Data,
    /// SYNs of new flows, TCP only, while the others are established.
    Syn,
    /// Encapsulated replies of backends, on their way to clients. No flow need be known for them.
    Egress,
}

/// The flows, by number.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Of IPv6, outside and inside.
    pub v6: bool,
}

impl Traffic {
    /// The ends of a flow, client first.
    pub fn tuple(self, n: u32) -> FiveTuple {
        let service = n % site::SERVICES;
        let client = n / site::SERVICES;
        let [source, vip] = [1024 + (client % PORTS) as u16 * 977, site::port(service)];
        let ports = [source.to_be_bytes(), vip.to_be_bytes()];
        let ports = [ports[0][0], ports[0][1], ports[1][0], ports[1][1]];
        let protocol = site::protocol(service);
        let [_, a, b, c] = (client / PORTS).to_be_bytes();
        match site::vip(service, self.v6) {
            IpAddr::V4(vip) => FiveTuple::v4([11, a, b, c], vip.octets(), ports, protocol),
            IpAddr::V6(vip) => {
                let client = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, a, b, c];
                FiveTuple::v6(client, vip.octets(), ports, protocol)
            }
        }
    }

    /// Of which flow that is the tuple: the reverse of [`Self::tuple`]. Of a tuple that is no flow's, any number.
    pub fn number(tuple: &FiveTuple) -> u32 {
        let bytes = tuple.canonical();
        let (client, ports) = if tuple.is_v6() { (13, 32) } else { (1, 8) };
        let address = u32::from_be_bytes([0, bytes[client], bytes[client + 1], bytes[client + 2]]);
        let port = u32::from(u16::from_be_bytes([bytes[ports], bytes[ports + 1]]));
        let service = u32::from(tuple.vip().port()).wrapping_sub(site::port(0).into());
        let client = (address * PORTS).wrapping_add(port.wrapping_sub(1024) / 977);
        client.wrapping_mul(site::SERVICES).wrapping_add(service)
    }

    /// Writes a backend's reply in its capsule, as a frame. Gives its length.
    pub fn write_reply(
        self,
        n: u32,
        snapshot: &Snapshot,
        (to, from): ([u8; 6], [u8; 6]),
        out: &mut [u8; LONGEST],
    ) -> usize {
        let overhead = if self.v6 { OVERHEAD_V6 } else { OVERHEAD_V4 };
        out[..6].copy_from_slice(&to);
        out[6..12].copy_from_slice(&from);
        out[12..14].copy_from_slice(if self.v6 { &[0x86, 0xdd] } else { &[0x08, 0] });
        let len = self.reply(n, &mut out[ETHERNET + overhead..]);
        // All members have both addresses, and all lengths fit.
        if let Some((src, dst)) = snapshot.underlay_pair(site::backend_of(n), site::ingress()) {
            let capsule = Encapsulation {
                src,
                dst,
                source_port: 0xc000 | n as u16,
                port: GENEVE_PORT,
                traffic_class: 0,
            };
            let header = &mut out[ETHERNET..ETHERNET + overhead];
            let _ = capsule.emit(Payload::Plain { v6: self.v6 }, len, header);
        }
        ETHERNET + overhead + len
    }

    /// Writes a server's packet to the client of a flow, from its IP header on. Gives its length.
    pub fn reply(self, n: u32, out: &mut [u8]) -> usize {
        let tuple = self.tuple(n);
        let back = FiveTuple::new(tuple.vip(), tuple.client(), tuple.protocol()).unwrap_or(tuple);
        if self.v6 { v6(&back, n, tcp_flags::ACK, out) } else { v4(&back, n, tcp_flags::ACK, out) }
    }

    /// Bytes of a flow's packets.
    pub const fn length(self, n: u32) -> usize {
        let transport = match site::protocol(n % site::SERVICES) {
            Protocol::Tcp => 20,
            Protocol::Udp => 12,
        };
        transport + if self.v6 { 40 } else { 20 }
    }

    /// Writes a frame: Ethernet header, IP packet with all checksums right, padding. Gives its length.
    pub fn write(
        self,
        n: u32,
        opens: bool,
        (to, from): ([u8; 6], [u8; 6]),
        out: &mut [u8; LONGEST],
    ) -> usize {
        out[..6].copy_from_slice(&to);
        out[6..12].copy_from_slice(&from);
        let tuple = self.tuple(n);
        let ip = &mut out[ETHERNET..];
        let flags = if opens { tcp_flags::SYN } else { tcp_flags::ACK };
        let len = if self.v6 { v6(&tuple, n, flags, ip) } else { v4(&tuple, n, flags, ip) };
        out[12..14].copy_from_slice(if self.v6 { &[0x86, 0xdd] } else { &[0x08, 0] });
        let end = ETHERNET + len;
        if end < SMALLEST_FRAME {
            out[end..SMALLEST_FRAME].fill(0);
        }
        end.max(SMALLEST_FRAME)
    }
}

fn v4(tuple: &FiveTuple, n: u32, flags: u8, ip: &mut [u8]) -> usize {
    let bytes = tuple.canonical();
    let l4 = transport(tuple, n, flags, [bytes[8], bytes[9], bytes[10], bytes[11]], &mut ip[20..]);
    let total = (20 + l4) as u16;
    ip[..20].copy_from_slice(&[
        0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 61, bytes[12], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[12..20].copy_from_slice(&bytes[..8]);
    let sum = checksum::finish(checksum::sum(&ip[..20]));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    20 + l4
}

fn v6(tuple: &FiveTuple, n: u32, flags: u8, ip: &mut [u8]) -> usize {
    let bytes = tuple.canonical();
    let ports = [bytes[32], bytes[33], bytes[34], bytes[35]];
    let l4 = transport(tuple, n, flags, ports, &mut ip[40..]);
    ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, l4 as u8, bytes[36], 61]);
    ip[8..40].copy_from_slice(&bytes[..32]);
    40 + l4
}

/// A TCP header without options, or a UDP header with four bytes behind it.
fn transport(tuple: &FiveTuple, n: u32, flags: u8, ports: [u8; 4], out: &mut [u8]) -> usize {
    let addresses = if tuple.is_v6() { &tuple.canonical()[..32] } else { &tuple.canonical()[..8] };
    out[..4].copy_from_slice(&ports);
    let (len, at) = match tuple.protocol() {
        Protocol::Tcp => {
            out[4..8].copy_from_slice(&n.to_be_bytes());
            out[8..20].copy_from_slice(&[0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            (20, 16)
        }
        Protocol::Udp => {
            out[4..8].copy_from_slice(&[0, 12, 0, 0]);
            out[8..12].copy_from_slice(&n.to_be_bytes());
            (12, 6)
        }
    };
    let pseudo = checksum::pseudo_header(addresses, len, tuple.protocol() as u8);
    let sum = match checksum::finish(pseudo + checksum::sum(&out[..len])) {
        // 0 would mean "none" (RFC 768).
        0 => 0xffff,
        sum => sum,
    };
    out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    len
}

/// Which flow comes next: uniformly at random, the same in each run.
#[derive(Clone, Copy, Debug)]
pub struct Draw(u64);

impl Default for Draw {
    fn default() -> Self {
        Self::new()
    }
}

impl Draw {
    /// From the beginning.
    pub const fn new() -> Self {
        Self(0x0123_4567_89ab_cdef)
    }

    /// A number below `n`.
    pub const fn below(&mut self, n: u32) -> u32 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (((z >> 32) * n as u64) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use jlb_wire::Packet;

    use super::*;

    #[test]
    fn packets_are_what_they_are_said_to_be() {
        let mut seen = HashSet::new();
        for v6 in [false, true] {
            let traffic = Traffic { v6 };
            for n in (0..5000).chain([MOST_FLOWS - 1]) {
                let mut out = [0xaa; LONGEST];
                let len = traffic.write(n, n % 2 == 0, ([1; 6], [2; 6]), &mut out);
                let packet = Packet::parse(&out[ETHERNET..len]).unwrap();
                assert_eq!(packet.tuple, traffic.tuple(n));
                assert_eq!((Traffic::number(&packet.tuple), traffic.length(n)), (n, packet.len));
                assert!(jlb_wire::transport_checksum_fits(&out[ETHERNET..len], &packet));
                if let Some(tcp) = packet.tcp {
                    assert_eq!((tcp.seq, tcp.is_open()), (n, n % 2 == 0));
                }
                assert!(seen.insert(packet.tuple), "flow {n} is another's");
            }
        }
    }
}
