//! Faults in a lab, each once, with 200 connections.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]
#![expect(clippy::print_stdout, reason = "what a failed test shows")]

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use jlb_disrupt::load::Live;
use jlb_disrupt::{Options, Outcome, Progress, run};

/// One lab at a time: ten daemons share two cores with their clients, and times are measured.
static TURN: Mutex<()> = Mutex::new(());

/// What a failed test shows.
struct Printed;

impl Progress for Printed {
    fn say(&mut self, what: &str) {
        println!("{what}");
    }

    fn live(&mut self, _: Live) {}
}

fn disrupt(fault: &str) -> Outcome {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let options = Options {
        fault: fault.to_owned(),
        connections: 200,
        times: 1,
        lasts: None,
        lab: format!("disrupt-{}", std::process::id()),
    };
    let outcome = run(&options, &mut Printed, &AtomicBool::new(false)).unwrap();
    println!("{outcome}");
    assert_eq!((outcome.fault, outcome.connections), (fault, 200));
    outcome
}

/// Nothing breaks, and nothing waits longer than a lost packet on a busy machine makes it wait.
fn harms_nobody(fault: &str) {
    let outcome = disrupt(fault);
    assert!(outcome.is_well(), "{outcome}");
}

#[test]
fn without_a_fault_nothing_is_reported() {
    let outcome = disrupt("none");
    assert!(outcome.is_well(), "{outcome}");
    assert_eq!((outcome.moved, outcome.ended_with_backend), (0, 0));
    assert!(outcome.stall_ms_max == 0.0, "{outcome}");
}

#[test]
fn an_agent_that_is_killed_harms_nobody() {
    harms_nobody("agent-kill");
}

#[test]
fn a_primary_that_is_killed_harms_nobody() {
    harms_nobody("primary-kill");
}

#[test]
fn a_reload_harms_nobody() {
    harms_nobody("config-reload");
}

#[test]
fn a_drained_backend_keeps_its_connections() {
    harms_nobody("backend-drain");
}
