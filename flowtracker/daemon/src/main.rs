//! `jlb-flowtracker`: owns the assignments of flows to backends.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;

use jlb_dpdk_daemon::{DaemonError, DpdkDaemon, Kind, Members, Worker};
use jlb_flow::SlabError;
use jlb_flowtracker_core::{Tracker, TrackerConfig, TrackerEvent};
use jlb_hugepages::HugePages;
use jlb_map::MemberRole;
use jlb_node::{Program, Setup, Start};
use jlb_role::{AllRules, Nanos};

#[global_allocator]
static MEMORY: HugePages = HugePages;

const PROGRAM: Program = Program {
    name: "jlb-flowtracker",
    about: "Picks a server for each new connection, and remembers which",
    version: env!("CARGO_PKG_VERSION"),
    role: MemberRole::FlowTracker,
};

fn main() -> ExitCode {
    match PROGRAM.start(PROGRAM.command(), std::env::args_os()) {
        Start::Run(setup) => jlb_node::run(&setup, start),
        Start::Other { .. } => ExitCode::from(jlb_node::EXIT_USAGE),
        Start::Exit(code) => code,
    }
}

fn start(setup: &Setup) -> Result<DpdkDaemon<TrackerEvent, SlabError>, DaemonError<SlabError>> {
    let Some(sizes) = setup.host.flowtracker else {
        return Err(DaemonError::NoSection("[flowtracker]"));
    };
    let kind = Kind { snapshot: TrackerEvent::Snapshot, not_ready };
    DpdkDaemon::start(setup, kind, |worker: Worker| {
        let config = TrackerConfig {
            id: setup.me,
            worker: worker.id,
            workers: worker.of,
            boot: setup.boot,
            seed: worker.seed,
            flow_capacity: worker.share(sizes.flow_capacity),
            pending_capacity: worker.share(sizes.pending_capacity),
            remembered_capacity: worker.share(sizes.remembered_capacity),
        };
        Tracker::new(config, Arc::clone(&setup.cluster), AllRules, Nanos::ZERO)
    })
    .map(|daemon| daemon.leaves_by(TrackerEvent::Leaving(true)))
}

/// A flow needs the votes of two trackers (or of one, once all backends obey it alone), and a backend that takes it.
fn not_ready(members: &Members) -> Vec<String> {
    let mut reasons = Vec::new();
    let (alive, all) = members.alive(MemberRole::FlowTracker);
    if alive == 0 && !members.is_sole() {
        reasons.push(format!(
            "none of the {all} other flow trackers answers: new flows wait until every backend that is not dead has acknowledged that we decide alone"
        ));
    }
    if let Some(missing) = members.cold() {
        reasons.push(format!(
            "cold: has not yet heard from all backends what flows they have; waits for {}",
            if missing.is_empty() { "the first of them".to_owned() } else { missing.join(", ") }
        ));
    }
    let (alive, all) = members.alive(MemberRole::Backend);
    if alive == 0 {
        reasons.push(format!("none of {all} backends answers"));
    }
    reasons
}
