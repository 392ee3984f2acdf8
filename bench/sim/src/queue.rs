use core::cmp::Reverse;
use std::collections::BinaryHeap;

use jlb_role::Nanos;

/// Time of one bucket: 2¹³ ns are 8 µs, in which mostly one thing happens.
const BUCKET_BITS: u32 = 13;
/// 34 ms: packets under way and the timers of workers lie within.
const BUCKETS: usize = WORDS * 64;
const WORDS: usize = 64;
/// End of a list.
const NIL: u32 = u32::MAX;

/// What is to happen, by virtual time; what is due at the same instant happens in the order in which it was asked for.
///
/// A ring of buckets for what is near, each a short list without order, and a heap for what is far. Both hold places only; the
/// events lie still.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    /// The bucket of the latest event that was taken, counted from time 0.
    now: u64,
    /// The first place of each bucket's list.
    buckets: Box<[u32; BUCKETS]>,
    /// Which buckets, and which words of that, are not empty.
    used: [u64; WORDS],
    words: u64,
    far: BinaryHeap<Reverse<(Nanos, u64, u32)>>,
    places: Vec<Place>,
    /// By place; `None`: free. Apart, since the places of a list are looked at more often than what is in them.
    events: Vec<Option<E>>,
    /// List of the free places.
    free: u32,
    sequence: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: Nanos,
    sequence: u64,
    next: u32,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self {
            now: 0,
            buckets: Box::new([NIL; BUCKETS]),
            used: [0; WORDS],
            words: 0,
            far: BinaryHeap::new(),
            places: Vec::new(),
            events: Vec::new(),
            free: NIL,
            sequence: 0,
        }
    }

    pub(crate) fn push(&mut self, at: Nanos, event: E) {
        let sequence = self.sequence;
        self.sequence += 1;
        let mut place = Place { at, sequence, next: NIL };
        // What should have happened before happens now.
        let bucket = (at.0 >> BUCKET_BITS).max(self.now);
        let near = bucket - self.now < BUCKETS as u64;
        let bucket = bucket as usize % BUCKETS;
        if near {
            place.next = self.buckets[bucket];
        }
        let index = self.free;
        let index = if let Some(free) = self.places.get_mut(index as usize) {
            self.free = free.next;
            *free = place;
            self.events[index as usize] = Some(event);
            index
        } else {
            self.places.push(place);
            self.events.push(Some(event));
            (self.places.len() - 1) as u32
        };
        if near {
            self.buckets[bucket] = index;
            self.used[bucket / 64] |= 1 << (bucket % 64);
            self.words |= 1 << (bucket / 64);
        } else {
            self.far.push(Reverse((at, sequence, index)));
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(Nanos, E)> {
        let near = self.first_bucket().map(|bucket| (bucket, self.first_of(bucket)));
        let near_key = near.map(|(_, (_, index))| self.key(index));
        let far_key = self.far.peek().map(|&Reverse((at, sequence, _))| (at, sequence));
        let index = match near {
            Some((bucket, first)) if far_key.is_none() || near_key < far_key => {
                self.unlink(bucket, first);
                first.1
            }
            Some(_) | None => self.far.pop()?.0.2,
        };
        let place = &mut self.places[index as usize];
        place.next = self.free;
        self.free = index;
        self.now = self.now.max(place.at.0 >> BUCKET_BITS);
        Some((place.at, self.events[index as usize].take()?))
    }

    /// The bucket in use that comes first from now on.
    fn first_bucket(&self) -> Option<usize> {
        let now = self.now as usize % BUCKETS;
        let rest = self.used[now / 64] >> (now % 64);
        if rest != 0 {
            return Some(now + rest.trailing_zeros() as usize);
        }
        // Round from the next word on; what is left of this one comes last.
        let next = (now / 64 + 1) as u32;
        let words = self.words.rotate_right(next);
        let word = (words.trailing_zeros() + next) as usize % WORDS;
        (words != 0).then(|| word * 64 + self.used[word].trailing_zeros() as usize)
    }

    /// The earliest place in a bucket's list, and the place before that.
    fn first_of(&self, bucket: usize) -> (u32, u32) {
        let mut first = (NIL, self.buckets[bucket]);
        let mut index = first.1;
        loop {
            let next = self.places[index as usize].next;
            if next == NIL {
                return first;
            }
            if self.key(next) < self.key(first.1) {
                first = (index, next);
            }
            index = next;
        }
    }

    fn key(&self, index: u32) -> (Nanos, u64) {
        let place = &self.places[index as usize];
        (place.at, place.sequence)
    }

    /// Takes a place out of its bucket's list.
    fn unlink(&mut self, bucket: usize, (before, index): (u32, u32)) {
        let next = self.places[index as usize].next;
        if let Some(before) = self.places.get_mut(before as usize) {
            before.next = next;
            return;
        }
        self.buckets[bucket] = next;
        if next == NIL {
            self.used[bucket / 64] &= !(1 << (bucket % 64));
            if self.used[bucket / 64] == 0 {
                self.words &= !(1 << (bucket / 64));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::random::Random;

    #[test]
    fn earlier_goes_first_and_equal_times_keep_their_order() {
        let mut q = Queue::new();
        for (at, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b')] {
            q.push(Nanos(at), name);
        }
        let order: String = std::iter::from_fn(|| q.pop()).map(|(_, e)| e).collect();
        assert_eq!(order, "abcd");
    }

    #[test]
    fn near_and_far_come_in_the_order_of_a_sorted_set() {
        let mut r = Random::new(1);
        let (mut queue, mut model) = (Queue::new(), BTreeSet::new());
        let (mut now, mut n) = (Nanos::ZERO, 0_u64);
        for _ in 0..100_000 {
            if r.once_in(2) || model.is_empty() {
                // Now, in the same bucket, in the ring, at its edge, and far beyond.
                let ahead =
                    r.pick([0, 1, 20_000, 5_000_000, (BUCKETS as u64) << BUCKET_BITS, 1 << 40]);
                let at = now + Nanos(r.between(ahead / 2, ahead));
                queue.push(at, n);
                model.insert((at, n));
                n += 1;
            } else {
                let expected = model.pop_first();
                now = expected.map_or(now, |(at, _)| at);
                assert_eq!(queue.pop(), expected);
            }
        }
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), model.len());
        assert_eq!(queue.pop(), None);
    }
}
