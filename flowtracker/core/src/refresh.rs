//! One pull of one backend's flows: which batches were asked for, and which came.

use arrayvec::ArrayVec;
use jlb_role::{Nanos, Reason};
use jlb_wire::{Body, BootId, MemberId, Refresh, body_flags};

/// Batches that are asked for at the same time: 8 × 1.3 KB, less than any port's queue.
pub(crate) const WINDOW: usize = 8;
/// A batch that does not come is asked for again after this, doubling up to the second one.
const ASK_AGAIN: Nanos = Nanos::from_millis(30);
const ASK_AGAIN_MOST: Nanos = Nanos::from_millis(250);
/// A pull that got nothing for so long starts anew: whoever collected its flows may be gone.
const STALLS: Nanos = Nanos::from_secs(1);
/// The same before the first answer: the agent walks over all of its flows meanwhile. (A restarted one starts at the
/// next repeated question, so nothing is lost by waiting.) Less than the 5 s for which an agent keeps a pull.
const COLLECTS: Nanos = Nanos::from_secs(4);

/// A pull under way.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) backend: MemberId,
    pub(crate) boot: BootId,
    pub(crate) nonce: u64,
    /// The number of our being shut out that it names: the answer is from after that.
    pub(crate) shut_out: u8,
    /// What marks the entries that it listed; not 0.
    pub(crate) number: u8,
    pub(crate) started: Nanos,
    /// When the last new answer came.
    progress: Nanos,
    list: Option<List>,
    /// The batch to be asked for next; those before came, or are in `asked`.
    next: u32,
    asked: ArrayVec<Asked, WINDOW>,
    /// Something that was listed found no room: it is no marker.
    pub(crate) incomplete: bool,
    /// Something that was listed as live met another entry of its five-tuple.
    pub(crate) in_the_way: bool,
    /// An answer came from another collection: of both together something may be missing.
    mixed: bool,
}

/// What all answers of one collection say alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct List {
    batches: u32,
    counter: u64,
    /// Whom the agent obeys alone.
    sole: u16,
    /// The agent's start: the upper half of its sequence numbers.
    start: u64,
}

#[derive(Debug)]
struct Asked {
    batch: u32,
    again: Nanos,
    wait: Nanos,
}

impl Session {
    pub(crate) const fn new(
        now: Nanos,
        (backend, boot): (MemberId, BootId),
        (nonce, shut_out): (u64, u8),
        number: u8,
    ) -> Self {
        Self {
            backend,
            boot,
            nonce,
            shut_out,
            number,
            started: now,
            progress: now,
            list: None,
            next: 0,
            asked: ArrayVec::new_const(),
            incomplete: false,
            in_the_way: false,
            mixed: false,
        }
    }

    /// The batches to be asked for now, for the first time or again. Only the first one until it is known how many there
    /// are; END is the one behind the last.
    pub(crate) fn due(&mut self, now: Nanos) -> ArrayVec<u32, WINDOW> {
        let mut due = ArrayVec::new();
        for asked in self.asked.iter_mut().filter(|asked| asked.again <= now) {
            asked.wait = Nanos(asked.wait.0 * 2).min(ASK_AGAIN_MOST);
            asked.again = now + asked.wait;
            due.push(asked.batch);
        }
        let (window, end) = self.list.map_or((1, 0), |list| (WINDOW, list.batches));
        while self.asked.len() < window && self.next <= end && self.next < u32::MAX {
            self.asked.push(Asked { batch: self.next, again: now + ASK_AGAIN, wait: ASK_AGAIN });
            due.push(self.next);
            self.next += 1;
        }
        due
    }

    /// Takes note of an answer of this backend to this nonce.
    ///
    /// # Errors
    /// Why it is not to be used: not asked for, come already, not of this collection, or malformed.
    pub(crate) fn take(
        &mut self,
        now: Nanos,
        body: &Body,
        refresh: &Refresh,
    ) -> Result<(), Reason> {
        let end = match body.flags {
            body_flags::BATCH => false,
            body_flags::END => true,
            _ => return Err(Reason::Malformed),
        };
        if refresh.batch > refresh.batches || end != (refresh.batch == refresh.batches) {
            return Err(Reason::Malformed);
        }
        let (batches, counter) = (refresh.batches, refresh.counter);
        let sole = refresh.sole;
        let list = List { batches, counter, sole, start: body.sequence >> 32 };
        if body.boot != self.boot || self.list.is_some_and(|first| first != list) {
            self.mixed = true;
            return Err(Reason::Unexpected);
        }
        let asked = self.asked.iter().position(|asked| asked.batch == refresh.batch);
        self.asked.swap_remove(asked.ok_or(Reason::Unexpected)?);
        self.list = Some(list);
        self.progress = now;
        Ok(())
    }

    /// The backend's counter when the flows were collected, and the sole owner that it obeys, once all batches and END are here.
    pub(crate) fn over(&self) -> Option<(u64, u16)> {
        let list = self.list.filter(|list| self.asked.is_empty() && self.next > list.batches)?;
        (!self.mixed).then_some((list.counter, list.sole))
    }

    /// Whether it must start anew.
    pub(crate) fn fails(&self, now: Nanos) -> bool {
        self.mixed || now >= self.gives_up()
    }

