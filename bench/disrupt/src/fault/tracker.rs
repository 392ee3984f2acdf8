//! Faults of flow trackers.

use std::time::Duration;

use jlb_lab::Running;
use jlb_lab::fault::{self, Fault, inject};
use jlb_lab::topology::NodeKind;
use nix::sys::signal::Signal;

use super::{SOON, USUAL_TIME, ingress};
use crate::Error;
use crate::scene::Scene;
use crate::site::{Site, process_state};

/// The member that joins and leaves.
const FOURTH: &str = "tracker-4";
/// Trackers stay away so long before they start again empty.
const AWAY: Duration = Duration::from_secs(1);

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
    let daemon = scene.site.daemon(&victim)?;
    daemon.signal(Signal::SIGKILL);
    scene.await_check("its daemon is gone", SOON, || !daemon.is_alive());
    is_suspected(scene, &victim, 1.0)
}

fn stop_rank(scene: &mut Scene<'_>, rank: usize) -> Result<(), Error> {
    let victim = most_often(scene, rank)?;
    let daemon = scene.site.daemon(&victim)?;
    daemon.signal(Signal::SIGSTOP);
    scene.await_check("its daemon is stopped", SOON, || process_state(&daemon) == Some('T'));
    is_suspected(scene, &victim, 1.0)?;
    scene.last(USUAL_TIME)?;
    daemon.signal(Signal::SIGCONT);
    scene.run(SOON)
}

fn cut_rank_off(scene: &mut Scene<'_>, rank: usize) -> Result<(), Error> {
    let victim = most_often(scene, rank)?;
    inject(&scene.site.lab, &Fault::Loss { nodes: vec![victim.clone()], permille: 1000 })?;
    is_suspected(scene, &victim, 1.0)?;
    scene.last(USUAL_TIME)?;
    fault::heal(&scene.site.lab)?;
    scene.run(SOON)
}

pub(super) fn all(scene: &mut Scene<'_>) -> Result<(), Error> {
    kill_all(scene)?;
    scene.last(AWAY)?;
    start_all(scene)?;
    scene.run(USUAL_TIME)
}

pub(super) fn all_and_ingress(scene: &mut Scene<'_>) -> Result<(), Error> {
    kill_all(scene)?;
    ingress::kill_one(scene)?;
    scene.last(AWAY)?;
    start_all(scene)?;
    scene.run(USUAL_TIME)
}

fn kill_all(scene: &mut Scene<'_>) -> Result<(), Error> {
    let trackers = scene.site.names_of(NodeKind::Tracker);
    let daemons: Result<Vec<Running>, _> =
        trackers.iter().map(|name| scene.site.daemon(name)).collect();
    let daemons = daemons?;
    for daemon in &daemons {
        daemon.signal(Signal::SIGKILL);
    }
    let gone = || daemons.iter().all(|daemon| !daemon.is_alive());
    scene.await_check("all flow trackers are gone", SOON, gone);
    Ok(())
}

fn start_all(scene: &mut Scene<'_>) -> Result<(), Error> {
    let trackers = scene.site.names_of(NodeKind::Tracker);
    let begin = std::time::Instant::now();
    let names: Vec<&str> = trackers.iter().map(String::as_str).collect();
    scene.site.restart(&names)?;
    scene.say(&format!("all flow trackers are ready after {} ms", begin.elapsed().as_millis()));
    Ok(())
}

pub(super) fn two(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = most_often(scene, 0)?;
    let trackers = scene.site.names_of(NodeKind::Tracker);
    let other = trackers.iter().find(|name| **name != victim).cloned().unwrap_or_default();
    scene.say(&format!("the second one is {other}"));
    let daemons = [scene.site.daemon(&victim)?, scene.site.daemon(&other)?];
    for daemon in &daemons {
        daemon.signal(Signal::SIGKILL);
    }
    let gone = || daemons.iter().all(|daemon| !daemon.is_alive());
    scene.await_check("both daemons are gone", SOON, gone);
    is_suspected(scene, &victim, 1.0)?;
    is_suspected(scene, &other, 1.0)?;
    scene.last(USUAL_TIME)
}

/// Before there are connections: [`FOURTH`] leaves the list, though its daemon runs.
pub(super) fn take_fourth_out(site: &Site) -> Result<(), Error> {
    site.daemon(FOURTH)?.signal(Signal::SIGTERM);
    let generation = site.reload(|list| {
        list.remove(FOURTH);
        list.raise("epoch");
    })?;
    let is_there = crate::site::wait_until(SOON, || site.has_generation(generation));
    let is_one = site.lab.settle(SOON)?;
    if is_there && is_one {
        Ok(())
    } else {
        Err(Error::Needs { fault: "tracker-add", needs: "a member list without tracker-4" })
    }
}

pub(super) fn add(scene: &mut Scene<'_>) -> Result<(), Error> {
    // The same entry as the lab has written: the address plan is its.
    let node = scene.site.lab.node(FOURTH)?;
    let [v4, v6] = node.addresses();
    let entry = format!(
        "[[member]]\nid = 104\nname = \"{FOURTH}\"\nrole = \"flowtracker\"\naddresses = [\"{v4}\", \"{v6}\"]"
    );
    let generation = scene.site.reload(|list| {
        list.insert(&entry);
        list.raise("epoch");
    })?;
    scene.site.restart(&[FOURTH])?;
    let site = &*scene.site;
    let (is_in_force, epochs) = (site.has_generation(generation), epochs(site));
    scene.check("all daemons have the list with tracker-4", is_in_force && epochs.len() == 1);
    scene.last(USUAL_TIME)
}

pub(super) fn remove(scene: &mut Scene<'_>) -> Result<(), Error> {
    let generation = scene.site.reload(|list| {
        list.remove(FOURTH);
        list.raise("epoch");
    })?;
    let daemon = scene.site.daemon(FOURTH)?;
    daemon.signal(Signal::SIGTERM);
    let site = &*scene.site;
    let is_in_force = crate::site::wait_until(SOON, || site.has_generation(generation));
    let is_one = epochs(site).len() == 1;
    scene.check("all daemons have the list without tracker-4", is_in_force && is_one);
    scene.await_check("its daemon has ended", USUAL_TIME, || !daemon.is_alive());
    scene.last(USUAL_TIME)
}

/// The epochs that daemons are in.
fn epochs(site: &Site) -> std::collections::BTreeSet<u64> {
    let nodes = site.lab.nodes();
    let epoch = |node: &jlb_lab::Node| {
        node.daemon().ok()??;
        node.metrics().ok()?.sum("jlb_membership_epoch", &[])
    };
    nodes.iter().filter_map(epoch).map(|epoch| epoch as u64).collect()
}

/// The tracker that has this rank for most connections.
pub(super) fn most_often(scene: &mut Scene<'_>, rank: usize) -> Result<String, Error> {
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
fn is_suspected(scene: &mut Scene<'_>, tracker: &str, at_most: f64) -> Result<(), Error> {
    let ingresses = scene.site.lab.nodes_of(NodeKind::Ingress);
    let seen = || {
        ingresses.iter().all(|node| {
            let Ok(metrics) = node.metrics() else { return false };
            metrics.sum("jlb_member_up", &[("member", tracker)]) == Some(0.0)
        })
    };
    scene.await_check(
        &format!("every ingress host suspects {tracker}"),
        Duration::from_secs_f64(at_most),
        seen,
    );
    Ok(())
}
