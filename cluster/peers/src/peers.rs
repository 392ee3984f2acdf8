use core::ops::Range;
use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use jlb_map::{MemberRole, Snapshot};
use jlb_role::{
    Io, Metric, MetricKind, MetricSink, Nanos, PacketBuf, Reason, Report, UnderlayDst, WorkerId,
};
use jlb_wire::{
    Body, BodyKind, BootId, Epoch, LoadReport, MAX_BODY_PAYLOAD, MemberId, Members, Payload, Probe,
    Refresh, body_flags,
};

use crate::peer::{Peer, Standing};
use crate::send::{buffer_for, wrap};
use crate::{Carried, Envelope, Messages, Random, body_reason};

/// How often ingress hosts and trackers are asked by each other: 3 × 20 ms, since below 3 × 10 ms the scheduler alone
/// trips it.
pub const PROBE_DATAPLANE: Nanos = Nanos::from_millis(20);
/// How often agents are asked.
pub const PROBE_AGENTS: Nanos = Nanos::from_millis(100);
/// How often agents ask.
pub const PROBE_BY_AGENT: Nanos = Nanos::from_secs(1);
/// Questions in vain that make a suspect.
pub const MISSED_LIMIT: u32 = 3;
/// Silence after which a tracker names a backend to the ingress hosts.
pub const DEAD_AFTER: Nanos = Nanos::from_secs(3);
/// While some member is away, it is looked so often whether it is back.
const LOOK_EVERY: Nanos = Nanos::from_millis(100);
/// A backend whose daemon's heartbeat is older is offered nothing.
pub const HEARTBEAT_LIMIT: Nanos = Nanos::from_millis(300);
/// Least time between two questions to one member that names an unknown boot id.
pub const ASK_AGAIN: Nanos = Nanos::from_millis(20);

/// Questions per tick: 4095 members on a 20 ms beat need 205 per ms.
const ASKED_PER_TICK: usize = 64;
/// Reports per tick.
const TOLD_PER_TICK: usize = 64;
/// A tick that comes later than this after a question was due says that we were not running ourselves.
const STALLED: Nanos = Nanos::from_millis(20);

static MEMBER_UP: Metric = Metric {
    name: "jlb_member_up",
    help: "Whether a member answers this daemon's Probe.",
    kind: MetricKind::Gauge,
};

static SUSPICIONS: Metric = Metric {
    name: "jlb_member_suspicions_total",
    help: "How often a member that had answered Probe was found silent.",
    kind: MetricKind::Counter,
};

/// Who we are.
#[derive(Clone, Copy, Debug)]
pub struct PeersConfig {
    /// Our member id.
    pub id: MemberId,
    /// The worker that this instance belongs to.
    pub worker: WorkerId,
    /// Workers of this process, 1 to 16.
    pub workers: u8,
    /// This process's boot id.
    pub boot: BootId,
    /// For nonces: random bits, other ones in each process and worker.
    pub seed: u64,
}

/// The other members, as one worker knows them.
#[derive(Debug)]
pub struct Peers {
    config: PeersConfig,
    role: MemberRole,
    snapshot: Arc<Snapshot>,
    /// By id; `None` for whom we do not ask.
    peers: Box<[Option<Box<Peer>>]>,
    /// Whose turn is when; one queue per interval keeps them sorted.
    turns: [VecDeque<(Nanos, MemberId)>; 3],
    /// To be asked out of turn.
    wanted: VecDeque<MemberId>,
    /// Whose state changed since it was reported.
    news: VecDeque<MemberId>,
    /// All whom we ask were heard then, or became known, or later.
    all_heard_since: Nanos,
    /// When that was found out.
    looked_at: Nanos,
    nonces: Random,
    sequence: u64,
    leaving: bool,
    cold: bool,
    pub(crate) messages: Messages,
}

