//! DPDK with one worker on a CPU of its own.

use jlb_dpdk::{Cores, Device, Eal, EalOptions, LogLevel, Memory};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::PortsError;

/// Packet memory of one process: 16,383 buffers of about 2.4 KiB, with room to spare.
pub(crate) const MEMORY_MIB: u32 = 128;

/// The last two CPUs that this process may use: of the system under test, and of the traffic's source.
pub(crate) fn two_cpus() -> Result<(u16, u16), PortsError> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(PortsError::Affinity)?;
    let cpus: Vec<u16> =
        (0..CpuSet::count() as u16).filter(|&cpu| allowed.is_set(cpu.into()) == Ok(true)).collect();
    // CPU 0 also serves interrupts, which must not disturb what is measured.
    match cpus[..] {
        [.., source, tested] => Ok((tested, source)),
        _ => Err(PortsError::TooFewCpus(cpus.len())),
    }
}

/// Starts it for one device; `cpu`: where the worker runs, or anywhere.
pub(crate) fn start(device: &Device, cpu: Option<u16>, hugepages: bool) -> Result<Eal, PortsError> {
    Ok(Eal::start(&EalOptions {
        workers: 1,
        cores: cpu.map_or(Cores::Floating, |cpu| Cores::Pinned(vec![cpu])),
        memory: if hugepages { Memory::Hugepages } else { Memory::Ordinary(MEMORY_MIB) },
        devices: vec![device.clone()],
        log: LogLevel::Error,
    })?)
}
