use core::hash::Hash;

use ahash::RandomState;
use jlb_role::Nanos;

use crate::Full;
use crate::prefetch::{prefetch, prefetch_all};

/// End of a list.
const NIL: u32 = u32::MAX;

/// Entries that an [`Remembered::insert`] expires first: more than it adds, so that a table which is only ever
/// inserted to empties itself.
const EXPIRED_PER_INSERT: usize = 2;

/// A bounded map that forgets each entry a fixed time after it was last inserted: tombstones and given answers.
///
/// Since all entries live equally long, they expire in the order of their insertion: no timers are needed, only a
/// list. The hash table is chained and was laid out in full at construction (an open-addressed one rebuilds itself
/// after enough removals: milliseconds at a bad moment). Its hash is ahash, which differs between machines and so
/// must not be seen outside: nothing here depends on its order.
///
/// Memory per entry: the key, the value, 20 bytes of links and time, up to 8 bytes of chain heads; padded.
#[derive(Debug)]
pub struct Remembered<K, V> {
    lifetime: Nanos,
    hasher: RandomState,
    /// First entry of each chain; a power of two of them.
    chains: Box<[u32]>,
    /// Grows up to `capacity`, which is reserved, then freed entries are used again.
    entries: Vec<Entry<K, V>>,
    capacity: usize,
    /// Chain of the freed entries, by `next_in_chain`.
    free: u32,
    oldest: u32,
    newest: u32,
    len: usize,
}

#[derive(Debug)]
struct Entry<K, V> {
    /// `None`: free.
    content: Option<(K, V)>,
    expires: Nanos,
    next_in_chain: u32,
    older: u32,
    newer: u32,
}

impl<K: Hash + Eq, V> Remembered<K, V> {
    /// A map for `capacity` entries (cut to 2³¹), each remembered for `lifetime`. The seed only keeps strangers from
    /// aiming at one chain: any secret random number, the same in every run of a simulation.
    #[must_use]
    pub fn new(capacity: usize, lifetime: Nanos, seed: u64) -> Self {
        let capacity = capacity.min(1 << 31);
        Self {
            lifetime,
            hasher: RandomState::with_seeds(seed, 1, 2, 3),
            chains: vec![NIL; capacity.next_power_of_two()].into_boxed_slice(),
            entries: Vec::with_capacity(capacity),
            capacity,
            free: NIL,
            oldest: NIL,
            newest: NIL,
            len: 0,
        }
    }

    /// Entries that are held, expired ones that were not yet cleared away included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries that the map holds at most.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Asks for the memory where a key's entry would begin to be looked for, without waiting for it.
    #[inline]
    pub fn prefetch(&self, key: &K) {
        if self.len > 0 {
            prefetch(&self.chains[self.chain(key)]);
        }
    }

    /// Goes on with that: asks for the first entry that will be looked at.
    #[inline]
    pub fn prefetch_entry(&self, key: &K) {
        if self.len > 0
            && let Some(entry) = self.entries.get(self.chains[self.chain(key)] as usize)
        {
            prefetch_all(entry);
        }
    }

    /// The value, unless its time is over.
    #[must_use]
    pub fn get(&self, now: Nanos, key: &K) -> Option<&V> {
        let entry = self.entries.get(self.find(key)?)?;
        if entry.expires <= now {
            return None;
        }
        entry.content.as_ref().map(|(_, value)| value)
    }

    /// The value, to be changed, unless its time is over. Does not renew it.
    #[must_use]
    pub fn get_mut(&mut self, now: Nanos, key: &K) -> Option<&mut V> {
        let at = self.find(key)?;
        let entry = self.entries.get_mut(at)?;
        if entry.expires <= now {
            return None;
        }
        entry.content.as_mut().map(|(_, value)| value)
    }

