//! The table of a `consistent-hash` service: which backend a flow belongs to, as long as nothing changes.
//!
//! Maglev hashing (Eisenbud and others, NSDI 2016, section 3.4): each backend has a permutation of all places, made of
//! its id alone; in turn each takes the first place of its own that is still free, until none is. So every backend has
//! its share to within one place, and a backend that goes leaves nearly all places of the others alone. Weights (not in
//! the paper): a turn is worth a backend's weight, and a place costs the largest one.

use core::hash::Hasher as _;

use jlb_flow::HashKey;
use jlb_wire::MemberId;
use siphasher::sip::SipHasher24;

use crate::Service;

/// Places of a table: a prime, and 128 for each of 1024 backends. With half as many, one of 1000 that goes disturbs 0.71 %.
pub const MAGLEV_PLACES: usize = 131_071;

/// A service's table. 256 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// Positions in the service's list of backends.
    places: Box<[u16]>,
}

impl Maglev {
    /// The table of a service. Takes a few milliseconds. `None` for a service without backends.
    pub(crate) fn new(key: HashKey, service: &Service) -> Option<Self> {
        let largest = service.backends.iter().map(|b| b.weight).max()?;
        let mut turns: Vec<_> =
            service.backends.iter().map(|b| Turns::new(key, b.member, b.weight)).collect();
        // Whoever is first in a round has the first choice: by id, so that the list's order changes nothing.
        let mut order: Vec<u16> = (0..).take(turns.len()).collect();
        order.sort_by_key(|&n| service.backends[usize::from(n)].member);
        let mut places = vec![FREE; MAGLEV_PLACES].into_boxed_slice();
        let mut free = MAGLEV_PLACES;
        // Each round fills at least one place: that of the largest weight.
        while free > 0 {
            for &n in &order {
                let turn = &mut turns[usize::from(n)];
                turn.credit += u32::from(turn.weight);
                if turn.credit < u32::from(largest) || free == 0 {
                    continue;
                }
                turn.credit -= u32::from(largest);
                while places[turn.place] != FREE {
                    turn.advance();
                }
                places[turn.place] = n;
                free -= 1;
            }
        }
        Some(Self { places })
    }

    /// The position, in the service's list of backends, of the one that a hash belongs to.
    #[must_use]
    pub fn position(&self, hash: u64) -> usize {
        // The high half of a product: no division on the packet path.
        let place = (u128::from(hash) * MAGLEV_PLACES as u128) >> 64;
        usize::from(self.places[place as usize])
    }
}

/// No position: there are 1024 backends at most.
const FREE: u16 = u16::MAX;

/// A backend's walk through all places.
struct Turns {
    place: usize,
    step: usize,
    weight: u16,
    credit: u32,
}

impl Turns {
    fn new(key: HashKey, member: MemberId, weight: u16) -> Self {
        let draw = |purpose: u8| {
            let mut hasher = SipHasher24::new_with_key(&key.0);
            hasher.write(b"maglev");
            hasher.write(&[purpose]);
            hasher.write(&member.as_u16().to_be_bytes());
            hasher.finish()
        };
        let places = MAGLEV_PLACES as u64;
        let (place, step) = (draw(0) % places, draw(1) % (places - 1) + 1);
        Self { place: place as usize, step: step as usize, weight, credit: 0 }
    }

    const fn advance(&mut self) {
        self.place += self.step;
        if self.place >= MAGLEV_PLACES {
            self.place -= MAGLEV_PLACES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Admission, Backend, OnExhausted, Policy, ReturnPath};

    fn service(backends: impl Iterator<Item = (u16, u16)>) -> Service {
        Service {
            name: "web".into(),
            vips: vec![],
            port: 80,
            protocol: jlb_wire::Protocol::Tcp,
            backends: backends
                .map(|(id, weight)| Backend { weight, ..Backend::new(MemberId::new(id).unwrap()) })
                .collect(),
            policy: Policy::ConsistentHash,
            reject_ttl: 3,
            on_exhausted: OnExhausted::Reset,
            return_path: ReturnPath::Egress,
            admission: Admission::Accept,
        }
    }

    /// Which member has each place.
    fn owners(service: &Service) -> Vec<MemberId> {
        let table = Maglev::new(HashKey([7; 16]), service).unwrap();
        table.places.iter().map(|&n| service.backends[usize::from(n)].member).collect()
    }

    #[test]
    fn one_of_a_thousand_that_goes_disturbs_less_than_seven_in_a_thousand() {
        let before = owners(&service((1..=1000).map(|n| (n, 100))));
        for gone in [1, 500, 1000] {
            let after = owners(&service((1..=1000).filter(|&n| n != gone).map(|n| (n, 100))));
            let gone = MemberId::new(gone).unwrap();
            let mut moved = 0;
            for (old, new) in before.iter().zip(&after) {
                assert_ne!(*new, gone);
                moved += usize::from(old != new);
            }
            let share = moved as f64 / MAGLEV_PLACES as f64;
            // A thousandth must move.
            assert!((0.0009..=0.007).contains(&share), "{share}");
        }
    }

    #[test]
    fn weights_are_honoured_within_two_percent_and_the_order_of_the_list_does_not_count() {
        let weights = [(1, 100), (2, 300), (3, 1000), (4, 600)];
        let table = owners(&service(weights.into_iter()));
        for (id, weight) in weights {
            let has = table.iter().filter(|m| m.as_u16() == id).count() as f64;
            let due = MAGLEV_PLACES as f64 * f64::from(weight) / 2000.0;
            assert!((has / due - 1.0).abs() < 0.02, "{id}: {has} of {due}");
        }
        assert_eq!(table, owners(&service(weights.into_iter().rev())));
    }

    #[test]
    fn every_hash_has_a_place() {
        let table = Maglev::new(HashKey([7; 16]), &service([(9, 1)].into_iter())).unwrap();
        assert_eq!([0, 1 << 63, u64::MAX].map(|hash| table.position(hash)), [0; 3]);
        assert!(Maglev::new(HashKey([7; 16]), &service([].into_iter())).is_none());
    }
}
