//! `jlb-bench`: the simulator, the model checker and the benches, from the command line.
#![forbid(unsafe_code)]

mod agent;
mod compare;
mod disrupt;
mod forward;
mod generate;
mod growth;
mod hotpath;
mod hunting;
mod hunting_plots;
mod instructions;
mod model;
mod placement;
mod rebuild;
mod sim;
mod tracker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use jlb_hugepages::HugePages;

#[global_allocator]
static MEMORY: HugePages = HugePages;

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
    /// Hold connections through a lab, break something, and say what became of them.
    Disrupt(disrupt::Arguments),
    /// The server of `disrupt`, which it starts on its backends.
    DisruptServer(disrupt::ServerArguments),
    /// How long flow trackers that have lost everything need until they know again what all backends have.
    Rebuild(rebuild::Arguments),
    /// How long clients wait under one way of placing flows or another, in virtual time.
    Hunting(hunting::Arguments),
    /// How long clients of real servers in a lab wait, under one policy or another.
    Placement(placement::Arguments),
    /// The server of `placement`, which it starts on its backends.
    WorkServer(placement::ServerArguments),
    /// Measure what a packet costs at the ingress, without a network card.
    Hotpath(hotpath::Arguments),
    /// How the cost of a packet grows with the number of flows: a table, and a plot.
    Growth(growth::Arguments),
    /// Measure what a backend's reply costs at the egress, without a network card.
    Egress(hotpath::EgressArguments),
    /// Measure what a new flow costs at the flow tracker that places it, without a network card.
    Tracker(tracker::Arguments),
    /// Our ingress beside testpmd, through real ports of DPDK.
    Forward(forward::Arguments),
    /// CPU of other load balancers for a MiB, beside what its packets cost at our ingress.
    Compare(compare::Arguments),
    /// Clients' packets, out of any port of DPDK.
    Generate(generate::Arguments),
    /// The traffic of `forward`, which it starts.
    #[command(hide = true)]
    ForwardSource(forward::SourceArguments),
    /// The ingress of `forward`, which it starts.
    #[command(hide = true)]
    ForwardIngress(forward::EndArguments),
    /// Measure the agent's eBPF: iperf3 through it and past it, and what it takes for each new connection.
    Agent(agent::Arguments),
    /// Run a piece of the packet path for an instruction counter: see make instructions.
    Instructions(instructions::Arguments),
    /// Search all that the protocol's rules allow, in small configurations.
    Model(model::Arguments),
}

fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(Arguments { command }) => match command {
            Command::Sim(arguments) => sim::main(&arguments),
            Command::Disrupt(arguments) => disrupt::main(&arguments),
            Command::DisruptServer(arguments) => disrupt::serve(&arguments),
            Command::Rebuild(arguments) => rebuild::main(&arguments),
            Command::Hunting(arguments) => hunting::main(&arguments),
            Command::Placement(arguments) => placement::main(&arguments),
            Command::WorkServer(arguments) => placement::serve(&arguments),
            Command::Hotpath(arguments) => hotpath::main(&arguments),
            Command::Growth(arguments) => growth::main(&arguments),
            Command::Egress(arguments) => hotpath::egress(&arguments),
            Command::Tracker(arguments) => tracker::main(&arguments),
            Command::Forward(arguments) => forward::main(&arguments),
            Command::Compare(arguments) => compare::main(&arguments),
            Command::Generate(arguments) => generate::main(&arguments),
            Command::ForwardSource(arguments) => forward::be_source(&arguments),
            Command::ForwardIngress(arguments) => forward::be_ingress(&arguments),
            Command::Agent(arguments) => agent::main(&arguments),
            Command::Instructions(arguments) => instructions::main(&arguments),
            Command::Model(arguments) => model::main(&arguments),
        },
        Err(error) => {
            // A closed pipe is no reason to say more.
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
        }
    }
}
