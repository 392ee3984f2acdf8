use core::hash::Hasher as _;

use jlb_flow::{HashKey, Partition};
use jlb_wire::MemberId;
use siphasher::sip::SipHasher24;

/// Trackers per partition: primary, secondary, and the one that steps in.
pub const TRIO: usize = 3;

/// Up to three trackers that own a partition, by rank. Fewer only in a cluster that has fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trio([Option<MemberId>; TRIO]);

impl Trio {
    /// The members, highest rank first.
    pub fn iter(&self) -> impl Iterator<Item = MemberId> + use<> {
        self.0.into_iter().flatten()
    }

    /// The member at a rank from 0.
    #[must_use]
    pub fn at(&self, rank: usize) -> Option<MemberId> {
        self.0.get(rank).copied().flatten()
    }

    /// The rank of a member, from 0.
    #[must_use]
    pub fn rank_of(&self, member: MemberId) -> Option<usize> {
        self.0.iter().position(|&m| m == Some(member))
    }

    /// Whether a member belongs to it.
    #[must_use]
    pub fn contains(&self, member: MemberId) -> bool {
        self.rank_of(member).is_some()
    }

    /// How many members it has, 0 to [`TRIO`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is no tracker at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }
}

/// Every partition's trio, by rendezvous hashing: each tracker has a score for each partition that depends on
/// nothing else, and the three highest own it. So a tracker that comes or goes changes only the trios that it
/// enters or leaves, and never the order of the others.
pub(crate) fn trios(hash_key: HashKey, trackers: &[MemberId]) -> Box<[Trio]> {
    Partition::all()
        .map(|partition| {
            // (score, id) of the three best, best first. Ids break ties, so that the order is total.
            let mut best: [Option<(u64, MemberId)>; TRIO] = [None; TRIO];
            for &tracker in trackers {
                let mut candidate = Some((score(hash_key, tracker, partition), tracker));
                for place in &mut best {
                    if candidate > *place {
                        core::mem::swap(&mut candidate, place);
                    }
                }
            }
            Trio(best.map(|b| b.map(|(_, id)| id)))
        })
        .collect()
}

/// SipHash-2-4 under `hash_key` over the ASCII bytes `trio`, the member id and the partition, both big-endian u16.
fn score(hash_key: HashKey, tracker: MemberId, partition: Partition) -> u64 {
    let mut bytes = *b"trio\0\0\0\0";
    bytes[4..6].copy_from_slice(&tracker.as_u16().to_be_bytes());
    bytes[6..8].copy_from_slice(&partition.as_u16().to_be_bytes());
    let mut hasher = SipHasher24::new_with_key(&hash_key.0);
    hasher.write(&bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jlb_flow::PARTITIONS;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u16) -> MemberId {
        MemberId::new(n).unwrap()
    }

    fn ids(numbers: impl IntoIterator<Item = u16>) -> Vec<MemberId> {
        numbers.into_iter().map(id).collect()
    }

    fn shown(trio: Trio) -> Vec<u16> {
        trio.iter().map(MemberId::as_u16).collect()
    }

    const KEY: HashKey =
        HashKey(*b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f");

    #[test]
    fn fewer_trackers_than_three_are_all_in_every_trio() {
        assert!(trios(KEY, &[]).iter().all(Trio::is_empty));
        assert!(trios(KEY, &ids([9])).iter().all(|t| shown(*t) == [9]));
        let two = trios(KEY, &ids([9, 8]));
        assert!(two.iter().all(|t| t.len() == 2 && t.contains(id(8)) && t.contains(id(9))));
        assert!(
            two.iter().any(|t| t.at(0) == Some(id(8)))
                && two.iter().any(|t| t.at(0) == Some(id(9)))
        );
    }

    #[test]
    fn every_tracker_is_primary_of_its_share() {
        let all = trios(KEY, &ids(1..=8));
        for n in 1..=8 {
            let share = all.iter().filter(|t| t.at(0) == Some(id(n))).count();
            // 512 expected, standard deviation 21.
            assert!((400..=624).contains(&share), "tracker {n} is primary of {share}");
        }
    }

    #[test]
    fn order_of_the_list_does_not_matter() {
        assert_eq!(trios(KEY, &ids([1, 2, 3, 4])), trios(KEY, &ids([4, 2, 1, 3])));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_joining_tracker_enters_its_trios_and_moves_nobody_else(
            key: [u8; 16],
            set in prop::collection::btree_set(1u16..=4095, 2..12),
        ) {
            let joiner = id(*set.iter().next().unwrap());
            let new: Vec<_> = ids(set.iter().copied());
            let old: Vec<_> = new.iter().copied().filter(|&m| m != joiner).collect();
            let (before, after) = (trios(HashKey(key), &old), trios(HashKey(key), &new));
            let mut entered = 0;
            for (before, after) in before.iter().zip(&after) {
                let without: Vec<_> = after.iter().filter(|&m| m != joiner).collect();
                let kept: Vec<_> = before.iter().take(without.len()).collect();
                prop_assert_eq!(&without, &kept, "the others keep their order");
                if after.contains(joiner) {
                    entered += 1;
                    prop_assert!(before.len() - without.len() <= 1, "it pushes out one at most");
                } else {
                    prop_assert_eq!(before, after);
                }
            }
            // TRIO/N of the partitions, within 8 standard deviations.
            let share = (TRIO as f64 / new.len() as f64).min(1.0);
            let expected = share * PARTITIONS as f64;
            let deviation = (PARTITIONS as f64 * share * (1.0 - share)).sqrt();
            prop_assert!((f64::from(entered) - expected).abs() <= 8.0 * deviation, "{entered} of {expected}");
        }

        #[test]
        fn a_trio_has_no_member_twice(key: [u8; 16], set in prop::collection::btree_set(1u16..=4095, 0..6)) {
            for trio in trios(HashKey(key), &ids(set.iter().copied())) {
                let distinct: BTreeSet<_> = trio.iter().collect();
                prop_assert_eq!(distinct.len(), set.len().min(TRIO));
            }
        }
    }

    /// These must hold for ever: another result places live flows elsewhere. They come from an implementation of
    /// SipHash-2-4 written for this purpose from the paper (in Python, big integers), which gives the paper's own
    /// vector.
    #[test]
    fn golden_vectors() {
        let partition = |n| Partition::new(n).unwrap();
        assert_eq!(score(KEY, id(1), partition(0)), 0x0a7c_5f70_06a8_42ba);
        assert_eq!(score(KEY, id(4095), partition(4095)), 0x061b_4f26_4314_5833);
        let all = trios(KEY, &ids([1, 2, 3, 4, 5]));
        let some: Vec<_> = [0, 1, 2, 1000, 4095].map(|p| shown(all[p])).into();
        assert_eq!(some, [[3, 4, 5], [5, 3, 1], [2, 3, 4], [5, 4, 1], [5, 4, 2]]);
    }
}
