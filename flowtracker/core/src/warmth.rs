//! Which partitions this worker may head, vote on and say "unknown" of.
//!
//! A tracker that has just started, or just entered a trio, does not know what flows there are. Until it does, its word
//! could put a live flow on another backend, or tell its client that nobody knows it. So it is *cold* there until all
//! backends have told it what they have (rule 4), and until those who voted before it cannot do so any more (rule 11).

use jlb_flow::{PARTITIONS, Partition};
use jlb_map::{Snapshot, Trio};
use jlb_peers::Peers;
use jlb_role::Nanos;
use jlb_wire::MemberId;

const WORDS: usize = PARTITIONS / 64;
/// Whoever was heard within this takes part, even if it flaps.
const SPEAKS: Nanos = Nanos::from_millis(500);

/// The cold partitions of one worker.
#[derive(Debug)]
pub(crate) struct Warmth {
    cold: Box<[u64; WORDS]>,
    count: usize,
    /// By partition: the trio before the epoch in which we entered it. `None`: not known, we have just started.
    former: Box<[Option<Trio>]>,
    /// When the first of those that are cold became so.
    pub(crate) since: Nanos,
}

/// Who we are among the owners.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ours {
    pub(crate) me: MemberId,
    pub(crate) worker: u8,
    pub(crate) workers: u8,
}

impl Ours {
    /// The partitions whose owner among a tracker's workers we are, whoever's trio they belong to.
    fn all(self) -> impl Iterator<Item = Partition> {
        let workers = usize::from(self.workers.max(1));
        Partition::all().skip(usize::from(self.worker)).step_by(workers)
    }

    /// Those that are ours.
    pub(crate) fn of(self, snapshot: &Snapshot) -> impl Iterator<Item = Partition> + '_ {
        self.all().filter(move |&p| snapshot.trio(p).contains(self.me))
    }
}

impl Warmth {
    /// Nothing is cold.
    pub(crate) fn warm() -> Self {
        Self {
            cold: Box::new([0; WORDS]),
            count: 0,
            former: vec![None; PARTITIONS].into_boxed_slice(),
            since: Nanos::ZERO,
        }
    }

    /// Everything that is ours is cold.
    pub(crate) fn cold(now: Nanos, ours: Ours, snapshot: &Snapshot) -> Self {
        let mut this = Self::warm();
        this.since = now;
        ours.of(snapshot).for_each(|p| this.set(p));
        this
    }

    pub(crate) fn is_cold(&self, partition: Partition) -> bool {
        self.cold[partition.index() / 64] & 1 << (partition.index() % 64) != 0
    }

    /// How many are.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Another epoch: what we enter is cold, what we leave no matter of ours. What stays cold keeps waiting for whom it
    /// waits.
    pub(crate) fn change(&mut self, now: Nanos, ours: Ours, old: &Snapshot, new: &Snapshot) {
        for partition in ours.all() {
            let (before, after) = (old.trio(partition), new.trio(partition));
            match (before.contains(ours.me), after.contains(ours.me)) {
                (false, true) => {
                    if self.count == 0 {
                        self.since = now;
                    }
                    self.former[partition.index()] = Some(before);
                    self.set(partition);
                }
                (true, false) => self.clear(partition),
                (true, true) | (false, false) => {}
            }
        }
    }

    /// What we knew of a partition is not all any more.
    pub(crate) fn chill(&mut self, now: Nanos, partition: Partition) {
        if self.count == 0 {
            self.since = now;
        }
        self.set(partition);
    }

    /// All markers are here: what was left to those who own it, or is ours alone, is warm.
    pub(crate) fn warm_up(
        &mut self,
        now: Nanos,
        ours: Ours,
        peers: &Peers,
        is_alone: impl Fn(Partition) -> bool,
        dead: impl Fn(MemberId) -> bool,
    ) {
        for partition in ours.of(peers.snapshot()) {
            if self.is_cold(partition)
                && (is_alone(partition) || self.confirmed(now, partition, ours.me, peers, &dead))
            {
                self.clear(partition);
            }
        }
    }

    /// All markers are here, and whoever voted before is of no matter.
    pub(crate) fn warm_all(&mut self) {
        self.cold.fill(0);
        self.count = 0;
    }

    /// Whether two trackers that voted in a former epoch, or said "unknown", cannot do so any more (rule 11): at most one
    /// member of the old trio is left that does not say our epoch. A member that the new list does not name says nothing;
    /// it is the operator's to stop it first.
    fn confirmed(
        &self,
        now: Nanos,
        partition: Partition,
        me: MemberId,
        peers: &Peers,
        dead: impl Fn(MemberId) -> bool,
    ) -> bool {
        let snapshot = peers.snapshot();
        let epoch = snapshot.epoch();
        // Whoever speaks, though it is not relied upon.
        let speaks = |id: MemberId| {
            peers.alive(id) || peers.heard_at(id).is_some_and(|at| now.since(at) < SPEAKS)
        };
        let is_here = |id: MemberId| peers.epoch(id).is_some_and(|e| e >= epoch);
        match self.former[partition.index()] {
            Some(former) => {
                let listed = || former.iter().filter(|&id| snapshot.member(id).is_some());
                let needed = former.len().saturating_sub(1).min(listed().count());
                listed().filter(|&id| is_here(id)).count() >= needed
            }
            // Who has just started does not know who voted before: so both others must say our epoch, also one that we
            // do not hear (we may be wrong), unless another member does not hear it either.
            None => snapshot
                .trio(partition)
                .iter()
                .filter(|&id| id != me)
                .all(|id| is_here(id) || (!speaks(id) && dead(id))),
        }
    }

    fn set(&mut self, partition: Partition) {
        if !self.is_cold(partition) {
            self.cold[partition.index() / 64] |= 1 << (partition.index() % 64);
            self.count += 1;
        }
    }

    fn clear(&mut self, partition: Partition) {
        if self.is_cold(partition) {
            self.cold[partition.index() / 64] &= !(1 << (partition.index() % 64));
            self.count -= 1;
            self.former[partition.index()] = None;
        }
    }
}
