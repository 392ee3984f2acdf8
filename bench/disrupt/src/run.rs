//! A run from the lab to the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jlb_lab::fault::Fault as LabFault;
use jlb_lab::{Jlb, LabConfig};

use crate::error::Error;
use crate::fault::{self, Fault};
use crate::load::{Load, Phase};
use crate::outcome::{Happened, Outcome};
use crate::progress::Progress;
use crate::scene::{STEP, Scene};
use crate::site::{self, Site, wait_until};

/// Fewest connections: each backend has some.
const FEWEST: u32 = 8;
/// Most: a process may have 20,000 files, and each connection has one in the client's and one in a server's.
const MOST: u32 = 10_000;
/// Most times: each takes half a minute.
const MOST_TIMES: u32 = 1000;
/// How long opening may take, besides a millisecond for each connection.
const OPENING: Duration = Duration::from_secs(20);
/// After the last connection was opened, before usual waits are measured.
const SETTLING: Duration = Duration::from_secs(1);
/// Usual waits are measured so long, if nothing else is asked for.
pub const BEFORE: Duration = Duration::from_secs(5);
/// What is stalled while connections are opened and measured.
const FIRST_LIMIT: Duration = Duration::from_millis(200);

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Long connections to hold.
    pub connections: u32,
    /// How often, each time in a new lab.
    pub times: u32,
    /// How long usual waits are measured.
    pub before: Duration,
    /// How long the fault lasts, in place of its own time.
    pub lasts: Option<Duration>,
    /// First cuts the ingress hosts off from the flow trackers, so that they cannot ask whose a packet is: what moves then
    /// must break, which shows that breaking is seen.
    pub cannot_ask: bool,
    /// For the fault `rolling`: folder of the daemons of another build, that also speaks the next version of the protocol.
    pub next_build: Option<PathBuf>,
    /// The lab's name.
    pub lab: String,
}

/// Makes a fault, a name of [`crate::FAULTS`], and judges. Ends soon with [`Error::Interrupted`] once `interrupted` is set.
///
/// # Errors
/// When there is no result: the lab could not be raised, a connection not be opened.
pub fn run(
    fault: &str,
    options: &Options,
    progress: &mut dyn Progress,
    interrupted: &AtomicBool,
) -> Result<Outcome, Error> {
    let fault = fault::find(fault)?;
    check(options)?;
    let mut sum: Option<Outcome> = None;
    for time in 1..=options.times {
        let mut site = raise(&[fault], options, progress)?;
        let outcome = once(fault, options, &mut site, progress, interrupted)?;
        if options.times > 1 {
            progress.say(&format!("time {time} of {}: {outcome}", options.times));
        }
        match &mut sum {
            Some(sum) => sum.add(outcome),
            None => sum = Some(outcome),
        }
    }
    sum.ok_or(Error::LoadEnded)
}

/// Makes several faults one after the other in one lab, each with connections of its own, and hands out each outcome. The
/// site is mended between them; members that a fault has added or removed stay so, and of `backend-kill` it does not
/// recover. [`Options::times`] does not count.
///
/// # Errors
/// As [`run()`], and when the site does not become whole again after a fault.
pub fn run_in_turn(
    faults: &[&str],
    options: &Options,
    progress: &mut dyn Progress,
    interrupted: &AtomicBool,
    judge: &mut dyn FnMut(Outcome),
) -> Result<(), Error> {
    let faults = faults.iter().map(|name| fault::find(name)).collect::<Result<Vec<_>, _>>()?;
    check(options)?;
    let mut site = raise(&faults, options, progress)?;
    for (n, fault) in faults.into_iter().enumerate() {
        if n > 0 {
            site.mend()?;
        }
        judge(once(fault, options, &mut site, progress, interrupted)?);
    }
    Ok(())
}

