//! `jlb-bench rebuild`: how long trackers need that have lost everything.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use jlb_disrupt::{Error, RebuildOptions, Rebuilt, rebuild};

use crate::disrupt::{Terminal, catch_signals};

const HELP: &str = "Raises a lab of its own, gives the agents' eBPF maps so many flows, kills all trackers, and starts them. \
Then it sends a packet of a thousand of the flows. Needs root. Exit code 0: all flows were known again, and each was answered by its own backend.

Examples:
  jlb-bench rebuild --flows 1000000 --json";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// Flows of all four backends together, 1000 to 8000000.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    flows: u32,
    /// The lab's name.
    #[arg(long, default_value = "rebuild", value_name = "NAME")]
    lab: String,
    /// Say the result as JSON, in one last line on standard output.
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut terminal = Terminal::new();
    let options = RebuildOptions { flows: arguments.flows, lab: arguments.lab.clone() };
    let outcome = catch_signals(interrupted.clone())
        .map_err(|source| Error::Io { what: "signals".to_owned(), source })
        .and_then(|()| rebuild(&options, &mut terminal, &interrupted));
    terminal.end(outcome, Rebuilt::is_well, arguments.json)
}
