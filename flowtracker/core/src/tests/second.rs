//! As second: what another tracker asks, and two heads at once.

use jlb_role::{PacketBuf as _, Reason, Rule};
use jlb_wire::{Flags, Incarnation, Kind};

use super::world::*;
use crate::FlowState;

const A: jlb_wire::MemberId = BACKENDS[0];
const B: jlb_wire::MemberId = BACKENDS[1];
const PENDING: FlowState = FlowState::Pending { force: false, refused: false };
const REFUSED: FlowState = FlowState::Pending { force: false, refused: true };

fn state(w: &World, flow: &Flow) -> Option<(jlb_wire::MemberId, FlowState)> {
    w.tracker.flow(&flow.id).map(|v| (v.backend, v.state))
}

/// The second has voted for A, in a chain that T1 heads; what it asked of A.
fn voted(flow: &Flow) -> (World, Sent) {
    let mut w = World::new(T2);
    w.open_by(T1, flow, A);
    let asked = w.one();
    (w, asked)
}

#[test]
fn a_vote_is_stored_and_the_backend_asked_with_both_boot_ids() {
    for port in [RESET, DNS] {
        let flow = Flow::new(port, 0);
        let (w, asked) = voted(&flow);
        let Sent { to, control, .. } = asked;
        assert_eq!((to, control.kind, control.backend), (A, Kind::Open, Some(A)));
        assert_eq!((control.head, control.second), (Some(T1), Some(T2)));
        assert_eq!((control.word_a, control.word_b), (boot(T1).0, boot(T2).0));
        assert_eq!((control.ingress, control.cookie, control.reject_ttl), (Some(INGRESS), 77, 3));
        assert!(control.hop_budget < jlb_wire::HOP_BUDGET - 1);
        assert_eq!(state(&w, &flow), Some((A, PENDING)));
    }
}

#[test]
fn the_same_candidate_again_is_passed_on_again() {
    let flow = Flow::new(RESET, 0);
    let (mut w, _) = voted(&flow);
    w.open_by(T1, &flow, A);
    assert_eq!(w.one().to, A);
    // Another head of the same candidate: its name goes on, since its vote stands too.
    w.open_by(T3, &flow, A);
    let asked = w.one();
    assert_eq!((asked.to, asked.control.head, asked.control.word_a), (A, Some(T3), boot(T3).0));
    assert_eq!(w.tracker.counts().pending, [1, 0]);
}

#[test]
fn a_candidate_that_refused_is_replaced_and_no_other() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = voted(&flow);
    w.open_by(T1, &flow, B);
    w.refused(Reason::Unexpected);
    assert_eq!(state(&w, &flow), Some((A, PENDING)), "first writer wins");
    w.reject(&flow, &asked);
    let passed = w.one();
    assert_eq!((passed.to, passed.control.kind), (T1, Kind::Reject));
    assert_eq!((passed.control.sender, passed.control.receiver), (A, T1), "the backend's own word");
    assert!(flow.carries_packet(&passed));
    assert_eq!(state(&w, &flow), Some((A, REFUSED)));
    w.open_by(T1, &flow, B);
    assert_eq!(w.one().to, B);
    assert_eq!(state(&w, &flow), Some((B, PENDING)));

    let mut w = World::without(T2, Rule::FirstWriterWins);
    w.open_by(T1, &flow, A);
    w.open_by(T1, &flow, B);
    assert_eq!(state(&w, &flow), Some((B, PENDING)), "the canary replaces it");
}

#[test]
fn the_heads_list_of_refusals_counts_too() {
    let flow = Flow::new(RESET, 0);
    let (mut w, _) = voted(&flow);
    w.open_by_with(T1, &flow, |c| {
        c.backend = Some(B);
        c.tried.push(A);
    });
    assert_eq!(w.one().to, B);
    assert_eq!(state(&w, &flow), Some((B, PENDING)));
}

#[test]
fn force_is_another_candidate_and_its_refusal_another_refusal() {
    let flow = Flow::new(FORCE, 0);
    let (mut w, _) = voted(&flow);
    let force = |c: &mut jlb_wire::Control| {
        (c.backend, c.flags) = (Some(A), Flags::FORCE);
    };
    w.open_by_with(T1, &flow, force);
    w.refused(Reason::Unexpected);
    w.open_by_with(T1, &flow, |c| {
        force(c);
        c.tried.push(A);
    });
    let asked = w.one();
    assert_eq!((asked.to, asked.control.flags), (A, Flags::FORCE));
    let forced = FlowState::Pending { force: true, refused: false };
    assert_eq!(state(&w, &flow), Some((A, forced)));
    // A's plain refusal, late: passed on, but no answer to this question.
    let mut plain = asked.clone();
    plain.control.flags = Flags::default();
    w.reject(&flow, &plain);
    w.one();
    assert_eq!(state(&w, &flow), Some((A, forced)));
    // The head says "refused", and the last that it tried was A: so A refused to be forced.
    w.open_by_with(T1, &flow, |c| {
        c.flags = Flags::REFUSED;
        c.tried.push(B);
    });
    w.refused(Reason::Unexpected);
    w.open_by_with(T1, &flow, |c| {
        c.flags = Flags::REFUSED;
        c.tried.push(B);
        c.tried.push(A);
    });
    assert_eq!(w.one().to, INGRESS);
}

