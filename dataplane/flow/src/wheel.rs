use jlb_role::Nanos;

use crate::Full;
use crate::prefetch::prefetch_all;

/// Six bits of the tick per level: one 64-bit word says which slots of a level are in use.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Enough for every 64-bit tick, so that no deadline is too far and nothing ever wraps.
const LEVELS: usize = 11;
const _: () = assert!(LEVELS * SLOT_BITS as usize >= 64);

/// End of a list.
const NIL: u32 = u32::MAX;

/// A hierarchical timer wheel (Varghese and Lauck, 1987) on the driver's clock, for at most a fixed number of timers.
///
/// A timer never fires early, and becomes due within one granule after its deadline. Timers fire in the order of
/// their granules. [`Self::pop`] does bounded work: each timer that it fires or moves down a level costs one of the
/// budget, and empty time is jumped over at no cost. (With granules of 1 ms a timer that is 4 s away moves down at
/// most twice, one that is 4 hours away three times.)
///
/// Memory: 5.6 KiB, and 32 bytes plus `size_of::<Option<T>>()` (padded to 8) for each timer.
#[derive(Debug)]
pub struct Wheel<T> {
    granule: u64,
    /// All timers of earlier ticks have been popped. Every timer is in the level of the highest six-bit digit in
    /// which its tick differs from this, and in the slot of its own digit there, which is larger: so within a level
    /// the first slot is the earliest, and a lower level is earlier than a higher one.
    tick: u64,
    levels: [Level; LEVELS],
    /// The slot that is being emptied into lower levels; its digit is that of `tick`.
    cascade: Option<Place>,
    /// Grows up to `capacity`, which is reserved, then freed ones are used again.
    timers: Vec<Timer<T>>,
    capacity: usize,
    /// List of the freed timers, by `next`.
    free: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    used: u64,
    /// First and last timer of each slot.
    ends: [(u32, u32); SLOTS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    level: u8,
    slot: u8,
}

#[derive(Debug)]
struct Timer<T> {
    /// `None`: free.
    value: Option<T>,
    tick: u64,
    generation: u32,
    place: Place,
    previous: u32,
    next: u32,
}

/// Names a scheduled timer, until it fires or is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

impl<T> Wheel<T> {
    /// A wheel for `capacity` timers (cut to 2³¹) whose time goes in steps of `granule` (at least 1 ns).
    #[must_use]
    pub fn new(capacity: usize, granule: Nanos) -> Self {
        let capacity = capacity.min(1 << 31);
        Self {
            granule: granule.0.max(1),
            tick: 0,
            levels: [Level { used: 0, ends: [(NIL, NIL); SLOTS] }; LEVELS],
            cascade: None,
            timers: Vec::with_capacity(capacity),
            capacity,
            free: NIL,
            len: 0,
        }
    }

    /// Timers that are scheduled.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Timers that the wheel holds at most.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Schedules a timer. A deadline in the past is due at once.
    ///
    /// # Errors
    /// [`Full`].
    pub fn schedule(&mut self, deadline: Nanos, value: T) -> Result<TimerId, Full> {
        // Rounded up: never early.
        let tick = deadline.0.div_ceil(self.granule).max(self.tick);
        let index = self.allocate().ok_or(Full)?;
        let timer = &mut self.timers[index as usize];
        timer.value = Some(value);
        timer.tick = tick;
        let generation = timer.generation;
        self.link(index);
        self.len += 1;
        Ok(TimerId { index, generation })
    }

    /// Moves a timer to another deadline, behind all others that are due then: as if it had been cancelled and scheduled. Gives
    /// its new name.
    ///
    /// # Errors
    /// [`Full`], if it had fired or was cancelled and there is no room for another one.
    pub fn reschedule(&mut self, id: TimerId, deadline: Nanos, value: T) -> Result<TimerId, Full> {
        let tick = deadline.0.div_ceil(self.granule).max(self.tick);
        let timer = self.timers.get(id.index as usize);
        // Where it would come to stand again it stays.
        let stays = timer.is_some_and(|timer| {
            timer.generation == id.generation
                && timer.value.is_some()
                && timer.tick == tick
                && timer.next == NIL
                && timer.place == self.place(tick)
        });
        if stays && let Some(timer) = self.timers.get_mut(id.index as usize) {
            timer.value = Some(value);
            return Ok(id);
        }
        self.cancel(id);
        self.schedule(deadline, value)
    }

    /// Takes a timer back; `None` when it has fired or was cancelled.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        let timer =
            self.timers.get(id.index as usize).filter(|timer| timer.generation == id.generation)?;
        timer.value.as_ref()?;
        self.unlink(id.index);
        self.release(id.index)
    }

    /// Asks for the memory of a timer, without waiting for it.
    #[inline]
    pub fn prefetch(&self, id: TimerId) {
        if let Some(timer) = self.timers.get(id.index as usize) {
            prefetch_all(timer);
        }
    }

