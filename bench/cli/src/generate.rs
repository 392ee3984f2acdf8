//! `jlb-bench generate`: clients' packets, out of any port of DPDK.

use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, ValueEnum, value_parser};
use jlb_dpdk::Device;
use jlb_ports::generate::{Generate, Profile, Sent, Traffic, run};
use jlb_runtime::{MacAddr, Prefix};
use jlb_speed::Borrowed;
use serde_json::json;

use crate::disrupt::catch_signals;
use crate::forward::complain;

const HELP: &str = "The port is any of DPDK: net_memif0,role=client,…  net_af_packet0,iface=…  or a PCI address (0000:01:00.0, bound to \
vfio-pci). A PCI device needs hugepages; net_af_packet needs root. bench/pktgen has the same profiles for Pktgen-DPDK.

Examples:
  jlb-bench generate --port net_af_packet0,iface=eth1 --next-hop 02:00:00:00:00:01 --to 203.0.113.10:80 --rate 100000
  jlb-bench generate --port 0000:01:00.0 --next-hop 02:00:00:00:00:01 --to 203.0.113.10:80 --profile syn --seconds 60
  jlb-bench generate --port net_memif0,role=client,id=0,socket=/run/m.sock,socket-abstract=no,rsize=12 \\
      --next-hop 02:00:00:00:fe:01 --to [2001:db8::10]:80 --from 2001:2::/48 --size 78 --json";

/// For tests of network devices (RFC 2544, RFC 5180): nobody else's addresses.
const CLIENTS: [&str; 2] = ["198.18.0.0/15", "2001:2::/48"];

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// The port, as DPDK names it.
    #[arg(long, value_name = "DEVICE")]
    port: Device,
    /// Which packets.
    #[arg(long, value_enum, default_value_t = Kind::Established)]
    profile: Kind,
    /// VIP and port of the service.
    #[arg(long, value_name = "VIP:PORT")]
    to: SocketAddr,
    /// Ethernet address that frames go to: the ingress, or a router before it.
    #[arg(long, value_name = "MAC")]
    next_hop: MacAddr,
    /// Ethernet address that frames come from.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:fe:02")]
    source: MacAddr,
    /// Where clients are: 198.18.0.0/15 or 2001:2::/48, unless told otherwise.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    from: Option<Prefix>,
    /// Their ports.
    #[arg(long, value_name = "FIRST-LAST", default_value = "1024-65535", value_parser = ports)]
    ports: RangeInclusive<u16>,
    /// Flows that packets are of, but SYNs.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    flows: u32,
    /// Bytes of a frame, its checksum included: from 64, with IPv6 from 78.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    size: u16,
    /// Packets per second; as fast as the port takes them, unless told.
    #[arg(long, value_name = "PPS", value_parser = rate)]
    rate: Option<f64>,
    /// How long.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = value_parser!(u32).range(1..))]
    seconds: u32,
    /// At most so many packets.
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    packets: u64,
    /// The CPU that sends; any, unless told.
    #[arg(long, value_name = "CPU")]
    cpu: Option<u16>,
    /// Say the result as JSON, in one last line on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// TCP with ACK, of flows drawn at random.
    Established,
    /// TCP with ACK; ports count up, then addresses.
    Range,
    /// SYNs of random clients: a flood.
    Syn,
    /// Of 20 packets 14 established, 5 UDP, one SYN.
    Mix,
}

fn prefix(text: &str) -> Result<Prefix, String> {
    let parsed = text.split_once('/').and_then(|(address, len)| {
        Prefix::new(address.parse::<IpAddr>().ok()?, len.parse().ok()?).ok()
    });
    parsed.ok_or_else(|| "expected ADDRESS/LENGTH without bits behind the length".to_owned())
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let parsed = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some(first..=last)
    });
    parsed.ok_or_else(|| "expected FIRST-LAST, 0 to 65535".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    parsed.ok_or_else(|| "expected a number above 0".to_owned())
}

pub(crate) fn main(a: &Arguments) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    let outcome = catch_signals(interrupted.clone()).map_err(Into::into).and_then(|()| {
        let plan = plan(a)?;
        // What was taken stays with the process; only the limit is put back.
        let borrowed = Borrowed::hugepages(64);
        run(&plan, borrowed.is_ok(), &mut live, &interrupted)
    });
    match outcome {
        Ok(sent) => {
            if io::stderr().is_terminal() {
                // The line that changed has done its work.
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
            let mut out = io::stdout().lock();
            let mut told = writeln!(out, "{}", in_words(&sent));
            if a.json {
                let mut json = json!(sent);
                json["bench"] = "generate".into();
                json["profile"] = format!("{:?}", a.profile).to_lowercase().into();
                json["size"] = a.size.into();
                told = told.and_then(|()| writeln!(out, "{json}"));
            }
            if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => complain(&error),
    }
}

fn plan(a: &Arguments) -> Result<Generate, jlb_ports::PortsError> {
    let from = match a.from {
        Some(from) => from,
        None => prefix(CLIENTS[usize::from(a.to.is_ipv6())]).map_err(io::Error::other)?,
    };
    let profile = match a.profile {
        Kind::Established => Profile::Established,
        Kind::Range => Profile::Range,
        Kind::Syn => Profile::Syn,
        Kind::Mix => Profile::Mix,
    };
    Ok(Generate {
        device: a.port.clone(),
        traffic: Traffic {
            profile,
            from,
            ports: a.ports.clone(),
            to: a.to,
            flows: a.flows,
            size: a.size,
            macs: (a.next_hop, a.source),
        },
        rate: a.rate,
        lasts: Duration::from_secs(a.seconds.into()),
        packets: a.packets,
        cpu: a.cpu,
    })
}

/// A line that changes on a terminal; elsewhere one after the other.
fn live(sent: &Sent) {
    let mut out = io::stderr().lock();
    let (before, after) = if out.is_terminal() { ("\r\x1b[K", "") } else { ("", "\n") };
    let _ = write!(out, "{before}{}{after}", in_words(sent));
    let _ = out.flush();
}

fn in_words(s: &Sent) -> String {
    format!(
        "{} packets in {:.1} s: {:.3} Mpps, {:.2} Gbit/s; {} refused by the port, {} came in",
        s.sent,
        s.seconds,
        s.pps / 1e6,
        s.bits_per_second / 1e9,
        s.refused,
        s.received
    )
}
