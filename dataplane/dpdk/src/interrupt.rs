use core::ffi::c_void;
use std::sync::mpsc;

type Work = Box<dyn FnOnce() + Send>;

/// Runs `work` on DPDK's interrupt thread, between the callbacks of drivers and never beside one, and waits for it.
pub(crate) fn on_interrupt_thread(work: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::sync_channel(1);
    let work: Box<Work> = Box::new(Box::new(move || {
        work();
        // The other end waits.
        _ = done.send(());
    }));
    let argument = Box::into_raw(work).cast::<c_void>();
    // SAFETY: DPDK calls `run` once, with the box that it takes.
    if unsafe { jlb_dpdk_sys::rte_eal_alarm_set(1, Some(run), argument) } < 0 {
        // No alarm (out of memory): here, then.
        // SAFETY: DPDK has not kept the box.
        unsafe { run(argument) };
    }
    _ = wait.recv();
}

/// # Safety
/// `argument` is a `Box<Work>` that nobody else has.
unsafe extern "C" fn run(argument: *mut c_void) {
    // SAFETY: the caller's promise.
    let work = unsafe { Box::from_raw(argument.cast::<Work>()) };
    work();
}