    /// The next timer that is due at `now`, while there is budget; takes what it does from that.
    ///
    /// `None` with budget left means that nothing more is due. Timers may be scheduled and cancelled between calls.
    pub fn pop(&mut self, now: Nanos, budget: &mut usize) -> Option<T> {
        let target = now.0 / self.granule;
        while *budget > 0 {
            let Some((place, start)) = self.earliest().filter(|&(_, start)| start <= target) else {
                // Nothing is due up to `target`, so no timer's place changes by this; a clock that went back changes
                // nothing either.
                self.tick = self.tick.max(target);
                return None;
            };
            *budget -= 1;
            self.tick = start;
            let (index, _) = self.levels[usize::from(place.level)].ends[usize::from(place.slot)];
            // Who is next in this slot comes next.
            if let Some(next) = self.timers.get(self.timers[index as usize].next as usize) {
                prefetch_all(next);
            }
            self.unlink(index);
            if place.level == 0 {
                return self.release(index);
            }
            self.link(index);
            let more = self.levels[usize::from(place.level)].used & (1 << place.slot) != 0;
            self.cascade = more.then_some(place);
        }
        None
    }

    /// Fires what is due at `now`, with at most `budget` of work; returns the budget that is left. When that is 0 there
    /// may be more to do, which [`Self::next_deadline`] shows.
    pub fn advance(&mut self, now: Nanos, mut budget: usize, mut fire: impl FnMut(T)) -> usize {
        while let Some(value) = self.pop(now, &mut budget) {
            fire(value);
        }
        budget
    }

    /// When [`Self::pop`] or [`Self::advance`] must be called next. Not later than the end of the granule in which the
    /// first deadline lies; it may be earlier, by when timers only move down a level (up to once per level).
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.earliest().map(|(_, start)| Nanos(start.saturating_mul(self.granule)))
    }

    /// The slot to be worked on next, and the tick at which it begins.
    fn earliest(&self) -> Option<(Place, u64)> {
        // First, and at the same tick: what it still holds may be earlier than what already came down.
        if let Some(place) = self.cascade {
            return Some((place, self.tick));
        }
        // Mostly there is none where little happens; the levels are a cache line each.
        if self.len == 0 {
            return None;
        }
        let (n, level) = self.levels.iter().enumerate().find(|(_, level)| level.used != 0)?;
        let slot = level.used.trailing_zeros();
        let shift = n as u32 * SLOT_BITS;
        // The digits above are those of `tick`, those below are 0.
        let above = u64::MAX.checked_shl(shift + SLOT_BITS).unwrap_or(0);
        let start = self.tick & above | u64::from(slot) << shift;
        Some((Place { level: n as u8, slot: slot as u8 }, start))
    }

    /// Where a timer of that tick (not before `self.tick`) belongs.
    fn place(&self, tick: u64) -> Place {
        let differing = (tick ^ self.tick) | (SLOTS as u64 - 1);
        let level = (u64::BITS - 1 - differing.leading_zeros()) / SLOT_BITS;
        let slot = tick >> (level * SLOT_BITS) & (SLOTS as u64 - 1);
        Place { level: level as u8, slot: slot as u8 }
    }

    /// Puts a timer that is in no list at the end of the slot where it belongs.
    fn link(&mut self, index: u32) {
        let place = self.place(self.timers[index as usize].tick);
        let level = &mut self.levels[usize::from(place.level)];
        level.used |= 1 << place.slot;
        let (first, last) = &mut level.ends[usize::from(place.slot)];
        let previous = core::mem::replace(last, index);
        match self.timers.get_mut(previous as usize) {
            Some(previous) => previous.next = index,
            None => *first = index,
        }
        let timer = &mut self.timers[index as usize];
        (timer.place, timer.previous, timer.next) = (place, previous, NIL);
    }

    /// Takes a timer out of its slot.
    fn unlink(&mut self, index: u32) {
        let Timer { place, previous, next, .. } = self.timers[index as usize];
        let level = &mut self.levels[usize::from(place.level)];
        let (first, last) = &mut level.ends[usize::from(place.slot)];
        match self.timers.get_mut(previous as usize) {
            Some(timer) => timer.next = next,
            None => *first = next,
        }
        match self.timers.get_mut(next as usize) {
            Some(timer) => timer.previous = previous,
            None => *last = previous,
        }
        if *first != NIL {
            return;
        }
        level.used &= !(1 << place.slot);
        if self.cascade.is_some_and(|c| (c.level, c.slot) == (place.level, place.slot)) {
            self.cascade = None;
        }
    }

    /// A free timer, in no list.
    fn allocate(&mut self) -> Option<u32> {
        if let Some(timer) = self.timers.get(self.free as usize) {
            return Some(core::mem::replace(&mut self.free, timer.next));
        }
        if self.timers.len() == self.capacity {
            return None;
        }
        let place = Place { level: 0, slot: 0 };
        self.timers.push(Timer {
            value: None,
            tick: 0,
            generation: 0,
            place,
            previous: NIL,
            next: NIL,
        });
        Some(self.timers.len() as u32 - 1)
    }

    /// Frees a timer that is in no list.
    fn release(&mut self, index: u32) -> Option<T> {
        let timer = &mut self.timers[index as usize];
        timer.generation = timer.generation.wrapping_add(1);
        timer.next = core::mem::replace(&mut self.free, index);
        self.len -= 1;
        timer.value.take()
    }
}

#[cfg(test)]
mod tests;
