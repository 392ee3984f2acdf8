//! What is taken and what is written, without any etcd: cases, and a cluster whose store is lost and restored at random.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use jlb_config::ClusterList;
use jlb_etcd::{
    Numbers, Presence, Present, Refused, Start, Stored, Unfit, Why, decide_numbers, decide_start,
    offered,
};
use jlb_flow::HashKey;
use jlb_map::{Family, Keys, Member, MemberRole, Prefix, Refusal, Snapshot, Spec, Underlay};
use jlb_wire::{Epoch, MacKey, MacKeys, MemberId, Version};
use proptest::prelude::*;

/// A list of these trackers and backends.
fn list(generation: u64, epoch: u32, trackers: &[u16], backends: u16) -> ClusterList {
    let member = |n: u16, role: MemberRole| Member {
        id: MemberId::new(n).unwrap(),
        name: format!("{}-{n}", role.label()),
        role,
        addresses: core::net::IpAddr::from([10, 1, (n >> 8) as u8, n as u8]).into(),
        drain: false,
    };
    let trackers = trackers.iter().map(|&n| member(n, MemberRole::FlowTracker));
    let backends = (1..=backends).map(|n| member(100 + n, MemberRole::Backend));
    let spec = Spec {
        generation,
        epoch: Epoch(epoch),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: HashKey([1; 16]), mac_keys: MacKeys::single(MacKey([2; 16])) },
        underlay: Underlay {
            prefixes: vec![Prefix::new([10, 1, 0, 0].into(), 16).unwrap()],
            prefer: Family::V4,
            port: 6081,
            mtu: 1500,
        },
        members: trackers.chain(backends).collect(),
        services: vec![],
    };
    ClusterList { snapshot: Snapshot::build(spec).unwrap(), forced_generation: None }
}

fn present(lists: &[&ClusterList]) -> Present {
    let of = |l: &&ClusterList| Presence::of("backend", &l.snapshot);
    (0..).map(|n: u32| format!("m{n}")).zip(lists.iter().map(of)).collect()
}

fn numbers(
    file: &ClusterList,
    stored: Option<&ClusterList>,
    in_force: &[&ClusterList],
) -> Result<(u64, u32), Unfit> {
    decide_numbers(file, stored, &present(in_force), false).map(|n| (n.generation, n.epoch))
}

const T: &[u16] = &[1, 2, 3];
const U: &[u16] = &[1, 2, 3, 4];

#[test]
fn numbers_rise_with_what_they_stand_for() {
    let stored = list(7, 2, T, 4);
    let next = |file: ClusterList| numbers(&file, Some(&stored), &[&stored]);
    assert_eq!(next(list(7, 2, T, 5)), Ok((8, 2)), "a change");
    assert_eq!(next(list(7, 2, U, 4)), Ok((8, 3)), "other trackers");
    assert_eq!(next(list(20, 2, T, 5)), Ok((20, 2)), "a number of the operator's own");
    assert_eq!(next(list(20, 9, U, 5)), Ok((20, 9)), "two of them");
    assert_eq!(
        next(list(6, 2, T, 5)),
        Err(Unfit::Lower { what: "generation", file: 6, stored: 7 })
    );
    assert_eq!(next(list(7, 1, T, 5)), Err(Unfit::Lower { what: "epoch", file: 1, stored: 2 }));
    assert_eq!(numbers(&list(1, 1, T, 3), None, &[]), Ok((1, 1)), "the first of all");
    let last = list(u64::MAX >> 1, 2, T, 4);
    assert_eq!(numbers(&last, Some(&last), &[]), Err(Unfit::Exhausted("generation")));
    let last = list(1, u32::MAX, T, 4);
    assert_eq!(numbers(&list(1, u32::MAX, U, 4), Some(&last), &[]), Err(Unfit::Exhausted("epoch")));
}

#[test]
fn the_mark_is_set_by_force_and_kept_without() {
    let mut stored = list(7, 2, T, 4);
    stored.forced_generation = Some(5);
    let file = list(7, 2, T, 1);
    let of = |force| decide_numbers(&file, Some(&stored), &Present::new(), force).unwrap();
    let numbers = |forced| Numbers { generation: 8, epoch: 2, forced_generation: forced };
    assert_eq!((of(false), of(true)), (numbers(Some(5)), numbers(Some(8))));
}