impl Peers {
    /// Knows nobody yet: the first questions go out within 20 ms.
    ///
    /// A member that is not in the list asks nobody and hears nobody until a list names it.
    #[must_use]
    pub fn new(config: PeersConfig, snapshot: Arc<Snapshot>, now: Nanos) -> Self {
        let mut this = Self {
            config,
            role: MemberRole::Backend,
            snapshot: Arc::clone(&snapshot),
            peers: (0..=MemberId::MAX).map(|_| None).collect(),
            turns: Default::default(),
            wanted: VecDeque::new(),
            news: VecDeque::new(),
            all_heard_since: now,
            looked_at: now,
            nonces: Random::new(config.seed),
            sequence: u64::from(config.worker.0) << 56,
            leaving: false,
            cold: false,
            messages: Messages::default(),
        };
        this.update(snapshot, now);
        this
    }

    /// Takes another member list: who stays keeps its boot id, windows and state.
    pub fn update(&mut self, snapshot: Arc<Snapshot>, now: Nanos) {
        let Some(me) = snapshot.member(self.config.id) else {
            self.snapshot = snapshot;
            return;
        };
        self.role = me.role;
        let wanted = |id: MemberId| {
            let role = snapshot.member(id)?.role;
            (id != self.config.id).then(|| interval(self.role, role)).flatten()
        };
        for slot in &mut self.peers {
            if slot.as_ref().is_some_and(|p| wanted(p.id).is_none()) {
                *slot = None;
            }
        }
        let mut fresh = Vec::new();
        for member in snapshot.members() {
            let Some((queue, interval)) = wanted(member.id) else { continue };
            match &mut self.peers[member.id.index()] {
                Some(peer) => peer.mismatch_told = false,
                slot => {
                    *slot = Some(Box::new(Peer::new(member.id, interval, now)));
                    fresh.push((queue, member.id));
                }
            }
        }
        // The new ones spread over 20 ms. They stand before those whose turn is later, since the queues are sorted.
        let step = PROBE_DATAPLANE.0 / (fresh.len() as u64 + 1);
        for (n, (queue, id)) in (0..).zip(fresh) {
            self.turns[queue].push_back((now + Nanos(step * n), id));
        }
        for queue in &mut self.turns {
            queue.retain(|&(_, id)| self.peers[id.index()].is_some());
            queue.make_contiguous().sort();
        }
        self.wanted.retain(|&id| self.peers[id.index()].is_some());
        self.news.retain(|&id| self.peers[id.index()].is_some());
        self.snapshot = snapshot;
    }

    /// The member list in force.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Our member id.
    #[must_use]
    pub const fn me(&self) -> MemberId {
        self.config.id
    }

    /// What we do in the cluster.
    #[must_use]
    pub const fn role(&self) -> MemberRole {
        self.role
    }

    /// Our boot id.
    #[must_use]
    pub const fn own_boot(&self) -> BootId {
        self.config.boot
    }

    /// The worker that this instance belongs to.
    #[must_use]
    pub const fn worker(&self) -> WorkerId {
        self.config.worker
    }

    /// Workers of this process.
    #[must_use]
    pub const fn workers(&self) -> u8 {
        self.config.workers
    }

    /// Says in every Probe from now on that we are about to leave (or not).
    pub const fn set_leaving(&mut self, leaving: bool) {
        self.leaving = leaving;
    }

    /// Says in every Probe from now on that we do not yet know what all backends have (or do).
    pub const fn set_cold(&mut self, cold: bool) {
        self.cold = cold;
    }

    /// Goes on behind `sequence`, if that is further on (its top 8 bits must name our worker): for a boot id that
    /// outlives the process, so that no number is used twice.
    pub const fn skip_sequence(&mut self, sequence: u64) {
        if sequence > self.sequence {
            self.sequence = sequence;
        }
    }

    /// The number for the next message that we sign; its top 8 bits name the worker.
    pub const fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Whether a message whose MAC fits is new and of its sender's current boot; if so, the sender counts as heard.
    /// Names an unknown boot id: the sender will be asked at once (within limits).
    ///
    /// # Errors
    /// [`Reason::NotAMember`] for whom we never listen to, [`Reason::UnknownBoot`], [`Reason::Replayed`], and
    /// [`Reason::Malformed`] for a worker above 15.
    pub fn accept(
        &mut self,
        now: Nanos,
        member: MemberId,
        boot: BootId,
        sequence: u64,
    ) -> Result<(), Reason> {
        let peer = self.peers[member.index()].as_mut().ok_or(Reason::NotAMember)?;
        let accepted = peer.accept(now, boot, sequence);
        if accepted == Err(Reason::UnknownBoot) {
            self.ask(now, member);
        }
        self.note(member);
        accepted
    }

