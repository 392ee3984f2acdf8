//! What a snapshot answers, what it refuses to be made from, and what may follow it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use core::net::IpAddr;
use core::num::NonZeroU32;
use std::sync::Arc;

use jlb_flow::{HashKey, Partition};
use jlb_map::{
    Addresses, Admission, Backend, Digest, Family, Fault, Keys, Member, MemberField, MemberRole,
    OnExhausted, Place, Policy, Problem, Refusal, ReturnPath, Service, ServiceField, ServiceId,
    Snapshot, Spec, Succession, Underlay, check_successor,
};
use jlb_wire::{Epoch, MacKey, MacKeys, MemberId, Protocol, Version};

fn id(n: u16) -> MemberId {
    MemberId::new(n).unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn member(n: u16, role: MemberRole) -> Member {
    let addresses = Addresses {
        v4: Some(format!("10.0.0.{n}").parse().unwrap()),
        v6: Some(format!("fd00::{n}").parse().unwrap()),
    };
    Member { id: id(n), name: format!("{role}-{n}"), role, addresses, drain: false }
}

fn service(name: &str, vip: &str, port: u16, protocol: Protocol) -> Service {
    Service {
        name: name.into(),
        vips: vec![ip(vip)],
        port,
        protocol,
        backends: vec![Backend::new(id(31)), Backend::new(id(32))],
        policy: Policy::Random,
        reject_ttl: 3,
        on_exhausted: OnExhausted::Reset,
        return_path: ReturnPath::Egress,
        admission: Admission::Accept,
    }
}

fn spec() -> Spec {
    let role = |role, ids: &[u16]| ids.iter().map(|&n| member(n, role)).collect::<Vec<_>>();
    Spec {
        generation: 7,
        epoch: Epoch(2),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: HashKey([1; 16]), mac_keys: MacKeys::single(MacKey([2; 16])) },
        underlay: Underlay {
            prefixes: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            prefer: Family::V4,
            port: 6081,
            mtu: 1500,
        },
        members: [
            role(MemberRole::Ingress, &[11, 12, 13]),
            role(MemberRole::FlowTracker, &[21, 22, 23]),
            role(MemberRole::Backend, &[31, 32, 33, 34]),
        ]
        .concat(),
        services: vec![
            service("web", "203.0.113.10", 80, Protocol::Tcp),
            service("web6", "2001:db8::10", 80, Protocol::Tcp),
            service("dns", "203.0.113.10", 53, Protocol::Udp),
        ],
    }
}

fn build(change: impl FnOnce(&mut Spec)) -> Arc<Snapshot> {
    let mut spec = spec();
    change(&mut spec);
    Snapshot::build(spec).unwrap()
}

#[test]
fn look_ups_find_what_is_there_and_nothing_else() {
    let s = build(|_| {});
    assert_eq!(s.service(ip("203.0.113.10"), 80, Protocol::Tcp), Some(ServiceId(0)));
    assert_eq!(s.service(ip("2001:db8::10"), 80, Protocol::Tcp), Some(ServiceId(1)));
    assert_eq!(s.service(ip("203.0.113.10"), 53, Protocol::Udp), Some(ServiceId(2)));
    assert_eq!(s.service(ip("203.0.113.10"), 53, Protocol::Tcp), None);
    assert_eq!(s.service(ip("203.0.113.11"), 80, Protocol::Tcp), None);
    assert_eq!(s.service_by_id(ServiceId(2)).unwrap().name, "dns");
    assert_eq!(s.service_by_id(ServiceId(3)), None);
    assert!(s.is_vip(ip("2001:db8::10")) && !s.is_vip(ip("2001:db8::11")));

    assert_eq!(s.member(id(21)).unwrap().name, "flowtracker-21");
    assert_eq!(s.member(id(4095)), None);
    assert_eq!(s.member_by_address(ip("10.0.0.31")).unwrap().id, id(31));
    assert_eq!(s.member_by_address(ip("fd00::31")).unwrap().id, id(31));
    assert_eq!(s.member_by_address(ip("10.0.0.99")), None);
    assert_eq!(s.member_by_name("ingress-12").unwrap().id, id(12));
    assert_eq!(s.with_role(MemberRole::FlowTracker), [id(21), id(22), id(23)]);
    assert!(s.in_underlay(ip("10.0.0.250")) && s.in_underlay(ip("fd00::1:2")));
    assert!(!s.in_underlay(ip("10.0.1.1")) && !s.in_underlay(ip("203.0.113.10")));

    let trio = s.trio(Partition::new(5).unwrap());
    assert_eq!(trio.len(), 3);
    assert_eq!(trio.rank_of(trio.at(2).unwrap()), Some(2));
    assert_eq!((trio.at(3), trio.contains(id(31))), (None, false));
}

