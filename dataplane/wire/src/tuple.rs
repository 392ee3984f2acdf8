use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The transport protocols that JLB balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp = 6,
    /// IP protocol 17.
    Udp = 17,
}

impl Protocol {
    /// From the IP header's number.
    #[must_use]
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// As in configuration and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The five-tuple of a flow, always in the direction client → VIP, kept as its canonical bytes: what the flow id is
/// the hash of, what the MAC covers, and the key of the agent's eBPF maps.
///
/// ```text
/// IPv4, 16 bytes:  client 4 | VIP 4 | client port 2 | VIP port 2 | protocol 1 | 4 | 0 0
/// IPv6, 40 bytes:  client 16 | VIP 16 | client port 2 | VIP port 2 | protocol 1 | 6 | 0 0
/// ```
/// All in network byte order. Padded with zeros to 40 bytes where a fixed length is wanted; the family byte keeps
/// the two apart (a padded IPv4 tuple has 0 where an IPv6 one has its family).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    bytes: [u8; Self::LEN],
}

/// The two ends of a five-tuple belong to different address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client and VIP are of different address families")]
pub struct MixedFamilies;

impl FiveTuple {
    /// Length of the padded form.
    pub const LEN: usize = 40;
    const LEN_V4: usize = 16;

    /// From an IPv4 packet's fields.
    #[must_use]
    #[inline]
    pub fn v4(client: [u8; 4], vip: [u8; 4], ports: [u8; 4], protocol: Protocol) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[0..4].copy_from_slice(&client);
        bytes[4..8].copy_from_slice(&vip);
        bytes[8..12].copy_from_slice(&ports);
        bytes[12] = protocol as u8;
        bytes[13] = 4;
        Self { bytes }
    }

    /// From an IPv6 packet's fields.
    #[must_use]
    #[inline]
    pub fn v6(client: [u8; 16], vip: [u8; 16], ports: [u8; 4], protocol: Protocol) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[0..16].copy_from_slice(&client);
        bytes[16..32].copy_from_slice(&vip);
        bytes[32..36].copy_from_slice(&ports);
        bytes[36] = protocol as u8;
        bytes[37] = 6;
        Self { bytes }
    }

    /// From two socket addresses (IPv4-mapped IPv6 addresses count as IPv4).
    ///
    /// # Errors
    /// [`MixedFamilies`].
    pub fn new(
        client: SocketAddr,
        vip: SocketAddr,
        protocol: Protocol,
    ) -> Result<Self, MixedFamilies> {
        let mut ports = [0; 4];
        ports[..2].copy_from_slice(&client.port().to_be_bytes());
        ports[2..].copy_from_slice(&vip.port().to_be_bytes());
        match (client.ip().to_canonical(), vip.ip().to_canonical()) {
            (IpAddr::V4(c), IpAddr::V4(v)) => Ok(Self::v4(c.octets(), v.octets(), ports, protocol)),
            (IpAddr::V6(c), IpAddr::V6(v)) => Ok(Self::v6(c.octets(), v.octets(), ports, protocol)),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Err(MixedFamilies),
        }
    }

    /// From the padded canonical form, as the agent's eBPF maps hold it. `None` when it is not one.
    #[must_use]
    pub fn from_padded(bytes: [u8; Self::LEN]) -> Option<Self> {
        let tuple = Self { bytes };
        let tail = if tuple.is_v6() { &bytes[38..] } else { &bytes[14..] };
        let family = if tuple.is_v6() { bytes[37] == 6 } else { bytes[13] == 4 };
        let protocol = Protocol::from_number(if tuple.is_v6() { bytes[36] } else { bytes[12] });
        (family && protocol.is_some() && tail.iter().all(|&b| b == 0)).then_some(tuple)
    }

    /// From the padded form that [`crate::Glance`] made.
    pub(crate) const fn of_padded(bytes: [u8; Self::LEN]) -> Self {
        Self { bytes }
    }

    /// The canonical bytes: 16 or 40.
    #[must_use]
    #[inline]
    pub fn canonical(&self) -> &[u8] {
        if self.is_v6() { &self.bytes } else { &self.bytes[..Self::LEN_V4] }
    }

    /// The canonical bytes, padded with zeros to 40.
    #[must_use]
    #[inline]
    pub const fn padded(&self) -> &[u8; Self::LEN] {
        &self.bytes
    }

    /// Whether it is IPv6. (In the padded IPv4 form that byte is 0.)
    #[must_use]
    #[inline]
    pub const fn is_v6(&self) -> bool {
        self.bytes[37] == 6
    }

    /// The transport protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match if self.is_v6() { self.bytes[36] } else { self.bytes[12] } {
            6 => Protocol::Tcp,
            _ => Protocol::Udp,
        }
    }

    /// Address and port of the client.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        if self.is_v6() {
            SocketAddr::new(self.address16(0), self.port(32))
        } else {
            SocketAddr::new(self.address4(0), self.port(8))
        }
    }

    /// Address and port of the service.
    #[must_use]
    pub fn vip(&self) -> SocketAddr {
        if self.is_v6() {
            SocketAddr::new(self.address16(16), self.port(34))
        } else {
            SocketAddr::new(self.address4(4), self.port(10))
        }
    }

    fn address4(&self, at: usize) -> IpAddr {
        let b = &self.bytes;
        Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3]).into()
    }

    fn address16(&self, at: usize) -> IpAddr {
        let mut b = [0; 16];
        b.copy_from_slice(&self.bytes[at..at + 16]);
        Ipv6Addr::from(b).into()
    }

    fn port(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }
}

impl fmt::Debug for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}>{}", self.protocol().label(), self.client(), self.vip())
    }
}
