use jlb_map::Spec;
use jlb_role::{FakeBuf, Samples};
use jlb_wire::Version;

use super::*;
use crate::fixture::*;

fn pair() -> Net {
    Net::new(vec![Host::new(INGRESS, 0, 100), Host::new(TRACKER, 0, 200)])
}

/// In the build with the feature `next-version` these are two versions.
#[test]
fn hosts_whose_lists_name_different_versions_understand_each_other() {
    let mut net = pair();
    let newer = Spec { generation: 2, protocol: Version::NEWEST, ..spec() };
    net.host(1).peers.update(Snapshot::build(newer).unwrap(), Nanos::ZERO);
    net.run(30);
    assert!(net.host(0).peers.alive(TRACKER) && net.host(1).peers.alive(INGRESS));
    for (to, buf) in &net.tape {
        let version = if *to == INGRESS { Version::NEWEST } else { Version::OLDEST };
        assert_eq!(buf.bytes()[36 + 1], version.as_u8());
    }
}

#[test]
fn members_that_answer_are_alive_and_their_boot_is_known() {
    let mut net = pair();
    assert!(!net.host(0).peers.alive(TRACKER), "not before it answered");
    net.run(30);
    for (n, other, boot) in [(0, TRACKER, 200), (1, INGRESS, 100)] {
        let host = net.host(n);
        assert!(host.peers.alive(other) && host.peers.offerable(other));
        assert_eq!(host.peers.boot(other), Some(BootId(boot)));
        assert_eq!(host.drops(), []);
        let reports = host.reports();
        assert!(
            matches!(reports[0], Report::PeerBoot { member, boot: b, .. } if member == other && b == BootId(boot))
        );
        assert_eq!(reports[1..], [Report::PeerAlive { member: other }]);
    }
    net.run(2900);
    assert_eq!(net.host(0).reports(), [], "nothing new");
    assert!(!net.host(0).peers.alive(TRACKER_2), "who never answered");
    assert!(!net.host(0).peers.alive(INGRESS), "nor do we count ourselves");
}

#[test]
fn three_missed_questions_make_a_suspect_and_an_answer_ends_it() {
    let mut net = pair();
    net.run(100);
    net.host(0).reports();
    net.host(1).down = true;
    net.run(59);
    assert!(net.host(0).peers.alive(TRACKER), "two missed at most");
    net.run(25);
    assert!(!net.host(0).peers.alive(TRACKER));
    assert_eq!(net.host(0).reports(), [Report::PeerSuspect { member: TRACKER }]);
    assert_eq!(net.host(0).peers.boot(TRACKER), Some(BootId(200)), "suspicion only steers");
    net.host(1).down = false;
    net.run(25);
    assert_eq!(net.host(0).reports(), [Report::PeerAlive { member: TRACKER }]);
    assert_eq!(net.host(0).drops(), []);
}

#[test]
fn a_round_in_which_we_did_not_run_ourselves_makes_no_suspect() {
    let mut net = pair();
    net.run(100);
    net.host(0).reports();
    // Each turn comes 25 ms late, with the answers still unread: a host that is starved, not alone.
    net.host(1).down = true;
    for _ in 0..10 {
        net.now = net.now + Nanos::from_millis(45);
        net.run(1);
    }
    assert!(net.host(0).peers.alive(TRACKER));
}

#[test]
fn any_believed_message_counts_as_life() {
    let mut net = pair();
    net.run(50);
    net.host(1).down = true;
    let mut sequence = 1 << 32;
    for _ in 0..100 {
        net.run(10);
        sequence += 1;
        let now = net.now;
        assert_eq!(net.host(0).peers.accept(now, TRACKER, BootId(200), sequence), Ok(()));
    }
    assert!(net.host(0).peers.alive(TRACKER));
    let now = net.now;
    let peers = &mut net.host(0).peers;
    assert_eq!(peers.accept(now, TRACKER, BootId(200), sequence), Err(Reason::Replayed));
    assert_eq!(peers.accept(now, TRACKER, BootId(201), sequence + 1), Err(Reason::UnknownBoot));
    assert_eq!(peers.accept(now, id(2), BootId(1), 1), Err(Reason::NotAMember));
}

#[test]
fn a_restart_is_known_by_its_boot_and_replaces_the_windows() {
    let mut net = pair();
    net.run(50);
    net.host(0).reports();
    net.hosts[1] = Host::new(TRACKER, 0, 300);
    net.run(50);
    assert_eq!(net.host(0).peers.boot(TRACKER), Some(BootId(300)));
    let reports = net.host(0).reports();
    assert!(matches!(reports[..], [Report::PeerBoot { boot: BootId(300), .. }]), "{reports:?}");
    let now = net.now;
    let peers = &mut net.host(0).peers;
    assert_eq!(peers.accept(now, TRACKER, BootId(200), 1 << 40), Err(Reason::UnknownBoot));
    assert_eq!(peers.accept(now, TRACKER, BootId(300), 1 << 40), Ok(()));
}

