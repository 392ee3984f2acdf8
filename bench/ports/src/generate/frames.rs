use core::net::IpAddr;

use etherparse::PacketBuilder;
use jlb_speed::traffic::{Draw, ETHERNET};
use jlb_wire::{Protocol, checksum};

use super::{Profile, Traffic};
use crate::PortsError;

/// The frame's checksum, which the card writes.
const CHECKSUM: usize = 4;
const TTL: u8 = 61;
/// Packets of a mix that repeats itself, and what is what.
const MIX: u32 = 20;
const MIX_SYNS: u32 = 1;
const MIX_UDP: u32 = 5;

/// Gives one frame after the other. All checksums are right.
#[derive(Clone, Debug)]
pub struct Frames {
    traffic: Traffic,
    ack: Template,
    syn: Template,
    udp: Template,
    draw: Draw,
    /// Frames written.
    written: u32,
}

impl Frames {
    /// Of that traffic.
    ///
    /// # Errors
    /// When it cannot be: a frame too small, say.
    pub fn new(traffic: &Traffic) -> Result<Self, PortsError> {
        traffic.check()?;
        let template = |kind| Template::new(traffic, kind);
        let (ack, syn, udp) = (template(Kind::Ack)?, template(Kind::Syn)?, template(Kind::Udp)?);
        Ok(Self { traffic: traffic.clone(), ack, syn, udp, draw: Draw::new(), written: 0 })
    }

    /// Bytes of every frame, without its checksum.
    #[expect(clippy::len_without_is_empty, reason = "no frame is empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.ack.bytes.len()
    }

    /// Writes the next frame. `out` has room for exactly one.
    pub fn write(&mut self, out: &mut [u8]) {
        let turn = self.written;
        self.written = self.written.wrapping_add(1);
        let (kind, n) = match self.traffic.profile {
            Profile::Established => (Kind::Ack, self.draw.below(self.traffic.flows)),
            Profile::Range => (Kind::Ack, turn % self.traffic.flows),
            Profile::Syn => (Kind::Syn, self.anybody()),
            Profile::Mix => match turn % MIX {
                n if n < MIX_SYNS => (Kind::Syn, self.anybody()),
                n if n < MIX_SYNS + MIX_UDP => (Kind::Udp, self.draw.below(self.traffic.flows)),
                _ => (Kind::Ack, self.draw.below(self.traffic.flows)),
            },
        };
        let client = self.traffic.client(n);
        match kind {
            Kind::Ack => self.ack.write((client.ip(), client.port()), n, out),
            Kind::Syn => {
                let sequence = self.draw.below(u32::MAX);
                self.syn.write((client.ip(), client.port()), sequence, out);
            }
            Kind::Udp => self.udp.write((client.ip(), client.port()), 0, out),
        }
    }

    /// Not only of the flows that are known.
    fn anybody(&mut self) -> u32 {
        self.draw.below(self.traffic.space() as u32)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ack,
    Syn,
    Udp,
}

/// A frame without a client: what is the same in all of them, and its part of the checksums.
#[derive(Clone, Debug)]
struct Template {
    bytes: Vec<u8>,
    protocol: Protocol,
    ip_sum: u32,
    sum: u32,
}

impl Template {
    fn new(traffic: &Traffic, kind: Kind) -> Result<Self, PortsError> {
        let link = PacketBuilder::ethernet2(traffic.macs.1.0, traffic.macs.0.0);
        let (ip, header) = match traffic.to.ip() {
            IpAddr::V4(to) => (link.ipv4([0; 4], to.octets(), TTL), 20),
            IpAddr::V6(to) => (link.ipv6([0; 16], to.octets(), TTL), 40),
        };
        let length = usize::from(traffic.size) - CHECKSUM;
        let port = traffic.to.port();
        let mut bytes = Vec::with_capacity(length);
        // The smallest frames are longer than their packets: then the rest is padding of the link, not of the packet.
        let payload = |transport: usize| vec![0; length - ETHERNET - header - transport];
        let wrong = |e: etherparse::err::packet::BuildWriteError| PortsError::Wrong(e.to_string());
        let protocol = match kind {
            Kind::Ack => {
                let tcp = ip.tcp(0, port, 0, u16::MAX).ack(1);
                tcp.write(&mut bytes, &payload(20)).map_err(wrong)?;
                Protocol::Tcp
            }
            Kind::Syn => {
                // A SYN brings no data: what a larger frame has more is padding.
                ip.tcp(0, port, 0, u16::MAX).syn().write(&mut bytes, &[]).map_err(wrong)?;
                Protocol::Tcp
            }
            Kind::Udp => {
                ip.udp(0, port).write(&mut bytes, &payload(8)).map_err(wrong)?;
                Protocol::Udp
            }
        };
        let mut template = Self { bytes, protocol, ip_sum: 0, sum: 0 };
        template.clear_checksums();
        let packet = &template.bytes[ETHERNET..];
        let (ip, transport) = packet.split_at(header);
        let addresses = if header == 20 { &ip[12..20] } else { &ip[8..40] };
        let pseudo = checksum::pseudo_header(addresses, transport.len(), protocol as u8);
        let sum = pseudo + checksum::sum(transport);
        (template.ip_sum, template.sum) = (checksum::sum(ip), sum);
        template.bytes.resize(length, 0);
        Ok(template)
    }

    fn is_v4(&self) -> bool {
        // The EtherType.
        self.bytes[12] == 8
    }

    fn transport(&self) -> usize {
        ETHERNET + if self.is_v4() { 20 } else { 40 }
    }

    fn checksum_at(&self) -> usize {
        self.transport()
            + match self.protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
            }
    }

    fn clear_checksums(&mut self) {
        if self.is_v4() {
            self.bytes[ETHERNET + 10..][..2].fill(0);
        }
        let at = self.checksum_at();
        self.bytes[at..][..2].fill(0);
    }

    /// The frame of that client. UDP has no sequence number.
    fn write(&self, (address, port): (IpAddr, u16), sequence: u32, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes);
        let transport = self.transport();
        let (port, sequence) = (port.to_be_bytes(), sequence.to_be_bytes());
        out[transport..][..2].copy_from_slice(&port);
        let mut sum = self.sum + checksum::sum(&port);
        match address {
            IpAddr::V4(a) => {
                out[ETHERNET + 12..][..4].copy_from_slice(&a.octets());
                let of_address = checksum::sum(&a.octets());
                let ip = checksum::finish(self.ip_sum + of_address);
                out[ETHERNET + 10..][..2].copy_from_slice(&ip.to_be_bytes());
                sum += of_address;
            }
            IpAddr::V6(a) => {
                out[ETHERNET + 8..][..16].copy_from_slice(&a.octets());
                sum += checksum::sum(&a.octets());
            }
        }
        if self.protocol == Protocol::Tcp {
            out[transport + 4..][..4].copy_from_slice(&sequence);
            sum += checksum::sum(&sequence);
        }
        let sum = match (checksum::finish(sum), self.protocol) {
            // 0 would mean "none" (RFC 768).
            (0, Protocol::Udp) => u16::MAX,
            (sum, _) => sum,
        };
        let at = self.checksum_at();
        out[at..][..2].copy_from_slice(&sum.to_be_bytes());
    }
}
