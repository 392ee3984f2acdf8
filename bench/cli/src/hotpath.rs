use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use jlb_speed::{Figures, Hotpath, Machine, What, run};
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Established flows, of all workers together.
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// IPv6, inside and outside.
    #[arg(long)]
    v6: bool,
    /// Which packets are measured.
    #[arg(long, value_enum, default_value_t = Packet::Data)]
    packet: Packet,
    /// Workers: with 2, also how much faster two are than one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    workers: u8,
    /// Rounds of 16384 packets (SYNs: 8192); the best and the median are told.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Say the results as JSON, in one last line.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Packet {
    /// Of established flows, three TCP to one UDP.
    Data,
    /// That open a flow: with SYN.
    Syn,
}

#[derive(Debug, Args)]
pub(crate) struct EgressArguments {
    /// IPv6, inside and outside.
    #[arg(long)]
    v6: bool,
    /// Rounds of 16384 packets; the best and the median are told.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Say the results as JSON, in one last line.
    #[arg(long)]
    json: bool,
}

/// Clients that the replies go to.
const CLIENTS: u32 = 1_000_000;

pub(crate) fn main(a: &Arguments) -> ExitCode {
    let what = match a.packet {
        Packet::Data => What::Data,
        Packet::Syn => What::Syn,
    };
    let options =
        Hotpath { flows: a.flows, v6: a.v6, what, workers: a.workers, rounds: a.rounds.max(1) };
    measure("hotpath", &options, a.json)
}

pub(crate) fn egress(a: &EgressArguments) -> ExitCode {
    let what = What::Egress;
    let options = Hotpath { flows: CLIENTS, v6: a.v6, what, workers: 1, rounds: a.rounds.max(1) };
    measure("egress", &options, a.json)
}

fn measure(bench: &str, options: &Hotpath, in_json: bool) -> ExitCode {
    let told = run(options).map_err(|e| e.to_string()).and_then(|figures| {
        let mut out = io::stdout().lock();
        let mut told = tell(&figures, &mut out);
        if in_json {
            told = told.and_then(|()| writeln!(out, "{}", as_json(bench, &figures, options)));
        }
        told.map_err(|e| e.to_string())
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "jlb-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What it was measured on.
pub(crate) fn tell_machine(m: &Machine, out: &mut impl io::Write) -> io::Result<()> {
    writeln!(out, "{}; L2 {}; Linux {}", m.cpu, m.l2, m.kernel)?;
    writeln!(
        out,
        "packet buffers in {}; transparent huge pages: {}; {} build",
        m.packet_memory, m.transparent_huge_pages, m.build
    )
}

fn tell(f: &Figures, out: &mut impl io::Write) -> io::Result<()> {
    tell_machine(&f.machine, out)?;
    if f.flows > 0 {
        writeln!(
            out,
            "{} flows in tables for {}; opened in {:.0} ns each, members included",
            f.flows, f.capacity, f.open_ns
        )?;
    }
    writeln!(
        out,
        "{:.1} ns per packet (best round; median {:.1}), without {:.1} ns of the bench itself",
        f.best_ns, f.median_ns, f.harness_ns
    )?;
    writeln!(out, "{} packets, {} of them compared byte by byte", f.packets, f.verified)?;
    if let Some(bytes) = f.bytes_per_flow {
        writeln!(out, "{bytes:.1} bytes of memory per flow")?;
    }
    if let (Some(scaling), Some(alu)) = (f.scaling, f.alu_scaling) {
        writeln!(
            out,
            "two workers are {scaling:.2} times as fast as one; a loop that only computes: {alu:.2}"
        )?;
    }
    Ok(())
}

fn as_json(bench: &str, f: &Figures, options: &Hotpath) -> serde_json::Value {
    json!({
        "bench": bench,
        "packet": format!("{:?}", options.what).to_lowercase(),
        "v6": options.v6,
        "flows": f.flows,
        "capacity": f.capacity,
        "workers": options.workers,
        "ns_per_packet": f.best_ns,
        "median_ns_per_packet": f.median_ns,
        "harness_ns_per_packet": f.harness_ns,
        "open_ns_per_flow": f.open_ns,
        "bytes_per_flow": f.bytes_per_flow,
        "packets": f.packets,
        "verified": f.verified,
        "scaling": f.scaling,
        "alu_scaling": f.alu_scaling,
        "cpu": f.machine.cpu,
        "l2": f.machine.l2,
        "packet_memory": f.machine.packet_memory,
        "transparent_huge_pages": f.machine.transparent_huge_pages,
        "kernel": f.machine.kernel,
        "build": f.machine.build,
    })
}
