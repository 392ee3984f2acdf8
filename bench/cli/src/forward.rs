//! `jlb-bench forward`: our ingress beside testpmd, through real ports of DPDK.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use jlb_ports::PortsError;
use jlb_ports::forward::{End, Forward, Under, ingress, run, source};
use jlb_speed::Machine;
use serde_json::Value;

use crate::USAGE;
use crate::disrupt::catch_signals;
use crate::hotpath::tell_machine;

const HELP: &str = "Needs two CPUs, dpdk-testpmd (Debian: dpdk), and no root; as root it has hugepages. Use a release build. \
It is one process for the traffic, one for the system under test; nothing is left behind.

Examples:
  jlb-bench forward                                  1 M flows, 10 runs of each, 3 minutes
  jlb-bench forward --flows 1000 --times 3 --json    everything in the caches";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// Established flows.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    flows: u32,
    /// How often each of the two is measured.
    #[arg(long, default_value_t = 10, value_name = "N")]
    times: u32,
    /// How long packets are counted, each time.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    seconds: f64,
    /// Say the result as JSON, in one last line on standard output.
    #[arg(long)]
    json: bool,
}

/// One end of the port, of a process that `forward` starts.
#[derive(Debug, Args)]
pub(crate) struct EndArguments {
    /// Name of the socket at which both ends meet.
    #[arg(long)]
    socket: String,
    /// Established flows.
    #[arg(long)]
    flows: u32,
    /// The CPU that polls.
    #[arg(long)]
    cpu: u16,
    /// Without hugepages.
    #[arg(long)]
    ordinary: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SourceArguments {
    #[command(flatten)]
    end: EndArguments,
    /// Who forwards.
    #[arg(long, value_enum)]
    under: System,
    /// How long packets are counted.
    #[arg(long)]
    seconds: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum System {
    Testpmd,
    Jlb,
}

impl EndArguments {
    fn end(&self) -> End {
        let &Self { flows, cpu, ordinary, .. } = self;
        End { socket: self.socket.clone(), flows, cpu, ordinary }
    }
}

pub(crate) fn main(a: &Arguments) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut say = |line: &str| {
        let _ = writeln!(io::stderr(), "{line}");
    };
    let outcome = catch_signals(interrupted.clone())
        .and_then(|()| std::env::current_exe())
        .map_err(Into::into);
    let outcome = outcome.and_then(|program| {
        let options = Forward { flows: a.flows, times: a.times, seconds: a.seconds, program };
        run(&options, &mut say, &interrupted)
    });
    match outcome {
        Ok((outcome, machine)) => {
            let mut out = io::stdout().lock();
            let mut told =
                tell_machine(&machine, &mut out).and_then(|()| writeln!(out, "{outcome}"));
            if a.json {
                let json = with_machine("forward", serde_json::to_value(&outcome), &machine);
                told = told.and_then(|()| writeln!(out, "{json}"));
            }
            if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => complain(&error),
    }
}

pub(crate) fn be_ingress(a: &EndArguments) -> ExitCode {
    match ingress(&a.end(), &mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

pub(crate) fn be_source(a: &SourceArguments) -> ExitCode {
    let under = match a.under {
        System::Testpmd => Under::Testpmd,
        System::Jlb => Under::Jlb,
    };
    match source(&a.end.end(), under, a.seconds, &mut io::stdin().lock(), io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// Figures, with what they were measured on.
pub(crate) fn with_machine(
    bench: &str,
    figures: serde_json::Result<Value>,
    machine: &Machine,
) -> Value {
    let mut json = figures.unwrap_or_default();
    json["bench"] = bench.into();
    json["cpu"] = machine.cpu.as_str().into();
    json["packet_memory"] = machine.packet_memory.into();
    json["kernel"] = machine.kernel.as_str().into();
    json["build"] = machine.build.into();
    json
}

pub(crate) fn complain(error: &PortsError) -> ExitCode {
    let _ = writeln!(io::stderr(), "jlb-bench: {error}");
    let is_usage = matches!(error, PortsError::OutOfBounds { .. } | PortsError::Families { .. });
    if is_usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}
