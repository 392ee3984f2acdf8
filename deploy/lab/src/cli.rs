//! The command line: data on standard output, everything else on standard error.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jlb_lab::fault::{self, Fault, VipRoute};
use jlb_lab::{Error, Jlb, Lab, LabConfig, Status};

use crate::demo;

/// Wrong usage (sysexits.h).
const EX_USAGE: u8 = 64;

const EXAMPLES: &str = "Examples:
  jlb-lab up                             raise the usual lab, keep it
  jlb-lab exec client curl -s http://203.0.113.10/
  jlb-lab exec ingress-1 curl -s http://127.0.0.1:9750/metrics
  jlb-lab fault loss backend-1 --permille 100
  jlb-lab fault heal
  jlb-lab --lab two up --backends 2      a second one beside it
  jlb-lab -o json status
  jlb-lab down";

#[derive(Parser)]
#[command(name = "jlb-lab", version, about = "A whole JLB site on this machine: network namespaces as hosts", after_help = EXAMPLES)]
struct Cli {
    /// Which lab
    #[arg(short, long, global = true, default_value = "lab", value_name = "NAME", env = "JLB_LAB")]
    lab: String,
    /// How to print status and list
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Raise the lab, and leave it up
    Up(Up),
    /// Take the lab down; succeeds if there is none
    Down {
        /// Every lab there is
        #[arg(long)]
        all: bool,
    },
    /// Show what JLB promises, in a lab of its own
    Demo,
    /// Show hosts, addresses, processes, and where the router sends packets for VIPs
    Status,
    /// Names of all labs
    List,
    /// Run a command on a host
    #[command(after_help = "Example:\n  jlb-lab exec router ip route show 203.0.113.0/24")]
    Exec {
        /// The host: client, router, fabric, ingress-1, tracker-1, backend-1, …
        node: String,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Start daemons again, or change the member list
    #[command(
        subcommand,
        after_help = "Examples:\n  jlb-lab member start trackers\n  jlb-lab member restart ingress-1 tracker-1\n  jlb-lab member drain backend-2"
    )]
    Member(MemberCommand),
    /// Break something on purpose
    #[command(
        subcommand,
        after_help = "NODES are hosts, or: ingresses, trackers, backends, etcds.\nExamples:\n  jlb-lab fault stop trackers\n  jlb-lab fault mtu 1300\n  jlb-lab fault heal"
    )]
    Fault(FaultCommand),
}

#[derive(Args)]
struct Up {
    /// Ingress hosts, 1 to 20
    #[arg(long, default_value_t = LabConfig::default().ingresses, value_name = "N")]
    ingresses: u8,
    /// Flow trackers, 1 to 20
    #[arg(long, default_value_t = LabConfig::default().trackers, value_name = "N")]
    trackers: u8,
    /// Backends, 1 to 20
    #[arg(long, default_value_t = LabConfig::default().backends, value_name = "N")]
    backends: u8,
    /// Servers of etcd, which the member list then comes from: 1 or 3; 0: it is a file
    #[arg(long, default_value_t = LabConfig::default().etcd, value_name = "N")]
    etcd: u8,
    /// Only the hosts and their servers, without JLB's daemons
    #[arg(long)]
    no_jlb: bool,
    /// Workers of each ingress and tracker, 1 to 16
    #[arg(long, default_value_t = Jlb::default().workers, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// Members speak IPv6 with each other
    #[arg(long)]
    prefer_v6: bool,
    /// Largest packet between members, in bytes (underlay.mtu)
    #[arg(long, default_value_t = Jlb::default().mtu, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1280..=1500))]
    mtu: u16,
    /// No nginx, no UDP echo
    #[arg(long)]
    no_servers: bool,
    /// Size in MB of the file /payload that nginx serves
    #[arg(long, default_value_t = 100, value_name = "MB")]
    payload: u16,
}

