use jlb_config::Dpdk;
use jlb_dpdk::{Cores, Device, EalOptions, LogLevel, Memory};
use jlb_runtime::{Idle, Options};

/// How to start DPDK, as `[dpdk]` says.
pub(crate) fn eal(dpdk: &Dpdk, devices: Vec<Device>) -> EalOptions {
    EalOptions {
        workers: dpdk.workers.into(),
        cores: if dpdk.cores.is_empty() {
            Cores::Floating
        } else {
            Cores::Pinned(dpdk.cores.clone())
        },
        memory: if dpdk.hugepages { Memory::Hugepages } else { Memory::Ordinary(dpdk.memory_mb) },
        devices,
        log: LogLevel::Warning,
    }
}

/// How to run the workers, as `[dpdk]` says.
pub(crate) fn runtime(dpdk: &Dpdk, device: Device, exception: Option<Device>) -> Options {
    let mut options = Options::new(device, dpdk.workers);
    options.exception = exception;
    options.buffers = dpdk.buffers;
    options.port.mtu = Some(dpdk.mtu);
    options.idle = match dpdk.idle {
        jlb_config::Idle::Backoff => Idle::Backoff,
        jlb_config::Idle::Spin => Idle::Spin,
    };
    options
}
