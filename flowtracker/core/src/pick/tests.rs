use std::collections::BTreeMap;
use std::sync::Arc;

use jlb_flow::HashKey;
use jlb_map::{
    Admission, Backend, Family, Keys, Member, MemberRole, OnExhausted, ReturnPath, Service, Spec,
    Underlay,
};
use jlb_wire::{Epoch, MacKey, MacKeys, Protocol, RejectReason, Version};

use super::*;

const WEB: ServiceId = ServiceId(0);
const WEIGHTS: [(u16, u16); 4] = [(1, 100), (2, 300), (3, 1000), (4, 600)];

fn id(n: u16) -> MemberId {
    MemberId::new(n).unwrap()
}

fn snapshot(policy: Policy, backends: impl Iterator<Item = Backend>) -> Arc<Snapshot> {
    let backends: Vec<_> = backends.collect();
    let members = backends.iter().map(|b| b.member).map(|member| Member {
        id: member,
        name: format!("b{}", member.as_u16()),
        role: MemberRole::Backend,
        addresses: std::net::IpAddr::from((0x0a00_0000 + u32::from(member.as_u16())).to_be_bytes())
            .into(),
        drain: false,
    });
    let spec = Spec {
        generation: 1,
        epoch: Epoch(1),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: HashKey([1; 16]), mac_keys: MacKeys::single(MacKey([2; 16])) },
        underlay: Underlay {
            prefixes: vec!["10.0.0.0/16".parse().unwrap()],
            prefer: Family::V4,
            port: 6081,
            mtu: 1500,
        },
        members: members.collect(),
        services: vec![Service {
            name: "web".into(),
            vips: vec!["203.0.113.10".parse().unwrap()],
            port: 80,
            protocol: Protocol::Tcp,
            backends,
            policy,
            reject_ttl: 3,
            on_exhausted: OnExhausted::Reset,
            return_path: ReturnPath::Egress,
            admission: Admission::Accept,
        }],
    };
    Snapshot::build(spec).unwrap()
}

fn weighted(policy: Policy) -> Arc<Snapshot> {
    let backend = |(n, weight)| Backend { weight, ..Backend::new(id(n)) };
    snapshot(policy, WEIGHTS.into_iter().map(backend))
}

fn picked(backend: u16, bar: Bar) -> Picked {
    Picked { backend: id(backend), bar, panic: false }
}

/// A tracker that hears of everything at once, and backends that take every flow and keep it.
struct World {
    snapshot: Arc<Snapshot>,
    picker: Picker,
    offers: Offers,
    live: BTreeMap<MemberId, u32>,
    now: Nanos,
    flows: u64,
}

impl World {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            picker: Picker::new(&snapshot),
            offers: Offers::default(),
            live: snapshot.members().iter().map(|m| (m.id, 0)).collect(),
            now: Nanos::from_secs(1),
            flows: 0,
            snapshot,
        }
    }

    /// Of 3 more tries.
    fn ask(&mut self, tried: &[MemberId], may_have: impl Fn(MemberId) -> bool) -> Option<Picked> {
        let mut list = Tried::default();
        tried.iter().for_each(|&b| assert!(list.push(b)));
        // As ids of flows are: keyed hashes.
        let hash = Random::new(self.flows).next();
        let ask = Ask { service: WEB, hash, salt: 0, tried: &list, reject_ttl: 3 };
        self.picker.pick(self.now, &self.snapshot, &ask, &self.offers, may_have)
    }

    fn place(&mut self, may_have: impl Fn(MemberId) -> bool) -> MemberId {
        self.flows += 1;
        let backend = self.ask(&[], may_have).unwrap().backend;
        self.tell(backend, 1);
        backend
    }

    /// So many flows more, and the backend says so.
    fn tell(&mut self, backend: MemberId, more: i32) {
        let live = self.live.get_mut(&backend).unwrap();
        *live = live.checked_add_signed(more).unwrap();
        self.picker.heard(
            self.now,
            (WEB, backend),
            *live,
            if more < 0 { News::End } else { News::Load },
        );
    }

    /// The backend says with its load whether it wants new flows.
    fn say(&mut self, backend: u16, word: Option<RejectReason>) {
        let live = self.live[&id(backend)];
        self.picker.heard(self.now, (WEB, id(backend)), live, News::Told(word, 100));
    }

    /// How often each one is asked for a new flow, of 600.
    fn asked(&mut self) -> BTreeMap<u16, u32> {
        let mut asked = BTreeMap::new();
        for _ in 0..600 {
            self.flows += 1;
            let backend = self.ask(&[], |_| true).unwrap().backend;
            *asked.entry(backend.as_u16()).or_insert(0) += 1;
        }
        asked
    }

    /// All that are not in the list answer.
    fn watch(&mut self, silent: &[u16]) {
        self.now = self.now + Nanos::from_millis(20);
        let answers = |member: MemberId| !silent.contains(&member.as_u16());
        self.picker.watch(self.now, &self.snapshot, answers);
    }

    fn have(&mut self, live: &[(u16, u32)]) {
        for &(n, live) in live {
            self.live.insert(id(n), live);
            self.picker.heard(self.now, (WEB, id(n)), live, News::Load);
        }
    }
}

