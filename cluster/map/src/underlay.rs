use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use jlb_role::BUFFER_ROOM;
use thiserror::Error;

/// The port that IANA gave Geneve.
pub const DEFAULT_GENEVE_PORT: u16 = 6081;
/// Bytes of the largest IP packet on the underlay, unless told otherwise.
pub const DEFAULT_MTU: u16 = 1500;
/// IPv6's least (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// What a packet buffer holds.
pub const MAX_MTU: u16 = BUFFER_ROOM as u16;

/// An address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    #[default]
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What the members' own network looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Where members live. VIPs lie outside, and an egress sends nothing in here.
    pub prefixes: Vec<Prefix>,
    /// The family used between members that have both.
    pub prefer: Family,
    /// UDP port of all encapsulated traffic.
    pub port: u16,
    /// Bytes of the largest IP packet that every path between members carries.
    pub mtu: u16,
}

/// An IP prefix, its host bits zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why something is no [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// No `/` in it.
    #[error("it has no length")]
    NoLength,
    /// The part before the `/` is no IP address.
    #[error("`{0}` is no IP address")]
    Address(String),
    /// The part after the `/` is no number of bits that the family has.
    #[error("`{0}` is no prefix length of that address family")]
    Length(String),
    /// The address has bits beyond the length.
    #[error("it has host bits; the prefix is {0}")]
    HostBits(Prefix),
}

impl Prefix {
    /// A prefix.
    ///
    /// # Errors
    /// When the length exceeds the family's bits, or the address has bits beyond it.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if len > bits {
            return Err(PrefixError::Length(len.to_string()));
        }
        let network = match address {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask4(len))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask6(len))),
        };
        let prefix = Self { address: network, len };
        if network == address { Ok(prefix) } else { Err(PrefixError::HostBits(prefix)) }
    }

    /// Its first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits are fixed.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.len
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                (net.to_bits() ^ ip.to_bits()) & mask4(self.len) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                (net.to_bits() ^ ip.to_bits()) & mask6(self.len) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn mask4(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

fn mask6(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(s: &str) -> Result<Self, PrefixError> {
        let (address, len) = s.split_once('/').ok_or(PrefixError::NoLength)?;
        let address = address.parse().map_err(|_| PrefixError::Address(address.to_owned()))?;
        let len = len.parse().map_err(|_| PrefixError::Length(len.to_owned()))?;
        Self::new(address, len)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(s: &str) -> Prefix {
        s.parse().unwrap()
    }

    #[test]
    fn contains_its_addresses_and_no_others() {
        for (p, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.2"),
            ("fd00:1::/32", "fd00:1:ffff::1", "fd00:2::"),
            ("fd00::1/128", "fd00::1", "fd00::"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::", "1.2.3.4"),
        ] {
            assert!(prefix(p).contains(inside.parse().unwrap()), "{inside} in {p}");
            assert!(!prefix(p).contains(outside.parse().unwrap()), "{outside} not in {p}");
        }
    }

    #[test]
    fn refuses_what_is_no_prefix() {
        assert_eq!("10.0.0.0".parse::<Prefix>(), Err(PrefixError::NoLength));
        assert_eq!("10.0.0/8".parse::<Prefix>(), Err(PrefixError::Address("10.0.0".into())));
        assert_eq!("10.0.0.0/33".parse::<Prefix>(), Err(PrefixError::Length("33".into())));
        assert_eq!("::/129".parse::<Prefix>(), Err(PrefixError::Length("129".into())));
        assert_eq!(
            "10.0.0.1/8".parse::<Prefix>(),
            Err(PrefixError::HostBits(prefix("10.0.0.0/8")))
        );
    }
}
