use nix::errno::Errno;

/// The calling thread's `rte_errno`.
pub(crate) fn last() -> Errno {
    // SAFETY: reads a thread-local variable.
    Errno::from_raw(unsafe { jlb_dpdk_sys::jlb_errno() })
}

/// What most DPDK functions return: a negative errno is an error, the rest a value.
pub(crate) fn check(returned: i32) -> Result<(), Errno> {
    if returned < 0 { Err(Errno::from_raw(returned.saturating_neg())) } else { Ok(()) }
}
