use jlb_role::Nanos;

/// So long a host refuses at least, and takes at least.
pub const REFUSE_AT_LEAST: Nanos = Nanos::from_millis(200);
/// It takes flows again below so much of its limit.
const AGAIN_BELOW: f64 = 0.9;

/// A measure of the host that may not be above a limit. It has a memory, so that a load that hovers about the limit does not
/// make the host flap: it refuses above the limit and takes again a tenth below it, and keeps to either for 200 ms at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overload {
    limit: f64,
    over: bool,
    since: Option<Nanos>,
}

impl Overload {
    /// Not over its limit, whatever that is.
    #[must_use]
    pub const fn new(limit: f64) -> Self {
        Self { limit, over: false, since: None }
    }

    /// Whether the host refuses for it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// It was measured. Gives whether that changed anything.
    pub fn take(&mut self, now: Nanos, value: f64) -> bool {
        let over = if self.over { value >= self.limit * AGAIN_BELOW } else { value > self.limit };
        let settled = self.since.is_none_or(|since| now.since(since) >= REFUSE_AT_LEAST);
        if over == self.over || !settled {
            return false;
        }
        (self.over, self.since) = (over, Some(now));
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Nanos {
        Nanos::from_millis(1000 + ms)
    }

    #[test]
    fn above_its_limit_it_refuses_and_takes_again_a_tenth_below() {
        let mut cpu = Overload::new(0.8);
        let measured = [
            (0, 0.8, false),
            (50, 0.81, true),
            // Too soon, then not low enough.
            (100, 0.1, true),
            (300, 0.73, true),
            (350, 0.71, false),
            // Too soon.
            (400, 0.99, false),
            (550, 0.99, true),
        ];
        for (ms, value, over) in measured {
            let was = cpu.is_over();
            assert_eq!(cpu.take(at(ms), value), was != over, "at {ms}");
            assert_eq!(cpu.is_over(), over, "at {ms}");
        }
    }

    proptest! {
        #[test]
        fn a_load_that_hovers_about_the_limit_changes_nothing_twice(
            loads in proptest::collection::vec(0.721f64..1.0, 1..400)
        ) {
            let mut cpu = Overload::new(0.8);
            let changes = (0..).zip(loads).filter(|&(n, load)| cpu.take(at(n * 50), load)).count();
            prop_assert!(changes <= 1);
        }

        #[test]
        fn whatever_the_load_it_keeps_to_what_it_does_for_a_while(
            loads in proptest::collection::vec(0.0f64..1.0, 1..400)
        ) {
            let mut cpu = Overload::new(0.5);
            let changes: Vec<u64> = (0..)
                .zip(loads)
                .filter_map(|(n, load)| cpu.take(at(n * 50), load).then_some(n * 50))
                .collect();
            prop_assert!(changes.windows(2).all(|pair| pair[1] - pair[0] >= 200));
        }
    }
}
