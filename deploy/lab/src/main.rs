//! `jlb-lab`: raises a whole JLB site on this machine, for playing, tests and the demonstration.

#![forbid(unsafe_code)]

mod cli;
mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
