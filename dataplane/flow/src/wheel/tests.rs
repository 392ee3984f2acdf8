use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MS: Nanos = Nanos::from_millis(1);
const HOUR: Nanos = Nanos::from_secs(3600);

fn due<T>(wheel: &mut Wheel<T>, now: Nanos) -> Vec<T> {
    let mut fired = Vec::new();
    wheel.advance(now, usize::MAX, |value| fired.push(value));
    fired
}

#[test]
fn fires_in_the_granule_after_the_deadline_and_never_before() {
    for deadline in
        [0, 1, 999_999, 1_000_000, 63_999_999, 64_000_000, 4_096_000_001, 3 * HOUR.0 + 5]
    {
        let mut wheel = Wheel::new(1, MS);
        wheel.schedule(Nanos(deadline), ()).unwrap();
        let end_of_granule = deadline.next_multiple_of(MS.0);
        if let Some(before) = end_of_granule.checked_sub(1) {
            assert!(due(&mut wheel, Nanos(before)).is_empty(), "{deadline} fired early");
        }
        assert_eq!(due(&mut wheel, Nanos(end_of_granule)).len(), 1, "{deadline} fired late");
    }
}

#[test]
fn a_driver_that_sleeps_until_next_deadline_wakes_seldom_and_in_time() {
    let mut wheel = Wheel::new(2, MS);
    let deadline = HOUR + Nanos(1);
    wheel.schedule(deadline, "far").unwrap();
    let mut wakes = 0;
    let fired_at = loop {
        let now = wheel.next_deadline().unwrap();
        wakes += 1;
        if !due(&mut wheel, now).is_empty() {
            break now;
        }
    };
    assert_eq!(fired_at, HOUR + MS);
    // 3,600,001 ticks: four digits to base 64.
    assert!(wakes <= 4, "{wakes}");
    assert_eq!(wheel.next_deadline(), None);
}

#[test]
fn a_handle_dies_with_its_timer() {
    let mut wheel = Wheel::new(1, MS);
    let first = wheel.schedule(MS, 1).unwrap();
    assert_eq!(wheel.schedule(MS, 2), Err(Full));
    assert_eq!(wheel.cancel(first), Some(1));
    assert_eq!((wheel.cancel(first), wheel.next_deadline()), (None, None));
    let second = wheel.schedule(MS, 3).unwrap();
    assert_eq!(wheel.cancel(first), None, "the same place, another timer");
    assert_eq!(due(&mut wheel, MS), [3]);
    assert_eq!((wheel.cancel(second), wheel.len()), (None, 0));
}

#[test]
fn the_budget_bounds_the_work_and_nothing_is_lost() {
    let mut wheel = Wheel::new(1000, MS);
    for n in 0..1000 {
        wheel.schedule(Nanos::from_millis(5000 + n % 7), n % 7).unwrap();
    }
    let now = Nanos::from_secs(9);
    let mut fired = Vec::new();
    let mut calls = 0;
    while !wheel.is_empty() {
        assert!(wheel.next_deadline().is_some_and(|due| due <= now));
        assert_eq!(wheel.advance(now, 10, |value| fired.push(value)), 0);
        calls += 1;
    }
    assert_eq!(fired.len(), 1000);
    assert!(fired.is_sorted(), "also when a cascade was cut in the middle");
    // Fired once, moved down twice (5000 = 1 × 64² + …): 3 × 1000 / 10.
    assert!((100..=300).contains(&calls), "{calls}");
}

#[test]
fn the_farthest_deadline_is_no_special_case() {
    for granule in [Nanos(1), Nanos(3), MS] {
        let mut wheel = Wheel::new(2, granule);
        wheel.schedule(Nanos(u64::MAX), "end of time").unwrap();
        wheel.schedule(Nanos(u64::MAX - 2 * granule.0), "before").unwrap();
        assert_eq!(due(&mut wheel, Nanos(u64::MAX - granule.0)), ["before"]);
        assert!(wheel.next_deadline().is_some());
    }
}

#[derive(Clone, Debug)]
enum Op {
    Schedule(u64),
    Cancel(usize),
    /// Time passes, then work with that budget.
    Advance(u64, usize),
}

fn op() -> impl Strategy<Value = Op> {
    // From the past to hours, all scales alike.
    let delay = (0..44u32, any::<u64>()).prop_map(|(bits, n)| n & ((1 << bits) - 1));
    let budget = prop_oneof![1 => 0..6usize, 1 => Just(usize::MAX)];
    prop_oneof![
        5 => delay.clone().prop_map(Op::Schedule),
        2 => any::<usize>().prop_map(Op::Cancel),
        4 => (delay, budget).prop_map(|(ns, budget)| Op::Advance(ns, budget)),
    ]
}

