//! As head: what an ingress asks, and what comes of it.

use jlb_role::Rule;
use jlb_wire::{Kind, RejectReason};

use super::world::*;
use crate::tests::world::Flow;
use crate::{FlowState, FlowView};
use jlb_role::Reason;
use jlb_wire::{Flags, Incarnation, MemberId};

const PENDING: FlowState = FlowState::Pending { force: false, refused: false };

/// A world in which the tracker heads a chain for the flow; what it asked of the second.
fn headed(flow: &Flow) -> (World, Sent) {
    let mut w = World::new(T1);
    w.open(flow);
    let asked = w.one();
    (w, asked)
}

#[test]
fn a_new_flow_is_stored_and_offered_to_the_second() {
    let flow = Flow::new(RESET, 0);
    let (w, Sent { to, control, .. }) = headed(&flow);
    let backend = control.backend.unwrap();
    assert!(BACKENDS.contains(&backend));
    assert_eq!((to, control.kind, control.receiver), (T2, Kind::Open, T2));
    assert_eq!((control.head, control.second), (Some(T1), Some(T2)));
    assert_eq!((control.word_a, control.word_b), (boot(T1).0, 0));
    assert_eq!((control.ingress, control.cookie, control.reject_ttl), (Some(INGRESS), 77, 3));
    assert_eq!(control.flags, Flags::default());
    assert!(control.tried.is_empty());
    let view = FlowView { incarnation: Incarnation(1000), backend, state: PENDING };
    assert_eq!(w.tracker.flow(&flow.id), Some(view));
    assert_eq!(w.metric("jlb_flows", &[("state", "pending"), ("protocol", "tcp")]), 1.0);
}

#[test]
fn the_clients_packet_goes_on_as_it_was_and_cut_stays_cut() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.open(&flow);
    assert!(flow.carries_packet(&w.one()));
    let (other, me) = (Flow::new(RESET, 1), w.me());
    w.say_for(INGRESS, me, &other, None, Kind::Open, |c| {
        (c.ingress, c.flags) = (Some(INGRESS), Flags::CUT);
    });
    assert_eq!(w.one().control.flags, Flags::CUT);
}

#[test]
fn a_repeated_open_drives_the_same_candidate_for_whoever_asks() {
    let flow = Flow::new(RESET, 0);
    let (mut w, first) = headed(&flow);
    for _ in 0..20 {
        let me = w.me();
        w.say_for(INGRESS_2, me, &flow, None, Kind::Open, |c| {
            (c.ingress, c.cookie, c.reject_ttl) = (Some(INGRESS_2), 5, 3);
        });
        let again = w.one();
        assert_eq!(again.control.backend, first.control.backend);
        assert_eq!(
            (again.to, again.control.ingress, again.control.cookie),
            (T2, Some(INGRESS_2), 5)
        );
    }
    assert_eq!(w.tracker.counts().pending, [1, 0]);
}

#[test]
fn an_established_flow_is_answered_with_state() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = headed(&flow);
    let backend = asked.control.backend.unwrap();
    w.accept(&flow, backend, 9);
    w.sent();
    w.open(&flow);
    let state = w.one();
    assert_eq!((state.to, state.control.kind), (INGRESS, Kind::State));
    assert_eq!((state.control.backend, state.control.cookie), (Some(backend), 77));
    assert_eq!(state.control.incarnation, flow.incarnation);
    assert!(!flow.carries_packet(&state), "flow headers only");
}

#[test]
fn an_established_udp_flow_is_answered_with_its_number() {
    let flow = Flow::new(DNS, 0);
    let (mut w, asked) = headed(&flow);
    let backend = asked.control.backend.unwrap();
    w.accept(&flow.incarnation(41), backend, 9);
    w.sent();
    w.open(&flow);
    let state = w.one();
    assert_eq!((state.control.kind, state.control.incarnation), (Kind::State, Incarnation(41)));
}

