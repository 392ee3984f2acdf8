use jlb_dpdk::{Mempool, Port};
use jlb_role::{Metric, MetricKind, MetricSink, Reason, WorkerId};

use crate::ethernet::Ignored;
use crate::exception::Exception;
use crate::link::Counters;

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, kind: MetricKind::Counter }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, kind: MetricKind::Gauge }
}

static BUSY: Metric = counter(
    "jlb_worker_busy_seconds_total",
    "Time that a worker spent on packets, events and timers, without polling.",
);
static RECEIVED: Metric =
    counter("jlb_worker_received_packets_total", "IP packets that a worker took from its queue.");
static SENT: Metric =
    counter("jlb_worker_sent_packets_total", "Packets that a worker gave to the port.");
static HANDED_OVER: Metric = counter(
    "jlb_worker_handed_over_packets_total",
    "Packets that a worker gave to the worker that owns their flow.",
);
static DROPPED: Metric = counter("jlb_dropped_packets_total", "Packets dropped, by reason.");
static IGNORED: Metric = counter(
    "jlb_ignored_frames_total",
    "Frames that are not ours to handle: the kernel shares the interface.",
);
static EXCEPTION: Metric = counter(
    "jlb_exception_frames_total",
    "Frames between the port and the kernel, where they share no interface, by direction.",
);
static REPORTS_LOST: Metric = counter(
    "jlb_reports_lost_total",
    "Reports of workers that the control thread was too slow to take.",
);
static NO_BUFFER: Metric = counter(
    "jlb_packet_buffer_shortages_total",
    "Times that a worker wanted a packet buffer and the pool was empty.",
);
static PORT_RX_PACKETS: Metric =
    counter("jlb_port_received_packets_total", "Packets received by the port.");
static PORT_RX_BYTES: Metric =
    counter("jlb_port_received_bytes_total", "Bytes received by the port.");
static PORT_TX_PACKETS: Metric =
    counter("jlb_port_transmitted_packets_total", "Packets sent by the port.");
static PORT_TX_BYTES: Metric =
    counter("jlb_port_transmitted_bytes_total", "Bytes sent by the port.");
static PORT_MISSED: Metric = counter(
    "jlb_port_missed_packets_total",
    "Packets lost by the port before a worker took them, by cause.",
);
static PORT_TX_ERRORS: Metric =
    counter("jlb_port_transmit_errors_total", "Packets that the port failed to send.");
static LINK: Metric = gauge("jlb_port_link_up", "Whether the port's cable is in.");
static BUFFERS: Metric =
    gauge("jlb_packet_buffers", "Packet buffers, in use (the port's queues included) and free.");

/// What a worker knows of itself.
#[derive(Debug)]
pub(crate) struct WorkerNumbers<'a> {
    pub(crate) worker: WorkerId,
    pub(crate) busy_seconds: f64,
    pub(crate) received: u64,
    /// By [`Ignored`].
    pub(crate) ignored: &'a [u64; Ignored::ALL.len()],
    pub(crate) counters: &'a Counters,
    pub(crate) exception: Option<&'a Exception>,
}

pub(crate) fn worker(n: &WorkerNumbers<'_>, out: &mut dyn MetricSink) {
    let worker = n.worker.0.to_string();
    let by_worker: &[(&'static str, &str)] = &[("worker", &worker)];
    out.value(&BUSY, by_worker, n.busy_seconds);
    out.value(&RECEIVED, by_worker, n.received as f64);
    out.value(&SENT, by_worker, n.counters.sent as f64);
    out.value(&HANDED_OVER, by_worker, n.counters.handed_over as f64);
    out.value(&REPORTS_LOST, &[], n.counters.reports_lost as f64);
    out.value(&NO_BUFFER, &[], n.counters.no_buffer as f64);
    if let Some(exception) = n.exception {
        out.value(&EXCEPTION, &[("direction", "to_kernel")], exception.given as f64);
        out.value(&EXCEPTION, &[("direction", "from_kernel")], exception.taken as f64);
    }
    for &reason in Reason::ALL {
        out.value(
            &DROPPED,
            &[("reason", reason.label())],
            n.counters.dropped[reason as usize] as f64,
        );
    }
    for why in Ignored::ALL {
        out.value(&IGNORED, &[("cause", why.label())], n.ignored[why as usize] as f64);
    }
}

pub(crate) fn port(port: &Port, pool: &Mempool, out: &mut dyn MetricSink) {
    out.value(&BUFFERS, &[("state", "in_use")], f64::from(pool.in_use()));
    out.value(&BUFFERS, &[("state", "free")], f64::from(pool.available()));
    let name = ("port", port.device().name());
    if let Ok(has_link) = port.has_link() {
        out.value(&LINK, &[name], f64::from(has_link));
    }
    // A device that does not answer has no numbers; the rest of the scrape goes on.
    let Ok(s) = port.stats() else { return };
    out.value(&PORT_RX_PACKETS, &[name], s.rx_packets as f64);
    out.value(&PORT_RX_BYTES, &[name], s.rx_bytes as f64);
    out.value(&PORT_TX_PACKETS, &[name], s.tx_packets as f64);
    out.value(&PORT_TX_BYTES, &[name], s.tx_bytes as f64);
    out.value(&PORT_TX_ERRORS, &[name], s.tx_errors as f64);
    for (cause, lost) in
        [("queue_full", s.rx_missed), ("error", s.rx_errors), ("no_buffer", s.rx_no_buffer)]
    {
        out.value(&PORT_MISSED, &[name, ("cause", cause)], lost as f64);
    }
}
