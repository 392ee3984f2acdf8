use jlb_role::Nanos;

/// After so long a flow that was counted counts half: long enough for some ends of short flows, short enough to notice
/// within a second that a backend has slowed down.
const HALF_LIFE: Nanos = Nanos::from_secs(2);
/// So many ends of average flows are taken for granted, lest the first long flow make a backend a slow one.
const PRIOR: f64 = 2.0;
/// Below this many times the average a backend is as good as the others: the mean of some twenty exponential lifetimes
/// is off by more than that once in ten thousand times.
const SLOW: f64 = 2.0;

/// How long flows live, by Little's law: the time that live flows have spent, over how many have ended. Those that still
/// live count too, so a backend that has stopped answering shows at once. Older times count less.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Flow-seconds.
    spent: f64,
    ended: f64,
    at: Nanos,
}

impl Pace {
    /// So many flows lived since the last call.
    pub(super) fn pass(&mut self, now: Nanos, live: u32) {
        let time = now.since(self.at);
        self.at = now;
        let keep = decay(time);
        self.spent = self.spent * keep + f64::from(live) * time.as_secs_f64();
        self.ended *= keep;
    }

    /// One flow has ended.
    pub(super) fn end(&mut self) {
        self.ended += 1.0;
    }

    /// How many times slower than all together a backend is; 1 unless that is beyond doubt.
    pub(super) fn slowness(&self, all: &Self) -> f64 {
        if all.ended < PRIOR {
            return 1.0;
        }
        let average = all.spent / all.ended;
        let own = (self.spent + PRIOR * average) / (self.ended + PRIOR);
        if average > 0.0 { (own / average / SLOW).max(1.0) } else { 1.0 }
    }
}

/// What is left of a count after some time: halves, and straight lines between them, so that it is the same on every
/// machine.
fn decay(time: Nanos) -> f64 {
    let halves = (time.0 / HALF_LIFE.0).min(64) as i32;
    let rest = (time.0 % HALF_LIFE.0) as f64 / HALF_LIFE.0 as f64;
    0.5f64.powi(halves) * (1.0 - rest / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` flows at a time, each of `ms`, for some seconds.
    fn paced(pace: &mut Pace, from_ms: u64, seconds: u64, live: u32, ms: u64) {
        let step = ms / u64::from(live);
        for at in (from_ms..from_ms + seconds * 1000).step_by(step as usize) {
            pace.pass(Nanos::from_millis(at), live);
            pace.end();
        }
    }

    #[test]
    fn who_is_much_slower_than_all_together_is_slow_and_who_is_a_bit_slower_is_not() {
        let (mut all, mut bit, mut much) = (Pace::default(), Pace::default(), Pace::default());
        paced(&mut all, 0, 20, 10, 100);
        paced(&mut bit, 0, 20, 2, 150);
        paced(&mut much, 0, 20, 2, 1000);
        assert!((bit.slowness(&all) - 1.0).abs() < 1e-9);
        // Ten times, of which two are free; the prior takes some.
        assert!((3.0..=5.0).contains(&much.slowness(&all)), "{}", much.slowness(&all));
    }

    #[test]
    fn who_ends_nothing_any_more_is_slow_within_seconds_and_forgiven_when_it_is_idle() {
        let (mut all, mut stuck) = (Pace::default(), Pace::default());
        paced(&mut all, 0, 10, 20, 100);
        paced(&mut stuck, 0, 10, 3, 100);
        assert!((stuck.slowness(&all) - 1.0).abs() < 1e-9);
        // The others go on.
        paced(&mut all, 10_000, 3, 20, 100);
        stuck.pass(Nanos::from_secs(13), 3);
        assert!(stuck.slowness(&all) > 1.1, "{}", stuck.slowness(&all));
        paced(&mut all, 13_000, 20, 20, 100);
        stuck.pass(Nanos::from_secs(33), 0);
        assert!((stuck.slowness(&all) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn nobody_is_slow_before_anything_has_ended() {
        let (mut all, mut own) = (Pace::default(), Pace::default());
        all.pass(Nanos::from_secs(1), 10);
        own.pass(Nanos::from_secs(1), 10);
        assert!((own.slowness(&all) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_count_halves_every_two_seconds() {
        for (ms, left) in [(0, 1.0), (1000, 0.75), (2000, 0.5), (3000, 0.375), (4000, 0.25)] {
            assert!((decay(Nanos::from_millis(ms)) - left).abs() < 1e-12, "{ms}");
        }
        assert!(decay(Nanos(u64::MAX)) < 1e-18);
    }
}