#[derive(Subcommand)]
enum MemberCommand {
    /// Start the daemons of these hosts, after they were ended
    Start {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Stop and start the daemons of these hosts, one after another
    Restart {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Put a host back into the member list, and start its daemon
    Add { node: String },
    /// Take a host out of the member list, and stop its daemon
    Remove { node: String },
    /// Give a backend nothing new
    Drain { node: String },
    /// Give a backend new clients again
    Undrain { node: String },
}

#[derive(Subcommand)]
enum FaultCommand {
    /// End what runs on these hosts (SIGTERM, then SIGKILL)
    Stop {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// End what runs on these hosts at once (SIGKILL)
    Kill {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Stop the clocks of what runs on these hosts (SIGSTOP)
    Freeze {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// End JLB's daemons on these hosts, and only those (SIGTERM)
    StopDaemon {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// End JLB's daemons on these hosts, and only those, at once (SIGKILL)
    KillDaemon {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Stop the clocks of JLB's daemons on these hosts, and only those (SIGSTOP)
    FreezeDaemon {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Let nothing leave or reach these hosts, with their links up
    Silence {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Let nothing pass between two sets of hosts
    Partition {
        /// The one set, separated by commas
        #[arg(required = true, num_args = 1, value_delimiter = ',')]
        one: Vec<String>,
        /// The other set, separated by commas
        #[arg(required = true, num_args = 1, value_delimiter = ',')]
        other: Vec<String>,
    },
    /// Pull the cables of these hosts
    Unplug {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Make the link before the backends' network narrower
    Mtu {
        /// Largest packet in bytes
        #[arg(value_parser = clap::value_parser!(u16).range(1280..=1500))]
        bytes: u16,
    },
    /// Lose packets to and from these hosts
    Loss {
        #[arg(required = true)]
        nodes: Vec<String>,
        /// How many of a thousand
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        permille: u16,
    },
    /// Deliver packets to these hosts twice
    Duplicate {
        #[arg(required = true)]
        nodes: Vec<String>,
        /// How many of a thousand
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
        permille: u16,
    },
    /// Take an ingress host out of the router's next hops
    EcmpWithout {
        /// The ingress host
        node: String,
    },
    /// Change the order of the router's next hops
    EcmpReorder,
    /// Keep cores busy
    Hogs {
        /// How many processes
        #[arg(value_parser = clap::value_parser!(u8).range(1..=64))]
        count: u8,
    },
    /// Mend all faults but those that ended something
    Heal,
}

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EX_USAGE } else { 0 };
            // Nothing is left to do if not even this can be printed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    execute(cli).unwrap_or_else(|error| {
        say(&format!("jlb-lab: {error}"));
        let usage =
            matches!(error, Error::BadName(_) | Error::OutOfBounds { .. } | Error::NoNode { .. });
        if usage { ExitCode::from(EX_USAGE) } else { ExitCode::FAILURE }
    })
}

fn execute(cli: Cli) -> Result<ExitCode, Error> {
    let name = cli.lab.as_str();
    match cli.command {
        Command::Up(up) => {
            let config = LabConfig {
                ingresses: up.ingresses,
                trackers: up.trackers,
                backends: up.backends,
                etcd: up.etcd,
                servers: !up.no_servers,
                payload_bytes: u64::from(up.payload) * 1_000_000,
                jlb: (!up.no_jlb).then(|| Jlb {
                    workers: up.workers,
                    prefer_v6: up.prefer_v6,
                    mtu: up.mtu,
                    ..Jlb::default()
                }),
            };
            Lab::up(name, &config)?.keep()?;
            say(&format!("Lab {name} is up. Try: jlb-lab --lab {name} status"));
        }
        Command::Down { all } => {
            let names = if all { Lab::list()? } else { vec![name.to_owned()] };
            for name in names {
                let was = if Lab::down(&name)? { "is down" } else { "was not there" };
                say(&format!("Lab {name} {was}."));
            }
        }
        Command::Demo => {
            let well = demo::run(name)?;
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Status => {
            let status = Lab::status(name)?;
            match cli.output {
                Output::Json => print_json(&status),
                Output::Text => print(&table(&status)),
            }
        }
        Command::List => {
            let names = Lab::list()?;
            match cli.output {
                Output::Json => print_json(&names),
                Output::Text => names.iter().for_each(|name| print(&format!("{name}\n"))),
            }
        }
        Command::Exec { node, command } => return exec(name, &node, &command),
        Command::Member(command) => member(&mut Lab::open(name)?, command)?,
        Command::Fault(command) => {
            let lab = Lab::open(name)?;
            match fault_of(command) {
                Some(fault) => fault::inject(&lab, &fault)?,
                None => fault::heal(&lab)?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn member(lab: &mut Lab, command: MemberCommand) -> Result<(), Error> {
    match command {
        MemberCommand::Start { nodes } => lab.start_daemons(&lab.select(&nodes)?),
        MemberCommand::Restart { nodes } => lab.restart_daemons(&lab.select(&nodes)?),
        MemberCommand::Add { node } => lab.add_member(&node),
        MemberCommand::Remove { node } => lab.remove_member(&node),
        MemberCommand::Drain { node } => lab.drain(&node, true),
        MemberCommand::Undrain { node } => lab.drain(&node, false),
    }
}

fn routes_table(routes: &[VipRoute]) -> String {
    let row = |route: &VipRoute| {
        let fault = if route.is_fault { "  (by a fault)" } else { "" };
        format!("{:<24} via {}{fault}\n", route.prefix, route.next_hops.join(" "))
    };
    routes.iter().map(row).collect()
}

fn fault_of(command: FaultCommand) -> Option<Fault> {
    match command {
        FaultCommand::Stop { nodes } => Some(Fault::Stop(nodes)),
        FaultCommand::Kill { nodes } => Some(Fault::Kill(nodes)),
        FaultCommand::Freeze { nodes } => Some(Fault::Freeze(nodes)),
        FaultCommand::StopDaemon { nodes } => Some(Fault::StopDaemons(nodes)),
        FaultCommand::KillDaemon { nodes } => Some(Fault::KillDaemons(nodes)),
        FaultCommand::FreezeDaemon { nodes } => Some(Fault::FreezeDaemons(nodes)),
        FaultCommand::Silence { nodes } => Some(Fault::Silence(nodes)),
        FaultCommand::Partition { one, other } => Some(Fault::Partition { one, other }),
        FaultCommand::Duplicate { nodes, permille } => Some(Fault::Duplicate { nodes, permille }),
        FaultCommand::EcmpWithout { node } => Some(Fault::EcmpWithout(node)),
        FaultCommand::EcmpReorder => Some(Fault::EcmpReorder),
        FaultCommand::Hogs { count } => Some(Fault::CpuHogs(count)),
        FaultCommand::Unplug { nodes } => Some(Fault::Unplug(nodes)),
        FaultCommand::Mtu { bytes } => Some(Fault::Mtu(bytes)),
        FaultCommand::Loss { nodes, permille } => Some(Fault::Loss { nodes, permille }),
        FaultCommand::Heal => None,
    }
}

/// Becomes the command, so that its signals and its exit status are the caller's.
fn exec(lab: &str, node: &str, words: &[String]) -> Result<ExitCode, Error> {
    use std::os::unix::process::CommandExt;

    let node = Lab::open(lab)?.node(node)?;
    let Some((program, arguments)) = words.split_first() else {
        return Ok(ExitCode::from(EX_USAGE));
    };
    let error = node.command(program).args(arguments).exec();
    say(&format!("jlb-lab: {program}: {error}"));
    Ok(ExitCode::FAILURE)
}

fn table(status: &Status) -> String {
    let mut text =
        format!("lab {} is {}, files in {}\n", status.lab, status.state, status.dir.display());
    for node in &status.nodes {
        let [v4, v6] = node.addresses;
        let processes: Vec<String> = node
            .processes
            .iter()
            .map(|process| format!("{}({})", process.what, process.pid))
            .collect();
        let row = format!(
            "{:<11} {:<14} {:<18} {}",
            node.node,
            v4.to_string(),
            v6.to_string(),
            processes.join(" ")
        );
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text + &routes_table(&status.routes)
}

fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => say(&format!("jlb-lab: {error}")),
    }
}

/// To standard output. A reader that has gone (`| head`) is no error.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_an_executed_command_are_its_own() {
        let cli =
            Cli::try_parse_from(["jlb-lab", "exec", "client", "curl", "-o", "x", "--lab", "y"])
                .unwrap();
        assert_eq!(cli.lab, "lab");
        let Command::Exec { command, .. } = cli.command else { panic!("not exec") };
        assert_eq!(command, ["curl", "-o", "x", "--lab", "y"]);
    }
}
