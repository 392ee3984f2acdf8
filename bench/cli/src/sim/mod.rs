use core::ops::Range;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Args;
use jlb_role::Rule;
use jlb_sim::{CANARIES, Catch, Failure, Report, catch_of, run};
use serde_json::json;

/// Failing seeds that are shown.
const SHOWN: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 300, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    first: u64,
    /// Run this one seed: replays it exactly.
    #[arg(long)]
    seed: Option<u64>,
    /// Tell every event of that seed, one a line.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Switch a rule of the protocol off: a canary, which the checkers must catch.
    #[arg(long, value_parser = rule)]
    without: Option<Rule>,
    /// Leave the canaries out, which else run after the seeds.
    #[arg(long)]
    no_canaries: bool,
    /// Seeds run at once; each is one thread.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Say the results as JSON, in one last line.
    #[arg(long)]
    json: bool,
}

fn rule(name: &str) -> Result<Rule, String> {
    let names = CANARIES.map(|rule| format!("{rule:?}"));
    let place = names.iter().position(|n| n == name);
    place.map(|n| CANARIES[n]).ok_or_else(|| format!("one of {}", names.join(", ")))
}

/// What all seeds came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: Vec<Report>,
    virtual_seconds: f64,
    events: u64,
    written_off: u64,
    faults: u64,
    amplification: u64,
    outcomes: [u64; Report::OUTCOMES.len()],
    hash: u64,
}

impl Sum {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.virtual_seconds += report.virtual_time.as_secs_f64();
        self.events += report.events;
        self.written_off += report.written_off;
        self.faults += report.faults;
        self.amplification = self.amplification.max(report.amplification);
        for (sum, n) in self.outcomes.iter_mut().zip(report.outcomes) {
            *sum += n;
        }
        // The seeds end in any order.
        self.hash ^= report.event_hash.rotate_left((report.seed % 64) as u32);
        if !report.violations.is_empty() {
            self.failed.push(report);
        }
    }
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
    let (first, count) =
        arguments.seed.map_or((arguments.first, arguments.seeds), |seed| (seed, 1));
    let mut sum = Sum::default();
    if arguments.trace {
        let print = |line: &str| {
            let _ = writeln!(io::stderr(), "{line}");
        };
        sum.add(run(first, arguments.without, Some(Box::new(print)))?);
    } else {
        let jobs = arguments.jobs.or_else(|| thread::available_parallelism().ok());
        sum = run_seeds(first, count, jobs.map_or(1, NonZeroUsize::get), arguments.without)?;
    }
    sum.failed.sort_by_key(|r| r.seed);
    for report in sum.failed.iter().take(SHOWN) {
        writeln!(out, "{report}\n  replay: {}", report.replay(arguments.without))?;
    }
    let mut caught = 0;
    let canaries =
        arguments.seed.is_none() && arguments.without.is_none() && !arguments.no_canaries;
    let total = if canaries { testable().count() } else { 0 };
    for (rule, seeds) in testable().take(total) {
        match catch(rule, seeds.clone())? {
            Some(report) => {
                caught += 1;
                let what = report.violations.first().map(|v| v.invariant.to_string());
                let what = what.unwrap_or_default();
                writeln!(out, "canary {rule:?}: caught by {what}, seed {}", report.seed)?;
            }
            None => writeln!(out, "canary {rule:?}: NOT caught by seeds {seeds:?}")?,
        }
    }
    let outcomes = Report::OUTCOMES.iter().zip(sum.outcomes);
    let outcomes: Vec<String> = outcomes.map(|(name, n)| format!("{n} {name}")).collect();
    writeln!(
        out,
        "{} seeds, {} with violations, {} events, {} faults, {:.0} s of virtual time in {:.1} s; {}; \
         {} backends written off, at most {} messages per packet, hash {:016x}",
        sum.seeds,
        sum.failed.len(),
        sum.events,
        sum.faults,
        sum.virtual_seconds,
        began.elapsed().as_secs_f64(),
        outcomes.join(", "),
        sum.written_off,
        sum.amplification,
        sum.hash,
    )?;
    if arguments.json {
        let line = json!({
            "seeds": sum.seeds,
            "violations": sum.failed.len(),
            "canaries_caught": caught,
            "canaries_total": total,
            "virtual_seconds": sum.virtual_seconds,
            "wall_seconds": began.elapsed().as_secs_f64(),
            "event_hash": format!("{:016x}", sum.hash),
        });
        writeln!(out, "{line}")?;
    }
    Ok(sum.failed.is_empty() && caught == total)
}

fn run_seeds(first: u64, count: u64, jobs: usize, without: Option<Rule>) -> Result<Sum, Failure> {
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum::default());
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    match run(first + n, without, None) {
                        Ok(report) => {
                            if let Ok(mut sum) = sum.lock() {
                                sum.add(report);
                            }
                        }
                        Err(error) => {
                            if let Ok(mut failure) = failure.lock() {
                                *failure = Some(error);
                            }
                            break;
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        Ok(None) | Err(_) => Ok(sum.into_inner().unwrap_or_default()),
    }
}

fn testable() -> impl Iterator<Item = (Rule, Range<u64>)> {
    CANARIES.into_iter().filter_map(|rule| match catch_of(rule) {
        Catch::Within { first, seeds } => Some((rule, first..first + seeds)),
        Catch::NotYet(_) => None,
    })
}

/// The first seed with which the checkers see that a rule is off.
fn catch(rule: Rule, seeds: Range<u64>) -> Result<Option<Report>, Failure> {
    for seed in seeds {
        let report = run(seed, Some(rule), None)?;
        if !report.violations.is_empty() {
            return Ok(Some(report));
        }
    }
    Ok(None)
}
