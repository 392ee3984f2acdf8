use std::sync::Arc;

use arrayvec::ArrayVec;
use jlb_flow::{FlowHasher, FlowId, SlabError};
use jlb_map::{MemberRole, Snapshot};
use jlb_peers::{Carried, Envelope, Peers, PeersConfig};
use jlb_role::{
    AllRules, BURST, Burst, Io, MetricSink, Nanos, PacketBuf, Reason, Role, Rule, Rules, WorkerId,
};
use jlb_wire::{BootId, Control, FiveTuple, Kind, MemberId};

use crate::metrics::{self, Rejects};
use crate::store::Store;
use crate::{Counts, FlowView};

/// Timers, remembered ends and refusals that one tick works off.
const TICK_BUDGET: usize = 128;
/// Places of the flow table that one tick searches at most for flows that their backends no longer have.
const SWEPT_PER_TICK: usize = 2048;

/// Who a tracker's worker is, and how much it may hold.
#[derive(Clone, Copy, Debug)]
pub struct TrackerConfig {
    /// Our member id.
    pub id: MemberId,
    /// Which worker this is.
    pub worker: WorkerId,
    /// Workers of this process, 1 to 16.
    pub workers: u8,
    /// This process's boot id.
    pub boot: BootId,
    /// For nonces: random bits, other ones in each process and worker.
    pub seed: u64,
    /// Flows of this worker, pending ones included: 66 bytes each, and 56 for the timers.
    pub flow_capacity: usize,
    /// Flows that wait for a backend at the same time, at most 65,536: 200 bytes each.
    pub pending_capacity: usize,
    /// Tombstones, and as many refusals: 90 bytes each.
    pub remembered_capacity: usize,
}

/// What can happen to a tracker besides packets and time.
#[derive(Clone, Debug)]
pub enum TrackerEvent {
    /// Another member list.
    Snapshot(Arc<Snapshot>),
}

/// One worker of a flow tracker. It owns the partitions whose number modulo the workers is its own.
#[derive(Debug)]
pub struct Tracker<R: Rules = AllRules> {
    pub(crate) rules: R,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) peers: Peers,
    pub(crate) store: Store,
    pub(crate) rejects: Rejects,
    pub(crate) salt: u64,
    hasher: FlowHasher,
    handled: u64,
}

/// A control message that was believed, in its packet.
pub(crate) struct Message<B> {
    pub(crate) buf: B,
    pub(crate) envelope: Envelope,
    pub(crate) control: Control,
    pub(crate) tuple: FiveTuple,
    pub(crate) flow: FlowId,
}

impl<R: Rules> Tracker<R> {
    /// An empty one.
    ///
    /// # Errors
    /// [`SlabError`] when `pending_capacity` is more than a pool can hold.
    pub fn new(
        config: TrackerConfig,
        snapshot: Arc<Snapshot>,
        rules: R,
        now: Nanos,
    ) -> Result<Self, SlabError> {
        let TrackerConfig { id, worker, workers, boot, seed, .. } = config;
        let peers = PeersConfig { id, worker, workers, boot, seed };
        Ok(Self {
            rules,
            peers: Peers::new(peers, Arc::clone(&snapshot), now),
            store: Store::new(&config)?,
            rejects: Rejects::default(),
            hasher: FlowHasher::new(snapshot.keys().hash_key),
            snapshot,
            salt: 0,
            handled: 0,
        })
    }

    /// Picks other backends than trackers with another salt; they have 0, so that they agree. For the simulator: votes
    /// split there more often than in life.
    #[must_use]
    pub const fn with_salt(mut self, salt: u64) -> Self {
        self.salt = salt;
        self
    }

    /// What is known of a flow, for status and checkers.
    #[must_use]
    pub fn flow(&self, flow: &FlowId) -> Option<FlowView> {
        self.store.view(flow)
    }

