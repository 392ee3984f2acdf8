use jlb_dpdk::{EalError, Errno, JoinError, LaunchError, NotADevice, PoolError, PortError};
use jlb_map::Problems;
use jlb_role::Reason;
use thiserror::Error;

/// A bench could not run, or what it measures does not do what it must.
#[derive(Debug, Error)]
pub enum PortsError {
    /// A number out of bounds.
    #[error("{what} = {value} is out of bounds: {min} to {max}")]
    OutOfBounds {
        /// Which.
        what: &'static str,
        /// What was asked.
        value: f64,
        /// Least.
        min: f64,
        /// Most.
        max: f64,
    },
    /// Both ends poll all the time, each on a CPU of its own.
    #[error("this bench needs two CPUs, and may use {0}")]
    TooFewCpus(usize),
    /// The CPUs that this process may use could not be read.
    #[error("cannot read the CPU affinity")]
    Affinity(#[source] Errno),
    /// No DPDK.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// No thread.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A thread that did not end.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A name of DPDK's devices that it does not take.
    #[error(transparent)]
    Device(#[from] NotADevice),
    /// No port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No packet buffers.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// No workers.
    #[error(transparent)]
    Start(#[from] jlb_runtime::StartError),
    /// The site is a contradiction.
    #[error(transparent)]
    Site(#[from] Problems),
    /// The role was not made.
    #[error(transparent)]
    Role(#[from] jlb_flow::SlabError),
    /// The bench without ports.
    #[error(transparent)]
    HotPath(#[from] jlb_speed::SpeedError),
    /// The pool is empty.
    #[error("the bench has too few packet buffers")]
    NoBuffer,
    /// Another process could not be started, or told nothing.
    #[error("{program}: {why}{said}")]
    Program {
        /// Which.
        program: &'static str,
        /// What is wrong.
        why: String,
        /// The end of what it said.
        said: String,
    },
    /// Reading from another process or writing to it.
    #[error("cannot talk to another process")]
    Talk(#[from] std::io::Error),
    /// The ingress and the members that the source plays do not hear each other.
    #[error("the ingress and the other members did not find each other within 10 s")]
    NotAcquainted,
    /// Packets that did not come back, though the source waited and sent them again.
    #[error("of {sent} packets {lost} did not come back, however often they were sent")]
    Lost {
        /// Sent.
        sent: usize,
        /// Not seen again.
        lost: usize,
    },
    /// A member does not understand the ingress.
    #[error("a member refuses a packet of the ingress: {0:?}")]
    Refused(Reason),
    /// What came back is not what must come back.
    #[error("a packet came back wrong: {0}")]
    Wrong(String),
    /// The port takes no packet.
    #[error("{0} takes no packets: nobody is at its other end, or its link is down")]
    Nobody(jlb_dpdk::Device),
    /// Clients of one family do not talk to a VIP of the other.
    #[error("clients in {} and {to} are not of one family: one is IPv4, the other IPv6", from.address())]
    Families {
        /// Where clients are.
        from: jlb_runtime::Prefix,
        /// The VIP.
        to: core::net::SocketAddr,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}
