//! Closes that are under way, and those that lately were.

use std::collections::{BTreeMap, BTreeSet};

use jlb_role::Nanos;
use jlb_wire::{FiveTuple, Incarnation, MemberId};

use crate::maps::ANSWER_LIFETIME;

/// After so long a Close is repeated; then after twice as long, and so on.
pub const FIRST_REPEAT: Nanos = Nanos::from_millis(25);
/// So often a Close is repeated at most: for 25 ms × 255 = 6.4 s.
pub const CLOSE_REPEATS: u8 = 8;

/// Closes of one five-tuple that one question says again. A client that opens and closes it all the time leaves
/// thousands, and must not have them all said by a single packet.
const UNNAMED: usize = 4;

/// The trio, four ingress hosts, and who asked.
const TARGETS: usize = 8;

pub(super) type Key = (FiveTuple, Incarnation);

#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) member: MemberId,
    pub(super) acknowledged: bool,
}

/// Somebody is to be sent this Close now.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) key: Key,
    pub(super) counter: u64,
    pub(super) targets: Vec<Target>,
}

#[derive(Debug)]
struct Close {
    counter: u64,
    targets: Vec<Target>,
    /// Repetitions so far.
    sent: u8,
    /// When it was sent last; `None`: not yet.
    sent_at: Option<Nanos>,
    /// When something is to be done: the next repetition, or forgetting it.
    due: Nanos,
    forget: Nanos,
}

impl Close {
    fn is_over(&self) -> bool {
        self.sent > CLOSE_REPEATS || self.targets.iter().all(|t| t.acknowledged)
    }
}

/// A bounded table of Closes, by flow and by time.
#[derive(Debug)]
pub(super) struct Closes {
    capacity: usize,
    by_key: BTreeMap<Key, Close>,
    by_time: BTreeSet<(Nanos, Key)>,
    unacknowledged: u64,
}

impl Closes {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, by_key: BTreeMap::new(), by_time: BTreeSet::new(), unacknowledged: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) const fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }

    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        self.by_time.first().map(|&(due, _)| due)
    }

    /// A new Close, due at once. `false` when there is no room.
    pub(super) fn begin(
        &mut self,
        now: Nanos,
        key: Key,
        counter: u64,
        targets: &[MemberId],
    ) -> bool {
        if self.by_key.len() >= self.capacity && !self.by_key.contains_key(&key) {
            return false;
        }
        let targets = targets.iter().take(TARGETS);
        let close = Close {
            counter,
            targets: targets.map(|&member| Target { member, acknowledged: false }).collect(),
            sent: 0,
            sent_at: None,
            due: now,
            forget: now + ANSWER_LIFETIME,
        };
        if let Some(former) = self.by_key.insert(key, close) {
            self.by_time.remove(&(former.due, key));
        }
        self.by_time.insert((now, key));
        true
    }

    /// The Closes of a flow: of that incarnation, or with 0 of some, those first that were said least lately. Who still
    /// believes in another one asks again.
    pub(super) fn of(&self, tuple: &FiveTuple, incarnation: Incarnation) -> Vec<Key> {
        if incarnation != Incarnation(0) {
            let key = (*tuple, incarnation);
            return self.by_key.contains_key(&key).then_some(key).into_iter().collect();
        }
        let all = (*tuple, incarnation)..=(*tuple, Incarnation(u32::MAX));
        let mut all: Vec<_> = self.by_key.range(all).map(|(&key, c)| (c.sent_at, key)).collect();
        all.sort_unstable();
        all.into_iter().take(UNNAMED).map(|(_, key)| key).collect()
    }

    /// Begins anew, for all targets and for who asked; not more often than a Close is repeated anyway. Whether it is
    /// due now.
    pub(super) fn again(&mut self, now: Nanos, key: Key, asker: Option<MemberId>) -> bool {
        let Some(close) = self.by_key.get_mut(&key) else { return false };
        if close.sent_at.is_some_and(|sent| now.since(sent) < FIRST_REPEAT) {
            return false;
        }
        if let Some(member) = asker
            && close.targets.len() < TARGETS
            && !close.targets.iter().any(|t| t.member == member)
        {
            close.targets.push(Target { member, acknowledged: false });
        }
        close.targets.iter_mut().for_each(|t| t.acknowledged = false);
        (close.sent, close.forget) = (0, now + ANSWER_LIFETIME);
        self.move_to(key, now);
        true
    }

    /// A target has heard it. `false` when no such Close is known, or not to it.
    pub(super) fn acknowledged(&mut self, key: Key, counter: u64, by: MemberId) -> bool {
        let Some(close) = self.by_key.get_mut(&key).filter(|c| c.counter == counter) else {
            return false;
        };
        let Some(target) = close.targets.iter_mut().find(|t| t.member == by) else { return false };
        target.acknowledged = true;
        if close.is_over() {
            let forget = close.forget;
            self.move_to(key, forget);
        }
        true
    }

    /// What is to be sent now, if anything. Forgets what is old.
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<Due> {
        loop {
            let &(due, key) = self.by_time.first()?;
            if due > now {
                return None;
            }
            let close = self.by_key.get_mut(&key)?;
            if close.is_over() {
                if !close.targets.iter().all(|t| t.acknowledged) {
                    self.unacknowledged += 1;
                }
                self.by_key.remove(&key);
                self.by_time.pop_first();
                continue;
            }
            let wait = Nanos(FIRST_REPEAT.0 << close.sent);
            close.sent += 1;
            close.sent_at = Some(now);
            let out = Due { key, counter: close.counter, targets: close.targets.clone() };
            let next = if close.sent > CLOSE_REPEATS { close.forget } else { now + wait };
            self.move_to(key, next);
            return Some(out);
        }
    }

    fn move_to(&mut self, key: Key, due: Nanos) {
        if let Some(close) = self.by_key.get_mut(&key) {
            self.by_time.remove(&(close.due, key));
            close.due = due;
            self.by_time.insert((due, key));
        }
    }
}
