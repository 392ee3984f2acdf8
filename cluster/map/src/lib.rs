//! The cluster as every daemon sees it at one moment: who is in it, what it serves, and which trackers own which
//! flows.
//!
//! A [`Snapshot`] is made from a [`Spec`] by [`Snapshot::build`], which finds every contradiction, and never changes
//! afterwards: daemons share it as `Arc<Snapshot>` and replace it whole. Nothing here is negotiated: two hosts with
//! the same list and the same `hash_key` compute the same [`Trio`] for every [`jlb_flow::Partition`], and the same digest.
//!
//! Pure: no I/O, no clock, no randomness.
#![forbid(unsafe_code)]

mod digest;
mod keys;
mod maglev;
mod member;
mod partition;
mod problem;
mod service;
mod snapshot;
mod spec;
mod successor;
mod underlay;
mod validate;

pub use digest::Digest;
pub use keys::Keys;
pub use maglev::{MAGLEV_PLACES, Maglev};
pub use member::{Addresses, Member, MemberRole};
pub use partition::{TRIO, Trio};
pub use problem::{Fault, MemberField, Place, Problem, Problems, ServiceField};
pub use service::{
    Admission, Backend, DEFAULT_REJECT_TTL, DEFAULT_WEIGHT, MAX_REJECT_TTL, MAX_WEIGHT,
    OnExhausted, Policy, ReturnPath, Service, ServiceId,
};
pub use snapshot::Snapshot;
pub use spec::{MAX_BACKENDS, MAX_PREFIXES, MAX_SERVICES, MAX_VIPS, Spec};
pub use successor::{Refusal, Succession, check_successor};
pub use underlay::{
    DEFAULT_GENEVE_PORT, DEFAULT_MTU, Family, MAX_MTU, MIN_MTU, Prefix, PrefixError, Underlay,
};