#[test]
fn what_a_former_boot_answered_late_does_not_bring_it_back() {
    let mut net = pair();
    net.run(50);
    net.host(1).down = true;
    net.run(150);
    let open = &net.host(0).peers.peers[TRACKER.index()].as_ref().unwrap().open;
    let [(first, _), (second, _), ..] = open[..] else { panic!("{open:?}") };
    let (mut new, mut old) = (Host::new(TRACKER, 0, 300), net.hosts.remove(1));
    let now = net.now;
    // The later question still met the former boot, whose answer took long.
    for (host, nonce) in [(&mut new, first), (&mut old, second)] {
        host.peers.answer(now, INGRESS, nonce, 0, &mut host.io);
        let (answer, _) = host.io.sent.pop_back().unwrap();
        net.host(0).receive(now, answer);
    }
    assert_eq!(net.host(0).peers.boot(TRACKER), Some(BootId(300)));
    assert_eq!(net.host(0).drops().last(), Some(&Reason::UnknownBoot));
}

#[test]
fn an_answer_that_is_slower_than_the_beat_counts() {
    for one_way in [15, 35, 200] {
        let mut net = pair();
        net.delay = Nanos::from_millis(one_way);
        net.run(2 * one_way + 25);
        assert_eq!(net.host(0).peers.boot(TRACKER), Some(BootId(200)), "{one_way} ms");
        net.run(500);
        assert!(net.host(0).peers.alive(TRACKER));
        // A new boot becomes known just so.
        net.hosts[1] = Host::new(TRACKER, 0, 300);
        net.run(4 * one_way + 25);
        assert_eq!(net.host(0).peers.boot(TRACKER), Some(BootId(300)), "{one_way} ms");
    }
}

#[test]
fn an_answer_counts_for_an_open_nonce_only() {
    let mut net = pair();
    // Each answer comes when its question was given up and others are under way.
    net.delay = Nanos::from_millis(600);
    net.run(5000);
    assert_eq!(net.host(0).peers.boot(TRACKER), None);
    let drops = net.host(0).drops();
    assert!(!drops.is_empty() && drops.iter().all(|&why| why == Reason::UnknownBoot));
    // Once the boot is known, late answers are life.
    net.delay = Nanos::from_millis(1);
    net.run(1300);
    net.delay = Nanos::from_millis(600);
    net.run(3000);
    assert!(net.host(0).peers.alive(TRACKER));
}

#[test]
fn an_answer_counts_once() {
    let mut net = pair();
    net.run(30);
    // Recorded before the restart, brought after it.
    let old: Vec<FakeBuf> =
        net.tape.iter().filter(|(to, _)| *to == INGRESS).map(|(_, b)| b.clone()).collect();
    net.hosts[1] = Host::new(TRACKER, 0, 300);
    net.run(50);
    let now = net.now;
    for buf in old {
        net.host(0).receive(now, buf);
    }
    assert_eq!(net.host(0).peers.boot(TRACKER), Some(BootId(300)));
}

#[test]
fn a_recorded_answer_or_question_is_refused() {
    let mut net = pair();
    net.run(60);
    let tape: Vec<FakeBuf> =
        net.tape.iter().filter(|(to, _)| *to == INGRESS).map(|(_, b)| b.clone()).collect();
    assert!(tape.len() >= 4, "questions and answers");
    net.host(0).drops();
    let now = net.now;
    for buf in tape {
        net.host(0).receive(now, buf);
    }
    let drops = net.host(0).drops();
    assert!(drops.len() >= 4 && drops.iter().all(|&why| why == Reason::Replayed), "{drops:?}");
}

#[test]
fn an_unknown_boot_is_asked_at_once_but_not_more_often_than_allowed() {
    let mut agent = Host::new(BACKEND, 0, 9);
    let mut now = Nanos::from_millis(500);
    agent.peers.tick(now, &mut agent.io);
    agent.io.sent.clear();
    let mut asked = 0;
    for ms in 1..=100 {
        now = now + Nanos::from_millis(1);
        assert_eq!(agent.peers.accept(now, TRACKER, BootId(77), ms), Err(Reason::UnknownBoot));
        agent.peers.tick(now, &mut agent.io);
        asked +=
            agent.io.sent.drain(..).filter(|(_, to)| *to == UnderlayDst::Member(TRACKER)).count();
    }
    assert_eq!(asked, 5, "every 20 ms");
}

