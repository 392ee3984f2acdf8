//! Faults in a lab, each once, with 200 connections.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]
#![expect(clippy::print_stdout, reason = "what a failed test shows")]

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jlb_disrupt::load::Live;
use jlb_disrupt::{Error, Options, Outcome, Progress, run};

/// One lab at a time: ten daemons share two cores with their clients, and times are measured.
static TURN: Mutex<()> = Mutex::new(());
const CONNECTIONS: u32 = 200;
/// Shorter than a fault's own time: TCP has sent what was lost three times by then.
const LASTS: Duration = Duration::from_secs(3);

/// What a failed test shows.
struct Printed;

impl Progress for Printed {
    fn say(&mut self, what: &str) {
        println!("{what}");
    }

    fn live(&mut self, _: Live) {}
}

fn disrupt(fault: &str) -> Result<Outcome, Error> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let options = Options {
        fault: fault.to_owned(),
        connections: CONNECTIONS,
        times: 1,
        lasts: Some(LASTS),
        lab: format!("disrupt-{}", std::process::id()),
    };
    let outcome = run(&options, &mut Printed, &AtomicBool::new(false))?;
    println!("{outcome}");
    assert_eq!((outcome.fault, outcome.connections), (fault, CONNECTIONS));
    Ok(outcome)
}

/// Nothing breaks or goes astray, and the fault was there.
fn harms_nobody(fault: &str) -> Outcome {
    let outcome = disrupt(fault).unwrap();
    assert!(outcome.is_well(), "{outcome}");
    outcome
}

#[test]
fn without_a_fault_nothing_is_reported() {
    let outcome = harms_nobody("none");
    assert_eq!((outcome.moved, outcome.ended_with_backend), (0, 0), "{outcome}");
    assert!(outcome.stall_ms_max == 0.0, "{outcome}");
}

#[test]
fn a_tracker_that_is_killed_hangs_or_is_cut_off_harms_nobody() {
    for rank in ["primary", "secondary"] {
        for fault in ["kill", "stop", "partition"] {
            harms_nobody(&format!("{rank}-{fault}"));
        }
    }
}

#[test]
fn the_loss_of_all_trackers_and_of_two_harms_nobody_who_is_connected() {
    harms_nobody("trackers-all");
    harms_nobody("trackers-two");
}

#[test]
fn trackers_and_backends_come_and_go_and_lists_change_without_harm() {
    for fault in ["tracker-add", "tracker-remove", "backend-add", "backend-drain", "config-reload"]
    {
        harms_nobody(fault);
    }
}

#[test]
fn a_backend_that_dies_takes_only_its_own_connections_along() {
    let outcome = harms_nobody("backend-kill");
    assert!((1..CONNECTIONS / 2).contains(&outcome.ended_with_backend), "{outcome}");
}

#[test]
fn an_agent_that_is_killed_and_started_again_harms_nobody() {
    harms_nobody("agent-kill");
}

#[test]
fn hogs_of_the_cpu_and_a_lossy_fabric_harm_nobody() {
    harms_nobody("cpu-hogs");
    harms_nobody("fabric-loss");
}

/// Whatever the daemons make of it.
#[test]
fn a_change_of_next_hops_is_seen() {
    let outcome = disrupt("ecmp-reorder").unwrap();
    assert!(outcome.fault_verified, "{outcome}");
    assert!(outcome.moved + outcome.broken >= CONNECTIONS * 9 / 10, "{outcome}");
}
