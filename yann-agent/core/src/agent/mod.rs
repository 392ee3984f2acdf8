//! The user half: says what the kernel half decided.

mod closes;
mod loads;
mod refresh;
mod sole;

use std::sync::Arc;

use jlb_flow::FlowHasher;
use jlb_map::{MemberRole, Snapshot};
use jlb_peers::{Carried, Envelope, Peers, PeersConfig, ReceivedBody, buffer_with};
use jlb_role::{
    AllRules, Burst, Io, Metric, MetricKind, MetricSink, Nanos, PacketBuf, Reason, Role, Rules,
    WorkerId,
};
use jlb_wire::{
    BodyKind, BootId, FiveTuple, Flags, Incarnation, Kind, Load, MAX_FLOW_HEADERS, MemberId,
    Refresh, RefreshRecord, RejectReason, ServiceLoad, flow_headers,
};

use crate::maps::Standing;
use crate::{BackendWord, EventKind, KernelEvent, NO_SERVICE, USER_WORKER, first_sequence};
pub use closes::{CLOSE_REPEATS, FIRST_REPEAT};
use closes::{Closes, Due, Target};
pub use loads::LOAD_EVERY;
use loads::Loads;
use refresh::{Flows, Sessions};
pub use refresh::{REFRESH_IDLE, REFRESH_SESSIONS};
use sole::Sole;
pub use sole::{Owners, SOLE_SILENT, SOLE_WORKERS};

/// Closes sent or forgotten per tick.
const DUE_PER_TICK: usize = 256;

static UNREPEATED: Metric = Metric {
    name: "jlb_closes_unrepeated_total",
    help: "Closes that were sent only once, since too many were under way.",
    kind: MetricKind::Counter,
};
static UNACKNOWLEDGED: Metric = Metric {
    name: "jlb_closes_unacknowledged_total",
    help: "Closes that somebody did not acknowledge, however often they were repeated.",
    kind: MetricKind::Counter,
};
static NOT_MINE: Metric = Metric {
    name: "jlb_not_mine_total",
    help: "Packets of flows that are not here, of which the ingress was told.",
    kind: MetricKind::Counter,
};
static LOADS: Metric =
    Metric { name: "jlb_loads_total", help: "Loads told to trackers.", kind: MetricKind::Counter };
static CLOSES: Metric = Metric {
    name: "jlb_closes_remembered",
    help: "Closes that are under way or were lately.",
    kind: MetricKind::Gauge,
};

/// What an agent is made with.
#[derive(Clone, Copy, Debug)]
pub struct AgentConfig {
    /// Our member id.
    pub id: MemberId,
    /// For nonces: random bits, other ones in each process.
    pub seed: u64,
    /// Closes that are repeated until they are acknowledged, and then remembered for 8 s. About 300 bytes each.
    pub close_capacity: usize,
}

/// What can happen to an agent besides packets and time.
#[derive(Clone, Debug)]
pub enum AgentEvent {
    /// From the kernel half.
    Kernel(KernelEvent),
    /// A new member list.
    Snapshot(Arc<Snapshot>),
    /// The host's CPU load, 0 ..= 65535 for 0 ..= 1.
    Cpu(u16),
    /// How many live flows a service has, by its number in the list: for services of which no event has told yet.
    Live {
        /// The service.
        service: u16,
        /// Its flows.
        live: u32,
    },
    /// The host wants no new flows of a service, by its number in the list, or wants them again. To be said anew after a new list.
    Word {
        /// The service.
        service: u16,
        /// Why it refuses: one that [is told](RejectReason::is_told).
        word: Option<RejectReason>,
        /// Per cent of its weight that it wants to have, 1 to 100.
        share: u8,
    },
    /// What a [`jlb_role::Report::Collect`] ordered. One collection may answer many of these reports, if it was begun after
    /// the last of them: the kernel half held the boots that they name for current, as long as it takes until no program
    /// that read another one is still at work, before anything was read.
    Flows {
        /// The report's.
        tracker: MemberId,
        /// The report's.
        nonce: u64,
        /// The backend's counter, read before the first flow.
        counter: u64,
        /// All live flows, and all that closed lately.
        records: Arc<[RefreshRecord]>,
    },
    /// The kernel half obeys what [`Agent::sole_owners`] and [`Agent::standings`] said when [`jlb_role::Report::SoleChanged`] came with that number.
    SoleWritten {
        /// The report's.
        change: u64,
    },
}