#[test]
fn answers_go_to_the_worker_that_asked() {
    let mut asking = Host::new(INGRESS, 1, 100);
    let mut receiving = Host::new(INGRESS, 0, 100);
    let mut tracker = Host::new(TRACKER, 0, 200);
    let now = Nanos::from_millis(20);
    asking.peers.tick(now, &mut asking.io);
    let at = asking.io.sent.iter().position(|(_, to)| *to == UnderlayDst::Member(TRACKER)).unwrap();
    tracker.receive(now, asking.io.sent.remove(at).unwrap().0);
    let (answer, _) = tracker.io.sent.pop_front().unwrap();
    receiving.receive(now, answer);
    let (answer, worker) = receiving.io.handed.pop_front().unwrap();
    assert_eq!(worker, WorkerId(1));
    assert!(!receiving.peers.alive(TRACKER));
    asking.receive(now, answer);
    assert!(asking.peers.alive(TRACKER));
}

#[test]
fn bodies_of_others_or_for_others_or_forged_are_dropped() {
    let mut ingress = Host::new(INGRESS, 0, 100);
    let mut tracker = Host::new(TRACKER, 0, 200);
    let now = Nanos::from_millis(20);
    tracker.peers.tick(now, &mut tracker.io);
    let (question, _) =
        tracker.io.sent.drain(..).find(|(_, to)| *to == UnderlayDst::Member(INGRESS)).unwrap();
    let mend = |buf: &mut FakeBuf| {
        let b = buf.bytes_mut();
        b[10..12].fill(0);
        let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&b[..20]));
        b[10..12].copy_from_slice(&sum.to_be_bytes());
    };
    let change = |ingress: &mut Host, at: usize, to: u8| {
        let mut buf = question.clone();
        buf.bytes_mut()[at] = to;
        mend(&mut buf);
        ingress.receive(now, buf);
        ingress.drops()
    };
    assert_eq!(
        change(&mut ingress, 15, 99),
        [Reason::NotAMember],
        "an outer source that is nobody's"
    );
    assert_eq!(
        change(&mut ingress, 15, 12),
        [Reason::NotAMember],
        "an outer source that is another's"
    );
    assert_eq!(change(&mut ingress, 19, 12), [Reason::NotForUs]);
    assert_eq!(change(&mut ingress, 36 + 11, 12), [Reason::BadMac]);
    assert_eq!(change(&mut ingress, 36, 9), [Reason::BadMac]);
    assert_eq!(change(&mut ingress, 36 + 1, Version::NEWEST.as_u8() + 1), [Reason::WrongVersion]);
    assert_eq!(change(&mut ingress, 28, 0x40), [Reason::BadGeneve]);
    assert_eq!(ingress.io.sent.len(), 0);
    assert_eq!(
        change(&mut ingress, 8, 3),
        [],
        "only the TTL: it is answered, though its boot is unknown"
    );
    assert_eq!(ingress.io.sent.len(), 1);
}

#[test]
fn agents_are_asked_every_100_ms_and_ask_every_second() {
    let mut net = Net::new(vec![Host::new(TRACKER, 0, 200), Host::new(BACKEND, 0, 300)]);
    net.run(10_000);
    let count = |host: &Host, kind| {
        let mut samples = Samples::default();
        host.peers.collect(&mut samples);
        samples.sum("jlb_messages_total", &[("kind", "probe"), ("direction", kind)])
    };
    // Received by the tracker: 100 answers and 10 questions; its other members never answer.
    let received = count(&net.hosts[0], "received");
    assert!((109.0..=112.0).contains(&received), "{received}");
    assert_eq!(net.host(0).peers.heartbeat_age(BACKEND), Some(Nanos::ZERO));
    net.host(1).down = true;
    net.run(299);
    assert!(net.host(0).peers.alive(BACKEND));
    net.run(150);
    assert!(!net.host(0).peers.offerable(BACKEND));
}

#[test]
fn a_tracker_names_the_backends_and_trackers_that_are_silent() {
    let mut net = Net::new(vec![Host::new(TRACKER, 0, 200), Host::new(BACKEND, 0, 300)]);
    net.run(2900);
    assert_eq!(net.hosts[0].peers.silent(net.now).count(), 0, "not before dead_after");
    net.run(200);
    assert_eq!(net.hosts[0].peers.silent(net.now).collect::<Vec<_>>(), [id(22), TRACKER_2]);

    let mut ingress = Host::new(INGRESS, 0, 100);
    let now = net.now;
    ingress.peers.tick(now, &mut ingress.io);
    let (question, _) =
        ingress.io.sent.drain(..).find(|(_, to)| *to == UnderlayDst::Member(TRACKER)).unwrap();
    net.host(0).receive(now, question);
    let answer = &net.host(0).io.sent.back().unwrap().0;
    let (_, payload) = Body::parse(&answer.bytes()[36..], &snapshot().keys().mac_keys).unwrap();
    let (_, silent) = Probe::parse(payload).unwrap();
    assert_eq!(silent.iter().collect::<Vec<_>>(), [id(22), TRACKER_2]);
}

