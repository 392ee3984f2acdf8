//! The process of our ingress: a worker of the runtime on an lcore, the role, and a port, as the daemon has them.

use core::time::Duration;
use std::io::{BufRead, Write};

use jlb_ingress_core::{Ingress, IngressConfig};
use jlb_map::Policy;
use jlb_role::{AllRules, Nanos, WorkerId};
use jlb_runtime::{Idle, Options, Runtime};
use jlb_speed::site;
use jlb_wire::BootId;

use super::wire::{BUFFERS, device};
use super::{End, Farewell};
use crate::{PortsError, dpdk};

/// What it says once its port is open.
pub(crate) const READY: &str = "ready";
/// What it says at the end, each followed by a number.
const DROPPED: &str = "dropped ";
const BUSY: &str = "busy ns per packet ";
/// As many as the daemon's default.
const PENDING: usize = 16_384;
const ENDS: Duration = Duration::from_secs(2);
/// A worker that polls answers within a turn.
const ANSWERS: Duration = Duration::from_secs(1);

/// Runs an ingress until `told` ends: says on `out` when it is ready, and at the end what it has dropped, and how long it was
/// busy with a packet since it was last told a line. Takes the process's DPDK.
///
/// # Errors
/// [`PortsError`]
pub fn ingress(end: &End, told: &mut impl BufRead, out: &mut impl Write) -> Result<(), PortsError> {
    let device = device("server", &end.socket).parse()?;
    let eal = dpdk::start(&device, Some(end.cpu), !end.ordinary)?;
    let snapshot = site::snapshot(false, Policy::default())?;
    let neighbours = site::neighbours(&snapshot);
    let config = IngressConfig {
        id: site::ingress(),
        worker: WorkerId(0),
        workers: 1,
        boot: BootId(1),
        seed: 1,
        // Filled to 90 %.
        flow_capacity: end.flows as usize * 10 / 9 + 1,
        pending_capacity: PENDING,
    };
    let mut role = Some(Ingress::new(config, snapshot, AllRules, Nanos::ZERO)?);
    // testpmd never sleeps.
    let options = Options { idle: Idle::Spin, buffers: BUFFERS, ..Options::new(device, 1) };
    #[expect(clippy::expect_used, reason = "there is one worker")]
    let make = |_| role.take().expect("the role of the only worker");
    let (runtime, _reports) = Runtime::start(&eal, &options, &neighbours, make)?;
    writeln!(out, "{READY}")?;
    out.flush()?;
    let control = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let handle = runtime.handle();
    let numbers = || {
        let samples = control.block_on(handle.collect(ANSWERS));
        let sum = |name| samples.sum(name, &[]);
        let [busy, received] =
            [sum("jlb_worker_busy_seconds_total"), sum("jlb_worker_received_packets_total")];
        (busy, received, sum("jlb_dropped_packets_total"))
    };
    let mut before = numbers();
    for line in told.lines() {
        line?;
        before = numbers();
    }
    let after = numbers();
    writeln!(out, "{DROPPED}{}", after.2)?;
    writeln!(out, "{BUSY}{}", (after.0 - before.0) * 1e9 / (after.1 - before.1))?;
    Ok(runtime.stop(ENDS)?)
}

/// What it said that it has dropped, for whatever reason, and how long it was busy with a packet.
pub(crate) fn farewell(said: &[String]) -> Farewell {
    let number = |beginning: &str| {
        said.iter().find_map(|line| line.strip_prefix(beginning)?.parse::<f64>().ok())
    };
    Farewell { dropped: number(DROPPED).unwrap_or(0.0) as u64, busy_ns: number(BUSY) }
}
