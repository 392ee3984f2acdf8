use std::collections::BTreeMap;

use jlb_role::Nanos;

/// A member that does not hear a backend for 3 s may say that it is silent; a little less, since this looks from outside
/// and only now and then.
const SILENT: Nanos = Nanos::from_millis(2_850);

/// Which backends may rightly count as dead though they live: those whose answers to Probe do not reach two members, one
/// of them a tracker, for `dead_after` (design, section 4). The guarantees leave their flows out.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    /// When an answer of a backend last arrived at a worker of a member: (member, worker, backend).
    heard: BTreeMap<(u16, u8, u16), Nanos>,
    /// When a backend last may have counted as dead.
    verdicts: BTreeMap<u16, Nanos>,
}

impl Silence {
    /// An answer to Probe arrived, or a worker began to listen.
    pub(crate) fn heard(&mut self, now: Nanos, (member, worker): (u16, u8), backend: u16) {
        self.heard.insert((member, worker, backend), now);
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
            let heard = |worker| self.heard.get(&(member, worker, backend)).copied();
            let last = (0..workers).map(|w| heard(w).unwrap_or(Nanos::ZERO)).min();
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