#[test]
fn another_incarnation_never_displaces_an_incumbent() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = headed(&flow);
    let backend = asked.control.backend.unwrap();
    let other = flow.incarnation(2000);
    for (established, named) in [(false, 0), (true, 1000)] {
        if established {
            w.accept(&flow, backend, 9);
            w.sent();
        }
        let before = w.tracker.flow(&flow.id);
        w.open(&other);
        let asked = w.one();
        assert_eq!((asked.to, asked.control.kind), (backend, Kind::Open));
        assert_eq!(asked.control.flags, Flags::INCUMBENT);
        assert_eq!((asked.control.incarnation, asked.control.word_b), (Incarnation(2000), named));
        assert!(other.carries_packet(&asked));
        assert_eq!(w.tracker.flow(&flow.id), before, "nothing is stored");
    }
    // The canary: without the rule a spoofed SYN takes the five-tuple.
    let mut w = World::without(T1, Rule::Incumbent);
    w.open(&flow);
    w.open(&other);
    assert_eq!(w.tracker.flow(&flow.id).unwrap().incarnation, Incarnation(2000));
    assert_eq!(w.tracker.counts().pending, [1, 0]);
}

#[test]
fn any_live_member_of_the_trio_may_be_second_the_first_one_is() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    // Nobody obeys it alone: that is another test's.
    w.deaf.extend(BACKENDS);
    w.down.insert(T2);
    w.run(200);
    w.open(&flow);
    assert_eq!(w.one().to, T3);
    w.down.insert(T3);
    w.run(200);
    w.open(&flow);
    assert_eq!(w.sent().last().unwrap().to, T2, "nobody lives: the first other");
    let mut w = World::new(T3);
    w.open(&flow);
    let asked = w.one();
    assert_eq!((asked.to, asked.control.head), (T1, Some(T3)), "the third may head");
}

#[test]
fn a_tracker_that_does_not_own_the_partition_passes_it_on_and_votes_for_nothing() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(OUTSIDER);
    w.open(&flow);
    let sent = w.one();
    assert_eq!((sent.to, sent.control.sender, sent.control.receiver), (T1, INGRESS, OUTSIDER));
    assert_eq!(sent.control.hop_budget, jlb_wire::HOP_BUDGET - 1);
    assert!(flow.carries_packet(&sent));
    w.open_by(T1, &flow, BACKENDS[0]);
    w.refused(Reason::NotInTrio);
    assert_eq!(w.tracker.counts(), crate::Counts::default());
}

#[test]
fn what_is_no_service_or_not_from_an_ingress_is_dropped() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    let stranger = Flow::of([T1, T2, T3], 99, 0);
    w.open(&stranger);
    w.refused(Reason::NoService);
    w.say(INGRESS, &flow, Kind::Open, |c| c.ingress = Some(INGRESS_2));
    w.refused(Reason::NotInTrio);
    w.say(INGRESS, &flow, Kind::Open, |c| c.ingress = Some(BACKENDS[0]));
    w.refused(Reason::Malformed);
    w.say(INGRESS, &flow, Kind::Query, |c| c.ingress = Some(INGRESS_2));
    w.refused(Reason::Malformed);
    w.say(T2, &flow, Kind::State, |c| c.ingress = Some(INGRESS));
    w.refused(Reason::WrongKind);
    let udp = Flow::new(DNS, 0).incarnation(5);
    w.open(&udp);
    w.refused(Reason::Malformed);
    assert_eq!(w.tracker.counts(), crate::Counts::default());
}

#[test]
fn suspects_drained_hosts_and_dead_ones_get_no_new_flow() {
    let mut spec = spec();
    spec.members.iter_mut().find(|m| m.id == BACKENDS[0]).unwrap().drain = true;
    let mut w = World::with(config(T1), spec, None);
    w.down.insert(BACKENDS[1]);
    w.run(600);
    for n in 0..16 {
        w.open(&Flow::new(RESET, n));
        let backend = w.one().control.backend.unwrap();
        assert!([BACKENDS[2], BACKENDS[3]].contains(&backend), "{backend}");
    }
}

#[test]
fn when_all_backends_are_dead_refusal_is_put_to_the_vote_at_once() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.down.extend(BACKENDS);
    w.run(600);
    w.open(&flow);
    w.refused(Reason::SoleOwner);
    w.run(4400);
    for _ in 0..2 {
        w.open(&flow);
        let asked = w.one();
        assert_eq!(
            (asked.to, asked.control.kind),
            (T2, Kind::Open),
            "our vote alone is not enough"
        );
        assert_eq!((asked.control.flags, asked.control.backend), (Flags::REFUSED, None));
    }
    assert_eq!((w.tracker.counts().pending, w.tracker.counts().refusals), ([0, 0], 1));
    w.run(REPLAY_WINDOW + 200);
    w.sent();
    assert_eq!(w.tracker.counts(), crate::Counts::default(), "and forgotten");
    let mut w = World::without(T1, Rule::RefusalIsVoted);
    w.down.extend(BACKENDS);
    w.run(5000);
    w.open(&flow);
    assert_eq!(w.one().to, INGRESS, "the canary tells the client by itself");
}