    /// Asks a member out of turn, at the next tick, unless it was asked within [`ASK_AGAIN`].
    pub fn ask(&mut self, now: Nanos, member: MemberId) {
        let Some(peer) = self.peers[member.index()].as_mut() else { return };
        if !peer.wanted && peer.asked_at.is_none_or(|t| now.since(t) >= ASK_AGAIN) {
            peer.wanted = true;
            self.wanted.push_back(member);
        }
    }

    /// Whether a member answers. `false` for ourselves and for whom we do not ask.
    #[must_use]
    pub fn alive(&self, member: MemberId) -> bool {
        self.peer(member).is_some_and(|p| p.up)
    }

    /// Whether a backend can be offered new flows as far as its life goes: alive, its daemon's heartbeat no older than
    /// [`HEARTBEAT_LIMIT`], and not leaving.
    #[must_use]
    pub fn offerable(&self, member: MemberId) -> bool {
        self.peer(member).is_some_and(|p| {
            p.up && !p.leaving && u64::from(p.heartbeat_age_ms) * 1_000_000 <= HEARTBEAT_LIMIT.0
        })
    }

    /// Whether nothing can be said of a member yet: it has not answered, and was not asked in vain often enough to be
    /// a suspect. So it is with all of them just after a start.
    #[must_use]
    pub fn undecided(&self, member: MemberId) -> bool {
        self.peer(member).is_some_and(|p| p.boot.is_none() && p.missed < MISSED_LIMIT)
    }

    /// The boot id with which a member answered our latest Probe that it answered.
    #[must_use]
    pub fn boot(&self, member: MemberId) -> Option<BootId> {
        self.peer(member)?.boot
    }

    /// The age of its daemon's heartbeat that a member told last.
    #[must_use]
    pub fn heartbeat_age(&self, member: MemberId) -> Option<Nanos> {
        let peer = self.peer(member)?;
        peer.boot.map(|_| Nanos(u64::from(peer.heartbeat_age_ms) * 1_000_000))
    }

    /// What a backend said last of our votes.
    #[must_use]
    pub fn standing(&self, member: MemberId) -> Option<Standing> {
        self.peer(member)?.standing
    }

    /// Whether a member says that it is about to leave.
    #[must_use]
    pub fn leaving(&self, member: MemberId) -> bool {
        self.peer(member).is_some_and(|p| p.leaving)
    }

    /// Whether a tracker says that it does not yet know what all backends have.
    #[must_use]
    pub fn cold(&self, member: MemberId) -> bool {
        self.peer(member).is_some_and(|p| p.cold)
    }

    /// In which order a flow's trackers are asked: who answers and can head, then who answers, then the rest; within each
    /// by rank.
    pub fn in_order(
        &self,
        trackers: impl Iterator<Item = MemberId>,
    ) -> impl Iterator<Item = MemberId> {
        let place = |&id: &MemberId| match self.peer(id) {
            Some(p) if p.up && !p.cold && !p.leaving => 0,
            Some(p) if p.up => 1,
            Some(_) | None => 2,
        };
        let mut order: ArrayVec<MemberId, { jlb_map::TRIO }> =
            trackers.take(jlb_map::TRIO).collect();
        // Mostly all answer.
        if !order.is_sorted_by_key(place) {
            order.sort_by_key(place);
        }
        order.into_iter()
    }

    /// When a member said last something that could be believed.
    #[must_use]
    pub fn heard_at(&self, member: MemberId) -> Option<Nanos> {
        self.peer(member)?.heard_at
    }

