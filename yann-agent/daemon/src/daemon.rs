//! The daemon: hands the kernel half's events and the network's messages to the agent, says that it is there, sweeps.

mod words;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jlb_flow::PARTITIONS;
use jlb_hostnet::{Desired, HostNet, Warning};
use jlb_map::Snapshot;
use jlb_node::{Daemon, Setup, random_u64};
use jlb_role::{AllRules, Burst, Collect, Nanos, Report, Role, Samples};
use jlb_wire::{BootId, MemberId};
use jlb_yann_core::maps::{EventRecord, Shared, Standing};
use jlb_yann_core::{
    Agent, AgentConfig, AgentEvent, BackendWord, DEFAULT_UDP_IDLE, KernelEvent, Owners,
    SWEEP_INTERVAL,
};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};
use zerocopy::FromBytes as _;

use crate::buffer::Buffer;
use crate::changes::{Change, ChangeError, Changes, Undo};
use crate::collect::Collector;
use crate::config::{FlowLimits, Slots};
use crate::health::Checks;
use crate::load::HostLoad;
use crate::maps::{ArrayOf, Maps, MapsError, Ring};
use crate::programs::{Capacities, Hook, Programs, ProgramsError};
use crate::socket::{Out, SocketError, Sockets};
use crate::{bpffs, config, load, metrics};

/// How often the daemon says that it is there: six times within the 300 ms after which it counts as down.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// Events or packets that are handled before the agent's timers are looked at.
const BATCH: usize = 256;
/// Closes under way or remembered: 8 s of 8,000 closes a second.
const CLOSES: usize = 65_536;

/// Ends of flows that a new daemon says again in one go.
const ENDED_AT_ONCE: usize = 64;

/// Netlink may lose what it tells of routes: every so many seconds they are looked at anyway.
const HOST_EVERY: u64 = 10;
/// Every so many sweeps look up established connections too.
const SWEEPS_OF_ALL: u64 = 60;

/// What makes it impossible to go on.
#[derive(Debug, thiserror::Error)]
pub enum YannError {
    /// The configuration has no `[yann]`; the command line checks that.
    #[error("the configuration has no section [yann]")]
    NoSection,
    /// The bpffs.
    #[error(transparent)]
    Bpffs(#[from] bpffs::BpffsError),
    /// The eBPF programs.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// Their maps.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// A change of the host.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Another change of the host.
    #[error(transparent)]
    Host(#[from] jlb_hostnet::Error),
    /// The underlay.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> YannError {
    move |source| YannError::System { what, source }
}

/// What is to be done to the host besides eBPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostTask {
    Nothing,
    /// Another list.
    Apply,
    /// Routes may have changed.
    Refresh,
}

/// A running agent.
#[derive(Debug)]
pub struct Yann {
    me: MemberId,
    cluster: Arc<Snapshot>,
    interfaces: Vec<String>,
    limits: FlowLimits,
    slots: Slots,
    agent: Agent<AllRules>,
    programs: Programs,
    maps: Maps,
    collector: Collector,
    /// What closed lately: the daemon before may have died before everybody knew.
    ended: VecDeque<KernelEvent>,
    host: HostNet,
    host_changes: jlb_hostnet::Changes,
    host_task: HostTask,
    desired: Desired,
    /// The first `apply` is done.
    is_arranged: bool,
    warnings: Vec<Warning>,
    /// The ring's descriptor, to wait for events.
    ring: AsyncFd<OwnedFd>,
    sockets: Sockets,
    out: Out,
    beat: Interval,
    sweep: Interval,
    sweeps: u64,
    cpu: load::Cpu,
    checks: Checks,
    load: HostLoad,
    measure: Interval,
    /// The maps do not yet say what the host wants.
    unsaid: bool,
    beaten: Nanos,
    /// The change of sole owners that the maps do not have yet, and the pulls before it.
    sole_change: Option<u64>,
    pulled: Vec<(MemberId, BootId, u64)>,
}

/// Partitions that one tracker decides on alone.
fn alone(owners: &Owners) -> usize {
    owners.iter().filter(|&&owner| owner != 0).count()
}

/// Time since the host's start, as eBPF's `bpf_ktime_get_ns` says it.
fn now() -> Nanos {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Nanos::ZERO, |t| {
        Nanos((t.tv_sec() as u64).saturating_mul(1_000_000_000) + t.tv_nsec() as u64)
    })
}

