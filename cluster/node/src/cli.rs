use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgMatches, Command, value_parser};
use jlb_config::{FileKind, Host};
use jlb_map::{MemberRole, Snapshot};

use crate::files::{LoadError, load_cluster, load_host, read, read_key};
use crate::membership::{Begin, BeginError};
use crate::{Setup, fresh_boot_id};

/// Bad configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;
/// Bad command line (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;

/// A daemon as its command line shows it.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The binary's name.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it does in the cluster.
    pub role: MemberRole,
}

/// Where the configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// This host's file.
    pub host: PathBuf,
    /// The cluster's file; not read with `[etcd]`.
    pub cluster: PathBuf,
}

impl Paths {
    /// This host's directory of configuration.
    pub(crate) fn directory(&self) -> &Path {
        self.host.parent().unwrap_or(Path::new(""))
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Start {
    /// To run as a daemon; the configuration has been read.
    Run(Box<Setup>),
    /// A subcommand that the daemon added to [`Program::command`].
    Other {
        /// Its name.
        name: String,
        /// Its arguments.
        matches: ArgMatches,
        /// Where the configuration is.
        paths: Paths,
    },
    /// Nothing more: help was shown, files were checked, or something was wrong and has been said.
    Exit(ExitCode),
}

impl Program {
    /// The common command line: `--config`, `--cluster`, `--version`, `check-config FILE…`. A daemon may add
    /// subcommands.
    #[must_use]
    pub fn command(&self) -> Command {
        let path = |name: &'static str, default: &'static str, help: &'static str| {
            let arg = Arg::new(name).long(name).value_name("FILE").default_value(default);
            arg.value_parser(value_parser!(PathBuf)).global(true).help(help)
        };
        let files = Arg::new("files").value_name("FILE").num_args(1..).required(true);
        let check = Command::new("check-config")
            .about("Check files jlb.toml and cluster.toml, also against each other")
            .arg(
                files
                    .value_parser(value_parser!(PathBuf))
                    .help("jlb.toml or cluster.toml, in any order"),
            );
        Command::new(self.name)
            .about(self.about)
            .version(self.version)
            .arg(path("config", "/etc/jlb/jlb.toml", "What this host does"))
            .arg(path(
                "cluster",
                "/etc/jlb/cluster.toml",
                "Who is in the cluster and what it serves; not read if [etcd] is configured",
            ))
            .subcommand(check)
    }

    /// Reads the command line, and whatever it asks for.
    pub fn start(&self, command: Command, args: impl IntoIterator<Item = OsString>) -> Start {
        let matches = match command.try_get_matches_from(args) {
            Ok(matches) => matches,
            Err(e) => {
                // Help and version are no errors: they go to stdout and end well.
                let code =
                    if e.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
                return Start::Exit(if e.print().is_ok() { code } else { ExitCode::FAILURE });
            }
        };
        let path = |name: &str| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
        let paths = Paths { host: path("config"), cluster: path("cluster") };
        match matches.subcommand() {
            None => match self.setup(paths) {
                Ok(setup) => Start::Run(Box::new(setup)),
                Err(code) => Start::Exit(code),
            },
            Some(("check-config", given)) => {
                let files: Vec<_> =
                    given.get_many::<PathBuf>("files").into_iter().flatten().collect();
                Start::Exit(self.check(&files))
            }
            Some((name, given)) => {
                Start::Other { name: name.to_owned(), matches: given.clone(), paths }
            }
        }
    }

    fn setup(&self, paths: Paths) -> Result<Setup, ExitCode> {
        let host = load_host(&paths.host).map_err(|e| {
            report(&e);
            // So that the mistakes of both are seen at once.
            if let Err(e) = load_cluster(&paths.cluster) {
                report(&e);
            }
            ExitCode::from(EXIT_CONFIG)
        })?;
        let begin = Begin::find(&host, &paths).map_err(|e| {
            say(&e.to_string());
            match e {
                BeginError::Load(_) => ExitCode::from(EXIT_CONFIG),
                // Another try may find it.
                BeginError::Nothing { .. } | BeginError::Runtime(_) => ExitCode::FAILURE,
            }
        })?;
        let cluster = Arc::clone(&begin.list.snapshot);
        let me = host.find_in(&cluster, self.role).map_err(|e| {
            report(&e.into());
            // What is wrong here may be mended in etcd while nobody is at this host.
            if host.etcd.is_some() { ExitCode::FAILURE } else { ExitCode::from(EXIT_CONFIG) }
        })?;
        let boot = fresh_boot_id().map_err(|e| {
            say(&format!("error: no randomness for a boot id: {e}"));
            ExitCode::FAILURE
        })?;
        Ok(Setup { program: *self, paths, host, cluster, begin, me, boot })
    }

    fn check(&self, files: &[&PathBuf]) -> ExitCode {
        let mut hosts: Vec<(&Path, Host)> = Vec::new();
        let mut clusters: Vec<(&Path, Arc<Snapshot>)> = Vec::new();
        let mut wrong = false;
        for path in files {
            let kind = read(path).map(|text| FileKind::of(&path.display().to_string(), &text));
            let checked = kind.and_then(|kind| match kind {
                FileKind::Host => {
                    let host = load_host(path)?;
                    host.require(self.role)?;
                    host.etcd_secrets(&mut read_key)?;
                    hosts.push((path, host));
                    Ok(())
                }
                FileKind::Cluster => load_cluster(path).map(|c| clusters.push((path, c))),
            });
            if let Err(e) = checked {
                wrong = report(&e);
            }
        }
        for (_, host) in &hosts {
            for (_, cluster) in &clusters {
                if let Err(e) = host.check_against(cluster, self.role) {
                    wrong = report(&e.into());
                }
            }
        }
        if wrong {
            return ExitCode::from(EXIT_CONFIG);
        }
        let mut out = io::stdout();
        for path in files {
            if writeln!(out, "{}: ok", path.display()).is_err() {
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }
}

/// Says what is wrong, and that something is.
fn report(e: &LoadError) -> bool {
    say(&e.to_string());
    true
}

fn say(text: &str) {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}