#[test]
fn a_service_admits_on_a_backend_when_both_accept() {
    let s = build(|spec| {
        spec.services[0].backends[1].admission = Admission::Refuse;
        spec.services[1].admission = Admission::Refuse;
    });
    let admits = |service: u16, n| s.service_by_id(ServiceId(service)).unwrap().admits(id(n));
    assert!(admits(0, 31) && !admits(0, 32) && !admits(0, 33));
    assert!(!admits(1, 31));
}

#[test]
fn two_members_talk_over_the_preferred_family_that_both_have() {
    let s = build(|spec| spec.members[9].addresses.v4 = None);
    assert_eq!(s.underlay_pair(id(11), id(31)), Some((ip("10.0.0.11"), ip("10.0.0.31"))));
    assert_eq!(s.underlay_pair(id(11), id(34)), Some((ip("fd00::11"), ip("fd00::34"))));
    assert_eq!(s.underlay_pair(id(11), id(99)), None);

    let s = build(|spec| {
        spec.underlay.prefer = Family::V6;
        spec.members[9].addresses.v6 = None;
    });
    assert_eq!(s.underlay_pair(id(31), id(11)), Some((ip("fd00::31"), ip("fd00::11"))));
    assert_eq!(s.underlay_pair(id(34), id(11)), Some((ip("10.0.0.34"), ip("10.0.0.11"))));
}

/// Versions that run side by side must agree. The value comes from an implementation of the encoding and of
/// SipHash-2-4 written for this purpose (in Python).
#[test]
fn the_digest_is_fixed() {
    assert_eq!(build(|_| {}).digest(), Digest(0x57be_0ba5_0e48_569f));
}

#[test]
fn the_digest_changes_with_everything_but_the_mac_keys() {
    let base = build(|_| {}).digest();
    let same = build(|s| s.keys.mac_keys.other = Some(MacKey([9; 16])));
    assert_eq!(same.digest(), base);
    let changes: [fn(&mut Spec); 22] = [
        |s| s.generation += 1,
        |s| s.epoch.0 += 1,
        |s| s.keys.hash_key.0[0] += 1,
        |s| s.underlay.port += 1,
        |s| s.underlay.mtu -= 1,
        |s| s.underlay.prefer = Family::V6,
        |s| s.underlay.prefixes.push("10.1.0.0/16".parse().unwrap()),
        |s| s.members[0].id = id(99),
        |s| s.members[0].name.push('x'),
        |s| s.members[3].role = MemberRole::Ingress,
        |s| s.members[0].addresses.v6 = None,
        |s| s.members[0].drain = true,
        |s| s.members.swap(0, 1),
        |s| s.services[0].name.push('x'),
        |s| s.services[0].vips.push(ip("203.0.113.11")),
        |s| s.services[0].port += 1,
        |s| s.services[0].protocol = Protocol::Udp,
        |s| s.services[0].backends[0].weight += 1,
        |s| s.services[0].backends[0].max_connections = NonZeroU32::new(1),
        |s| s.services[0].reject_ttl = 2,
        |s| s.services[0].on_exhausted = OnExhausted::Force,
        |s| s.services[0].return_path = ReturnPath::Direct,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        assert_ne!(build(change).digest(), base, "change {i}");
    }
}

