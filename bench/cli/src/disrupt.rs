//! `jlb-bench disrupt`: what becomes of connections when something breaks.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use jlb_disrupt::load::Live;
use jlb_disrupt::{BEFORE, Error, FAULTS, Options, Outcome, Progress, find, run, server};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::USAGE;

const HELP: &str = "Raises a lab of its own and takes it down again; needs root. \
Exit code 0: nothing broke, nothing went astray, and the fault was there.

Examples:
  jlb-bench disrupt --fault none --connections 200
  jlb-bench disrupt --fault agent-kill --connections 200 --json
  jlb-bench disrupt --list";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// What breaks: one of --list.
    #[arg(long, required_unless_present = "list", value_name = "FAULT", value_parser = fault)]
    fault: Option<&'static str>,
    /// Long TCP connections to hold, 8 to 10000; half of them to the VIP of each family.
    #[arg(long, default_value_t = 2000, value_name = "N")]
    connections: u32,
    /// How often, each time in a new lab; counts are added up.
    #[arg(long, default_value_t = 1, value_name = "N")]
    times: u32,
    /// How long the fault lasts, in place of its own time.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u32>,
    /// First cut the ingress hosts off from the flow trackers: connections that move must break then, and be seen to.
    #[arg(long)]
    cannot_ask: bool,
    /// With --fault rolling: every daemon becomes that of this folder, which must also speak the next version of the
    /// protocol; then the list names that version, and then all of it goes back.
    #[arg(long, value_name = "FOLDER")]
    next_build: Option<PathBuf>,
    /// The lab's name.
    #[arg(long, default_value = "disrupt", value_name = "NAME")]
    lab: String,
    /// Say the result as JSON, in one last line on standard output.
    #[arg(long)]
    json: bool,
    /// List the faults.
    #[arg(long)]
    list: bool,
}

fn fault(name: &str) -> Result<&'static str, String> {
    find(name).map(|fault| fault.name).map_err(|error| error.to_string())
}

#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    /// TCP port to listen on, on all addresses.
    #[arg(long, default_value_t = server::PORT)]
    port: u16,
    /// What answers say: the backend, 1 to 16 bytes.
    #[arg(long, value_parser = name)]
    name: String,
}

fn name(text: &str) -> Result<String, String> {
    let fits = (1..=jlb_disrupt::frame::NAME).contains(&text.len());
    if fits { Ok(text.to_owned()) } else { Err("1 to 16 bytes".to_owned()) }
}

pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    if arguments.list {
        return list();
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut terminal = Terminal::new();
    let options = Options {
        connections: arguments.connections,
        times: arguments.times,
        before: BEFORE,
        lasts: arguments.seconds.map(|seconds| Duration::from_secs(seconds.into())),
        cannot_ask: arguments.cannot_ask,
        next_build: arguments.next_build.clone(),
        lab: arguments.lab.clone(),
    };
    let outcome = catch_signals(interrupted.clone())
        .map_err(|source| Error::Io { what: "signals".to_owned(), source })
        .and_then(|()| {
            run(arguments.fault.unwrap_or_default(), &options, &mut terminal, &interrupted)
        });
    terminal.end(outcome, Outcome::is_well, arguments.json)
}

fn exit_code(error: &Error) -> ExitCode {
    let is_usage = matches!(
        error,
        Error::OutOfBounds { .. } | Error::NoFault(_) | Error::Lab(jlb_lab::Error::BadName(_))
    );
    if is_usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
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

fn list() -> ExitCode {
    let mut out = io::stdout().lock();
    for fault in FAULTS {
        // A reader that has seen enough is no failure.
        if writeln!(out, "{:<24} {}", fault.name, fault.about).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// Ctrl-C and SIGTERM end the run in order, so that its lab goes down.
pub(crate) fn catch_signals(interrupted: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
            }
        });
        interrupted.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

/// Lines for people, and on a terminal one that changes.
pub(crate) struct Terminal {
    live: bool,
    /// Whether the changing line is there.
    shown: bool,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        Self { live: io::stderr().is_terminal(), shown: false }
    }

    /// Tells what came of a run, also as JSON if that is wanted.
    pub(crate) fn end<T: fmt::Display + Serialize>(
        mut self,
        outcome: Result<T, Error>,
        is_well: impl FnOnce(&T) -> bool,
        json: bool,
    ) -> ExitCode {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                self.say(&format!("jlb-bench: {error}"));
                return exit_code(&error);
            }
        };
        self.say(&outcome.to_string());
        let line = serde_json::to_string(&outcome).unwrap_or_default();
        if json && writeln!(io::stdout(), "{line}").is_err() {
            return ExitCode::FAILURE;
        }
        if is_well(&outcome) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Progress for Terminal {
    fn say(&mut self, what: &str) {
        // Back to the beginning of the line, which goes.
        let clear = if self.shown { "\r\x1b[K" } else { "" };
        self.shown = false;
        let _ = writeln!(io::stderr(), "{clear}{what}");
    }

    fn live(&mut self, live: Live) {
        if self.live {
            self.shown = true;
            let Live { alive, stalled, broken } = live;
            let _ =
                write!(io::stderr(), "\r\x1b[K{alive} alive, {stalled} stalled, {broken} broken");
        }
    }
}
