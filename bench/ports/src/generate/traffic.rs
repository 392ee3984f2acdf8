use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;

use jlb_runtime::{MacAddr, Prefix};

use crate::PortsError;

/// Which packets, in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// TCP with ACK, of flows drawn at random.
    Established,
    /// TCP with ACK; ports count up, then addresses.
    Range,
    /// TCP SYNs of random addresses, ports and sequence numbers: a flood.
    Syn,
    /// Of 20 packets 14 are as in `Established`, 5 are UDP of flows drawn at random, and one is as in `Syn`.
    Mix,
}

/// Clients and what they send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Which packets.
    pub profile: Profile,
    /// Where clients are.
    pub from: Prefix,
    /// Their ports.
    pub ports: RangeInclusive<u16>,
    /// VIP and port of the service.
    pub to: SocketAddr,
    /// Flows that are drawn from, or counted through; at most as many as there are addresses and ports.
    pub flows: u32,
    /// Bytes of a frame with its checksum of four bytes: 64 to 1518, and at least 78 with IPv6.
    pub size: u16,
    /// The next hop's Ethernet address, and ours.
    pub macs: (MacAddr, MacAddr),
}

impl Traffic {
    /// Refuses what cannot be.
    pub(crate) fn check(&self) -> Result<(), PortsError> {
        if self.from.address().is_ipv4() != self.to.is_ipv4() {
            return Err(PortsError::Families { from: self.from, to: self.to });
        }
        let least = if self.to.is_ipv4() { 64 } else { 78 };
        let bounds = [
            ("size", u64::from(self.size), (least, 1518)),
            ("flows", self.flows.into(), (1, self.space())),
        ];
        for (what, value, (min, max)) in bounds {
            if !(min..=max).contains(&value) {
                let (value, min, max) = (value as f64, min as f64, max as f64);
                return Err(PortsError::OutOfBounds { what, value, min, max });
            }
        }
        Ok(())
    }

    /// Pairs of address and port, as far as numbers of flows go.
    pub(crate) fn space(&self) -> u64 {
        let bits = if self.to.is_ipv4() { 32 } else { 128 };
        let host = bits - u32::from(self.from.len());
        // 2³² addresses are more than flows have numbers.
        (1u64 << host.min(32)).saturating_mul(self.ports.len() as u64).min(u64::from(u32::MAX))
    }

    /// The client of a flow.
    pub(crate) fn client(&self, n: u32) -> SocketAddr {
        let ports = self.ports.len() as u32;
        let (host, port) = (n / ports, self.ports.start() + (n % ports) as u16);
        let address = match self.from.address() {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() | host).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() | u128::from(host)).into()),
        };
        SocketAddr::new(address, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(from: (&str, u8), to: &str) -> Traffic {
        Traffic {
            profile: Profile::Range,
            from: Prefix::new(from.0.parse().unwrap(), from.1).unwrap(),
            ports: 1000..=1009,
            to: to.parse().unwrap(),
            flows: 20,
            size: 78,
            macs: (MacAddr([1; 6]), MacAddr([2; 6])),
        }
    }

    #[test]
    fn ports_count_up_and_then_addresses() {
        let v4 = traffic(("198.18.0.0", 15), "203.0.113.1:80");
        assert_eq!(v4.client(0).to_string(), "198.18.0.0:1000");
        assert_eq!(v4.client(19).to_string(), "198.18.0.1:1009");
        let v6 = traffic(("2001:2::", 48), "[2001:db8::1]:80");
        assert_eq!(v6.client(10).to_string(), "[2001:2::1]:1000");
        assert_eq!((v4.space(), v6.space()), (10 << 17, u64::from(u32::MAX)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = traffic(("198.18.0.0", 31), "203.0.113.1:80");
        assert!(good.check().is_ok());
        let bad = [
            Traffic { flows: 21, ..good.clone() },
            Traffic { flows: 0, ..good.clone() },
            Traffic { size: 63, ..good.clone() },
            Traffic { size: 1519, ..good.clone() },
            traffic(("198.18.0.0", 15), "[2001:db8::1]:80"),
            Traffic { size: 77, ..traffic(("2001:2::", 48), "[2001:db8::1]:80") },
        ];
        assert!(bad.iter().all(|t| t.check().is_err()));
    }
}