#[test]
fn a_refused_flow_is_offered_to_each_backend_once_then_refused() {
    let flow = Flow::new(RESET, 0);
    let (mut w, mut asked) = headed(&flow);
    let mut tried: Vec<MemberId> = Vec::new();
    for ttl in (0..=3).rev() {
        assert_eq!((asked.to, asked.control.reject_ttl), (T2, ttl));
        assert_eq!(asked.control.tried.iter().collect::<Vec<_>>(), tried);
        assert!(flow.carries_packet(&asked), "no tracker has to keep it");
        let backend = asked.control.backend.unwrap();
        assert!(!tried.contains(&backend));
        tried.push(backend);
        let rejected = asked.clone();
        w.reject(&flow, &rejected);
        asked = w.one();
        // The same word once more, after another candidate took its place.
        w.reject(&flow, &rejected);
        w.refused(Reason::Unexpected);
    }
    assert_eq!((asked.to, asked.control.flags, asked.control.backend), (T2, Flags::REFUSED, None));
    assert_eq!(asked.control.tried.iter().collect::<Vec<_>>(), tried);
    assert_eq!((w.tracker.flow(&flow.id), w.tracker.counts().refusals), (None, 1));
    assert_eq!(w.metric("jlb_rejects_total", &[("service", "web"), ("reason", "queue_full")]), 4.0);
    let one = [("backend", "m21"), ("service", "web")];
    assert_eq!(w.metric("jlb_rejects_total", &one), 1.0);
}

#[test]
fn the_reject_ttl_bounds_the_tries() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    let me = w.me();
    w.say_for(INGRESS, me, &flow, None, Kind::Open, |c| c.ingress = Some(INGRESS));
    let asked = w.one();
    assert_eq!(asked.control.reject_ttl, 0);
    w.reject(&flow, &asked);
    assert_eq!(w.one().control.flags, Flags::REFUSED);
}

#[test]
fn the_last_one_is_forced_where_the_service_says_so() {
    let flow = Flow::new(FORCE, 0);
    let (mut w, mut asked) = headed(&flow);
    for _ in 0..4 {
        let rejected = asked.clone();
        w.reject(&flow, &rejected);
        asked = w.one();
        if asked.control.flags == Flags::FORCE {
            assert_eq!(asked.control.backend, rejected.control.backend, "the last one");
            // Its plain refusal is no answer to this question.
            w.reject(&flow, &rejected);
            w.refused(Reason::Unexpected);
        }
    }
    assert_eq!(asked.control.flags, Flags::FORCE);
    assert_eq!(
        w.tracker.flow(&flow.id).unwrap().state,
        FlowState::Pending { force: true, refused: false }
    );
    w.reject(&flow, &asked);
    assert_eq!(w.one().control.flags, Flags::REFUSED, "refused too: the client is reset");
}

#[test]
fn who_left_a_flow_to_others_that_did_not_take_it_is_forced() {
    for service in [RESET, FORCE] {
        let flow = Flow::new(service, 0);
        let (mut w, mut asked) = headed(&flow);
        let mut tried = Vec::new();
        // The second of the four only says that others have less to do.
        for n in 0..4 {
            tried.extend(asked.control.backend);
            let reason = if n == 1 { RejectReason::Busy } else { RejectReason::QueueFull };
            w.reject_with(&flow, &asked.clone(), |c| c.reason = reason);
            asked = w.one();
        }
        let able = tried.remove(1);
        tried.push(able);
        assert_eq!((asked.control.flags, asked.control.backend), (Flags::FORCE, Some(able)));
        // The forced one is the last: by that others know whom we asked so.
        assert_eq!(asked.control.tried.iter().collect::<Vec<_>>(), tried);
        w.reject(&flow, &asked);
        assert_eq!(w.one().control.flags, Flags::REFUSED, "only once");
    }
    // It has gone away meanwhile.
    let flow = Flow::new(RESET, 0);
    let (mut w, mut asked) = headed(&flow);
    w.reject_with(&flow, &asked.clone(), |c| c.reason = RejectReason::Busy);
    w.down.extend(asked.control.backend);
    asked = w.one();
    w.run(400);
    w.sent();
    for _ in 1..4 {
        w.reject(&flow, &asked);
        asked = w.one();
    }
    assert_eq!(asked.control.flags, Flags::REFUSED);
}

