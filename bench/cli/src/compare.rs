//! `jlb-bench compare`: CPU of other load balancers for a MiB, beside ours.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use jlb_compare::{Compare, CompareError, run};

use crate::USAGE;
use crate::disrupt::catch_signals;
use crate::forward::with_machine;
use crate::hotpath::tell_machine;

const HELP: &str = "Needs root, haproxy, nginx with its stream module, and nftables (make setup). Makes three network namespaces, which end with it. \
Ours is without the cost of a card: packets of a MiB times nanoseconds of `hotpath`.

Examples:
  jlb-bench compare                            5 transfers of 1 GiB by each way, 2 minutes
  jlb-bench compare --mib 256 --times 3 --json";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// MiB of one transfer.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    mib: u32,
    /// Transfers by each way, with offloads and without.
    #[arg(long, default_value_t = 5, value_name = "N")]
    times: u32,
    /// Established flows at our ingress.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    flows: u32,
    /// Say the result as JSON, in one last line on standard output.
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(a: &Arguments) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut say = |line: &str| {
        let _ = writeln!(io::stderr(), "{line}");
    };
    let options = Compare { flows: a.flows, mib: a.mib, times: a.times };
    let outcome = catch_signals(interrupted.clone())
        .map_err(|source| CompareError::File { what: "signals".to_owned(), source })
        .and_then(|()| run(&options, &mut say, &interrupted));
    match outcome {
        Ok((outcome, machine)) => {
            let mut out = io::stdout().lock();
            let mut told =
                tell_machine(&machine, &mut out).and_then(|()| writeln!(out, "{outcome}"));
            if a.json {
                let json = with_machine("compare", serde_json::to_value(&outcome), &machine);
                told = told.and_then(|()| writeln!(out, "{json}"));
            }
            if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            say(&format!("jlb-bench: {error}"));
            let is_usage = matches!(error, CompareError::OutOfBounds { .. });
            if is_usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}
