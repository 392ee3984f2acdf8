//! Things that go wrong on purpose, and how they are mended.
//!
//! Each fault is looked at once it is there: one that did not take hold is an error, and never a fault-free run that
//! passes for a survived one.

mod cables;
mod hogs;
mod next_hops;
mod processes;

use nix::sys::signal::Signal;

use crate::{Error, Lab};

pub(crate) use next_hops::read as vip_routes_of;
pub use next_hops::{VipRoute, vip_routes};

/// One fault. Each stays until [`heal`]; what was ended stays ended, until [`Lab::start_daemons`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Ends what runs on these hosts: SIGTERM, after eight seconds SIGKILL.
    Stop(Vec<String>),
    /// SIGKILL at once.
    Kill(Vec<String>),
    /// SIGSTOP: processes are there and do nothing.
    Freeze(Vec<String>),
    /// Ends JLB's daemons on these hosts and nothing else there: SIGTERM, and an error if one does not end in time.
    StopDaemons(Vec<String>),
    /// SIGKILL to JLB's daemons on these hosts.
    KillDaemons(Vec<String>),
    /// SIGSTOP to JLB's daemons on these hosts.
    FreezeDaemons(Vec<String>),
    /// The far end of their cable is switched off; the hosts keep their addresses.
    Unplug(Vec<String>),
    /// Silent death: nothing leaves these hosts and nothing reaches them, with the links up.
    Silence(Vec<String>),
    /// No packet passes between the hosts of the one set and those of the other, as far as their own addresses go.
    Partition {
        /// Hosts with a cable of their own.
        one: Vec<String>,
        /// Any hosts.
        other: Vec<String>,
    },
    /// The link between the router and the backends' network carries no larger packet, both ways.
    Mtu(u16),
    /// So many of a thousand packets are lost to and from these hosts.
    Loss {
        /// Whose cables.
        nodes: Vec<String>,
        /// Of a thousand, 1 to 1000.
        permille: u16,
    },
    /// So many of a thousand packets reach these hosts twice.
    Duplicate {
        /// Whose cables.
        nodes: Vec<String>,
        /// Of a thousand, 1 to 500.
        permille: u16,
    },
    /// The router sends VIP packets on as if this ingress host were not among its next hops. The others keep their order.
    EcmpWithout(String),
    /// The router has the next hops for VIPs in another order, so that every flow goes through another ingress host.
    EcmpReorder,
    /// So many processes that keep a core busy each.
    CpuHogs(u8),
}

/// Does it, and looks whether it is done. Names are hosts, or `ingresses`, `trackers`, `backends`.
pub fn inject(lab: &Lab, fault: &Fault) -> Result<(), Error> {
    match fault {
        Fault::Stop(names) => processes::stop_hosts(lab, &lab.select(names)?),
        Fault::Kill(names) => processes::kill_hosts(lab, &lab.select(names)?),
        Fault::Freeze(names) => processes::freeze_hosts(&lab.select(names)?),
        Fault::StopDaemons(names) => processes::end_daemons(&lab.select(names)?, Signal::SIGTERM),
        Fault::KillDaemons(names) => processes::end_daemons(&lab.select(names)?, Signal::SIGKILL),
        Fault::FreezeDaemons(names) => processes::freeze_daemons(&lab.select(names)?),
        Fault::Unplug(names) => cables::unplug(&lab.select(names)?),
        Fault::Silence(names) => cables::silence(&lab.select(names)?),
        Fault::Partition { one, other } => {
            cables::partition(&lab.select(one)?, &lab.select(other)?)
        }
        Fault::Mtu(bytes) => cables::set_mtu(lab, *bytes),
        Fault::Loss { nodes, permille } => cables::lose(&lab.select(nodes)?, *permille),
        Fault::Duplicate { nodes, permille } => cables::duplicate(&lab.select(nodes)?, *permille),
        Fault::EcmpWithout(name) => next_hops::without(lab, &lab.node(name)?),
        Fault::EcmpReorder => next_hops::reorder(lab),
        Fault::CpuHogs(count) => hogs::start(lab, *count),
    }
}

/// Mends everything that can be mended: thaws, plugs in, MTU 1500, no loss, the router's own next hops, no hogs.
pub fn heal(lab: &Lab) -> Result<(), Error> {
    hogs::end(lab)?;
    processes::thaw(&lab.nodes())?;
    cables::mend(lab)?;
    next_hops::mend(lab)
}

/// The fault is not there although everything that makes it went well.
fn not_there(fault: &'static str, why: impl Into<String>) -> Error {
    Error::NoFault { fault, why: why.into() }
}
