use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use jlb_map::{OnExhausted, Problems};
use jlb_role::{FakeBuf, MetricSink, Nanos, Role, Rule, Samples};
use thiserror::Error;

use crate::check::{Invariant, Violation};
use crate::client::Outcome;
use crate::plan::{Expectation, Part, Plan};
use crate::trace::{Sink, Trace};
use crate::worker::Life;
use crate::world::{Event, Node, World};

/// How often the end of the run is looked for.
const LOOK: Nanos = Nanos::from_millis(250);
/// All clients and servers have let go of each other so long after the faults ended: the slowest client gives up 7 s
/// after its SYN, the slowest connection 12 s after it fell silent, and a chain of reused ports takes a few turns.
const SETTLED: Nanos = Nanos::from_secs(90);
/// Then backends have let go of them after 3 s without a socket and a sweep each second; trackers by their Closes, 3.2 s
/// between the last two transmissions and 2 s of closing, or if all of these were lost, by the next Refresh: every 60 s,
/// one backend after the other.
const NO_FLOWS: Nanos = Nanos::from_secs(80);
/// With bounds so tight that ends wait for room in the agent's memory, whose entries stay 8 s: the more, the longer.
const NO_FLOWS_TIGHT: Nanos = Nanos::from_secs(140);
/// What ingress hosts hold is only a cache, which they look through every 300 s.
const NO_CACHE: Nanos = Nanos::from_secs(620);
/// And every trace of them 10 s after that: the longest memory is 8 s, and there is a sweep each second.
const NO_TRACE: Nanos = Nanos::from_secs(10);
/// Virtual time that no run needs.
const TOO_LONG: Nanos = Nanos::from_secs(400);

/// Why a run could not be made: a fault of the simulator, not of what it drives.
#[derive(Debug, Error)]
pub enum Failure {
    /// The drawn cluster is no valid one.
    #[error("the drawn cluster contradicts itself: {0}")]
    Cluster(#[from] Problems),
    /// A role refused the sizes of its pools.
    #[error("a pool has a size that its role does not take")]
    Pool,
}

/// What came of one seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was violated; empty: nothing.
    pub violations: Vec<Violation>,
    /// A hash over everything that happened, in order. The same for the same seed, commit and rules, on any machine.
    pub event_hash: u64,
    /// Packets, deeds and words that went into it.
    pub events: u64,
    /// How long the run took in its own time.
    pub virtual_time: Nanos,
    /// Conversations by how they ended, under the names of [`Report::OUTCOMES`].
    pub outcomes: [u64; Report::OUTCOMES.len()],
    /// Backends that may have counted as dead though they lived, since two members did not hear them for 3 s.
    pub written_off: u64,
    /// Faults of hosts, processes, router and networks.
    pub faults: u64,
    /// Messages inside per packet of a client's, at its highest.
    pub amplification: u64,
}

