//! A tracker that has just started, and what it pulls from the backends (rules 4 and 10).

use jlb_role::{Nanos, Reason, Report, Rule};
use jlb_wire::{Flags, Incarnation, Kind, MemberId, RefreshRecord};

use super::world::*;
use crate::{FlowState, TrackerConfig};

const A: MemberId = BACKENDS[0];
const B: MemberId = BACKENDS[1];

fn cold(broken: Option<Rule>) -> World {
    World::cold(config(T1), spec(), broken)
}

fn is_warm(w: &World) -> bool {
    w.metric("jlb_cold_partitions", &[]) == 0.0
}

#[test]
fn a_tracker_that_has_just_started_neither_heads_nor_votes() {
    let flow = Flow::new(RESET, 0);
    let mut w = cold(None);
    w.mute.extend([A]);
    w.run(200);
    assert_eq!(w.metric("jlb_cold_partitions", &[]), w.owned() as f64);
    w.drops();
    w.open(&flow);
    w.refused(Reason::Cold);
    w.open_by(T2, &flow, B);
    w.refused(Reason::Cold);
    assert!(w.says_cold(T2));
    assert_eq!(w.reports(), [Report::Warm(false)]);
    w.mute.clear();
    w.run(300);
    assert!(is_warm(&w) && !w.says_cold(T2));
    assert_eq!(w.reports(), [Report::Warm(true)]);
    w.open(&flow);
    assert_eq!(w.one().control.kind, Kind::Open);
    assert!((0.2..0.6).contains(&w.metric("jlb_refresh_seconds", &[])));
}

#[test]
fn a_broken_cold_rule_heads_at_once() {
    let mut w = cold(Some(Rule::Cold));
    w.mute.extend(BACKENDS);
    w.run(200);
    w.open(&Flow::new(RESET, 0));
    assert_eq!(w.one().control.kind, Kind::Open);
}

#[test]
fn without_backends_there_is_nobody_to_wait_for() {
    let mut list = spec();
    list.services.clear();
    list.members.retain(|m| !BACKENDS.contains(&m.id));
    let mut w = World::cold(config(T1), list, None);
    w.run(1);
    assert!(is_warm(&w));
}

#[test]
fn a_host_without_its_daemon_is_waited_for_and_named() {
    let mut w = cold(None);
    w.mute.extend([B]);
    w.run(10_000);
    assert!(!is_warm(&w));
    let named = w.reports().into_iter().filter(|r| *r == Report::WaitsFor { member: B }).count();
    assert!((8..=10).contains(&named), "once a second, not {named} times");
    assert!(w.pulls[&B] < 150, "{} questions", w.pulls[&B]);
}

#[test]
fn a_missing_marker_is_written_off_by_two_witnesses_never_by_our_own_timer() {
    let silent = |broken| {
        let mut w = cold(broken);
        // Nobody obeys it alone: that is another test's.
        w.deaf.extend(BACKENDS);
        w.down.insert(A);
        w.down.extend(OTHERS);
        w
    };
    let mut w = silent(None);
    w.run(6000);
    assert!(!is_warm(&w), "nobody else says that it is dead");
    w.down.retain(|id| !OTHERS.contains(id));
    w.run(150);
    assert!(is_warm(&w));
    // It speaks again: it is pulled before it is offered anything, and we stay warm.
    let flow = Flow::new(RESET, 0);
    w.has(A, 9, &[flow.record(true, 5)]);
    w.down.remove(&A);
    w.run(200);
    assert_eq!(w.state(&flow), (Some(A), Flags::default()));

    let mut w = silent(Some(Rule::MarkersByWord));
    w.down.retain(|id| !OTHERS.contains(id));
    w.run(700);
    assert!(is_warm(&w), "the canary does not wait");
    let mut w = silent(Some(Rule::TwoWitnesses));
    w.run(3300);
    assert!(is_warm(&w), "the canary asks nobody");
}

