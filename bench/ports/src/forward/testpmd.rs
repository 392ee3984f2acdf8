//! DPDK's own forwarder, on the same kind of port as ours, with as many buffers and as large bursts.

use std::process::Command;

use jlb_role::BURST;

use super::wire::{BUFFERS, DESCRIPTORS, SOURCE_MAC, device};
use super::{End, Farewell};
use crate::dpdk::MEMORY_MIB;

/// Begins its last line before it waits for its standard input to end.
pub(crate) const READY: &str = "Press enter to exit";

pub(crate) fn command(end: &End, (tested, other): (u16, u16)) -> Command {
    // To a pipe it would say nothing before its end.
    let mut command = Command::new("stdbuf");
    command.args(["--output=L", "dpdk-testpmd"]);
    // The main thread only waits; it may do so anywhere, as ours.
    command.arg(format!("--lcores=0@({other},{tested}),1@{tested}")).arg("--main-lcore=0");
    if end.ordinary {
        command.args(["--no-huge", "--no-shconf"]).arg(format!("-m{MEMORY_MIB}"));
    } else {
        command.arg("--in-memory");
    }
    command
        .args(["--no-pci", "--no-telemetry", "--log-level=error"])
        .arg(format!("--vdev={}", device("server", &end.socket)))
        .arg("--")
        .args(["--forward-mode=mac", "--auto-start", "--nb-cores=1", "--port-topology=loop"])
        .arg("--record-core-cycles")
        .arg(format!("--eth-peer=0,{SOURCE_MAC}"))
        .arg(format!("--burst={BURST}"))
        .arg(format!("--total-num-mbufs={BUFFERS}"))
        .args([format!("--rxd={DESCRIPTORS}"), format!("--txd={DESCRIPTORS}")]);
    command
}

/// Packets that it could not send, and the time that it was busy with a packet, as it counts them.
pub(crate) fn farewell(said: &[String]) -> Farewell {
    /// The number behind that word.
    fn after(line: &str, word: &str) -> Option<f64> {
        let (_, rest) = line.split_once(word)?;
        rest.split_whitespace().next()?.parse().ok()
    }
    // Of the port, and then of all ports: both are the same.
    let dropped = said.iter().find_map(|line| after(line, "TX-dropped:"));
    let busy = said
        .iter()
        .find_map(|line| Some(after(line, "CPU cycles/packet=")? * 1e3 / after(line, ") at ")?));
    Farewell { dropped: dropped.unwrap_or(0.0) as u64, busy_ns: busy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_farewell_is_read() {
        let line = |s: &str| s.to_owned();
        let said = [
            line("  RX-packets: 1560096        RX-dropped: 0             RX-total: 1560096"),
            line("  TX-packets: 1560000        TX-dropped: 96            TX-total: 1560096"),
            line("  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++"),
            line("  TX-packets: 1560000        TX-dropped: 96            TX-total: 1560096"),
            line(
                "  CPU cycles/packet=52.00 (total cycles=81124992 / total RX packets=1560096) at 2600 MHz Clock",
            ),
        ];
        assert_eq!(farewell(&said), Farewell { dropped: 96, busy_ns: Some(20.0) });
        assert_eq!(farewell(&[]), Farewell { dropped: 0, busy_ns: None });
    }
}
