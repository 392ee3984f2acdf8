//! No fault at all, faults of the whole site, and those of several hosts together.

use std::fs;
use std::time::Duration;

use jlb_lab::fault::{self, Fault, inject};
use jlb_lab::topology::NodeKind;
use nix::sys::signal::Signal;

use super::{SOON, USUAL_TIME, backend, ingress, tracker};
use crate::Error;
use crate::scene::Scene;
use crate::site::wait_until;

/// So many processes burn CPU.
const HOGS: usize = 6;
/// Loss in both directions of a backend's cable, each.
const LOSS_PERMILLE: u16 = 50;
/// A daemon that is asked to end does so within this.
const ENDING: Duration = Duration::from_secs(20);
/// Between two daemons of a rolling restart.
const BREATH: Duration = Duration::from_millis(300);

pub(super) fn none(scene: &mut Scene<'_>) -> Result<(), Error> {
    let running = |scene: &Scene<'_>| -> Result<Vec<i32>, Error> {
        let daemons = scene.site.lab.nodes();
        let daemons: Result<Vec<_>, _> = daemons.iter().map(jlb_lab::Node::daemon).collect();
        Ok(daemons?.into_iter().flatten().map(|daemon| daemon.pid).collect())
    };
    let before = running(scene)?;
    scene.last(USUAL_TIME)?;
    let is_same = before == running(scene)?;
    scene.check("every daemon is the one that it was", is_same);
    Ok(())
}

pub(super) fn needs_etcd(scene: &mut Scene<'_>) -> Result<(), Error> {
    scene.happened.verified = false;
    Err(Error::Needs { fault: "etcd-*", needs: "membership in etcd" })
}

pub(super) fn cpu_hogs(scene: &mut Scene<'_>) -> Result<(), Error> {
    let client = scene.site.client.clone();
    let mut hogs = Vec::new();
    for _ in 0..HOGS {
        hogs.push(client.start("hog", "sh", &["-c", "while :; do :; done"])?);
    }
    let ran = scene.last(Duration::from_secs(60));
    let ticks: u64 = hogs.iter().filter_map(|hog| cpu_ticks(hog.pid)).sum();
    for hog in &hogs {
        hog.signal(Signal::SIGKILL);
    }
    ran?;
    // USER_HZ is 100 on every Linux that Debian builds.
    scene.check(&format!("{HOGS} hogs have burnt {} s of CPU", ticks / 100), ticks > 100);
    scene.run(SOON)
}

/// utime and stime, proc_pid_stat(5) fields 14 and 15.
fn cpu_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

pub(super) fn config_reload(scene: &mut Scene<'_>) -> Result<(), Error> {
    let generation = scene.site.reload(|_| ())?;
    let site = &*scene.site;
    let is_in_force = wait_until(SOON, || site.has_generation(generation));
    scene.check(&format!("all daemons have generation {generation}"), is_in_force);
    scene.last(USUAL_TIME)
}

pub(super) fn fabric_loss(scene: &mut Scene<'_>) -> Result<(), Error> {
    let nodes = vec!["backends".to_owned()];
    inject(&scene.site.lab, &Fault::Loss { nodes, permille: LOSS_PERMILLE })?;
    scene.last(Duration::from_secs(20))?;
    // Twice 5 % of 400 pings: none lost has a chance of 10^-18.
    let node = scene.site.lab.node("backend-1")?;
    let said = node.shell("ping -q -i 0.002 -c 400 -W 1 10.77.1.1 || true")?;
    let is_lossy = said.contains("packet loss") && !said.contains(" 0% packet loss");
    let line = said.lines().find(|line| line.contains("packet loss")).unwrap_or_default();
    scene.check(&format!("pings on the fabric: {line}"), is_lossy);
    fault::heal(&scene.site.lab)?;
    scene.run(SOON)
}

pub(super) fn rolling(scene: &mut Scene<'_>) -> Result<(), Error> {
    for kind in [NodeKind::Backend, NodeKind::Tracker, NodeKind::Ingress] {
        for name in scene.site.names_of(kind) {
            let before = scene.site.daemon(&name)?;
            if kind == NodeKind::Ingress {
                ingress::withdraw(scene, &name)?;
                scene.run(BREATH)?;
            }
            before.signal(Signal::SIGTERM);
            scene.await_check(&format!("{name} has ended"), ENDING, || !before.is_alive());
            scene.site.restart(&[&name])?;
            let is_another = scene.site.daemon(&name)?.pid != before.pid;
            scene.check(&format!("{name} is ready again"), is_another);
            if kind == NodeKind::Ingress {
                ingress::announce(scene, &name)?;
                scene.see_moves()?;
            }
            scene.run(BREATH)?;
        }
    }
    scene.last(SOON)
}

pub(super) fn triple(scene: &mut Scene<'_>) -> Result<(), Error> {
    ingress::kill_one(scene)?;
    tracker::kill_rank(scene, 0)?;
    backend::drain_one(scene)?;
    scene.last(USUAL_TIME)
}
