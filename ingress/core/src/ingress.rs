use std::sync::Arc;

use jlb_flow::{Cookie, FlowId, Slab, SlabError, Wheel};
use jlb_map::{MemberRole, Snapshot};
use jlb_peers::{Peers, PeersConfig, Random};
use jlb_role::{AllRules, Burst, Io, MetricSink, Nanos, PacketBuf, Role, Rule, Rules, WorkerId};
use jlb_wire::{BootId, MemberId, Protocol};

use crate::budget::QueryBudget;
use crate::client::Clients;
use crate::flows::{Flow, FlowState, Flows};
use crate::metrics::Counters;
use crate::pending::{Pending, Question};
use crate::reply::Replies;
use crate::view::View;

/// Timers, and closing entries, that one tick ends at most.
const DONE_PER_TICK: usize = 256;
/// Places of the flow table that one tick searches at most for flows of vanished backends: about 50 µs.
const SWEPT_PER_TICK: usize = 4096;
/// Resolution of the timers of pending entries; the shortest runs 25 ms.
/// How often it is looked who is dead: a tenth of what makes a death.
const BURIAL: Nanos = Nanos::from_millis(100);
const GRANULE: Nanos = Nanos::from_millis(1);

/// What one worker's ingress is made with.
#[derive(Clone, Copy, Debug)]
pub struct IngressConfig {
    /// Our member id.
    pub id: MemberId,
    /// This worker, below `workers`.
    pub worker: WorkerId,
    /// Workers of this process, 1 to 16.
    pub workers: u8,
    /// This process's boot id.
    pub boot: BootId,
    /// Random bits, other ones for each worker and process: nonces come from it.
    pub seed: u64,
    /// Flows that this worker's table holds, pending ones included. About 31 bytes each.
    pub flow_capacity: usize,
    /// Flows that may wait for an answer at once: 65,536 at most. About 250 bytes each, and up to nine packet buffers.
    pub pending_capacity: usize,
}

/// What happens to an ingress besides packets and time.
#[derive(Clone, Debug)]
pub enum IngressEvent {
    /// Another member list is in force.
    Snapshot(Arc<Snapshot>),
    /// We are about to leave (or not): Probe says so, agents choose another egress.
    Leaving(bool),
}

/// Flows by state, for status and checkers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// That wait for an answer.
    pub pending: u64,
    /// That belong to a backend.
    pub established: u64,
    /// That were closed within the last 2 s.
    pub closing: u64,
}

/// One worker's ingress and egress. See the crate's page.
#[derive(Debug)]
pub struct Ingress<B, R = AllRules> {
    pub(crate) rules: R,
    pub(crate) view: View,
    pub(crate) peers: Peers,
    pub(crate) flows: Flows,
    pub(crate) pending: Slab<Pending<B>>,
    /// Packets that wait in them, and how many may.
    pub(crate) held: usize,
    pub(crate) most_held: usize,
    /// Those of them that are Queries.
    pub(crate) queries: usize,
    pub(crate) budget: QueryBudget,
    pub(crate) nonces: Random,
    /// One timer for each pending entry.
    pub(crate) timers: Wheel<Cookie>,
    /// When it is to be looked again who is dead.
    burial: Nanos,
    pub(crate) replies: Replies,
    pub(crate) counters: Counters,
}

impl<B: PacketBuf, R: Rules> Ingress<B, R> {
    /// An ingress without flows. All memory is taken here.
    ///
    /// # Errors
    /// [`SlabError`] when a cookie cannot name this worker or so many pending entries.
    pub fn new(
        config: IngressConfig,
        snapshot: Arc<Snapshot>,
        rules: R,
        now: Nanos,
    ) -> Result<Self, SlabError> {
        let IngressConfig { id, worker, workers, boot, seed, .. } = config;
        let mut counters = Counters::default();
        counters.update(&snapshot);
        Ok(Self {
            rules,
            view: View::new(Arc::clone(&snapshot), id),
            peers: Peers::new(PeersConfig { id, worker, workers, boot, seed }, snapshot, now),
            flows: Flows::new(config.flow_capacity, id, now),
            pending: Slab::new(worker, config.pending_capacity)?,
            held: 0,
            most_held: usize::MAX,
            queries: 0,
            budget: QueryBudget::new(),
            // Another sequence than that of the Probes.
            nonces: Random::new(!seed),
            timers: Wheel::new(config.pending_capacity, GRANULE),
            burial: now + BURIAL,
            replies: Replies::new(),
            counters,
        })
    }

