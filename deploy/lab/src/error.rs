//! What can go wrong with a lab.

use std::path::PathBuf;

/// Each variant says what was attempted and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not `[a-z0-9-]{1,20}`.
    #[error("{0:?} is no name for a lab: use 1 to 20 of a-z, 0-9 and -")]
    BadName(String),
    /// A configuration out of bounds.
    #[error("{what} = {value} is out of bounds: 1 to {max}")]
    OutOfBounds {
        /// Which number.
        what: &'static str,
        /// What was asked.
        value: u8,
        /// Most that the address plan holds.
        max: u8,
    },
    /// No such cluster of etcd.
    #[error("etcd = {0}: a lab has 1 or 3 servers of etcd, or 0: none")]
    EtcdServers(u8),
    /// A lab whose member list is a file.
    #[error("lab {0} was raised without etcd; raise one: jlb-lab up --etcd 1")]
    NoEtcd(String),
    /// `up` of a lab which is there.
    #[error("lab {0} is there already; take it down first: jlb-lab --lab {0} down")]
    Exists(String),
    /// No such lab.
    #[error("there is no lab {0}; raise it: jlb-lab --lab {0} up")]
    NoLab(String),
    /// The maker of the lab was killed half way.
    #[error("lab {0} was not raised to the end; take it down: jlb-lab --lab {0} down")]
    Unfinished(String),
    /// Another process is raising or lowering it right now.
    #[error("lab {0} is being raised or taken down by another process")]
    Busy(String),
    /// No such host.
    #[error("lab {lab} has no node {node:?}; it has {known}")]
    NoNode {
        /// The lab.
        lab: String,
        /// What was asked for.
        node: String,
        /// Names which there are.
        known: String,
    },
    /// Only root may make namespaces.
    #[error("a lab needs root: its hosts are network namespaces")]
    NotRoot,
    /// Not installed.
    #[error("{0} is missing; install what the lab needs: make setup")]
    NoProgram(String),
    /// Not built.
    #[error("{} is missing; build it: make build", .0.display())]
    NoBinary(PathBuf),
    /// A daemon's admin endpoint gave nothing of use.
    #[error("{node}: GET {path} from its daemon: {why}")]
    Admin {
        /// The host.
        node: String,
        /// What was asked for.
        path: String,
        /// What came instead.
        why: String,
    },
    /// The lab was raised without JLB.
    #[error("lab {0} was raised without JLB")]
    NoJlb(String),
    /// The network namespace could not be entered.
    #[error("cannot enter network namespace {namespace}: {why}")]
    NotEntered {
        /// Its name.
        namespace: String,
        /// Why.
        why: String,
    },
    /// A command that the lab runs failed.
    #[error("{what} failed ({status}): {stderr}")]
    Command {
        /// What was run.
        what: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A server did not come to life.
    #[error("{what} on {node} {why}; its log:\n{log}")]
    NotReady {
        /// The server.
        what: String,
        /// Its host.
        node: String,
        /// Ended, or not listening in time.
        why: &'static str,
        /// The end of its log.
        log: String,
    },
    /// Daemons that run and do not hear each other.
    #[error("not all members of lab {lab} hear each other; see jlb_member_up in their metrics")]
    NotSettled {
        /// The lab.
        lab: String,
    },
    /// A daemon that does not take a new member list.
    #[error("the daemon of {node} has not taken the new member list; its log:\n{log}")]
    NotReloaded {
        /// The host.
        node: String,
        /// The end of its log.
        log: String,
    },
    /// A fault that did not take hold.
    #[error("the fault is not there ({fault}): {why}")]
    NoFault {
        /// Which.
        fault: &'static str,
        /// What is there instead.
        why: String,
    },
    /// A cable that does not carry.
    #[error("the router of lab {lab} does not find the ingress hosts")]
    NoNeighbours {
        /// The lab.
        lab: String,
    },
    /// BIRD has not told the router where VIPs are.
    #[error(
        "the router of lab {lab} has not learnt the way to all VIPs; what it has: ip route, in its namespace"
    )]
    NoRoutes {
        /// The lab.
        lab: String,
    },
    /// The machine in QEMU did not come to the end of its script.
    #[error("the machine in QEMU did not come to the end of its script; its console:\n{console}")]
    VmLost {
        /// What it printed.
        console: String,
    },
    /// Processes that even SIGKILL has not ended.
    #[error("processes of lab {lab} are still there after SIGKILL: {pids:?}")]
    Immortal {
        /// The lab.
        lab: String,
        /// Their ids.
        pids: Vec<i32>,
    },
    /// A file of the lab.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the lab that is not as the lab wrote it.
    #[error("{path} is not as jlb-lab wrote it: {why}", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where it differs.
        why: String,
    },
}

/// Puts the path into an I/O error.
pub(crate) trait AtPath<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, Error>;
}

impl<T> AtPath<T> for std::io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, Error> {
        self.map_err(|source| Error::File { path: path.into(), source })
    }
}
