//! No fault at all, faults of the whole site, and those of several hosts together.

use std::collections::BTreeSet;
use std::time::Duration;

use jlb_lab::fault::{self, Fault};
use jlb_lab::topology::NodeKind;

use super::{SOON, USUAL_TIME, backend, ingress, tracker};
use crate::Error;
use crate::scene::Scene;

/// So many processes burn CPU.
const HOGS: u8 = 6;
/// Packets of a thousand that are lost on each backend's cable in each direction, and that come twice to it.
const PERMILLE: u16 = 50;
/// Metrics of the protocol's version: the list's, and the newest that a daemon can speak.
const SPOKEN: &str = "jlb_protocol_version";
const NEWEST: &str = "jlb_protocol_newest_version";
/// Between two daemons of a rolling restart.
const BREATH: Duration = Duration::from_millis(300);

pub(super) fn none(scene: &mut Scene<'_>) -> Result<(), Error> {
    let before = daemons(scene)?;
    scene.last(USUAL_TIME)?;
    let is_same = before == daemons(scene)?;
    scene.check("every daemon is the one that it was", is_same);
    Ok(())
}

/// The process ids of all daemons.
fn daemons(scene: &Scene<'_>) -> Result<Vec<i32>, Error> {
    let nodes = scene.site.lab.nodes();
    let daemons: Result<Vec<_>, _> = nodes.iter().map(jlb_lab::Node::daemon).collect();
    Ok(daemons?.into_iter().flatten().map(|daemon| daemon.pid).collect())
}

pub(super) fn cpu_hogs(scene: &mut Scene<'_>) -> Result<(), Error> {
    let before = suspicions(scene)?;
    scene.inject("hogs take the CPU", &Fault::CpuHogs(HOGS))?;
    scene.last(Duration::from_secs(60))?;
    let wrong = suspicions(scene)? - before;
    scene.say(&format!("{wrong} members were suspected, all of them wrongly"));
    fault::heal(&scene.site.lab)?;
    scene.settle(SOON)
}

/// How often a daemon has found another member silent.
fn suspicions(scene: &Scene<'_>) -> Result<f64, Error> {
    let mut sum = 0.0;
    for node in scene.site.lab.nodes() {
        if node.daemon()?.is_some() {
            sum += node.metrics()?.sum("jlb_member_suspicions_total", &[]).unwrap_or(0.0);
        }
    }
    Ok(sum)
}

pub(super) fn config_reload(scene: &mut Scene<'_>) -> Result<(), Error> {
    scene.site.lab.reload(|_| ())?;
    scene.site.lab.wait_reloaded()?;
    let generation = scene.site.snapshot()?.generation();
    scene.check(&format!("all daemons have generation {generation}"), generation > 1);
    scene.last(USUAL_TIME)
}

pub(super) fn fabric_loss(scene: &mut Scene<'_>) -> Result<(), Error> {
    let nodes = vec!["backends".to_owned()];
    let loss = Fault::Loss { nodes: nodes.clone(), permille: PERMILLE };
    let before = tcp_counters(scene)?;
    scene.inject("packets are lost", &loss)?;
    scene.inject("packets come twice", &Fault::Duplicate { nodes, permille: PERMILLE })?;
    scene.last(Duration::from_secs(20))?;
    let after = tcp_counters(scene)?;
    let [again, twice] = [0, 1].map(|n| after[n].saturating_sub(before[n]));
    scene.check(&format!("backends sent {again} segments again"), again > 0);
    scene.check(&format!("backends had {twice} segments twice"), twice > 0);
    fault::heal(&scene.site.lab)?;
    scene.settle(SOON)
}

/// What the kernels of all backends count: segments sent again, and segments that came though they were there.
fn tcp_counters(scene: &Scene<'_>) -> Result<[u64; 2], Error> {
    let mut sums = [0; 2];
    for node in scene.site.lab.nodes_of(NodeKind::Backend) {
        let text = node.run("cat", &["/proc/net/snmp", "/proc/net/netstat"])?;
        for (sum, name) in sums.iter_mut().zip(["RetransSegs", "TCPDSACKOldSent"]) {
            *sum += counter(&text, name).unwrap_or(0);
        }
    }
    Ok(sums)
}

