//! `jlb-bench rebuild`: how long trackers need that have lost everything.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use jlb_disrupt::{Error, Progress as _, RebuildOptions, rebuild};

use crate::disrupt::{Terminal, catch_signals, exit_code};

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
    match outcome {
        Ok(outcome) => {
            terminal.say(&outcome.to_string());
            if arguments.json {
                let line = serde_json::to_string(&outcome).unwrap_or_default();
                if writeln!(io::stdout(), "{line}").is_err() {
                    return ExitCode::FAILURE;
                }
            }
            if outcome.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            terminal.say(&format!("jlb-bench: {error}"));
            exit_code(&error)
        }
    }
}
