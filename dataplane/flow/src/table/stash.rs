use super::FREE;
use crate::Full;

/// End of a chain.
const NIL: u32 = u32::MAX;

/// Where a [`super::FlowTable`] keeps the few flows whose buckets are full: chained, so that entries stay in place.
#[derive(Debug)]
pub(super) struct Stash<V> {
    /// First place of each chain; a power of two of them.
    chains: Box<[u32]>,
    places: Box<[Place<V>]>,
    /// Chain of the free places.
    free: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place<V> {
    tag: u64,
    value: V,
    next: u32,
}

impl<V: Copy> Stash<V> {
    /// With so many places (below 2³²).
    pub(super) fn new(places: usize, filler: V) -> Self {
        let place = |next| Place { tag: FREE, value: filler, next };
        Self {
            chains: vec![NIL; places.next_power_of_two()].into_boxed_slice(),
            // Each free place leads to the next one, the last to the end.
            places: (1..places as u32).chain([NIL]).map(place).collect(),
            free: 0,
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.chains) + size_of_val(&*self.places)
    }

    pub(super) fn tag(&self, place: usize) -> u64 {
        self.places.get(place).map_or(FREE, |p| p.tag)
    }

    pub(super) fn at(&self, place: usize) -> Option<&V> {
        self.places.get(place).filter(|p| p.tag != FREE).map(|p| &p.value)
    }

    pub(super) fn at_mut(&mut self, place: usize) -> Option<&mut V> {
        self.places.get_mut(place).filter(|p| p.tag != FREE).map(|p| &mut p.value)
    }

    pub(super) fn find(&self, tag: u64) -> Option<usize> {
        let mut at = self.chains[self.chain(tag)];
        while at != NIL {
            let place = &self.places[at as usize];
            if place.tag == tag {
                return Some(at as usize);
            }
            at = place.next;
        }
        None
    }

    /// Adds a tag that is not there.
    pub(super) fn insert(&mut self, tag: u64, value: V) -> Result<usize, Full> {
        let at = self.free;
        if at == NIL {
            return Err(Full);
        }
        let chain = self.chain(tag);
        let place = &mut self.places[at as usize];
        self.free = place.next;
        *place = Place { tag, value, next: self.chains[chain] };
        self.chains[chain] = at;
        self.len += 1;
        Ok(at as usize)
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<V> {
        let tag = self.tag(place);
        if tag == FREE {
            return None;
        }
        let chain = self.chain(tag);
        let next = self.places[place].next;
        let mut at = self.chains[chain];
        if at as usize == place {
            self.chains[chain] = next;
        } else {
            // The place is in this chain: its tag says so.
            while self.places[at as usize].next as usize != place {
                at = self.places[at as usize].next;
            }
            self.places[at as usize].next = next;
        }
        self.places[place].tag = FREE;
        self.places[place].next = self.free;
        self.free = place as u32;
        self.len -= 1;
        Some(self.places[place].value)
    }

    /// By the tag's last bits: they are as random as any, and the first ones are the partition.
    fn chain(&self, tag: u64) -> usize {
        (tag >> 32) as usize & (self.chains.len() - 1)
    }
}
