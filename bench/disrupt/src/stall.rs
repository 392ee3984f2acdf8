//! When a connection has stalled, and for how long.
//!
//! Every connection asks, waits for the answer, pauses, and asks again. What counts is the *wait*: the gap between two
//! answers without the pause that the client makes itself. What waits are usual is measured before the fault, in the
//! same run; a stall is how much a wait is longer than 99 % of those. One stall is counted of each connection: its longest.

use std::time::Duration;

/// A lost packet costs 200 ms at least, TCP's shortest retransmission timeout: below half of that nothing is lost, so
/// that no loss hides behind a noisy machine.
const MOST_SLACK: Duration = Duration::from_millis(100);
/// What the scheduler alone may add to a wait that nothing held up: 17 to 35 ms were seen with ten daemons on two cores.
const LEAST_SLACK: Duration = Duration::from_millis(40);

/// How long answers take when nothing is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usual {
    /// 99 of 100 waits are not longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Usual {
    /// Of waits that were measured without a fault.
    #[must_use]
    pub fn of(waits: &mut [Duration]) -> Self {
        let quantiles = Quantiles::of(waits);
        Self { p99: quantiles.p99, max: quantiles.max }
    }

    /// Waits up to this are no stalls. One of a hundred is longer than `p99` without any fault, so there is slack: half as
    /// much again as the longest wait before the fault, within bounds.
    #[must_use]
    pub fn limit(&self) -> Duration {
        let seen = self.max.saturating_sub(self.p99);
        self.p99 + (seen + seen / 2).clamp(LEAST_SLACK, MOST_SLACK)
    }

    /// How long a wait stalled its connection, if it did.
    #[must_use]
    pub fn stall(&self, wait: Duration) -> Option<Duration> {
        (wait > self.limit()).then(|| wait.saturating_sub(self.p99))
    }
}

/// Nearest-rank quantiles; all 0 of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// The middle one.
    pub p50: Duration,
    /// 99 of 100 are not longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Quantiles {
    /// Sorts them.
    #[must_use]
    pub fn of(values: &mut [Duration]) -> Self {
        values.sort_unstable();
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100);
            values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { p50: at(50), p99: at(99), max: at(100) }
    }
}

/// A time in which this process itself was not scheduled, from the beginning of the run. What waited then waited for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it began.
    pub from: Duration,
    /// When it ended.
    pub to: Duration,
}

/// A wait from `from` to `to`, less what of it was our own doing.
#[must_use]
pub fn without_pauses(from: Duration, to: Duration, pauses: &[Pause]) -> Duration {
    let ours: Duration =
        pauses.iter().map(|pause| pause.to.min(to).saturating_sub(pause.from.max(from))).sum();
    to.saturating_sub(from).saturating_sub(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let mut values: Vec<_> = (1..=200).rev().map(ms).collect();
        let quantiles = Quantiles::of(&mut values);
        assert_eq!(quantiles, Quantiles { p50: ms(100), p99: ms(198), max: ms(200) });
        assert_eq!(Quantiles::of(&mut [ms(7)]), Quantiles { p50: ms(7), p99: ms(7), max: ms(7) });
        assert_eq!(Quantiles::of(&mut []), Quantiles::default());
    }

    #[test]
    fn usual_waits_are_no_stalls_and_a_lost_packet_always_is_one() {
        let quiet = Usual { p99: ms(5), max: ms(8) };
        assert_eq!(quiet.stall(ms(8)), None);
        assert_eq!(quiet.stall(ms(45)), None);
        assert_eq!(quiet.stall(ms(46)), Some(ms(41)));
        // Even after a fault-free time in which packets were lost.
        let noisy = Usual { p99: ms(20), max: ms(900) };
        assert_eq!(noisy.stall(ms(120)), None);
        assert_eq!(noisy.stall(ms(200)), Some(ms(180)));
    }

    #[test]
    fn what_was_our_own_doing_is_left_out() {
        let pauses = [
            Pause { from: ms(0), to: ms(30) },
            Pause { from: ms(50), to: ms(60) },
            Pause { from: ms(90), to: ms(500) },
        ];
        assert_eq!(without_pauses(ms(20), ms(100), &pauses), ms(80 - 10 - 10 - 10));
        assert_eq!(without_pauses(ms(60), ms(90), &pauses), ms(30));
        assert_eq!(without_pauses(ms(100), ms(400), &pauses), ms(0));
    }
}
