//! Whether VIPs may be announced, by beats. Pure: time comes in.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::time::Instant;

use crate::message::Order;

/// How often the daemon sends a beat. A worker's own loop turns at least once a millisecond.
pub const BEAT: Duration = Duration::from_millis(25);
/// Beats that a worker may miss. 3 × 25 ms leaves 25 of 100 ms for taking the routes away.
pub const MISSED_LIMIT: u32 = 3;

/// Silence that means that a worker hangs.
const HANGS: Duration = Duration::from_millis(BEAT.as_millis() as u64 * MISSED_LIMIT as u64);
/// Silence from which on it is looked whether the daemon gets the CPU: early enough for two looks a beat apart.
const DOUBT: Duration = Duration::from_millis(2 * BEAT.as_millis() as u64);
/// Silence that is too long for one that gets no CPU, too: TCP sends again after 200 ms, and a router that was told
/// sooner than that would have spared nobody much.
const STARVES: Duration = Duration::from_millis(500);
/// So long all workers must have beaten before VIPs are announced again after one hung: each time, flows move to another
/// ingress host and back.
const STEADY: Duration = Duration::from_secs(1);

/// What the daemon has told, and what follows from it.
#[derive(Debug)]
pub(crate) struct Judge {
    wanted: BTreeSet<IpAddr>,
    /// By worker: its last beat. Empty until the daemon has said how many there are.
    beats: Vec<Option<Instant>>,
    /// Not before, since a worker hung.
    not_before: Option<Instant>,
    /// As judged last: then only another beat can change it.
    hung: bool,
    /// When it was last looked whether the daemon gets the CPU.
    looked: Option<Instant>,
}

/// What is to be in the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// These.
    Announce(&'a BTreeSet<IpAddr>),
    /// Nothing: the workers have not begun, or have not been well for long enough again.
    Wait,
    /// Nothing: this worker hangs.
    Hangs(u8),
}

impl Judge {
    pub(crate) const fn new() -> Self {
        Self {
            wanted: BTreeSet::new(),
            beats: Vec::new(),
            not_before: None,
            hung: false,
            looked: None,
        }
    }

    pub(crate) fn take(&mut self, now: Instant, order: Order) {
        match order {
            Order::Workers(n) => self.beats = vec![None; n.into()],
            Order::Vips(vips) => self.wanted = vips,
            Order::Beat(turned) => {
                for (worker, beat) in self.beats.iter_mut().enumerate() {
                    if turned >> worker & 1 == 1 {
                        *beat = Some(now);
                    }
                }
            }
        }
    }