impl Report {
    /// Names of the outcomes.
    pub const OUTCOMES: [&'static str; 7] =
        ["completed", "refused", "no_answer", "reset", "silent", "left", "partly"];

    /// The command that replays this run.
    #[must_use]
    pub fn replay(&self, without: Option<Rule>) -> String {
        let without = without.map_or_else(String::new, |rule| format!(" --without {rule:?}"));
        format!("jlb-bench sim --seed {}{without} --trace (or --minimise)", self.seed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {} events in {}", self.seed, self.events, self.virtual_time)?;
        for (name, n) in Self::OUTCOMES.iter().zip(self.outcomes).filter(|(_, n)| *n > 0) {
            write!(f, ", {n} {name}")?;
        }
        write!(f, ", hash {:016x}", self.event_hash)?;
        self.violations.iter().try_for_each(|v| write!(f, "\n  VIOLATION {v}"))
    }
}

/// Runs one seed, with all rules or without one of them. With a sink, every event is told to it.
///
/// # Errors
/// [`Failure`].
pub fn run(seed: u64, without: Option<Rule>, sink: Option<Sink>) -> Result<Report, Failure> {
    run_without(seed, &BTreeSet::new(), without, sink)
}

/// As [`run()`], but with parts of its plan left out.
///
/// # Errors
/// [`Failure`].
pub fn run_without(
    seed: u64,
    left_out: &BTreeSet<Part>,
    without: Option<Rule>,
    sink: Option<Sink>,
) -> Result<Report, Failure> {
    let mut plan = Plan::draw(seed)?;
    plan.leave_out(left_out);
    let harmless = plan.harmless();
    let mut world = World::new(seed, plan, without, Trace::new(sink))?;
    let mut end = End::default();
    while end.goes_on(&mut world) {
        while world.step() && world.found.0.is_empty() {}
    }
    if world.found.0.is_empty() {
        judge_clients(&mut world, harmless);
        judge_opens(&mut world, harmless);
    }
    Ok(report(seed, world))
}

fn report(seed: u64, world: World) -> Report {
    let mut outcomes = [0; Report::OUTCOMES.len()];
    for outcome in world.plan.clients.iter().filter_map(crate::client::Client::outcome) {
        outcomes[outcome as usize] += 1;
    }
    Report {
        seed,
        event_hash: world.trace.hash(),
        events: world.trace.events(),
        virtual_time: world.now,
        outcomes,
        written_off: world.silence.verdicts() as u64,
        faults: world.plan.faults.len() as u64,
        amplification: world.opens.worst_ratio(),
        violations: world.found.0,
    }
}

/// Runs the reference load for so long: 3 ingress hosts, 3 trackers, 4 backends, 50 connections at 10 client packets per
/// second each, nothing that goes wrong. All invariants are watched, but the connections do not end.
///
/// # Errors
/// [`Failure`].
pub fn run_reference(seed: u64, time: Nanos) -> Result<Report, Failure> {
    let plan = Plan::reference(seed, time)?;
    let mut world = World::new(seed, plan, None, Trace::new(None))?;
    while world.step() && world.found.0.is_empty() {}
    Ok(report(seed, world))
}

/// What of a failing seed's plan its violation does not need: as much as can be left out, part by part, while the same
/// invariant is still violated. Empty for a seed that violates nothing.
///
/// # Errors
/// [`Failure`].
pub fn minimise(seed: u64, without: Option<Rule>) -> Result<BTreeSet<Part>, Failure> {
    let mut left_out = BTreeSet::new();
    let first = run(seed, without, None)?.violations.first().map(|v| v.invariant);
    let Some(invariant) = first else { return Ok(left_out) };
    // What could not go alone may go when others have: until nothing more does.
    let mut before = None;
    while before != Some(left_out.len()) {
        before = Some(left_out.len());
        for part in Plan::draw(seed)?.parts() {
            if !left_out.insert(part) {
                continue;
            }
            let report = run_without(seed, &left_out, without, None)?;
            if report.violations.first().map(|v| v.invariant) != Some(invariant) {
                left_out.remove(&part);
            }
        }
    }
    Ok(left_out)
}

/// The search for the end of a run.
#[derive(Default)]
struct End {
    /// When the last conversation was over and the last socket closed.
    quiet: Option<Nanos>,
    unbound: bool,
}

impl End {
    /// Whether the run goes on, after [`Event::Look`].
    fn goes_on(&mut self, world: &mut World) -> bool {
        let now = world.now;
        // The first violation is what counts.
        if !world.found.0.is_empty() {
            return false;
        }
        world.queue.push(now + LOOK, Event::Look);
        if now > TOO_LONG {
            world.found.add(Invariant::NoLeak, now, || "the run does not end".to_owned());
            return false;
        }
        if !self.unbound {
            self.unbound = world.plan.clients.iter().all(|c| c.outcome().is_some());
            if self.unbound {
                world.unbind();
            }
        }
        if !self.unbound || sockets(world) > 0 {
            if now > world.plan.heal + SETTLED {
                let sockets = sockets(world);
                world.found.add(Invariant::Termination, now, || {
                    format!("clients or servers are stuck; {sockets} sockets")
                });
                return false;
            }
            return true;
        }
        let quiet = *self.quiet.get_or_insert(now);
        let limit = if world.plan.bounds.tight() { NO_FLOWS_TIGHT } else { NO_FLOWS };
        let owned = |h: &Held| h.pools > 0.0 || h.flows > 0.0 && !h.cache;
        if held(world).iter().any(owned) && now < quiet + limit {
            return true;
        }
        for h in held(world).iter().filter(|h| owned(h)) {
            world.found.add(Invariant::NoLeak, now, || h.to_string());
        }
        world.coast(NO_TRACE);
        for h in held(world).iter().filter(|h| owned(h) || h.remembered > 0.0) {
            world.found.add(Invariant::NoLeak, world.now, || h.to_string());
        }
        if held(world).iter().any(|h| h.cache && h.flows > 0.0) {
            world.coast_of_ingress(NO_CACHE);
        }
        for h in held(world).iter().filter(|h| h.flows > 0.0) {
            world.found.add(Invariant::NoLeak, world.now, || h.to_string());
        }
        false
    }
}

fn sockets(world: &World) -> usize {
    let of = |node: &Node| match node {
        Node::Backend(b) => b.stack.live(),
        Node::Ingress(_) | Node::Tracker(_) => 0,
    };
    let nodes = (0..).zip(&world.nodes).filter(|&(n, _)| world.life(n) != Life::Down);
    nodes.map(|(_, node)| of(node)).sum()
}

/// What one member holds, by its own metrics.
struct Held {
    name: String,
    flows: f64,
    pools: f64,
    remembered: f64,
    /// Its flows are only a cache.
    cache: bool,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, flows, pools, remembered, .. } = self;
        write!(f, "{name} holds {flows} flows, {pools} in pools, {remembered} remembered")
    }
}

