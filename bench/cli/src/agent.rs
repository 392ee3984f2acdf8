//! `jlb-bench agent`: what the agent's eBPF programs cost.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use jlb_agent_bench::{Error, Options, Outcome, run};
use jlb_speed::Machine;
use serde_json::json;

use crate::USAGE;
use crate::disrupt::catch_signals;

const HELP: &str = "Needs root, Linux 6.6, iperf3 and nft. Its hosts are network namespaces without names, which go with it, however it ends.

Both hosts of a transfer run the programs, so that each ratio holds one encapsulation and one decapsulation.

Examples:
  jlb-bench agent                                      5 transfers of each kind, 100 s
  jlb-bench agent --times 1 --seconds 1 --json | tail -n 1 | jq .ns_per_syn";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// How often each transfer is made, in turns with and without the programs; the median is told.
    #[arg(long, default_value_t = 5, value_name = "N")]
    times: u32,
    /// Seconds of each transfer.
    #[arg(long, default_value_t = 2, value_name = "S")]
    seconds: u32,
    /// Say the result as JSON, in one last line on standard output.
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    let options = Options { times: arguments.times, seconds: arguments.seconds };
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut say = |line: &str| {
        let _ = writeln!(io::stderr(), "{line}");
    };
    let outcome = catch_signals(interrupted.clone())
        .map_err(Error::System)
        .and_then(|()| run(&options, &mut say, &interrupted));
    match outcome {
        Ok(outcome) => {
            let machine = Machine::here(false);
            tell(&outcome, &machine, &mut say);
            if arguments.json && writeln!(io::stdout(), "{}", as_json(&outcome, &machine)).is_err()
            {
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("jlb-bench: {error}"));
            let is_usage = matches!(error, Error::OutOfBounds { .. });
            if is_usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn tell(outcome: &Outcome, machine: &Machine, say: &mut dyn FnMut(&str)) {
    say(&format!("{}; Linux {}", machine.cpu, machine.kernel));
    let f = &outcome.throughput;
    for (what, inward, outward) in [
        ("super-packets", f.in_ratio, f.out_ratio),
        ("1500-byte frames", f.in_ratio_1500, f.out_ratio_1500),
    ] {
        say(&format!(
            "{what}: in {inward:.2}, out {outward:.2} of what passes without the programs"
        ));
    }
    let s = &outcome.syn;
    say(&format!(
        "an Open that is admitted: {:.0} ns (median {:.0}), {:.0} of them for the MAC, {:.0} after it; one that is refused: {:.0} ns",
        s.ns_per_syn, s.median_ns_per_syn, s.ns_mac, s.ns_decision, s.ns_per_refusal
    ));
}

fn as_json(outcome: &Outcome, machine: &Machine) -> serde_json::Value {
    let mut all = serde_json::to_value(outcome).unwrap_or_default();
    if let Some(all) = all.as_object_mut() {
        all.insert("bench".to_owned(), json!("agent"));
        all.insert("cpu".to_owned(), json!(machine.cpu));
        all.insert("kernel".to_owned(), json!(machine.kernel));
    }
    all
}