#[test]
fn the_lower_ranked_head_cancels_and_adopts() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T2);
    w.open(&flow);
    let own = w.one().control.backend.unwrap();
    let theirs = BACKENDS.into_iter().find(|&b| b != own).unwrap();
    w.open_by(T1, &flow, theirs);
    let cancel = w.one();
    assert_eq!((cancel.to, cancel.control.kind), (own, Kind::Cancel));
    assert_eq!(state(&w, &flow), Some((own, PENDING)), "not before it is free to");
    w.cancelled(&flow, &cancel);
    assert_eq!(state(&w, &flow), None);
    w.open_by(T1, &flow, theirs);
    assert_eq!(w.one().to, theirs);
    assert_eq!(state(&w, &flow), Some((theirs, PENDING)));

    let mut w = World::without(T2, Rule::SplitVotes);
    w.open(&flow);
    w.sent();
    w.open_by(T1, &flow, theirs);
    assert_eq!(state(&w, &flow), Some((theirs, PENDING)), "the canary does not ask");
}

#[test]
fn a_loser_whose_candidate_refuses_tries_no_other() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T2);
    w.open(&flow);
    let asked = w.one();
    let own = asked.control.backend.unwrap();
    let theirs = BACKENDS.into_iter().find(|&b| b != own).unwrap();
    w.open_by(T1, &flow, theirs);
    w.one();
    w.reject(&flow, &asked);
    assert!(w.sent().is_empty());
    assert_eq!(state(&w, &flow), None);
}

#[test]
fn the_higher_ranked_head_answers_with_its_own_candidate() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.open(&flow);
    let own = w.one().control.backend.unwrap();
    let theirs = BACKENDS.into_iter().find(|&b| b != own).unwrap();
    w.open_by(T2, &flow, theirs);
    let Sent { to, control, .. } = w.one();
    assert_eq!((to, control.kind, control.backend), (T2, Kind::Open, Some(own)));
    assert_eq!((control.head, control.second), (Some(T1), Some(T2)));
    assert_eq!(control.word_a, boot(T1).0);
    assert_eq!(state(&w, &flow), Some((own, PENDING)));
}

#[test]
fn a_second_answers_for_the_head_that_it_voted_with() {
    let flow = Flow::new(RESET, 0);
    // T3 voted for A with T1; T2, which knows nothing of it, comes with B.
    let mut w = World::new(T3);
    w.open_by(T1, &flow, A);
    w.one();
    w.open_by(T2, &flow, B);
    let Sent { to, control, .. } = w.one();
    assert_eq!((to, control.backend), (T2, Some(A)));
    assert_eq!((control.head, control.second), (Some(T1), Some(T2)));
    assert_eq!(control.word_a, boot(T1).0);
}

#[test]
fn two_heads_that_disagree_do_not_answer_each_other_for_ever() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.open(&flow);
    let own = w.one().control.backend.unwrap();
    let theirs = BACKENDS.into_iter().find(|&b| b != own).unwrap();
    let mut answers = 0;
    for budget in (0..jlb_wire::HOP_BUDGET).rev() {
        w.open_by_with(T2, &flow, |c| (c.backend, c.hop_budget) = (Some(theirs), budget));
        answers += w.sent().len();
    }
    assert_eq!(answers, usize::from(jlb_wire::HOP_BUDGET) - 2);
    assert_eq!(w.drops(), [Reason::HopBudget; 2]);
}

#[test]
fn an_established_flow_is_answered_to_the_ingress() {
    let flow = Flow::new(RESET, 0);
    let (mut w, _) = voted(&flow);
    w.accept(&flow, A, 9);
    let passed = w.one();
    assert_eq!(
        (passed.to, passed.control.kind),
        (T1, Kind::Accept),
        "the second passes it to head"
    );
    w.open_by(T1, &flow, B);
    let answer = w.one();
    assert_eq!((answer.to, answer.control.kind), (INGRESS, Kind::State));
    assert_eq!(answer.control.backend, Some(A));
}

#[test]
fn another_incarnation_goes_to_the_incumbents_backend() {
    let flow = Flow::new(RESET, 0);
    let (mut w, _) = voted(&flow);
    let other = flow.incarnation(2000);
    w.open_by(T1, &other, B);
    let asked = w.one();
    assert_eq!((asked.to, asked.control.flags), (A, Flags::INCUMBENT));
    w.open_by_with(T1, &other, |c| c.flags = Flags::REFUSED);
    assert_eq!(w.one().control.flags, Flags::INCUMBENT, "refusing needs our vote too");
    assert_eq!(w.tracker.flow(&flow.id).unwrap().incarnation, Incarnation(1000));
}

