use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Args;
use jlb_speed::{NewFlowFigures, NewFlows, Policy, run_tracker};
use serde_json::json;

const HELP: &str = "Use a release build.

Examples:
  jlb-bench tracker --flows 1000000 --json
  jlb-bench tracker --policy power-of-two --v6";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// Flows that are established all the time.
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// IPv6, inside and outside.
    #[arg(long)]
    v6: bool,
    /// By which the tracker picks one of 64 backends.
    #[arg(long, default_value = Policy::default().label(), value_parser = policy)]
    policy: Policy,
    /// Rounds of 8192 flows; the best and the median are told.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Say the results as JSON, in one last line.
    #[arg(long)]
    json: bool,
}

fn policy(label: &str) -> Result<Policy, String> {
    let known = Policy::ALL.into_iter().find(|p| p.label() == label);
    known.ok_or_else(|| format!("one of {}", Policy::ALL.map(Policy::label).join(", ")))
}

pub(crate) fn main(a: &Arguments) -> ExitCode {
    let options = NewFlows { flows: a.flows, v6: a.v6, policy: a.policy, rounds: a.rounds.max(1) };
    let told = run_tracker(&options).map_err(|e| e.to_string()).and_then(|figures| {
        let mut out = io::stdout().lock();
        let mut told = tell(&figures, &mut out);
        if a.json {
            told = told.and_then(|()| writeln!(out, "{}", as_json(&figures, &options)));
        }
        told.map_err(|e| e.to_string())
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "jlb-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tell(f: &NewFlowFigures, out: &mut impl io::Write) -> io::Result<()> {
    super::hotpath::tell_machine(&f.machine, out)?;
    let [open, accept, close] = f.kinds_ns;
    writeln!(
        out,
        "{:.1} ns per new flow (best round; median {:.1}), without {:.1} ns of the bench itself",
        f.best_ns, f.median_ns, f.harness_ns
    )?;
    writeln!(out, "of them: Open {open:.1}, Accept {accept:.1}, Close {close:.1} (each its best)")?;
    writeln!(
        out,
        "{} flows opened beside {} others; {} messages compared byte by byte",
        f.opened, f.flows, f.verified
    )?;
    writeln!(out, "{:.1} bytes of memory per flow", f.bytes_per_flow)
}

fn as_json(f: &NewFlowFigures, options: &NewFlows) -> serde_json::Value {
    let [open, accept, close] = f.kinds_ns;
    json!({
        "bench": "tracker",
        "v6": options.v6,
        "policy": options.policy.label(),
        "flows": f.flows,
        "ns_per_open": f.best_ns,
        "median_ns_per_open": f.median_ns,
        "ns_open": open,
        "ns_accept": accept,
        "ns_close": close,
        "harness_ns_per_open": f.harness_ns,
        "new_flows_per_second": 1e9 / f.best_ns,
        "bytes_per_flow": f.bytes_per_flow,
        "opened": f.opened,
        "verified": f.verified,
        "cpu": f.machine.cpu,
        "l2": f.machine.l2,
        "packet_memory": f.machine.packet_memory,
        "transparent_huge_pages": f.machine.transparent_huge_pages,
        "kernel": f.machine.kernel,
        "build": f.machine.build,
    })
}
