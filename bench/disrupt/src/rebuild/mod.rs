//! How long flow trackers that have all lost everything need until they know again what all backends have.
//!
//! The flows are made up: each agent's eBPF map gets its share of them, as if they had been admitted, since a machine has not got
//! so many sockets. All the rest is as it is in life: the agents read their maps, the trackers pull, and each flow that is
//! then asked for must be answered by the backend that has it.

mod made_up;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jlb_lab::fault::{Fault, inject};
use jlb_lab::topology::NodeKind;
use jlb_lab::{Jlb, LabConfig, Node};
use serde::Serialize;

use crate::error::Error;
use crate::progress::Progress;
use crate::site::{Site, wait_until};
use made_up::MadeUp;

/// Fewest flows.
const FEWEST: u32 = 1000;
/// Most: agents keep at most 4 M each.
const MOST: u32 = 8_000_000;
/// Flows that are asked for afterwards, at most.
const ASKED: u32 = 1000;
/// They stay away so long: until their sockets are gone, too.
const AWAY: Duration = Duration::from_secs(1);
/// Longest that their return is watched.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug)]
pub struct RebuildOptions {
    /// Flows of all backends together.
    pub flows: u32,
    /// The lab's name.
    pub lab: String,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Rebuilt {
    /// Flows that the backends had.
    pub flows: u32,
    /// Those that the tracker which knew fewest knew in the end; all trackers own all flows, since there are three.
    pub known: u32,
    /// From the start of the last tracker until all were warm.
    pub seconds: f64,
    /// Flows of which a packet was sent then.
    pub asked: u32,
    /// Those that the server answered.
    pub answered: u32,
    /// Those that another backend answered than their own.
    pub misdelivered: u32,
}

impl Rebuilt {
    /// Whether nothing is missing and nothing went astray.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.known >= self.flows && self.answered == self.asked && self.misdelivered == 0
    }
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flows, known, seconds, asked, answered, misdelivered } = self;
        write!(
            f,
            "{flows} flows, {known} known again by every tracker; {seconds:.2} s after the last start all were warm; \
             {answered} of {asked} flows answered, {misdelivered} by another backend"
        )
    }
}

/// Raises a lab, fills the agents' maps, kills all trackers at once, starts them, and watches. Ends soon with
/// [`Error::Interrupted`] once `interrupted` is set.
///
/// # Errors
/// When there is no result: the lab could not be raised, the trackers do not get warm.
pub fn rebuild(
    options: &RebuildOptions,
    progress: &mut dyn Progress,
    interrupted: &AtomicBool,
) -> Result<Rebuilt, Error> {
    let flows = options.flows;
    if !(FEWEST..=MOST).contains(&flows) {
        return Err(Error::OutOfBounds { what: "--flows", value: flows, min: FEWEST, max: MOST });
    }
    let config = config(flows);
    progress.say(&format!("lab {}: {} hosts", options.lab, config.nodes().len()));
    let site = Site::up(&options.lab, &config)?;
    let stop = || match interrupted.load(Ordering::Relaxed) {
        true => Err(Error::Interrupted),
        false => Ok(()),
    };
    let made_up = MadeUp::new(&site, flows)?;
    for backend in site.lab.nodes_of(NodeKind::Backend) {
        stop()?;
        let count = made_up.fill(&site, &backend)?;
        progress.say(&format!("{} has {count} flows", backend.name()));
    }
    inject(&site.lab, &Fault::KillDaemons(vec!["trackers".to_owned()]))?;
    progress.say("all flow trackers are gone");
    std::thread::sleep(AWAY);
    stop()?;
    let seconds = restart(&site, interrupted)?;
    progress.say(&format!("all are warm again {seconds:.2} s after the last start"));
    let known = known(&site)?;
    stop()?;
    let asked = made_up.ask(&site, ASKED.min(flows))?;
    Ok(Rebuilt {
        flows,
        known,
        seconds,
        asked: asked.asked,
        answered: asked.answered,
        misdelivered: asked.misdelivered,
    })
}

fn config(flows: u32) -> LabConfig {
    let mut jlb = Jlb::default();
    // A hash table that is nearly full is slow, or loses.
    jlb.flow_capacity = jlb.flow_capacity.max(flows + flows / 4);
    let backends = u32::from(LabConfig::default().backends);
    jlb.agents = format!("flow_capacity = {}\n", (flows / backends * 2).max(65_536));
    LabConfig { jlb: Some(jlb), ..LabConfig::default() }
}

/// Starts all trackers; seconds from the last start until all say that they are warm.
fn restart(site: &Site, interrupted: &AtomicBool) -> Result<f64, Error> {
    let nodes = site.lab.nodes_of(NodeKind::Tracker);
    site.lab.launch_daemons(&nodes)?;
    let last_start = Instant::now();
    let warm = || nodes.iter().all(Node::is_ready);
    wait_until(PATIENCE, || warm() || interrupted.load(Ordering::Relaxed));
    let seconds = last_start.elapsed().as_secs_f64();
    match warm() {
        true => Ok(seconds),
        false if interrupted.load(Ordering::Relaxed) => Err(Error::Interrupted),
        false => Err(Error::Unreadable {
            what: "/readyz of the flow trackers".to_owned(),
            why: format!("not all are warm after {} s", PATIENCE.as_secs()),
        }),
    }
}

/// How many flows the tracker has that has fewest.
fn known(site: &Site) -> Result<u32, Error> {
    let mut least = u32::MAX;
    for node in site.lab.nodes_of(NodeKind::Tracker) {
        let flows = node.metrics()?.sum("jlb_flows", &[]).unwrap_or_default();
        least = least.min(flows as u32);
    }
    Ok(least)
}