    /// The backends and trackers not heard for [`DEAD_AFTER`].
    pub fn silent(&self, now: Nanos) -> impl Iterator<Item = MemberId> + '_ {
        let members = [MemberRole::Backend, MemberRole::FlowTracker];
        let members = members.into_iter().flat_map(|role| self.snapshot.with_role(role));
        members.copied().filter(move |&id| {
            self.peer(id).is_some_and(|p| now.since(p.silent_since) > DEAD_AFTER)
        })
    }

    /// Whether a backend or tracker is dead: silent for [`DEAD_AFTER`] as we see it, and as another member said lately. (The second
    /// witness can be left out by a canary.)
    #[must_use]
    pub fn dead(&self, now: Nanos, member: MemberId, two_witnesses: bool) -> bool {
        self.peer(member).is_some_and(|p| p.dead(now, two_witnesses))
    }

    /// The epoch of a member's list, as its last Probe says.
    #[must_use]
    pub fn epoch(&self, member: MemberId) -> Option<Epoch> {
        self.peer(member)?.epoch
    }

    /// Takes a received body. Probes are dealt with here, to the end: answered, or their answer used, or handed to the
    /// worker that asked. Others are the role's: what is given back was verified, is of the sender's current boot, new,
    /// and for this worker.
    pub fn receive_body<B: PacketBuf>(
        &mut self,
        now: Nanos,
        buf: B,
        envelope: &Envelope,
        io: &mut impl Io<B>,
    ) -> Option<ReceivedBody<B>> {
        match self.read_body(now, buf.bytes(), envelope) {
            Ok(Next::Role(body, payload)) => return Some(ReceivedBody { body, buf, payload }),
            Ok(Next::Done) => {}
            Ok(Next::Other(worker)) => io.hand_over(buf, worker),
            Ok(Next::Answer { to, nonce, worker }) => self.answer(now, to, nonce, worker, io),
            Ok(Next::Booted { member, boot, sequence }) => {
                io.report(Report::PeerBoot { member, boot, sequence });
            }
            Ok(Next::Mismatch(member)) => io.report(Report::ListMismatch { member }),
            Err(why) => io.drop(buf, why),
        }
        None
    }

    fn read_body(&mut self, now: Nanos, bytes: &[u8], envelope: &Envelope) -> Result<Next, Reason> {
        let Carried::Body { body: at } = envelope.carried else { return Err(Reason::WrongKind) };
        let bytes = bytes.get(at..envelope.outer.len).ok_or(Reason::Truncated)?;
        let (body, payload) =
            Body::parse(bytes, &self.snapshot.keys().mac_keys).map_err(body_reason)?;
        if body.sender != envelope.from {
            return Err(Reason::NotAMember);
        }
        if body.receiver != self.config.id {
            return Err(Reason::NotAddressee);
        }
        match body.kind {
            BodyKind::Probe => {}
            BodyKind::Refresh => return self.read_refresh(now, &body, payload, at),
            BodyKind::Epoch => {
                self.accept(now, body.sender, body.boot, body.sequence)?;
                self.messages.received_body(body.kind);
                let begins = at + Body::HEADER_LEN;
                return Ok(Next::Role(body, begins..begins + payload.len()));
            }
            BodyKind::Load => return self.read_load(now, &body, payload, at),
        }
        let (probe, silent) = Probe::parse(payload).ok_or(Reason::Malformed)?;
        if body.flags & body_flags::ANSWER == 0 {
            self.read_question(now, &body, &probe)
        } else if probe.worker == self.config.worker.0 {
            let next = self.read_answer(now, &body, &probe)?;
            self.learn_silent(now, silent);
            Ok(next)
        } else if probe.worker < self.config.workers {
            // It must be verified there once more: the windows are there.
            Ok(Next::Other(WorkerId(probe.worker)))
        } else {
            Err(Reason::Malformed)
        }
    }

    fn read_question(&mut self, now: Nanos, body: &Body, probe: &Probe) -> Result<Next, Reason> {
        // Of another boot it is answered too: that is how a boot becomes known. But only who has proved to be alive by
        // an answer to our nonce counts as heard.
        match self.accept(now, body.sender, body.boot, body.sequence) {
            Ok(()) => self.learn_leaving(body),
            Err(Reason::UnknownBoot) => {}
            Err(why) => return Err(why),
        }
        self.messages.received_body(BodyKind::Probe);
        Ok(Next::Answer { to: body.sender, nonce: body.nonce, worker: probe.worker })
    }

    fn read_answer(&mut self, now: Nanos, body: &Body, probe: &Probe) -> Result<Next, Reason> {
        let peer = self.peers[body.sender.index()].as_mut().ok_or(Reason::NotAMember)?;
        let booted = peer.boot != Some(body.boot);
        if booted && !peer.awaits(body.nonce) {
            return Err(Reason::UnknownBoot);
        }
        if booted {
            peer.boot = Some(body.boot);
            peer.windows = crate::window::Windows::EMPTY;
        }
        // Late answers, to a nonce before the latest, are life too.
        peer.accept(now, body.boot, body.sequence)?;
        if let Some(asked) = peer.answered(body.nonce) {
            if booted {
                // What its former boot answered may come yet.
                peer.open.clear();
            }
            peer.heartbeat_age_ms = probe.heartbeat_age_ms;
            let obeys = body.flags & body_flags::OBEYS != 0;
            let shut_out = probe.shut_out;
            peer.standing = Some(Standing { asked, boot: body.boot, shut_out, obeys });
        }
        self.learn_leaving(body);
        self.note(body.sender);
        self.messages.received_body(BodyKind::Probe);
        if booted {
            let (member, boot, sequence) = (body.sender, body.boot, body.sequence);
            return Ok(Next::Booted { member, boot, sequence });
        }
        Ok(self.mismatch(body.sender, probe).map_or(Next::Done, Next::Mismatch))
    }

    /// A tracker is asked by an agent, for the worker that pulled; an agent has one worker that reads it.
    fn read_refresh(
        &mut self,
        now: Nanos,
        body: &Body,
        payload: &[u8],
        at: usize,
    ) -> Result<Next, Reason> {
        let (refresh, _) = Refresh::parse(payload).ok_or(Reason::Malformed)?;
        if self.role == MemberRole::FlowTracker && refresh.worker != self.config.worker.0 {
            return if refresh.worker < self.config.workers {
                Ok(Next::Other(WorkerId(refresh.worker)))
            } else {
                Err(Reason::Malformed)
            };
        }
        self.accept(now, body.sender, body.boot, body.sequence)?;
        self.messages.received_body(BodyKind::Refresh);
        let begins = at + Body::HEADER_LEN;
        Ok(Next::Role(*body, begins..begins + payload.len()))
    }

    /// A tracker's workers are told one by one.
    fn read_load(
        &mut self,
        now: Nanos,
        body: &Body,
        payload: &[u8],
        at: usize,
    ) -> Result<Next, Reason> {
        if self.role != MemberRole::FlowTracker {
            return Err(Reason::WrongKind);
        }
        let (load, _) = LoadReport::parse(payload).ok_or(Reason::Malformed)?;
        if load.worker != self.config.worker.0 {
            return if load.worker < self.config.workers {
                Ok(Next::Other(WorkerId(load.worker)))
            } else {
                Err(Reason::Malformed)
            };
        }
        self.accept(now, body.sender, body.boot, body.sequence)?;
        self.messages.received_body(BodyKind::Load);
        let begins = at + Body::HEADER_LEN;
        Ok(Next::Role(*body, begins..begins + payload.len()))
    }

    fn learn_leaving(&mut self, body: &Body) {
        if let Some(peer) = self.peers[body.sender.index()].as_mut() {
            peer.leaving = body.flags & body_flags::LEAVING != 0;
            peer.cold = body.flags & body_flags::COLD != 0;
            peer.epoch = Some(body.epoch);
        }
    }

    /// Another member's word that it does not hear these.
    fn learn_silent(&mut self, now: Nanos, silent: Members<'_>) {
        for id in silent.iter() {
            if let Some(peer) = self.peers[id.index()].as_mut() {
                peer.missed_elsewhere = Some(now);
            }
        }
    }

    /// Whether another list under our list's number is news.
    fn mismatch(&mut self, member: MemberId, probe: &Probe) -> Option<MemberId> {
        let other = probe.generation == self.snapshot.generation()
            && probe.digest != self.snapshot.digest().0;
        let peer = self.peers[member.index()].as_mut()?;
        let news = other && !peer.mismatch_told;
        peer.mismatch_told |= other;
        news.then_some(member)
    }

    /// Asks whose turn it is, and reports who is there and who is missing. Bounded: what is left over shows in
    /// [`Self::next_deadline`].
    pub fn tick<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        let mut budget = ASKED_PER_TICK;
        for queue in 0..self.turns.len() {
            while let Some(&(due, id)) = self.turns[queue].front() {
                if due > now || budget == 0 {
                    break;
                }
                budget -= 1;
                self.turns[queue].pop_front();
                let Some(peer) = self.peers[id.index()].as_mut() else { continue };
                peer.judge(now, now.since(due) > STALLED, MISSED_LIMIT);
                peer.turn_at = Some(now);
                let interval = peer.interval;
                let dead = peer.dead(now, true);
                if dead
                    && !peer.told_dead
                    && self.snapshot.with_role(MemberRole::Backend).binary_search(&id).is_ok()
                {
                    io.report(Report::BackendDead { member: id });
                }
                peer.told_dead = dead;
                self.note(id);
                self.question(now, id, io);
                // From now, not from when it was due: after a stall no burst is made up for.
                self.turns[queue].push_back((now + interval, id));
            }
        }
        while budget > 0 {
            let Some(id) = self.wanted.pop_front() else { break };
            budget -= 1;
            if let Some(peer) = self.peers[id.index()].as_mut() {
                peer.wanted = false;
                self.question(now, id, io);
            }
        }
        for _ in 0..TOLD_PER_TICK {
            let Some(id) = self.news.pop_front() else { break };
            let Some(peer) = self.peers[id.index()].as_mut() else { continue };
            if peer.up != peer.told_up {
                peer.told_up = peer.up;
                io.report(if peer.up {
                    Report::PeerAlive { member: id }
                } else {
                    Report::PeerSuspect { member: id }
                });
            }
        }
    }

    /// When [`Self::tick`] wants to be called, at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        if !self.wanted.is_empty() || !self.news.is_empty() {
            return Some(Nanos::ZERO);
        }
        self.turns.iter().filter_map(|queue| queue.front()).map(|&(due, _)| due).min()
    }

    /// Gives `jlb_messages_total` of this worker, and from worker 0 what all workers would say alike:
    /// `jlb_member_up`.
    pub fn collect(&self, out: &mut dyn MetricSink) {
        self.messages.collect(out);
        if self.config.worker.0 == 0 {
            self.collect_members(out);
        }
    }

    /// Gives what all workers would say alike.
    pub fn collect_members(&self, out: &mut dyn MetricSink) {
        for member in self.snapshot.members() {
            if let Some(peer) = self.peer(member.id) {
                let up = if peer.up { 1.0 } else { 0.0 };
                out.value(&MEMBER_UP, &[("member", &member.name)], up);
                // Far below 2⁵³, beyond which a float is no longer exact.
                out.value(&SUSPICIONS, &[("member", &member.name)], peer.suspicions as f64);
            }
        }
    }

    fn peer(&self, member: MemberId) -> Option<&Peer> {
        self.peers[member.index()].as_deref()
    }

    /// Queues the report on a member whose state changed. At most one entry per change of state, and a peer changes
    /// at most twice between two ticks: bounded.
    fn note(&mut self, member: MemberId) {
        let Some(peer) = self.peer(member) else { return };
        if peer.up != peer.told_up && !self.news.contains(&member) {
            self.news.push_back(member);
        }
    }

    fn question<B: PacketBuf>(&mut self, now: Nanos, to: MemberId, io: &mut impl Io<B>) {
        let Some(peer) = self.peers[to.index()].as_mut() else { return };
        let nonce = peer.nonce_at(now, || self.nonces.next());
        peer.asked_at = Some(now);
        self.send_probe(to, nonce, 0, &self.probe(self.config.worker.0).emit(), io);
    }

    fn answer<B: PacketBuf>(
        &mut self,
        now: Nanos,
        to: MemberId,
        nonce: u64,
        worker: u8,
        io: &mut impl Io<B>,
    ) {
        let probe = self.probe(worker);
        if self.role != MemberRole::Backend && self.may_be_silent(now) {
            let silent: Vec<_> = self.silent(now).take(Probe::MAX_SILENT).collect();
            let mut payload = [0; MAX_BODY_PAYLOAD];
            let len = probe.emit_with(&silent, &mut payload);
            self.send_probe(to, nonce, body_flags::ANSWER, &payload[..len], io);
        } else {
            self.send_probe(to, nonce, body_flags::ANSWER, &probe.emit(), io);
        }
    }

    /// `false` when [`Self::silent`] names nobody: mostly known without looking at each.
    fn may_be_silent(&mut self, now: Nanos) -> bool {
        if now.since(self.all_heard_since) <= DEAD_AFTER {
            return false;
        }
        // Somebody is away, and both looks are as long.
        if now.since(self.looked_at) < LOOK_EVERY {
            return true;
        }
        self.looked_at = now;
        let peers = self.peers.iter().flatten();
        self.all_heard_since = peers.map(|p| p.silent_since).min().unwrap_or(now);
        now.since(self.all_heard_since) > DEAD_AFTER
    }

    fn probe(&self, worker: u8) -> Probe {
        Probe {
            generation: self.snapshot.generation(),
            digest: self.snapshot.digest().0,
            // Who runs this code is running.
            heartbeat_age_ms: 0,
            worker,
            shut_out: 0,
        }
    }

    fn send_probe<B: PacketBuf>(
        &mut self,
        to: MemberId,
        nonce: u64,
        flags: u16,
        payload: &[u8],
        io: &mut impl Io<B>,
    ) {
        let leaving = if self.leaving { body_flags::LEAVING } else { 0 };
        let flags = flags | leaving | if self.cold { body_flags::COLD } else { 0 };
        self.send_body(to, (BodyKind::Probe, flags, nonce), payload, io);
    }

    /// Sends a body with kind, flags and nonce. An empty mempool or a member without address: nothing is sent, and it is
    /// for the sender to try again.
    pub fn send_body<B: PacketBuf>(
        &mut self,
        to: MemberId,
        (kind, flags, nonce): (BodyKind, u16, u64),
        payload: &[u8],
        io: &mut impl Io<B>,
    ) {
        let body = Body {
            kind,
            version: self.snapshot.protocol(),
            flags,
            epoch: self.snapshot.epoch(),
            sender: self.config.id,
            receiver: to,
            boot: self.config.boot,
            sequence: self.next_sequence(),
            nonce,
        };
        let Some(mut buf) = buffer_for(io, Body::len_with(payload.len())) else { return };
        if body.emit(payload, &self.snapshot.keys().mac_keys, buf.bytes_mut()).is_err() {
            return;
        }
        let ends = (self.config.id, to);
        match wrap(&mut buf, &self.snapshot, ends, Payload::Body, nonce, 0) {
            Ok(()) => {
                self.messages.sent_body(kind);
                io.send(buf, UnderlayDst::Member(to));
            }
            Err(why) => io.drop(buf, why),
        }
    }
}

