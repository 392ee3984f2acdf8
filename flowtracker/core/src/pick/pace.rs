use jlb_role::Nanos;

/// After about so long what was counted counts half: long enough for some ends of short flows, short enough to notice
/// within a second that a backend has slowed down.
const HALF_LIFE: Nanos = Nanos::from_secs(2);
/// So many ends of average flows are taken for granted, lest the first long flow make a backend a slow one.
const PRIOR: f64 = 2.0;
/// Below this many times the average a backend is as good as the others: the mean of some twenty exponential lifetimes
/// is off by more than that once in ten thousand times.
const SLOW: f64 = 2.0;

/// Flows that were there all through this and the last of such times do not count: connections that are kept open, and
/// the few long jobs of a heavy tail, say nothing of how fast a backend is.
const WINDOW: Nanos = Nanos::from_secs(1);

/// How long flows live, by Little's law: the time that live flows have spent, over how many have ended. Those that still
/// live count too, so a backend shows that it has slowed down by what it does not finish. Older times count less.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Flow-seconds.
    spent: f64,
    ended: f64,
    at: Nanos,
    /// The fewest flows of this window and of the one before, and when this one began.
    floors: [u32; 2],
    window: Nanos,
}

impl Default for Pace {
    fn default() -> Self {
        let (spent, ended) = (0.0, 0.0);
        // Whatever is there at first may have been there for long.
        Self { spent, ended, at: Nanos::ZERO, floors: [u32::MAX; 2], window: Nanos::ZERO }
    }
}

impl Pace {
    /// So many flows lived since the last call. Gives the flow-seconds that count.
    pub(super) fn pass(&mut self, now: Nanos, live: u32) -> f64 {
        let time = now.since(self.at);
        self.forget(now);
        if now.since(self.window) >= WINDOW {
            self.floors = [live, self.floors[0]];
            self.window = now;
        }
        self.floors[0] = self.floors[0].min(live);
        let standing = self.floors[0].min(self.floors[1]);
        let spent = f64::from(live - standing) * time.as_secs_f64();
        self.spent += spent;
        spent
    }

    /// What another one has counted, up to now.
    pub(super) fn add(&mut self, now: Nanos, spent: f64) {
        self.forget(now);
        self.spent += spent;
    }

    fn forget(&mut self, now: Nanos) {
        let keep = decay(now.since(self.at));
        self.at = now;
        self.spent *= keep;
        self.ended *= keep;
    }

    /// One flow has ended.
    pub(super) fn end(&mut self) {
        self.ended += 1.0;
    }

    /// How many times slower than all together a backend is; 1 unless that is beyond doubt.
    pub(super) fn slowness(&self, all: &Self) -> f64 {
        if all.ended < PRIOR || all.spent <= 0.0 {
            return 1.0;
        }
        let average = all.spent / all.ended;
        let own = (self.spent + PRIOR * average) / (self.ended + PRIOR);
        (own / average / SLOW).max(1.0)
    }
}

/// What is left of a count after some time: halves, and straight lines between them, so that it is the same on every
/// machine. (In many small steps it is a bit more: e⁻¹ᐟ² and not ½ after one half-life.)
fn decay(time: Nanos) -> f64 {
    let halves = (time.0 / HALF_LIFE.0).min(64) as i32;
    let rest = (time.0 % HALF_LIFE.0) as f64 / HALF_LIFE.0 as f64;
    0.5f64.powi(halves) * (1.0 - rest / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service of which one backend is looked at; the others finish everything in 100 ms.
    #[derive(Default)]
    struct Service {
        all: Pace,
        one: Pace,
        ms: u64,
    }

    impl Service {
        /// For so long, one flow after the other of `lifetime` ms ends there and is followed by another, beside `standing` ones.
        fn run(&mut self, ms: u64, lifetime: u64, standing: u32) {
            for _ in 0..ms {
                self.ms += 1;
                let now = Nanos::from_millis(self.ms);
                let ends = self.ms.is_multiple_of(lifetime);
                let spent = self.one.pass(now, standing + 1);
                // Twenty flows of others.
                self.all.add(now, spent + 0.020);
                if ends {
                    self.one.pass(now, standing);
                    self.one.end();
                    self.all.end();
                }
                if self.ms.is_multiple_of(5) {
                    self.all.end();
                }
            }
        }

        fn slowness(&self) -> f64 {
            self.one.slowness(&self.all)
        }
    }

    #[test]
    fn who_is_much_slower_than_all_together_is_slow_and_who_is_a_bit_slower_is_not() {
        for (lifetime, slow) in [(100, 1.0..=1.0), (150, 1.0..=1.0), (500, 1.2..=2.6)] {
            let mut service = Service::default();
            service.run(20_000, lifetime, 0);
            assert!(slow.contains(&service.slowness()), "{lifetime}: {}", service.slowness());
        }
    }

    #[test]
    fn who_slows_down_is_slow_within_seconds_and_forgiven_in_time() {
        let mut service = Service::default();
        service.run(10_000, 100, 0);
        assert!((service.slowness() - 1.0).abs() < 1e-9);
        service.run(6000, 500, 0);
        assert!(service.slowness() > 1.1, "{}", service.slowness());
        service.run(10_000, 100, 0);
        assert!((service.slowness() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn flows_that_are_kept_open_say_nothing() {
        let mut service = Service::default();
        service.run(20_000, 100, 1000);
        assert!((service.slowness() - 1.0).abs() < 1e-9, "{}", service.slowness());
    }

    #[test]
    fn nobody_is_slow_before_anything_has_ended() {
        let mut all = Pace::default();
        let mut own = Pace::default();
        let spent = own.pass(Nanos::from_secs(1), 10);
        all.add(Nanos::from_secs(1), spent);
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