fn check(options: &Options) -> Result<(), Error> {
    let bounds = [
        ("--connections", options.connections, FEWEST, MOST),
        ("--times", options.times, 1, MOST_TIMES),
    ];
    for (what, value, min, max) in bounds {
        if !(min..=max).contains(&value) {
            return Err(Error::OutOfBounds { what, value, min, max });
        }
    }
    Ok(())
}

/// A lab that these faults can be made in.
fn raise(faults: &[&Fault], options: &Options, progress: &mut dyn Progress) -> Result<Site, Error> {
    let mut jlb = Jlb::default();
    jlb.services.push(site::service());
    let mut config = LabConfig { jlb: Some(jlb), ..LabConfig::default() };
    for fault in faults {
        (fault.config)(&mut config);
    }
    progress.say(&format!("lab {}: {} hosts", options.lab, config.nodes().len()));
    Site::up(&options.lab, &config)
}

fn once(
    fault: &'static Fault,
    options: &Options,
    site: &mut Site,
    progress: &mut dyn Progress,
    interrupted: &AtomicBool,
) -> Result<Outcome, Error> {
    // On a busy machine a router that got no CPU for 150 ms has lost its BFD sessions since, and is about to have them back.
    site.wait_routes()?;
    let load = Load::start(&site.client, options.connections)?;
    let happened = happen(fault, options, site, &load, progress, interrupted);
    if let Err(Error::Interrupted) = happened {
        // What is on its way is waited for no more.
        return Err(Error::Interrupted);
    }
    let usual = load.usual();
    progress.say("nothing new is asked; what is on its way may arrive");
    load.enter(Phase::Drain);
    while !load.has_ended() {
        progress.live(load.live(usual.limit()));
        std::thread::sleep(STEP);
    }
    // The load's own error is the reason of what followed.
    let records = load.finish()?;
    let happened = happened?;
    Ok(Outcome::of(fault.name, usual, &records, &happened))
}

fn happen(
    fault: &'static Fault,
    options: &Options,
    site: &mut Site,
    load: &Load,
    progress: &mut dyn Progress,
    interrupted: &AtomicBool,
) -> Result<Happened, Error> {
    let mut scene = Scene {
        site,
        load,
        progress,
        interrupted,
        lasts: options.lasts,
        next_build: options.next_build.as_deref(),
        limit: FIRST_LIMIT,
        before: BTreeMap::new(),
        happened: Happened { verified: true, ..Happened::default() },
    };
    let patience = OPENING + Duration::from_millis(options.connections.into());
    let wanted = options.connections;
    let is_over =
        || load.open() == wanted || load.has_ended() || interrupted.load(Ordering::Relaxed);
    if !wait_until(patience, is_over) {
        let (open, seconds) = (load.open(), patience.as_secs());
        return Err(Error::OpeningSlow { open, wanted, seconds });
    }
    scene.say(&format!("{} connections are open", options.connections));
    scene.run(SETTLING)?;
    load.enter(Phase::Before);
    scene.run(options.before)?;
    let usual = load.usual();
    scene.limit = usual.limit();
    scene.before = scene.site.carried()?;
    // Short connections are not looked at.
    let ours: BTreeSet<SocketAddr> = load.flows().iter().map(|flow| flow.client).collect();
    scene.before.retain(|client, _| ours.contains(client));
    scene.say(&format!(
        "usual waits: p99 {:.1} ms, longest {:.1} ms; more than {:.1} ms is a stall",
        usual.p99.as_secs_f64() * 1000.0,
        usual.max.as_secs_f64() * 1000.0,
        scene.limit.as_secs_f64() * 1000.0
    ));
    load.enter(Phase::Fault);
    scene.say(&format!("fault {}: {}", fault.name, fault.about));
    if options.cannot_ask {
        let [one, other] = ["ingresses", "trackers"].map(|kind| vec![kind.to_owned()]);
        scene.inject("no ingress host can ask a tracker", &LabFault::Partition { one, other })?;
    }
    (fault.run)(&mut scene)?;
    scene.see_moves()?;
    Ok(scene.happened)
}