#[test]
fn accept_is_stored_and_passed_to_the_ingress() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = headed(&flow);
    let backend = asked.control.backend.unwrap();
    w.accept(&flow, backend, 9);
    let accept = w.one();
    assert_eq!((accept.to, accept.control.kind), (INGRESS, Kind::Accept));
    assert_eq!(
        (accept.control.sender, accept.control.receiver),
        (backend, INGRESS),
        "still its own"
    );
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Established);
    assert_eq!((w.tracker.counts().pending, w.tracker.counts().timers), ([0, 0], 0));
    w.run(3000);
    assert!(w.sent().is_empty(), "nobody is cancelled");
    // The agent repeats it when it is asked again.
    w.accept(&flow, backend, 9);
    assert_eq!(w.one().to, INGRESS);
    w.accept(&flow, backend, 8);
    w.refused(Reason::StaleCounter);
}

#[test]
fn an_accept_of_another_candidate_or_chain_is_not_believed() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = headed(&flow);
    let backend = asked.control.backend.unwrap();
    let other = BACKENDS.into_iter().find(|&b| b != backend).unwrap();
    let before = w.tracker.flow(&flow.id);
    w.accept(&flow, other, 9);
    w.refused(Reason::Unexpected);
    w.say_for(backend, INGRESS, &flow, None, Kind::Accept, |c| {
        (c.ingress, c.backend) = (Some(INGRESS), Some(backend));
        (c.head, c.second) = (Some(T2), Some(T3));
    });
    w.refused(Reason::Unexpected);
    w.say_for(backend, INGRESS, &flow, None, Kind::Accept, |c| {
        (c.ingress, c.backend, c.head) = (Some(INGRESS), Some(other), Some(T1));
    });
    w.refused(Reason::Malformed);
    assert_eq!(w.tracker.flow(&flow.id), before);
    w.accept(&flow, backend, 9);
    w.sent();
    w.accept(&flow, other, 10);
    w.refused(Reason::Unexpected);
    assert_eq!(w.tracker.flow(&flow.id).unwrap().backend, backend);
}

#[test]
fn an_accept_is_stored_even_where_nothing_is_known() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.accept(&flow, BACKENDS[0], 9);
    assert_eq!(w.one().to, INGRESS);
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Established);
}

#[test]
fn a_pending_entry_is_cancelled_again_and_again_and_never_expires() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = headed(&flow);
    let began = w.now;
    let mut at = Vec::new();
    for _ in 0..4700 {
        w.run(1);
        for cancel in w.sent() {
            assert_eq!(Some(cancel.to), asked.control.backend);
            assert_eq!((cancel.control.kind, cancel.control.head), (Kind::Cancel, Some(T1)));
            assert_eq!((cancel.control.second, cancel.control.flags), (None, Flags::default()));
            at.push(w.now.since(began).0 / 1_000_000);
        }
    }
    assert_eq!(at, [200, 400, 800, 1600, 2600, 3600, 4600]);
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, PENDING);
    // Driven again: from the beginning.
    w.open(&flow);
    w.sent();
    w.run(199);
    assert!(w.sent().is_empty());
    w.run(1);
    let cancel = w.one();
    w.cancelled(&flow, &cancel);
    assert_eq!(w.tracker.counts(), crate::Counts::default(), "the vote is free");
    assert!(w.sent().is_empty());
    w.open(&flow);
    assert_eq!(w.one().control.kind, Kind::Open);
    let mut w = World::without(T1, Rule::PendingNeverExpires);
    w.open(&flow);
    w.run(201);
    assert_eq!(w.tracker.counts(), crate::Counts::default(), "the canary forgets by itself");
}

#[test]
fn a_forced_candidate_is_cancelled_as_such() {
    let flow = Flow::new(FORCE, 0);
    let (mut w, mut asked) = headed(&flow);
    while asked.control.flags != Flags::FORCE {
        w.reject(&flow, &asked);
        asked = w.one();
    }
    w.run(200);
    let cancel = w.one();
    assert_eq!((cancel.control.kind, cancel.control.flags), (Kind::Cancel, Flags::FORCE));
}

