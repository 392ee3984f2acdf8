use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jlb_hunting::{Balancer, Cores, Law, Outcome, Scenario, SlowDown, run};
use jlb_role::Nanos;
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Who places the jobs; without it, the table of all.
    #[arg(long, value_parser = balancer)]
    policy: Option<Balancer>,
    /// ρ: work that comes, over what all servers can do.
    #[arg(long, default_value_t = 0.88)]
    rho: f64,
    /// Servers.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=1024))]
    servers: u64,
    /// Cores of each; `mixed`: 1, 2, 4, 8 and so on; `weighted`: the same, and JLB has them for weights.
    #[arg(long, default_value = "2", value_parser = cores)]
    cores: Cores,
    /// Trackers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    trackers: u64,
    /// Mean length of a job, in milliseconds.
    #[arg(long, default_value_t = 100.0)]
    job_ms: f64,
    /// How long jobs are.
    #[arg(long, default_value = "exponential", value_parser = law)]
    law: Law,
    /// Time of one hop, in microseconds.
    #[arg(long, default_value_t = 50)]
    hop_us: u64,
    /// Between two Loads of a server, in milliseconds; 0: none. Default: JLB's own.
    #[arg(long)]
    report_ms: Option<u64>,
    /// Further servers that are asked after one refused.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=3))]
    reject_ttl: u8,
    /// The first server slows down to this share of its speed, after half of the time.
    #[arg(long)]
    slow: Option<f64>,
    /// Seconds that are simulated, of which a fiftieth is not counted.
    #[arg(long, default_value_t = 1000.0)]
    seconds: f64,
    /// Of all chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the pictures of docs/load-balancing.md into this folder, and nothing else.
    #[arg(long, conflicts_with = "policy")]
    plots: Option<PathBuf>,
    /// Say the results as JSON, one line for each.
    #[arg(long)]
    json: bool,
}

fn balancer(name: &str) -> Result<Balancer, String> {
    Balancer::named(name).ok_or_else(|| format!("one of {}", Balancer::names().join(", ")))
}

fn cores(text: &str) -> Result<Cores, String> {
    match text {
        "mixed" => Ok(Cores::Mixed),
        "weighted" => Ok(Cores::MixedWeighted),
        number => match number.parse() {
            Ok(cores @ 1..=64) => Ok(Cores::Each(cores)),
            _ => Err("a number from 1 to 64, mixed or weighted".to_owned()),
        },
    }
}

fn law(name: &str) -> Result<Law, String> {
    let names = Law::ALL.map(|(name, _)| name);
    let found = Law::ALL.into_iter().find(|(n, _)| *n == name).map(|(_, law)| law);
    found.ok_or_else(|| format!("one of {}", names.join(", ")))
}

impl Arguments {
    fn scenario(&self, balancer: Balancer) -> Scenario {
        let reference = Scenario::reference(balancer, self.rho);
        Scenario {
            servers: self.servers as usize,
            cores: self.cores,
            law: self.law,
            job: self.job_ms / 1000.0,
            trackers: self.trackers as usize,
            hop: Nanos(self.hop_us * 1000),
            report: match self.report_ms {
                None => reference.report,
                Some(0) => None,
                Some(ms) => Some(Nanos::from_millis(ms)),
            },
            reject_ttl: self.reject_ttl,
            seconds: self.seconds,
            warm_up: self.seconds / 50.0,
            seed: self.seed,
            slow: self.slow.map(|speed| SlowDown { at: self.seconds / 2.0, speed }),
            ..reference
        }
    }
}

pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.plots {
        Some(folder) => crate::hunting_plots::write(folder),
        None => report(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "jlb-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report(arguments: &Arguments) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let table = ["random", "sr4", "hunt4", "p2c-oracle", "jsq-oracle", "default"];
    let named: Vec<(&str, Balancer)> = match arguments.policy {
        Some(balancer) => vec![("", balancer)],
        None => table.iter().filter_map(|&name| Some((name, Balancer::named(name)?))).collect(),
    };
    if !arguments.json {
        writeln!(
            out,
            "{:12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6} {:>9}",
            "policy", "mean s", "p50 s", "p99 s", "rejects", "goodput", "jain", "flows"
        )?;
    }
    for (name, balancer) in named {
        let scenario = arguments.scenario(balancer);
        let outcome = run(&scenario);
        if arguments.json {
            writeln!(out, "{}", as_json(name, &scenario, &outcome))?;
        } else {
            let Outcome {
                mean_s, p50_s, p99_s, rejects_per_flow, goodput_ratio, jain, flows, ..
            } = outcome;
            writeln!(
                out,
                "{name:12} {mean_s:8.4} {p50_s:8.4} {p99_s:8.4} {rejects_per_flow:8.3} \
                 {goodput_ratio:8.4} {jain:6.3} {flows:9}"
            )?;
        }
        out.flush()?;
    }
    Ok(())
}

fn as_json(name: &str, scenario: &Scenario, outcome: &Outcome) -> serde_json::Value {
    let mut value = json!({
        "mean_s": outcome.mean_s,
        "p50_s": outcome.p50_s,
        "p99_s": outcome.p99_s,
        "rejects_per_flow": outcome.rejects_per_flow,
        "goodput_ratio": outcome.goodput_ratio,
        "jain": outcome.jain,
        "flows": outcome.flows,
        "spilled": outcome.spilled,
    });
    if !name.is_empty() {
        value["policy"] = json!(name);
    }
    if let Some(SlowDown { at, .. }) = scenario.slow {
        // Jobs that came before, in the first second after, and later.
        value["p99_before_s"] = json!(outcome.p99_between(0.0, at - 5.0));
        value["p99_first_second_s"] = json!(outcome.p99_between(at, at + 1.0));
        value["p99_after_s"] = json!(outcome.p99_between(at + 1.0, f64::MAX));
    }
    value
}
