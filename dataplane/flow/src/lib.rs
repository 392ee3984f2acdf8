//! What flows are kept in.
//!
//! | type | holds | looked up by |
//! |---|---|---|
//! | [`FlowTable`] | established and closing flows | [`FlowId`], in batches |
//! | [`Slab`] | what waits for an answer | [`Cookie`], which travels on the wire |
//! | [`Remembered`] | tombstones and answers, for a fixed time | any key |
//! | [`Wheel`] | timers, on the driver's time | due time, or [`TimerId`] |
//!
//! All of them belong to one worker (no lock, no atomic), get their capacity and all of their memory at construction
//! and never allocate again, do bounded work per call, and behave the same in every run: nothing is ever visited in
//! hash order. A full one says [`Full`] and changes nothing; the caller counts it.
#![deny(unsafe_code)] // Not `forbid`: `prefetch` is the one hot spot that needs it.

mod id;
mod prefetch;
mod remembered;
mod slab;
mod table;
mod wheel;

pub use id::{Fingerprint, FlowHasher, FlowId, HashKey, PARTITIONS, Partition};
pub use remembered::Remembered;
pub use slab::{Cookie, Slab, SlabError};
pub use table::{Cursor, FlowTable, Inserted, LOOKUP_BATCH, Slot, Verdict};
pub use wheel::{TimerId, Wheel};

/// The table holds as much as it was made for, and was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table is full")]
pub struct Full;
