use std::fmt;

use jlb_speed::{Figures, Spread};
use serde::Serialize;

use crate::{Compare, site};

/// Of a MiB in segments of 1448 bytes, with an acknowledgement for every two.
const PACKETS: f64 = 725.0 + 362.0;

/// By which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Routed,
    Nftables,
    Nginx,
    Haproxy,
}

impl Way {
    pub(crate) const ALL: [Self; 5] =
        [Self::Direct, Self::Routed, Self::Nftables, Self::Nginx, Self::Haproxy];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Routed => "routed",
            Self::Nftables => "nftables",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    pub(crate) const fn address(self) -> &'static str {
        match self {
            Self::Direct => site::DIRECT,
            Self::Routed => site::ROUTED,
            Self::Nftables => site::NFTABLES,
            Self::Nginx => site::NGINX,
            Self::Haproxy => site::HAPROXY,
        }
    }
}

/// One transfer, in microseconds of CPU per MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) way: Way,
    /// The proxy's process.
    pub(crate) process_us: Option<f64>,
    /// Everybody who takes part.
    pub(crate) all_us: f64,
}

/// Of one way, in microseconds of CPU per MiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// The proxy's process; of the kernel there is none.
    pub process_us: Option<Spread>,
    /// All that the way took: everybody's time, less the median of the direct cable's.
    pub way_us: Spread,
}

/// Of all ways.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// Client and server without anything between them: what is taken off.
    pub direct_us: Spread,
    /// A router between them.
    pub routed: Cost,
    /// DNAT by nftables, with connection tracking.
    pub nftables: Cost,
    /// nginx, stream.
    pub nginx: Cost,
    /// HAProxy, tcp mode.
    pub haproxy: Cost,
}

impl Costs {
    pub(crate) fn of(took: &[Took]) -> Self {
        let by = |way: Way| took.iter().filter(move |took| took.way == way);
        let direct = Spread::of(by(Way::Direct).map(|took| took.all_us));
        let cost = |way| {
            let of_process: Vec<f64> = by(way).filter_map(|took| took.process_us).collect();
            Cost {
                process_us: (!of_process.is_empty()).then(|| Spread::of(of_process.into_iter())),
                way_us: Spread::of(by(way).map(|took| took.all_us - direct.median)),
            }
        };
        Self {
            direct_us: direct,
            routed: cost(Way::Routed),
            nftables: cost(Way::Nftables),
            nginx: cost(Way::Nginx),
            haproxy: cost(Way::Haproxy),
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "µs of CPU per MiB:")?;
        let ways = [&self.haproxy, &self.nginx, &self.nftables, &self.routed];
        for (cost, name) in ways.into_iter().zip(["HAProxy", "nginx", "nftables DNAT", "a router"])
        {
            match cost.process_us {
                Some(Spread { min, median, max }) => {
                    write!(f, " {name} {median:.0} ({min:.0} to {max:.0}; all of its way")?;
                    write!(f, " {:.0});", cost.way_us.median)?;
                }
                None => {
                    let Spread { min, median, max } = cost.way_us;
                    write!(f, " {name} {median:.0} ({min:.0} to {max:.0});")?;
                }
            }
        }
        write!(f, " taken off: direct {:.0}", self.direct_us.median)
    }
}

