use std::sync::Arc;

use arrayvec::ArrayVec;
use jlb_flow::{FlowHasher, FlowId, Partition, SlabError};
use jlb_map::{MemberRole, ServiceId, Snapshot};
use jlb_peers::{Carried, Envelope, Peers, PeersConfig, ReceivedBody};
use jlb_role::{
    AllRules, BURST, Burst, Histogram, Io, MetricSink, Nanos, PacketBuf, Reason, Role, Rule, Rules,
    WorkerId,
};
use jlb_wire::{
    BodyKind, BootId, Control, FiveTuple, Kind, LoadReport, MemberId, ServiceLoad, TOGETHER,
};

use crate::lease::Lease;
use crate::leave::Leave;
use crate::metrics::{self, Rejects};
use crate::pick::{News, Picker};
use crate::sole::Sole;
use crate::sources::Sources;
use crate::store::{Hint, Store};
use crate::warmth::{Ours, Warmth};
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
    /// Flows of this worker, pending ones included: 62 bytes each, and 56 for the timers.
    pub flow_capacity: usize,
    /// Flows that wait for a backend at the same time, at most 65,536: 200 bytes each.
    pub pending_capacity: usize,
    /// Tombstones, and as many refusals: about 130 bytes for one of each.
    pub remembered_capacity: usize,
}

/// What can happen to a tracker besides packets and time.
#[derive(Clone, Debug)]
pub enum TrackerEvent {
    /// Another member list.
    Snapshot(Arc<Snapshot>),
    /// Whether we are about to leave: others are asked to head then, and [`jlb_role::Report::MayLeave`] says when we may go.
    Leaving(bool),
}

/// One worker of a flow tracker. It owns the partitions whose number modulo the workers is its own.
#[derive(Debug)]
pub struct Tracker<R: Rules = AllRules> {
    pub(crate) rules: R,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) peers: Peers,
    pub(crate) store: Store,
    pub(crate) rejects: Rejects,
    pub(crate) sources: Sources,
    pub(crate) warmth: Warmth,
    pub(crate) lease: Lease,
    pub(crate) sole: Sole,
    /// What was last reported of our warmth, and when those whom we wait for.
    pub(crate) told_warm: Option<bool>,
    pub(crate) told_at: Nanos,
    pub(crate) refresh_seconds: Histogram,
    pub(crate) leave: Leave,
    pub(crate) picker: Picker,
    pub(crate) salt: u64,
    pub(crate) hasher: FlowHasher,
    handled: u64,
}

/// A control message that is not believed yet, in its packet.
struct Received<B> {
    buf: B,
    envelope: Envelope,
    tuple: FiveTuple,
    flow: FlowId,
    hint: Option<Hint>,
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
        let mut peers = Peers::new(peers, Arc::clone(&snapshot), now);
        let ours = Ours { me: id, worker: worker.0, workers };
        let warmth =
            if rules.on(Rule::Cold) { Warmth::cold(now, ours, &snapshot) } else { Warmth::warm() };
        peers.set_cold(warmth.count() > 0);
        Ok(Self {
            rules,
            peers,
            sources: Sources::new(seed.rotate_left(32)),
            warmth,
            lease: Lease::default(),
            sole: Sole::new(now, seed.rotate_left(16)),
            told_warm: None,
            told_at: now,
            refresh_seconds: Histogram::default(),
            leave: Leave::default(),
            store: Store::new(&config)?,
            rejects: Rejects::default(),
            hasher: FlowHasher::new(snapshot.keys().hash_key),
            picker: Picker::new(&snapshot),
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

    /// Whose packet this is: a control message of ours, the so-manieth of the burst, or nothing that is left to do.
    fn sort<B: PacketBuf>(
        &mut self,
        now: Nanos,
        buf: B,
        nth: usize,
        io: &mut impl Io<B>,
    ) -> Option<Received<B>> {
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
                match other {
                    Some(other) if other.body.kind == BodyKind::Refresh => {
                        self.handled += 1;
                        self.on_refresh(now, other, io);
                    }
                    Some(other) if other.body.kind == BodyKind::Epoch => {
                        self.on_epoch(now, other, io);
                    }
                    Some(other) if other.body.kind == BodyKind::Load => {
                        if let Err(why) = self.take_load(now, &other) {
                            io.drop(other.buf, why);
                        }
                    }
                    Some(other) => io.drop(other.buf, Reason::WrongKind),
                    None => {}
                }
                None
            }
            Carried::Plain { .. } => {
                io.drop(buf, Reason::WrongKind);
                None
            }
            Carried::Control { packet, option, .. } => {
                let tuple = packet.tuple;
                let flow = self.hasher.id(&tuple);
                let owner = owner(&flow, self.peers.workers());
                if owner != self.peers.worker() {
                    io.hand_over(buf, owner);
                    return None;
                }
                let hint = buf.bytes().get(*option..).and_then(Control::hint);
                if let Some(hint) = hint {
                    self.store.prefetch_for(&flow, tuple.protocol(), hint, nth);
                }
                Some(Received { buf, envelope, tuple, flow, hint })
            }
        }
    }

