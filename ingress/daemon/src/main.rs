//! `jlb-ingress`: takes client packets for VIPs off the wire and sends them to backends; takes backends' replies and
//! sends them to clients.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;

use jlb_dpdk_daemon::{DaemonError, DpdkDaemon, Kind, Members, Worker};
use jlb_flow::SlabError;
use jlb_ingress_core::{Ingress, IngressConfig, IngressEvent};
use jlb_map::MemberRole;
use jlb_node::{Program, Setup, Start};
use jlb_role::{AllRules, Nanos};

const PROGRAM: Program = Program {
    name: "jlb-ingress",
    about: "Takes client connections for virtual IPs and spreads them over servers",
    version: env!("CARGO_PKG_VERSION"),
    role: MemberRole::Ingress,
};

/// Buffers that a card holds in each receive and each transmit queue.
const QUEUE: u32 = 1024;
/// Packets that may wait for answers even with the fewest buffers.
const LEAST_WAITING: u32 = 512;

fn main() -> ExitCode {
    match PROGRAM.start(PROGRAM.command(), std::env::args_os()) {
        Start::Run(setup) => jlb_node::run(&setup, start),
        Start::Other { .. } => ExitCode::from(jlb_node::EXIT_USAGE),
        Start::Exit(code) => code,
    }
}

fn start(setup: &Setup) -> Result<DpdkDaemon<IngressEvent, SlabError>, DaemonError<SlabError>> {
    let Some(sizes) = setup.host.ingress else { return Err(DaemonError::NoSection("[ingress]")) };
    let Some(dpdk) = &setup.host.dpdk else { return Err(DaemonError::NoSection("[dpdk]")) };
    // Half of what a card's queues leave. The other half is for what is on its way: a flood of new flows must not stop
    // the established ones.
    let queues = 2 * QUEUE * u32::from(dpdk.workers);
    let waiting = (dpdk.buffers.saturating_sub(queues) / 2).max(LEAST_WAITING);
    let kind = Kind { snapshot: IngressEvent::Snapshot, not_ready };
    DpdkDaemon::start(setup, kind, |worker: Worker| {
        let config = IngressConfig {
            id: setup.me,
            worker: worker.id,
            workers: worker.of,
            boot: setup.boot,
            seed: worker.seed,
            flow_capacity: worker.share(sizes.flow_capacity),
            pending_capacity: worker.share(sizes.pending_capacity),
        };
        Ingress::new(config, Arc::clone(&setup.cluster), AllRules, Nanos::ZERO)
            .map(|ingress| ingress.hold_at_most(worker.share(waiting)))
    })
}

/// Established flows need no tracker, so this says who should get *new* clients.
fn not_ready(members: &Members) -> Vec<String> {
    let mut reasons = Vec::new();
    let (alive, all) = members.alive(MemberRole::FlowTracker);
    if alive < all.min(2) {
        reasons.push(format!("{alive} of {all} flow trackers answer: two must vote on a new flow"));
    }
    let (alive, all) = members.alive(MemberRole::Backend);
    if alive == 0 {
        reasons.push(format!("none of {all} backends answers"));
    }
    reasons
}
