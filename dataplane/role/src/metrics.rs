/// How Prometheus treats a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; the name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// A metric, declared once as a `static` where it is counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name with prefix and unit: `jlb_flows`.
    pub name: &'static str,
    /// One sentence for the operator.
    pub help: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
}

/// Where [`crate::Role::collect`] puts its values. Samples of one metric with equal labels are added up, so that
/// workers need not know of each other.
pub trait MetricSink {
    /// A counter's or gauge's value.
    fn value(&mut self, metric: &'static Metric, labels: &[(&'static str, &str)], value: f64);
    /// A histogram.
    fn histogram(
        &mut self,
        metric: &'static Metric,
        labels: &[(&'static str, &str)],
        value: &Histogram,
    );
}

/// One value that was collected.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Of what.
    pub metric: &'static Metric,
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// A collected value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram.
    Histogram(Box<Histogram>),
}

/// A [`MetricSink`] that keeps the samples, to carry them from a worker to the admin thread (and to tests).
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// The sum over all samples of `name` whose labels include all of `labels`; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0
            .iter()
            .filter(|s| s.metric.name == name)
            .filter(|s| {
                labels.iter().all(|(k, v)| s.labels.iter().any(|(sk, sv)| sk == k && sv == v))
            })
            .map(|s| match &s.value {
                Value::Number(n) => *n,
                Value::Histogram(h) => h.sum,
            })
            .sum()
    }
}

impl MetricSink for Samples {
    fn value(&mut self, metric: &'static Metric, labels: &[(&'static str, &str)], value: f64) {
        self.0.push(Sample { metric, labels: owned(labels), value: Value::Number(value) });
    }
    fn histogram(
        &mut self,
        metric: &'static Metric,
        labels: &[(&'static str, &str)],
        value: &Histogram,
    ) {
        self.0.push(Sample {
            metric,
            labels: owned(labels),
            value: Value::Histogram(Box::new(value.clone())),
        });
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    labels.iter().map(|&(k, v)| (k, v.to_owned())).collect()
}

/// Durations in seconds, in buckets that double from 50 µs to 1.6 s: an Open's life is 1 s at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Observations per bucket (not cumulative); the last is `+Inf`.
    pub buckets: [u64; Self::BOUNDS.len() + 1],
    /// Sum of all observations.
    pub sum: f64,
}

impl Histogram {
    /// Upper bounds in seconds.
    pub const BOUNDS: [f64; 16] = [
        0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.012_8, 0.025_6,
        0.051_2, 0.102_4, 0.204_8, 0.409_6, 0.819_2, 1.638_4,
    ];

    /// Adds one observation.
    pub fn observe(&mut self, seconds: f64) {
        let i = Self::BOUNDS.iter().position(|&b| seconds <= b).unwrap_or(Self::BOUNDS.len());
        self.buckets[i] += 1;
        self.sum += seconds;
    }

    /// Adds another histogram's observations.
    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self.buckets.iter_mut().zip(other.buckets) {
            *a += b;
        }
        self.sum += other.sum;
    }
}
