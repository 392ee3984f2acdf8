//! `jlb-bench hotpath`: what one packet costs at the ingress.

use core::time::Duration;
use std::sync::{Arc, Barrier};

use jlb_dpdk::{Cores, Eal, EalOptions, LogLevel, Memory};
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

use crate::machine::{Borrowed, Machine};
use crate::rig::{Measured, Rig};
use crate::traffic::{MOST_FLOWS, What};
use crate::{SpeedError, alu};

/// Longest that a worker may take: 16 M flows are opened in under a minute.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1200);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Hotpath {
    /// Established flows, of all workers together: 1 to 2²⁸ (less what SYNs open).
    pub flows: u32,
    /// IPv6 inside and outside.
    pub v6: bool,
    /// Which packets.
    pub what: What,
    /// Workers: 1 or 2. With two, rounds of both together alternate with rounds of the first alone.
    pub workers: u8,
    /// Rounds of 16,384 packets, or 8192 SYNs.
    pub rounds: u32,
}

/// What came of it. Times are in nanoseconds per packet and one worker, without the bench's own.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The fastest round.
    pub best_ns: f64,
    /// The median round.
    pub median_ns: f64,
    /// What the bench itself takes (to put a packet into the ring and to take it out), which the others do not contain.
    pub harness_ns: f64,
    /// To open a flow: SYN, Open, Accept; the members' part included.
    pub open_ns: f64,
    /// Bytes that the process grew by while the role was made and its flows were opened, per flow, the table being filled
    /// to 90 % of its capacity. Not with SYNs, which need a larger table.
    pub bytes_per_flow: Option<f64>,
    /// Established flows.
    pub flows: u64,
    /// Flows that the tables were made for.
    pub capacity: u64,
    /// Packets that were measured.
    pub packets: u64,
    /// Packets of one round that were compared, byte by byte.
    pub verified: u64,
    /// Two workers' packets per second relative to one's: the median of pairs of rounds.
    pub scaling: Option<f64>,
    /// The same of a loop that only computes: what this machine can give.
    pub alu_scaling: Option<f64>,
    /// What it was measured on.
    pub machine: Machine,
}

/// Measures. Takes the process's DPDK: once per process.
///
/// # Errors
/// [`SpeedError`], also when a packet comes out wrong.
pub fn run(options: &Hotpath) -> Result<Figures, SpeedError> {
    let new = match options.what {
        What::Data | What::Egress => 0,
        What::Syn => Rig::new_flows(options.rounds),
    };
    let total = u64::from(options.flows) + u64::from(options.workers) * u64::from(new);
    // A quarter of the flows are no TCP.
    if total * 4 / 3 >= u64::from(MOST_FLOWS) || options.flows == 0 {
        return Err(SpeedError::TooManyFlows(options.flows));
    }
    let borrowed = Borrowed::hugepages(Rig::MEMORY_MIB * u32::from(options.workers));
    let hugepages = borrowed.is_ok();
    let eal = start(options.workers, Rig::MEMORY_MIB * u32::from(options.workers), hugepages)?;
    let mut rigs = Vec::new();
    for worker in 0..options.workers {
        let (eal_too, options) = (eal.clone(), *options);
        let rig = eal.launch(worker.into(), move || Rig::new(&eal_too, worker, &options))?;
        rigs.push(rig.join(PATIENCE)??);
    }
    // All packet memory is there.
    drop(borrowed);
    let barrier = Arc::new(Barrier::new(options.workers.into()));
    let mut running = Vec::new();
    for (worker, rig) in (0..).zip(rigs) {
        let (barrier, options) = (Arc::clone(&barrier), *options);
        running.push(eal.launch(worker.into(), move || {
            let measured = rig.measure(worker == 0, &options, &barrier);
            (measured, alu::scaling(&barrier, worker, options.workers))
        })?);
    }
    let mut all = Vec::new();
    for running in running {
        let (measured, alu) = running.join(PATIENCE)?;
        all.push((measured?, alu));
    }
    Ok(figures(&all, options, Machine::here(hugepages)))
}

/// DPDK for so many workers and MiB of packet memory.
pub(crate) fn start(workers: u8, needed: u32, hugepages: bool) -> Result<Eal, SpeedError> {
    // The last ones: CPU 0 also serves interrupts.
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(SpeedError::Affinity)?;
    let mut cpus: Vec<u16> = (0..nix::sched::CpuSet::count() as u16)
        .rev()
        .filter(|&cpu| allowed.is_set(cpu.into()) == Ok(true))
        .take(workers.into())
        .collect();
    cpus.reverse();
    Ok(Eal::start(&EalOptions {
        workers: workers.into(),
        // With fewer CPUs than workers there is nothing to pin, and no scaling to see.
        cores: if cpus.len() == usize::from(workers) {
            Cores::Pinned(cpus)
        } else {
            Cores::Floating
        },
        memory: if hugepages { Memory::Hugepages } else { Memory::Ordinary(needed) },
        devices: vec![],
        log: LogLevel::Error,
    })?)
}

fn figures(all: &[(Measured, f64)], options: &Hotpath, machine: Machine) -> Figures {
    let first = &all[0].0;
    let mut rounds = first.alone.clone();
    rounds.sort_by(f64::total_cmp);
    let ratios = (0..first.together.len()).map(|n| {
        let both: f64 = all.iter().filter_map(|(m, _)| m.together.get(n)).map(|ns| 1.0 / ns).sum();
        both * first.alone[n]
    });
    let two = options.workers > 1;
    Figures {
        best_ns: rounds[0],
        median_ns: rounds[rounds.len() / 2],
        harness_ns: first.harness_ns,
        open_ns: first.open_ns,
        bytes_per_flow: (options.what == What::Data && !two).then_some(first.bytes_per_flow),
        flows: all.iter().map(|(m, _)| m.flows).sum(),
        capacity: all.iter().map(|(m, _)| m.capacity).sum(),
        packets: all.iter().map(|(m, _)| m.packets).sum(),
        verified: all.iter().map(|(m, _)| m.verified).sum(),
        scaling: two.then(|| median(ratios)),
        alu_scaling: two.then_some(all[0].1),
        machine,
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
