use jlb_role::WorkerId;

use crate::Full;
use crate::prefetch::prefetch_all;

/// Names a waiting entry of a [`Slab`] in 32 bits, for the wire: worker 4 | slot 16 | generation 12, from the top.
///
/// Receivers echo it and make nothing of it. The generation is never 0, so 0 means "no cookie".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(u32);

impl Cookie {
    /// Number of workers that it can name.
    pub const WORKERS: usize = 1 << 4;
    /// Number of slots that it can name, for each worker.
    pub const SLOTS: usize = 1 << 16;
    const GENERATIONS: u16 = 1 << 12;

    /// From the wire; `None` for what no slab gives out.
    #[must_use]
    pub const fn from_wire(word: u32) -> Option<Self> {
        let cookie = Self(word);
        if cookie.generation() == 0 { None } else { Some(cookie) }
    }

    /// For the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        self.0
    }

    /// Whose slab it belongs to: a packet with this cookie is handed over to that worker.
    #[must_use]
    pub const fn worker(self) -> WorkerId {
        WorkerId((self.0 >> 28) as u8)
    }

    /// Which of the slab's slots, from 0.
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 >> 12 & 0xffff) as usize
    }

    const fn generation(self) -> u16 {
        (self.0 & 0xfff) as u16
    }

    fn pack(worker: WorkerId, generation: u16, slot: u16) -> Self {
        Self(u32::from(worker.0) << 28 | u32::from(slot) << 12 | u32::from(generation))
    }
}

/// What a [`Slab`] cannot be made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlabError {
    /// A cookie has no room for this worker's number.
    #[error("worker {number} is beyond the {max} that a cookie can name", number = .0.0, max = Cookie::WORKERS)]
    Worker(WorkerId),
    /// A cookie has no room for so many slots.
    #[error("{0} entries are more than the {max} that a cookie can name", max = Cookie::SLOTS)]
    Capacity(usize),
}

/// A pool of at most 65,536 entries, each known by a [`Cookie`].
///
/// Freed slots are used again in the order in which they were freed, so a stale cookie fits again only after 4095
/// × (number of free slots) further entries: with a pool of 1024, half full, and 100,000 entries per second, no
/// sooner than after 20 s.
#[derive(Debug)]
pub struct Slab<T> {
    worker: WorkerId,
    slots: Box<[SlabSlot<T>]>,
    /// The free slots as a ring: the one at `oldest` is used next, and there are as many as entries are lacking. Apart from
    /// the slots, so that those which come next can be fetched before they are needed.
    free: Box<[u16]>,
    oldest: usize,
    len: usize,
}

#[derive(Debug)]
struct SlabSlot<T> {
    value: Option<T>,
    /// Of the value, or of the next one.
    generation: u16,
}

impl<T> Slab<T> {
    /// A pool of that worker, for so many entries.
    ///
    /// # Errors
    /// [`SlabError`] when a cookie could not name them.
    pub fn new(worker: WorkerId, capacity: usize) -> Result<Self, SlabError> {
        if usize::from(worker.0) >= Cookie::WORKERS {
            return Err(SlabError::Worker(worker));
        }
        if capacity > Cookie::SLOTS {
            return Err(SlabError::Capacity(capacity));
        }
        let slots = (0..capacity).map(|_| SlabSlot { value: None, generation: 1 }).collect();
        let free = (0..capacity).map(|n| n as u16).collect();
        Ok(Self { worker, slots, free, oldest: 0, len: 0 })
    }

    /// Entries in the pool.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries that the pool holds at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`Full`]; the entry is gone then: ask [`Self::is_full`] first if it is dear.
    pub fn insert(&mut self, value: T) -> Result<Cookie, Full> {
        self.insert_with(|_| value)
    }

    /// Adds an entry that is made knowing its own cookie.
    ///
    /// # Errors
    /// [`Full`]; nothing was made then.
    pub fn insert_with(&mut self, make: impl FnOnce(Cookie) -> T) -> Result<Cookie, Full> {
        if self.is_full() {
            return Err(Full);
        }
        let at = self.free[self.oldest];
        let slot = &mut self.slots[usize::from(at)];
        let cookie = Cookie::pack(self.worker, slot.generation, at);
        slot.value = Some(make(cookie));
        self.oldest = self.around(self.oldest + 1);
        self.len += 1;
        Ok(cookie)
    }

    /// Whether [`Self::insert`] would fail.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    /// The entry; `None` when it is gone, or another worker's.
    #[must_use]
    pub fn get(&self, cookie: Cookie) -> Option<&T> {
        self.slots.get(self.place(cookie)?)?.value.as_ref()
    }

    /// The entry, to be changed; `None` when it is gone, or another worker's.
    #[must_use]
    pub fn get_mut(&mut self, cookie: Cookie) -> Option<&mut T> {
        let place = self.place(cookie)?;
        self.slots.get_mut(place)?.value.as_mut()
    }

    /// Takes the entry out; `None` when it is gone, or another worker's.
    pub fn remove(&mut self, cookie: Cookie) -> Option<T> {
        let place = self.place(cookie)?;
        let slot = self.slots.get_mut(place)?;
        let value = slot.value.take()?;
        slot.generation =
            if slot.generation + 1 == Cookie::GENERATIONS { 1 } else { slot.generation + 1 };
        // At the end of the queue of free slots.
        let newest = self.around(self.oldest + self.slots.len() - self.len);
        self.free[newest] = place as u16;
        self.len -= 1;
        Some(value)
    }