#[test]
fn a_restored_store_is_noticed_by_what_members_have() {
    let (old, new) = (list(5, 2, T, 4), list(9, 3, U, 5));
    let foreign = Err(Unfit::Foreign { name: "m1".into(), has: (9, 3), write: (11, 4) });
    let apply = |file: &ClusterList, stored| numbers(file, stored, &[&old, &new]);
    // A change to what came back, and any that is not clearly above what the members have.
    assert_eq!(apply(&list(5, 2, T, 5), Some(&old)), foreign);
    assert_eq!(apply(&list(9, 3, T, 5), Some(&old)), foreign);
    assert_eq!(apply(&list(10, 4, T, 5), Some(&old)), foreign);
    assert_eq!(apply(&list(11, 3, T, 5), Some(&old)), foreign);
    assert_eq!(apply(&list(11, 4, T, 5), Some(&old)), Ok((11, 4)));
    assert_eq!(apply(&list(11, 4, T, 5), None), Ok((11, 4)), "wiped");
    // What the members have may come back as it is.
    assert_eq!(apply(&new, Some(&old)), Ok((9, 3)));
    assert_eq!(apply(&new, None), Ok((9, 3)));
    assert_eq!(apply(&old, None), foreign, "but not what only some of them have");
    // Another history may have lower numbers than the stored one, and a higher epoch.
    let other = Err(Unfit::Foreign { name: "m0".into(), has: (9, 3), write: (22, 4) });
    assert_eq!(numbers(&list(20, 2, T, 6), Some(&list(20, 2, T, 5)), &[&new]), other);
    // A member that is behind is none of this.
    assert_eq!(numbers(&list(9, 3, U, 6), Some(&new), &[&old, &new]), Ok((10, 3)));
}

#[test]
fn a_start_believes_the_copy_before_an_older_store() {
    let answer = |l: &ClusterList| Ok::<_, &'static str>(Ok(l.clone()));
    let (old, new) = (list(5, 2, T, 4), list(6, 2, T, 5));
    let started = |start: Start<&'static str>| match start {
        Start::Stored(l) => ("stored", l.snapshot.generation(), None),
        Start::Copied(l, why) => ("copy", l.snapshot.generation(), Some(why)),
        Start::Nothing(why) => ("nothing", 0, Some(why)),
    };
    let refusals = |why: Option<Why<&'static str>>| match why {
        Some(Why::Refused(Refused::Refusals(refusals))) => refusals,
        other => panic!("{other:?}"),
    };
    assert!(matches!(started(decide_start(answer(&new), None)), ("stored", 6, None)));
    assert!(matches!(started(decide_start(answer(&new), Some(old.clone()))), ("stored", 6, None)));
    assert!(matches!(started(decide_start(answer(&new), Some(new.clone()))), ("stored", 6, None)));
    let (from, generation, why) = started(decide_start(answer(&old), Some(new.clone())));
    assert_eq!((from, generation), ("copy", 6));
    assert_eq!(refusals(why), [Refusal::LowerGeneration { old: 6, new: 5 }]);
    let (from, _, why) = started(decide_start(answer(&list(6, 2, T, 4)), Some(new.clone())));
    assert_eq!(from, "copy");
    assert!(matches!(refusals(why)[..], [Refusal::SameGeneration { generation: 6, .. }]));
    let (from, _, why) = started(decide_start(answer(&list(7, 2, T, 2)), Some(new.clone())));
    assert_eq!(from, "copy");
    assert!(matches!(refusals(why)[..], [Refusal::Shrinks { lost: 3, of: 5, .. }]));
    let wiped = || Ok(Err(Refused::Nothing));
    assert!(matches!(decide_start::<()>(wiped(), Some(new.clone())), Start::Copied(..)));
    assert!(matches!(decide_start::<()>(wiped(), None), Start::Nothing(Why::Refused(_))));
    assert!(matches!(decide_start(Err("x"), Some(new)), Start::Copied(_, Why::Silent("x"))));
    assert!(matches!(decide_start(Err("x"), None), Start::Nothing(Why::Silent("x"))));
}

#[test]
fn nothing_and_emptiness_are_no_list() {
    let never = |_: &str| panic!("there is nothing to parse");
    assert_eq!(offered(None, never).unwrap_err(), Refused::Nothing);
    let blank = Stored { text: " \n".into(), revision: 3 };
    assert_eq!(offered(Some(&blank), never).unwrap_err(), Refused::Nothing);
}

/// What happens to a cluster.
#[derive(Clone, Debug)]
enum Step {
    /// An operator, who knows the rules, applies these trackers and backends.
    Apply {
        trackers: usize,
        backends: u16,
        force: bool,
    },
    BackUp,
    Restore(usize),
    Wipe,
    /// Member and etcd lose or find each other.
    Cut(usize, bool),
    /// A member restarts.
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let apply = (2usize..=4, 1u16..=6, any::<bool>());
    prop_oneof![
        6 => apply.prop_map(|(trackers, backends, force)| Step::Apply { trackers, backends, force }),
        2 => Just(Step::BackUp),
        1 => (0usize..4).prop_map(Step::Restore),
        1 => Just(Step::Wipe),
        4 => (0usize..MEMBERS, any::<bool>()).prop_map(|(m, cut)| Step::Cut(m, cut)),
        2 => (0usize..MEMBERS).prop_map(Step::Restart),
    ]
}

