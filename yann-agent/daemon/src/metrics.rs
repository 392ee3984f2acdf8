//! What the kernel half counts, for Prometheus.

use jlb_role::{Metric, MetricKind, MetricSink, Reason};
use jlb_wire::RejectReason;

use crate::config::service_name;
use crate::maps::{Maps, SLOTS, Tally};

static DROPPED: Metric = Metric {
    name: "jlb_dropped_packets_total",
    help: "Dropped packets, by reason.",
    kind: MetricKind::Counter,
};
static FLOWS: Metric =
    Metric { name: "jlb_flows", help: "Flows, by state and protocol.", kind: MetricKind::Gauge };
static CAPACITY: Metric = Metric {
    name: "jlb_flow_table_capacity",
    help: "Flows that the table takes.",
    kind: MetricKind::Gauge,
};
static REMEMBERED: Metric = Metric {
    name: "jlb_remembered",
    help: "Answers and tombstones that are remembered.",
    kind: MetricKind::Gauge,
};
static OPENS: Metric = Metric {
    name: "jlb_opens_total",
    help: "Offered flows, by what was decided.",
    kind: MetricKind::Counter,
};
static REFUSALS: Metric = Metric {
    name: "jlb_refusals_total",
    help: "Flows that this host refused, by reason.",
    kind: MetricKind::Counter,
};
static UNWILLING: Metric = Metric {
    name: "jlb_service_unwilling",
    help: "1: this host refuses new flows of the service, for a reason of its own.",
    kind: MetricKind::Gauge,
};
static LOST: Metric = Metric {
    name: "jlb_events_lost_total",
    help: "Events that found the ring between eBPF and the daemon full.",
    kind: MetricKind::Counter,
};

/// What the host says of a service.
pub(crate) fn collect_word(service: &str, word: Option<RejectReason>, out: &mut dyn MetricSink) {
    for &reason in RejectReason::ALL.iter().filter(|reason| reason.is_told()) {
        let labels = [("service", service), ("reason", reason.label())];
        out.value(&UNWILLING, &labels, u8::from(word == Some(reason)).into());
    }
}

/// Gives all of it. `drops` are those of the user half.
pub(crate) fn collect(
    maps: &Maps,
    drops: &[u64; Reason::ALL.len()],
    flow_capacity: u32,
    out: &mut dyn MetricSink,
) {
    for (&reason, user) in Reason::ALL.iter().zip(drops) {
        let kernel = maps.drops.sum(reason as u32);
        out.value(&DROPPED, &[("reason", reason.label())], (kernel + user) as f64);
    }
    let tally = |t: Tally| maps.tally.get(t as u32).unwrap_or(0) as f64;
    for (state, protocol, n) in [
        ("pending", "tcp", tally(Tally::Admitted)),
        ("accepted", "tcp", tally(Tally::Accepted)),
        ("established", "tcp", tally(Tally::Established)),
        ("established", "udp", tally(Tally::Udp)),
    ] {
        out.value(&FLOWS, &[("state", state), ("protocol", protocol)], n);
    }
    out.value(&CAPACITY, &[], flow_capacity.into());
    out.value(&REMEMBERED, &[("kind", "rejected")], tally(Tally::Rejected));
    out.value(&REMEMBERED, &[("kind", "closed")], tally(Tally::Closed));
    out.value(&LOST, &[], maps.lost.sum(0) as f64);
    for slot in 0..SLOTS {
        let Some(service) = service_name(maps, slot as u16) else { continue };
        let decided = |reason: RejectReason| maps.decisions.sum(slot * 16 + reason as u32) as f64;
        let refused: f64 = RejectReason::ALL.iter().skip(1).map(|&r| decided(r)).sum();
        let accepted = decided(RejectReason::None);
        out.value(&OPENS, &[("service", &service), ("result", "accepted")], accepted);
        out.value(&OPENS, &[("service", &service), ("result", "rejected")], refused);
        for &reason in RejectReason::ALL.iter().skip(1) {
            let labels = [("service", service.as_str()), ("reason", reason.label())];
            out.value(&REFUSALS, &labels, decided(reason));
        }
    }
}