/// A verified body that is the role's to deal with.
#[derive(Debug)]
pub struct ReceivedBody<B> {
    /// Its header.
    pub body: Body,
    /// The packet.
    pub buf: B,
    payload: Range<usize>,
}

impl<B: PacketBuf> ReceivedBody<B> {
    /// What stands behind the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.buf.bytes().get(self.payload.clone()).unwrap_or_default()
    }
}

/// What is to be done with a body that was read.
enum Next {
    Done,
    /// For the role, with the place of its payload in the packet.
    Role(Body, Range<usize>),
    Other(WorkerId),
    Answer {
        to: MemberId,
        nonce: u64,
        worker: u8,
    },
    Booted {
        member: MemberId,
        boot: BootId,
        sequence: u64,
    },
    Mismatch(MemberId),
}

/// How often `asker` asks `asked`, and in which queue of turns; `None`: never.
const fn interval(asker: MemberRole, asked: MemberRole) -> Option<(usize, Nanos)> {
    use MemberRole::{Backend, FlowTracker, Ingress};
    match (asker, asked) {
        (Ingress | FlowTracker, FlowTracker) | (FlowTracker, Ingress) => Some((0, PROBE_DATAPLANE)),
        (Ingress | FlowTracker, Backend) => Some((1, PROBE_AGENTS)),
        (Backend, Ingress | FlowTracker) => Some((2, PROBE_BY_AGENT)),
        // Ingress hosts never speak to each other, nor do agents.
        (Ingress, Ingress) | (Backend, Backend) => None,
    }
}

#[cfg(test)]
mod tests;
