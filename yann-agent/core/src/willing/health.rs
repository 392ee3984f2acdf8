/// What the tries of one check come to. Up before the first one: an agent that restarts must not refuse anybody for that. But it
/// knows nothing yet that speaks for it, so the first failure counts like the last of `fall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    rise: u8,
    fall: u8,
    up: bool,
    /// Tries in a row that speak against it.
    against: u8,
}

impl Health {
    /// Up after `rise` successes in a row, down after `fall` failures in a row; both at least 1.
    #[must_use]
    pub const fn new(rise: u8, fall: u8) -> Self {
        Self { rise, fall, up: true, against: fall.saturating_sub(1) }
    }

    /// Whether it is up.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// A try has passed or failed. Gives whether that changed anything.
    pub const fn take(&mut self, passed: bool) -> bool {
        if passed == self.up {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        if self.against < (if self.up { self.fall } else { self.rise }) {
            return false;
        }
        (self.up, self.against) = (passed, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_and_rises_by_so_many_in_a_row() {
        let mut health = Health::new(2, 3);
        assert!(health.is_up() && !health.take(true));
        // Success, failure: 0, 1; and what it is after each.
        let tries = "0010001010111011000";
        let after = "1111100000011111110";
        for (n, (tried, up)) in tries.bytes().zip(after.bytes()).enumerate() {
            let was = health.is_up();
            let changed = health.take(tried == b'1');
            assert_eq!((health.is_up(), changed), (up == b'1', was != health.is_up()), "try {n}");
        }
    }

    #[test]
    fn the_first_failure_after_a_start_counts_unless_a_success_came_before() {
        let mut health = Health::new(2, 3);
        assert!(health.take(false) && !health.is_up());
        assert!(!health.take(true) && health.take(true) && health.is_up());
        assert!(!health.take(false) && !health.take(false) && health.take(false));
    }

    #[test]
    fn with_one_and_one_each_try_counts() {
        let mut health = Health::new(1, 1);
        for passed in [true, false, false, true, false] {
            health.take(passed);
            assert_eq!(health.is_up(), passed);
        }
    }
}
