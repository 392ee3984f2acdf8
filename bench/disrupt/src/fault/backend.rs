//! Faults of backends and their agents.

use std::collections::BTreeMap;
use std::time::Duration;

use jlb_lab::Node;
use jlb_lab::fault::Fault;
use jlb_lab::topology::NodeKind;

use super::{SOON, USUAL_TIME};
use crate::Error;
use crate::scene::Scene;

/// The backend that joins.
pub(super) const FOURTH: &str = "backend-4";
/// A hundred short connections begin in a second: a backend that can have one has one within this.
const A_WHILE: Duration = Duration::from_secs(2);

pub(super) fn agent_kill(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    let daemon = scene.site.daemon(&victim)?;
    scene.inject("its agent's daemon is gone", &Fault::KillDaemons(vec![victim.clone()]))?;
    scene.last(SOON)?;
    scene.site.restart(&victim)?;
    let is_another = scene.site.daemon(&victim)?.pid != daemon.pid;
    scene.check("another daemon runs in its place", is_another);
    scene.settle(SOON)
}

pub(super) fn drain(scene: &mut Scene<'_>) -> Result<(), Error> {
    drain_one(scene)?;
    scene.last(USUAL_TIME)
}

/// Drains the backend with most connections.
pub(super) fn drain_one(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    scene.site.lab.drain(&victim, true)?;
    let node = scene.site.lab.node(&victim)?;
    let before = accepted(&node);
    scene.run(A_WHILE)?;
    let is_drained = before.is_some() && before == accepted(&node);
    scene.check(&format!("{victim} gets nothing new"), is_drained);
    Ok(())
}

pub(super) fn add(scene: &mut Scene<'_>) -> Result<(), Error> {
    scene.site.lab.add_member(FOURTH)?;
    let node = scene.site.lab.node(FOURTH)?;
    let has_some = || accepted(&node).is_some_and(|n| n > 0.0);
    scene.await_check(&format!("{FOURTH} gets new connections"), A_WHILE, has_some);
    scene.last(USUAL_TIME)
}

pub(super) fn kill(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    scene.happened.killed_backends.insert(victim.clone());
    // The cable first: a host that dies says nothing, but a process that is killed has a kernel that closes its sockets.
    scene.inject("its cable is cut", &Fault::Unplug(vec![victim.clone()]))?;
    scene.inject("nothing runs on it any more", &Fault::Kill(vec![victim.clone()]))?;
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

/// Connections that an agent has admitted.
fn accepted(node: &Node) -> Option<f64> {
    let labels = [("service", "sequence"), ("result", "accepted")];
    node.metrics().ok()?.sum("jlb_opens_total", &labels)
}

/// The backend with most connections.
fn busiest(scene: &mut Scene<'_>) -> Result<String, Error> {
    let mut counts = BTreeMap::<String, usize>::new();
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
