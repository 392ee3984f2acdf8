use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use thiserror::Error;

/// An address with the number of its leading bits that count. The other bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Not an address with a length that fits its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a prefix such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct NotAPrefix;

impl Prefix {
    /// The prefix of that length around `address`.
    ///
    /// # Errors
    /// [`NotAPrefix`] when `len` exceeds 32 (IPv4) or 128 (IPv6).
    pub fn new(address: IpAddr, len: u8) -> Result<Self, NotAPrefix> {
        let address = match address {
            IpAddr::V4(a) if len <= 32 => IpAddr::V4(
                (a.to_bits() & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)).into(),
            ),
            IpAddr::V6(a) if len <= 128 => IpAddr::V6(
                (a.to_bits() & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)).into(),
            ),
            IpAddr::V4(_) | IpAddr::V6(_) => return Err(NotAPrefix),
        };
        Ok(Self { address, len })
    }

    /// A single host.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        let len = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        Self { address, len }
    }

    /// Its lowest address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a number of elements")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Its lowest and highest address as numbers.
    pub(crate) fn bounds(self) -> (u128, u128) {
        let (first, bits) = match self.address {
            IpAddr::V4(a) => (u128::from(a.to_bits()), 32),
            IpAddr::V6(a) => (a.to_bits(), 128),
        };
        let size = bits - u32::from(self.len);
        (first, first | u128::MAX.checked_shr(128 - size).unwrap_or(0))
    }
}

impl FromStr for Prefix {
    type Err = NotAPrefix;
    fn from_str(s: &str) -> Result<Self, NotAPrefix> {
        let (address, len) = s.split_once('/').ok_or(NotAPrefix)?;
        Self::new(address.parse().map_err(|_| NotAPrefix)?, len.parse().map_err(|_| NotAPrefix)?)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!("192.0.2.77/24".parse::<Prefix>().unwrap().to_string(), "192.0.2.0/24");
        assert_eq!("192.0.2.77/0".parse::<Prefix>().unwrap().to_string(), "0.0.0.0/0");
        assert_eq!("2001:db8::1/32".parse::<Prefix>().unwrap().to_string(), "2001:db8::/32");
        assert_eq!("::1/128".parse::<Prefix>().unwrap(), Prefix::host("::1".parse().unwrap()));
    }

    #[test]
    fn bounds_include_both_ends() {
        let bounds = |s: &str| s.parse::<Prefix>().unwrap().bounds();
        assert_eq!(bounds("0.0.0.0/0"), (0, u128::from(u32::MAX)));
        assert_eq!(bounds("::/0"), (0, u128::MAX));
        assert_eq!(bounds("0.0.1.0/24"), (0x100, 0x1ff));
        assert_eq!(bounds("::7/128"), (7, 7));
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in ["", "1.2.3.4", "1.2.3.4/33", "::/129", "1.2.3/8", "1.2.3.4/-1"] {
            assert_eq!(wrong.parse::<Prefix>(), Err(NotAPrefix), "{wrong}");
        }
    }
}