/// The user half of an agent. It decides nothing about flows.
#[derive(Debug)]
pub struct Agent<R: Rules = AllRules> {
    peers: Peers,
    hasher: FlowHasher,
    closes: Closes,
    sessions: Sessions,
    sole: Sole,
    loads: Loads,
    unrepeated: u64,
    not_mine: u64,
    // Nothing that a canary switches off is in this half.
    _rules: core::marker::PhantomData<R>,
}

impl<R: Rules> Agent<R> {
    /// Knows no other member yet. Boot id and start come from the pinned word.
    #[must_use]
    pub fn new(
        config: AgentConfig,
        snapshot: Arc<Snapshot>,
        _: R,
        now: Nanos,
        word: &impl BackendWord,
    ) -> Self {
        let hasher = FlowHasher::new(snapshot.keys().hash_key);
        let peers = PeersConfig {
            id: config.id,
            worker: WorkerId(USER_WORKER),
            // The kernel half counts as worker 0.
            workers: USER_WORKER + 1,
            boot: word.boot(),
            seed: config.seed,
        };
        let mut peers = Peers::new(peers, snapshot, now);
        peers.skip_sequence(first_sequence(word.next_start()));
        Self {
            peers,
            hasher,
            closes: Closes::new(config.close_capacity),
            sessions: Sessions::default(),
            sole: Sole::default(),
            loads: Loads::default(),
            unrepeated: 0,
            not_mine: 0,
            _rules: core::marker::PhantomData,
        }
    }

    /// The other members. For status and checkers.
    #[must_use]
    pub const fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Who is to decide alone, by partition: for the kernel half.
    #[must_use]
    pub fn sole_owners(&self) -> &Owners {
        self.sole.owners()
    }

    /// Which trackers that shuts out, and which it makes us obey: for the kernel half.
    pub fn standings(&self) -> impl Iterator<Item = (MemberId, Standing)> {
        self.sole.standings().iter().map(|(&id, &standing)| (id, standing))
    }

    /// What the kernel half obeys when this user half begins, and which boot ids it knows.
    pub fn adopt_sole_owners(
        &mut self,
        now: Nanos,
        owners: &Owners,
        standings: impl Iterator<Item = (MemberId, Standing)>,
        boot: impl Fn(MemberId) -> BootId,
    ) {
        self.sole.adopt(now, owners, standings, boot);
    }

    /// Closes that are under way or remembered. For status and checkers.
    #[must_use]
    pub fn closes(&self) -> usize {
        self.closes.len()
    }

    fn receive<B: PacketBuf>(&mut self, now: Nanos, buf: B, io: &mut impl Io<B>) {
        let envelope = match Envelope::open(buf.bytes(), self.peers.me(), self.peers.snapshot()) {
            Ok(envelope) => envelope,
            Err(why) => return io.drop(buf, why),
        };
        match envelope.carried {
            Carried::Body { .. } => {
                if let Some(received) = self.peers.receive_body(now, buf, &envelope, io) {
                    let from = envelope.from_role;
                    if received.body.kind == BodyKind::Epoch {
                        self.sole.receive(now, received, from, &mut self.peers, io);
                    } else {
                        if let Some(worker) = puller(&received, from) {
                            self.loads.listens(received.body.sender, worker);
                        }
                        let ends = (&mut self.peers, &mut self.sole);
                        self.sessions.receive(now, received, from, ends, io);
                    }
                }
            }
            // Data is the kernel half's.
            Carried::Plain { .. } => io.drop(buf, Reason::WrongKind),
            Carried::Control { packet, .. } => {
                if let Err(why) = self.control(now, buf.bytes(), &envelope, &packet.tuple) {
                    io.drop(buf, why);
                }
            }
        }
    }

