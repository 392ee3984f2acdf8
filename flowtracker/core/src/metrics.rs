use std::collections::BTreeMap;

use jlb_map::{ServiceId, Snapshot};
use jlb_role::{Histogram, Metric, MetricKind, MetricSink};
use jlb_wire::{MemberId, RejectReason};

use crate::pick::Picker;
use crate::store::{Counts, Store};

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
static PENDING_CAPACITY: Metric = Metric {
    name: "jlb_pending_capacity",
    help: "Flows that can wait for a backend's answer at the same time.",
    kind: MetricKind::Gauge,
};
static REMEMBERED: Metric = Metric {
    name: "jlb_remembered",
    help: "Ends and refusals of flows that are remembered.",
    kind: MetricKind::Gauge,
};
static REJECTS: Metric = Metric {
    name: "jlb_rejects_total",
    help: "Offers of a new flow that a backend refused, counted by the tracker that heads the chain.",
    kind: MetricKind::Counter,
};

static PANIC: Metric = Metric {
    name: "jlb_service_panic",
    help: "1: more than half of a service's backends are unwell or do not answer, and health is ignored.",
    kind: MetricKind::Gauge,
};
static COLD_PARTITIONS: Metric = Metric {
    name: "jlb_cold_partitions",
    help: "Partitions of ours of which we do not yet know all flows: others head and vote there.",
    kind: MetricKind::Gauge,
};
static REFRESH_BATCHES: Metric = Metric {
    name: "jlb_refresh_batches_total",
    help: "Batches of flows that backends have told.",
    kind: MetricKind::Counter,
};
static REFRESH_SECONDS: Metric = Metric {
    name: "jlb_refresh_seconds",
    help: "Time from when partitions became cold until none was cold any more.",
    kind: MetricKind::Histogram,
};

/// Refusals by service, backend and reason. At most one count for each reason of each backend of each service.
#[derive(Debug, Default)]
pub(crate) struct Rejects(BTreeMap<(ServiceId, MemberId, RejectReason), u64>);

impl Rejects {
    pub(crate) fn count(&mut self, service: ServiceId, backend: MemberId, reason: RejectReason) {
        *self.0.entry((service, backend, reason)).or_default() += 1;
    }

    /// Services may have other numbers in the new list; those that are gone take their counts with them.
    pub(crate) fn renumber(&mut self, old: &Snapshot, new: &Snapshot) {
        let renumbered = |id: ServiceId| {
            let name = &old.service_by_id(id)?.name;
            (0..)
                .map(ServiceId)
                .zip(new.services())
                .find(|(_, s)| s.name == *name)
                .map(|(id, _)| id)
        };
        self.0 = core::mem::take(&mut self.0)
            .into_iter()
            .filter(|((_, backend, _), _)| new.member(*backend).is_some())
            .filter_map(|((id, backend, reason), n)| Some(((renumbered(id)?, backend, reason), n)))
            .collect();
    }

    fn collect(&self, snapshot: &Snapshot, out: &mut dyn MetricSink) {
        for ((service, backend, reason), &n) in &self.0 {
            let (Some(service), Some(backend)) =
                (snapshot.service_by_id(*service), snapshot.member(*backend))
            else {
                continue;
            };
            let labels = [
                ("service", &*service.name),
                ("backend", &*backend.name),
                ("reason", reason.label()),
            ];
            out.value(&REJECTS, &labels, n as f64);
        }
    }
}

/// As one worker sees it: all of them hear the same.
pub(crate) fn collect_panic(picker: &Picker, snapshot: &Snapshot, out: &mut dyn MetricSink) {
    for (id, service) in (0..).map(ServiceId).zip(snapshot.services()) {
        let labels = [("service", &*service.name)];
        out.value(&PANIC, &labels, u8::from(picker.panics(id)).into());
    }
}

pub(crate) fn collect_refresh(
    cold: usize,
    batches: u64,
    seconds: &Histogram,
    out: &mut dyn MetricSink,
) {
    out.value(&COLD_PARTITIONS, &[], cold as f64);
    out.value(&REFRESH_BATCHES, &[], batches as f64);
    out.histogram(&REFRESH_SECONDS, &[], seconds);
}

pub(crate) fn collect(
    store: &Store,
    rejects: &Rejects,
    snapshot: &Snapshot,
    out: &mut dyn MetricSink,
) {
    let Counts { pending, established, closing, tombstones, refusals, timers: _ } = store.counts();
    for (state, counts) in
        [("pending", pending), ("established", established), ("closing", closing)]
    {
        for (protocol, n) in ["tcp", "udp"].into_iter().zip(counts) {
            out.value(&FLOWS, &[("state", state), ("protocol", protocol)], n as f64);
        }
    }
    out.value(&FLOW_TABLE_CAPACITY, &[], store.capacity() as f64);
    out.value(&PENDING_CAPACITY, &[], store.pending_capacity() as f64);
    out.value(&REMEMBERED, &[("kind", "tombstone")], tombstones as f64);
    out.value(&REMEMBERED, &[("kind", "refusal")], refusals as f64);
    rejects.collect(snapshot, out);
}
