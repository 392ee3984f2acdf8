//! Whatever is said to a tracker, in whatever order.

use jlb_wire::{Flags, Kind, MemberId};
use proptest::collection::vec;
use proptest::prelude::*;

use super::world::*;
use crate::{Counts, FlowState, FlowView};

#[derive(Clone, Debug)]
enum Step {
    Open {
        incarnation: u32,
    },
    OpenBy {
        head: usize,
        incarnation: u32,
        candidate: Option<usize>,
        force: bool,
        tried: Vec<usize>,
    },
    Accept {
        backend: usize,
        incarnation: u32,
        counter: u64,
    },
    Reject {
        backend: usize,
        incarnation: u32,
        force: bool,
        answers_cancel: bool,
    },
    Close {
        backend: usize,
        incarnation: u32,
        counter: u64,
    },
    Pass {
        ms: u64,
    },
    Toggle {
        backend: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let backend = 0..BACKENDS.len();
    let incarnation = 1..4u32;
    prop_oneof![
        3 => incarnation.clone().prop_map(|incarnation| Step::Open { incarnation }),
        4 => (0..2usize, incarnation.clone(), prop::option::weighted(0.8, backend.clone()), any::<bool>(), vec(backend.clone(), 0..3))
            .prop_map(|(head, incarnation, candidate, force, tried)| Step::OpenBy { head, incarnation, candidate, force, tried }),
        3 => (backend.clone(), incarnation.clone(), 0..9u64)
            .prop_map(|(backend, incarnation, counter)| Step::Accept { backend, incarnation, counter }),
        3 => (backend.clone(), incarnation.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(backend, incarnation, force, answers_cancel)| Step::Reject { backend, incarnation, force, answers_cancel }),
        2 => (backend.clone(), incarnation, 0..9u64)
            .prop_map(|(backend, incarnation, counter)| Step::Close { backend, incarnation, counter }),
        2 => (0..300u64).prop_map(|ms| Step::Pass { ms }),
        1 => backend.prop_map(|backend| Step::Toggle { backend }),
    ]
}

/// What a step says about the flow's candidate, that may free or replace it.
fn releases(step: &Step, flow: &Flow, before: &FlowView) -> bool {
    let same = |incarnation: u32| flow.with(incarnation).incarnation == before.incarnation;
    let its = |backend: usize| BACKENDS[backend] == before.backend;
    let FlowState::Pending { force: forced, refused } = before.state else { return true };
    match step {
        // A list that says it refused.
        Step::OpenBy { incarnation, tried, .. } => {
            refused || same(*incarnation) && tried.iter().any(|&b| its(b))
        }
        Step::Reject { backend, incarnation, force, .. } => {
            its(*backend) && same(*incarnation) && forced == *force
        }
        // Not another candidate, but another state of this one.
        Step::Accept { backend, .. } | Step::Close { backend, .. } => its(*backend),
        Step::Open { .. } | Step::Pass { .. } | Step::Toggle { .. } => false,
    }
}

impl Flow {
    /// UDP has no incarnation before it is accepted.
    fn with(self, incarnation: u32) -> Self {
        match self.tuple.protocol() {
            jlb_wire::Protocol::Tcp => self.incarnation(incarnation),
            jlb_wire::Protocol::Udp => self.incarnation(0),
        }
    }
}

fn play(w: &mut World, flow: &Flow, step: &Step) {
    let me = w.me();
    let others: Vec<MemberId> = [T1, T2, T3].into_iter().filter(|&t| t != me).collect();
    match step {
        Step::Open { incarnation } => w.open(&flow.with(*incarnation)),
        Step::OpenBy { head, incarnation, candidate, force, tried } => {
            w.open_by_with(others[*head], &flow.with(*incarnation), |c| {
                c.backend = candidate.map(|b| BACKENDS[b]);
                c.flags = match candidate {
                    Some(_) => Flags::default().set(Flags::FORCE, *force),
                    None => Flags::REFUSED,
                };
                for &b in tried {
                    c.tried.push(BACKENDS[b]);
                }
            });
        }
        Step::Accept { backend, incarnation, counter } => {
            w.accept(&flow.incarnation(*incarnation), BACKENDS[*backend], *counter);
        }
        Step::Reject { backend, incarnation, force, answers_cancel } => {
            w.say(BACKENDS[*backend], &flow.with(*incarnation), Kind::Reject, |c| {
                (c.backend, c.ingress) = (Some(BACKENDS[*backend]), Some(INGRESS));
                (c.head, c.second) = (Some(me), (!answers_cancel).then_some(others[0]));
                c.flags = Flags::default().set(Flags::FORCE, *force);
            });
        }
        Step::Close { backend, incarnation, counter } => {
            w.close(&flow.incarnation(*incarnation), BACKENDS[*backend], *counter);
        }
        Step::Pass { ms } => w.run(*ms),
        Step::Toggle { backend } => {
            let backend = BACKENDS[*backend];
            if !w.down.remove(&backend) {
                w.down.insert(backend);
            }
            w.run(1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_vote_is_never_changed_unless_its_backend_refused(
        me in 0..3usize,
        port in prop::sample::select(vec![RESET, FORCE, DNS]),
        steps in vec(step(), 1..40),
    ) {
        let flow = Flow::new(port, 0);
        let mut w = World::new([T1, T2, T3][me]);
        for step in &steps {
            let before = w.tracker.flow(&flow.id);
            play(&mut w, &flow, step);
            // No packet makes more than one (time makes Cancels).
            if !matches!(step, Step::Pass { .. } | Step::Toggle { .. }) {
                prop_assert!(w.out.len() <= 1, "{:?}", w.out);
            }
            w.sent();
            let after = w.tracker.flow(&flow.id);
            if let Some(before) = before.filter(|b| matches!(b.state, FlowState::Pending { .. })) {
                let kept = after.is_some_and(|a| {
                    (a.backend, a.incarnation) == (before.backend, before.incarnation)
                });
                prop_assert!(kept || releases(step, &flow, &before), "{before:?} {step:?} {after:?}");
            }
            if let Some(before) = before.filter(|b| b.state == FlowState::Established) {
                let closed = matches!(step, Step::Close { .. }) ;
                let kept = after.is_some_and(|a| a.backend == before.backend && a.incarnation == before.incarnation);
                prop_assert!(kept || closed, "{before:?} {step:?} {after:?}");
            }
            let Counts { pending, established, closing, .. } = w.tracker.counts();
            let entries: usize = [pending, established, closing].iter().flatten().sum();
            prop_assert_eq!(entries, usize::from(after.is_some()));
        }
    }

    /// After closes and time nothing is left.
    #[test]
    fn no_trace_is_left(
        me in 0..3usize,
        port in prop::sample::select(vec![RESET, FORCE, DNS]),
        steps in vec(step(), 1..30),
    ) {
        let flow = Flow::new(port, 0);
        let mut w = World::new([T1, T2, T3][me]);
        for step in &steps {
            play(&mut w, &flow, step);
        }
        w.down.clear();
        w.run(200);
        w.sent();
        if let Some(view) = w.tracker.flow(&flow.id) {
            if let FlowState::Pending { force, .. } = view.state {
                w.say(view.backend, &flow.incarnation(view.incarnation.0), Kind::Reject, |c| {
                    (c.backend, c.head) = (Some(view.backend), Some([T1, T2, T3][me]));
                    c.flags = Flags::default().set(Flags::FORCE, force);
                });
            } else {
                w.close(&flow.incarnation(view.incarnation.0), view.backend, 100);
            }
        }
        w.run(REPLAY_WINDOW + 110);
        prop_assert_eq!(w.tracker.counts(), Counts::default());
        prop_assert_eq!(w.tracker.flow(&flow.id), None);
    }
}

/// What becomes of each answer to a pull: lost, brought once or twice, now or after some that come later.
fn fates() -> impl Strategy<Value = Vec<(u8, u8)>> {
    vec((0..4u8, 0..6u8), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_pull_ends_with_exactly_the_agents_flows_whatever_the_network_does(
        live in 0..45usize,
        closed in 0..5usize,
        fates in fates(),
    ) {
        let backend = BACKENDS[0];
        let stale: Vec<_> = (0..8).map(|n| Flow::new(RESET, n)).collect();
        let all: Vec<_> = (4..4 + live + closed).map(|n| Flow::new(RESET, n)).collect();
        let record = |(n, flow): (usize, &Flow)| flow.record(n < live, 100 + n as u64);
        let records: Vec<_> = all.iter().enumerate().map(record).collect();
        // A Close has a tombstone only where there is room.
        let config = crate::TrackerConfig { remembered_capacity: 64, ..config(T1) };
        let mut w = World::with(config, spec(), None);
        // Known from before, and from after the flows were collected.
        for (n, flow) in stale.iter().enumerate() {
            let counter = all.iter().position(|f| f.tuple == flow.tuple).map_or(50, |n| 100 + n as u64);
            w.accept(flow, backend, if n == 0 { 2000 } else { counter });
        }
        w.has(backend, 1000, &records);
        let members: Vec<_> = spec().members.iter().map(|m| m.id).collect();
        w.apply(later(2, &[]), &members);
        w.held = Some(Vec::new());
        let mut fates = fates.iter().cycle();
        let mut late: Vec<(u64, jlb_role::FakeBuf)> = Vec::new();
        let mut turn = 0;
        let (its_boot, epoch) = (Some(boot(backend)), jlb_wire::Epoch(2));
        while !w.tracker.sources.marked(backend, its_boot, epoch) {
            turn += 1;
            prop_assert!(turn < 20_000);
            w.run(1);
            let held = w.held.replace(Vec::new()).unwrap_or_default();
            for buf in held {
                let (copies, delay) = fates.next().copied().unwrap_or_default();
                // In the end some of it must come through.
                let copies = copies.max(u8::from(turn > 5000));
                for copy in 0..copies.min(2) {
                    late.push((turn + u64::from(delay + 3 * copy), buf.clone()));
                }
            }
            let (due, rest) = late.into_iter().partition(|(at, _)| *at <= turn);
            late = rest;
            let due: Vec<(u64, jlb_role::FakeBuf)> = due;
            for (_, buf) in due.into_iter().rev() {
                w.receive(buf);
            }
        }
        w.run(20);
        for (n, flow) in all.iter().enumerate() {
            let there = w.tracker.flow(&flow.id).is_some_and(|f| f.state == FlowState::Established);
            prop_assert_eq!(there, n < live, "{}", n);
        }
        prop_assert!(w.tracker.flow(&stale[0].id).is_some(), "younger than the list");
        for flow in stale.iter().skip(1).filter(|f| all.iter().all(|a| a.tuple != f.tuple)) {
            prop_assert_eq!(w.tracker.flow(&flow.id), None);
        }
    }
}