#[test]
fn a_voted_refusal_is_told_to_the_ingress_and_again_for_a_while() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T2);
    let refuse = |c: &mut jlb_wire::Control| {
        c.flags = Flags::REFUSED;
        c.tried.push(A);
    };
    w.open_by_with(T1, &flow, refuse);
    let told = w.one();
    assert_eq!(
        (told.to, told.control.kind, told.control.flags),
        (INGRESS, Kind::Reject, Flags::FINAL)
    );
    assert_eq!((told.control.ingress, told.control.cookie), (Some(INGRESS), 77));
    assert_eq!(told.control.reason, jlb_wire::RejectReason::Exhausted);
    assert!(told.control.tried.contains(A));
    w.open(&flow);
    assert_eq!(w.one().control.flags, Flags::FINAL, "asked by the ingress");
    w.open_by(T3, &flow, B);
    assert_eq!((w.one().to, w.drops()), (INGRESS, vec![]), "asked by another head");
    w.open(&flow.incarnation(2000));
    assert_eq!(w.one().control.kind, Kind::Open, "of this incarnation only");
    w.run(REPLAY_WINDOW + 110);
    w.sent();
    w.open_by(T1, &flow, A);
    // The later incarnation is pending here by now.
    assert_eq!(w.one().control.flags, Flags::INCUMBENT);
}

#[test]
fn a_vote_to_refuse_is_no_vote_for_a_backend() {
    let flow = Flow::new(RESET, 0);
    // T1 voted to refuse, not yet answered; T2 comes with a backend.
    let mut w = World::new(T1);
    w.down.extend(BACKENDS);
    w.run(5000);
    w.open(&flow);
    w.one();
    w.open_by(T2, &flow, A);
    let answer = w.one();
    assert_eq!((answer.to, answer.control.flags), (T2, Flags::REFUSED), "it ranks higher");
    assert_eq!((answer.control.head, answer.control.second), (Some(T1), Some(T2)));
    // And T2 comes with its refusal: two votes.
    w.open_by_with(T2, &flow, |c| c.flags = Flags::REFUSED);
    assert_eq!(w.one().to, INGRESS);

    let mut w = World::new(T2);
    w.down.extend(BACKENDS);
    w.run(5000);
    w.open(&flow);
    w.one();
    w.open_by(T1, &flow, A);
    w.refused(Reason::Unexpected);
}

#[test]
fn a_refusal_takes_the_place_of_a_candidate_that_refused() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = voted(&flow);
    w.open_by_with(T1, &flow, |c| c.flags = Flags::REFUSED);
    w.refused(Reason::Unexpected);
    w.reject(&flow, &asked);
    w.one();
    w.open_by_with(T1, &flow, |c| c.flags = Flags::REFUSED);
    assert_eq!(w.one().to, INGRESS);
    assert_eq!((state(&w, &flow), w.tracker.counts().timers), (None, 0));
}

#[test]
fn a_second_asked_by_the_ingress_goes_on_from_what_it_knows() {
    let flow = Flow::new(RESET, 0);
    let (mut w, asked) = voted(&flow);
    w.down.insert(T1);
    w.run(100);
    w.open(&flow);
    let again = w.one();
    assert_eq!((again.to, again.control.backend), (T3, Some(A)));
    assert_eq!((again.control.head, again.control.word_a), (Some(T2), boot(T2).0));
    // It heads the chain now: the refusal is its to deal with.
    let mut rejected = asked;
    (rejected.control.head, rejected.control.second) = (Some(T2), Some(T3));
    w.reject(&flow, &rejected);
    let next = w.one();
    assert_eq!((next.to, next.control.reject_ttl), (T3, 2));
    assert!(next.control.tried.contains(A));
}

#[test]
fn what_cannot_be_a_vote_is_dropped() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T2);
    w.open_by(OUTSIDER, &flow, A);
    w.refused(Reason::NotInTrio);
    w.open_by_with(T1, &flow, |c| (c.backend, c.head) = (Some(A), Some(OUTSIDER)));
    w.refused(Reason::NotInTrio);
    w.open_by_with(T1, &flow, |c| (c.backend, c.head) = (Some(A), Some(T2)));
    w.refused(Reason::Unexpected);
    w.open_by_with(T1, &flow, |c| (c.backend, c.second) = (Some(A), Some(T3)));
    w.refused(Reason::Unexpected);
    w.open_by(T1, &flow, INGRESS);
    w.refused(Reason::Malformed);
    w.open_by_with(T1, &flow, |c| c.backend = None);
    w.refused(Reason::Malformed);
    w.open_by_with(T1, &flow, |c| (c.backend, c.hop_budget) = (Some(A), 1));
    w.refused(Reason::HopBudget);
}

#[test]
fn a_second_too_cancels_what_is_not_answered() {
    let flow = Flow::new(RESET, 0);
    let (mut w, _) = voted(&flow);
    w.run(200);
    let cancel = w.one();
    assert_eq!((cancel.to, cancel.control.head), (A, Some(T2)), "the canceller is head");
    w.cancelled(&flow, &cancel);
    assert_eq!(w.tracker.counts(), crate::Counts::default());
}

#[test]
fn what_is_no_message_is_dropped() {
    let mut w = World::new(T2);
    let mut junk = jlb_role::FakeBuf::holding(&[0x41; 60]);
    junk.truncate(30);
    w.receive(junk);
    w.refused(Reason::Malformed);
}