    /// How much it holds, for status and checkers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.store.counts()
    }

    /// The other members as this worker knows them.
    #[must_use]
    pub const fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The member list in force.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Whose packet this is: a control message of ours, or nothing that is left to do.
    fn sort<B: PacketBuf>(
        &mut self,
        now: Nanos,
        buf: B,
        io: &mut impl Io<B>,
    ) -> Option<(B, Envelope, FiveTuple, FlowId)> {
        let envelope = match Envelope::open(buf.bytes(), self.peers.me(), &self.snapshot) {
            Ok(envelope) => envelope,
            Err(why) => {
                io.drop(buf, why);
                return None;
            }
        };
        match &envelope.carried {
            Carried::Body { .. } => {
                let former = self.peers.boot(envelope.from);
                let other = self.peers.receive_body(now, buf, &envelope, io);
                if envelope.from_role == MemberRole::Backend
                    && former.is_some_and(|boot| self.peers.boot(envelope.from) != Some(boot))
                {
                    self.store.start_sweep();
                }
                if let Some(other) = other {
                    io.drop(other.buf, Reason::WrongKind);
                }
                None
            }
            Carried::Plain { .. } => {
                io.drop(buf, Reason::WrongKind);
                None
            }
            Carried::Control { packet, .. } => {
                let tuple = packet.tuple;
                let flow = self.hasher.id(&tuple);
                let owner = owner(&flow, self.peers.workers());
                if owner != self.peers.worker() {
                    io.hand_over(buf, owner);
                    return None;
                }
                self.store.prefetch(&flow);
                Some((buf, envelope, tuple, flow))
            }
        }
    }

    fn take<B: PacketBuf>(
        &mut self,
        now: Nanos,
        (buf, envelope, tuple, flow): (B, Envelope, FiveTuple, FlowId),
        io: &mut impl Io<B>,
    ) {
        self.handled += 1;
        let control = match envelope.control(now, buf.bytes(), &mut self.peers) {
            Ok(control) => control,
            Err(why) => return io.drop(buf, why),
        };
        let message = Message { buf, envelope, control, tuple, flow };
        match control.kind {
            Kind::Open => self.on_open(now, message, io),
            Kind::Accept => self.on_accept(now, message, io),
            Kind::Reject => self.on_reject(now, message, io),
            Kind::Close => self.on_close(now, message, io),
            Kind::Cancel | Kind::Query | Kind::State | Kind::NotMine => {
                io.drop(message.buf, Reason::WrongKind);
            }
        }
    }

    /// The time of a pending entry's backend to answer is over: it is asked to decide now, again and again. The entry
    /// itself never just expires (rule 7), unless the operator took its backend out of the list.
    fn cancel<B: PacketBuf>(&mut self, now: Nanos, cookie: jlb_flow::Cookie, io: &mut impl Io<B>) {
        let Some(pending) = self.store.pending_mut(cookie) else { return };
        pending.cancels = pending.cancels.saturating_add(1);
        let pending = *pending;
        let expires = !self.rules.on(Rule::PendingNeverExpires);
        if expires || self.snapshot.member(pending.backend).is_none() {
            return self.store.remove(&pending.flow);
        }
        self.send_cancel(&pending, io);
        self.store.schedule_cancel(now, cookie);
    }
}

impl<B: PacketBuf, R: Rules> Role<B> for Tracker<R> {
    type Event = TrackerEvent;

    fn rx(&mut self, now: Nanos, burst: &mut Burst<B>, io: &mut impl Io<B>) {
        // First all are parsed and their places in the table fetched, then they are worked on.
        let mut ours: ArrayVec<_, BURST> = ArrayVec::new();
        for buf in burst.drain(..) {
            ours.extend(self.sort(now, buf, io));
        }
        for message in ours {
            self.take(now, message, io);
        }
    }

    fn event(&mut self, now: Nanos, event: TrackerEvent, _: &mut impl Io<B>) {
        match event {
            TrackerEvent::Snapshot(snapshot) => {
                self.rejects.renumber(&self.snapshot, &snapshot);
                let backends = self.snapshot.with_role(MemberRole::Backend);
                if backends.iter().any(|&id| snapshot.member(id).is_none()) {
                    self.store.start_sweep();
                }
                self.peers.update(Arc::clone(&snapshot), now);
                self.snapshot = snapshot;
            }
        }
    }

    fn tick(&mut self, now: Nanos, io: &mut impl Io<B>) {
        self.peers.tick(now, io);
        let mut budget = TICK_BUDGET;
        while let Some(cookie) = self.store.expire(now, &mut budget) {
            self.cancel(now, cookie, io);
        }
        let held = |backend| holds(&self.snapshot, &self.peers, backend);
        self.store.sweep(SWEPT_PER_TICK, held);
    }

    fn next_deadline(&self) -> Option<Nanos> {
        [self.peers.next_deadline(), self.store.next_deadline()].into_iter().flatten().min()
    }

    fn flow_packets(&self) -> Option<u64> {
        Some(self.handled)
    }

    fn collect(&self, out: &mut dyn MetricSink) {
        self.peers.collect(out);
        metrics::collect(&self.store, &self.rejects, &self.snapshot, out);
    }
}

/// Whether what a backend said under that boot id still counts: neither the operator took it out of the list nor did
/// it begin anew (rule 12).
pub(crate) fn holds(
    snapshot: &Snapshot,
    peers: &Peers,
    (backend, boot): (MemberId, BootId),
) -> bool {
    snapshot.member(backend).is_some() && peers.boot(backend).is_none_or(|current| current == boot)
}

/// The worker that owns a flow.
fn owner(flow: &FlowId, workers: u8) -> WorkerId {
    WorkerId((flow.partition().as_u16() % u16::from(workers.max(1))) as u8)
}
