//! Whether a tracker's votes count (rule 14).

use jlb_role::{Reason, Report};
use jlb_wire::{Flags, MemberId};

use super::world::*;

const A: MemberId = BACKENDS[0];
const B: MemberId = BACKENDS[1];

fn flow(n: usize) -> Flow {
    Flow::new(RESET, n)
}

fn is_warm(w: &World) -> bool {
    w.tracker.told_warm == Some(true)
}

/// Whether it takes part: opens flows, and says that nobody knows one.
fn speaks(w: &mut World, n: usize) -> bool {
    let (_, flags) = w.state(&flow(n));
    w.drops();
    w.sent();
    w.open(&flow(n));
    let (opens, drops) = (w.sent().len(), w.drops());
    assert_eq!(opens == 1, flags == Flags::UNKNOWN);
    assert!(opens == 1 || drops == [Reason::SoleOwner] || drops == [Reason::Cold], "{drops:?}");
    opens == 1
}

/// Another tracker is obeyed alone by those backends: our votes do not count there.
fn obeys_another(w: &mut World, backends: &[MemberId], number: u8) {
    for &backend in backends {
        w.obeys(backend, Some(T2));
        w.shuts_out(backend, number);
    }
}

#[test]
fn one_that_is_shut_out_is_cold_until_it_has_pulled_from_all_who_said_so() {
    let mut w = World::new(T1);
    obeys_another(&mut w, &BACKENDS, 1);
    w.run(120);
    assert!(!is_warm(&w) && w.reports().contains(&Report::Warm(false)));
    assert!(!speaks(&mut w, 0));
    w.run(1000);
    assert!(!is_warm(&w), "END names the other one");
    // Decided without us, a moment before it is over.
    w.has(A, 9, &[flow(1).record(true, 5)]);
    for backend in BACKENDS {
        w.obeys(backend, None);
    }
    w.run(400);
    assert!(is_warm(&w) && speaks(&mut w, 0));
    assert_eq!(w.state(&flow(1)), (Some(A), Flags::default()));
}

#[test]
fn it_is_warm_only_when_all_have_said_lately_that_it_is_not_shut_out() {
    let mut w = World::new(T1);
    obeys_another(&mut w, &BACKENDS, 1);
    w.run(120);
    BACKENDS.iter().filter(|&&id| id != B).for_each(|&id| w.obeys(id, None));
    w.run(600);
    assert!(!is_warm(&w), "B still obeys another one");
    // It is silent, and the others say that nobody decides alone.
    w.down.insert(B);
    w.run(1000);
    assert!(!is_warm(&w));
    w.down.remove(&B);
    w.obeys(B, None);
    w.run(5000);
    assert!(is_warm(&w));
}

#[test]
fn a_marker_from_before_it_was_shut_out_does_not_count() {
    let mut w = World::new(T1);
    let before = w.pulls[&A];
    // Over before we heard of it: Probe still says so until we pull.
    w.shuts_out(A, 1);
    w.run(120);
    assert!(w.pulls[&A] > before);
    w.run(300);
    assert!(is_warm(&w));
    let pulled = w.pulls[&A];
    // Once more.
    w.shuts_out(A, 2);
    w.run(300);
    assert!(w.pulls[&A] > pulled && is_warm(&w));
}

#[test]
fn who_hears_of_no_agent_for_300_ms_takes_no_part() {
    let mut w = World::new(T1);
    w.run(500);
    w.down.extend(BACKENDS);
    w.run(150);
    assert!(speaks(&mut w, 0), "an owner would wait until its time is over");
    w.run(200);
    assert!(!speaks(&mut w, 1));
    assert!(is_warm(&w), "what it knows is not wrong");
    assert!(w.says_cold(INGRESS), "and others are asked first");
    w.down.clear();
    w.run(200);
    assert!(speaks(&mut w, 2) && !w.says_cold(INGRESS));
}

#[test]
fn half_of_the_backends_are_enough() {
    let mut w = World::new(T1);
    w.run(500);
    let silent = BACKENDS.len() / 2;
    w.down.extend(&BACKENDS[..silent]);
    w.run(1000);
    assert!(speaks(&mut w, 0));
    w.down.extend(&BACKENDS[..=silent]);
    w.run(400);
    assert!(!speaks(&mut w, 1), "more than half are silent, and not yet dead");
}

#[test]
fn what_is_known_is_answered_by_those_who_take_no_part() {
    let mut w = World::new(T1);
    w.has(A, 9, &[flow(1).record(true, 5)]);
    w.run(61_000);
    w.down.extend(BACKENDS);
    w.run(400);
    assert_eq!(w.state(&flow(1)), (Some(A), Flags::default()));
}
