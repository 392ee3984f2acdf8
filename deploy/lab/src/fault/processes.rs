//! Faults of processes: ended, killed, stopped in their tracks.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::not_there;
use crate::node::Node;
use crate::process::{self, Running};
use crate::{Error, Lab, tools};

/// An ingress host forwards for 5 s at most after SIGTERM; DPDK takes a second to end.
const ORDERLY: Duration = Duration::from_secs(10);
/// Longest that a killed process may still be seen, or a stopped one may still run.
const AT_ONCE: Duration = Duration::from_secs(5);

pub(super) fn stop_hosts(lab: &Lab, nodes: &[Node]) -> Result<(), Error> {
    // First what the lab started, which ends its own children in order.
    for node in nodes {
        process::end(&node.processes()?);
    }
    all_gone(lab, &process::end(&all_on(nodes)?))
}

pub(super) fn kill_hosts(lab: &Lab, nodes: &[Node]) -> Result<(), Error> {
    let all = all_on(nodes)?;
    signal(&all, Signal::SIGKILL);
    let left: Vec<_> = all.into_iter().filter(|process| !process.wait(AT_ONCE)).collect();
    all_gone(lab, &left)
}

fn all_gone(lab: &Lab, left: &[Running]) -> Result<(), Error> {
    if left.is_empty() {
        return Ok(());
    }
    let pids = left.iter().map(|process| process.pid).collect();
    Err(Error::Immortal { lab: lab.name().to_owned(), pids })
}

pub(super) fn freeze_hosts(nodes: &[Node]) -> Result<(), Error> {
    freeze(&all_on(nodes)?)
}

pub(super) fn freeze_daemons(nodes: &[Node]) -> Result<(), Error> {
    freeze(&daemons(nodes)?)
}

fn freeze(all: &[Running]) -> Result<(), Error> {
    if all.is_empty() {
        return Err(not_there("freeze", "nothing runs there"));
    }
    signal(all, Signal::SIGSTOP);
    let deadline = Instant::now() + AT_ONCE;
    for process in all {
        while process.is_alive() && !process.is_stopped() {
            if Instant::now() >= deadline {
                let Running { node, what, pid, .. } = process;
                return Err(not_there("freeze", format!("{what} ({pid}) on {node} runs on")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// With SIGTERM or SIGKILL.
pub(super) fn end_daemons(nodes: &[Node], how: Signal) -> Result<(), Error> {
    let all = daemons(nodes)?;
    signal(&all, how);
    // One that hangs takes its SIGTERM only when it goes on, so it is left as it is.
    let patience = if how == Signal::SIGKILL { AT_ONCE } else { ORDERLY };
    let deadline = Instant::now() + patience;
    for process in all {
        if !process.wait(deadline.saturating_duration_since(Instant::now())) {
            let Running { node, what, .. } = process;
            return Err(not_there("end of a daemon", format!("{what} on {node} has not ended")));
        }
    }
    Ok(())
}

pub(super) fn thaw(nodes: &[Node]) -> Result<(), Error> {
    signal(&all_on(nodes)?, Signal::SIGCONT);
    Ok(())
}

/// The daemon of each of these hosts; an error where none runs.
fn daemons(nodes: &[Node]) -> Result<Vec<Running>, Error> {
    let one = |node: &Node| {
        let daemon = node.daemon()?;
        daemon.ok_or_else(|| not_there("fault of a daemon", format!("{} has none", node.name())))
    };
    nodes.iter().map(one).collect()
}

fn all_on(nodes: &[Node]) -> Result<Vec<Running>, Error> {
    let mut all = Vec::new();
    for node in nodes {
        all.extend(tools::inside(&node.namespace())?);
    }
    Ok(all)
}

fn signal(all: &[Running], signal: Signal) {
    for process in all {
        process.signal(signal);
    }
}
