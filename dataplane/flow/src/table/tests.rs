use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Ids as random as the hash makes them (SplitMix64, Steele et al. 2014).
fn id(n: u64) -> FlowId {
    let mix = |n: u64| {
        let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(2 * n + 1).to_le_bytes());
    bytes[8..].copy_from_slice(&mix(2 * n + 2).to_le_bytes());
    FlowId::from_bytes(bytes)
}

/// Ids that all have the same two buckets, and three chains of the stash.
fn crowded(n: u64) -> FlowId {
    Fingerprint((n + 1) | (n % 3) << 32).with_bucket_hash(7)
}

#[test]
fn holds_its_stated_capacity_and_not_one_more() {
    for capacity in [0, 1, 3, 64, 1000, 20_000] {
        let mut table = FlowTable::new(capacity, 0u64);
        for n in 0..capacity as u64 {
            assert!(matches!(table.insert(&id(n), n), Ok(Inserted::New(_))), "{n} of {capacity}");
        }
        assert_eq!(table.len(), capacity);
        assert_eq!(table.insert(&id(capacity as u64), 0), Err(Full));
        assert!((0..capacity as u64).all(|n| table.get(&id(n)) == Some(&n)));
    }
}

#[test]
fn holds_its_capacity_through_churn() {
    let capacity = 5_000;
    let mut table = FlowTable::new(capacity, 0u64);
    let mut live: Vec<u64> = Vec::new();
    for n in 0..30 * capacity as u64 {
        if live.len() == capacity {
            let leaver = live.swap_remove(id(n).bucket_hash() as usize % capacity);
            assert_eq!(table.remove(&id(leaver)), Some(leaver));
        }
        assert!(table.insert(&id(n), n).is_ok(), "{n}: {} in the stash", table.stashed());
        live.push(n);
    }
    assert!(live.iter().all(|n| table.get(&id(*n)) == Some(n)));
}

#[test]
fn flows_of_one_bucket_pair_go_to_the_stash_and_come_back() {
    // At most 8 find a place in two buckets; the first 64 of the others in the stash.
    let mut table = FlowTable::new(1000, 0u64);
    let fitting = (0..1000).take_while(|&n| table.insert(&crowded(n), n).is_ok()).count() as u64;
    assert_eq!(fitting, 8 + STASH_MIN as u64);
    assert_eq!(table.stashed(), STASH_MIN);
    let (leaving, staying): (Vec<u64>, Vec<u64>) = (0..fitting).partition(|n| n % 7 < 3);
    for n in leaving {
        assert_eq!(table.remove(&crowded(n)), Some(n));
        assert_eq!(table.find(&crowded(n)), None);
    }
    assert_eq!(table.len(), staying.len());
    assert!(staying.iter().all(|n| table.get(&crowded(*n)) == Some(n)));
    let again = (1000..2000).take_while(|&n| table.insert(&crowded(n), n).is_ok()).count();
    assert_eq!(again + staying.len(), fitting as usize, "every place is used again");
}

#[test]
fn the_first_writer_wins() {
    let mut table = FlowTable::new(10, 0u64);
    let first = table.insert(&id(1), 1).unwrap();
    assert_eq!(table.insert(&id(1), 2), Ok(Inserted::Existing(first.slot())));
    assert_eq!(table.get(&id(1)), Some(&1));
    assert_eq!(table.len(), 1);
}

#[test]
fn the_fingerprint_that_means_free_is_stored_as_another() {
    let mut table = FlowTable::new(10, 0u64);
    let zero = FlowId::from_bytes([0; 16]);
    assert_eq!(table.find(&zero), None);
    let slot = table.insert(&zero, 5).unwrap().slot();
    assert_eq!((table.find(&zero), table.at(slot)), (Some(slot), Some(&5)));
    assert_eq!(table.remove_at(slot), Some(5));
    assert_eq!(table.at(slot), None);
    assert_eq!(table.remove_at(slot), None);
}