impl Yann {
    /// Loads and attaches the programs, or takes over those of the daemon before, and arranges the host.
    ///
    /// # Errors
    /// [`YannError`].
    pub fn start(setup: &Setup) -> Result<Self, YannError> {
        let yann = setup.host.yann.as_ref().ok_or(YannError::NoSection)?;
        let pins: &Path = &yann.bpf_pins;
        let mounted = bpffs::ensure(pins)?;
        let capacities = Capacities { flows: yann.flow_capacity, answers: yann.answers_capacity };
        let (mut programs, mut maps) = Programs::load(Some(pins), capacities)?;
        let changes_map = ArrayOf::pinned(pins, "changes")?;
        let mut changes = Changes::load(changes_map);
        adopt(&mut maps, &mut changes)?;
        if let Some(at) = mounted {
            changes.record(Change {
                change: format!("bpffs at {}", at.display()),
                was: "not mounted".to_owned(),
                undo: Undo::Unmount(at),
            })?;
        }
        let word = pinned_word(&mut maps)?;
        let limits = FlowLimits {
            capacity: yann.flow_capacity,
            max_connections: yann.max_connections.map_or(0, core::num::NonZeroU32::get),
        };
        let epoch = maps.host.get(0).map_err(MapsError::from)?.epoch;
        // Nothing is known against anything yet, whatever the daemon before knew.
        let slots = config::configure(&mut maps, setup.me, &setup.cluster, limits, |_| None)?;
        // Who decided alone did so in an epoch.
        if epoch != setup.cluster.epoch().0 {
            maps.set_sole_owners(&[0; PARTITIONS])?;
            let obeyed = maps.standings()?.into_iter().filter(|(_, standing)| standing.obeyed != 0);
            maps.set_standings(
                obeyed.map(|(id, standing)| (id, Standing { obeyed: 0, ..standing })),
            )?;
        }

        let member = setup.cluster.member(setup.me).ok_or(YannError::NoSection)?;
        let (v4, v6) = (member.addresses.v4, member.addresses.v6);
        let (sockets, out) = crate::socket::open(v4, v6, setup.cluster.geneve_port())?;
        programs.attach(pins, &yann.interfaces, Hook::of_this_kernel(), &mut changes)?;
        let host = HostNet::open(&bpffs::host_state_path(pins))?;

        let seed = random_u64().map_err(system("/dev/urandom"))?;
        let agent_config = AgentConfig { id: setup.me, seed, close_capacity: CLOSES };
        let mut agent =
            Agent::new(agent_config, Arc::clone(&setup.cluster), AllRules, now(), &word);
        let standings = maps.standings()?.into_iter();
        agent.adopt_sole_owners(now(), &*maps.sole_owners()?, standings, |id| {
            maps.boots.get(id.as_u16().into()).map_or(BootId(0), BootId)
        });
        let collector = Collector::new(pins, now)?;
        let ended = maps.answers.entries().map_err(MapsError::from)?.into_iter();
        let ended = ended.filter_map(|(k, a)| KernelEvent::of_answer(&k, &a));
        let ended = ended.take(CLOSES).collect();
        let mut checks = Checks::new(&setup.host.health);
        checks.aim(&setup.cluster, setup.me);
        let ring = wakeups(&maps.events).map_err(system("ring buffer"))?;
        info!(boot = ?word.boot(), flows = maps.live_all.get(0).unwrap_or(0), "the eBPF half is at work");
        Ok(Self {
            me: setup.me,
            cluster: Arc::clone(&setup.cluster),
            interfaces: yann.interfaces.clone(),
            limits,
            slots,
            agent,
            programs,
            maps,
            collector,
            ended,
            host,
            host_changes: jlb_hostnet::Changes::open()?,
            host_task: HostTask::Apply,
            desired: Desired::of(&setup.cluster, setup.me, &yann.interfaces),
            is_arranged: false,
            warnings: Vec::new(),
            ring,
            sockets,
            out,
            beat: ticks(HEARTBEAT),
            sweep: ticks(Duration::from_nanos(SWEEP_INTERVAL.0)),
            sweeps: 0,
            cpu: load::Cpu::default(),
            checks,
            load: HostLoad::new(&setup.host.admission),
            measure: ticks(load::MEASURED_EVERY),
            unsaid: false,
            beaten: Nanos::ZERO,
            sole_change: None,
            pulled: Vec::new(),
        })
    }