proptest! {
    /// Moved timers fire as those that are cancelled and scheduled anew: at the same calls, in the same order.
    #[test]
    fn to_reschedule_is_to_cancel_and_schedule(
        ops in vec((0..4u8, 0..8usize, 0..300u64), 1..300),
    ) {
        let mut wheels = [Wheel::new(8, MS), Wheel::new(8, MS)];
        let mut ids: [[Option<TimerId>; 8]; 2] = [[None; 8]; 2];
        let mut now = 0;
        for (what, n, ms) in ops {
            if what == 0 {
                now += ms / 8;
                let at = Nanos::from_millis(now);
                let fired = wheels.each_mut().map(|wheel| due(wheel, at));
                prop_assert_eq!(&fired[0], &fired[1]);
                for n in fired[0].iter().copied() {
                    ids.iter_mut().for_each(|ids| ids[n] = None);
                }
                continue;
            }
            // Few deadlines, so that many are the same.
            let deadline = Nanos::from_millis(now + ms / 64 * 64);
            ids[0][n] = match ids[0][n] {
                Some(id) => Some(wheels[0].reschedule(id, deadline, n).unwrap()),
                None => Some(wheels[0].schedule(deadline, n).unwrap()),
            };
            ids[1][n].map(|id| wheels[1].cancel(id));
            ids[1][n] = Some(wheels[1].schedule(deadline, n).unwrap());
            prop_assert_eq!(wheels[0].len(), wheels[1].len());
            prop_assert_eq!(wheels[0].next_deadline(), wheels[1].next_deadline());
        }
    }

    /// Like a sorted map from (tick, …), popped from the front.
    #[test]
    fn behaves_like_a_sorted_map(ops in vec(op(), 1..200), granule in prop_oneof![Just(1u64), Just(1000), Just(1_000_000)]) {
        const CAPACITY: usize = 30;
        let mut wheel = Wheel::new(CAPACITY, Nanos(granule));
        // Serial number → deadline, the tick at which it should fire, and handle.
        let mut model: BTreeMap<usize, (Nanos, u64, TimerId)> = BTreeMap::new();
        let mut now = Nanos::ZERO;
        let mut last = 0;
        for (serial, op) in ops.into_iter().enumerate() {
            match op {
                Op::Schedule(delay) => {
                    // Half of the short ones lie in the past.
                    let deadline = Nanos((now.0 + delay).saturating_sub(granule));
                    // An overdue one is due at the tick that the wheel has reached.
                    let tick = deadline.0.div_ceil(granule).max(wheel.tick);
                    match wheel.schedule(deadline, serial) {
                        Ok(id) => { model.insert(serial, (deadline, tick, id)); }
                        Err(Full) => prop_assert_eq!(model.len(), CAPACITY),
                    }
                }
                Op::Cancel(n) => {
                    let victim = model.iter().nth(n % model.len().max(1)).map(|(&serial, &(_, _, id))| (serial, id));
                    if let Some((serial, id)) = victim {
                        prop_assert_eq!(wheel.cancel(id), Some(serial));
                        prop_assert_eq!(wheel.cancel(id), None);
                        model.remove(&serial);
                    }
                }
                Op::Advance(ns, budget) => {
                    now = now + Nanos(ns);
                    let mut fired = Vec::new();
                    let left = wheel.advance(now, budget, |serial| fired.push(serial));
                    prop_assert!(fired.len() <= budget - left);
                    for serial in fired {
                        let Some((deadline, tick, id)) = model.remove(&serial) else {
                            return Err(TestCaseError::fail("fired twice, or after a cancel"));
                        };
                        prop_assert!(deadline <= now, "early");
                        prop_assert_eq!(wheel.cancel(id), None);
prop_assert!(tick >= last, "out of order, over all calls");
                        last = tick;
                    }
                    if left > 0 {
                        let tick = now.0 / granule;
                        prop_assert!(model.values().all(|&(_, due, _)| due > tick), "late");
                    }
                }
            }
            prop_assert_eq!(wheel.len(), model.len());
            let first = model.values().map(|(deadline, ..)| *deadline).min();
            match (wheel.next_deadline(), first) {
                (Some(wake), Some(first)) => prop_assert!(wake.0 <= first.0.next_multiple_of(granule).max(now.0)),
                (wake, first) => prop_assert_eq!(wake.is_some(), first.is_some()),
            }
        }
        // A driver that follows `next_deadline` gets every timer in its own granule, in bounded steps.
        let mut steps = 0;
        while let Some(wake) = wheel.next_deadline() {
            now = now.max(wake);
            for serial in due(&mut wheel, now) {
                let (deadline, ..) = model.remove(&serial).expect("it fires once");
                prop_assert!(deadline <= now);
            }
            prop_assert!(model.values().all(|(deadline, ..)| deadline.0.next_multiple_of(granule) > now.0));
            steps += 1;
            prop_assert!(steps <= CAPACITY * LEVELS);
        }
        prop_assert!(model.is_empty());
    }
}
