use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, Ordering};
use std::ffi::{CString, c_char};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use thiserror::Error;

use crate::pool::RawPool;
use crate::{Device, errno};

/// One lcore is the main thread; the others are workers.
pub const MAX_WORKERS: usize = jlb_dpdk_sys::RTE_MAX_LCORE as usize - 1;

/// Where lcores run. The main thread is never pinned: it also runs everything that is no worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cores {
    /// On any CPU that this process may use; the kernel moves them.
    #[default]
    Floating,
    /// Worker `i` on the `i`-th of these CPUs only.
    Pinned(Vec<u16>),
}

/// Where packet memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages, taken as needed, without a mounted hugetlbfs. The host must have reserved some.
    Hugepages,
    /// So many MiB of ordinary memory, all at once. No PCI device can use it.
    Ordinary(u32),
}

/// What DPDK itself says on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What is broken.
    Error,
    /// And what is doubtful.
    #[default]
    Warning,
    /// And what it found and chose.
    Info,
    /// And everything else.
    Debug,
}

/// How to start DPDK.
#[derive(Clone, Debug)]
pub struct EalOptions {
    /// Number of worker lcores, at most [`MAX_WORKERS`].
    pub workers: usize,
    /// Where they run.
    pub cores: Cores,
    /// Where packet memory comes from.
    pub memory: Memory,
    /// The devices that will be opened. PCI devices must be named here, and no other PCI device is touched.
    pub devices: Vec<Device>,
    /// What DPDK says.
    pub log: LogLevel,
}

/// DPDK did not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EalError {
    /// Once per process, even when the first start failed or was cleaned up.
    #[error("DPDK was started before in this process")]
    AlreadyStarted,
    /// More lcores than DPDK can have.
    #[error("{0} workers are too many: at most {MAX_WORKERS}")]
    TooManyWorkers(usize),
    /// Pinned, but not one CPU for each worker.
    #[error("{workers} workers need as many CPUs, but {cpus} are named")]
    CpusDoNotMatch {
        /// Wanted workers.
        workers: usize,
        /// CPUs named.
        cpus: usize,
    },
    /// A CPU that this process may not use, or that is not there.
    #[error("CPU {0} is not one that this process may use")]
    NoSuchCpu(u16),
    /// DMA needs memory with fixed physical places.
    #[error("the PCI device {0} needs hugepages")]
    PciNeedsHugepages(Device),
    /// The CPUs that this process may use could not be read.
    #[error("cannot read the CPU affinity")]
    Affinity(#[source] Errno),
    /// DPDK refused; it has said more on stderr.
    #[error("DPDK did not start{}", hint(*.0))]
    Init(#[source] Errno),
}

fn hint(e: Errno) -> &'static str {
    if e == Errno::ENOMEM || e == Errno::EACCES {
        " (no hugepages free, or no right to use them? See nr_hugepages)"
    } else {
        ""
    }
}

/// DPDK cannot be cleaned up now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CleanupError {
    /// Ports, pools or running lcores remain.
    #[error("ports, pools or workers of DPDK are still in use")]
    InUse,
    /// Somebody holds packets.
    #[error("{0} packet buffers are still in use")]
    BuffersInUse(u32),
    /// DPDK refused.
    #[error("DPDK did not clean up")]
    Cleanup(#[source] Errno),
}

