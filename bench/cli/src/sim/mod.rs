//! `jlb-bench sim`.

mod seeds;
mod sum;
mod watch;

use core::time::Duration;
use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use clap::{Args, value_parser};
use jlb_role::{Nanos, Rule};
use jlb_sim::{
    CANARIES, Failure, Part, Report, Sink, catch_of, minimise, run, run_reference, run_without,
};
use serde_json::json;

use crate::disrupt::catch_signals;
use sum::Sum;

/// Failing seeds that are shown.
const SHOWN: usize = 10;

const HELP: &str = "\
Examples:
  jlb-bench sim --seeds 10000 --json         that many clusters in trouble, and every canary
  jlb-bench sim --seed 4711 --trace          one of them, event by event
  jlb-bench sim --without Cold --seeds 1000  which seeds see that a rule is off
  jlb-bench sim --reference 60               how fast it is";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// How many seeds to run. Every 10 s a line tells how far they are, and a violation is shown as soon as it is seen.
    #[arg(long, default_value_t = 300, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them: 0, unless told otherwise.
    #[arg(long, conflicts_with = "seed")]
    first: Option<u64>,
    /// Run this one seed: replays it exactly.
    #[arg(long)]
    seed: Option<u64>,
    /// Tell every event of that seed, one a line.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Leave a part of that seed's plan out: fault-N, client-N, or a kind of trouble as --minimise names them.
    #[arg(long, requires = "seed", value_name = "PART", value_delimiter = ',')]
    leave_out: Vec<Part>,
    /// Find out what of that seed's plan its violation does not need.
    #[arg(long, requires = "seed", conflicts_with = "leave_out")]
    minimise: bool,
    /// Switch a rule of the protocol off: a canary, which the checkers must catch.
    #[arg(long, value_parser = rule)]
    without: Option<Rule>,
    /// Leave the canaries out, which else run after the seeds.
    #[arg(long)]
    no_canaries: bool,
    /// Seeds run at once; each is one thread.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Run seeds until interrupted.
    #[arg(long, conflicts_with_all = ["seeds", "seed", "without"])]
    soak: bool,
    /// Run the load by which the speed is stated, for so many seconds of virtual time (1 to 900), in one thread.
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=900))]
    #[arg(conflicts_with_all = ["seeds", "seed", "without", "soak"])]
    reference: Option<u64>,
    /// Say the results as JSON, in one last line.
    #[arg(long)]
    json: bool,
}

fn rule(name: &str) -> Result<Rule, String> {
    let names = CANARIES.map(|rule| format!("{rule:?}"));
    let place = names.iter().position(|n| n == name);
    place.map(|n| CANARIES[n]).ok_or_else(|| format!("one of {}", names.join(", ")))
}

pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    match simulate(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "jlb-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was violated and every canary was caught.
fn simulate(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let mut out = io::stdout().lock();
    let began = Instant::now();
    let jobs = arguments.jobs.or_else(|| thread::available_parallelism().ok());
    let jobs = jobs.map_or(1, NonZeroUsize::get);
    let mut sum = Sum::default();
    let interrupted = Arc::new(AtomicBool::new(false));
    if arguments.soak {
        catch_signals(Arc::clone(&interrupted))?;
        let first = arguments.first.unwrap_or_else(watch::seed_of_today);
        sum = watch::run((first, u64::MAX), None, jobs, &interrupted)?;
    } else if let Some(seconds) = arguments.reference {
        sum.add(run_reference(arguments.first.unwrap_or(0), Nanos::from_secs(seconds))?);
    } else if let Some(seed) = arguments.seed {
        let print = |line: &str| {
            let _ = writeln!(io::stderr(), "{line}");
        };
        let sink = arguments.trace.then_some(Box::new(print) as Sink);
        let mut left_out: BTreeSet<Part> = arguments.leave_out.iter().copied().collect();
        if arguments.minimise {
            left_out = minimise(seed, arguments.without)?;
            let names: Vec<String> = left_out.iter().map(Part::to_string).collect();
            writeln!(out, "not needed: --leave-out {}", names.join(","))?;
        }
        sum.add(run_without(seed, &left_out, arguments.without, sink)?);
    } else {
        catch_signals(Arc::clone(&interrupted))?;
        let seeds = (arguments.first.unwrap_or(0), arguments.seeds);
        sum = watch::run(seeds, arguments.without, jobs, &interrupted)?;
    }
    let took = began.elapsed();
    sum.failed.sort_by_key(|r| r.seed);
    for report in sum.failed.iter().take(SHOWN) {
        writeln!(out, "{report}\n  replay: {}", report.replay(arguments.without))?;
    }
    let mut caught = 0;
    let canaries = arguments.seed.is_none()
        && arguments.without.is_none()
        && arguments.reference.is_none()
        && !arguments.soak
        && !arguments.no_canaries;
    let total = if canaries { testable().count() } else { 0 };
    for (rule, seeds) in testable().take(total) {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        match catch(rule, &seeds)? {
            Some(report) => {
                caught += 1;
                let what = report.violations.first().map(|v| v.invariant.to_string());
                let what = what.unwrap_or_default();
                writeln!(out, "canary {rule:?}: caught by {what}, seed {}", report.seed)?;
            }
            None => writeln!(out, "canary {rule:?}: NOT caught by seeds {seeds:?}")?,
        }
    }
    writeln!(out, "{sum}")?;
    if took > Duration::ZERO {
        writeln!(out, "{}", sum.progress(took))?;
    }
    if arguments.json {
        let line = json!({
            "seeds": sum.seeds,
            "violations": sum.failed.len(),
            "canaries_caught": caught,
            "canaries_total": total,
            "virtual_seconds": sum.virtual_seconds(),
            "wall_seconds": took.as_secs_f64(),
            "event_hash": format!("{:016x}", sum.hash),
        });
        writeln!(out, "{line}")?;
    }
    Ok(sum.failed.is_empty() && caught == total)
}

fn testable() -> impl Iterator<Item = (Rule, Vec<u64>)> {
    CANARIES.into_iter().map(|rule| (rule, catch_of(rule).seeds())).filter(|(_, s)| !s.is_empty())
}

/// The first seed with which the checkers see that a rule is off.
fn catch(rule: Rule, seeds: &[u64]) -> Result<Option<Report>, Failure> {
    for &seed in seeds {
        let report = run(seed, Some(rule), None)?;
        if !report.violations.is_empty() {
            return Ok(Some(report));
        }
    }
    Ok(None)
}
