mod stash;

use core::num::NonZeroU32;

use self::stash::Stash;
use crate::prefetch::{prefetch, prefetch_all};
use crate::{Fingerprint, FlowId, Full};

/// Ids whose cache lines are fetched together: a burst.
pub const LOOKUP_BATCH: usize = 32;

/// Entries of a bucket. With an 8-byte value a bucket is exactly one cache line.
const LANES: usize = 4;

/// So many bucket slots for so many flows of the stated capacity. See [`FlowTable`] on what it buys.
const SLOTS_PER_FLOW: (usize, usize) = (15, 8);

/// The stash holds one in so many flows of the capacity, and at least [`STASH_MIN`].
const STASH_SHARE: usize = 32;
const STASH_MIN: usize = 64;

/// A free place. No flow has this fingerprint: [`tag_of`].
const FREE: u64 = 0;

/// A hash table from flows to small values, for one worker.
///
/// **Layout.** Buckets of four entries, aligned to cache lines: four 64-bit fingerprints, then four values. A flow
/// may be in either of two buckets; a new one goes to its first if there is room, so that nearly every look-up reads
/// one cache line, and never moves, so a [`Slot`] is valid until its flow is removed. What finds both full goes to a
/// stash, a small chained table that is looked at last, and only while it is not empty.
///
/// **Capacity.** 15 slots for 8 flows. At the stated capacity 0.5 % of the flows are in the stash after a plain fill,
/// and 2.1 % at most during random churn at full capacity (1 M flows, 40 M replaced); the stash holds 3.1 %, and every
/// flow of a table of up to 64. So [`Full`] means that the stated capacity is used up.
///
/// **Memory.** Per flow of the capacity: 15/8 slots of 8 + `size_of::<V>()` bytes (rounded up to whole cache lines
/// per four), and 3.1 % for the stash: 31 bytes with an 8-byte value, 62 with 24 bytes. All of it is written, and
/// so paged in, at construction.
///
/// **Mixing up two flows.** The id itself is not stored: an entry matches by the first 64 bits of the id, in a
/// bucket chosen by 48 other bits. Both come from a keyed hash that an outsider cannot compute, so a flow that is
/// not there is taken for one that is with probability ≤ 8 · 2⁻⁶⁴ = 2⁻⁶¹ per look-up, plus 2⁻⁶⁴ for each flow in the
/// stash: at 3 million new flows per second one in about 24,000 years. (A tracker that owns few partitions, or one
/// worker of several, sees ids that share up to 12 of the 64 bits only if it has a single partition.)
#[derive(Debug)]
pub struct FlowTable<V> {
    buckets: Box<[Bucket<V>]>,
    stash: Stash<V>,
    len: usize,
    capacity: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket<V> {
    tags: [u64; LANES],
    values: [V; LANES],
}

const _: () = assert!(size_of::<Bucket<u64>>() == 64);
const _: () = assert!(size_of::<Bucket<[u64; 3]>>() == 128);

/// A place in a [`FlowTable`]: valid until the flow in it is removed, then given to another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(NonZeroU32);

impl Slot {
    fn new(index: usize) -> Option<Self> {
        NonZeroU32::new(u32::try_from(index).ok()?.checked_add(1)?).map(Self)
    }

    /// The place as an index from 0, below [`FlowTable::slots`].
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// What [`FlowTable::insert`] found.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The flow was not there; now it is, here.
    New(Slot),
    /// The flow was there already, here, and was not changed: the first writer wins.
    Existing(Slot),
}

impl Inserted {
    /// Where the flow is.
    #[must_use]
    pub const fn slot(self) -> Slot {
        match self {
            Self::New(slot) | Self::Existing(slot) => slot,
        }
    }
}

/// Where a [`FlowTable::sweep`] goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(usize);

impl Cursor {
    /// The first slot. A sweep that returns it has come round.
    pub const START: Self = Self(0);
}

/// What a sweep does with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It goes.
    Remove,
}

impl<V: Copy> FlowTable<V> {
    /// A table for `capacity` flows; `filler` is what unused places hold (any value, never shown).
    ///
    /// The capacity is cut to 2³⁰ flows.
    #[must_use]
    pub fn new(capacity: usize, filler: V) -> Self {
        let capacity = capacity.min(1 << 30);
        let (slots, flows) = SLOTS_PER_FLOW;
        let buckets = (capacity * slots).div_ceil(flows * LANES).max(1);
        let bucket = Bucket { tags: [FREE; LANES], values: [filler; LANES] };
        Self {
            buckets: vec![bucket; buckets].into_boxed_slice(),
            stash: Stash::new((capacity / STASH_SHARE).max(STASH_MIN), filler),
            len: 0,
            capacity,
        }
    }