    fn handle_events(&mut self) -> bool {
        for _ in 0..BATCH {
            let Ring(ring) = &mut self.maps.events;
            let Some(item) = ring.next() else { return false };
            let event = EventRecord::read_from_bytes(&item)
                .ok()
                .and_then(|record| KernelEvent::from_record(&record));
            drop(item);
            if let Some(mut event) = event {
                event.service = self.slots.number(event.service);
                self.agent.event(now(), AgentEvent::Kernel(event), &mut self.out);
            }
        }
        true
    }

    fn handle_packets(&mut self) {
        let mut burst = Burst::new();
        for _ in 0..BATCH {
            let Some(packet) = self.sockets.receive() else { break };
            burst.push(packet);
            if burst.is_full() {
                self.agent.rx(now(), &mut burst, &mut self.out);
            }
        }
        if !burst.is_empty() {
            self.agent.rx(now(), &mut burst, &mut self.out);
        }
    }

    fn handle_reports(&mut self) {
        for report in core::mem::take(&mut self.out.reports) {
            let name = |id| self.cluster.member(id).map_or("?", |m| m.name.as_str());
            match report {
                Report::PeerBoot { member, boot, sequence } => {
                    info!("`{}` runs as {boot:?}", name(member));
                    if let Err(e) = config::peer_boot(&mut self.maps, member, boot, sequence) {
                        warn!("cannot note a boot id: {e}");
                    }
                }
                Report::PeerAlive { member } => info!("`{}` answers", name(member)),
                Report::PeerSuspect { member } => warn!("`{}` does not answer", name(member)),
                Report::ListMismatch { member } => {
                    warn!("`{}` has another member list of the same generation", name(member));
                }
                Report::Collect(order) => self.handle_order(order),
                Report::Pulled { member, boot, sequence } => {
                    self.pulled.push((member, boot, sequence));
                }
                Report::SoleChanged { change } => self.sole_change = Some(change),
                // No agent says any of these.
                Report::BackendDead { .. }
                | Report::Warm(_)
                | Report::WaitsFor { .. }
                | Report::Sole(_)
                | Report::MayLeave => {}
            }
        }
        self.write_sole_owners();
    }

    /// The fence of rule 14: the kernel half first, then the acknowledgement.
    fn write_sole_owners(&mut self) {
        let Some(change) = self.sole_change else { return };
        let was_alone = self.maps.sole_owners().map_or(0, |owners| alone(&owners));
        match self.write_owners() {
            Ok(()) => {
                self.sole_change = None;
                self.pulled.clear();
                let alone = alone(self.agent.sole_owners());
                if alone != was_alone {
                    info!("new flows of {alone} partitions need the vote of one tracker alone");
                }
                self.agent.event(now(), AgentEvent::SoleWritten { change }, &mut self.out);
            }
            // It is tried again every second.
            Err(e) => warn!("cannot note who decides alone: {e}"),
        }
    }

    /// What counted no more comes before what counts again.
    fn write_owners(&mut self) -> Result<(), MapsError> {
        for &(member, boot, sequence) in &self.pulled {
            config::pulled(&mut self.maps, member, boot, sequence)?;
        }
        self.maps.set_sole_owners(self.agent.sole_owners())?;
        self.maps.set_standings(self.agent.standings())
    }

    /// The fence of rule 5: from here on no vote of another boot of that tracker counts.
    fn handle_order(&mut self, order: Collect) {
        let slot = order.tracker.as_u16().into();
        // It is there since the tracker answered our Probe, unless that could not be written.
        let fenced = match self.maps.boots.get(slot) {
            Ok(boot) if boot == order.boot.0 => Ok(()),
            Ok(_) | Err(_) => self.maps.boots.set(slot, &order.boot.0),
        };
        match fenced {
            Ok(()) => self.collector.order(order),
            Err(e) => warn!("cannot note a boot id: {e}"),
        }
    }

    /// Says again what ended lately. More comes with the next turn of the loop.
    fn handle_ended(&mut self) {
        let some = self.ended.len().min(ENDED_AT_ONCE);
        for event in self.ended.drain(..some) {
            self.agent.event(now(), AgentEvent::Kernel(event), &mut self.out);
        }
    }

