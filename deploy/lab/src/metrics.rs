//! What a daemon's `/metrics` says, for tests and benches to add up.

/// One scrape, in the Prometheus text format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    /// As written: `a="b",c="d"`.
    labels: String,
    value: f64,
}

impl Metrics {
    /// Reads a scrape. Lines that are no samples (comments) are passed over.
    pub fn parse(text: &str) -> Self {
        let samples =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect();
        Self { samples }
    }

    /// Sum over all samples of a name which carry these labels, among others; none if there is no such sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| wanted.iter().all(|label| has(&sample.labels, label)))
            .map(|sample| sample.value)
            .reduce(|a, b| a + b)
    }

    /// Every sample of a name: its labels as written, and its value.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.samples
            .iter()
            .filter(move |sample| sample.name == name)
            .map(|sample| (sample.labels.as_str(), sample.value))
    }
}

/// No label value of ours holds a comma or a quote.
fn has(labels: &str, wanted: &str) -> bool {
    labels.split(',').any(|label| label == wanted)
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.trim_end().rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    Some(Sample { name: name.to_owned(), labels: labels.to_owned(), value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_that_are_not_asked_for() {
        let metrics = Metrics::parse(
            "# HELP jlb_flows Flows.\n# TYPE jlb_flows gauge\n\
             jlb_flows{state=\"pending\",protocol=\"tcp\"} 2\njlb_flows{state=\"closing\",protocol=\"tcp\"} 3\n\
             jlb_flows{state=\"pending\",protocol=\"udp\"} 40\njlb_up 1\n",
        );
        assert_eq!(metrics.sum("jlb_flows", &[]), Some(45.0));
        assert_eq!(metrics.sum("jlb_flows", &[("protocol", "tcp")]), Some(5.0));
        assert_eq!(
            metrics.sum("jlb_flows", &[("state", "pending"), ("protocol", "udp")]),
            Some(40.0)
        );
        assert_eq!(metrics.sum("jlb_flows", &[("state", "pend")]), None);
        assert_eq!(metrics.sum("jlb_up", &[]), Some(1.0));
        assert_eq!(metrics.all("jlb_flows").count(), 3);
    }
}
