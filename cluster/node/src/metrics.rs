use std::collections::BTreeMap;

use jlb_role::{Histogram, Metric, MetricKind, Samples, Value};
use prometheus::TextEncoder;
use prometheus::proto;

/// The media type of the text format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// The samples in Prometheus' text format: sorted by name and labels, equal label sets added up.
pub(crate) fn render(samples: &Samples) -> Result<String, prometheus::Error> {
    let mut families: BTreeMap<&str, (&Metric, BTreeMap<Labels, Value>)> = BTreeMap::new();
    for sample in &samples.0 {
        let (_, rows) =
            families.entry(sample.metric.name).or_insert_with(|| (sample.metric, BTreeMap::new()));
        let mut labels = sample.labels.clone();
        labels.sort_unstable();
        match rows.get_mut(&labels) {
            None => {
                rows.insert(labels, sample.value.clone());
            }
            Some(sum) => add(sum, &sample.value),
        }
    }
    let families: Vec<_> =
        families.into_values().map(|(metric, rows)| family(metric, rows)).collect();
    TextEncoder::new().encode_to_string(&families)
}

fn add(sum: &mut Value, value: &Value) {
    match (sum, value) {
        (Value::Number(a), Value::Number(b)) => *a += b,
        (Value::Histogram(a), Value::Histogram(b)) => a.merge(b),
        // A metric is declared with one kind, so these do not meet.
        (Value::Number(_), Value::Histogram(_)) | (Value::Histogram(_), Value::Number(_)) => {}
    }
}

fn family(metric: &Metric, rows: BTreeMap<Labels, Value>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        MetricKind::Counter => proto::MetricType::COUNTER,
        MetricKind::Gauge => proto::MetricType::GAUGE,
        MetricKind::Histogram => proto::MetricType::HISTOGRAM,
    });
    family.set_metric(
        rows.into_iter().map(|(labels, value)| row(metric.kind, labels, &value)).collect(),
    );
    family
}

fn row(kind: MetricKind, labels: Labels, value: &Value) -> proto::Metric {
    let mut row = proto::Metric::default();
    let label = |(name, value): (&str, String)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    row.set_label(labels.into_iter().map(label).collect());
    match (kind, value) {
        (_, Value::Histogram(h)) => row.set_histogram(histogram(h)),
        (MetricKind::Counter, Value::Number(n)) => {
            let mut counter = proto::Counter::default();
            counter.set_value(*n);
            row.set_counter(counter);
        }
        (MetricKind::Gauge | MetricKind::Histogram, Value::Number(n)) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(*n);
            row.set_gauge(gauge);
        }
    }
    row
}

fn histogram(h: &Histogram) -> proto::Histogram {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(h.buckets.len());
    // The last one, +Inf, is the encoder's to write.
    for (bound, count) in Histogram::BOUNDS.into_iter().zip(h.buckets) {
        cumulative += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut out = proto::Histogram::default();
    out.set_bucket(buckets);
    out.set_sample_count(h.buckets.iter().sum());
    out.set_sample_sum(h.sum);
    out
}

#[cfg(test)]
mod tests {
    use jlb_role::MetricSink as _;

    use super::*;

    static FLOWS: Metric =
        Metric { name: "jlb_flows", help: "Flows by state.", kind: MetricKind::Gauge };
    static DROPS: Metric =
        Metric { name: "jlb_drops_total", help: "Drops.", kind: MetricKind::Counter };
    static OPEN: Metric =
        Metric { name: "jlb_open_seconds", help: "Opens.", kind: MetricKind::Histogram };

    #[test]
    fn equal_label_sets_are_added_up() {
        let mut samples = Samples::default();
        samples.value(&FLOWS, &[("state", "pending"), ("family", "v4")], 3.0);
        samples.value(&DROPS, &[], 1.0);
        samples.value(&FLOWS, &[("family", "v4"), ("state", "pending")], 4.0);
        samples.value(&FLOWS, &[("family", "v6"), ("state", "a\"b\\c\n")], 1.0);
        assert_eq!(
            render(&samples).unwrap(),
            "# HELP jlb_drops_total Drops.\n# TYPE jlb_drops_total counter\njlb_drops_total 1\n\
             # HELP jlb_flows Flows by state.\n# TYPE jlb_flows gauge\n\
             jlb_flows{family=\"v4\",state=\"pending\"} 7\n\
             jlb_flows{family=\"v6\",state=\"a\\\"b\\\\c\\n\"} 1\n"
        );
    }

    #[test]
    fn histograms_are_merged_and_cumulative() {
        let (mut a, mut b) = (Histogram::default(), Histogram::default());
        a.observe(0.000_01);
        a.observe(5.0);
        b.observe(0.000_06);
        let mut samples = Samples::default();
        samples.histogram(&OPEN, &[], &a);
        samples.histogram(&OPEN, &[], &b);
        let text = render(&samples).unwrap();
        for line in [
            "# TYPE jlb_open_seconds histogram",
            "jlb_open_seconds_bucket{le=\"0.00005\"} 1",
            "jlb_open_seconds_bucket{le=\"0.0001\"} 2",
            "jlb_open_seconds_bucket{le=\"1.6384\"} 2",
            "jlb_open_seconds_bucket{le=\"+Inf\"} 3",
            "jlb_open_seconds_sum 5.00007",
            "jlb_open_seconds_count 3",
        ] {
            assert_eq!(text.lines().filter(|l| *l == line).count(), 1, "{line} in\n{text}");
        }
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(render(&Samples::default()).unwrap(), "");
    }
}
