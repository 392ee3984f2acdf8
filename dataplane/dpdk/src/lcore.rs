use core::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;

use crate::{Eal, errno};

/// A function was not started on a worker lcore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LaunchError {
    /// The EAL was started with fewer workers.
    #[error("there is no worker {0}")]
    NoSuchWorker(usize),
    /// It still runs another function.
    #[error("worker {0} is busy")]
    Busy(usize),
    /// DPDK refused.
    #[error("cannot start worker {0}")]
    Launch(usize, #[source] Errno),
}

/// A worker gave no result.
#[derive(Debug, Error)]
pub enum JoinError {
    /// It still runs.
    #[error("worker {0} did not end in time")]
    Timeout(usize),
    /// Its function panicked; the message was printed by the panic hook.
    #[error("worker {0} panicked")]
    Panicked(usize),
}

/// A function that runs on a worker lcore. Dropping this does not stop it.
#[derive(Debug)]
pub struct Running<T> {
    worker: usize,
    result: Receiver<Result<T, Box<dyn Any + Send>>>,
    /// While a function may run, DPDK stays.
    _eal: Eal,
}

type Job = Box<dyn FnOnce() + Send>;

impl Eal {
    /// Runs `f` on worker `worker` (from 0).
    ///
    /// # Errors
    /// When there is no such worker or it is busy; `f` has not run then.
    pub fn launch<T: Send + 'static>(
        &self,
        worker: usize,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Running<T>, LaunchError> {
        if worker >= self.workers() {
            return Err(LaunchError::NoSuchWorker(worker));
        }
        let (give, result) = sync_channel(1);
        let eal = self.clone();
        let job: Job = Box::new(move || {
            let value = catch_unwind(AssertUnwindSafe(f));
            // Before the value is told: whoever has joined all workers may clean up.
            drop(eal);
            // Nobody waits for it any more: then nobody needs it.
            let _ = give.send(value);
        });
        let argument = Box::into_raw(Box::new(job)).cast::<c_void>();
        let guard = self.exclusive();
        let lcore = lcore_of(worker);
        // SAFETY: `lcore` is a worker's; calls are serialised by the guard; `run` takes the box over.
        let launched = unsafe { jlb_dpdk_sys::rte_eal_remote_launch(Some(run), argument, lcore) };
        drop(guard);
        errno::check(launched).map_err(|e| {
            // SAFETY: it was not launched, so the box made above is still ours alone.
            drop(unsafe { Box::from_raw(argument.cast::<Job>()) });
            if e == Errno::EBUSY {
                LaunchError::Busy(worker)
            } else {
                LaunchError::Launch(worker, e)
            }
        })?;
        Ok(Running { worker, result, _eal: self.clone() })
    }
}

impl<T> Running<T> {
    /// Waits for the function's end.
    ///
    /// # Errors
    /// When it does not end in time (it may be asked again) or panicked.
    pub fn join(&self, at_most: Duration) -> Result<T, JoinError> {
        let value = self.result.recv_timeout(at_most).map_err(|e| match e {
            RecvTimeoutError::Timeout => JoinError::Timeout(self.worker),
            // Joined before: the value is gone.
            RecvTimeoutError::Disconnected => JoinError::Panicked(self.worker),
        })?;
        // SAFETY: a worker's lcore. It spins, but only for the few instructions between sending the value and the
        // end of the function.
        unsafe { jlb_dpdk_sys::rte_eal_wait_lcore(lcore_of(self.worker)) };
        value.map_err(|_| JoinError::Panicked(self.worker))
    }
}

/// The calling thread's lcore: 0 is the main thread, worker `i` is `i + 1`; `None`: not a thread of DPDK.
#[must_use]
pub fn lcore_id() -> Option<u32> {
    // SAFETY: reads a thread-local variable.
    let id = unsafe { jlb_dpdk_sys::jlb_lcore_id() };
    (id != jlb_dpdk_sys::JLB_NO_LCORE).then_some(id)
}

fn lcore_of(worker: usize) -> u32 {
    // Checked at launch: below MAX_WORKERS.
    worker as u32 + 1
}

unsafe extern "C" fn run(argument: *mut c_void) -> c_int {
    // SAFETY: made by `Box::into_raw` in `launch`, and given to this call only.
    let job = unsafe { Box::from_raw(argument.cast::<Job>()) };
    job();
    0
}
