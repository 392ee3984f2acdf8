use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// Not six hexadecimal bytes with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an Ethernet address such as 02:00:5e:10:00:01")]
pub struct NotAMacAddr;

impl FromStr for MacAddr {
    type Err = NotAMacAddr;
    fn from_str(s: &str) -> Result<Self, NotAMacAddr> {
        let mut mac = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(NotAMacAddr)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAMacAddr)?;
        }
        if parts.next().is_some() { Err(NotAMacAddr) } else { Ok(Self(mac)) }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        let mac = MacAddr([2, 0, 0x5e, 0x10, 0, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert_eq!("02:00:5E:10:00:ff".parse(), Ok(mac));
        for wrong in
            ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:ff", "02:00:5e:10:00:gg"]
        {
            assert_eq!(wrong.parse::<MacAddr>(), Err(NotAMacAddr), "{wrong}");
        }
    }
}
