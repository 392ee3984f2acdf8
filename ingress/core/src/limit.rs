use jlb_role::Nanos;

/// A token bucket in the driver's time: a steady rate, and a burst above it (GCRA, ITU-T I.371, as one number).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// Time that one token stands for.
    interval: u64,
    /// Time that the full bucket stands for.
    depth: u64,
    /// When the bucket will be full again.
    full_at: u64,
}

impl TokenBucket {
    /// Full, with so many tokens per second and so many at once.
    pub(crate) const fn new(per_second: u64, burst: u64) -> Self {
        let interval = 1_000_000_000 / per_second;
        Self { interval, depth: interval * burst, full_at: 0 }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Nanos) -> bool {
        let full_at = self.full_at.max(now.0) + self.interval;
        let there = full_at <= now.0 + self.depth;
        if there {
            self.full_at = full_at;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_burst_then_the_rate() {
        let mut bucket = TokenBucket::new(100, 5);
        let taken = |bucket: &mut TokenBucket, ms| {
            (0..100).filter(|_| bucket.take(Nanos::from_millis(ms))).count()
        };
        assert_eq!(taken(&mut bucket, 1000), 5);
        assert_eq!(taken(&mut bucket, 1009), 0, "a token takes 10 ms");
        assert_eq!(taken(&mut bucket, 1010), 1);
        assert_eq!(taken(&mut bucket, 1035), 2);
        assert_eq!(taken(&mut bucket, 99_000), 5, "and no more than the burst is saved up");
    }
}