    /// Remembers a value from now on for the map's lifetime, in place of the key's former one.
    ///
    /// # Errors
    /// [`Full`], if the key is new and no entry is old enough to go.
    pub fn insert(&mut self, now: Nanos, key: K, value: V) -> Result<(), Full> {
        self.expire(now, EXPIRED_PER_INSERT);
        let expires = now + self.lifetime;
        let at = match self.find(&key) {
            Some(at) => {
                self.unlink_age(at);
                at
            }
            None => {
                let at = self.allocate().ok_or(Full)?;
                let chain = self.chain(&key);
                self.entries[at].next_in_chain = self.chains[chain];
                self.chains[chain] = at as u32;
                self.len += 1;
                at
            }
        };
        let older = core::mem::replace(&mut self.newest, at as u32);
        match self.entries.get_mut(older as usize) {
            Some(older) => older.newer = at as u32,
            None => self.oldest = at as u32,
        }
        let entry = &mut self.entries[at];
        (entry.older, entry.newer) = (older, NIL);
        entry.expires = expires;
        entry.content = Some((key, value));
        Ok(())
    }

    /// Forgets a key, and gives its value, even one whose time is over.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.find(key)?;
        let chain = self.chain(key);
        self.take(at, chain)
    }

    /// Clears away at most `budget` entries whose time is over; returns how many.
    pub fn expire(&mut self, now: Nanos, budget: usize) -> usize {
        let mut done = 0;
        while done < budget {
            let at = self.oldest as usize;
            let Some(entry) = self.entries.get(at).filter(|entry| entry.expires <= now) else {
                break;
            };
            let Some((key, _)) = &entry.content else { break };
            let chain = self.chain(key);
            // For the two that go next: where the first one's chain begins, and the second one.
            if let Some(next) = self.entries.get(entry.newer as usize) {
                if let Some((key, _)) = &next.content {
                    prefetch(&self.chains[self.chain(key)]);
                }
                if let Some(second) = self.entries.get(next.newer as usize) {
                    prefetch_all(second);
                }
            }
            self.take(at, chain);
            done += 1;
        }
        done
    }

    /// When the oldest entry's time is over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.entries.get(self.oldest as usize).map(|entry| entry.expires)
    }

    /// All entries, oldest first, expired ones that were not yet cleared away included.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let first = self.entries.get(self.oldest as usize);
        core::iter::successors(first, |entry| self.entries.get(entry.newer as usize))
            .filter_map(|entry| entry.content.as_ref().map(|(key, value)| (key, value)))
    }

    fn chain(&self, key: &K) -> usize {
        self.hasher.hash_one(key) as usize & (self.chains.len() - 1)
    }

    fn find(&self, key: &K) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.chains[self.chain(key)];
        while let Some(entry) = self.entries.get(at as usize) {
            if entry.content.as_ref().is_some_and(|(k, _)| k == key) {
                return Some(at as usize);
            }
            at = entry.next_in_chain;
        }
        None
    }

    /// A free entry, in no list.
    fn allocate(&mut self) -> Option<usize> {
        if let Some(entry) = self.entries.get(self.free as usize) {
            return Some(core::mem::replace(&mut self.free, entry.next_in_chain) as usize);
        }
        if self.entries.len() == self.capacity {
            return None;
        }
        self.entries.push(Entry {
            content: None,
            expires: Nanos::ZERO,
            next_in_chain: NIL,
            older: NIL,
            newer: NIL,
        });
        Some(self.entries.len() - 1)
    }

    /// Frees an entry of that chain.
    fn take(&mut self, at: usize, chain: usize) -> Option<V> {
        self.unlink_age(at);
        let next = core::mem::replace(&mut self.entries[at].next_in_chain, self.free);
        self.free = at as u32;
        if self.chains[chain] as usize == at {
            self.chains[chain] = next;
        } else {
            let mut before = self.chains[chain] as usize;
            while self.entries[before].next_in_chain as usize != at {
                before = self.entries[before].next_in_chain as usize;
            }
            self.entries[before].next_in_chain = next;
        }
        self.len -= 1;
        self.entries[at].content.take().map(|(_, value)| value)
    }

    /// Takes an entry out of the list from the oldest to the newest.
    fn unlink_age(&mut self, at: usize) {
        let Entry { older, newer, .. } = self.entries[at];
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Nanos = Nanos(100);

    #[test]
    fn an_entry_lives_exactly_its_time() {
        let mut map = Remembered::new(4, LIFETIME, 1);
        map.insert(Nanos(5), "a", 1).unwrap();
        assert_eq!(map.next_deadline(), Some(Nanos(105)));
        assert_eq!(map.get(Nanos(104), &"a"), Some(&1));
        assert_eq!(map.get(Nanos(105), &"a"), None, "before anything cleared it away");
        assert_eq!((map.expire(Nanos(104), 9), map.len()), (0, 1));
        assert_eq!((map.expire(Nanos(105), 9), map.len()), (1, 0));
        assert_eq!(map.next_deadline(), None);
    }

    #[test]
    fn inserting_again_renews() {
        let mut map = Remembered::new(4, LIFETIME, 1);
        map.insert(Nanos(0), "a", 1).unwrap();
        map.insert(Nanos(10), "b", 2).unwrap();
        map.insert(Nanos(50), "a", 3).unwrap();
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&"b", &2), (&"a", &3)]);
        assert_eq!(map.get(Nanos(149), &"a"), Some(&3));
        assert_eq!(map.expire(Nanos(110), 9), 1);
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn full_until_the_oldest_expires() {
        let mut map = Remembered::new(2, LIFETIME, 1);
        map.insert(Nanos(0), 1, ()).unwrap();
        map.insert(Nanos(9), 2, ()).unwrap();
        assert_eq!(map.insert(Nanos(99), 3, ()), Err(Full));
        assert_eq!(map.insert(Nanos(99), 2, ()), Ok(()), "a renewal needs no room");
        assert_eq!(map.insert(Nanos(100), 3, ()), Ok(()), "the first made room");
        assert_eq!(Remembered::new(0, LIFETIME, 1).insert(Nanos(0), 1, ()), Err(Full));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u8, u32),
        Remove(u8),
        Expire(usize),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..24u8, any::<u32>()).prop_map(|(k, v)| Op::Insert(k, v)),
            1 => (0..24u8).prop_map(Op::Remove),
            1 => (0..5usize).prop_map(Op::Expire),
            2 => (0..30u64).prop_map(Op::Pass),
        ]
    }

    proptest! {
        /// Like a list of (key, value, expiry) in the order of insertion.
        #[test]
        fn behaves_like_a_list(ops in vec(op(), 1..300), seed in any::<u64>()) {
            const CAPACITY: usize = 12;
            let mut map = Remembered::new(CAPACITY, LIFETIME, seed);
            let mut model: Vec<(u8, u32, Nanos)> = Vec::new();
            let mut now = Nanos::ZERO;
            let expire = |model: &mut Vec<(u8, u32, Nanos)>, now: Nanos, budget: usize| {
                let n = model.iter().take(budget).take_while(|entry| entry.2 <= now).count();
                model.drain(..n);
                n
            };
            for op in ops {
                match op {
                    Op::Insert(k, v) => {
                        expire(&mut model, now, EXPIRED_PER_INSERT);
                        let known = model.iter().any(|entry| entry.0 == k);
                        let fits = known || model.len() < CAPACITY;
                        prop_assert_eq!(map.insert(now, k, v).is_ok(), fits);
                        if fits {
                            model.retain(|entry| entry.0 != k);
                            model.push((k, v, now + LIFETIME));
                        }
                    }
                    Op::Remove(k) => {
                        let at = model.iter().position(|entry| entry.0 == k);
                        prop_assert_eq!(map.remove(&k), at.map(|at| model.remove(at).1));
                    }
                    Op::Expire(budget) => {
                        prop_assert_eq!(map.expire(now, budget), expire(&mut model, now, budget));
                    }
                    Op::Pass(ns) => now = now + Nanos(ns),
                }
                prop_assert_eq!(map.next_deadline(), model.first().map(|entry| entry.2));
                let listed: Vec<(u8, u32)> = map.iter().map(|(&k, &v)| (k, v)).collect();
                prop_assert_eq!(&listed, &model.iter().map(|&(k, v, _)| (k, v)).collect::<Vec<_>>());
                prop_assert_eq!(map.len(), model.len());
                for k in 0..24 {
                    let want = model.iter().find(|entry| entry.0 == k && entry.2 > now).map(|entry| entry.1);
                    prop_assert_eq!(map.get(now, &k).copied(), want);
                    prop_assert_eq!(map.get_mut(now, &k).copied(), want);
                }
            }
        }
    }
}
