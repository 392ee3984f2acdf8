use jlb_dpdk::{EalError, Errno, JoinError, LaunchError, PoolError, PortError};
use jlb_map::Problems;
use thiserror::Error;

/// A bench could not run, or what it measures does not do what it must.
#[derive(Debug, Error)]
pub enum SpeedError {
    /// More flows than there are addresses and ports for.
    #[error("{0} flows are too many: at most {most}", most = crate::traffic::MOST_FLOWS)]
    TooManyFlows(u32),
    /// No DPDK.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// The CPUs that this process may use could not be read.
    #[error("cannot read the CPU affinity")]
    Affinity(#[source] Errno),
    /// No thread.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A thread that did not end.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// No port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No packet buffers.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The ring has other queues than it was asked for.
    #[error("the ring has {0} queues instead of 2")]
    Queues(usize),
    /// The site is a contradiction.
    #[error(transparent)]
    Site(#[from] Problems),
    /// A name of DPDK's devices that it does not take.
    #[error(transparent)]
    Device(#[from] jlb_dpdk::NotADevice),
    /// The role was not made.
    #[error(transparent)]
    Role(#[from] jlb_flow::SlabError),
    /// The members did not find each other.
    #[error("the ingress and the other members did not find each other within 5 s")]
    NotAcquainted,
    /// Flows that the table did not take.
    #[error("{lost} of {flows} flows were lost while they were opened")]
    LostFlows {
        /// Not established.
        lost: u64,
        /// Opened.
        flows: u64,
    },
    /// The pool is empty.
    #[error("the bench has too few packet buffers")]
    NoBuffer,
    /// A member does not understand the ingress.
    #[error("a member refuses a packet of the ingress: {0:?}")]
    Refused(jlb_role::Reason),
    /// What came out is not what must come out.
    #[error("packet {packet} of the round: {what}")]
    Wrong {
        /// Which.
        packet: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Packets that did not come out at all.
    #[error("{came} packets came out of {sent}")]
    Lost {
        /// Put in.
        sent: usize,
        /// That came out.
        came: usize,
    },
}