#[test]
fn every_contradiction_is_found_where_it_is() {
    use {MemberField as M, Place::*, ServiceField as S};
    type Case = (fn(&mut Spec), Place, fn(&Fault) -> bool);
    let cases: [Case; 30] = [
        (|s| s.generation = 0, Generation, |f| matches!(f, Fault::ZeroNumber)),
        (|s| s.epoch.0 = 0, Epoch, |f| matches!(f, Fault::ZeroNumber)),
        (|s| s.keys.hash_key.0 = [0; 16], Keys, |f| matches!(f, Fault::ZeroKey)),
        (|s| s.keys.mac_keys.other = Some(MacKey([0; 16])), Keys, |f| matches!(f, Fault::ZeroKey)),
        (|s| s.underlay.prefixes.clear(), Prefixes, |f| matches!(f, Fault::Empty)),
        (
            |s| s.underlay.prefixes = s.underlay.prefixes.repeat(9),
            Prefixes,
            |f| matches!(f, Fault::TooMany { .. }),
        ),
        (|s| s.underlay.port = 0, Port, |f| matches!(f, Fault::OutOfRange { .. })),
        (|s| s.underlay.mtu = 1279, Mtu, |f| matches!(f, Fault::OutOfRange { .. })),
        (|s| s.underlay.mtu = 1921, Mtu, |f| matches!(f, Fault::OutOfRange { .. })),
        (
            |s| s.members[1].id = id(11),
            Member(1, M::Id),
            |f| matches!(f, Fault::DuplicateId { .. }),
        ),
        (|s| s.members[1].name.clear(), Member(1, M::Name), |f| matches!(f, Fault::BadName(_))),
        (
            |s| s.members[1].name = "a\"b".into(),
            Member(1, M::Name),
            |f| matches!(f, Fault::BadName(_)),
        ),
        (
            |s| s.members[1].name = "x".repeat(64),
            Member(1, M::Name),
            |f| matches!(f, Fault::BadName(_)),
        ),
        (
            |s| s.members[2].name = "ingress-11".into(),
            Member(2, M::Name),
            |f| matches!(f, Fault::DuplicateName(_)),
        ),
        (
            |s| s.members[2].addresses = Addresses::default(),
            Member(2, M::Addresses),
            |f| matches!(f, Fault::NoAddress),
        ),
        (
            |s| s.members[2].addresses.v4 = s.members[0].addresses.v4,
            Member(2, M::Addresses),
            |f| matches!(f, Fault::DuplicateAddress { .. }),
        ),
        (
            |s| s.members[2].addresses.v4 = "127.0.0.1".parse().ok(),
            Member(2, M::Addresses),
            |f| matches!(f, Fault::UnusableAddress(_)),
        ),
        (
            |s| s.members[2].addresses.v6 = "fe80::1".parse().ok(),
            Member(2, M::Addresses),
            |f| matches!(f, Fault::UnusableAddress(_)),
        ),
        (
            |s| s.members[2].addresses.v4 = "10.0.1.13".parse().ok(),
            Member(2, M::Addresses),
            |f| matches!(f, Fault::OutsideUnderlay(_)),
        ),
        (
            |s| s.services[1].name = "web".into(),
            Service(1, S::Name),
            |f| matches!(f, Fault::DuplicateName(_)),
        ),
        (|s| s.services[1].vips.clear(), Service(1, S::Vips), |f| matches!(f, Fault::Empty)),
        (
            |s| s.services[1].vips[0] = ip("10.0.0.77"),
            Service(1, S::Vip(0)),
            |f| matches!(f, Fault::VipInUnderlay(_)),
        ),
        (
            |s| s.services[1].vips[0] = ip("224.0.0.1"),
            Service(1, S::Vip(0)),
            |f| matches!(f, Fault::UnusableAddress(_)),
        ),
        (
            |s| s.services[1].vips[0] = ip("203.0.113.10"),
            Service(1, S::Vip(0)),
            |f| matches!(f, Fault::DuplicateVip { other, .. } if other == "web"),
        ),
        (
            |s| s.services[1].port = 0,
            Service(1, S::Port),
            |f| matches!(f, Fault::OutOfRange { .. }),
        ),
        (
            |s| s.services[1].reject_ttl = 4,
            Service(1, S::RejectTtl),
            |f| matches!(f, Fault::OutOfRange { .. }),
        ),
        (
            |s| s.services[1].backends.clear(),
            Service(1, S::Backends),
            |f| matches!(f, Fault::Empty),
        ),
        (
            |s| s.services[1].backends[1].member = id(99),
            Service(1, S::Backend(1)),
            |f| matches!(f, Fault::NoSuchMember(_)),
        ),
        (
            |s| s.services[1].backends[1].member = id(21),
            Service(1, S::Backend(1)),
            |f| matches!(f, Fault::NotABackend { .. }),
        ),
        (
            |s| s.services[1].backends[1].weight = 0,
            Service(1, S::Weight(1)),
            |f| matches!(f, Fault::OutOfRange { .. }),
        ),
    ];
    for (i, (change, place, fits)) in cases.into_iter().enumerate() {
        let mut spec = spec();
        change(&mut spec);
        let problems = Snapshot::build(spec).expect_err("something is wrong").0;
        let [Problem { place: found, fault }] = &problems[..] else {
            panic!("case {i}: {problems:?}")
        };
        assert_eq!((*found, fits(fault)), (place, true), "case {i}: {fault:?}");
        assert!(!fault.to_string().is_empty());
    }
}

