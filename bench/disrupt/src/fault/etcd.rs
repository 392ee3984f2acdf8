//! Faults of etcd, from which the daemons have their member list.

use std::time::Duration;

use jlb_lab::Node;
use jlb_lab::fault::Fault;

use super::{SOON, USUAL_TIME, ingress};
use crate::Error;
use crate::scene::Scene;
use crate::site::wait_until;

/// Daemons try again within seconds; a busy machine takes longer.
const NOTICED: Duration = Duration::from_secs(15);
/// The two that are left choose a leader after a second, unless both try at once.
const ELECTED: Duration = Duration::from_secs(15);
/// For `jlbctl apply --wait`.
const TAKEN: &str = "15";

/// Not one server is left, for a minute.
pub(super) fn stop(scene: &mut Scene<'_>) -> Result<(), Error> {
    scene.inject("no server of etcd is left", &Fault::Kill(vec!["etcds".to_owned()]))?;
    are_connected(scene, false);
    scene.last(Duration::from_secs(60))?;
    scene.site.lab.start_etcd()?;
    are_connected(scene, true);
    changes(scene)?;
    scene.settle(SOON)
}

/// The leader and the busiest ingress host.
pub(super) fn leader_and_ingress(scene: &mut Scene<'_>) -> Result<(), Error> {
    let Some(leader) = scene.site.lab.etcd_leader()? else {
        scene.check("etcd has a leader", false);
        return Ok(());
    };
    let name = leader.name();
    scene.inject(&format!("{name}, etcd's leader, is gone"), &Fault::Kill(vec![name.clone()]))?;
    ingress::kill_one(scene)?;
    let lab = &scene.site.lab;
    let mut next = None;
    wait_until(ELECTED, || {
        next = lab.etcd_leader().ok().flatten();
        next.is_some()
    });
    let next = next.map(|node| node.name()).unwrap_or_default();
    scene.check(&format!("the next leader is {next}"), !next.is_empty() && next != name);
    changes(scene)?;
    scene.last(USUAL_TIME)
}

/// A list that was in force is lost, since etcd has a backup from before it.
pub(super) fn restore(scene: &mut Scene<'_>) -> Result<(), Error> {
    let backup = scene.site.lab.path().join("etcd.backup");
    scene.site.lab.back_etcd_up(&backup)?;
    changes(scene)?;
    let latest = scene.site.snapshot()?.generation();
    scene.site.lab.restore_etcd(&backup)?;
    scene.say("etcd was wiped and restored from a backup");
    let nodes = daemons(scene);
    let all = |name: &'static str, value: f64| {
        let nodes = &nodes;
        move || nodes.iter().all(|node| has(node, name, value))
    };
    let refused = all("jlb_config_last_reload_successful", 0.0);
    scene.await_check("every daemon refuses the older list", NOTICED, refused);
    scene.last(USUAL_TIME)?;
    // Far below 2⁵³.
    let keeps = all("jlb_membership_generation", latest as f64)();
    scene.check(&format!("generation {latest} is in force everywhere"), keeps);
    // As docs/operations.md says.
    let ingress = scene.site.lab.node("ingress-1")?;
    let copy = ingress.dir()?.join("state/ingress-1.cluster.toml");
    scene.site.lab.jlbctl(&["apply", &copy.to_string_lossy(), "--wait", TAKEN])?;
    let mended = all("jlb_config_last_reload_successful", 1.0);
    scene.await_check("a daemon's copy is in etcd and taken by all", NOTICED, mended);
    changes(scene)?;
    scene.settle(SOON)
}

/// A change reaches everybody.
fn changes(scene: &mut Scene<'_>) -> Result<(), Error> {
    scene.site.lab.reload(|_| ())?;
    scene.site.lab.wait_reloaded()?;
    let generation = scene.site.snapshot()?.generation();
    scene.check(&format!("a change went through: all have generation {generation}"), true);
    Ok(())
}

fn are_connected(scene: &mut Scene<'_>, wanted: bool) {
    let nodes = daemons(scene);
    let value = if wanted { 1.0 } else { 0.0 };
    let seen = || nodes.iter().all(|node| has(node, "jlb_etcd_connected", value));
    let what = if wanted { "every daemon has etcd again" } else { "no daemon has etcd" };
    scene.await_check(what, NOTICED, seen);
}

fn has(node: &Node, metric: &str, value: f64) -> bool {
    node.metrics().is_ok_and(|metrics| metrics.sum(metric, &[]) == Some(value))
}

/// The hosts whose daemon runs.
fn daemons(scene: &Scene<'_>) -> Vec<Node> {
    let mut nodes = scene.site.lab.nodes();
    nodes.retain(|node| node.daemon().is_ok_and(|daemon| daemon.is_some()));
    nodes
}
