//! Faults of flow trackers.

use std::time::{Duration, Instant};

use jlb_lab::Node;
use jlb_lab::fault::{self, Fault};
use jlb_lab::topology::NodeKind;

use super::{SOON, USUAL_TIME, ingress};
use crate::Error;
use crate::scene::Scene;
use crate::site::wait_until;

/// The member that joins and leaves.
pub(super) const FOURTH: &str = "tracker-4";
/// Trackers stay away so long before they start again empty.
const AWAY: Duration = Duration::from_secs(1);
/// Longest that their return is watched.
const REBUILT: Duration = Duration::from_secs(10);
/// Probe is 20 ms × 3; the rest is for reading metrics of three hosts on a busy machine.
const SUSPECTED: Duration = Duration::from_secs(1);

pub(super) fn primary_kill(scene: &mut Scene<'_>) -> Result<(), Error> {
    kill_rank(scene, 0)?;
    scene.last(USUAL_TIME)
}

pub(super) fn secondary_kill(scene: &mut Scene<'_>) -> Result<(), Error> {
    kill_rank(scene, 1)?;
    scene.last(USUAL_TIME)
}

pub(super) fn primary_stop(scene: &mut Scene<'_>) -> Result<(), Error> {
    stop_rank(scene, 0)
}

pub(super) fn secondary_stop(scene: &mut Scene<'_>) -> Result<(), Error> {
    stop_rank(scene, 1)
}

pub(super) fn primary_partition(scene: &mut Scene<'_>) -> Result<(), Error> {
    cut_rank_off(scene, 0)
}

pub(super) fn secondary_partition(scene: &mut Scene<'_>) -> Result<(), Error> {
    cut_rank_off(scene, 1)
}

/// Kills the tracker that has this rank for most connections.
pub(super) fn kill_rank(scene: &mut Scene<'_>, rank: usize) -> Result<(), Error> {
    let victim = most_often(scene, rank)?;
    scene.inject("its daemon is gone", &Fault::KillDaemons(vec![victim.clone()]))?;
    is_suspected(scene, &victim);
    Ok(())
}

fn stop_rank(scene: &mut Scene<'_>, rank: usize) -> Result<(), Error> {
    let victim = most_often(scene, rank)?;
    scene.inject("its daemon is stopped", &Fault::FreezeDaemons(vec![victim.clone()]))?;
    is_suspected(scene, &victim);
    scene.last(USUAL_TIME)?;
    fault::heal(&scene.site.lab)?;
    scene.settle(SOON)
}

/// From all members; its own links stay up.
fn cut_rank_off(scene: &mut Scene<'_>, rank: usize) -> Result<(), Error> {
    let victim = most_often(scene, rank)?;
    let mut other = scene.site.names_of(NodeKind::Tracker);
    other.retain(|name| *name != victim);
    other.extend(["ingresses", "backends"].map(str::to_owned));
    let partition = Fault::Partition { one: vec![victim.clone()], other };
    scene.inject("it is cut off from all members", &partition)?;
    is_suspected(scene, &victim);
    scene.last(USUAL_TIME)?;
    fault::heal(&scene.site.lab)?;
    scene.settle(SOON)
}

pub(super) fn all(scene: &mut Scene<'_>) -> Result<(), Error> {
    kill_all(scene)?;
    scene.last(AWAY)?;
    start_all(scene)?;
    scene.settle(USUAL_TIME)
}

pub(super) fn all_and_ingress(scene: &mut Scene<'_>) -> Result<(), Error> {
    kill_all(scene)?;
    ingress::kill_one(scene)?;
    scene.last(AWAY)?;
    start_all(scene)?;
    scene.settle(USUAL_TIME)
}

fn kill_all(scene: &mut Scene<'_>) -> Result<(), Error> {
    scene.inject("all flow trackers are gone", &Fault::KillDaemons(vec!["trackers".to_owned()]))
}

/// And tells how long it took until each says that it is ready: warm, that is.
fn start_all(scene: &mut Scene<'_>) -> Result<(), Error> {
    let lab = &scene.site.lab;
    let nodes = lab.nodes_of(NodeKind::Tracker);
    let begin = Instant::now();
    let ready = std::thread::scope(|scope| {
        // Beside the start, which waits for more than that.
        let all_ready = || nodes.iter().all(Node::is_ready).then(|| begin.elapsed());
        let watch = scope.spawn(move || {
            let mut after = None;
            wait_until(REBUILT, || {
                after = all_ready();
                after.is_some()
            });
            after
        });
        lab.start_daemons(&nodes)?;
        Ok::<_, Error>(watch.join().unwrap_or_default())
    })?;
    match ready {
        Some(after) => scene.say(&format!("all are ready again after {} ms", after.as_millis())),
        None => scene.say(&format!("not all are ready after {} s", REBUILT.as_secs())),
    }
    Ok(())
}

pub(super) fn two(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = most_often(scene, 0)?;
    let trackers = scene.site.names_of(NodeKind::Tracker);
    let other = trackers.iter().find(|name| **name != victim).cloned().unwrap_or_default();
    scene.say(&format!("the second one is {other}"));
    let both = Fault::KillDaemons(vec![victim.clone(), other.clone()]);
    scene.inject("both daemons are gone", &both)?;
    is_suspected(scene, &victim);
    is_suspected(scene, &other);
    scene.last(USUAL_TIME)
}

pub(super) fn add(scene: &mut Scene<'_>) -> Result<(), Error> {
    scene.site.lab.add_member(FOURTH)?;
    let is_there = scene.site.snapshot()?.member_by_name(FOURTH).is_some();
    scene.check(&format!("all daemons have the list with {FOURTH}"), is_there);
    scene.last(USUAL_TIME)
}

pub(super) fn remove(scene: &mut Scene<'_>) -> Result<(), Error> {
    scene.site.lab.remove_member(FOURTH)?;
    let is_gone = scene.site.snapshot()?.member_by_name(FOURTH).is_none();
    scene.check(&format!("all daemons have the list without {FOURTH}, which has ended"), is_gone);
    scene.last(USUAL_TIME)
}

/// The tracker that has this rank for most connections.
fn most_often(scene: &mut Scene<'_>, rank: usize) -> Result<String, Error> {
    let flows = scene.load.flows();
    let counts = scene.site.trackers_by_rank(&flows, rank)?;
    let Some((name, count)) = counts.first().cloned() else {
        return Err(Error::Unreadable {
            what: "cluster.toml".to_owned(),
            why: "no flow tracker has a flow".to_owned(),
        });
    };
    let rank = ["primary", "secondary"].get(rank).unwrap_or(&"third");
    scene.say(&format!("{name} is {rank} for {count} of {} connections", flows.len()));
    Ok(name)
}

/// Notes whether the ingress hosts have seen that it is silent.
fn is_suspected(scene: &mut Scene<'_>, tracker: &str) {
    // Those whose daemon runs: another fault may have ended one.
    let mut ingresses = scene.site.lab.nodes_of(NodeKind::Ingress);
    ingresses.retain(|node| node.daemon().is_ok_and(|daemon| daemon.is_some()));
    let seen = || {
        !ingresses.is_empty()
            && ingresses.iter().all(|node| {
                let Ok(metrics) = node.metrics() else { return false };
                metrics.sum("jlb_member_up", &[("member", tracker)]) == Some(0.0)
            })
    };
    scene.await_check(&format!("every ingress host suspects {tracker}"), SUSPECTED, seen);
}
