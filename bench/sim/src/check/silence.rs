use std::collections::BTreeMap;

use jlb_role::Nanos;

/// A member that does not hear a backend for 3 s may say that it is silent; a little less, since this looks from outside
/// and only now and then.
const SILENT: Nanos = Nanos::from_millis(2_850);

/// Which backends may rightly count as dead though they live: those whose answers to Probe do not reach two members, one
/// of them a tracker, for `dead_after` (design, section 4). The guarantees leave their flows out.
#[derive(Debug)]
pub(crate) struct Silence {
    /// When an answer of a backend last arrived at a worker of a member; 0: never. By member, worker and backend.
    heard: Vec<Nanos>,
    members: usize,
    workers: usize,
    /// When a backend last may have counted as dead.
    verdicts: BTreeMap<u16, Nanos>,
}

impl Silence {
    /// Of so many members, whose ids are dense from 1, with so many workers each.
    pub(crate) fn new(members: usize, workers: u8) -> Self {
        let workers = usize::from(workers);
        let heard = vec![Nanos::ZERO; members * workers * members];
        Self { heard, members, workers, verdicts: BTreeMap::new() }
    }

    fn place(&self, member: u16, worker: u8, backend: u16) -> usize {
        let (member, backend) = (usize::from(member) - 1, usize::from(backend) - 1);
        (member * self.workers + usize::from(worker)) * self.members + backend
    }

    /// An answer to Probe arrived, or a worker began to listen.
    pub(crate) fn heard(&mut self, now: Nanos, (member, worker): (u16, u8), backend: u16) {
        // Agents ask under another worker's number; what they hear does not count.
        if usize::from(worker) < self.workers {
            let place = self.place(member, worker, backend);
            self.heard[place] = now;
        }
    }

    /// Looks at one backend, with the eyes of all that ask it: member, its workers, whether it is a tracker.
    pub(crate) fn look(
        &mut self,
        now: Nanos,
        backend: u16,
        members: impl Iterator<Item = (u16, u8, bool)>,
    ) {
        let (mut silent, mut tracker) = (0, false);
        for (member, workers, is_tracker) in members {
            let heard = |worker| self.heard[self.place(member, worker, backend)];
            let last = (0..workers).map(heard).min();
            if last.is_some_and(|at| now.since(at) > SILENT) {
                silent += 1;
                tracker |= is_tracker;
            }
        }
        if silent > 1 && tracker {
            self.verdicts.insert(backend, now);
        }
    }

    /// Whether the backend may have counted as dead at that time or later.
    pub(crate) fn since(&self, backend: u16, at: Nanos) -> bool {
        self.verdicts.get(&backend).is_some_and(|&verdict| verdict >= at)
    }

    /// Backends that may have counted as dead at some time.
    pub(crate) fn verdicts(&self) -> usize {
        self.verdicts.len()
    }
}
