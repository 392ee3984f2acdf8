use std::time::Instant;

use jlb_role::Nanos;

/// The monotonic clock of the workers: one origin for all of them and for the control thread.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at zero, now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start. 584 years fit.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Nanos(self.0.elapsed().as_nanos() as u64)
    }
}
