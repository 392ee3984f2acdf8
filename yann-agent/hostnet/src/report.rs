use core::fmt;
use core::net::IpAddr;

use jlb_map::Family;

/// What [`crate::HostNet::apply`], [`crate::HostNet::refresh`] and [`crate::HostNet::undo`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The changes made, in their order; empty when everything was as it should be.
    pub done: Vec<String>,
    /// What the operator should know. The same as long as the reason lasts.
    pub warnings: Vec<Warning>,
}

/// A change of ours, for `jlb-yann status`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// What was changed: `net.ipv4.conf.eth0.rp_filter`, `192.0.2.1/32 on lo`.
    pub what: String,
    /// What it was before: a value, or `absent`.
    pub old: String,
    /// What we made of it.
    pub new: String,
    /// Whether it still is as we made it.
    pub still_in_force: bool,
}

/// What works less well than it should, for reasons outside of our reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// There are VIPs of this family with direct replies, but no default route.
    NoDefaultRoute(Family),
    /// Replies of VIPs with both return paths leave by an interface without the agent's programs.
    DefaultElsewhere {
        /// Of the route.
        family: Family,
        /// The interface of the default route.
        interface: String,
    },
    /// The kernel does not take a route for replies.
    RouteNotSet {
        /// Its destination.
        route: String,
        /// Why.
        why: String,
    },
    /// The interface carries less than the underlay should.
    SmallInterface {
        /// Which.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The underlay's.
        underlay_mtu: u16,
    },
    /// An underlay interface has the VIP itself, so the host answers ARP or neighbour discovery for it.
    VipOnLink {
        /// Which.
        vip: IpAddr,
        /// The interface.
        interface: String,
    },
    /// The state file told of another network namespace, and was started anew.
    OtherNamespace,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDefaultRoute(family) => {
                write!(
                    f,
                    "there is no default route for {family}: clients that no other route covers get no direct reply"
                )
            }
            Self::DefaultElsewhere { family, interface } => write!(
                f,
                "the default route for {family} leaves by `{interface}`, which is not among the agent's `interfaces`: replies of VIPs with both return paths are not encapsulated there"
            ),
            Self::RouteNotSet { route, why } => {
                write!(f, "the route {route} could not be set for replies: {why}")
            }
            Self::SmallInterface { interface, mtu, underlay_mtu } => write!(
                f,
                "`{interface}` carries {mtu} bytes, less than the underlay's {underlay_mtu}: raise its mtu, or lower underlay.mtu"
            ),
            Self::VipOnLink { vip, interface } => write!(
                f,
                "`{interface}` has the VIP {vip} itself, so this host answers for it on that link: remove it there"
            ),
            Self::OtherNamespace => f.write_str(
                "the state file told of another network namespace, and was started anew",
            ),
        }
    }
}