    /// `is_starved` says whether the daemon has lately wanted to run, and got no CPU; it may know only when asked again.
    pub(crate) fn judge(&mut self, now: Instant, is_starved: impl FnOnce() -> bool) -> Verdict<'_> {
        if self.beats.is_empty() || self.beats.iter().any(Option::is_none) {
            return Verdict::Wait;
        }
        let silence =
            |beat: &Option<Instant>| beat.map_or(Duration::ZERO, |at| now.duration_since(at));
        let longest = self.beats.iter().map(silence).max().unwrap_or_default();
        let is_in_doubt = (DOUBT..STARVES).contains(&longest) && !self.hung;
        self.looked = is_in_doubt.then_some(now);
        let patience = if is_in_doubt && is_starved() { STARVES } else { HANGS };
        let hung = self.beats.iter().position(|beat| silence(beat) >= patience);
        self.hung = hung.is_some();
        if let Some(worker) = hung {
            self.not_before = Some(now + STEADY);
            // There are at most 16.
            return Verdict::Hangs(worker as u8);
        }
        if self.not_before.is_some_and(|at| now < at) {
            return Verdict::Wait;
        }
        self.not_before = None;
        Verdict::Announce(&self.wanted)
    }

    /// When the verdict may change without a word from the daemon.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.hung {
            return None;
        }
        let doubt = self.beats.iter().flatten().min().map(|&at| at + DOUBT);
        let look = self.looked.map(|at| at + BEAT).or(doubt);
        look.into_iter().chain(self.not_before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn vips() -> BTreeSet<IpAddr> {
        BTreeSet::from(["203.0.113.10".parse().unwrap()])
    }

    fn judge(workers: u8) -> (Judge, Instant) {
        let mut judge = Judge::new();
        let now = Instant::now();
        judge.take(now, Order::Vips(vips()));
        judge.take(now, Order::Workers(workers));
        (judge, now)
    }

    #[test]
    fn nothing_is_announced_before_every_worker_has_turned() {
        let (mut judge, now) = judge(2);
        assert_eq!(judge.judge(now, || false), Verdict::Wait);
        assert_eq!(judge.deadline(), None);
        judge.take(now, Order::Beat(0b01));
        assert_eq!(judge.judge(now, || false), Verdict::Wait);
        judge.take(now, Order::Beat(0b10));
        assert_eq!(judge.judge(now, || false), Verdict::Announce(&vips()));
        judge.take(now, Order::Vips(BTreeSet::new()));
        assert_eq!(judge.judge(now, || false), Verdict::Announce(&BTreeSet::new()));
    }

    #[test]
    fn one_worker_that_misses_three_beats_is_enough() {
        let (mut judge, start) = judge(2);
        judge.take(start, Order::Beat(0b11));
        for beat in 1..=2 {
            judge.take(start + BEAT * beat, Order::Beat(0b01));
            assert_eq!(judge.judge(start + BEAT * beat, || false), Verdict::Announce(&vips()));
        }
        assert_eq!(judge.deadline(), Some(start + 75 * MS), "it was looked at 50 ms");
        judge.take(start + 74 * MS, Order::Beat(0b01));
        assert_eq!(judge.judge(start + 74 * MS, || false), Verdict::Announce(&vips()));
        assert_eq!(judge.judge(start + 75 * MS, || false), Verdict::Hangs(1));
    }

    #[test]
    fn after_a_hang_the_workers_must_be_well_for_a_second() {
        let (mut judge, start) = judge(1);
        judge.take(start, Order::Beat(1));
        assert_eq!(judge.judge(start + 80 * MS, || false), Verdict::Hangs(0));
        assert_eq!(judge.deadline(), None);
        let mut at = start + 90 * MS;
        while at < start + 1080 * MS {
            judge.take(at, Order::Beat(1));
            assert_eq!(judge.judge(at, || false), Verdict::Wait, "after {:?}", at - start);
            at += BEAT;
        }
        judge.take(at, Order::Beat(1));
        assert_eq!(judge.judge(at, || false), Verdict::Announce(&vips()));
    }

    #[test]
    fn without_any_beat_every_worker_hangs() {
        let (mut judge, start) = judge(2);
        judge.take(start, Order::Beat(0b11));
        assert_eq!(judge.judge(start + 75 * MS, || false), Verdict::Hangs(0));
    }

    #[test]
    fn who_gets_no_cpu_has_half_a_second() {
        let (mut judge, start) = judge(1);
        judge.take(start, Order::Beat(1));
        assert_eq!(judge.deadline(), Some(start + 50 * MS));
        for ms in (50..500).step_by(25) {
            let now = start + MS * ms;
            assert_eq!(judge.judge(now, || true), Verdict::Announce(&vips()), "after {ms} ms");
            assert_eq!(judge.deadline(), Some(now + BEAT));
        }
        assert_eq!(judge.judge(start + 500 * MS, || true), Verdict::Hangs(0));
    }

    #[test]
    fn who_gets_the_cpu_again_and_is_silent_hangs() {
        let (mut judge, start) = judge(1);
        judge.take(start, Order::Beat(1));
        assert_eq!(judge.judge(start + 100 * MS, || true), Verdict::Announce(&vips()));
        assert_eq!(judge.judge(start + 125 * MS, || false), Verdict::Hangs(0));
        assert_eq!(judge.judge(start + 150 * MS, || true), Verdict::Hangs(0), "once is enough");
    }
}