#[test]
fn what_a_backend_lists_is_known_afterwards() {
    let live: Vec<_> = (0..20).map(|n| Flow::new(RESET, n)).collect();
    let closed = Flow::new(RESET, 20);
    let udp = Flow::new(DNS, 0).incarnation(7);
    // Of others: not in our trio.
    let foreign = Flow::of([T2, T3, OUTSIDER], RESET, 0);
    let mut flows: Vec<_> = (1..).zip(&live).map(|(n, f)| f.record(true, n)).collect();
    flows.extend([closed.record(false, 30), udp.record(true, 31), foreign.record(true, 32)]);
    let mut w = cold(None);
    w.has(A, 40, &flows);
    w.run(300);
    assert!(is_warm(&w));
    for flow in live.iter().chain([&udp]) {
        let view = w.tracker.flow(&flow.id).unwrap();
        assert_eq!((view.backend, view.incarnation), (A, flow.incarnation));
        assert_eq!(view.state, FlowState::Established);
    }
    assert_eq!(w.tracker.flow(&foreign.id), None);
    assert_eq!(w.tracker.counts().established, [20, 1]);
    w.drops();
    w.open(&closed);
    w.refused(Reason::Unexpected);
    // 8 batches of A, and the ends of all four.
    assert_eq!(w.metric("jlb_refresh_batches_total", &[]), 12.0);
}

/// The tracker pulls A once more, which answers with these flows.
fn refreshed(w: &mut World, counter: u64, flows: &[RefreshRecord]) {
    w.has(A, counter, flows);
    w.run(60_500);
    w.sent();
}

#[test]
fn an_entry_of_another_backend_is_never_overwritten() {
    let [pending, established, ours, heir] = [0, 1, 2, 3].map(|n| Flow::new(RESET, n));
    let mut w = World::new(T1);
    w.open_by(T2, &pending, B);
    w.accept(&established, B, 5);
    w.open_by(T2, &ours, A);
    w.accept(&heir.incarnation(1), A, 5);
    w.has(B, 9, &[established.record(true, 5)]);
    let flows = [
        pending.record(true, 10),
        established.record(true, 11),
        ours.record(true, 12),
        heir.incarnation(2).record(true, 13),
    ];
    refreshed(&mut w, 20, &flows);
    let view = |w: &World, flow: &Flow| w.tracker.flow(&flow.id).unwrap();
    assert_eq!(view(&w, &pending).backend, B);
    assert_eq!(view(&w, &established).backend, B);
    assert_eq!((view(&w, &ours).backend, view(&w, &ours).state), (A, FlowState::Established));
    assert_eq!(view(&w, &heir).incarnation, Incarnation(2), "its own later word about its own");
}

#[test]
fn a_closed_flow_in_the_list_ends_what_we_hold_of_it() {
    let [closed, reopened, others] = [0, 1, 2].map(|n| Flow::new(RESET, n));
    let mut w = World::new(T1);
    w.accept(&closed, A, 5);
    w.accept(&reopened.incarnation(2), A, 8);
    w.accept(&others, B, 5);
    w.has(B, 9, &[others.record(true, 5)]);
    w.run(59_000);
    let flows = [
        closed.record(false, 7),
        reopened.incarnation(1).record(false, 7),
        reopened.incarnation(2).record(true, 8),
        others.record(false, 7),
    ];
    w.has(A, 20, &flows);
    let closing = (0..2000).any(|_| {
        w.run(1);
        w.tracker.flow(&closed.id).is_some_and(|f| f.state == FlowState::Closing)
    });
    assert!(closing);
    w.run(1);
    assert_eq!(w.tracker.flow(&reopened.id).unwrap().state, FlowState::Established);
    assert_eq!(w.tracker.flow(&others.id).unwrap().state, FlowState::Established);
    w.accept(&closed, A, 5);
    assert_eq!(w.drops().last(), Some(&Reason::StaleCounter));
}

#[test]
fn what_a_list_does_not_name_is_swept_unless_it_is_younger() {
    let [kept, lost, younger, others] = [0, 1, 2, 3].map(|n| Flow::new(RESET, n));
    let mut w = World::new(T1);
    w.accept(&kept, A, 5);
    w.accept(&lost, A, 6);
    w.accept(&younger, A, 21);
    w.accept(&others, B, 5);
    w.has(B, 1, &[]);
    refreshed(&mut w, 20, &[kept.record(true, 5)]);
    assert_eq!(w.tracker.flow(&lost.id), None, "its Close was lost");
    for flow in [kept, younger, others] {
        assert_eq!(w.tracker.flow(&flow.id).unwrap().state, FlowState::Established);
    }
    refreshed(&mut w, 22, &[kept.record(true, 5)]);
    assert!(w.tracker.flow(&younger.id).is_none() && w.tracker.flow(&kept.id).is_some());
}