#[test]
fn every_policy_honours_weights_within_two_percent() {
    for policy in Policy::ALL {
        let mut w = World::new(weighted(policy));
        let flows = 200_000;
        for _ in 0..flows {
            w.place(|_| true);
            // What everybody says all the time.
            if w.flows.is_multiple_of(100) {
                w.now = w.now + Nanos::from_millis(20);
                let live: Vec<_> = w.live.iter().map(|(b, &n)| (b.as_u16(), n)).collect();
                w.have(&live);
            }
        }
        for (n, weight) in WEIGHTS {
            let (has, due) = (f64::from(w.live[&id(n)]), f64::from(weight) / 2000.0);
            let share = has / f64::from(flows);
            // Two that are drawn by weight are not the whole list: who weighs half of it is in most pairs, and wins
            // those in which it has not more than its share.
            assert!((share / due - 1.0).abs() < 0.02, "{policy:?} {n}: {share} for {due}");
        }
    }
}

#[test]
fn who_may_not_have_flows_or_refused_this_one_gets_none() {
    for policy in Policy::ALL {
        let mut w = World::new(weighted(policy));
        for _ in 0..2000 {
            assert_ne!(w.place(|b| b != id(3)), id(3), "{policy:?}");
            let asked = w.ask(&[id(1), id(4)], |b| b != id(3)).unwrap();
            assert_eq!(asked, picked(2, Bar::LAST), "{policy:?}: the last");
            assert_eq!(w.ask(&[id(1)], |b| b == id(1)), None);
        }
        assert_eq!(w.ask(&[], |_| false), None);
    }
}

#[test]
fn a_drained_backend_comes_to_nothing_and_stays_there() {
    for policy in Policy::ALL {
        let mut w = World::new(weighted(policy));
        let mut flows: Vec<_> = (0..400).map(|_| w.place(|_| true)).collect();
        assert!(w.live[&id(3)] > 0);
        // Each flow that ends makes room for another one.
        for _ in 0..4000 {
            let ends = flows.remove(0);
            w.tell(ends, -1);
            flows.push(w.place(|b| b != id(3)));
        }
        assert_eq!(w.live[&id(3)], 0, "{policy:?}");
    }
}