    /// Looks whether owners are still to be obeyed. What trackers pull begins anew when that has changed.
    fn mind_owners<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        self.sole.tick(now, &mut self.peers, io);
        if self.sole.takes_news() {
            self.sessions.clear();
        }
    }

    fn control(
        &mut self,
        now: Nanos,
        bytes: &[u8],
        envelope: &Envelope,
        tuple: &FiveTuple,
    ) -> Result<(), Reason> {
        let c = envelope.control(now, bytes, &mut self.peers)?;
        if c.kind != Kind::Close || !c.flags.has(Flags::ACK) {
            return Err(Reason::WrongKind);
        }
        if !self.closes.acknowledged((*tuple, c.incarnation), c.word_a, c.sender) {
            return Err(Reason::Unexpected);
        }
        Ok(())
    }

    fn kernel_event<B: PacketBuf>(&mut self, now: Nanos, e: &KernelEvent, io: &mut impl Io<B>) {
        let Some(tuple) = e.tuple else {
            if let (EventKind::Learn, Some(peer)) = (e.kind, e.peer) {
                self.peers.ask(now, peer);
            }
            return;
        };
        if e.kind.has_load() && e.service != NO_SERVICE {
            self.loads.set(e.service, e.live);
        }
        match e.kind {
            EventKind::SynAckSeen | EventKind::UdpAdmitted | EventKind::RepeatAccept => {
                self.accept(&tuple, e, e.second, (e.head, e.second), io);
            }
            // The canceller is the whole chain: it tells the ingress.
            EventKind::CancelledButLive => self.accept(&tuple, e, e.peer, (e.peer, None), io),
            EventKind::Closed => {
                let targets = self.targets(&tuple, e);
                self.publish(now, (tuple, e.incarnation), e.counter, &targets, io);
            }
            EventKind::RepeatClose => self.repeat_close(now, &tuple, e, io),
            EventKind::NotMine => self.not_mine(&tuple, e, io),
            EventKind::Learn => {}
        }
    }

    /// Says to the ingress, along the chain, that the flow is here.
    fn accept<B: PacketBuf>(
        &mut self,
        tuple: &FiveTuple,
        e: &KernelEvent,
        via: Option<MemberId>,
        (head, second): (Option<MemberId>, Option<MemberId>),
        io: &mut impl Io<B>,
    ) {
        let (Some(via), Some(ingress)) = (via, e.asker) else { return };
        let mut accept = self.peers.control(Kind::Accept, e.incarnation);
        (accept.head, accept.second, accept.ingress) = (head, second, Some(ingress));
        accept.backend = Some(self.peers.me());
        accept.cookie = e.cookie;
        accept.flags = Flags::default().set(Flags::FORCE, e.force);
        accept.load = Load { queue: e.queue, cpu: self.loads.cpu, live: e.live };
        accept.word_a = e.counter;
        let mut headers = [0; MAX_FLOW_HEADERS];
        let len = flow_headers(tuple, e.incarnation, &mut headers);
        // With no buffer it is lost: the ingress's next Open, or the tracker's Cancel, brings another.
        let Some(buf) = buffer_with(io, &headers[..len]) else { return };
        let flow = self.hasher.id(tuple);
        self.peers.send_control_by(buf, (via, ingress), accept, (tuple, &flow), io);
    }

    /// Who must hear of a Close: the trio, the ingress hosts that the flow came from, and who asked.
    fn targets(&self, tuple: &FiveTuple, e: &KernelEvent) -> Vec<MemberId> {
        let snapshot = self.peers.snapshot();
        let trio = snapshot.trio(self.hasher.id(tuple).partition());
        let all = trio.iter().chain(e.ingress.iter().copied().flatten()).chain(e.peer);
        let mut targets = Vec::new();
        for id in all {
            if snapshot.member(id).is_some() && !targets.contains(&id) {
                targets.push(id);
            }
        }
        targets
    }

    fn repeat_close<B: PacketBuf>(
        &mut self,
        now: Nanos,
        tuple: &FiveTuple,
        e: &KernelEvent,
        io: &mut impl Io<B>,
    ) {
        let known = self.closes.of(tuple, e.incarnation);
        if known.is_empty() && e.incarnation != Incarnation(0) {
            // The kernel half remembers more than we do: we were started after that.
            let targets = self.targets(tuple, e);
            return self.publish(now, (*tuple, e.incarnation), e.counter, &targets, io);
        }
        if known.is_empty() && e.counter != 0 {
            return self.not_mine(tuple, e, io);
        }
        for key in known {
            if self.closes.again(now, key, e.peer) {
                self.send_due(now, io);
            }
        }
    }

    /// Says to the ingress that sent it that a packet's flow is not here. Never repeated: its next packet is.
    fn not_mine<B: PacketBuf>(&mut self, tuple: &FiveTuple, e: &KernelEvent, io: &mut impl Io<B>) {
        let Some(ingress) = e.peer else { return };
        let mut not_mine = self.peers.control(Kind::NotMine, Incarnation(0));
        not_mine.backend = Some(self.peers.me());
        not_mine.load = self.load(tuple);
        not_mine.word_a = e.counter;
        let flow = self.hasher.id(tuple);
        if self.peers.send_headers(ingress, not_mine, (tuple, &flow), io) {
            self.not_mine += 1;
        }
    }

    fn publish<B: PacketBuf>(
        &mut self,
        now: Nanos,
        key: (FiveTuple, Incarnation),
        counter: u64,
        targets: &[MemberId],
        io: &mut impl Io<B>,
    ) {
        if self.closes.begin(now, key, counter, targets) {
            return self.send_due(now, io);
        }
        self.unrepeated += 1;
        for &to in targets {
            self.send_close(key, counter, to, io);
        }
    }

    fn send_due<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        for _ in 0..DUE_PER_TICK {
            let Some(Due { key, counter, targets }) = self.closes.pop_due(now) else { break };
            for Target { member, .. } in targets.iter().filter(|t| !t.acknowledged) {
                self.send_close(key, counter, *member, io);
            }
        }
    }

    /// The host's load, as far as a message about a flow that is not here tells it.
    fn load(&self, tuple: &FiveTuple) -> Load {
        let vip = tuple.vip();
        let service = self.peers.snapshot().service(vip.ip(), vip.port(), tuple.protocol());
        // Slots are the services' numbers.
        let live = service.and_then(|id| self.loads.of(id.0)).unwrap_or(0);
        Load { queue: 0, cpu: self.loads.cpu, live }
    }

    fn send_close<B: PacketBuf>(
        &mut self,
        (tuple, incarnation): (FiveTuple, Incarnation),
        counter: u64,
        to: MemberId,
        io: &mut impl Io<B>,
    ) {
        let mut close = self.peers.control(Kind::Close, incarnation);
        close.backend = Some(self.peers.me());
        close.load = self.load(&tuple);
        close.word_a = counter;
        let flow = self.hasher.id(&tuple);
        // With no buffer the repetition comes.
        self.peers.send_headers(to, close, (&tuple, &flow), io);
    }
}