#[test]
fn what_is_accepted_while_a_pull_runs_is_not_swept_by_it() {
    let [listed, accepted] = [0, 1].map(|n| Flow::new(RESET, n));
    let mut w = World::new(T1);
    w.has(A, 20, &[listed.record(true, 5)]);
    w.held = Some(Vec::new());
    while w.pulls.get(&A) < Some(&2) {
        w.run(100);
    }
    w.accept(&accepted, A, 6);
    w.release();
    w.run(10);
    for flow in [listed, accepted] {
        assert!(w.tracker.flow(&flow.id).is_some());
    }
}

#[test]
fn who_gave_its_marker_is_pulled_again_after_a_minute_one_at_a_time() {
    let mut w = World::new(T1);
    let sum = |w: &World| w.pulls.values().sum::<usize>();
    let first = sum(&w);
    w.run(59_500);
    assert_eq!(sum(&w), first);
    w.held = Some(Vec::new());
    w.run(1000);
    let pulled: Vec<_> = BACKENDS.iter().filter(|b| w.pulls[b] > 1).collect();
    assert_eq!(pulled.len(), 1);
    assert!(is_warm(&w));
    w.release();
    w.run(300);
    assert!(BACKENDS.iter().all(|b| w.pulls[b] > 1));
}

#[test]
fn a_marker_of_a_former_boot_counts_no_more() {
    let mut w = cold(None);
    w.mute.insert(B);
    w.run(300);
    // A has given its marker; then it begins anew, and nobody may know what it took since.
    w.mute = [A].into();
    w.reboot(A);
    w.run(1000);
    assert!(!is_warm(&w));
    w.mute.clear();
    w.run(300);
    assert!(is_warm(&w));
}

#[test]
fn a_pull_that_a_new_boot_answers_starts_anew() {
    let flow = Flow::new(RESET, 0);
    let mut w = cold(None);
    w.has(A, 9, &[flow.record(true, 5)]);
    w.held = Some(Vec::new());
    w.run(150);
    w.reboot(A);
    w.run(300);
    w.release();
    w.run(400);
    assert!(is_warm(&w));
    assert!(w.tracker.flow(&flow.id).is_some());
}

#[test]
fn a_list_for_which_there_is_no_room_is_no_marker() {
    let config = TrackerConfig { flow_capacity: 2, ..config(T1) };
    let mut w = World::cold(config, spec(), None);
    let flows: Vec<_> = (0..3).map(|n| Flow::new(RESET, n).record(true, 5)).collect();
    w.has(A, 9, &flows);
    w.run(3000);
    assert!(!is_warm(&w), "it would not know the third one");
    assert!(w.drops().contains(&Reason::FlowTableFull));
    assert!(w.pulls[&A] < 20, "{}", w.pulls[&A]);
    w.has(A, 10, &flows[1..]);
    w.run(1200);
    assert!(is_warm(&w));
}

#[test]
fn a_list_is_not_believed_from_another_epoch_or_worker_or_member() {
    let flow = Flow::new(RESET, 0);
    let mut w = cold(None);
    w.run(100);
    w.drops();
    w.list_by(T2, &flow, 0);
    w.refused(Reason::NotAMember);
    w.list_by(A, &flow, 1);
    w.refused(Reason::Malformed);
    w.list_by(A, &flow, 0);
    w.refused(Reason::Unexpected);
    w.apply(later(2, &[]), &[A]);
    w.list_by(A, &flow, 0);
    w.refused(Reason::WrongEpoch);
    assert_eq!(w.tracker.flow(&flow.id), None);
}

#[test]
fn a_backend_that_is_pulled_is_asked_no_more_than_it_answers() {
    let flows: Vec<_> = (0..60).map(|n| Flow::new(RESET, n).record(true, 5)).collect();
    let mut w = cold(None);
    w.has(A, 9, &flows);
    w.run(300);
    assert!(is_warm(&w));
    assert_eq!(w.pulls[&A], 21, "20 batches and the end");
    assert_eq!(w.now, Nanos::from_millis(300));
}
