use std::thread;
use std::time::Duration;

use jlb_role::Nanos;

use crate::Idle;

/// So long after the last client or flow packet a worker only yields: a reply is likely on its way.
const AWAKE: Nanos = Nanos::from_millis(10);
/// The first sleep. Shorter ones are mostly the cost of waking up (about 10 µs).
const FIRST_SLEEP: Nanos = Nanos(50_000);
/// The longest sleep: what the first packet after a pause may be late.
const LONGEST_SLEEP: Nanos = Nanos::from_millis(1);
/// How late the kernel may wake us, to serve several timers at once: a tenth of the longest sleep.
pub(crate) const TIMER_SLACK_NANOS: u64 = LONGEST_SLEEP.0 / 10;

/// Decides how long an idle worker sleeps.
#[derive(Debug)]
pub(crate) struct Backoff {
    mode: Idle,
    last_active: Nanos,
    sleep: Nanos,
}

/// What to do before the next poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    No,
    /// Let other threads run that want to.
    Yield,
    Sleep(Nanos),
}

impl Backoff {
    pub(crate) fn new(mode: Idle, now: Nanos) -> Self {
        Self { mode, last_active: now, sleep: Nanos::ZERO }
    }

    /// A client or flow packet was handled.
    pub(crate) fn active(&mut self, now: Nanos) {
        self.last_active = now;
        self.sleep = Nanos::ZERO;
    }

    /// The last poll brought nothing; `deadline` is the role's.
    pub(crate) fn pause(&mut self, now: Nanos, deadline: Option<Nanos>) -> Pause {
        if self.mode == Idle::Spin {
            return Pause::No;
        }
        if now.since(self.last_active) < AWAKE {
            return Pause::Yield;
        }
        self.sleep = (self.sleep + self.sleep).clamp(FIRST_SLEEP, LONGEST_SLEEP);
        let until_deadline = deadline.map_or(LONGEST_SLEEP, |d| d.since(now));
        match self.sleep.min(until_deadline) {
            Nanos::ZERO => Pause::No,
            sleep => Pause::Sleep(sleep),
        }
    }
}

impl Pause {
    pub(crate) fn take(self) {
        match self {
            Self::No => core::hint::spin_loop(),
            Self::Yield => thread::yield_now(),
            Self::Sleep(Nanos(n)) => thread::sleep(Duration::from_nanos(n)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn sleeps_double_to_a_millisecond_after_ten_idle_ones() {
        let mut b = Backoff::new(Idle::Backoff, Nanos(0));
        assert_eq!(b.pause(Nanos(10 * MS - 1), None), Pause::Yield);
        let sleeps: Vec<_> = (0..7).map(|_| b.pause(Nanos(10 * MS), None)).collect();
        let expected =
            [50, 100, 200, 400, 800, 1000, 1000].map(|us| Pause::Sleep(Nanos(us * 1000)));
        assert_eq!(sleeps, expected);
        b.active(Nanos(20 * MS));
        assert_eq!(b.pause(Nanos(29 * MS), None), Pause::Yield);
        assert_eq!(b.pause(Nanos(30 * MS), None), Pause::Sleep(Nanos(50_000)));
    }

    #[test]
    fn no_sleep_passes_the_deadline() {
        let mut b = Backoff::new(Idle::Backoff, Nanos(0));
        let now = Nanos(50 * MS);
        assert_eq!(b.pause(now, Some(now + Nanos(20_000))), Pause::Sleep(Nanos(20_000)));
        assert_eq!(b.pause(now, Some(now)), Pause::No);
        assert_eq!(b.pause(now, Some(Nanos(0))), Pause::No);
        assert_eq!(b.pause(now, Some(now + Nanos::from_secs(1))), Pause::Sleep(Nanos(400_000)));
    }

    #[test]
    fn spinning_never_pauses() {
        let mut b = Backoff::new(Idle::Spin, Nanos(0));
        assert_eq!(b.pause(Nanos::from_secs(9), None), Pause::No);
    }
}
