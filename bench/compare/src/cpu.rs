//! CPU time, to the nanosecond. This kernel charges what it does for a packet to whoever runs just then: the one that sent it, mostly,
//! or its own thread for that (`ksoftirqd`).

use std::fs;

use nix::time::{ClockId, clock_gettime};

/// Of a process with one thread: nanoseconds on a CPU, the first word of its schedstat.
pub(crate) fn of_process(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Of our own process, with all its threads that were.
pub(crate) fn of_us() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// The kernel's threads that handle packets which nobody else did.
pub(crate) fn kernel_threads() -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_one = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("ksoftirqd/")
    };
    pids.filter(is_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_has_cpu_time() {
        let before = of_us();
        let mut x = 1u64;
        while of_us() - before < 1_000_000 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(of_process(std::process::id()) > 0);
    }
}
