use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use jlb_wire::BootId;

/// The worker that the user half's sequence numbers name; the kernel half's name 0. So the halves need not agree on an
/// order.
pub const USER_WORKER: u8 = 1;

/// What makes every word of this backend a new one. Both halves draw from it, and it outlives the daemon: the map
/// [`crate::maps::Shared`], or in the simulator a [`Word`].
pub trait BackendWord {
    /// Of the pinned state.
    fn boot(&self) -> BootId;
    /// The backend's counter: each call gives a higher one.
    fn next_counter(&self) -> u64;
    /// A sequence number of the kernel half (worker 0): each call gives a higher one.
    fn next_sequence(&self) -> u64;
    /// Counts a start of the user half: each call gives a higher number.
    fn next_start(&self) -> u64;
}

/// The sequence number (worker 1) behind which the user half begins after its `start`th start: behind all that it used
/// before, as long as one daemon sends no more than 2³² messages.
#[must_use]
pub const fn first_sequence(start: u64) -> u64 {
    (USER_WORKER as u64) << 56 | (start & 0xff_ffff) << 32
}

/// A [`BackendWord`] in memory.
#[derive(Debug, Default)]
pub struct Word {
    boot: BootId,
    counter: AtomicU64,
    sequence: AtomicU64,
    starts: AtomicU64,
}

impl Word {
    /// With all counters at 0, as at the first attach.
    #[must_use]
    pub fn new(boot: BootId) -> Self {
        Self::at(boot, 0, 0)
    }

    /// With counter and sequence number of the kernel half as used last.
    #[must_use]
    pub fn at(boot: BootId, counter: u64, sequence: u64) -> Self {
        Self { boot, counter: counter.into(), sequence: sequence.into(), starts: 0.into() }
    }

    /// Counter and sequence number of the kernel half, as used last.
    #[must_use]
    pub fn used(&self) -> (u64, u64) {
        (self.counter.load(Ordering::Relaxed), self.sequence.load(Ordering::Relaxed))
    }
}

impl BackendWord for Word {
    fn boot(&self) -> BootId {
        self.boot
    }
    fn next_counter(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed) + 1
    }
    fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }
    fn next_start(&self) -> u64 {
        self.starts.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl<W: BackendWord> BackendWord for Arc<W> {
    fn boot(&self) -> BootId {
        (**self).boot()
    }
    fn next_counter(&self) -> u64 {
        (**self).next_counter()
    }
    fn next_sequence(&self) -> u64 {
        (**self).next_sequence()
    }
    fn next_start(&self) -> u64 {
        (**self).next_start()
    }
}
