use jlb_role::{Metric, MetricKind, MetricSink};
use jlb_wire::{BodyKind, Kind};

/// Messages between members, by kind and direction.
static MESSAGES: Metric = Metric {
    name: "jlb_messages_total",
    help: "Messages between members that were sent, or received and believed.",
    kind: MetricKind::Counter,
};

/// Counts messages between members.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    sent: Counts,
    received: Counts,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    control: [u64; Kind::ALL.len()],
    body: [u64; BodyKind::ALL.len()],
}

impl Messages {
    /// A control message went out.
    pub const fn sent(&mut self, kind: Kind) {
        self.sent.control[kind as usize - 1] += 1;
    }

    /// A control message came in and was believed.
    pub const fn received(&mut self, kind: Kind) {
        self.received.control[kind as usize - 1] += 1;
    }

    /// A body went out.
    pub const fn sent_body(&mut self, kind: BodyKind) {
        self.sent.body[kind as usize - 1] += 1;
    }

    /// A body came in and was believed.
    pub const fn received_body(&mut self, kind: BodyKind) {
        self.received.body[kind as usize - 1] += 1;
    }

    /// Gives `jlb_messages_total`.
    pub fn collect(&self, out: &mut dyn MetricSink) {
        for (direction, counts) in [("sent", &self.sent), ("received", &self.received)] {
            let control = Kind::ALL.iter().map(|k| k.label()).zip(counts.control);
            let body = BodyKind::ALL.iter().map(|k| k.label()).zip(counts.body);
            for (kind, n) in control.chain(body) {
                out.value(&MESSAGES, &[("kind", kind), ("direction", direction)], n as f64);
            }
        }
    }
}
