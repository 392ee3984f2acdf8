//! How the cost of a packet grows with the number of flows: `hotpath` again and again, each in a process of its own, since
//! DPDK can be had once per process.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;
use jlb_hunting::{Curve, Plot};
use serde_json::{Value, json};

const HELP: &str = "Use a release build; with 16 million flows it takes some 700 MB of memory.

Examples:
  jlb-bench growth                                  the table
  jlb-bench growth --plots . --flows 1000,1000000   a picture of two points";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// Numbers of established flows.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1000,10000,100000,1000000,4000000,16000000"
    )]
    flows: Vec<u32>,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Also draw them, into this folder.
    #[arg(long)]
    plots: Option<PathBuf>,
    /// Say the results as JSON, in one last line.
    #[arg(long)]
    json: bool,
}

/// What is measured, and how `hotpath` is told.
const MEASURED: [(&str, &[&str]); 3] =
    [("IPv4", &[]), ("IPv6", &["--v6"]), ("SYN", &["--packet", "syn"])];

/// Nanoseconds of one packet, in the best and the median round.
#[derive(Clone, Copy, Debug)]
struct Cost {
    flows: u32,
    best: f64,
    median: f64,
    bytes_per_flow: Option<f64>,
}

pub(crate) fn main(a: &Arguments) -> ExitCode {
    match measure(a) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "jlb-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(a: &Arguments) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "best (median) nanoseconds per packet; bytes per flow")?;
    let mut all = Vec::new();
    for (name, options) in MEASURED {
        let mut costs = Vec::new();
        for &flows in &a.flows {
            let cost = hotpath(flows, a.rounds, options)?;
            let bytes = cost.bytes_per_flow.map_or(String::new(), |b| format!("; {b:.1} bytes"));
            writeln!(
                out,
                "{name:5} {flows:>9} flows: {:.1} ({:.1}){bytes}",
                cost.best, cost.median
            )?;
            costs.push(cost);
        }
        all.push((name, costs));
    }
    if let Some(folder) = &a.plots {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("growth.svg"), plot(&all).svg())?;
    }
    if a.json {
        let one = |c: &Cost| {
            json!({ "flows": c.flows, "ns_per_packet": c.best, "median_ns_per_packet": c.median,
                "bytes_per_flow": c.bytes_per_flow })
        };
        let curves: serde_json::Map<_, _> = all
            .iter()
            .map(|(name, costs)| (name.to_lowercase(), costs.iter().map(one).collect()))
            .collect();
        writeln!(out, "{}", json!({ "bench": "growth", "curves": curves }))?;
    }
    Ok(())
}

/// One measurement, by another process of this program.
fn hotpath(flows: u32, rounds: u32, options: &[&str]) -> io::Result<Cost> {
    let (flows_too, rounds) = (flows.to_string(), rounds.to_string());
    let output = Command::new(std::env::current_exe()?)
        .args(["hotpath", "--json", "--flows", &flows_too, "--rounds", &rounds])
        .args(options)
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let said: Value = serde_json::from_str(said.lines().next_back().unwrap_or_default())?;
    let number = |key: &str| {
        said[key].as_f64().ok_or_else(|| io::Error::other(format!("hotpath says no {key}")))
    };
    Ok(Cost {
        flows,
        best: number("ns_per_packet")?,
        median: number("median_ns_per_packet")?,
        bytes_per_flow: said["bytes_per_flow"].as_f64(),
    })
}

fn plot(all: &[(&str, Vec<Cost>)]) -> Plot {
    let curve = |(name, costs): &(&str, Vec<Cost>)| Curve {
        name: (*name).to_owned(),
        points: costs.iter().map(|c| (c.flows.into(), c.best)).collect(),
    };
    let most = all.iter().flat_map(|(_, costs)| costs).fold(0.0f64, |most, c| most.max(c.best));
    let marks = |costs: &[Cost]| costs.iter().map(|c| f64::from(c.flows)).collect();
    Plot {
        title: "cost of a packet at the ingress".into(),
        x: "established flows",
        y: "nanoseconds",
        x_marks: all.first().map(|(_, costs)| marks(costs)).unwrap_or_default(),
        y_marks: (0..=(most / 50.0).ceil() as u32).map(|n| f64::from(n) * 50.0).collect(),
        x_is_logarithmic: true,
        curves: all.iter().map(curve).collect(),
    }
}
