//! Many seeds, on several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use jlb_role::Rule;
use jlb_sim::{Failure, Report, run};

use super::sum::Sum;

/// Seeds that threads take one after the other.
pub(super) struct Seeds {
    next: AtomicU64,
    count: u64,
    end: u64,
    without: Option<Rule>,
    stopped: AtomicBool,
    sum: Mutex<Sum>,
    failure: Mutex<Option<Failure>>,
}

impl Seeds {
    pub(super) fn new(first: u64, count: u64, without: Option<Rule>) -> Self {
        Self {
            next: AtomicU64::new(first),
            count,
            end: first.saturating_add(count),
            without,
            stopped: AtomicBool::new(false),
            sum: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// Runs them on so many threads, while this one does something else; until all are done or [`Self::stop`].
    pub(super) fn run<T>(&self, jobs: usize, meanwhile: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| self.work());
            }
            meanwhile()
        })
    }

    /// No further seed begins.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether all are done, or a thread met a fault of the simulator.
    pub(super) fn are_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.look(|sum| sum.seeds) >= self.count
    }

    /// Looks at what the runs came to so far.
    pub(super) fn look<T: Default>(&self, look: impl FnOnce(&Sum) -> T) -> T {
        self.sum.lock().map_or_else(|_| T::default(), |sum| look(&sum))
    }

    /// What all came to.
    pub(super) fn into_sum(self) -> Result<Sum, Failure> {
        match self.failure.into_inner() {
            Ok(Some(error)) => Err(error),
            Ok(None) | Err(_) => Ok(self.sum.into_inner().unwrap_or_default()),
        }
    }

    fn work(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                break;
            }
            match run(seed, self.without, None) {
                Ok(report) => self.add(report),
                Err(error) => {
                    if let Ok(mut failure) = self.failure.lock() {
                        *failure = Some(error);
                    }
                    self.stop();
                }
            }
        }
    }

    fn add(&self, report: Report) {
        if let Ok(mut sum) = self.sum.lock() {
            sum.add(report);
        }
    }
}
