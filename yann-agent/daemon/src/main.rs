//! `jlb-yann`: the agent of a backend host.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use jlb_map::MemberRole;
use jlb_node::clap::{Arg, ArgMatches, Command};
use jlb_node::{EXIT_CONFIG, Paths, Program, Start, known_cluster, load_host};
use jlb_yann::commands::{self, CommandError, Format};
use jlb_yann::daemon::Yann;

fn main() -> ExitCode {
    let program = Program {
        name: "jlb-yann",
        about: "Admits client connections on a backend host",
        version: env!("CARGO_PKG_VERSION"),
        role: MemberRole::Backend,
    };
    match program.start(command(&program), std::env::args_os()) {
        Start::Run(setup) => jlb_node::run(&setup, Yann::start),
        Start::Other { name, matches, paths } => other(&name, &matches, &paths),
        Start::Exit(code) => code,
    }
}

fn command(program: &Program) -> Command {
    let output = || {
        let arg = Arg::new("output").short('o').long("output").value_name("FORMAT");
        arg.value_parser(["human", "json"]).default_value("human").help("How to print")
    };
    program
        .command()
        .subcommand(Command::new("detach").about(
            "Take programs, VIPs, routes and settings away again; live connections through the VIPs break",
        ))
        .subcommand(
            Command::new("status")
                .about("List what was changed on this host, and what it replaced")
                .arg(output()),
        )
        .subcommand(Command::new("flows").about("List the live flows").arg(output()))
}

fn other(name: &str, matches: &ArgMatches, paths: &Paths) -> ExitCode {
    let host = match load_host(&paths.host) {
        Ok(host) => host,
        Err(e) => return fail(&e, EXIT_CONFIG),
    };
    let Some(yann) = &host.yann else {
        return fail(&format!("{}: no section [yann]", paths.host.display()), EXIT_CONFIG);
    };
    let pins: &PathBuf = &yann.bpf_pins;
    let format = match matches.try_get_one::<String>("output").ok().flatten().map(String::as_str) {
        Some("json") => Format::Json,
        Some(_) | None => Format::Human,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&e, 1),
    };
    let mut out = io::stdout().lock();
    let result = match name {
        "detach" => runtime.block_on(commands::detach(pins, &yann.interfaces)),
        "status" => runtime.block_on(commands::print_status(pins, format, &mut out)),
        _ => {
            // Without it, members have numbers instead of names.
            let cluster = known_cluster(&host, paths);
            commands::flows(pins, cluster.as_deref())
                .and_then(|lines| commands::print_flows(&lines, format, &mut out))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough.
        Err(CommandError::Write(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => fail(&e, 1),
    }
}

fn fail(why: &dyn core::fmt::Display, code: u8) -> ExitCode {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "jlb-yann: {why}");
    ExitCode::from(code)
}
