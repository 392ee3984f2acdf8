//! Faults of backends and their agents.

use std::time::Duration;

use jlb_lab::fault::{Fault, inject};
use jlb_lab::topology::NodeKind;
use nix::sys::signal::Signal;

use super::{SOON, USUAL_TIME};
use crate::Error;
use crate::scene::Scene;
use crate::site::wait_until;

/// The backend that joins.
const FOURTH: &str = "backend-4";
/// Short connections come more than a hundred in a second: a backend that can have one has one within this.
const A_WHILE: Duration = Duration::from_secs(2);

pub(super) fn agent_kill(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    let daemon = scene.site.daemon(&victim)?;
    daemon.signal(Signal::SIGKILL);
    scene.await_check("its agent's daemon is gone", SOON, || !daemon.is_alive());
    scene.last(SOON)?;
    scene.site.restart(&[&victim])?;
    let is_another = scene.site.daemon(&victim)?.pid != daemon.pid;
    scene.check("another daemon runs in its place", is_another);
    scene.run(SOON)
}

pub(super) fn drain(scene: &mut Scene<'_>) -> Result<(), Error> {
    drain_one(scene)?;
    scene.last(USUAL_TIME)
}

/// Drains the backend with most connections.
pub(super) fn drain_one(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    let generation = scene.site.reload(|list| list.drain(&victim))?;
    let site = &*scene.site;
    let is_in_force = wait_until(SOON, || site.has_generation(generation));
    scene.check("all daemons have the list", is_in_force);
    let node = scene.site.lab.node(&victim)?;
    let accepted = || {
        let metrics = node.metrics().ok()?;
        metrics.sum("jlb_opens_total", &[("service", "sequence"), ("result", "accepted")])
    };
    let before = accepted();
    scene.run(A_WHILE)?;
    let is_drained = before.is_some() && before == accepted();
    scene.check(&format!("{victim} gets nothing new"), is_drained);
    Ok(())
}

pub(super) fn add(scene: &mut Scene<'_>) -> Result<(), Error> {
    let generation = scene.site.reload(|list| list.serve(FOURTH))?;
    let site = &*scene.site;
    let is_in_force = wait_until(SOON, || site.has_generation(generation));
    scene.check("all daemons have the list", is_in_force);
    let node = scene.site.lab.node(FOURTH)?;
    let has_some = || {
        node.metrics().is_ok_and(|metrics| {
            let labels = [("service", "sequence"), ("result", "accepted")];
            metrics.sum("jlb_opens_total", &labels).unwrap_or(0.0) > 0.0
        })
    };
    scene.await_check(&format!("{FOURTH} gets new connections"), A_WHILE, has_some);
    scene.last(USUAL_TIME)
}

pub(super) fn kill(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    scene.happened.killed_backends.insert(victim.clone());
    // The cable first: a host that dies says nothing, but a process that is killed has a kernel that closes its sockets.
    inject(&scene.site.lab, &Fault::Unplug(vec![victim.clone()]))?;
    inject(&scene.site.lab, &Fault::Kill(vec![victim.clone()]))?;
    let node = scene.site.lab.node(&victim)?;
    let gone = || node.processes().is_ok_and(|processes| processes.is_empty());
    scene.await_check("nothing runs on it any more", SOON, gone);
    let trackers = scene.site.lab.nodes_of(NodeKind::Tracker);
    let seen = || {
        trackers.iter().all(|node| {
            let Ok(metrics) = node.metrics() else { return false };
            metrics.sum("jlb_member_up", &[("member", &victim)]) == Some(0.0)
        })
    };
    scene.await_check("every flow tracker suspects it", SOON, seen);
    scene.last(USUAL_TIME)
}

/// The backend with most connections.
fn busiest(scene: &mut Scene<'_>) -> Result<String, Error> {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let flows = scene.load.flows();
    for flow in &flows {
        *counts.entry(flow.backend.clone()).or_default() += 1;
    }
    let Some((name, count)) = counts.into_iter().max_by_key(|(_, count)| *count) else {
        return Err(Error::LoadEnded);
    };
    scene.say(&format!("{name} serves {count} of {} connections", flows.len()));
    Ok(name)
}
