use jlb_wire::{Epoch, Version};

use crate::{Keys, Member, Service, Underlay};

/// Most services: tables indexed by [`crate::ServiceId`] stay small (counters per worker, eBPF arrays).
pub const MAX_SERVICES: usize = 1024;
/// Most VIPs of one service.
pub const MAX_VIPS: usize = 16;
/// Most backends of one service.
pub const MAX_BACKENDS: usize = 1024;
/// Most underlay prefixes: the check walks them one by one for every packet that an egress sends.
pub const MAX_PREFIXES: usize = 16;

/// What the operator wrote, typed but not yet checked as a whole. [`crate::Snapshot::build`] does that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Raised by every change; from 1.
    pub generation: u64,
    /// Raised when the set of trackers changes, and only then; from 1.
    pub epoch: Epoch,
    /// The version of the protocol that the members speak.
    pub protocol: Version,
    /// The secrets.
    pub keys: Keys,
    /// The members' own network.
    pub underlay: Underlay,
    /// Who is in the cluster.
    pub members: Vec<Member>,
    /// What it serves. The order gives the [`crate::ServiceId`]s.
    pub services: Vec<Service>,
}
