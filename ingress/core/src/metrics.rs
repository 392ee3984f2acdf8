use jlb_map::{ServiceId, Snapshot};
use jlb_role::{Histogram, Metric, MetricKind, MetricSink};
use jlb_wire::Protocol;

use crate::flows::Flows;

static FLOWS: Metric = Metric {
    name: "jlb_flows",
    help: "Flows in the flow table, by state.",
    kind: MetricKind::Gauge,
};
static FLOW_TABLE_CAPACITY: Metric = Metric {
    name: "jlb_flow_table_capacity",
    help: "Flows that the flow table can hold.",
    kind: MetricKind::Gauge,
};
static PENDING_ENTRIES: Metric = Metric {
    name: "jlb_pending_entries",
    help: "Entries of the pool of flows that wait for an answer.",
    kind: MetricKind::Gauge,
};
static PENDING_CAPACITY: Metric = Metric {
    name: "jlb_pending_capacity",
    help: "Flows that can wait for an answer at once.",
    kind: MetricKind::Gauge,
};
static OPENS: Metric = Metric {
    name: "jlb_opens_total",
    help: "Flows that this ingress opened, by what became of them.",
    kind: MetricKind::Counter,
};
static QUERIES: Metric = Metric {
    name: "jlb_queries_total",
    help: "Flows that began elsewhere and whose backend this ingress asked for, by what came of it.",
    kind: MetricKind::Counter,
};
static OPEN_DURATION: Metric = Metric {
    name: "jlb_open_duration_seconds",
    help: "Time from a flow's first packet to the answer to its Open.",
    kind: MetricKind::Histogram,
};
static FORWARDED: Metric = Metric {
    name: "jlb_forwarded_packets_total",
    help: "Clients' packets sent to backends (data), and replies sent to clients (egress).",
    kind: MetricKind::Counter,
};
pub(crate) static REPLIES: Metric = Metric {
    name: "jlb_replies_total",
    help: "Packets that the ingress itself sent to clients from a VIP.",
    kind: MetricKind::Counter,
};
pub(crate) static REPLIES_WITHHELD: Metric = Metric {
    name: "jlb_replies_withheld_total",
    help: "Such packets that were not sent: over the rate limit, no client's address, or no buffer.",
    kind: MetricKind::Counter,
};

/// What became of an Open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Opened {
    /// A backend took the flow.
    Accepted,
    /// The trackers knew it already.
    Found,
    /// No backend took it.
    Refused,
    /// It ended before its Accept came.
    Closed,
    /// No answer came in time.
    Timeout,
}

impl Opened {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Accepted, "accepted"),
        (Self::Found, "found"),
        (Self::Refused, "refused"),
        (Self::Closed, "closed"),
        (Self::Timeout, "timeout"),
    ];
}

/// What came of a Query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Queried {
    /// The flow's backend is known now.
    Found,
    /// Two trackers do not know the flow.
    Unknown,
    /// No answer came in time.
    Timeout,
}

/// As in the label `result`.
const QUERIED: [&str; 3] = ["found", "unknown", "timeout"];

/// Everything counted, by one worker.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// By [`ServiceId`] of the snapshot in force.
    services: Vec<ServiceCounters>,
    open_duration: Histogram,
    queries: [u64; QUERIED.len()],
    pub(crate) data: u64,
    pub(crate) egress: u64,
    /// Packets of clients, backends and trackers, whatever became of them; Probe does not count.
    pub(crate) work: u64,
}

#[derive(Debug, Default)]
struct ServiceCounters {
    name: String,
    opens: [u64; Opened::ALL.len()],
}

impl Counters {
    /// Takes a new list of services; those that stay keep their counts.
    pub(crate) fn update(&mut self, snapshot: &Snapshot) {
        let mut old = core::mem::take(&mut self.services);
        self.services = snapshot
            .services()
            .iter()
            .map(|service| match old.iter().position(|s| s.name == service.name) {
                Some(at) => old.swap_remove(at),
                None => ServiceCounters { name: service.name.clone(), ..Default::default() },
            })
            .collect();
    }

    /// An Open came to an end after so many seconds.
    pub(crate) fn opened(&mut self, service: Option<ServiceId>, how: Opened, seconds: f64) {
        if let Some(service) = service.and_then(|id| self.services.get_mut(id.index())) {
            service.opens[how as usize] += 1;
        }
        match how {
            Opened::Accepted | Opened::Found | Opened::Refused => {
                self.open_duration.observe(seconds);
            }
            Opened::Closed | Opened::Timeout => {}
        }
    }

    /// A Query came to an end.
    pub(crate) const fn queried(&mut self, how: Queried) {
        self.queries[how as usize] += 1;
    }

    pub(crate) fn collect(&self, flows: &Flows, pending: (usize, usize), out: &mut dyn MetricSink) {
        for (state, label) in ["pending", "established", "closing"].into_iter().enumerate() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let labels = [("state", label), ("protocol", protocol.label())];
                out.value(&FLOWS, &labels, flows.count(state, protocol) as f64);
            }
        }
        out.value(&FLOW_TABLE_CAPACITY, &[], flows.capacity() as f64);
        out.value(&PENDING_ENTRIES, &[], pending.0 as f64);
        out.value(&PENDING_CAPACITY, &[], pending.1 as f64);
        for service in &self.services {
            for (how, result) in Opened::ALL {
                let labels = [("service", service.name.as_str()), ("result", result)];
                out.value(&OPENS, &labels, service.opens[how as usize] as f64);
            }
        }
        for (result, n) in QUERIED.into_iter().zip(self.queries) {
            out.value(&QUERIES, &[("result", result)], n as f64);
        }
        out.histogram(&OPEN_DURATION, &[], &self.open_duration);
        for (path, n) in [("data", self.data), ("egress", self.egress)] {
            out.value(&FORWARDED, &[("path", path)], n as f64);
        }
    }
}