    fn take<B: PacketBuf>(
        &mut self,
        now: Nanos,
        received: Received<B>,
        fits: bool,
        io: &mut impl Io<B>,
    ) {
        let Received { buf, envelope, tuple, flow, .. } = received;
        self.handled += 1;
        let control = envelope.control_verified(now, buf.bytes(), &mut self.peers, fits);
        let control = match control {
            Ok(control) => control,
            Err(why) => return io.drop(buf, why),
        };
        self.hear(now, &control, &tuple);
        let message = Message { buf, envelope, control, tuple, flow };
        match control.kind {
            Kind::Open => self.on_open(now, message, io),
            Kind::Accept => self.on_accept(now, message, io),
            Kind::Reject => self.on_reject(now, message, io),
            Kind::Close => self.on_close(now, message, io),
            Kind::Query => self.on_query(now, message, io),
            Kind::Cancel | Kind::State | Kind::NotMine => {
                io.drop(message.buf, Reason::WrongKind);
            }
        }
    }

    /// A backend says unasked how busy it is.
    fn take_load<B: PacketBuf>(
        &mut self,
        now: Nanos,
        received: &ReceivedBody<B>,
    ) -> Result<(), Reason> {
        let backend = received.body.sender;
        if self.snapshot.member(backend).is_none_or(|m| m.role != MemberRole::Backend) {
            return Err(Reason::NotAMember);
        }
        let (report, services) = LoadReport::parse(received.payload()).ok_or(Reason::Malformed)?;
        // With another list a number means another service; both will have the same one soon.
        if report.generation == self.snapshot.generation() {
            for ServiceLoad { service, live, unwilling, share } in services.iter() {
                let news = News::Told(unwilling, share);
                self.picker.heard(now, (ServiceId(service), backend), live, news);
            }
        }
        Ok(())
    }

    /// Every word of a backend says how busy it is.
    fn hear(&mut self, now: Nanos, control: &Control, tuple: &FiveTuple) {
        let news = match control.kind {
            Kind::Close => News::End,
            // It says so unasked, too, and when it is over.
            Kind::Reject if control.reason.is_told() => News::Refuses(control.reason),
            Kind::Reject if control.reason.lasts() => News::Unwilling,
            Kind::Accept | Kind::Reject => News::Load,
            Kind::Open | Kind::Cancel | Kind::Query | Kind::State | Kind::NotMine => return,
        };
        if control.backend != Some(control.sender) {
            return;
        }
        let vip = tuple.vip();
        if let Some(service) = self.snapshot.service(vip.ip(), vip.port(), tuple.protocol()) {
            self.picker.heard(now, (service, control.sender), control.load.live, news);
        }
    }

    /// The time of a pending entry's backend to answer is over: it is asked to decide now, again and again. The entry
    /// itself never just expires (rule 7), unless its backend is dead or the operator took it out of the list.
    fn cancel<B: PacketBuf>(&mut self, now: Nanos, cookie: jlb_flow::Cookie, io: &mut impl Io<B>) {
        let Some(pending) = self.store.pending_mut(cookie) else { return };
        pending.cancels = pending.cancels.saturating_add(1);
        pending.asked_at = now;
        let pending = *pending;
        let expires = !self.rules.on(Rule::PendingNeverExpires);
        let dead = self.peers.dead(now, pending.backend, self.rules.on(Rule::TwoWitnesses));
        if expires || dead || self.snapshot.member(pending.backend).is_none() {
            return self.store.remove(&pending.flow);
        }
        self.send_cancel(&pending, io);
        self.store.schedule_cancel(now, cookie);
    }
}

impl<R: Rules> Tracker<R> {
    /// Why we may not lead a chain in a partition that we once voted in.
    pub(crate) fn may_not_head(&self, now: Nanos, partition: Partition) -> Option<Reason> {
        if !self.snapshot.trio(partition).contains(self.peers.me()) {
            return Some(Reason::NotInTrio);
        }
        if self.is_cold(partition) {
            return Some(Reason::Cold);
        }
        (!self.may_vote(now, partition)).then_some(Reason::SoleOwner)
    }

    /// Which partitions are this worker's.
    pub(crate) fn ours(&self) -> Ours {
        let (worker, workers) = (self.peers.worker().0, self.peers.workers());
        Ours { me: self.peers.me(), worker, workers }
    }