const MEMBERS: usize = 3;

struct World {
    stored: Option<ClusterList>,
    backups: Vec<Option<ClusterList>>,
    /// What each member has in force, and whether etcd does not reach it.
    members: [(ClusterList, bool); MEMBERS],
}

impl World {
    fn new() -> Self {
        let first = list(1, 1, T, 4);
        let members = core::array::from_fn(|_| (first.clone(), false));
        Self { stored: Some(first), backups: vec![], members }
    }

    fn stored_numbers(&self) -> (u64, u32) {
        let stored = self.stored.as_ref();
        stored.map_or((1, 1), |s| (s.snapshot.generation(), s.snapshot.epoch().0))
    }

    fn present(&self) -> Present {
        present(&self.members.iter().filter(|m| !m.1).map(|m| &m.0).collect::<Vec<_>>())
    }

    fn apply(&mut self, trackers: usize, backends: u16, force: bool) {
        let make = |generation, epoch, forced_generation| ClusterList {
            forced_generation,
            ..list(generation, epoch, &U[..trackers], backends)
        };
        // What `jlbctl get` gives, with a change.
        let (generation, epoch) = self.stored_numbers();
        let forced = self.stored.as_ref().and_then(|s| s.forced_generation);
        let file = make(generation, epoch, forced);
        let decided = decide_numbers(&file, self.stored.as_ref(), &self.present(), force);
        let decided = match decided {
            // As the message says.
            Err(Unfit::Foreign { write: (generation, epoch), .. }) => {
                let file = make(generation, epoch, forced);
                decide_numbers(&file, self.stored.as_ref(), &self.present(), force)
            }
            decided => decided,
        };
        let Numbers { generation, epoch, forced_generation } = decided.unwrap();
        let new = make(generation, epoch, forced_generation);
        if self.stored.as_ref().is_none_or(|stored| new.follows(&stored.snapshot).is_ok()) {
            self.stored = Some(new);
        }
    }

    /// Members that etcd reaches look at the list.
    fn settle(&mut self) {
        for (in_force, is_cut) in &mut self.members {
            if let Some(stored) = self.stored.as_ref().filter(|_| !*is_cut)
                && stored.follows(&in_force.snapshot).is_ok()
            {
                *in_force = stored.clone();
            }
        }
    }

    fn restart(&mut self, member: usize) {
        let (in_force, is_cut) = &mut self.members[member];
        let answer =
            if *is_cut { Err(()) } else { Ok(self.stored.clone().ok_or(Refused::Nothing)) };
        match decide_start(answer, Some(in_force.clone())) {
            Start::Stored(list) | Start::Copied(list, _) => *in_force = list,
            Start::Nothing(_) => panic!("there is a copy"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_member_ever_goes_back_and_an_operator_can_always_mend(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = World::new();
        for step in steps {
            let before: Vec<_> = world.members.iter().map(|m| m.0.snapshot.generation()).collect();
            match step {
                Step::Apply { trackers, backends, force } => world.apply(trackers, backends, force),
                Step::BackUp => world.backups.push(world.stored.clone()),
                Step::Restore(n) => if let Some(backup) = world.backups.get(n) {
                    world.stored = backup.clone();
                },
                Step::Wipe => world.stored = None,
                Step::Cut(member, is_cut) => world.members[member].1 = is_cut,
                Step::Restart(member) => world.restart(member),
            }
            world.settle();
            for ((member, _), before) in world.members.iter().zip(before) {
                prop_assert!(member.snapshot.generation() >= before, "a member went back");
            }
        }
        // Everybody is back, and the operator insists.
        world.members.iter_mut().for_each(|m| m.1 = false);
        world.settle();
        world.apply(3, 6, true);
        world.settle();
        if world.present().values().any(|m| m.generation != world.stored_numbers().0) {
            // Another history with lower numbers does not show from outside, but in that member's log: the epoch must rise.
            let (generation, epoch) = world.stored_numbers();
            let highest = world.members.iter().map(|m| m.0.snapshot.epoch().0).max().unwrap();
            let file = list(generation + 2, epoch.max(highest) + 1, T, 6);
            let stored = world.stored.as_ref();
            let numbers = decide_numbers(&file, stored, &world.present(), true).unwrap();
            prop_assert_eq!(numbers.generation, generation + 2);
            let forced_generation = numbers.forced_generation;
            world.stored = Some(ClusterList { forced_generation, ..file });
            world.settle();
        }
        let stored = world.stored.as_ref().unwrap();
        for (member, _) in &world.members {
            let ours = (member.snapshot.generation(), member.snapshot.digest());
            prop_assert_eq!(ours, (stored.snapshot.generation(), stored.snapshot.digest()));
        }
    }
}
