use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// A DPDK device argument: `net_af_packet0,iface=eth0`, `net_null0`, or a PCI address such as `0000:01:00.0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// The name by which DPDK knows the port; a PCI address is written out in full.
    name: String,
    /// What follows the first comma.
    arguments: Option<String>,
    is_pci: bool,
}

/// Neither the name of a software device nor a PCI address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "\"{0}\" is no DPDK device: expected something like net_af_packet0,iface=eth0 or a PCI address 0000:01:00.0"
)]
pub struct NotADevice(pub String);

impl Device {
    /// The name without arguments; also the port's name in DPDK.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a PCI address.
    #[must_use]
    pub const fn is_pci(&self) -> bool {
        self.is_pci
    }

    /// The value of `key=value` among the arguments: the kernel's interface of `net_af_packet0,iface=eth0`, say.
    #[must_use]
    pub fn argument(&self, key: &str) -> Option<&str> {
        let pairs = self.arguments.as_deref()?.split(',').filter_map(|pair| pair.split_once('='));
        pairs.filter(|&(k, _)| k == key).map(|(_, v)| v).next()
    }
}

impl FromStr for Device {
    type Err = NotADevice;
    fn from_str(s: &str) -> Result<Self, NotADevice> {
        let wrong = || NotADevice(s.to_owned());
        // RTE_DEV_NAME_MAX_LEN counts the terminating zero.
        let (name, arguments) = match s.split_once(',') {
            Some((name, arguments)) => (name, Some(arguments.to_owned())),
            None => (s, None),
        };
        if s.contains(|c: char| c.is_control() || c.is_whitespace()) || name.len() >= 64 {
            return Err(wrong());
        }
        if name.starts_with("net_") {
            return Ok(Self { name: name.to_owned(), arguments, is_pci: false });
        }
        let name = full_pci_address(name).ok_or_else(wrong)?;
        Ok(Self { name, arguments, is_pci: true })
    }
}

/// `[domain:]bus:device.function` with the domain, in lower case: how DPDK names the port.
fn full_pci_address(s: &str) -> Option<String> {
    let (rest, function) = s.split_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.split_once(':').unwrap_or(("0", rest));
    let hex = |s: &str, max: u16| u16::from_str_radix(s, 16).ok().filter(|&n| n <= max);
    let (domain, bus) = (hex(domain, u16::MAX)?, hex(bus, 0xff)?);
    let (device, function) = (hex(device, 0x1f)?, hex(function, 7)?);
    Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.arguments {
            Some(arguments) => write!(f, ",{arguments}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_devices_keep_their_arguments() {
        let d: Device = "net_af_packet0,iface=eth0,qpairs=2".parse().unwrap();
        assert_eq!(d.name(), "net_af_packet0");
        assert_eq!(
            (d.argument("iface"), d.argument("qpairs"), d.argument("if")),
            (Some("eth0"), Some("2"), None)
        );
        assert_eq!(d.to_string(), "net_af_packet0,iface=eth0,qpairs=2");
        assert!(!d.is_pci());
    }

    #[test]
    fn pci_addresses_are_written_out() {
        for s in ["0000:01:0A.1", "01:0a.1", "0:1:a.1"] {
            let d: Device = s.parse().unwrap();
            assert_eq!((d.name(), d.is_pci()), ("0000:01:0a.1", true), "{s}");
        }
    }

    #[test]
    fn the_rest_is_refused() {
        for s in [
            "",
            "eth0",
            "0000:01:20.0",
            "0000:01:00.8",
            "01:00",
            "net_null0, copy=1",
            "-a",
            "net_null0\0",
        ] {
            assert_eq!(s.parse::<Device>(), Err(NotADevice(s.to_owned())), "{s:?}");
        }
    }
}
