//! `jlb-ingress`: takes client packets for VIPs off the wire and sends them to backends; takes backends' replies and
//! sends them to clients.
#![forbid(unsafe_code)]

mod daemon;

use std::process::ExitCode;

use daemon::IngressDaemon;
use jlb_hugepages::HugePages;
use jlb_map::MemberRole;
use jlb_node::{Program, Start};

#[global_allocator]
static MEMORY: HugePages = HugePages;

const PROGRAM: Program = Program {
    name: "jlb-ingress",
    about: "Takes client connections for virtual IPs and spreads them over servers",
    version: env!("CARGO_PKG_VERSION"),
    role: MemberRole::Ingress,
};

fn main() -> ExitCode {
    match PROGRAM.start(PROGRAM.command(), std::env::args_os()) {
        Start::Run(setup) => jlb_node::run(&setup, IngressDaemon::start),
        Start::Other { .. } => ExitCode::from(jlb_node::EXIT_USAGE),
        Start::Exit(code) => code,
    }
}
