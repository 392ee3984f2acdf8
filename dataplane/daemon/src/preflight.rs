//! What is asked of the host before DPDK is: DPDK itself answers most of it with "operation not permitted".

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use jlb_dpdk::Device;
use jlb_runtime::MacAddr;
use jlb_wire::MemberId;
use nix::ifaddrs::getifaddrs;

/// Why DPDK need not be asked.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The kernel has no such interface.
    #[error("this host has no interface `{0}`")]
    NoInterface(String),
    /// Ports on a kernel interface need rights.
    #[error("{0} is missing: run as root, or with the capabilities that the systemd unit gives")]
    NoCapability(&'static str),
    /// The same member runs here already.
    #[error("another process on this host is member {0} on interface `{1}` already")]
    Running(MemberId, String),
    /// The kernel would answer ARP with an address at which the card does not listen.
    #[error(
        "interface `{interface}` has the Ethernet address {has}, and the card {card}: ip link set {interface} address {card}"
    )]
    OtherAddress {
        /// The kernel's interface.
        interface: String,
        /// Its Ethernet address.
        has: MacAddr,
        /// The one of the port.
        card: MacAddr,
    },
    /// The system.
    #[error("cannot look at this host")]
    System(#[source] io::Error),
}

/// Numbers of capabilities, as in `linux/capability.h`, with their names.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")];

/// Held while the member runs: a second process would answer each packet a second time.
#[derive(Debug)]
pub(crate) struct OnlyOne(#[expect(dead_code, reason = "it holds by being there")] UnixDatagram);

/// Checks interfaces and rights, and that the member does not run here yet.
pub(crate) fn check(
    devices: &[Device],
    interface: &str,
    me: MemberId,
) -> Result<OnlyOne, PreflightError> {
    // Of the namespace that this thread is in; /sys shows that of whoever mounted it.
    let links = fs::read_to_string("/proc/thread-self/net/dev").map_err(PreflightError::System)?;
    let on_interface = || devices.iter().filter_map(|device| device.argument("iface"));
    for name in on_interface().chain([interface]) {
        if !is_listed(&links, name) {
            return Err(PreflightError::NoInterface(name.to_owned()));
        }
    }
    if on_interface().next().is_some() {
        let status = fs::read_to_string("/proc/self/status").map_err(PreflightError::System)?;
        if let Some(name) = missing(&status) {
            return Err(PreflightError::NoCapability(name));
        }
    }
    only_one(interface, me)
}

/// Checks that an interface of the kernel has the card's address.
pub(crate) fn same_address(interface: &str, card: MacAddr) -> Result<(), PreflightError> {
    let mut all = getifaddrs().map_err(|e| PreflightError::System(e.into()))?;
    let has = all.find_map(|found| {
        let bytes = found.address?.as_link_addr()?.addr()?;
        (found.interface_name == interface).then_some(MacAddr(bytes))
    });
    match has {
        Some(has) if has == card => Ok(()),
        Some(has) => {
            Err(PreflightError::OtherAddress { interface: interface.to_owned(), has, card })
        }
        None => Err(PreflightError::NoInterface(interface.to_owned())),
    }
}

/// Whether `/proc/net/dev` has a line of that interface.
fn is_listed(links: &str, name: &str) -> bool {
    links.lines().any(|l| l.split_once(':').is_some_and(|(n, _)| n.trim() == name))
}

/// The first capability that `/proc/self/status` does not show.
fn missing(status: &str) -> Option<&'static str> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    let have = u64::from_str_radix(line.trim(), 16).ok()?;
    NEEDED.iter().find(|(bit, _)| have & (1 << bit) == 0).map(|&(_, name)| name)
}

/// An abstract Unix socket: gone with the process however it ends, and the network namespace's own.
fn only_one(interface: &str, me: MemberId) -> Result<OnlyOne, PreflightError> {
    let name = format!("jlb/{interface}/{}", me.as_u16());
    let address = SocketAddr::from_abstract_name(name).map_err(PreflightError::System)?;
    match UnixDatagram::bind_addr(&address) {
        Ok(socket) => Ok(OnlyOne(socket)),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            Err(PreflightError::Running(me, interface.to_owned()))
        }
        Err(e) => Err(PreflightError::System(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_runs_once_on_an_interface() {
        let id = |n| MemberId::new(n).unwrap();
        // Not an interface's name, so that nothing real is in the way.
        let here = format!("test {}", std::process::id());
        let first = only_one(&here, id(7)).unwrap();
        assert!(matches!(only_one(&here, id(7)), Err(PreflightError::Running(..))));
        only_one(&here, id(8)).unwrap();
        drop(first);
        only_one(&here, id(7)).unwrap();
    }

    #[test]
    fn missing_capabilities_have_a_name() {
        let status = |caps: &str| format!("Name:\tx\nCapEff:\t{caps}\nCapBnd:\t0\n");
        assert_eq!(missing(&status("000001ffffffffff")), None);
        assert_eq!(missing(&status("0000000000003000")), None);
        assert_eq!(missing(&status("0000000000002000")), Some("CAP_NET_ADMIN"));
        assert_eq!(missing(&status("0000000000001000")), Some("CAP_NET_RAW"));
    }

    #[test]
    fn an_interface_with_another_address_than_the_cards_is_told_how_to_get_it() {
        // The loopback has the address zero.
        same_address("lo", MacAddr([0; 6])).unwrap();
        let error = same_address("lo", MacAddr([2, 0, 0, 0, 0, 1])).unwrap_err();
        assert!(error.to_string().ends_with("ip link set lo address 02:00:00:00:00:01"), "{error}");
        assert!(matches!(
            same_address("jlbt-none", MacAddr([0; 6])),
            Err(PreflightError::NoInterface(_))
        ));
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let device: Device = "net_af_packet0,iface=jlbt-none".parse().unwrap();
        let error = check(&[device], "lo", MemberId::new(1).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "this host has no interface `jlbt-none`");
        let device: Device = "net_null0".parse().unwrap();
        let error = check(&[device], "jlbt-none", MemberId::new(1).unwrap()).unwrap_err();
        assert!(matches!(error, PreflightError::NoInterface(_)), "{error}");
    }
}