#[test]
fn members_without_a_common_family_are_refused_if_they_must_talk() {
    let only = |s: &mut Spec, v4: usize, v6: usize| {
        s.members[v4].addresses.v6 = None;
        s.members[v6].addresses.v4 = None;
    };
    // Two ingress hosts, two backends: never.
    build(|s| only(s, 0, 1));
    build(|s| only(s, 8, 9));
    for (v4, v6) in [(0, 3), (0, 9), (3, 4), (9, 4)] {
        let mut spec = spec();
        only(&mut spec, v4, v6);
        let problems = Snapshot::build(spec).expect_err("they cannot talk").0;
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|p| matches!(p.fault, Fault::NoCommonFamily { .. })));
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let mut spec = spec();
    spec.generation = 0;
    spec.members[3].name = "no good".into();
    spec.services[2].backends.push(Backend::new(id(31)));
    let problems = Snapshot::build(spec).expect_err("three things are wrong");
    assert_eq!(problems.0.len(), 3, "{problems}");
    assert!(matches!(problems.0[2].fault, Fault::DuplicateBackend(_)));
}

#[test]
fn a_cluster_without_trackers_has_empty_trios() {
    let s = build(|s| s.members.retain(|m| m.role != MemberRole::FlowTracker));
    assert!(Partition::all().all(|p| s.trio(p).is_empty()));
}

fn next(change: impl FnOnce(&mut Spec)) -> Result<Succession, Vec<Refusal>> {
    check_successor(&build(|_| {}), &build(change), false)
}

fn remove(s: &mut Spec, n: u16) {
    s.members.retain(|m| m.id != id(n));
}

#[test]
fn a_later_list_follows() {
    assert_eq!(next(|_| {}), Ok(Succession::Same));
    assert_eq!(next(|s| s.keys.mac_keys.other = Some(MacKey([9; 16]))), Ok(Succession::KeysOnly));
    let newer = |change: fn(&mut Spec)| {
        next(|s| {
            s.generation += 1;
            change(s);
        })
    };
    assert_eq!(newer(|_| {}), Ok(Succession::Newer));
    assert_eq!(newer(|s| s.members[0].drain = true), Ok(Succession::Newer));
    assert_eq!(newer(|s| remove(s, 34)), Ok(Succession::Newer));
    assert_eq!(newer(|s| s.members[0].addresses.v6 = None), Ok(Succession::Newer));
    let tracker = |s: &mut Spec| s.members.push(member(24, MemberRole::FlowTracker));
    assert_eq!(
        newer(|s| {
            s.epoch.0 += 1;
            s.members.push(member(24, MemberRole::FlowTracker));
        }),
        Ok(Succession::Newer)
    );
    assert_eq!(
        next(|s| {
            s.generation += 1;
            tracker(s);
        }),
        Err(vec![Refusal::EpochMustRise { old: 2, new: 2 }])
    );
}

#[test]
fn a_list_that_contradicts_the_one_in_force_is_refused() {
    assert_eq!(next(|s| s.generation = 6), Err(vec![Refusal::LowerGeneration { old: 7, new: 6 }]));
    let refused = next(|s| s.members[0].drain = true);
    assert!(matches!(refused.unwrap_err()[..], [Refusal::SameGeneration { generation: 7, .. }]));
    assert_eq!(next(|s| s.keys.hash_key.0[0] = 9), Err(vec![Refusal::HashKey]));

    let newer = |change: fn(&mut Spec)| {
        next(|s| {
            s.generation += 1;
            change(s);
        })
    };
    assert_eq!(newer(|s| s.epoch.0 = 3), Err(vec![Refusal::EpochMustStay { old: 2, new: 3 }]));
    assert_eq!(newer(|s| s.epoch.0 = 1), Err(vec![Refusal::EpochMustStay { old: 2, new: 1 }]));
    // A tracker that came and went in between raised it twice.
    let leap = |epoch| {
        next(|s| {
            s.generation += 2;
            s.epoch.0 = epoch;
        })
    };
    assert_eq!(leap(4), Ok(Succession::Newer));
    assert_eq!(leap(1), Err(vec![Refusal::EpochMustStay { old: 2, new: 1 }]));
    let moved = newer(|s| s.members[0].addresses.v4 = "10.0.0.200".parse().ok()).unwrap_err();
    assert!(matches!(moved[..], [Refusal::IdMoved { .. }]), "{moved:?}");
    let role = newer(|s| s.members[0].role = MemberRole::Backend).unwrap_err();
    assert!(
        matches!(role[..], [Refusal::RoleChanged { new: MemberRole::Backend, .. }]),
        "{role:?}"
    );
}

#[test]
fn losing_more_than_a_third_of_a_role_needs_force() {
    let shrunk = build(|s| {
        s.generation += 1;
        remove(s, 33);
        remove(s, 34);
    });
    let old = build(|_| {});
    let refused = Err(vec![Refusal::Shrinks { role: MemberRole::Backend, lost: 2, of: 4 }]);
    assert_eq!(check_successor(&old, &shrunk, false), refused);
    assert_eq!(check_successor(&old, &shrunk, true), Ok(Succession::Newer));
}
