//! VIPs are announced by BGP while an ingress host takes their packets, and not otherwise.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jlb_lab::fault::{self, Fault};
use jlb_lab::topology::{NodeKind, VIP};
use jlb_lab::{Jlb, Lab, LabConfig, Node, traffic};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One lab at a time: tests here measure times.
static TURN: Mutex<()> = Mutex::new(());

const PATIENCE: Duration = Duration::from_secs(5);
/// 100 ms for the watchdog, 20 ms for BIRD; the rest is for programs that start to look, on two cores that many share.
const WITHDRAWN: Duration = Duration::from_millis(500);
/// BFD takes 3 × 50 ms and the interval in which it is noticed; some hundred ms are for the machine.
const SILENT: Duration = Duration::from_millis(800);
/// BGP and BFD come up again after an error.
const BACK: Duration = Duration::from_secs(15);

fn site(name: &str) -> (Lab, MutexGuard<'static, ()>) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = LabConfig {
        ingresses: 2,
        trackers: 2,
        backends: 1,
        jlb: Some(Jlb::default()),
        ..LabConfig::default()
    };
    (Lab::up(&format!("{name}-{}", std::process::id()), &config).unwrap(), turn)
}

fn one() -> Vec<String> {
    vec!["ingress-1".to_owned()]
}

fn next_hops(lab: &Lab) -> Vec<Vec<String>> {
    fault::vip_routes(lab).unwrap().into_iter().map(|route| route.next_hops).collect()
}

/// Waits until the router sends nothing to `ingress-1` any more, and gives the time that it took.
fn withdrawn(lab: &Lab) -> Duration {
    let begin = Instant::now();
    while next_hops(lab) != [["ingress-2"], ["ingress-2"]] {
        assert!(begin.elapsed() < PATIENCE, "still there: {:?}", next_hops(lab));
        std::thread::sleep(Duration::from_millis(2));
    }
    begin.elapsed()
}

fn table(node: &Node) -> String {
    let show = |family| node.shell(&format!("ip {family} route show table 177 2>/dev/null || :"));
    show("-4").unwrap() + &show("-6").unwrap()
}

/// The process id of the watchdog of a host. Names of processes are cut after 15 letters.
fn watchdog(node: &Node) -> Option<i32> {
    let pids = Command::new("ip").args(["netns", "pids", &node.namespace()]).output().unwrap();
    let pids = String::from_utf8(pids.stdout).unwrap();
    let is_it = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim() == "jlb-vip-watchdo")
    };
    pids.split_whitespace().find(is_it).map(|pid| pid.parse().unwrap())
}

fn all_succeed(lab: &Lab) {
    let client = lab.node("client").unwrap();
    for vip in VIP {
        let requests = traffic::requests(&client, vip, 50, PATIENCE).unwrap();
        assert!(requests.iter().all(|request| request.backend.is_some()), "{requests:?}");
    }
}

#[test]
fn a_daemon_that_ends_or_hangs_is_withdrawn_and_one_that_is_back_is_announced() {
    let (lab, _turn) = site("hang");
    let ingress = lab.node("ingress-1").unwrap();
    fault::inject(&lab, &Fault::FreezeDaemons(one())).unwrap();
    let took = withdrawn(&lab);
    assert!(took < WITHDRAWN, "a stopped daemon: {took:?}");
    all_succeed(&lab);
    fault::heal(&lab).unwrap();
    assert!(lab.wait_routes(std::slice::from_ref(&ingress), BACK).unwrap());
    assert_eq!(ingress.metrics().unwrap().sum("jlb_withdrawals_total", &[]), Some(1.0));

    fault::inject(&lab, &Fault::KillDaemons(one())).unwrap();
    let took = withdrawn(&lab);
    assert!(took < WITHDRAWN, "a killed daemon: {took:?}");
    assert_eq!(table(&ingress), "");
    all_succeed(&lab);
    lab.start_daemons(std::slice::from_ref(&ingress)).unwrap();
    assert!(lab.wait_routes(&[ingress], BACK).unwrap());
    all_succeed(&lab);
}

#[test]
fn a_host_that_falls_silent_is_noticed_by_bfd() {
    let (lab, _turn) = site("silent");
    fault::inject(&lab, &Fault::Silence(one())).unwrap();
    let took = withdrawn(&lab);
    assert!(took < SILENT, "{took:?}");
    fault::heal(&lab).unwrap();
    assert!(lab.wait_routes(&lab.nodes_of(NodeKind::Ingress), BACK).unwrap());
}

#[test]
fn a_host_that_stops_withdraws_first_and_ends_once_nobody_sends() {
    let (lab, _turn) = site("stop");
    let ingress = lab.node("ingress-1").unwrap();
    let daemon = ingress.daemon().unwrap().unwrap();
    assert!(daemon.signal(Signal::SIGTERM));
    let took = withdrawn(&lab);
    assert!(took < WITHDRAWN, "{took:?}");
    assert!(daemon.wait(PATIENCE));
    let log = ingress.log_tail("jlb-ingress");
    assert!(!log.contains("packets still come") && !log.contains("has not said"), "{log}");
    // Its watchdog has nobody to watch over.
    let begin = Instant::now();
    while watchdog(&ingress).is_some() {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    all_succeed(&lab);
}

#[test]
fn without_trackers_vips_stay_announced_and_a_killed_watchdog_is_replaced() {
    let (lab, _turn) = site("stay");
    fault::inject(&lab, &Fault::KillDaemons(vec!["trackers".to_owned()])).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let both = || vec!["ingress-1".to_owned(), "ingress-2".to_owned()];
    assert_eq!(next_hops(&lab), [both(), both()]);

    let ingress = lab.node("ingress-1").unwrap();
    kill(Pid::from_raw(watchdog(&ingress).unwrap()), Signal::SIGKILL).unwrap();
    let replaced = || ingress.metrics().unwrap().sum("jlb_withdrawals_total", &[]) == Some(1.0);
    let begin = Instant::now();
    while !replaced() || !lab.wait_routes(std::slice::from_ref(&ingress), Duration::ZERO).unwrap() {
        assert!(begin.elapsed() < PATIENCE, "{:?}", next_hops(&lab));
        std::thread::sleep(Duration::from_millis(20));
    }
}
