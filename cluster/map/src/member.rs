use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jlb_wire::MemberId;

/// What a member of the cluster does. One role each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MemberRole {
    /// Takes client packets for VIPs, and sends the replies.
    Ingress = 1,
    /// Owns the assignments of flows to backends.
    FlowTracker = 2,
    /// Runs the servers, with the agent.
    Backend = 3,
}

impl MemberRole {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Ingress, Self::FlowTracker, Self::Backend];

    /// As in the configuration and in metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::FlowTracker => "flowtracker",
            Self::Backend => "backend",
        }
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A member's underlay addresses: at most one per family, at least one (which [`crate::Snapshot::build`] checks).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Over IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Over IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The addresses that there are, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6)].into_iter().flatten()
    }
}

impl From<IpAddr> for Addresses {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self { v4: Some(v4), v6: None },
            IpAddr::V6(v6) => Self { v4: None, v6: Some(v6) },
        }
    }
}

/// One host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number on the wire, for life.
    pub id: MemberId,
    /// Its name for people and metric labels: 1 to 63 of `a-z A-Z 0-9 . _ -`, unique.
    pub name: String,
    /// What it does.
    pub role: MemberRole,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Gets no new flows; what it has carries on.
    pub drain: bool,
}
