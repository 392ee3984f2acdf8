use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// So long after it was due, by this backend.
    Served(Duration, String),
    /// A reset instead of a connection.
    Refused,
    /// No answer in time, or a broken one.
    Failed,
}

/// How the requests of one run fared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Requests that were counted.
    pub requests: usize,
    /// Told at once that nobody takes them.
    pub refused: usize,
    /// Without an answer, or with a broken one.
    pub failed: usize,
    /// From the moment at which a request was due to the end of its answer, in s; of those that were answered.
    pub mean_s: f64,
    /// As above.
    pub p50_s: f64,
    /// As above.
    pub p99_s: f64,
    /// Answers by backend.
    pub served: BTreeMap<String, usize>,
}

impl Figures {
    /// `None` when nothing was answered.
    pub(crate) fn of(answers: &[Answer]) -> Option<Self> {
        let mut times = Vec::new();
        let mut served = BTreeMap::new();
        for answer in answers {
            if let Answer::Served(time, backend) = answer {
                times.push(time.as_secs_f64());
                *served.entry(backend.clone()).or_default() += 1;
            }
        }
        times.sort_by(f64::total_cmp);
        let at =
            |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len() - 1));
        let count = |what: &Answer| answers.iter().filter(|&answer| answer == what).count();
        (!times.is_empty()).then(|| Self {
            requests: answers.len(),
            refused: count(&Answer::Refused),
            failed: count(&Answer::Failed),
            mean_s: times.iter().sum::<f64>() / times.len() as f64,
            p50_s: at(0.5).copied().unwrap_or_default(),
            p99_s: at(0.99).copied().unwrap_or_default(),
            served,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, refused, failed, mean_s, p50_s, p99_s, served } = self;
        write!(
            f,
            "mean {mean_s:.3} s, p50 {p50_s:.3} s, p99 {p99_s:.3} s; {requests} requests, {refused} refused, {failed} failed;"
        )?;
        served.iter().try_for_each(|(backend, n)| write!(f, " {backend} {n}"))
    }
}

/// The least, the middle and the greatest of some runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Least.
    pub min: f64,
    /// Middle; of an even number of runs the greater one of the two.
    pub median: f64,
    /// Greatest.
    pub max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        Some(Self { min, median: values[values.len() / 2], max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.min, self.max)
    }
}

/// Two policies, the same requests, several times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// With `policy = "random"`, each time.
    pub random: Vec<Figures>,
    /// With the default policy, each time.
    pub default: Vec<Figures>,
    /// Mean at random over the default's mean, time by time.
    pub mean_ratio: Spread,
    /// The same of the p99.
    pub p99_ratio: Spread,
}

impl Outcome {
    pub(crate) fn of(random: Vec<Figures>, default: Vec<Figures>) -> Option<Self> {
        let ratios = |of: fn(&Figures) -> f64| {
            Spread::of(random.iter().zip(&default).map(|(r, d)| of(r) / of(d)).collect())
        };
        let (mean_ratio, p99_ratio) = (ratios(|f| f.mean_s)?, ratios(|f| f.p99_s)?);
        Some(Self { random, default, mean_ratio, p99_ratio })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "random over default: mean {}, p99 {}", self.mean_ratio, self.p99_ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_what_was_answered() {
        let served = |ms| Answer::Served(Duration::from_millis(ms), "b".to_owned());
        let mut answers: Vec<_> = (1..=100).map(served).collect();
        answers.extend([Answer::Refused, Answer::Failed, Answer::Failed]);
        let f = Figures::of(&answers).unwrap();
        assert_eq!((f.requests, f.refused, f.failed, f.served["b"]), (103, 1, 2, 100));
        assert!((f.mean_s - 0.0505).abs() < 1e-9);
        assert_eq!((f.p50_s, f.p99_s), (0.051, 0.1));
        assert_eq!(Figures::of(&[Answer::Refused]), None);
    }

    #[test]
    fn a_spread_has_a_middle() {
        assert_eq!(
            Spread::of(vec![3.0, 1.0, 2.0]),
            Some(Spread { min: 1.0, median: 2.0, max: 3.0 })
        );
        assert_eq!(Spread::of(vec![]), None);
    }
}