/// The worker of a tracker that pulls with this.
fn puller<B: PacketBuf>(received: &ReceivedBody<B>, from: MemberRole) -> Option<u8> {
    let pulls = received.body.kind == BodyKind::Refresh && from == MemberRole::FlowTracker;
    let (refresh, _) = pulls.then(|| Refresh::parse(received.payload()))??;
    Some(refresh.worker)
}

impl<B: PacketBuf, R: Rules> Role<B> for Agent<R> {
    type Event = AgentEvent;

    fn rx(&mut self, now: Nanos, burst: &mut Burst<B>, io: &mut impl Io<B>) {
        for buf in burst.drain(..) {
            self.receive(now, buf, io);
        }
        self.mind_owners(now, io);
    }

    fn event(&mut self, now: Nanos, event: AgentEvent, io: &mut impl Io<B>) {
        match event {
            AgentEvent::Kernel(event) => self.kernel_event(now, &event, io),
            AgentEvent::Snapshot(snapshot) => {
                if snapshot.epoch() != self.peers.snapshot().epoch() {
                    self.sessions.clear();
                    self.sole.clear(self.peers.snapshot(), io);
                }
                self.hasher = FlowHasher::new(snapshot.keys().hash_key);
                self.loads.renumber(&snapshot);
                self.peers.update(snapshot, now);
                self.mind_owners(now, io);
            }
            AgentEvent::Cpu(cpu) => self.loads.cpu = cpu,
            AgentEvent::Live { service, live } => self.loads.set(service, live),
            AgentEvent::Word { service, word, share } => {
                self.loads.set_word(service, word);
                self.loads.set_share(service, share.clamp(1, ServiceLoad::ALL));
            }
            AgentEvent::Flows { tracker, nonce, counter, records } => {
                let flows = Flows { tracker, nonce, counter, records };
                self.sessions.collected(now, &flows);
            }
            AgentEvent::SoleWritten { change } => {
                self.sole.is_written(change, &mut self.peers, io);
            }
        }
    }

    fn tick(&mut self, now: Nanos, io: &mut impl Io<B>) {
        self.peers.tick(now, io);
        self.send_due(now, io);
        self.mind_owners(now, io);
        self.sessions.tick(now, self.peers.snapshot(), &self.hasher);
        self.loads.tell(now, &mut self.peers, io);
    }

    fn next_deadline(&self) -> Option<Nanos> {
        let own = [
            self.closes.next_deadline(),
            self.sessions.next_deadline(),
            self.loads.next_deadline(),
            self.sole.next_deadline(&self.peers),
        ];
        self.peers.next_deadline().into_iter().chain(own.into_iter().flatten()).min()
    }

    fn collect(&self, out: &mut dyn MetricSink) {
        self.peers.collect(out);
        // We are not worker 0, but the only one that is a process.
        self.peers.collect_members(out);
        out.value(&UNREPEATED, &[], self.unrepeated as f64);
        out.value(&UNACKNOWLEDGED, &[], self.closes.unacknowledged() as f64);
        out.value(&CLOSES, &[], self.closes.len() as f64);
        out.value(&NOT_MINE, &[], self.not_mine as f64);
        out.value(&LOADS, &[], self.loads.sent as f64);
        self.sessions.collect(out);
        self.sole.collect(out);
    }
}
