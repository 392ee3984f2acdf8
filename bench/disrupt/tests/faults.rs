//! Faults in a lab, each once, with 200 connections. Those after which a site can be mended share one lab.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]
#![expect(clippy::print_stdout, reason = "what a failed test shows")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jlb_disrupt::load::Live;
use jlb_disrupt::{Options, Outcome, Progress, RebuildOptions, rebuild, run, run_in_turn};

/// One lab at a time: ten daemons share two cores with their clients, and times are measured.
static TURN: Mutex<()> = Mutex::new(());
const CONNECTIONS: u32 = 200;
/// Shorter than a fault's own time: TCP has sent what was lost three times by then.
const LASTS: Duration = Duration::from_secs(2);
/// Three thousand waits.
const BEFORE: Duration = Duration::from_secs(1);

/// Longest stalls, in ms: what TCP makes of a loss while hosts are noticed to be gone, on a busy machine.
const NONE: f64 = 0.0;
/// Flows find another ingress host that has to ask.
const MOVES: f64 = 1000.0;
/// One that is gone must be noticed first.
const INGRESS: f64 = 2000.0;
/// Trackers must be back before anybody can be asked.
const REBUILT: f64 = 5000.0;
/// Nobody's way changes. On a busy machine an ingress host that gets no CPU for 75 ms withdraws its VIPs all the same.
const QUIET: f64 = 1000.0;

/// What a failed test shows.
struct Printed;

impl Progress for Printed {
    fn say(&mut self, what: &str) {
        println!("{what}");
    }

    fn live(&mut self, _: Live) {}
}

fn options() -> Options {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Options {
        connections: CONNECTIONS,
        times: 1,
        before: BEFORE,
        lasts: Some(LASTS),
        next_build: None,
        cannot_ask: false,
        lab: format!("disrupt-{}-{n}", std::process::id()),
    }
}

/// Nothing breaks or goes astray, the fault was there, and nobody waited longer than this beyond the usual.
fn harm_nobody(faults: &[(&str, f64)]) -> Vec<Outcome> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let names: Vec<&str> = faults.iter().map(|(name, _)| *name).collect();
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut judge = |outcome: Outcome| {
        println!("{outcome}");
        let (name, longest) = faults[outcomes.len()];
        assert_eq!((outcome.fault, outcome.connections), (name, CONNECTIONS));
        assert!(outcome.is_well(), "{outcome}");
        assert!(outcome.stall_ms_max <= longest, "longer than {longest} ms: {outcome}");
        outcomes.push(outcome);
    };
    let never = AtomicBool::new(false);
    run_in_turn(&names, &options(), &mut Printed, &never, &mut judge).unwrap();
    outcomes
}

#[test]
fn flows_move_between_ingress_hosts_and_none_breaks() {
    let outcomes = harm_nobody(&[
        ("none", NONE),
        ("ecmp-edge", MOVES),
        ("ecmp-reorder", MOVES),
        ("rehash-under-ack-flood", MOVES),
        ("ingress-drain", QUIET),
        ("ingress-kill", INGRESS),
        ("ingress-stop", INGRESS),
        ("ingress-silent", INGRESS),
    ]);
    let moved = |n: usize| outcomes[n].moved;
    assert_eq!(moved(0), 0);
    // The next hop that the router loses had a third of the flows, or more of them move.
    assert!(moved(1) >= CONNECTIONS / 5, "{}", moved(1));
    for reordered in [2, 3] {
        assert!(moved(reordered) >= CONNECTIONS * 9 / 10, "{}", moved(reordered));
    }
    // The busiest host's.
    assert!(outcomes[4..].iter().all(|outcome| outcome.moved >= CONNECTIONS / 5));
}

/// So that the others are known to see what breaks.
#[test]
fn a_site_that_cannot_ask_is_seen_to_break() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let options = Options { cannot_ask: true, ..options() };
    let outcome = run("ecmp-reorder", &options, &mut Printed, &AtomicBool::new(false)).unwrap();
    println!("{outcome}");
    assert!(outcome.fault_verified && !outcome.is_well(), "{outcome}");
    assert!(outcome.broken >= CONNECTIONS / 2, "{outcome}");
}

#[test]
fn a_tracker_that_is_killed_hangs_or_is_cut_off_harms_nobody() {
    let outcomes = harm_nobody(&[
        ("primary-kill", QUIET),
        ("primary-stop", QUIET),
        ("primary-partition", QUIET),
        ("secondary-kill", QUIET),
        ("secondary-stop", QUIET),
        ("secondary-partition", QUIET),
    ]);
    for outcome in outcomes {
        assert!(outcome.new_connection_ms_p99 <= 1000.0, "{outcome}");
    }
}

#[test]
fn the_loss_of_all_trackers_and_of_two_harms_nobody_who_is_connected() {
    let outcomes = harm_nobody(&[
        ("trackers-two", QUIET),
        ("trackers-all", QUIET),
        ("trackers-all-ingress", REBUILT),
    ]);
    // The last one decides alone before the client's second SYN, which comes after a second. But that one is lost (`duplicate_syn`)
    // when it meets the pending entry of the first, which is a second old, too; then it is the third one, after two.
    assert!(outcomes[0].new_connection_ms_p99 <= 2500.0, "{}", outcomes[0]);
}

#[test]
fn trackers_and_backends_come_and_go_and_lists_change_without_harm() {
    harm_nobody(&[
        ("config-reload", QUIET),
        ("tracker-add", QUIET),
        ("tracker-remove", QUIET),
        ("backend-add", QUIET),
        ("backend-drain", QUIET),
        ("agent-kill", QUIET),
    ]);
}

#[test]
fn hogs_of_the_cpu_and_a_lossy_fabric_harm_nobody() {
    // What is late or lost is reported, and bounded by what TCP repeats.
    harm_nobody(&[("cpu-hogs", INGRESS), ("fabric-loss", REBUILT)]);
}

#[test]
fn the_loss_of_etcd_and_its_restoration_harm_nobody() {
    harm_nobody(&[("etcd-stop", QUIET), ("etcd-restore", QUIET), ("etcd-leader-ingress", INGRESS)]);
}

#[test]
fn a_rolling_restart_three_faults_at_once_and_the_death_of_a_backend_harm_nobody_else() {
    let outcomes = harm_nobody(&[("rolling", QUIET), ("triple", INGRESS), ("backend-kill", QUIET)]);
    let [rolling, _, backend_kill] = outcomes.try_into().unwrap();
    // Each ingress host was away for a while.
    assert!(rolling.moved >= CONNECTIONS / 2, "{rolling}");
    assert!((1..CONNECTIONS / 2).contains(&backend_kill.ended_with_backend), "{backend_kill}");
}

#[test]
fn trackers_that_have_lost_all_know_again_what_backends_have() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let options = RebuildOptions { flows: 20_000, lab: self::options().lab };
    let rebuilt = rebuild(&options, &mut Printed, &AtomicBool::new(false)).unwrap();
    println!("{rebuilt}");
    assert!(rebuilt.is_well(), "{rebuilt}");
    assert!(rebuilt.seconds <= REBUILT / 1000.0, "{rebuilt}");
}
