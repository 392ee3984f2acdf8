//! `jlb-bench forward`: our ingress beside DPDK's `testpmd`, through real ports.
//!
//! ```text
//!            source's CPU                                     CPU of the system under test
//!   ┌──────────────────────────┐   memif, shared memory   ┌───────────────────────────────────┐
//!   │ source: packets of 1 M   │ ───────────────────────▶ │ testpmd --forward-mode=mac, or    │
//!   │ flows, and all members   │ ◀─────────────────────── │ our ingress: worker, role, port   │
//!   └──────────────────────────┘                          └───────────────────────────────────┘
//! ```
//!
//! Each is a process of its own. The two systems take turns, with the same packets over a port that is made alike; what counts
//! is what comes back to the source per second. The source offers more than is taken: how much of what it offered the full
//! ring refused is told, and a system that is not saturated has not been measured.
//!
//! | module | |
//! |---|---|
//! | `source` | the traffic's process |
//! | `ingress` | our ingress's process |
//! | `testpmd` | the other one's |
//! | `wire` | the source's end of the memif |
//! | `judge` | whether what came back is right |
//! | `program` | processes that end with their standard input |
//! | `outcome` | the figures |

mod ingress;
mod judge;
mod outcome;
mod program;
mod source;
mod testpmd;
mod wire;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::path::PathBuf;
use std::process::Command;

use jlb_speed::traffic::{MOST_FLOWS, What};
use jlb_speed::{Borrowed, Hotpath, Machine};
use serde::{Deserialize, Serialize};

use crate::PortsError;
use crate::dpdk::{MEMORY_MIB, two_cpus};
pub use ingress::ingress;
pub use outcome::{Outcome, Side};
use program::Program;
pub use source::{Report, source};

/// Longest that a process may take to start.
const STARTS: Duration = Duration::from_secs(20);
/// To open a flow takes some microseconds, of which a busy machine makes more.
const OPENS_A_FLOW: Duration = Duration::from_micros(100);
/// What the source says before it counts.
const COUNTING: &str = "counting";
/// Rounds of the bench without ports, beside which the rest is told.
const ROUNDS: u32 = 40;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Established flows: 1 to 2²⁸.
    pub flows: u32,
    /// How often each system is measured.
    pub times: u32,
    /// How long packets are counted, each time.
    pub seconds: f64,
    /// The program that has the commands `forward-source` and `forward-ingress`.
    pub program: PathBuf,
}

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Under {
    /// DPDK's, which exchanges the Ethernet addresses.
    Testpmd,
    /// Our ingress.
    Jlb,
}

/// What a system says of itself when it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Farewell {
    /// Packets that it received and could not send.
    dropped: u64,
    /// Nanoseconds that it was busy with a packet, polls that brought nothing left out.
    busy_ns: Option<f64>,
}

/// One end of the memif, as its process is told.
#[derive(Clone, Debug)]
pub struct End {
    /// Name of the abstract socket by which both ends meet.
    pub socket: String,
    /// Established flows.
    pub flows: u32,
    /// The CPU that polls.
    pub cpu: u16,
    /// Without hugepages: in ordinary memory.
    pub ordinary: bool,
}

/// Measures. Takes the process's DPDK for the bench without ports; the rest are processes of `program`.
///
/// # Errors
/// [`PortsError`], also when a packet comes back wrong or `interrupted` is set.
pub fn run(
    options: &Forward,
    say: &mut dyn FnMut(&str),
    interrupted: &AtomicBool,
) -> Result<(Outcome, Machine), PortsError> {
    in_bounds("flows", options.flows.into(), (1.0, f64::from(MOST_FLOWS / 2)))?;
    in_bounds("times", options.times.into(), (1.0, 1000.0))?;
    in_bounds("seconds", options.seconds, (0.1, 60.0))?;
    let cpus = two_cpus()?;
    let hot_path = jlb_speed::run(&Hotpath {
        flows: options.flows,
        v6: false,
        what: What::Data,
        workers: 1,
        rounds: ROUNDS,
    })?;
    say(&format!(
        "without ports: {:.1} ns per packet (median {:.1})",
        hot_path.best_ns, hot_path.median_ns
    ));
    // Source and system are there at the same time.
    let borrowed = Borrowed::hugepages(2 * MEMORY_MIB);
    let bench = Bench { options, cpus, ordinary: borrowed.is_err(), interrupted };
    let mut runs = Vec::new();
    for n in 1..=options.times {
        let testpmd = bench.measure(Under::Testpmd, n)?;
        let jlb = bench.measure(Under::Jlb, n)?;
        say(&format!("{n:>3}: testpmd {testpmd}; ours {jlb}"));
        runs.push((testpmd, jlb));
    }
    Ok((Outcome::of(&runs, options.flows, &hot_path), Machine::here(borrowed.is_ok())))
}

struct Bench<'a> {
    options: &'a Forward,
    cpus: (u16, u16),
    ordinary: bool,
    interrupted: &'a AtomicBool,
}

impl Bench<'_> {
    fn measure(&self, under: Under, n: u32) -> Result<Side, PortsError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(PortsError::Interrupted);
        }
        let name = if under == Under::Jlb { "jlb" } else { "testpmd" };
        let socket = format!("jlb-forward-{}-{n}-{name}", std::process::id());
        let (flows, ordinary) = (self.options.flows, self.ordinary);
        let end = |cpu| End { socket: socket.clone(), flows, cpu, ordinary };
        let (tested, source) = (end(self.cpus.0), end(self.cpus.1));
        let (command, ready) = match under {
            Under::Testpmd => (testpmd::command(&tested, self.cpus), testpmd::READY),
            Under::Jlb => (self.ours("forward-ingress", &tested), ingress::READY),
        };
        let mut system = Program::start(name, command, self.interrupted)?;
        system.wait_for(ready, STARTS)?;
        let mut command = self.ours("forward-source", &source);
        command.args(["--under", name, "--seconds", &self.options.seconds.to_string()]);
        let mut source = Program::start("source", command, self.interrupted)?;
        let patience = STARTS
            + OPENS_A_FLOW * self.options.flows
            + Duration::from_secs_f64(self.options.seconds);
        source.wait_for(COUNTING, patience)?;
        if under == Under::Jlb {
            system.tell()?;
        }
        let said = source.wait_for("{", patience)?;
        let report = serde_json::from_str(&said).map_err(std::io::Error::from)?;
        let said = system.stop()?;
        source.stop()?;
        let farewell = match under {
            Under::Testpmd => testpmd::farewell(&said),
            Under::Jlb => ingress::farewell(&said),
        };
        Ok(Side::of(report, farewell))
    }

    fn ours(&self, command: &str, end: &End) -> Command {
        let mut ours = Command::new(&self.options.program);
        ours.args([command, "--socket", &end.socket]);
        ours.args(["--flows", &end.flows.to_string(), "--cpu", &end.cpu.to_string()]);
        if end.ordinary {
            ours.arg("--ordinary");
        }
        ours
    }
}

fn in_bounds(what: &'static str, value: f64, (min, max): (f64, f64)) -> Result<(), PortsError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(PortsError::OutOfBounds { what, value, min, max })
    }
}