#[test]
fn an_accept_that_answers_a_cancel_goes_to_the_ingress() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = headed(&flow);
    let backend = asked.control.backend.unwrap();
    w.run(200);
    w.one();
    w.say_for(backend, INGRESS, &flow, None, Kind::Accept, |c| {
        (c.ingress, c.backend, c.head) = (Some(INGRESS), Some(backend), Some(T1));
    });
    assert_eq!(w.one().to, INGRESS);
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Established);
}

#[test]
fn the_entry_of_a_backend_that_the_operator_removed_goes() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = headed(&flow);
    let mut next = spec();
    next.generation = 2;
    next.members.retain(|m| Some(m.id) != asked.control.backend);
    for service in &mut next.services {
        service.backends.retain(|b| Some(b.member) != asked.control.backend);
    }
    let event = crate::TrackerEvent::Snapshot(jlb_map::Snapshot::build(next).unwrap());
    jlb_role::Role::event(&mut w.tracker, w.now, event, &mut w.io);
    w.run(200);
    assert!(w.sent().is_empty());
    assert_eq!(w.tracker.flow(&flow.id), None);
}

#[test]
fn full_pools_are_counted_and_change_nothing() {
    let mut w = World::new(T1);
    for n in 0..16 {
        w.open(&Flow::new(RESET, n));
        w.one();
    }
    let flow = Flow::new(RESET, 16);
    w.open(&flow);
    w.refused(Reason::PendingFull);
    assert_eq!(w.tracker.flow(&flow.id), None);
    assert_eq!(w.tracker.counts().pending, [16, 0]);

    let mut w = World::with(crate::TrackerConfig { flow_capacity: 2, ..config(T1) }, spec(), None);
    for n in 0..2 {
        w.accept(&Flow::new(RESET, n), BACKENDS[0], 1);
    }
    w.sent();
    w.open(&flow);
    w.refused(Reason::FlowTableFull);
    w.accept(&flow, BACKENDS[0], 2);
    w.refused(Reason::FlowTableFull);
    assert_eq!(w.tracker.counts().established, [2, 0]);
}

#[test]
fn a_full_memory_of_refusals_keeps_the_vote() {
    let mut w =
        World::with(crate::TrackerConfig { remembered_capacity: 0, ..config(T1) }, spec(), None);
    let flow = Flow::new(RESET, 0);
    let me = w.me();
    w.say_for(INGRESS, me, &flow, None, Kind::Open, |c| c.ingress = Some(INGRESS));
    let asked = w.one();
    w.reject(&flow, &asked);
    w.refused(Reason::AnswersFull);
    let state = FlowState::Pending { force: false, refused: true };
    assert_eq!(w.tracker.flow(&flow.id).unwrap().state, state);
}

#[test]
fn packets_of_another_workers_partition_are_handed_over() {
    let flow = Flow::new(RESET, 0);
    let owner = (flow.id.partition().as_u16() % 2) as u8;
    for worker in 0..2 {
        let config =
            crate::TrackerConfig { worker: jlb_role::WorkerId(worker), workers: 2, ..config(T1) };
        let mut w = World::with(config, spec(), None);
        w.io.handed.clear();
        w.open(&flow);
        if worker == owner {
            assert_eq!(w.one().to, T2);
        } else {
            assert!(w.sent().is_empty());
            assert_eq!(w.io.handed.pop_front().unwrap().1, jlb_role::WorkerId(owner));
        }
    }
}

#[test]
fn a_broken_two_votes_rule_asks_the_backend_at_once() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::without(T1, Rule::TwoVotes);
    w.open(&flow);
    let asked = w.one();
    assert_eq!(Some(asked.to), asked.control.backend);
    assert_eq!((asked.control.head, asked.control.second), (Some(T1), Some(T2)));
}

#[test]
fn a_broken_reject_ttl_never_comes_to_an_end() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::without(T1, Rule::RejectTtl);
    w.open(&flow);
    for _ in 0..50 {
        let asked = w.one();
        assert_eq!(asked.control.flags, Flags::default());
        w.reject(&flow, &asked);
    }
    assert_ne!(w.one().control.reason, RejectReason::Exhausted);
}
