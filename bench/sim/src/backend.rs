use std::collections::BTreeMap;
use std::sync::Arc;

use jlb_flow::PARTITIONS;
use jlb_map::Snapshot;
use jlb_role::{Collect, FakeBuf, FakeIo, Nanos, PacketBuf as _, Reason, Report, Role, Without};
use jlb_wire::{BootId, MemberId, Packet};
use jlb_yann_core::{
    Agent, AgentConfig, AgentEvent, DEFAULT_UDP_IDLE, Kernel, KernelLimits, SWEEP_INTERVAL,
    Verdict, Word,
};

use crate::plan::Bounds;
use crate::script::Scripts;
use crate::stack::{Met, Output, SocketEvent, Stack};
use crate::worker::{Life, Worker};

/// How often the daemon says to its eBPF programs that it is there.
const HEARTBEAT: Nanos = Nanos::from_millis(100);

/// A backend host: the agent's two halves around the host's stack.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) kernel: Kernel<Without>,
    pub(crate) agent: Worker<Agent<Without>>,
    pub(crate) stack: Stack,
    /// When the stack's next timer is due.
    pub(crate) stack_at: Option<Nanos>,
    /// When the daemon's next heartbeat or sweep is due.
    pub(crate) daemon_at: Nanos,
    next_sweep: Nanos,
    /// The user half: a process that may die or hang while the kernel half goes on.
    pub(crate) daemon: Life,
    /// Starts of it, so that what was meant for a former one is told apart.
    pub(crate) starts: u32,
    /// Sole owners changed, and the daemon has not yet said that the kernel half has them.
    pub(crate) sole_change: Option<u64>,
    id: MemberId,
    word: Arc<Word>,
    rules: Without,
    /// Empty between two calls; here for its memory.
    out: Output,
}

/// What a host did with a packet, or of its own.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    /// Packets that leave the host.
    pub(crate) sent: Vec<Vec<u8>>,
    /// A packet for the daemon's socket.
    pub(crate) passed: Option<FakeBuf>,
    /// Packets that the stack got, and what they met there.
    pub(crate) delivered: Vec<(Vec<u8>, Met)>,
    pub(crate) dropped: Vec<Reason>,
    /// A verdict that cannot be.
    pub(crate) broken: Option<&'static str>,
}

impl Backend {
    pub(crate) fn new(
        id: MemberId,
        snapshot: &Arc<Snapshot>,
        (rules, bounds): (Without, Bounds),
        (boot, seed): (BootId, u64),
        stack: Stack,
        now: Nanos,
    ) -> Self {
        let word = Arc::new(Word::new(boot));
        let limits = KernelLimits { flows: bounds.flows, answers: bounds.remembered, events: 1024 };
        let kernel = Kernel::new(id, snapshot, limits, rules, Arc::clone(&word), now);
        let config = AgentConfig { id, seed, close_capacity: 1024 };
        let agent = Agent::new(config, Arc::clone(snapshot), rules, now, &word);
        Self {
            kernel,
            agent: Worker::new(agent),
            stack,
            stack_at: None,
            daemon_at: now,
            next_sweep: now + SWEEP_INTERVAL,
            daemon: Life::Up,
            starts: 0,
            sole_change: None,
            id,
            word,
            rules,
            out: Output::default(),
        }
    }

    /// The daemon starts again: the kernel half, its maps and its word outlived it.
    pub(crate) fn start_daemon(&mut self, now: Nanos, snapshot: &Arc<Snapshot>, seed: u64) {
        if self.kernel.host().epoch != snapshot.epoch().0 {
            // Who was shut out still is.
            self.kernel.obey(&[0; PARTITIONS], core::iter::empty());
        }
        self.kernel.configure(snapshot);
        let config = AgentConfig { id: self.id, seed, close_capacity: 1024 };
        let mut agent = Agent::new(config, Arc::clone(snapshot), self.rules, now, &*self.word);
        let boots: BTreeMap<_, _> = self.kernel.boots().collect();
        let boot = |id| boots.get(&id).map_or(BootId(0), |boot| **boot);
        let standings = self.kernel.standings();
        agent.adopt_sole_owners(now, self.kernel.sole_owners(), standings, boot);
        self.sole_change = None;
        self.agent = Worker::new(agent);
        self.daemon = Life::Up;
        self.starts += 1;
        // It sweeps at once, for what ended while there was none.
        self.next_sweep = now;
        self.daemon_at = now;
    }

