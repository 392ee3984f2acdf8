//! `jlb-bench`: the simulator, from the command line.
#![forbid(unsafe_code)]

mod sim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

/// Simulate and measure JLB.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemons' state machines in virtual time, with checkers that watch them.
    Sim(sim::Arguments),
}

fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(Arguments { command: Command::Sim(arguments) }) => sim::main(&arguments),
        Err(error) => {
            // A closed pipe is no reason to say more.
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
        }
    }
}