fn held(world: &World) -> Vec<Held> {
    let members = world.plan.snapshot.members();
    (0..)
        .zip(&world.nodes)
        .zip(members)
        .filter(|&((n, _), _)| world.life(n) != Life::Down)
        .map(|((_, node), member): ((u16, &Node), _)| {
            let mut samples = Samples::default();
            collect(node, &mut samples);
            let mut held = Held {
                name: member.name.clone(),
                flows: samples.sum("jlb_flows", &[]),
                pools: samples.sum("jlb_pending_entries", &[]),
                remembered: samples.sum("jlb_remembered", &[]),
                cache: matches!(node, Node::Ingress(_)),
            };
            if let Node::Backend(b) = node {
                held.flows = b.kernel.flow_count() as f64;
                held.remembered = b.kernel.answers().count() as f64;
            }
            held
        })
        .collect()
}

fn collect(node: &Node, out: &mut dyn MetricSink) {
    match node {
        Node::Ingress(workers) => workers.iter().for_each(|w| w.role.collect(out)),
        Node::Tracker(workers) => {
            workers.iter().for_each(|w| Role::<FakeBuf>::collect(&w.role, out));
        }
        Node::Backend(b) => Role::<FakeBuf>::collect(&b.agent.role, out),
    }
}

/// Where nothing went wrong, clients got what they came for.
fn judge_clients(world: &mut World, harmless: bool) {
    let now = world.now;
    let spoofs = world.plan.spoofs.iter();
    let spoofed: BTreeSet<_> = spoofs.map(|&(_, n)| world.plan.clients[n].tuple).collect();
    let mut wrong: BTreeMap<usize, String> = BTreeMap::new();
    for (n, client) in world.plan.clients.iter().enumerate() {
        // Tight bounds refuse whom they must.
        if !(harmless || client.after_healing) || world.plan.bounds.tight() {
            continue;
        }
        let Some(outcome) = client.outcome() else { continue };
        let service = &world.plan.snapshot.services()[client.service];
        let refused = match service.on_exhausted {
            OnExhausted::Drop => Outcome::NoAnswer,
            OnExhausted::Force | OnExhausted::Reset => Outcome::Refused,
        };
        let fits = match (world.plan.expectations[client.service], outcome) {
            (_, Outcome::Reset | Outcome::Silent | Outcome::Partly) => false,
            // A spoofed SYN that was admitted holds the five-tuple until the agent has missed its socket for 3 s.
            (_, Outcome::NoAnswer) if spoofed.contains(&client.tuple) => true,
            (Expectation::Admitted, o) => matches!(o, Outcome::Completed | Outcome::Left),
            (Expectation::Refused, o) => o == refused,
            (Expectation::Either, o) => {
                matches!(o, Outcome::Completed | Outcome::Left | Outcome::NoAnswer) || o == refused
            }
        };
        if !fits {
            wrong.insert(n, format!("{:?} of {} was {outcome:?}", client.tuple, service.name));
        }
    }
    for (n, what) in wrong {
        world.found.add(Invariant::Termination, now, || format!("client {n}: {what}"));
    }
}

/// Every Open that began is counted once by how it ended; with nothing going wrong none by a timeout.
fn judge_opens(world: &mut World, harmless: bool) {
    let now = world.now;
    for n in 0..world.nodes.len() as u16 {
        let Node::Ingress(_) = &world.nodes[usize::from(n)] else { continue };
        // One that was taken out of the list.
        if world.life(n) == Life::Down {
            continue;
        }
        let mut samples = Samples::default();
        collect(&world.nodes[usize::from(n)], &mut samples);
        let counted = samples.sum("jlb_opens_total", &[]) as u64;
        let timeouts = samples.sum("jlb_opens_total", &[("result", "timeout")]) as u64;
        let begun = world.opens.begun(n + 1);
        // An Open that finds the mempool empty begins unseen.
        if counted != begun && !world.plan.short_of_buffers {
            world.found.add(Invariant::Termination, now, || {
                format!("ingress {} counts the ends of {counted} Opens, {begun} began", n + 1)
            });
        }
        if harmless && !world.plan.bounds.tight() && timeouts > 0 {
            world.found.add(Invariant::Termination, now, || {
                format!("ingress {}: {timeouts} Opens timed out on a network without faults", n + 1)
            });
        }
    }
}