/// A number of proc_net_snmp(5): a line of names, and below it a line of values.
fn counter(text: &str, name: &str) -> Option<u64> {
    let lines: Vec<&str> = text.lines().collect();
    lines.windows(2).find_map(|pair| {
        let column = pair[0].split(' ').position(|word| word == name)?;
        pair[1].split(' ').nth(column)?.parse().ok()
    })
}

pub(super) fn rolling(scene: &mut Scene<'_>) -> Result<(), Error> {
    let Some(next) = scene.next_build else {
        restart_all(scene)?;
        return scene.last(SOON);
    };
    let ours = versions(scene, SPOKEN)?;
    scene.say(&format!("every daemon becomes that of {}", next.display()));
    scene.site.lab.use_programs(Some(next))?;
    restart_all(scene)?;
    let newest = versions(scene, NEWEST)?;
    scene.check(
        &format!("all daemons spoke version {ours:?}, and can speak {newest:?} now"),
        newest.len() == 1 && ours.len() == 1 && ours.first() < newest.first(),
    );
    let (Some(&old), Some(&new)) = (ours.first(), newest.first()) else { return Ok(()) };
    for version in [new, old] {
        scene.site.lab.reload(|jlb| jlb.protocol = version)?;
        scene.site.lab.wait_reloaded()?;
        let spoken = versions(scene, SPOKEN)?;
        scene.check(
            &format!("all daemons speak version {version}"),
            spoken == BTreeSet::from([version]),
        );
        scene.last(SOON)?;
    }
    scene.say("every daemon becomes that of this build again");
    scene.site.lab.use_programs(None)?;
    restart_all(scene)?;
    let newest = versions(scene, NEWEST)?;
    scene.check("none speaks the next version any more", newest == BTreeSet::from([old]));
    scene.last(SOON)
}

/// Which versions of the protocol all daemons say, in this metric.
fn versions(scene: &Scene<'_>, metric: &str) -> Result<BTreeSet<u8>, Error> {
    let mut versions = BTreeSet::new();
    for node in scene.site.lab.nodes() {
        if node.daemon()?.is_some() {
            versions.extend(node.metrics()?.all(metric).map(|(_, version)| version as u8));
        }
    }
    Ok(versions)
}

fn restart_all(scene: &mut Scene<'_>) -> Result<(), Error> {
    for kind in [NodeKind::Backend, NodeKind::Tracker, NodeKind::Ingress] {
        for name in scene.site.names_of(kind) {
            restart(scene, kind, &name)?;
        }
    }
    Ok(())
}

fn restart(scene: &mut Scene<'_>, kind: NodeKind, name: &str) -> Result<(), Error> {
    let before = scene.site.daemon(name)?;
    if kind == NodeKind::Ingress {
        ingress::end_in_order(scene, name)?;
        // Every connection sends something meanwhile.
        scene.run(BREATH)?;
        scene.see_moves()?;
    } else {
        let ended = format!("the daemon of {name} has ended on SIGTERM");
        scene.inject(&ended, &Fault::StopDaemons(vec![name.to_owned()]))?;
    }
    scene.site.restart(name)?;
    let is_another = scene.site.daemon(name)?.pid != before.pid;
    scene.check(&format!("{name} is ready again"), is_another);
    if kind == NodeKind::Ingress {
        ingress::is_back(scene, name)?;
    }
    scene.run(BREATH)
}

pub(super) fn triple(scene: &mut Scene<'_>) -> Result<(), Error> {
    ingress::kill_one(scene)?;
    tracker::kill_rank(scene, 0)?;
    backend::drain_one(scene)?;
    scene.last(USUAL_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_below_its_name() {
        let text = "Tcp: InSegs RetransSegs\nTcp: 12 34\nTcpExt: A TCPDSACKOldSent\nTcpExt: 1 5\n";
        assert_eq!(counter(text, "RetransSegs"), Some(34));
        assert_eq!(counter(text, "TCPDSACKOldSent"), Some(5));
        assert_eq!(counter(text, "B"), None);
    }
}