/// What came of it. Ours is without the cost of a card.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// That ours is without the cost of a card.
    pub label: &'static str,
    /// MiB of one transfer.
    pub mib: u32,
    /// Transfers by each way.
    pub times: u32,
    /// Established flows at our ingress.
    pub flows: u32,
    /// Nanoseconds per packet at our ingress, in the fastest round.
    pub hot_path_ns: f64,
    /// Packets of a MiB that are reckoned with: 725 of 1448 bytes of data, and an acknowledgement for every two (RFC 1122).
    pub packets_per_mib: f64,
    /// Packets of a MiB that passed the balancer here, without offloads; this kernel acknowledges less often.
    pub packets_per_mib_here: f64,
    /// Microseconds of CPU per MiB at our ingress: these packets, as if all passed there, also replies.
    pub jlb_us_per_mib: f64,
    /// HAProxy's process, with offloads.
    pub haproxy_us_per_mib: f64,
    /// nginx's process, with offloads.
    pub nginx_us_per_mib: f64,
    /// All of the way through nftables, with offloads.
    pub nftables_us_per_mib: f64,
    /// Ours over HAProxy, the latter with offloads.
    pub ratio_haproxy: f64,
    /// Ours over nginx, the latter with offloads.
    pub ratio_nginx: f64,
    /// Ours over nftables, the latter with offloads.
    pub ratio_nftables: f64,
    /// Ours over HAProxy without offloads: both handle packets of 1500 bytes.
    pub ratio_haproxy_without_offloads: f64,
    /// Ours over nginx without offloads.
    pub ratio_nginx_without_offloads: f64,
    /// Ours over nftables without offloads.
    pub ratio_nftables_without_offloads: f64,
    /// With the offloads of the cables: up to 64 KiB pass the kernel as one packet.
    pub with_offloads: Costs,
    /// Without.
    pub without_offloads: Costs,
}

impl Outcome {
    pub(crate) fn new(
        options: &Compare,
        hot_path: &Figures,
        packets_per_mib_here: f64,
        [with_offloads, without_offloads]: [Costs; 2],
    ) -> Self {
        let packets_per_mib = PACKETS.max(packets_per_mib_here);
        let ours = packets_per_mib * hot_path.best_ns / 1e3;
        let process = |cost: &Cost| cost.process_us.map_or(f64::NAN, |spread| spread.median);
        let [on, off] = [&with_offloads, &without_offloads];
        Self {
            label: "without NIC cost",
            mib: options.mib,
            times: options.times,
            flows: options.flows,
            hot_path_ns: hot_path.best_ns,
            packets_per_mib,
            packets_per_mib_here,
            jlb_us_per_mib: ours,
            haproxy_us_per_mib: process(&on.haproxy),
            nginx_us_per_mib: process(&on.nginx),
            nftables_us_per_mib: on.nftables.way_us.median,
            ratio_haproxy: ours / process(&on.haproxy),
            ratio_nginx: ours / process(&on.nginx),
            ratio_nftables: ours / on.nftables.way_us.median,
            ratio_haproxy_without_offloads: ours / process(&off.haproxy),
            ratio_nginx_without_offloads: ours / process(&off.nginx),
            ratio_nftables_without_offloads: ours / off.nftables.way_us.median,
            with_offloads,
            without_offloads,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "ours, without NIC cost: {:.0} packets per MiB ({:.0} here) × {:.1} ns = {:.1} µs of CPU per MiB",
            self.packets_per_mib, self.packets_per_mib_here, self.hot_path_ns, self.jlb_us_per_mib
        )?;
        writeln!(
            f,
            "that is {:.3} of HAProxy, {:.3} of nginx, {:.3} of nftables DNAT, all with offloads",
            self.ratio_haproxy, self.ratio_nginx, self.ratio_nftables
        )?;
        write!(
            f,
            "and without offloads {:.3}, {:.3}, {:.3}",
            self.ratio_haproxy_without_offloads,
            self.ratio_nginx_without_offloads,
            self.ratio_nftables_without_offloads
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_what_all_took_less_the_direct_cable() {
        let took = |way, process_us, all_us| Took { way, process_us, all_us };
        let all: Vec<Took> = [0.0, 1.0, 2.0]
            .into_iter()
            .flat_map(|n| {
                [
                    took(Way::Direct, None, 100.0 + n),
                    took(Way::Nftables, None, 150.0 + n),
                    took(Way::Haproxy, Some(70.0 + n), 300.0 + n),
                ]
            })
            .collect();
        let costs = Costs::of(&all);
        assert_eq!(costs.nftables.way_us, Spread { min: 49.0, median: 50.0, max: 51.0 });
        assert_eq!(costs.nftables.process_us, None);
        assert_eq!(costs.haproxy.process_us.map(|s| s.median), Some(71.0));
        assert_eq!(costs.haproxy.way_us.median, 200.0);
    }
}