    /// A packet from the wire.
    pub(crate) fn receive(
        &mut self,
        now: Nanos,
        packet: FakeBuf,
        scripts: &Scripts,
        d: &mut Deeds,
    ) {
        match self.kernel.ingress(now, packet.bytes(), &self.stack) {
            Verdict::Deliver(inner) => self.deliver(now, inner, scripts, d),
            Verdict::Pass => d.passed = Some(packet),
            Verdict::Send { packet, .. } => d.sent.push(packet),
            Verdict::Done => {}
            Verdict::Drop(why) => d.dropped.push(why),
        }
    }

    fn deliver(&mut self, now: Nanos, inner: Vec<u8>, scripts: &Scripts, d: &mut Deeds) {
        let mut out = core::mem::take(&mut self.out);
        let met = self.stack.deliver(now, &inner, scripts, &mut out);
        d.delivered.push((inner, met));
        self.leave(now, &mut out, d);
        self.out = out;
    }

    /// The server processes end: listeners, connections and UDP sockets go.
    pub(crate) fn stop_servers(&mut self, now: Nanos, d: &mut Deeds) {
        let mut out = core::mem::take(&mut self.out);
        self.stack.stop(now, &mut out);
        self.leave(now, &mut out, d);
        self.out = out;
    }

    /// Timers of the stack and of its applications.
    pub(crate) fn stack_tick(&mut self, now: Nanos, scripts: &Scripts, d: &mut Deeds) {
        let mut out = core::mem::take(&mut self.out);
        self.stack.tick(now, scripts, &mut out);
        self.leave(now, &mut out, d);
        self.out = out;
    }

    /// What the daemon does from time to time.
    pub(crate) fn daemon_tick(&mut self, now: Nanos) {
        self.kernel.heartbeat(now);
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.kernel.sweep(now, DEFAULT_UDP_IDLE, &self.stack);
        }
        self.daemon_at = now + HEARTBEAT;
    }

    /// What the stack says and sends, in that order of hooks: its events come from the same context as its packets.
    fn leave(&mut self, now: Nanos, out: &mut Output, d: &mut Deeds) {
        for event in out.events.drain(..) {
            match event {
                SocketEvent::Established(tuple) => self.kernel.socket_established(&tuple),
                SocketEvent::Closed(tuple) => self.kernel.socket_closed(now, &tuple),
            }
        }
        for packet in out.packets.drain(..) {
            match self.kernel.egress(now, &packet) {
                Verdict::Pass => d.sent.push(packet),
                Verdict::Send { packet, .. } => d.sent.push(packet),
                Verdict::Drop(why) => d.dropped.push(why),
                Verdict::Done => {}
                Verdict::Deliver(_) => d.broken = Some("the way out delivered a packet inside"),
            }
        }
    }

    /// Hands the kernel half's events to the user half. `false`: there were none.
    pub(crate) fn publish(&mut self, now: Nanos, io: &mut FakeIo) -> bool {
        if self.daemon != Life::Up {
            return false;
        }
        let mut any = false;
        while let Some(event) = self.kernel.pop_event() {
            self.agent.role.event(now, AgentEvent::Kernel(event), io);
            any = true;
        }
        any
    }

    /// What the daemon does with the user half's reports. What it is to collect is given back.
    pub(crate) fn learn(&mut self, report: Report) -> Option<Collect> {
        match report {
            Report::PeerBoot { member, boot, sequence } => {
                self.kernel.peer_boot(member, boot, sequence);
                None
            }
            Report::Collect(collect) => Some(collect),
            Report::Pulled { member, boot, sequence } => {
                self.kernel.pulled(member, boot, sequence);
                None
            }
            Report::SoleChanged { change } => {
                let agent = &self.agent.role;
                self.kernel.obey(agent.sole_owners(), agent.standings());
                self.sole_change = Some(change);
                None
            }
            Report::PeerAlive { .. }
            | Report::PeerSuspect { .. }
            | Report::ListMismatch { .. }
            | Report::BackendDead { .. }
            | Report::Warm(_)
            | Report::WaitsFor { .. }
            | Report::MayLeave
            | Report::Sole(_) => None,
        }
    }
}

/// A packet as the checkers want it.
pub(crate) fn parsed(bytes: &[u8]) -> Option<Packet> {
    Packet::parse(bytes).ok()
}