#[test]
fn another_list_of_the_same_generation_is_reported_once() {
    let mut net = pair();
    let mut other = spec();
    other.services[0].reject_ttl = 1;
    let now = net.now;
    net.host(1).peers.update(Snapshot::build(other).unwrap(), now);
    net.run(500);
    let mismatch = Report::ListMismatch { member: TRACKER };
    assert_eq!(net.host(0).reports().iter().filter(|r| **r == mismatch).count(), 1);
}

#[test]
fn a_new_list_keeps_who_stays_and_forgets_who_goes() {
    let mut net = pair();
    net.run(100);
    let mut next = spec();
    next.generation = 2;
    next.members.retain(|m| m.id != TRACKER_2);
    next.members.push(jlb_map::Member {
        id: id(13),
        name: "m13".into(),
        role: MemberRole::FlowTracker,
        addresses: std::net::IpAddr::from([10, 0, 0, 13]).into(),
        drain: false,
    });
    let now = net.now;
    net.host(0).reports();
    net.host(0).peers.update(Snapshot::build(next).unwrap(), now);
    assert!(net.host(0).peers.alive(TRACKER));
    net.host(0).io.sent.clear();
    let mut asked: Vec<MemberId> = Vec::new();
    for ms in 1..=20 {
        let host = net.host(0);
        host.peers.tick(now + Nanos::from_millis(ms), &mut host.io);
        asked.extend(host.io.sent.drain(..).filter_map(|(_, to)| match to {
            UnderlayDst::Member(m) => Some(m),
            UnderlayDst::Ip(_) => None,
        }));
    }
    assert!(asked.contains(&id(13)) && !asked.contains(&TRACKER_2), "{asked:?}");
    assert_eq!(asked.iter().filter(|m| **m == TRACKER).count(), 1);
}

#[test]
fn who_leaves_says_so_and_is_offered_nothing() {
    let mut net = Net::new(vec![Host::new(TRACKER, 0, 200), Host::new(BACKEND, 0, 300)]);
    net.run(300);
    assert!(net.host(0).peers.offerable(BACKEND));
    net.host(1).peers.set_leaving(true);
    net.run(300);
    let peers = &net.host(0).peers;
    assert!(peers.alive(BACKEND) && peers.leaving(BACKEND) && !peers.offerable(BACKEND));
}

#[test]
fn sequence_numbers_name_the_worker() {
    let mut host = Host::new(INGRESS, 1, 100);
    assert_eq!(host.peers.next_sequence(), 1 << 56 | 1);
    assert_eq!(host.peers.next_sequence(), 1 << 56 | 2);
    host.peers.skip_sequence(1 << 56 | 1 << 32);
    assert_eq!(host.peers.next_sequence(), 1 << 56 | 1 << 32 | 1);
    host.peers.skip_sequence(1 << 56);
    assert_eq!(host.peers.next_sequence(), 1 << 56 | 1 << 32 | 2, "never back");
}

#[test]
fn a_backend_is_dead_when_a_tracker_does_not_hear_it_either() {
    let mut net = pair();
    net.run(2900);
    assert!(!net.hosts[0].peers.dead(net.now, BACKEND, true), "silent for less than dead_after");
    net.run(300);
    assert!(net.hosts[0].peers.dead(net.now, BACKEND, true));
    assert!(net.hosts[1].peers.dead(net.now, BACKEND, true), "an ingress is a witness, too");
    let dead = net.host(0).reports();
    assert_eq!(
        dead.iter().filter(|r| **r == Report::BackendDead { member: BACKEND }).count(),
        1,
        "told once"
    );
    // Without the other's word, repeated with every answer, it is only a suspect.
    net.host(1).down = true;
    net.run(1100);
    assert!(!net.hosts[0].peers.dead(net.now, BACKEND, true));
    assert!(net.hosts[0].peers.dead(net.now, BACKEND, false));
}

#[test]
fn who_falls_again_and_again_must_answer_for_a_while_before_it_is_up() {
    let mut net = pair();
    net.run(100);
    let mut waits = Vec::new();
    for _ in 0..8 {
        net.host(1).down = true;
        net.run(120);
        assert!(!net.host(0).peers.alive(TRACKER));
        net.host(1).down = false;
        let mut waited = 0;
        while !net.host(0).peers.alive(TRACKER) {
            net.run(1);
            waited += 1;
        }
        waits.push(waited);
    }
    // Answers come every 20 ms.
    let expected = [0, 100, 200, 400, 800, 1600, 1600, 1600];
    for (wait, least) in waits.iter().zip(expected) {
        assert!((least..=least + 45).contains(wait), "{waits:?}");
    }
    net.run(10_100);
    net.host(1).down = true;
    net.run(120);
    net.host(1).down = false;
    net.run(25);
    assert!(net.host(0).peers.alive(TRACKER), "forgiven");
}
