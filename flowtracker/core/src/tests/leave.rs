//! A tracker that is told to stop.

use jlb_peers::Peers;
use jlb_role::Report;
use jlb_wire::Kind;

use super::world::*;

const MAY_LEAVE: [Report; 1] = [Report::MayLeave];

#[test]
fn it_says_so_and_goes_when_nothing_is_lost_with_it() {
    let flow = Flow::new(RESET, 0);
    let mut w = World::new(T1);
    w.open(&flow);
    let asked = w.one();
    w.leave();
    w.run(150);
    assert!(w.says_leaving(T2) && w.says_leaving(INGRESS));
    assert!(w.reports().is_empty(), "a vote waits for its backend");
    // Whoever asks all the same is served.
    w.open(&flow);
    assert_eq!(w.one().control.kind, Kind::Open);
    w.accept(&flow, asked.control.backend.unwrap(), 5);
    w.run(10);
    assert_eq!(w.reports(), MAY_LEAVE);
    w.run(1000);
    assert!(w.reports().is_empty(), "it says so once");
}

#[test]
fn it_waits_for_the_others_of_its_trios() {
    let mut w = World::new(T1);
    w.says(T2, |p: &mut Peers| p.set_cold(true));
    w.down.insert(T3);
    w.run(200);
    w.leave();
    w.run(300);
    assert!(w.reports().is_empty());
    w.says(T2, |p: &mut Peers| p.set_cold(false));
    w.run(300);
    assert!(w.reports().is_empty(), "the other one does not answer");
    w.down.clear();
    w.run(300);
    assert_eq!(w.reports(), MAY_LEAVE);
}

#[test]
fn it_waits_for_nobody_when_all_leave() {
    let mut w = World::new(T1);
    // Nobody obeys it alone: that is another test's.
    w.deaf.extend(BACKENDS);
    for other in [T2, T3, OUTSIDER] {
        w.says(other, |p: &mut Peers| p.set_leaving(true));
    }
    w.run(100);
    w.down.extend([T2, T3]);
    w.run(200);
    w.leave();
    w.run(99);
    assert!(w.reports().is_empty(), "all are to hear it");
    w.run(20);
    assert_eq!(w.reports(), MAY_LEAVE);
}