#[test]
fn round_robin_goes_round() {
    let mut w = World::new(snapshot(Policy::RoundRobin, (1..=3).map(|n| Backend::new(id(n)))));
    let turns: Vec<_> = (0..6).map(|_| w.place(|_| true).as_u16()).collect();
    assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn the_least_busy_for_its_weight_is_asked_and_told_how_busy_the_next_one_is() {
    let mut w = World::new(weighted(Policy::LeastConnections));
    w.have(&[(1, 10), (2, 24), (3, 90), (4, 60)]);
    // 8 per 100; then 9, 10 and 10: the 28th is one too many.
    assert_eq!(w.ask(&[], |_| true), Some(picked(2, Bar(28))));
    // Offers of ours that are not answered count, for both.
    (0..4).for_each(|_| w.offers.add(id(2)));
    assert_eq!(w.ask(&[], |_| true), Some(picked(3, Bar(94))));
    w.offers.remove(id(2));
    (0..9).for_each(|_| w.offers.add(id(3)));
    assert_eq!(w.ask(&[], |_| true), Some(picked(2, Bar(30))));
    // It refuses, since it has more than we thought.
    w.have(&[(2, 40)]);
    let next = w.ask(&[id(2)], |_| true).unwrap();
    assert_eq!(next.backend, id(3));
    // An idle host is never too busy.
    w.have(&[(1, 0), (2, 0), (3, 0), (4, 0)]);
    w.offers = Offers::default();
    assert_eq!(w.ask(&[], |_| true).unwrap().bar, Bar(1));
}

#[test]
fn of_equals_each_has_its_turn() {
    let mut w =
        World::new(snapshot(Policy::LeastConnections, (1..=4).map(|n| Backend::new(id(n)))));
    w.have(&[(1, 5), (2, 5), (3, 5), (4, 6)]);
    let mut asked = BTreeMap::new();
    for _ in 0..3000 {
        w.flows += 1;
        *asked.entry(w.ask(&[], |_| true).unwrap().backend.as_u16()).or_insert(0u32) += 1;
    }
    // 1000 each, with a standard deviation of 26.
    assert!(asked.len() == 3 && asked.values().all(|n| n.abs_diff(1000) < 130), "{asked:?}");
}

#[test]
fn two_are_drawn_and_the_less_busy_one_is_asked() {
    let mut w = World::new(snapshot(Policy::PowerOfTwo, (1..=10).map(|n| Backend::new(id(n)))));
    let live: Vec<_> = (1..=10).map(|n| (n, u32::from(n))).collect();
    w.have(&live);
    let mut asked = BTreeMap::new();
    for _ in 0..9000 {
        w.flows += 1;
        let Picked { backend, bar, .. } = w.ask(&[], |_| true).unwrap();
        assert!(bar.0 > u32::from(backend.as_u16()) + 1, "the other one has more");
        *asked.entry(backend.as_u16()).or_insert(0u32) += 1;
    }
    // The busiest never; the n-th in (10 − n) of 45 pairs.
    for n in 1..=10 {
        let due = 200 * (10 - u32::from(n));
        assert!(asked.get(&n).copied().unwrap_or(0).abs_diff(due) < 200, "{n}: {asked:?}");
    }
}

#[test]
fn max_connections_asks_only_who_has_room_and_nobody_when_all_are_full() {
    let backend =
        |n| Backend { max_connections: core::num::NonZeroU32::new(10), ..Backend::new(id(n)) };
    let mut w = World::new(snapshot(Policy::MaxConnections, (1..=3).map(backend)));
    assert!(w.ask(&[], |_| true).is_some(), "nothing is known against anybody");
    w.have(&[(1, 10), (2, 9), (3, 12)]);
    for _ in 0..50 {
        w.flows += 1;
        assert_eq!(w.ask(&[], |_| true).unwrap().backend, id(2));
    }
    w.offers.add(id(2));
    assert_eq!(w.ask(&[], |_| true), None);
    // What was said long ago is not held against them.
    w.now = w.now + Nanos::from_secs(2);
    assert!(w.ask(&[], |_| true).is_some());
}

#[test]
fn a_flow_keeps_its_backend_by_hash_and_only_flows_of_one_that_goes_move() {
    let mut w = World::new(snapshot(Policy::ConsistentHash, (1..=50).map(|n| Backend::new(id(n)))));
    let mut moved = 0;
    for _ in 0..2000 {
        w.flows += 1;
        let first = w.ask(&[], |_| true).unwrap().backend;
        w.live.insert(first, 1_000_000);
        assert_eq!(w.ask(&[], |_| true).unwrap().backend, first, "whatever its load");
        let without = w.ask(&[], |b| b != id(7)).unwrap().backend;
        assert_eq!(without != first, first == id(7));
        moved += u32::from(without != first);
        // Refused: another one, always the same.
        let next = w.ask(&[first], |_| true);
        assert!(next.is_some_and(|p| p.backend != first) && next == w.ask(&[first], |_| true));
    }
    // Of 2000 a fiftieth, with a standard deviation of 6.
    assert!((10..=80).contains(&moved), "{moved}");
}

#[test]
fn of_whom_nothing_is_known_is_taken_for_average() {
    let mut w =
        World::new(snapshot(Policy::LeastConnections, (1..=3).map(|n| Backend::new(id(n)))));
    w.have(&[(1, 10), (2, 20)]);
    // 3 has 15 for all that we know.
    assert_eq!(w.ask(&[], |_| true), Some(picked(1, Bar(16))));
    (0..6).for_each(|_| w.offers.add(id(1)));
    assert_eq!(w.ask(&[], |_| true).unwrap().backend, id(3));
    // What was told long ago says nothing.
    w.now = w.now + Nanos::from_secs(2);
    w.have(&[(3, 100)]);
    w.offers = Offers::default();
    assert_ne!(w.ask(&[], |_| true).unwrap(), picked(1, Bar(16)));
}

#[test]
fn who_slows_down_is_asked_less() {
    let mut w =
        World::new(snapshot(Policy::LeastConnections, (1..=4).map(|n| Backend::new(id(n)))));
    w.have(&[(1, 3), (2, 3), (3, 3), (4, 3)]);
    for step in 0..300 {
        w.now = w.now + Nanos::from_millis(10);
        // Flows of 90 ms at three of them, of 900 ms at the fourth.
        let slow = step % 30 == 0;
        for n in (1..=3).chain(slow.then_some(4)) {
            w.tell(id(n), -1);
            w.tell(id(n), 1);
        }
    }
    // With as many flows it is worse, even with one less.
    w.have(&[(4, 2)]);
    for _ in 0..20 {
        w.flows += 1;
        assert_ne!(w.ask(&[], |_| true).unwrap().backend, id(4));
    }
    // Idle for some time it is asked again: so it is found out when it has recovered.
    w.have(&[(4, 0)]);
    for _ in 0..1000 {
        w.now = w.now + Nanos::from_millis(10);
        for n in 1..=3 {
            w.tell(id(n), -1);
            w.tell(id(n), 1);
        }
    }
    w.have(&[(4, 0)]);
    assert_eq!(w.ask(&[], |_| true).unwrap().backend, id(4));
}

#[test]
fn what_is_known_stays_when_the_list_changes() {
    let mut w =
        World::new(snapshot(Policy::LeastConnections, (1..=3).map(|n| Backend::new(id(n)))));
    w.have(&[(1, 10), (2, 5), (3, 7)]);
    let new =
        snapshot(Policy::LeastConnections, [4, 3, 1].into_iter().map(|n| Backend::new(id(n))));
    w.picker.update(&w.snapshot, &new);
    let load = |n| w.picker.load(w.now, (WEB, id(n)), &w.offers);
    assert_eq!([1, 2, 3, 4].map(load), [Some(10), None, Some(7), None]);
}

#[test]
fn who_is_unwilling_comes_last_for_a_while() {
    for policy in [Policy::LeastConnections, Policy::PowerOfTwo] {
        let mut w = World::new(snapshot(policy, (1..=3).map(|n| Backend::new(id(n)))));
        w.have(&[(1, 0), (2, 700), (3, 800)]);
        w.picker.heard(w.now, (WEB, id(1)), 0, News::Unwilling);
        for _ in 0..50 {
            w.flows += 1;
            let Picked { backend, bar, .. } = w.ask(&[], |_| true).unwrap();
            assert_ne!(backend, id(1));
            assert!(backend == id(2) || bar > Bar(1_000_000), "only an unwilling one is worse");
        }
        assert_eq!(w.ask(&[id(2), id(3)], |_| true).unwrap().backend, id(1));
        w.now = w.now + Nanos::from_millis(200);
        w.have(&[(1, 0)]);
        assert!((0..50).any(|n| {
            w.flows = n;
            w.ask(&[], |_| true).unwrap().backend == id(1)
        }));
    }
}

#[test]
fn who_wants_no_flows_is_asked_when_all_others_were_tried_until_it_says_otherwise() {
    let told = RejectReason::ALL.iter().filter(|r| r.is_told());
    for (policy, &word) in Policy::ALL.iter().flat_map(|&p| told.clone().map(move |w| (p, w))) {
        let mut w = World::new(snapshot(policy, (1..=4).map(|n| Backend::new(id(n)))));
        w.have(&[(1, 0), (2, 0), (3, 0), (4, 0)]);
        w.say(2, Some(word));
        let asked = w.asked();
        assert_eq!(asked.keys().copied().collect::<Vec<_>>(), [1, 3, 4], "{policy:?}");
        for n in 0..20 {
            w.flows = n;
            let other = w.ask(&[id(1), id(3)], |_| true).unwrap();
            assert_eq!((other.backend, other.bar == Bar::LAST), (id(4), false), "{policy:?}");
            let last = w.ask(&[id(1), id(3), id(4)], |_| true);
            assert_eq!(last, Some(picked(2, Bar::LAST)), "{policy:?}");
        }
        // It says so still.
        w.watch(&[]);
        w.say(2, Some(word));
        assert!(!w.asked().contains_key(&2), "{policy:?}");
        w.say(2, None);
        assert!(w.asked().contains_key(&2), "{policy:?}");
        // Whom nobody hears any more may have changed its mind.
        w.say(2, Some(word));
        w.now = w.now + Nanos::from_millis(1001);
        w.have(&[(1, 0), (2, 0), (3, 0), (4, 0)]);
        assert!(w.asked().contains_key(&2), "{policy:?}");
    }
}

#[test]
fn when_most_are_unwell_health_does_not_count() {
    let mut w = World::new(snapshot(Policy::Random, (1..=4).map(|n| Backend::new(id(n)))));
    w.have(&[(1, 0), (2, 0), (3, 0), (4, 0)]);
    // Half of them are not most, and who is busy is not unwell.
    w.say(1, Some(RejectReason::Unhealthy));
    w.say(2, Some(RejectReason::Down));
    w.say(3, Some(RejectReason::Overloaded));
    w.watch(&[]);
    assert!(!w.picker.panics(WEB));
    assert_eq!(w.asked().keys().copied().collect::<Vec<_>>(), [4]);
    // Who does not answer counts, too.
    w.watch(&[3]);
    assert!(w.picker.panics(WEB));
    assert_eq!(w.asked().keys().copied().collect::<Vec<_>>(), [1, 2, 4], "all but the busy one");
    for n in 0..20 {
        w.flows = n;
        let Picked { backend, panic, .. } = w.ask(&[], |_| true).unwrap();
        assert_eq!(panic, backend != id(4), "who is well may refuse as ever");
    }
    // A new list does not end it, the next look does.
    w.picker.update(&w.snapshot, &w.snapshot);
    assert!(w.picker.panics(WEB));
    w.say(1, None);
    w.watch(&[]);
    assert!(!w.picker.panics(WEB));
    assert_eq!(w.asked().keys().copied().collect::<Vec<_>>(), [1, 4]);
}

#[test]
fn who_is_drained_or_refuses_by_the_list_does_not_count_among_the_unwell() {
    let mut backends: Vec<_> = (1..=3).map(|n| Backend::new(id(n))).collect();
    backends[2].admission = Admission::Refuse;
    let mut w = World::new(snapshot(Policy::Random, backends.into_iter()));
    w.say(3, Some(RejectReason::Unhealthy));
    w.say(1, Some(RejectReason::Unhealthy));
    w.watch(&[]);
    assert!(!w.picker.panics(WEB), "one of two");
    w.say(2, Some(RejectReason::Drain));
    w.watch(&[]);
    assert!(w.picker.panics(WEB), "the only one: the other drains itself");
    w.say(2, None);
    w.watch(&[2]);
    assert!(w.picker.panics(WEB), "both");
}

#[test]
fn who_wants_half_of_its_weight_gets_half_of_it() {
    for policy in Policy::ALL.into_iter().filter(|&p| p != Policy::ConsistentHash) {
        let mut w = World::new(weighted(policy));
        let flows = 100_000;
        for _ in 0..flows {
            if w.flows.is_multiple_of(100) {
                w.now = w.now + Nanos::from_millis(20);
                for (n, _) in WEIGHTS {
                    let share = if n == 4 { 50 } else { 100 };
                    w.picker.heard(w.now, (WEB, id(n)), w.live[&id(n)], News::Told(None, share));
                }
            }
            w.place(|_| true);
        }
        for (n, weight) in [(1, 100), (2, 300), (3, 1000), (4, 300)] {
            let (has, due) = (f64::from(w.live[&id(n)]), f64::from(weight) / 1700.0);
            let share = has / f64::from(flows);
            assert!((share / due - 1.0).abs() < 0.04, "{policy:?} {n}: {share} for {due}");
        }
    }
}