    /// When it wants to be looked at, at the latest.
    pub(crate) fn deadline(&self) -> Nanos {
        let again = self.asked.iter().map(|asked| asked.again).min();
        again.unwrap_or(Nanos::ZERO).min(self.gives_up())
    }

    fn gives_up(&self) -> Nanos {
        self.progress + if self.list.is_some() { STALLS } else { COLLECTS }
    }
}

#[cfg(test)]
mod tests {
    use jlb_wire::{BodyKind, Epoch, Version};

    use super::*;

    const BACKEND: MemberId = MemberId::new(21).unwrap();
    const TRACKER: MemberId = MemberId::new(11).unwrap();
    const BOOT: BootId = BootId(5);

    fn answer(batch: u32, batches: u32) -> (Body, Refresh) {
        let flags = if batch == batches { body_flags::END } else { body_flags::BATCH };
        let body = Body {
            kind: BodyKind::Refresh,
            version: Version::OLDEST,
            flags,
            epoch: Epoch(1),
            sender: BACKEND,
            receiver: TRACKER,
            boot: BOOT,
            sequence: 1 << 32,
            nonce: 9,
        };
        (body, Refresh { batch, batches, worker: 0, workers: 1, sole: 0, shut_out: 0, counter: 77 })
    }

    fn session() -> Session {
        Session::new(Nanos::ZERO, (BACKEND, BOOT), (9, 0), 1)
    }

    fn take(s: &mut Session, (body, refresh): (Body, Refresh)) -> Result<(), Reason> {
        s.take(Nanos::ZERO, &body, &refresh)
    }

    #[test]
    fn one_question_goes_ahead_then_a_window_of_eight() {
        let mut s = session();
        assert_eq!(s.due(Nanos::ZERO).as_slice(), [0]);
        assert!(s.due(Nanos::from_millis(29)).is_empty());
        assert_eq!(s.due(Nanos::from_millis(30)).as_slice(), [0], "again");
        assert!(s.due(Nanos::from_millis(89)).is_empty());
        assert_eq!(s.due(Nanos::from_millis(90)).as_slice(), [0], "after the double time");
        take(&mut s, answer(0, 20)).unwrap();
        assert_eq!(s.due(Nanos::ZERO).as_slice(), [1, 2, 3, 4, 5, 6, 7, 8]);
        take(&mut s, answer(5, 20)).unwrap();
        assert_eq!(take(&mut s, answer(5, 20)), Err(Reason::Unexpected), "once");
        assert_eq!(s.due(Nanos::ZERO).as_slice(), [9]);
        assert_eq!(take(&mut s, answer(10, 20)), Err(Reason::Unexpected), "not asked for");
    }

    #[test]
    fn it_is_over_when_end_and_all_batches_came() {
        let mut s = session();
        s.due(Nanos::ZERO);
        take(&mut s, answer(0, 2)).unwrap();
        assert_eq!(s.due(Nanos::ZERO).as_slice(), [1, 2]);
        take(&mut s, answer(2, 2)).unwrap();
        assert_eq!(s.over(), None, "END came first");
        take(&mut s, answer(1, 2)).unwrap();
        assert_eq!(s.over(), Some((77, 0)));
        let mut s = session();
        s.due(Nanos::ZERO);
        take(&mut s, answer(0, 0)).unwrap();
        assert_eq!(s.over(), Some((77, 0)), "no flows");
    }

    #[test]
    fn two_collections_are_never_put_together() {
        let changes: [fn(&mut (Body, Refresh)); 4] = [
            |a| a.1.counter += 1,
            |a| a.1.batches += 1,
            |a| a.0.sequence += 1 << 32,
            |a| a.0.boot = BootId(6),
        ];
        for change in changes {
            let mut s = session();
            s.due(Nanos::ZERO);
            take(&mut s, answer(0, 2)).unwrap();
            s.due(Nanos::ZERO);
            let mut other = answer(1, 2);
            change(&mut other);
            assert_eq!(take(&mut s, other), Err(Reason::Unexpected));
            assert!(s.fails(Nanos::ZERO));
            take(&mut s, answer(1, 2)).unwrap();
            take(&mut s, answer(2, 2)).unwrap();
            assert_eq!(s.over(), None);
        }
    }

    #[test]
    fn what_no_agent_says_is_malformed() {
        let mut s = session();
        s.due(Nanos::ZERO);
        for (flags, batch) in [(body_flags::END, 0), (body_flags::BATCH, 2), (body_flags::PULL, 0)]
        {
            let (mut body, refresh) = answer(batch, 2);
            body.flags = flags;
            assert_eq!(take(&mut s, (body, refresh)), Err(Reason::Malformed));
        }
        assert_eq!(take(&mut s, answer(3, 2)), Err(Reason::Malformed));
    }

    #[test]
    fn silence_ends_it_and_collecting_may_take_longer() {
        let mut s = session();
        s.due(Nanos::ZERO);
        assert!(!s.fails(Nanos::from_millis(3999)));
        assert!(s.fails(Nanos::from_secs(4)));
        take(&mut s, answer(0, 2)).unwrap();
        assert!(!s.fails(Nanos::from_millis(999)));
        assert!(s.fails(Nanos::from_secs(1)));
    }
}
