//! `jlbctl`: the operator's tool for the member list in etcd. Data goes to stdout, everything else to stderr.
#![forbid(unsafe_code)]

mod apply;
mod changes;
mod error;
mod renumber;
mod session;
mod status;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use jlb_node::EXIT_USAGE;
use jlb_node::serde_json::{Value, json};

use crate::changes::{Change, changes};
use crate::error::CtlError;
use crate::session::Session;

/// Shows, compares and applies the member list in etcd
///
/// Run it on any host of the cluster: it takes the way to etcd from [etcd] in jlb.toml, and needs the key files that the list
/// names, as the daemons do.
#[derive(Debug, Parser)]
#[command(name = "jlbctl", version, after_help = EXAMPLES)]
struct Cli {
    /// Where [etcd] is configured
    #[arg(long, value_name = "FILE", default_value = "/etc/jlb/jlb.toml", global = true)]
    config: PathBuf,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "human", global = true)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  jlbctl status                                 who is there, and which list each has in force
  jlbctl get > cluster.toml                     the list, to make a change in it
  jlbctl diff cluster.toml                      what the change is
  jlbctl apply cluster.toml --wait 10           put it in force, and see it taken everywhere
  jlbctl status -o json | jq -r '.members[] | select(.present | not).name'

Exit codes: 0 done; 1 refused, or etcd does not answer; 64 wrong usage; 78 wrong configuration or list.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Human,
    /// One JSON object
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the member list in etcd, as cluster.toml
    ///
    /// With -o json: an object with its numbers and the same text.
    Get,
    /// Show who is there, and which list each has in force
    ///
    /// A member is absent when etcd has not heard of its daemon for 4 s. That changes nothing by itself.
    Status,
    /// Show what FILE would change in the list in etcd
    Diff {
        /// A cluster.toml; - is stdin
        file: PathBuf,
    },
    /// Put the list of FILE in force
    ///
    /// Checks it as the daemons will, raises `generation`, and `epoch` if the set of flow trackers changed, and writes it
    /// if nobody else wrote meanwhile. Higher numbers of the file's own are kept; lower ones are refused, since such a file
    /// was made from an older list.
    #[command(after_help = "Examples:
  jlbctl get > cluster.toml && editor cluster.toml && jlbctl apply cluster.toml
  jlbctl apply cluster.toml --dry-run
  jlbctl apply /var/lib/jlb/ingress-1.cluster.toml    after etcd was wiped: the list that ingress-1 has in force")]
    Apply {
        /// A cluster.toml; - is stdin
        file: PathBuf,
        /// Lose more than a third of a role at once, or replace a list that cannot be read
        #[arg(long)]
        force: bool,
        /// Check everything and say what would change, and write nothing
        #[arg(long)]
        dry_run: bool,
        /// Wait until every member that is there has it in force; fail after so many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=3600))]
        wait: u64,
    },
}

fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are no errors: they go to stdout and end well.
            let code = if e.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
            return if e.print().is_ok() { code } else { ExitCode::FAILURE };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&e, 1),
    };
    let mut out = Output { is_json: cli.output == Format::Json };
    match runtime.block_on(command(&cli, &mut out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => match e.exit_code() {
            0 => ExitCode::SUCCESS,
            code => fail(&e, code),
        },
    }
}

async fn command(cli: &Cli, out: &mut Output) -> Result<(), CtlError> {
    let session = Session::open(&cli.config)?;
    match &cli.command {
        Command::Get => get(&session, out).await,
        Command::Status => status::status(&session, out).await,
        Command::Diff { file } => {
            let file = session.file(file)?;
            let stored = session.stored(&session.store.read().await?)?;
            let old = stored.as_ref().map(|s| &*s.list.snapshot);
            diff(&changes(old, &file.list.snapshot), out)
        }
        Command::Apply { file, force, dry_run, wait } => {
            let options = apply::Options { force: *force, dry_run: *dry_run, wait: *wait };
            apply::apply(&session, file, options, out).await
        }
    }
}

async fn get(session: &Session, out: &mut Output) -> Result<(), CtlError> {
    let content = session.store.read().await?;
    let Some(stored) = &content.list else {
        return Err(CtlError::Nothing(session.store.list_name()));
    };
    if !out.is_json {
        // Even with mistakes in it: how else could they be mended?
        return out.text(&stored.text);
    }
    let list = session.stored(&content)?.map(|s| s.list);
    out.json(&json!({
        "generation": list.as_ref().map(|l| l.snapshot.generation()),
        "epoch": list.as_ref().map(|l| l.snapshot.epoch().0),
        "digest": list.as_ref().map(|l| l.snapshot.digest().to_string()),
        "revision": stored.revision,
        "text": stored.text,
    }))
}

fn diff(changes: &[Change], out: &mut Output) -> Result<(), CtlError> {
    if out.is_json {
        let changes: Vec<_> = changes.iter().map(Change::to_json).collect();
        return out.json(&json!({ "changes": changes }));
    }
    if changes.is_empty() {
        return out.note("no difference");
    }
    changes.iter().try_for_each(|c| out.line(&c.to_string()))
}

/// Where results go.
struct Output {
    is_json: bool,
}

impl Output {
    fn text(&mut self, text: &str) -> Result<(), CtlError> {
        Ok(io::stdout().write_all(text.as_bytes())?)
    }

    fn line(&mut self, line: &str) -> Result<(), CtlError> {
        Ok(writeln!(io::stdout(), "{line}")?)
    }

    fn json(&mut self, value: &Value) -> Result<(), CtlError> {
        self.line(&format!("{value:#}"))
    }

    /// For people only.
    fn note(&mut self, note: &str) -> Result<(), CtlError> {
        Ok(writeln!(io::stderr(), "{note}")?)
    }
}

fn fail(why: &dyn core::fmt::Display, code: u8) -> ExitCode {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{why}");
    ExitCode::from(code)
}
