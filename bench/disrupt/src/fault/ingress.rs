//! Faults of ingress hosts, and of the router that spreads packets over them.

use std::time::Duration;

use jlb_lab::fault::{Fault, inject};
use nix::sys::signal::Signal;

use super::flood::Flood;
use super::{SOON, USUAL_TIME};
use crate::Error;
use crate::scene::Scene;
use crate::site::process_state;

/// The watchdog of an ingress host withdraws its VIPs within this when the daemon is gone or hangs.
const WATCHDOG: Duration = Duration::from_millis(100);
/// BFD of 50 ms × 3 takes up to this from silence to another route.
const BFD: Duration = Duration::from_millis(160);
/// What was on its way when a host was withdrawn has arrived.
const DRAINED: Duration = Duration::from_millis(200);

pub(super) fn kill(scene: &mut Scene<'_>) -> Result<(), Error> {
    kill_one(scene)?;
    scene.last(USUAL_TIME)
}

/// Kills the daemon of the busiest ingress host; the router's route to it goes when a watchdog would have seen it.
pub(super) fn kill_one(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    let daemon = scene.site.daemon(&victim)?;
    daemon.signal(Signal::SIGKILL);
    scene.await_check("its daemon is gone", SOON, || !daemon.is_alive());
    std::thread::sleep(WATCHDOG);
    withdraw(scene, &victim)
}

pub(super) fn stop(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    let daemon = scene.site.daemon(&victim)?;
    daemon.signal(Signal::SIGSTOP);
    scene.await_check("its daemon is stopped", SOON, || process_state(&daemon) == Some('T'));
    std::thread::sleep(WATCHDOG);
    withdraw(scene, &victim)?;
    scene.last(USUAL_TIME)
}

pub(super) fn silent(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    inject(&scene.site.lab, &Fault::Loss { nodes: vec![victim.clone()], permille: 1000 })?;
    std::thread::sleep(BFD);
    withdraw(scene, &victim)?;
    let node = scene.site.lab.node(&victim)?;
    let is_cut_off = node.shell("! ping -c 1 -W 1 10.77.0.1").is_ok();
    scene.check("it reaches nobody", is_cut_off);
    scene.last(USUAL_TIME)
}

pub(super) fn drain(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    let daemon = scene.site.daemon(&victim)?;
    withdraw(scene, &victim)?;
    scene.run(DRAINED)?;
    daemon.signal(Signal::SIGTERM);
    // It may wait for what its flows need of it; systemd gives a service 90 s.
    scene.await_check("its daemon has ended on SIGTERM", Duration::from_secs(20), || {
        !daemon.is_alive()
    });
    scene.last(USUAL_TIME)
}

pub(super) fn edge(scene: &mut Scene<'_>) -> Result<(), Error> {
    let hops = scene.site.next_hops(0)?;
    let Some(first) = hops.first().cloned() else {
        scene.check("the router has next hops", false);
        return Ok(());
    };
    scene.say(&format!("the router loses its next hop {first}; the host itself is well"));
    withdraw(scene, &first)?;
    scene.last(USUAL_TIME)
}

pub(super) fn reorder(scene: &mut Scene<'_>) -> Result<(), Error> {
    change_order(scene)?;
    scene.last(USUAL_TIME)
}

pub(super) fn reorder_under_flood(scene: &mut Scene<'_>) -> Result<(), Error> {
    let received = |scene: &Scene<'_>| {
        let kind = jlb_lab::topology::NodeKind::Ingress;
        scene.site.sum(kind, "jlb_port_received_packets_total", &[])
    };
    let before = received(scene);
    let flood = Flood::start(&scene.site.client)?;
    // Under way before the order changes.
    scene.run(Duration::from_secs(1))?;
    change_order(scene)?;
    scene.last(USUAL_TIME)?;
    let sent = flood.stop()?;
    let came = received(scene) - before;
    scene.check(
        &format!("{sent} ACKs of no connection were sent; ingress hosts received {came} packets"),
        sent > 0 && came >= sent as f64,
    );
    Ok(())
}

/// Next hops rotated by one: every hash value has another host then.
fn change_order(scene: &mut Scene<'_>) -> Result<(), Error> {
    let mut hops = scene.site.next_hops(0)?;
    if !hops.is_empty() {
        hops.rotate_left(1);
    }
    scene.site.route(&hops)?;
    let now = [scene.site.next_hops(0)?, scene.site.next_hops(1)?];
    scene.check(&format!("next hops are now {}", hops.join(", ")), now.iter().all(|n| *n == hops));
    Ok(())
}

/// The ingress host that carries most connections.
fn busiest(scene: &mut Scene<'_>) -> Result<String, Error> {
    let counts = scene.busiest_ingresses();
    let Some((name, count)) = counts.first().cloned() else {
        return Err(Error::Unreadable {
            what: "jlb-yann flows".to_owned(),
            why: "no agent knows a connection".to_owned(),
        });
    };
    scene.say(&format!("{name} carries {count} of {} connections", scene.before.len()));
    Ok(name)
}

/// Takes a host out of the router's next hops.
pub(super) fn withdraw(scene: &mut Scene<'_>, ingress: &str) -> Result<(), Error> {
    let mut hops = scene.site.next_hops(0)?;
    hops.retain(|name| name != ingress);
    scene.site.route(&hops)?;
    let now = [scene.site.next_hops(0)?, scene.site.next_hops(1)?];
    let is_gone = now.iter().all(|hops| !hops.is_empty() && !hops.iter().any(|n| n == ingress));
    scene.check(&format!("the router sends nothing to {ingress} any more"), is_gone);
    Ok(())
}

/// Adds a host to the router's next hops again.
pub(super) fn announce(scene: &mut Scene<'_>, ingress: &str) -> Result<(), Error> {
    let mut hops = scene.site.next_hops(0)?;
    hops.push(ingress.to_owned());
    hops.sort();
    scene.site.route(&hops)
}