    /// Asks for the memory of an entry, without waiting for it.
    #[inline]
    pub fn prefetch(&self, cookie: Cookie) {
        if let Some(slot) = self.slots.get(cookie.slot()) {
            prefetch_all(slot);
        }
    }

    /// Asks for the memory of the slot that will be used after so many others, without waiting for it.
    #[inline]
    pub fn prefetch_free(&self, after: usize) {
        if after < self.slots.len() - self.len {
            let at = self.free[self.around(self.oldest + after)];
            prefetch_all(&self.slots[usize::from(at)]);
        }
    }

    /// A place of the ring, given one that may be up to once round beyond its end.
    #[inline]
    fn around(&self, place: usize) -> usize {
        if place >= self.free.len() { place - self.free.len() } else { place }
    }

    /// All entries, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Cookie, &T)> {
        self.slots.iter().enumerate().filter_map(|(n, slot)| {
            let cookie = Cookie::pack(self.worker, slot.generation, n as u16);
            slot.value.as_ref().map(|value| (cookie, value))
        })
    }

    /// The cookie's slot, if it is of this worker and of this slot's generation.
    fn place(&self, cookie: Cookie) -> Option<usize> {
        let slot = self.slots.get(cookie.slot())?;
        (cookie.worker() == self.worker && cookie.generation() == slot.generation)
            .then_some(cookie.slot())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cookies_are_laid_out_as_documented() {
        let cookie = Cookie::pack(WorkerId(0xa), 0x234, 0xbcd1);
        assert_eq!(cookie.to_wire(), 0xabcd_1234);
        assert_eq!(Cookie::from_wire(0xabcd_1234), Some(cookie));
        assert_eq!(
            (cookie.worker(), cookie.generation(), cookie.slot()),
            (WorkerId(0xa), 0x234, 0xbcd1)
        );
        assert_eq!(Cookie::from_wire(0), None);
        assert_eq!(Cookie::from_wire(0xffff_f000), None, "no slab gives out generation 0");
    }

    #[test]
    fn a_cookie_dies_with_its_entry() {
        let mut slab = Slab::new(WorkerId(3), 1).unwrap();
        let mut old = slab.insert(0).unwrap();
        // Every generation once, and beyond the wrap.
        for n in 1..5000 {
            assert_eq!(slab.insert(n), Err(Full));
            assert_eq!(slab.remove(old), Some(n - 1));
            let new = slab.insert(n).unwrap();
            assert_ne!(new, old);
            assert_eq!(slab.remove(old), None);
            assert_eq!((slab.get(old), slab.get(new)), (None, Some(&n)));
            assert_eq!(Cookie::from_wire(new.to_wire()), Some(new));
            old = new;
        }
    }

    #[test]
    fn limits_are_the_cookies() {
        assert_eq!(Slab::<u8>::new(WorkerId(16), 1).err(), Some(SlabError::Worker(WorkerId(16))));
        assert_eq!(Slab::<u8>::new(WorkerId(15), 65_537).err(), Some(SlabError::Capacity(65_537)));
        assert_eq!(Slab::new(WorkerId(15), 0).unwrap().insert(1), Err(Full));
        let mut slab = Slab::new(WorkerId(15), 65_536).unwrap();
        let cookies: Vec<Cookie> = (0..65_536).map(|n| slab.insert(n).unwrap()).collect();
        assert_eq!(slab.insert(0), Err(Full));
        assert!(cookies.iter().enumerate().all(|(n, &c)| slab.get(c) == Some(&n)));
    }

    proptest! {
        /// Like a map from cookies, that forgets what was removed; other workers' cookies name nothing.
        #[test]
        fn behaves_like_a_map(ops in vec((any::<bool>(), any::<u16>()), 1..300), capacity in 1..20usize) {
            let mut slab = Slab::new(WorkerId(1), capacity).unwrap();
            let mut model: BTreeMap<Cookie, u16> = BTreeMap::new();
            let mut gone: Vec<Cookie> = Vec::new();
            for (add, n) in ops {
                if add {
                    match slab.insert(n) {
                        Ok(cookie) => prop_assert_eq!(model.insert(cookie, n), None),
                        Err(Full) => prop_assert_eq!(model.len(), capacity),
                    }
                } else if let Some(&cookie) = model.keys().nth(usize::from(n) % model.len().max(1)) {
                    prop_assert_eq!(slab.remove(cookie), model.remove(&cookie));
                    gone.push(cookie);
                }
                prop_assert_eq!((slab.len(), slab.is_full()), (model.len(), model.len() == capacity));
                prop_assert!(model.iter().all(|(&cookie, n)| slab.get(cookie) == Some(n)));
                // Fewer than 4095 uses of a slot: no cookie comes again.
                prop_assert!(gone.iter().all(|&cookie| slab.get_mut(cookie).is_none()));
                prop_assert!(model.keys().all(|c| slab.get(Cookie(c.0 ^ 1 << 28)).is_none()));
            }
            let mut listed: Vec<(Cookie, u16)> = slab.iter().map(|(cookie, &n)| (cookie, n)).collect();
            prop_assert!(listed.is_sorted_by_key(|(cookie, _)| cookie.slot()));
            listed.sort_unstable();
            prop_assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
        }
    }
}
