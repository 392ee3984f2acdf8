//! `jlb-bench placement`: how long clients of real servers wait, under one policy or another.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use jlb_placement::{Error, Options, run, server};

use crate::USAGE;
use crate::disrupt::catch_signals;

const HELP: &str = "Raises a lab of its own for each run and takes it down again; needs root, and cgroups. Use a release build: the \
daemons share the CPUs with the servers.

Examples:
  jlb-bench placement                            5 runs of each policy, 6 minutes
  jlb-bench placement --slow 1 --rho 0.8 --json  all servers alike";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// How often each policy is run.
    #[arg(long, default_value_t = 5, value_name = "N")]
    times: u32,
    /// How long requests are counted, each time.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    seconds: f64,
    /// Load, over what all servers can do while none is slowed.
    #[arg(long, default_value_t = 0.6, value_name = "RHO")]
    rho: f64,
    /// Part of its quota that the first backend keeps.
    #[arg(long, default_value_t = 0.25, value_name = "PART")]
    slow: f64,
    /// CPUs that one backend has.
    #[arg(long, default_value_t = 0.2, value_name = "CPUS")]
    share: f64,
    /// CPU time of a request on the average; exponential.
    #[arg(long, default_value_t = 5.0, value_name = "MS")]
    job_ms: f64,
    /// The lab's name.
    #[arg(long, default_value = "placement", value_name = "NAME")]
    lab: String,
    /// Say the result as JSON, in one last line on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    /// TCP port to listen on, on all addresses.
    #[arg(long, default_value_t = server::PORT)]
    port: u16,
    /// What answers say: the backend.
    #[arg(long)]
    name: String,
}

pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    let &Arguments { times, seconds, rho, slow, share, job_ms, json, .. } = arguments;
    let options = Options { times, seconds, rho, slow, share, job_ms, lab: arguments.lab.clone() };
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut say = |line: &str| {
        let _ = writeln!(io::stderr(), "{line}");
    };
    let outcome = catch_signals(interrupted.clone())
        .map_err(Error::Load)
        .and_then(|()| run(&options, &mut say, &interrupted));
    match outcome {
        Ok(outcome) => {
            say(&outcome.to_string());
            let line = serde_json::to_string(&outcome).unwrap_or_default();
            if json && writeln!(io::stdout(), "{line}").is_err() {
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("jlb-bench: {error}"));
            let is_usage =
                matches!(error, Error::OutOfBounds { .. } | Error::Lab(jlb_lab::Error::BadName(_)));
            if is_usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

pub(crate) fn serve(arguments: &ServerArguments) -> ExitCode {
    match server::serve(arguments.port, &arguments.name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "jlb-bench: port {}: {error}", arguments.port);
            ExitCode::FAILURE
        }
    }
}
