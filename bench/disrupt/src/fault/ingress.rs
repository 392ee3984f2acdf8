//! Faults of ingress hosts, and of the router that spreads packets over them.

use std::time::{Duration, Instant};

use jlb_lab::Node;
use jlb_lab::fault::{self, Fault};
use jlb_lab::topology::NodeKind;

use super::USUAL_TIME;
use super::flood::Flood;
use crate::Error;
use crate::scene::Scene;
use crate::site::wait_until;

/// Static routes are changed by hand when a watchdog, or BFD of 50 ms × 3, would have had them changed.
const BY_HAND: Duration = Duration::from_millis(150);
/// Where the router learns its routes, it loses one within this: what it took is told.
const WITHDRAWN: Duration = Duration::from_secs(3);
/// What was on its way when a host was withdrawn has arrived.
const DRAINED: Duration = Duration::from_millis(200);
/// Agents are probed every 100 ms and suspected after three; the rest is for a busy machine.
const DEAF: Duration = Duration::from_secs(2);

pub(super) fn kill(scene: &mut Scene<'_>) -> Result<(), Error> {
    kill_one(scene)?;
    scene.last(USUAL_TIME)
}

/// Kills the daemon of the busiest ingress host.
pub(super) fn kill_one(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    scene.inject("its daemon is gone", &Fault::KillDaemons(vec![victim.clone()]))?;
    is_withdrawn(scene, &victim)
}

pub(super) fn stop(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    scene.inject("its daemon is stopped", &Fault::FreezeDaemons(vec![victim.clone()]))?;
    is_withdrawn(scene, &victim)?;
    scene.last(USUAL_TIME)
}

pub(super) fn silent(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    scene.inject("it loses all packets", &Fault::Silence(vec![victim.clone()]))?;
    is_withdrawn(scene, &victim)?;
    // Its daemon is well, and asked on its own loopback. Packets that came are no sign: its kernel's own are among them.
    let node = scene.site.lab.node(&victim)?;
    let hears_nobody = || {
        let Ok(metrics) = node.metrics() else { return false };
        let mut members = metrics.all("jlb_member_up").peekable();
        members.peek().is_some() && members.all(|(_, up)| up == 0.0)
    };
    scene.await_check("it hears no member", DEAF, hears_nobody);
    scene.last(USUAL_TIME)
}

/// Packets that came in at a host's port.
fn received(node: &Node) -> Option<f64> {
    node.metrics().ok()?.sum("jlb_port_received_packets_total", &[])
}

pub(super) fn drain(scene: &mut Scene<'_>) -> Result<(), Error> {
    let victim = busiest(scene)?;
    end_in_order(scene, &victim)?;
    scene.last(USUAL_TIME)
}

pub(super) fn edge(scene: &mut Scene<'_>) -> Result<(), Error> {
    let hops = scene.site.next_hops()?;
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
    let before = all_received(scene);
    let flood = Flood::start(&scene.site.client)?;
    // Under way before the order changes.
    scene.run(Duration::from_secs(1))?;
    change_order(scene)?;
    scene.last(USUAL_TIME)?;
    let sent = flood.stop()?;
    let came = all_received(scene) - before;
    scene.check(
        &format!("{sent} ACKs of no connection were sent; ingress hosts received {came} packets"),
        sent > 0 && came >= sent as f64,
    );
    Ok(())
}

fn all_received(scene: &Scene<'_>) -> f64 {
    scene.site.lab.nodes_of(NodeKind::Ingress).iter().filter_map(received).sum()
}

fn change_order(scene: &mut Scene<'_>) -> Result<(), Error> {
    let before = scene.site.next_hops()?;
    scene.inject("the router has its next hops in another order", &Fault::EcmpReorder)?;
    let now = scene.site.next_hops()?;
    scene.say(&format!("next hops: {} before, {} now", before.join(", "), now.join(", ")));
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

/// Waits until the router sends nothing to a host that has failed.
fn is_withdrawn(scene: &mut Scene<'_>, ingress: &str) -> Result<(), Error> {
    if scene.site.learns_routes()? {
        is_out(scene, ingress);
        return Ok(());
    }
    std::thread::sleep(BY_HAND);
    withdraw(scene, ingress)
}

/// The router has lost the host's route by itself.
fn is_out(scene: &mut Scene<'_>, ingress: &str) {
    let site = &*scene.site;
    let is_out = || {
        site.next_hops().is_ok_and(|hops| !hops.is_empty() && !hops.iter().any(|n| n == ingress))
    };
    let begin = Instant::now();
    let held = wait_until(WITHDRAWN, is_out);
    let after = begin.elapsed().as_millis();
    scene.check(&format!("the router has no route to {ingress} after {after} ms"), held);
}

/// Ends the daemon of a host in order; the router sends it nothing by then.
pub(super) fn end_in_order(scene: &mut Scene<'_>, ingress: &str) -> Result<(), Error> {
    let learns = scene.site.learns_routes()?;
    if !learns {
        withdraw(scene, ingress)?;
        scene.run(DRAINED)?;
    }
    let what = format!("the daemon of {ingress} has ended on SIGTERM");
    scene.inject(&what, &Fault::StopDaemons(vec![ingress.to_owned()]))?;
    if learns {
        is_out(scene, ingress);
    }
    Ok(())
}

/// The router sends packets to a host again whose daemon was started anew.
pub(super) fn is_back(scene: &mut Scene<'_>, ingress: &str) -> Result<(), Error> {
    if !scene.site.learns_routes()? {
        // Its own next hops, in place of those that were put there.
        fault::heal(&scene.site.lab)?;
    }
    let site = &*scene.site;
    let is_in = || site.next_hops().is_ok_and(|hops| hops.iter().any(|name| name == ingress));
    let held = wait_until(WITHDRAWN, is_in);
    scene.check(&format!("the router sends packets to {ingress} again"), held);
    Ok(())
}

/// Takes a host out of the router's next hops by hand.
fn withdraw(scene: &mut Scene<'_>, ingress: &str) -> Result<(), Error> {
    scene.inject(
        &format!("{ingress} was taken out of the router's next hops"),
        &Fault::EcmpWithout(ingress.to_owned()),
    )
}