    /// Goes on to remove established flows whose backend is gone from the list, began anew, or did not list them, and those
    /// of partitions that others own now. Not those of dead hosts: one that speaks again has them still.
    fn sweep(&mut self) {
        let (snapshot, peers, sources) = (&self.snapshot, &self.peers, &self.sources);
        self.store.sweep(SWEPT_PER_TICK, |partition, flow| {
            snapshot.member(flow.backend).is_some()
                && peers.boot(flow.backend).is_none_or(|current| current == flow.boot)
                && snapshot.trio(partition).contains(peers.me())
                && !sources.misses(flow.backend, (flow.boot, flow.counter), flow.listed)
        });
    }
}

impl<B: PacketBuf, R: Rules> Role<B> for Tracker<R> {
    type Event = TrackerEvent;

    fn rx(&mut self, now: Nanos, burst: &mut Burst<B>, io: &mut impl Io<B>) {
        // First all are parsed, then their MACs are verified side by side, then they are worked on. Meanwhile the memory that
        // they will need is fetched, in three steps, since one place tells of the next.
        let mut ours: ArrayVec<Received<B>, BURST> = ArrayVec::new();
        for buf in burst.drain(..) {
            ours.extend(self.sort(now, buf, ours.len(), io));
        }
        for Received { tuple, flow, hint, .. } in &ours {
            if let Some(hint) = *hint {
                self.store.prefetch_behind(flow, tuple.protocol(), hint);
            }
        }
        let mut fit: ArrayVec<bool, BURST> = ArrayVec::new();
        for ours in ours.chunks(TOGETHER) {
            let messages: ArrayVec<_, TOGETHER> =
                ours.iter().map(|m| (&m.envelope, m.buf.bytes())).collect();
            let fits = Envelope::verify(&messages, &self.snapshot);
            fit.extend(fits.into_iter().take(ours.len()));
        }
        for Received { flow, hint, .. } in &ours {
            if matches!(hint, Some((Kind::Accept | Kind::Reject, _))) {
                self.store.prefetch_timer(flow);
            }
        }
        // Not `into_iter`, which moves the whole array first.
        for (message, fits) in ours.drain(..).zip(fit) {
            self.take(now, message, fits, io);
        }
    }

    fn event(&mut self, now: Nanos, event: TrackerEvent, io: &mut impl Io<B>) {
        match event {
            TrackerEvent::Snapshot(snapshot) => {
                self.rejects.renumber(&self.snapshot, &snapshot);
                self.picker.update(&self.snapshot, &snapshot);
                let backends = self.snapshot.with_role(MemberRole::Backend);
                let other_epoch = snapshot.epoch() != self.snapshot.epoch();
                if other_epoch || backends.iter().any(|&id| snapshot.member(id).is_none()) {
                    self.store.start_sweep();
                }
                if other_epoch && self.rules.on(Rule::Cold) {
                    self.warmth.change(now, self.ours(), &self.snapshot, &snapshot);
                }
                self.sources.update(&self.snapshot, &snapshot);
                self.peers.update(Arc::clone(&snapshot), now);
                self.snapshot = snapshot;
                if other_epoch {
                    self.sole_of_another_epoch(io);
                }
                self.tell_warmth(now, io);
            }
            TrackerEvent::Leaving(leaving) => self.set_leaving(now, leaving),
        }
    }

    fn tick(&mut self, now: Nanos, io: &mut impl Io<B>) {
        self.peers.tick(now, io);
        let mut budget = TICK_BUDGET;
        while let Some(cookie) = self.store.expire(now, &mut budget) {
            self.cancel(now, cookie, io);
        }
        self.sweep();
        let peers = &self.peers;
        let answers = |member| peers.offerable(member) || peers.undecided(member);
        self.picker.watch(now, &self.snapshot, answers);
        self.pull(now, io);
    }

    fn next_deadline(&self) -> Option<Nanos> {
        let deadlines = [self.peers.next_deadline(), self.store.next_deadline()];
        deadlines.into_iter().flatten().chain([self.sources.next_deadline()]).min()
    }

    fn flow_packets(&self) -> Option<u64> {
        Some(self.handled)
    }

    fn collect(&self, out: &mut dyn MetricSink) {
        self.peers.collect(out);
        metrics::collect(&self.store, &self.rejects, &self.snapshot, out);
        metrics::collect_refresh(
            self.warmth.count(),
            self.sources.batches,
            &self.refresh_seconds,
            out,
        );
        self.sole.collect(out);
        if self.peers.worker() == WorkerId(0) {
            metrics::collect_panic(&self.picker, &self.snapshot, out);
        }
    }
}

/// The worker that owns a flow.
pub(crate) fn owner(flow: &FlowId, workers: u8) -> WorkerId {
    WorkerId((flow.partition().as_u16() % u16::from(workers.max(1))) as u8)
}
