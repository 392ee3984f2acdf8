use core::net::IpAddr;
use std::io;
use std::path::PathBuf;

use crate::{MAX_ROUTES, MAX_VIPS};

/// Why the host could not be changed, or changed back. What was done before stays done, is in the state file, and is
/// continued or undone by the next call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel wants more rights.
    #[error(
        "not permitted to {doing}: run as root, or with CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_ADMIN)"
    )]
    Permission {
        /// What was tried.
        doing: String,
    },
    /// The kernel refused.
    #[error("cannot {doing}: {source}")]
    Kernel {
        /// What was tried.
        doing: String,
        /// Its answer.
        source: io::Error,
    },
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(io::Error),
    /// The kernel has no such interface.
    #[error(
        "there is no interface `{0}`: correct `interfaces` in [yann] of jlb.toml, or make it first"
    )]
    NoInterface(String),
    /// There is none for replies to leave by.
    #[error("no interface of the underlay is named: set `interfaces` in [yann] of jlb.toml")]
    NoUplink,
    /// VIPs on `lo` would be without effect.
    #[error("lo is down, so no VIP on it works: ip link set lo up")]
    LoopbackDown,
    /// The host has IPv6 switched off.
    #[error(
        "cannot put {0} on lo: IPv6 is switched off there: sysctl -w net.ipv6.conf.lo.disable_ipv6=0, or serve IPv4 VIPs only"
    )]
    Ipv6Off(IpAddr),
    /// `/proc/sys` cannot be written, although we have the rights.
    #[error(
        "cannot write /proc/sys/{key}: it is mounted read-only (systemd: ProtectKernelTunables=no; container: mount /proc/sys read-write)"
    )]
    ReadOnly {
        /// Path below `/proc/sys`.
        key: String,
    },
    /// Another reason that a sysctl cannot be read or written.
    #[error("cannot {doing} /proc/sys/{key}: {source}")]
    Sysctl {
        /// `read` or `write`.
        doing: &'static str,
        /// Path below `/proc/sys`.
        key: String,
        /// What the system said.
        source: io::Error,
    },
    /// A route table that we should own has routes of others.
    #[error(
        "route table {0} has routes that are not ours (ip route show table {0}): remove them, or configure another table"
    )]
    TableInUse(u32),
    /// A number that cannot be the table of our own.
    #[error("route table {0} cannot be ours: 1 to 252 or above 255, and three different ones")]
    BadTable(u32),
    /// More VIPs than [`MAX_VIPS`].
    #[error("{0} VIPs on one host, more than {MAX_VIPS}: spread the services over more backends")]
    TooManyVips(usize),
    /// More routes than [`MAX_ROUTES`].
    #[error(
        "route table {0} has more than {MAX_ROUTES} routes, too many to copy for replies: keep the routing daemon's routes in a table of their own"
    )]
    TooManyRoutes(u32),
    /// The state file, or its folder, cannot be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    StateFile {
        /// `read`, `write`, `lock`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state file is not one of ours. It is left as it is: it may be the only record.
    #[error("{} is no state file of this version: {what}. Undo with the version that wrote it, or move it away and mend the host by hand", path.display())]
    StateContent {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another process holds the state file.
    #[error("{} is in use: another jlb-yann is running with it; stop that first", .0.display())]
    InUse(PathBuf),
    /// The state file tells of another network namespace, which this process cannot mend.
    #[error("{} tells of another network namespace of this host: run in that one, or remove the file if the namespace is gone", .0.display())]
    OtherNamespace(PathBuf),
}