    /// Does what is to be done to the host. Dropped half way, it is done again.
    async fn arrange(&mut self) -> Result<(), YannError> {
        let done = match self.host_task {
            HostTask::Nothing => return Ok(()),
            HostTask::Apply => self.host.apply(&self.desired).await,
            HostTask::Refresh => self.host.refresh().await,
        };
        self.host_task = HostTask::Nothing;
        let report = match done {
            Ok(report) => report,
            // Without it at the start nothing would work; later it is tried again.
            Err(e) if !self.is_arranged => return Err(e.into()),
            Err(e) => {
                warn!("{e}");
                return Ok(());
            }
        };
        self.is_arranged = true;
        for line in &report.done {
            info!("{line}");
        }
        if report.warnings != self.warnings {
            for warning in &report.warnings {
                warn!("{warning}");
            }
            self.warnings = report.warnings;
        }
        Ok(())
    }

    fn say_alive(&mut self) {
        let now = now();
        match self.maps.heartbeat.set(0, &now.0) {
            Ok(()) => self.beaten = now,
            Err(e) => warn!("cannot write the heartbeat: {e}"),
        }
    }

    fn handle_second(&mut self) -> Result<(), YannError> {
        // At the start, for what ended while there was no daemon; and now and then, for what the ring had no room for.
        let all = self.sweeps.is_multiple_of(SWEEPS_OF_ALL);
        self.sweeps += 1;
        if self.sweeps.is_multiple_of(HOST_EVERY) && self.host_task == HostTask::Nothing {
            self.host_task = HostTask::Refresh;
        }
        self.programs.sweep(DEFAULT_UDP_IDLE.0, all)?;
        let cpu = self.cpu.measure();
        let host = self.maps.host.get(0).map_err(MapsError::from)?;
        if host.cpu != cpu {
            let host = jlb_yann_core::maps::Host { cpu, ..host };
            self.maps.host.set(0, &host).map_err(MapsError::from)?;
            self.agent.event(now(), AgentEvent::Cpu(cpu), &mut self.out);
        }
        self.tell_live();
        if self.unsaid {
            self.say_words();
        }
        Ok(())
    }

    /// Of a service without events the user half knows nothing: it was just started, or has another list.
    fn tell_live(&mut self) {
        for number in 0..self.cluster.services().len() as u16 {
            if let Some(slot) = self.slots.of(number) {
                let event = AgentEvent::Live { service: number, live: self.maps.live_flows(slot) };
                self.agent.event(now(), event, &mut self.out);
            }
        }
    }
}

/// A handle of the ring that wakes the loop.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that do not keep one descriptor; an OwnedFd does"
)]
fn wakeups(Ring(ring): &Ring) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(ring.as_fd().try_clone_to_owned()?)
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Pinned state of another network namespace (a lab that was torn down without detach) describes nothing that is here.
fn adopt(maps: &mut Maps, changes: &mut Changes) -> Result<(), YannError> {
    let ours = config::own_namespace().map_err(system("/proc/thread-self/ns/net"))?;
    let (ours, theirs) = (ours, maps.namespace.get(0).map_err(MapsError::from)?);
    if theirs != 0 && theirs != ours {
        warn!("the pinned state is of another network namespace, and is begun anew");
        changes.forget()?;
        maps.forget_flows()?;
        maps.word.set(0, &Shared::default()).map_err(MapsError::from)?;
    }
    maps.namespace.set(0, &ours).map_err(MapsError::from)?;
    // A daemon that was killed may have left a decision half made: none takes that long.
    Ok(())
}

/// Boot id and start of the user half.
#[derive(Debug)]
struct Start {
    boot: BootId,
    start: u64,
    word: Shared,
}

impl BackendWord for Start {
    fn boot(&self) -> BootId {
        self.boot
    }
    // The kernel half alone draws these.
    fn next_counter(&self) -> u64 {
        self.word.counter
    }
    fn next_sequence(&self) -> u64 {
        self.word.sequence
    }
    fn next_start(&self) -> u64 {
        self.start
    }
}

fn pinned_word(maps: &mut Maps) -> Result<Start, YannError> {
    let mut word = maps.word.get(0).map_err(MapsError::from)?;
    if word.boot == 0 {
        word = Shared {
            boot: random_u64().map_err(system("/dev/urandom"))?.max(1),
            ..Shared::default()
        };
        maps.word.set(0, &word).map_err(MapsError::from)?;
    }
    let start = maps.starts.get(0).map_err(MapsError::from)? + 1;
    maps.starts.set(0, &start).map_err(MapsError::from)?;
    Ok(Start { boot: BootId(word.boot), start, word })
}