    /// Bounds the packets that wait for answers. For a driver whose buffers all come from one pool: without any left,
    /// nothing is received, not even the answers.
    #[must_use]
    pub const fn hold_at_most(mut self, packets: usize) -> Self {
        self.most_held = packets;
        self
    }

    /// What the table holds of a flow; for status and checkers.
    #[must_use]
    pub fn flow(&self, id: &FlowId) -> Option<FlowState> {
        Some(match self.flows.get(id)? {
            Flow::Pending { cookie, .. } => {
                let pending = self.pending.get(cookie)?;
                let packets = pending.packets();
                match &pending.question {
                    Question::Open(opening) => {
                        FlowState::Pending { incarnation: opening.incarnation, packets }
                    }
                    Question::Query(_) => FlowState::Asked { packets },
                }
            }
            Flow::Established { backend, incarnation, .. } => {
                FlowState::Established { backend, incarnation }
            }
            Flow::Closing { backend, incarnation, .. } => {
                FlowState::Closing { backend, incarnation }
            }
        })
    }

    /// Flows by state; for status and checkers.
    #[must_use]
    pub fn flows(&self) -> FlowCounts {
        let count =
            |state| self.flows.count(state, Protocol::Tcp) + self.flows.count(state, Protocol::Udp);
        FlowCounts { pending: count(0), established: count(1), closing: count(2) }
    }

    /// Entries of the pending pool in use, and packets that they hold; for status and checkers.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (self.pending.len(), self.pending.iter().map(|(_, p)| p.packets()).sum())
    }

    /// What we know of the other members.
    #[must_use]
    pub const fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The member list in force.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.view.snapshot
    }

    /// Looks which backends are dead, as two members see it.
    fn bury(&mut self, now: Nanos) {
        if now < self.burial {
            return;
        }
        self.burial = now + BURIAL;
        let two = self.rules.on(Rule::TwoWitnesses);
        let Self { view, peers, .. } = self;
        let backends = view.snapshot.with_role(MemberRole::Backend).iter().copied();
        view.templates.bury(backends.filter(|&id| peers.dead(now, id, two)));
    }

    fn take_snapshot(&mut self, now: Nanos, snapshot: Arc<Snapshot>) {
        let me = self.peers.me();
        let old = core::mem::replace(&mut self.view, View::new(Arc::clone(&snapshot), me));
        self.counters.update(&snapshot);
        self.peers.update(snapshot, now);
        // Who was dead is looked at again at once: a new list has forgotten it.
        self.burial = now;
        if old.templates.any_missing_in(&self.view.templates) {
            self.flows.start_sweep();
        }
    }
}

impl<B: PacketBuf, R: Rules> Role<B> for Ingress<B, R> {
    type Event = IngressEvent;

    /// In stages over the burst, so that the memory of all its flows is fetched at once: what is for the host itself is
    /// dealt with while the clients' packets are looked at and set aside; then their ids; then look-ups and deeds.
    fn rx(&mut self, now: Nanos, burst: &mut Burst<B>, io: &mut impl Io<B>) {
        let mut clients = Clients::new();
        for b in burst.drain(..) {
            if self.view.is_ours(b.bytes()) {
                self.encapsulated(now, b, io);
            } else {
                self.parse_client(b, &mut clients, io);
            }
        }
        self.clients(now, &mut clients, io);
    }

    fn event(&mut self, now: Nanos, event: IngressEvent, _io: &mut impl Io<B>) {
        match event {
            IngressEvent::Snapshot(snapshot) => self.take_snapshot(now, snapshot),
            IngressEvent::Leaving(leaving) => self.peers.set_leaving(leaving),
        }
    }

    fn tick(&mut self, now: Nanos, io: &mut impl Io<B>) {
        let mut budget = DONE_PER_TICK;
        while let Some(cookie) = self.timers.pop(now, &mut budget) {
            self.pending_due(now, cookie, io);
        }
        self.flows.expire(now, DONE_PER_TICK);
        let templates = &self.view.templates;
        self.flows.sweep(SWEPT_PER_TICK, |backend| templates.knows(backend));
        self.flows.age(now, SWEPT_PER_TICK);
        self.peers.tick(now, io);
        self.bury(now);
    }

    fn next_deadline(&self) -> Option<Nanos> {
        let deadlines = [
            self.timers.next_deadline(),
            self.flows.next_deadline(),
            self.peers.next_deadline(),
            Some(self.burial),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn flow_packets(&self) -> Option<u64> {
        Some(self.counters.work)
    }

    fn collect(&self, out: &mut dyn MetricSink) {
        let pending = (self.pending.len(), self.pending.capacity());
        self.counters.collect(&self.flows, pending, out);
        self.replies.collect(out);
        self.peers.collect(out);
    }
}