#[test]
fn memory_per_flow_is_as_documented() {
    let capacity = 100_000;
    let per_flow = |bytes: usize| bytes.div_ceil(capacity);
    assert_eq!(per_flow(FlowTable::new(capacity, 0u64).memory()), 31);
    assert_eq!(per_flow(FlowTable::new(capacity, [0u64; 3]).memory()), 62);
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u64),
    Remove(u64),
    Change(u64),
    Batch(Vec<u64>),
    Sweep(usize, u64),
}

fn op() -> impl Strategy<Value = Op> {
    // Few enough flows that they meet again, more than the capacity.
    let flow = 0..120u64;
    prop_oneof![
        5 => flow.clone().prop_map(Op::Insert),
        2 => flow.clone().prop_map(Op::Remove),
        1 => flow.clone().prop_map(Op::Change),
        1 => vec(flow, 0..70).prop_map(Op::Batch),
        1 => (0..300usize, 2..9u64).prop_map(|(n, k)| Op::Sweep(n, k)),
    ]
}

proptest! {
    /// Like a `HashMap` with a capacity, whether the flows spread or crowd, and in places that stay.
    #[test]
    fn behaves_like_a_map(ops in vec(op(), 1..400), crowd in any::<bool>()) {
        const CAPACITY: usize = 60;
        let id = if crowd { crowded } else { id };
        let mut table = FlowTable::new(CAPACITY, 0u64);
        let mut model: HashMap<u64, (u64, Slot)> = HashMap::new();
        let mut cursor = Cursor::START;
        for op in ops {
            match op {
                Op::Insert(n) => match table.insert(&id(n), n + 1000) {
                    Ok(Inserted::New(slot)) => {
                        prop_assert!(model.len() < CAPACITY);
                        prop_assert!(model.values().all(|&(_, taken)| taken != slot));
                        prop_assert_eq!(model.insert(n, (n + 1000, slot)), None);
                    }
                    Ok(Inserted::Existing(slot)) => prop_assert_eq!(model[&n].1, slot),
                    Err(Full) => {
                        prop_assert_eq!(model.len(), CAPACITY);
                        prop_assert!(!model.contains_key(&n));
                    }
                },
                Op::Remove(n) => {
                    prop_assert_eq!(table.remove(&id(n)), model.remove(&n).map(|(value, _)| value));
                }
                Op::Change(n) => {
                    if let Some(value) = table.get_mut(&id(n)) {
                        *value += 1;
                    }
                    if let Some((value, _)) = model.get_mut(&n) {
                        *value += 1;
                    }
                }
                Op::Batch(flows) => {
                    let ids: Vec<FlowId> = flows.iter().map(|&n| id(n)).collect();
                    let mut found = vec![None; ids.len()];
                    table.lookup_batch(&ids, &mut found);
                    for (n, slot) in flows.iter().zip(found) {
                        prop_assert_eq!(slot, model.get(n).map(|&(_, slot)| slot));
                    }
                }
                Op::Sweep(places, k) => {
                    let mut last = None;
                    let mut wrong = 0;
                    cursor = table.sweep(cursor, places, |slot, fingerprint, value| {
                        wrong += usize::from(last >= Some(slot));
                        last = Some(slot);
                        let flow = model.iter().find(|(_, entry)| **entry == (*value, slot)).map(|(&n, _)| n);
                        let Some(n) = flow else { wrong += 1; return Verdict::Keep };
                        wrong += usize::from(fingerprint.0 != tag_of(&id(n)));
                        if *value % k == 0 {
                            model.remove(&n);
                            return Verdict::Remove;
                        }
                        Verdict::Keep
                    });
                    prop_assert_eq!(wrong, 0);
                }
            }
            prop_assert_eq!(table.len(), model.len());
        }
        for n in 0..120 {
            prop_assert_eq!(table.get(&id(n)), model.get(&n).map(|(value, _)| value));
            if let Some(&(value, slot)) = model.get(&n) {
                prop_assert_eq!(table.at(slot), Some(&value));
            }
        }
        // One round, in any steps, visits every flow once.
        let mut visited = 0;
        let mut cursor = Cursor::START;
        loop {
            cursor = table.sweep(cursor, 7, |_, _, _| { visited += 1; Verdict::Keep });
            if cursor == Cursor::START { break; }
        }
        prop_assert_eq!(visited, model.len());
    }
}