impl Daemon for Yann {
    type Error = YannError;

    async fn work(&mut self) -> Result<(), YannError> {
        self.arrange().await?;
        let deadline = Role::<Buffer>::next_deadline(&self.agent);
        let mut wait =
            deadline.map_or(Duration::from_secs(1), |at| Duration::from_nanos(at.since(now()).0));
        if !self.ended.is_empty() {
            wait = Duration::ZERO;
        }
        tokio::select! {
            _ = self.beat.tick() => self.say_alive(),
            _ = self.sweep.tick() => self.handle_second()?,
            ready = self.ring.readable() => {
                let mut guard = ready.map_err(system("ring buffer"))?;
                guard.clear_ready();
                drop(guard);
                while self.handle_events() {
                    self.say_alive();
                }
            }
            ready = self.sockets.readable() => {
                ready.map_err(system("sockets"))?;
                self.handle_packets();
            }
            collected = self.collector.done() => match collected {
                Ok(events) => for event in events {
                    self.agent.event(now(), event, &mut self.out);
                },
                Err(e) => warn!("cannot collect flows: {e}"),
            },
            () = self.checks.changed() => self.say_words(),
            _ = self.measure.tick(), if self.load.is_limited() => {
                if self.load.measure(now()) {
                    self.say_words();
                }
            }
            () = self.host_changes.next() => {
                if self.host_task == HostTask::Nothing {
                    self.host_task = HostTask::Refresh;
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
        let at = now();
        if Role::<Buffer>::next_deadline(&self.agent).is_some_and(|due| due <= at) {
            self.agent.tick(at, &mut self.out);
        }
        self.handle_ended();
        self.handle_reports();
        Ok(())
    }

    fn apply(&mut self, cluster: &Arc<Snapshot>) -> Result<(), YannError> {
        let Self { checks, load, maps, me, limits, .. } = self;
        checks.aim(cluster, *me);
        let over = load.is_over();
        let word = |service: &str| checks.refusal(service, over);
        self.slots = config::configure(maps, *me, cluster, *limits, word)?;
        self.desired = Desired::of(cluster, self.me, &self.interfaces);
        self.host_task = HostTask::Apply;
        self.cluster = Arc::clone(cluster);
        self.agent.event(now(), AgentEvent::Snapshot(Arc::clone(cluster)), &mut self.out);
        self.tell_live();
        self.tell_words();
        Ok(())
    }

    fn collect(&mut self, out: &mut Samples) -> impl Future<Output = ()> {
        Role::<Buffer>::collect(&self.agent, out);
        metrics::collect(&self.maps, &self.out.drops, self.limits.capacity, out);
        self.checks.collect(out);
        self.load.collect(out);
        for (service, word) in self.words() {
            metrics::collect_word(service, word, out);
        }
        core::future::ready(())
    }

    fn is_alive(&mut self) -> bool {
        now().since(self.beaten) < Nanos::from_secs(1)
    }

    fn not_ready(&mut self) -> Vec<String> {
        if !self.is_arranged {
            return vec!["the host is not yet arranged".to_owned()];
        }
        let known = |id: &MemberId| self.agent.peers().boot(*id).is_some();
        let trackers = self.cluster.with_role(jlb_map::MemberRole::FlowTracker);
        // Rule 1 wants two; a cluster that has fewer waits for all of them.
        let alone = self.agent.sole_owners().iter().any(|&owner| owner != 0);
        let needed = trackers.len().min(if alone { 1 } else { 2 });
        if trackers.iter().filter(|id| known(id)).count() < needed {
            return vec!["fewer than two flow trackers have answered".to_owned()];
        }
        Vec::new()
    }

    fn status(&mut self) -> Value {
        let refused = self.words().filter_map(|(service, word)| Some((service, word?.label())));
        let refuses: BTreeMap<_, _> = refused.collect();
        json!({
            "flows": self.maps.live_all.get(0).unwrap_or(0),
            "flow_capacity": self.limits.capacity,
            "closes": self.agent.closes(),
            "refuses": refuses,
        })
    }

    async fn stop(&mut self) {
        // Flows go on: programs, maps, VIPs and routes stay. `jlb-yann detach` takes them away.
        info!("the eBPF half stays at work; new flows are refused until a daemon is back");
    }
}
