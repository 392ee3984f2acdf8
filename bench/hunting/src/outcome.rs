use jlb_role::Nanos;

/// What came out of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Mean time from a job's arrival until its reply has left, of those that were taken, in seconds.
    pub mean_s: f64,
    /// Half of them took no longer.
    pub p50_s: f64,
    /// 99 of 100 took no longer.
    pub p99_s: f64,
    /// Offers that a server refused, for each job.
    pub rejects_per_flow: f64,
    /// Work that was done, over what came or could be done, whichever is less.
    pub goodput_ratio: f64,
    /// Jain's index of the servers' jobs for each core, over time: 1 when all have the same.
    pub jain: f64,
    /// Jobs that came.
    pub flows: u64,
    /// Jobs that nobody took.
    pub spilled: u64,
    /// Jain's index at each of its samples: seconds, index.
    pub fairness: Vec<(f64, f64)>,
    /// Arrival and time taken of each job that was taken, in seconds, in the order of their ends.
    pub times: Vec<(f64, f64)>,
}

impl Outcome {
    /// The share of jobs that took no longer, for a plot: `points` pairs (seconds, share).
    #[must_use]
    pub fn distribution(&self, points: usize) -> Vec<(f64, f64)> {
        let sorted = sorted(self.times.iter().map(|&(_, took)| took));
        let last = sorted.len().saturating_sub(1);
        (0..=points)
            .filter_map(|n| {
                let share = n as f64 / points as f64;
                Some((*sorted.get((last as f64 * share) as usize)?, share))
            })
            .collect()
    }

    /// The 99th percentile of jobs that came between two times, in seconds.
    #[must_use]
    pub fn p99_between(&self, from: f64, to: f64) -> f64 {
        let within = self.times.iter().filter(|(at, _)| (from..to).contains(at));
        quantile(&sorted(within.map(|&(_, took)| took)), 0.99)
    }
}

/// Figures while they are gathered.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) times: Vec<(f64, f64)>,
    pub(crate) flows: u64,
    pub(crate) spilled: u64,
    pub(crate) rejects: u64,
    /// Work of the jobs that ended in the time that counts, in core-seconds.
    pub(crate) work: f64,
    pub(crate) fairness: Vec<(f64, f64)>,
}

impl Gathered {
    pub(crate) fn took(&mut self, arrived: Nanos, now: Nanos) {
        self.times.push((arrived.as_secs_f64(), now.since(arrived).as_secs_f64()));
    }

    /// `due`: core-seconds that could have been worked off.
    pub(crate) fn outcome(self, due: f64) -> Outcome {
        let sorted = sorted(self.times.iter().map(|&(_, took)| took));
        let samples = self.fairness.len().max(1) as f64;
        Outcome {
            mean_s: sorted.iter().sum::<f64>() / sorted.len().max(1) as f64,
            p50_s: quantile(&sorted, 0.5),
            p99_s: quantile(&sorted, 0.99),
            rejects_per_flow: self.rejects as f64 / self.flows.max(1) as f64,
            goodput_ratio: self.work / due,
            jain: self.fairness.iter().map(|(_, index)| index).sum::<f64>() / samples,
            flows: self.flows,
            spilled: self.spilled,
            fairness: self.fairness,
            times: self.times,
        }
    }
}

/// Jain's index of fairness; 1 when nobody has anything.
pub(crate) fn jain(shares: impl Iterator<Item = f64>) -> f64 {
    let (n, sum, squares) =
        shares.fold((0.0, 0.0, 0.0), |(n, sum, squares), x| (n + 1.0, sum + x, squares + x * x));
    if squares > 0.0 { sum * sum / (n * squares) } else { 1.0 }
}

fn sorted(times: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * share) as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_when_all_have_the_same_and_least_when_one_has_all() {
        assert!((jain([3.0; 5].into_iter()) - 1.0).abs() < 1e-12);
        assert!((jain([0.0, 0.0, 0.0, 8.0].into_iter()) - 0.25).abs() < 1e-12);
        assert!((jain([0.0; 3].into_iter()) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let mut gathered = Gathered::default();
        for n in 1..=101 {
            gathered.took(Nanos::from_secs(n), Nanos::from_secs(n) + Nanos::from_millis(n));
        }
        (gathered.flows, gathered.rejects, gathered.work) = (202, 101, 3.0);
        let outcome = gathered.outcome(4.0);
        assert!((outcome.p50_s - 0.051).abs() < 1e-9 && (outcome.p99_s - 0.100).abs() < 1e-9);
        assert!((outcome.rejects_per_flow - 0.5).abs() < 1e-9);
        assert!((outcome.goodput_ratio - 0.75).abs() < 1e-9);
        assert!((outcome.p99_between(1.0, 11.5) - 0.010).abs() < 1e-9);
    }
}