    /// Flows in the table.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Flows that the table holds at most.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Places of the table: a sweep of so many visits everything once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.buckets.len() * LANES + self.stash.places()
    }

    /// Flows that found both of their buckets full, for observation.
    #[must_use]
    pub const fn stashed(&self) -> usize {
        self.stash.len()
    }

    /// Bytes of memory that the table holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of_val(&*self.buckets) + self.stash.memory()
    }

    /// Asks for the cache lines where the flow would be, without waiting for them.
    #[inline]
    pub fn prefetch(&self, id: &FlowId) {
        let [first, _] = self.choices(id);
        if let Some(bucket) = self.buckets.get(first) {
            prefetch_all(bucket);
        }
    }

    /// The same for a flow that is probably not there and will be added.
    #[inline]
    pub fn prefetch_new(&self, id: &FlowId) {
        let [first, second] = self.choices(id);
        if let (Some(first), Some(second)) = (self.buckets.get(first), self.buckets.get(second)) {
            prefetch_all(first);
            // Mostly it is only looked for there.
            prefetch(&second.tags);
        }
    }

    /// Where the flow is.
    #[must_use]
    #[inline]
    pub fn find(&self, id: &FlowId) -> Option<Slot> {
        let tag = tag_of(id);
        for bucket in self.choices(id) {
            if let Some(lane) = self.buckets[bucket].lane(tag) {
                return Slot::new(bucket * LANES + lane);
            }
        }
        if self.stash.is_empty() {
            return None;
        }
        Slot::new(self.buckets.len() * LANES + self.stash.find(tag)?)
    }

    /// Where the flow is, and its value.
    #[must_use]
    #[inline]
    pub fn find_value(&self, id: &FlowId) -> Option<(Slot, &V)> {
        let slot = self.find(id)?;
        Some((slot, self.at(slot)?))
    }

    /// Looks up `ids[i]` into `found[i]`, with the memory of up to [`LOOKUP_BATCH`] of them fetched at once. Stops at
    /// the end of the shorter slice.
    pub fn lookup_batch(&self, ids: &[FlowId], found: &mut [Option<Slot>]) {
        for (ids, found) in ids.chunks(LOOKUP_BATCH).zip(found.chunks_mut(LOOKUP_BATCH)) {
            for id in ids {
                self.prefetch(id);
            }
            for (id, found) in ids.iter().zip(found) {
                *found = self.find(id);
            }
        }
    }

    /// The flow's value.
    #[must_use]
    #[inline]
    pub fn get(&self, id: &FlowId) -> Option<&V> {
        self.at(self.find(id)?)
    }

    /// The flow's value, to be changed.
    #[must_use]
    #[inline]
    pub fn get_mut(&mut self, id: &FlowId) -> Option<&mut V> {
        self.at_mut(self.find(id)?)
    }

    /// The value at a place; `None` when no flow is there.
    #[must_use]
    #[inline]
    pub fn at(&self, slot: Slot) -> Option<&V> {
        let index = slot.index();
        match self.buckets.get(index / LANES) {
            Some(bucket) => {
                (bucket.tags[index % LANES] != FREE).then(|| &bucket.values[index % LANES])
            }
            None => self.stash.at(index - self.buckets.len() * LANES),
        }
    }

    /// The value at a place, to be changed; `None` when no flow is there.
    #[must_use]
    #[inline]
    pub fn at_mut(&mut self, slot: Slot) -> Option<&mut V> {
        let index = slot.index();
        let in_buckets = self.buckets.len() * LANES;
        match self.buckets.get_mut(index / LANES) {
            Some(bucket) => {
                (bucket.tags[index % LANES] != FREE).then(|| &mut bucket.values[index % LANES])
            }
            None => self.stash.at_mut(index - in_buckets),
        }
    }

    /// Which flow is at a place; `None` when there is none. A timer that remembers both a slot and a fingerprint
    /// knows by it whether it still means that flow (of that five-tuple: the incarnation is the value's matter).
    #[must_use]
    #[inline]
    pub fn fingerprint_at(&self, slot: Slot) -> Option<Fingerprint> {
        let index = slot.index();
        let tag = match self.buckets.get(index / LANES) {
            Some(bucket) => bucket.tags[index % LANES],
            None => self.stash.tag(index - self.buckets.len() * LANES),
        };
        (tag != FREE).then_some(Fingerprint(tag))
    }

    /// Adds a flow, unless it is there.
    ///
    /// # Errors
    /// [`Full`].
    pub fn insert(&mut self, id: &FlowId, value: V) -> Result<Inserted, Full> {
        if let Some(slot) = self.find(id) {
            return Ok(Inserted::Existing(slot));
        }
        if self.len >= self.capacity {
            return Err(Full);
        }
        let tag = tag_of(id);
        let [first, second] = self.choices(id);
        let chosen = if self.buckets[first].lane(FREE).is_some() { first } else { second };
        let bucket = &mut self.buckets[chosen];
        let index = if let Some(lane) = bucket.lane(FREE) {
            bucket.tags[lane] = tag;
            bucket.values[lane] = value;
            chosen * LANES + lane
        } else {
            self.buckets.len() * LANES + self.stash.insert(tag, value)?
        };
        let slot = Slot::new(index).ok_or(Full)?;
        self.len += 1;
        Ok(Inserted::New(slot))
    }

    /// Removes a flow, and gives its value.
    pub fn remove(&mut self, id: &FlowId) -> Option<V> {
        self.remove_at(self.find(id)?)
    }

    /// Removes the flow at a place, and gives its value; `None` when no flow is there.
    pub fn remove_at(&mut self, slot: Slot) -> Option<V> {
        let index = slot.index();
        let in_buckets = self.buckets.len() * LANES;
        let value = match self.buckets.get_mut(index / LANES) {
            Some(bucket) => {
                let tag = &mut bucket.tags[index % LANES];
                if *tag == FREE {
                    return None;
                }
                *tag = FREE;
                bucket.values[index % LANES]
            }
            None => self.stash.remove(index - in_buckets)?,
        };
        self.len -= 1;
        Some(value)
    }

    /// Visits the flows in the next `places` places, in the order of the places, each at most once, and removes
    /// those that `visit` says. Returns where to go on; [`Cursor::START`] when the end was reached.
    pub fn sweep(
        &mut self,
        from: Cursor,
        places: usize,
        mut visit: impl FnMut(Slot, Fingerprint, &mut V) -> Verdict,
    ) -> Cursor {
        let end = from.0.saturating_add(places).min(self.slots());
        for slot in (from.0..end).filter_map(Slot::new) {
            let Some(fingerprint) = self.fingerprint_at(slot) else { continue };
            let Some(value) = self.at_mut(slot) else { continue };
            match visit(slot, fingerprint, value) {
                Verdict::Keep => {}
                Verdict::Remove => {
                    self.remove_at(slot);
                }
            }
        }
        if end == self.slots() { Cursor::START } else { Cursor(end) }
    }

    /// The flow's two buckets (rarely the same one), from the 48 bits of the id that nothing else uses.
    #[inline]
    fn choices(&self, id: &FlowId) -> [usize; 2] {
        let first = id.bucket_hash() << 16;
        // 2⁶⁴ / golden ratio, odd: two ids with the same first bucket have unrelated second ones.
        let second = first.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        [first, second].map(|hash| ((u128::from(hash) * self.buckets.len() as u128) >> 64) as usize)
    }
}

impl<V> Bucket<V> {
    #[inline]
    fn lane(&self, tag: u64) -> Option<usize> {
        let hits = self.hits(tag);
        (hits != 0).then(|| hits.trailing_zeros() as usize)
    }

    /// In which lanes the tag is, as bits. All are compared, since where a flow is cannot be guessed: a wrong guess costs
    /// more than all compares.
    #[inline]
    fn hits(&self, tag: u64) -> u32 {
        let [a, b, c, d] = self.tags.map(|t| u32::from(t == tag));
        a | b << 1 | c << 2 | d << 3
    }
}

/// The fingerprint as stored: never [`FREE`].
#[inline]
fn tag_of(id: &FlowId) -> u64 {
    id.fingerprint().0.max(FREE + 1)
}

#[cfg(test)]
mod tests;