/// The running DPDK. Clones are handles to the one that the process has.
#[derive(Clone, Debug)]
pub struct Eal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    workers: usize,
    /// Also held for every call that DPDK wants from one thread only.
    pools: Mutex<Vec<RawPool>>,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK; the calling thread becomes the main lcore. Once per process.
    ///
    /// # Errors
    /// See [`EalError`]. What can be checked without DPDK is checked first.
    pub fn start(options: &EalOptions) -> Result<Self, EalError> {
        let arguments = arguments(options)?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::AlreadyStarted);
        }
        // Device::from_str refuses zeros, the rest is ours; should one slip in, the argument ends there.
        let arguments = arguments.into_iter().filter_map(|a| CString::new(a).ok());
        let mut argv: Vec<*mut c_char> = arguments.map(CString::into_raw).collect();
        let argc = i32::try_from(argv.len()).unwrap_or(i32::MAX);
        argv.push(core::ptr::null_mut());
        // Leaked, as are the arguments: DPDK keeps pointers into them.
        let argv = argv.leak();
        // SAFETY: `argv` has `argc` C strings and a null behind them, all valid for good; it is the first call.
        let parsed = unsafe { jlb_dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) };
        if parsed < 0 {
            return Err(EalError::Init(errno::last()));
        }
        Ok(Self(Arc::new(Inner { workers: options.workers, pools: Mutex::new(Vec::new()) })))
    }

    /// Number of worker lcores.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.0.workers
    }

    /// Ends DPDK: to be called last, when ports, pools and workers are gone. Without it the process's end does the
    /// same less tidily.
    ///
    /// # Errors
    /// When something of DPDK is still in use; nothing has happened then, and DPDK goes on until the process ends.
    pub fn cleanup(self) -> Result<(), CleanupError> {
        let inner = Arc::try_unwrap(self.0).map_err(|_| CleanupError::InUse)?;
        let pools = inner.pools.into_inner().unwrap_or_else(PoisonError::into_inner);
        let in_use = || pools.iter().map(RawPool::in_use).sum::<u32>();
        if in_use() > 0 {
            return Err(CleanupError::BuffersInUse(in_use()));
        }
        // A buffer counts as returned a few instructions before the thread that returned it is done with the pool.
        // Nobody can take one out again, since all handles to the pools are gone.
        thread::sleep(Duration::from_millis(5));
        // SAFETY: no handle is left (`try_unwrap`), hence no port, queue, pool or running worker, and no packet
        // buffer: nothing of ours refers to DPDK's memory any more.
        errno::check(unsafe { jlb_dpdk_sys::rte_eal_cleanup() }).map_err(CleanupError::Cleanup)
    }

    /// Pools stay in here until the clean-up; the guard also serialises calls that DPDK wants one at a time.
    pub(crate) fn exclusive(&self) -> MutexGuard<'_, Vec<RawPool>> {
        self.0.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn arguments(options: &EalOptions) -> Result<Vec<String>, EalError> {
    if options.workers > MAX_WORKERS {
        return Err(EalError::TooManyWorkers(options.workers));
    }
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(EalError::Affinity)?;
    let log = match options.log {
        LogLevel::Error => "error",
        LogLevel::Warning => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    let mut arguments = vec![
        "jlb".to_owned(),
        format!("--lcores={}", lcores(options, &allowed)?),
        "--main-lcore=0".to_owned(),
        "--no-telemetry".to_owned(),
        format!("--log-level={log}"),
    ];
    match options.memory {
        // No files at all: nothing to leave behind, and any number of processes side by side.
        Memory::Hugepages => arguments.push("--in-memory".to_owned()),
        Memory::Ordinary(mib) => {
            arguments.extend([
                "--no-huge".to_owned(),
                "--no-shconf".to_owned(),
                format!("-m{mib}"),
            ]);
        }
    }
    let mut pci = options.devices.iter().filter(|d| d.is_pci()).peekable();
    if let (Memory::Ordinary(_), Some(&device)) = (options.memory, pci.peek()) {
        return Err(EalError::PciNeedsHugepages(device.clone()));
    }
    if pci.peek().is_none() {
        arguments.push("--no-pci".to_owned());
    }
    arguments.extend(pci.map(|device| format!("--allow={device}")));
    Ok(arguments)
}

/// EAL's map of lcores to sets of CPUs: `0@(0,1),1@(0,1)`.
fn lcores(options: &EalOptions, allowed: &CpuSet) -> Result<String, EalError> {
    let may_use = |cpu: usize| allowed.is_set(cpu).unwrap_or(false);
    let all: Vec<String> =
        (0..CpuSet::count()).filter(|&c| may_use(c)).map(|c| c.to_string()).collect();
    let all = format!("({})", all.join(","));
    let mut map = format!("0@{all}");
    let worker = |map: &mut String, i: usize, cpus: &str| {
        // Writing to a String does not fail.
        let _ = write!(map, ",{}@{cpus}", i + 1);
    };
    match &options.cores {
        Cores::Floating => (0..options.workers).for_each(|i| worker(&mut map, i, &all)),
        Cores::Pinned(cpus) => {
            if cpus.len() != options.workers {
                return Err(EalError::CpusDoNotMatch {
                    workers: options.workers,
                    cpus: cpus.len(),
                });
            }
            for (i, &cpu) in cpus.iter().enumerate() {
                if !may_use(usize::from(cpu)) {
                    return Err(EalError::NoSuchCpu(cpu));
                }
                worker(&mut map, i, &format!("({cpu})"));
            }
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(workers: usize, cores: Cores) -> EalOptions {
        EalOptions {
            workers,
            cores,
            memory: Memory::Ordinary(64),
            devices: vec![],
            log: LogLevel::Warning,
        }
    }

    fn cpus(numbers: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        numbers.iter().for_each(|&n| set.set(n).unwrap());
        set
    }

    #[test]
    fn lcores_float_over_the_allowed_cpus_or_are_pinned() {
        let allowed = cpus(&[1, 3]);
        assert_eq!(
            lcores(&options(2, Cores::Floating), &allowed).unwrap(),
            "0@(1,3),1@(1,3),2@(1,3)"
        );
        assert_eq!(
            lcores(&options(2, Cores::Pinned(vec![3, 1])), &allowed).unwrap(),
            "0@(1,3),1@(3),2@(1)"
        );
        assert_eq!(
            lcores(&options(1, Cores::Pinned(vec![2])), &allowed),
            Err(EalError::NoSuchCpu(2))
        );
        assert_eq!(
            lcores(&options(2, Cores::Pinned(vec![3])), &allowed),
            Err(EalError::CpusDoNotMatch { workers: 2, cpus: 1 })
        );
    }

    #[test]
    fn pci_devices_are_allowed_by_name_and_need_hugepages() {
        let mut o = options(1, Cores::Floating);
        assert!(arguments(&o).unwrap().contains(&"--no-pci".to_owned()));
        let device: Device = "01:00.0,foo=1".parse().unwrap();
        o.devices = vec!["net_null0".parse().unwrap(), device.clone()];
        assert_eq!(arguments(&o), Err(EalError::PciNeedsHugepages(device)));
        o.memory = Memory::Hugepages;
        let a = arguments(&o).unwrap();
        assert!(
            a.contains(&"--allow=0000:01:00.0,foo=1".to_owned())
                && !a.contains(&"--no-pci".to_owned()),
            "{a:?}"
        );
    }

    #[test]
    fn the_number_of_workers_is_bounded() {
        assert_eq!(
            arguments(&options(MAX_WORKERS + 1, Cores::Floating)),
            Err(EalError::TooManyWorkers(MAX_WORKERS + 1))
        );
    }
}
