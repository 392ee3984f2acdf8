//! The last one of a trio decides alone (rule 14), once all agents have acknowledged that nobody else's vote counts.
//!
//! ```text
//! two votes ─► fencing: SOLE_OWNER until all ACK ─► sole: cold until all have told their flows anew, then one vote
//!     ▲                        │ another owner, or a member is back             │ a member is back
//!     └──── all ACK ◄──── releasing: TWO_VOTES ◄─────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use arrayvec::ArrayVec;
use jlb_flow::{PARTITIONS, Partition};
use jlb_map::{MemberRole, TRIO};
use jlb_peers::{Random, ReceivedBody};
use jlb_role::{
    Io, Metric, MetricKind, MetricSink, Nanos, PacketBuf, Reason, Report, Rule, Rules, WorkerId,
};
use jlb_wire::{BodyKind, BootId, MemberId, SoleOwner, body_flags};

use crate::lease::LEASE;
use crate::tracker::Tracker;

/// Who is not up counts as missing when nothing of it was heard for so long: one that answers again, and is not yet relied upon,
/// may vote. On a busy host that is the usual case.
const SILENT: Nanos = Nanos::from_millis(100);
/// So long all others of a trio must be missing before we try to decide alone, and one that is back must answer before we
/// do not any more.
const ABSENT: Nanos = Nanos::from_millis(200);
const BACK: Nanos = Nanos::from_millis(300);
/// Who alone decides and hears no ingress host for so long gives it back.
const UNASKED: Nanos = Nanos::from_millis(500);
/// An order that is not acknowledged is repeated after this, doubling up to the second one; so many in one round at most.
const REPEAT: Nanos = Nanos::from_millis(25);
const REPEAT_MOST: Nanos = Nanos::from_millis(200);
const SENT_AT_ONCE: usize = 256;
/// When an agent obeys another one, the next attempt comes so much later, and up to this more: so that two who try give way
/// to one another.
const BACK_OFF: Nanos = Nanos::from_secs(1);
const BACK_OFF_MORE: u64 = 500;
/// Agents obey no more who is silent for 3 s. Who did not run for so long does not count on it.
const STALLED: Nanos = Nanos::from_secs(2);

static SOLE_PARTITIONS: Metric = Metric {
    name: "jlb_sole_partitions",
    help: "Partitions for which this tracker decides alone.",
    kind: MetricKind::Gauge,
};

/// What agents are asked to acknowledge.
#[derive(Debug)]
struct Order {
    nonce: u64,
    absent: ArrayVec<MemberId, { SoleOwner::MAX_ABSENT }>,
    /// Under which boot who acknowledged, and when.
    acknowledged: BTreeMap<MemberId, (BootId, Nanos)>,
    send_at: Nanos,
    wait: Nanos,
    /// Where the next round goes on, among the backends of the list.
    cursor: usize,
}

impl Order {
    /// Whether a backend has acknowledged it under that boot.
    fn has(&self, backend: MemberId, boot: Option<BootId>) -> bool {
        self.acknowledged.get(&backend).is_some_and(|&(of, _)| Some(of) == boot)
    }
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    TwoVotes,
    Fencing(Order),
    /// Backends that come (back) are still told.
    Sole(Order),
    Releasing(Order),
}

/// How far we are with deciding alone.
#[derive(Debug)]
pub(crate) struct Sole {
    phase: Phase,
    /// Where we alone decide, or did so until all agents acknowledge the end of it.
    owned: Box<[bool; PARTITIONS]>,
    count: usize,
    /// All who belong to the trios of these partitions, but for us, are among these.
    without: BTreeSet<MemberId>,
    /// Since when each other tracker is missing, or is back.
    missing: BTreeMap<MemberId, (bool, Nanos)>,
    not_before: Nanos,
    /// After the last acknowledgement: other trackers hold no lease any more from then on.
    settled_at: Nanos,
    looked_at: Nanos,
    nonces: Random,
}

impl Sole {
    pub(crate) fn new(now: Nanos, seed: u64) -> Self {
        Self {
            phase: Phase::TwoVotes,
            owned: Box::new([false; PARTITIONS]),
            count: 0,
            without: BTreeSet::new(),
            missing: BTreeMap::new(),
            not_before: Nanos::ZERO,
            settled_at: Nanos::ZERO,
            looked_at: now,
            nonces: Random::new(seed),
        }
    }

    /// Whether nobody else votes in a partition.
    pub(crate) fn owns(&self, partition: Partition) -> bool {
        self.owned[partition.index()]
    }

    /// Whether agents still obey us though we decide alone no more.
    pub(crate) const fn is_giving_back(&self) -> bool {
        matches!(self.phase, Phase::Releasing(_))
    }

    /// Whether we neither vote there alone any more nor can anybody else be asked yet.
    pub(crate) fn is_releasing(&self, partition: Partition) -> bool {
        self.is_giving_back() && self.owns(partition)
    }

    /// Whether others may still vote where we are to do so alone.
    pub(crate) fn is_settling(&self, now: Nanos) -> bool {
        now < self.settled_at
    }

    /// Whether there is any partition that only we decide on.
    pub(crate) const fn is_alone(&self) -> bool {
        self.count > 0
    }

    fn own(&mut self, partition: Partition) -> bool {
        let new = !self.owned[partition.index()];
        self.owned[partition.index()] = true;
        self.count += usize::from(new);
        new
    }

    fn own_nothing(&mut self) {
        self.owned.fill(false);
        self.count = 0;
        self.without.clear();
        self.phase = Phase::TwoVotes;
    }

    fn order(&mut self, now: Nanos, absent: impl Iterator<Item = MemberId>) -> Order {
        Order {
            nonce: self.nonces.next(),
            absent: absent.take(SoleOwner::MAX_ABSENT).collect(),
            acknowledged: BTreeMap::new(),
            send_at: now,
            wait: REPEAT,
            cursor: 0,
        }
    }

    const fn order_mut(&mut self) -> Option<&mut Order> {
        match &mut self.phase {
            Phase::TwoVotes => None,
            Phase::Fencing(order) | Phase::Sole(order) | Phase::Releasing(order) => Some(order),
        }
    }

    /// What the order under way says.
    const fn flags(&self) -> u16 {
        match self.phase {
            Phase::Releasing(_) => body_flags::TWO_VOTES,
            Phase::TwoVotes | Phase::Fencing(_) | Phase::Sole(_) => body_flags::SOLE_OWNER,
        }
    }

    /// Members that are missing (or back) for so long.
    fn missing_for(
        &self,
        now: Nanos,
        missing: bool,
        long: Nanos,
    ) -> impl Iterator<Item = MemberId> {
        let enough = move |&(m, since): &(bool, Nanos)| m == missing && now.since(since) >= long;
        self.missing.iter().filter(move |(_, m)| enough(m)).map(|(&id, _)| id)
    }

    pub(crate) fn collect(&self, out: &mut dyn MetricSink) {
        out.value(&SOLE_PARTITIONS, &[], self.count as f64);
    }
}

impl<R: Rules> Tracker<R> {
    /// Whether we vote alone on a flow of that partition.
    pub(crate) fn votes_alone(&self, partition: Partition) -> bool {
        self.sole.owns(partition) && !self.sole.is_releasing(partition)
    }

    /// Whether our vote counts for a new flow of that partition: nobody decides there alone, or it is us.
    pub(crate) fn may_vote(&self, now: Nanos, partition: Partition) -> bool {
        self.votes_alone(partition) || self.lease.holds(now)
    }

    /// Whether what we know of a partition is not all, or may not be acted on.
    pub(crate) fn is_cold(&self, partition: Partition) -> bool {
        self.warmth.is_cold(partition)
            || self.lease.shut_out.is_some()
            || self.sole.is_releasing(partition)
    }

    /// Looks who is missing and who is back, and goes on with what follows from it.
    pub(crate) fn mind_the_trio<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        let stalled = now.since(self.sole.looked_at) > STALLED;
        self.sole.looked_at = now;
        self.look_who_is_missing(now);
        match &self.sole.phase {
            Phase::TwoVotes => self.fence_if_alone(now),
            Phase::Fencing(order) => {
                let is_back = |id| self.sole.missing.get(id).is_some_and(|&(missing, _)| !missing);
                let back = order.absent.iter().any(is_back);
                if back || stalled || !self.has_heard_an_ingress_host(now) {
                    self.release(now);
                } else if self.all_acknowledge(now, order) || !self.rules.on(Rule::SoleFence) {
                    self.become_sole(now, io);
                }
            }
            Phase::Sole(order)
                if stalled
                    || self.is_somebody_back(now)
                    || self.is_disobeyed(order)
                    || !self.has_heard_an_ingress_host(now) =>
            {
                self.release(now);
            }
            Phase::Sole(_) => {
                self.forget_who_began_anew();
                self.fence_if_alone(now);
            }
            Phase::Releasing(order) => {
                if self.all_acknowledge(now, order) {
                    self.sole.own_nothing();
                    self.tell_sole(true, io);
                }
            }
        }
        self.repeat_order(now, io);
    }

    fn look_who_is_missing(&mut self, now: Nanos) {
        let me = self.peers.me();
        let trackers = self.snapshot.with_role(MemberRole::FlowTracker);
        self.sole.missing.retain(|id, _| trackers.contains(id));
        for &id in trackers.iter().filter(|&&id| id != me) {
            // Of whom nothing is known yet it cannot be said that it is missing.
            if self.peers.undecided(id) {
                self.sole.missing.remove(&id);
                continue;
            }
            let heard = |at: Nanos| now.since(at) < SILENT;
            let missing = !self.peers.alive(id) && !self.peers.heard_at(id).is_some_and(heard);
            let known = self.sole.missing.entry(id).or_insert((missing, now));
            if known.0 != missing {
                *known = (missing, now);
            }
        }
    }

    /// Begins to fence partitions in which nobody else votes, if there are some that we do not own alone yet.
    fn fence_if_alone(&mut self, now: Nanos) {
        let backends = self.snapshot.with_role(MemberRole::Backend);
        if now < self.sole.not_before
            || !self.hears_an_ingress_host()
            || backends.iter().any(|&id| self.peers.undecided(id))
        {
            return;
        }
        let absent: ArrayVec<MemberId, { SoleOwner::MAX_ABSENT }> =
            self.sole.missing_for(now, true, ABSENT).take(SoleOwner::MAX_ABSENT).collect();
        // The usual case, a hundred times a second: whoever is alone in a trio misses all others of it.
        let trackers = self.snapshot.with_role(MemberRole::FlowTracker).len();
        if absent.len() + 1 < trackers.min(TRIO) {
            return;
        }
        // And who alone decides has all that comes from those who were missing then.
        if let Phase::Sole(order) = &self.sole.phase
            && absent.iter().all(|id| order.absent.contains(id))
        {
            return;
        }
        if self.lonely(&absent).any(|p| !self.sole.owns(p)) {
            let order = self.sole.order(now, absent.into_iter());
            self.sole.phase = Phase::Fencing(order);
        }
    }

    /// Without one nobody asks us for anything, and the others may be there for those that we do not hear.
    fn hears_an_ingress_host(&self) -> bool {
        self.snapshot.with_role(MemberRole::Ingress).iter().any(|&id| self.peers.alive(id))
    }

    /// The same, with patience: to decide alone takes half a second again.
    fn has_heard_an_ingress_host(&self, now: Nanos) -> bool {
        let lately = |at: Nanos| now.since(at) < UNASKED;
        let ingress = self.snapshot.with_role(MemberRole::Ingress);
        ingress.iter().any(|&id| self.peers.heard_at(id).is_some_and(lately))
    }

    fn lonely<'a>(&'a self, absent: &'a [MemberId]) -> impl Iterator<Item = Partition> + 'a {
        let workers = (self.peers.worker().0, self.peers.workers());
        self.snapshot.lonely(self.peers.me(), workers, |id| absent.contains(&id))
    }

    /// Every agent that is not dead has said so under the boot that is its current one.
    fn all_acknowledge(&self, now: Nanos, order: &Order) -> bool {
        let two = self.rules.on(Rule::TwoWitnesses);
        self.snapshot
            .with_role(MemberRole::Backend)
            .iter()
            .all(|&id| order.has(id, self.peers.boot(id)) || self.peers.dead(now, id, two))
    }

    /// Nobody else's vote admits a flow there any more: what was admitted by others is asked for, then we vote.
    fn become_sole<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        let Phase::Fencing(order) = core::mem::take(&mut self.sole.phase) else { return };
        let was_alone = self.sole.is_alone();
        let new: Vec<Partition> = self.lonely(&order.absent).collect();
        for partition in new {
            if self.sole.own(partition) && self.rules.on(Rule::Cold) {
                self.warmth.chill(now, partition);
            }
        }
        // A trio in which we are alone has none but these.
        self.sole.without.extend(&order.absent);
        self.sole.phase = Phase::Sole(order);
        self.sole.settled_at = now + LEASE;
        // Canary: who does not obey us is no source without the rule.
        self.sources.renew(self.peers.me(), self.rules.on(Rule::SoleFence));
        self.tell_warmth(now, io);
        self.tell_sole(was_alone, io);
    }

    /// Whether one of those who would vote where we alone do is there again.
    fn is_somebody_back(&self, now: Nanos) -> bool {
        let back = self.sole.missing_for(now, false, BACK);
        let back: Vec<MemberId> = back.filter(|id| self.sole.without.contains(id)).collect();
        !back.is_empty()
            && self.ours().of(&self.snapshot).any(|partition| {
                self.sole.owns(partition)
                    && self.snapshot.trio(partition).iter().any(|id| back.contains(&id))
            })
    }

    /// Whether a backend that has acknowledged says that it does not obey us. Perhaps it did not hear us for long: what it
    /// took since from others we do not know.
    fn is_disobeyed(&self, order: &Order) -> bool {
        order.acknowledged.iter().any(|(&id, &(boot, at))| {
            self.peers
                .standing(id)
                .is_some_and(|said| said.boot == boot && said.asked > at && !said.obeys)
        })
    }

    /// A backend that began anew obeys nobody, and has no flows: it is told again, and offered flows after it has obeyed.
    fn forget_who_began_anew(&mut self) {
        let Phase::Sole(order) = &mut self.sole.phase else { return };
        let peers = &self.peers;
        order.acknowledged.retain(|&id, &mut (boot, _)| peers.boot(id) == Some(boot));
    }

    /// We vote alone no more, at once; two do when all agents have acknowledged it.
    fn release(&mut self, now: Nanos) {
        let absent = match &self.sole.phase {
            Phase::Fencing(order) | Phase::Sole(order) => order.absent.clone(),
            Phase::TwoVotes | Phase::Releasing(_) => return,
        };
        let order = self.sole.order(now, absent.into_iter());
        self.sole.phase = Phase::Releasing(order);
        self.sources.set_alone(self.peers.me(), false);
    }

    /// Another list is in force. With another epoch agents obey nobody any more.
    pub(crate) fn sole_of_another_epoch<B: PacketBuf>(&mut self, io: &mut impl Io<B>) {
        let was_alone = self.sole.is_alone();
        self.sole.own_nothing();
        self.sources.set_alone(self.peers.me(), false);
        self.tell_sole(was_alone, io);
    }

    fn tell_sole<B: PacketBuf>(&self, was: bool, io: &mut impl Io<B>) {
        let is = self.sole.is_alone();
        if is != was {
            io.report(Report::Sole(is));
        }
    }

    /// Sends the order under way to those who have not acknowledged it yet.
    fn repeat_order<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        let flags = self.sole.flags();
        let (me, two) = (self.peers.me(), self.rules.on(Rule::TwoWitnesses));
        let sole = SoleOwner {
            owner: Some(me),
            worker: self.peers.worker().0,
            workers: self.peers.workers(),
        };
        let snapshot = std::sync::Arc::clone(&self.snapshot);
        let backends = snapshot.with_role(MemberRole::Backend);
        let Some(order) = self.sole.order_mut().filter(|order| order.send_at <= now) else {
            return;
        };
        let mut payload = [0; SoleOwner::MAX_LEN];
        let len = sole.emit(&order.absent, &mut payload);
        let mut sent = 0;
        for _ in 0..backends.len() {
            if sent == SENT_AT_ONCE {
                break;
            }
            order.cursor = (order.cursor + 1) % backends.len();
            let to = backends[order.cursor];
            let done = order.has(to, self.peers.boot(to));
            if !done && !self.peers.dead(now, to, two) {
                sent += 1;
                let words = (BodyKind::Epoch, flags, order.nonce);
                self.peers.send_body(to, words, &payload[..len], io);
            }
        }
        order.send_at = now + order.wait;
        if sent < SENT_AT_ONCE {
            order.wait = Nanos(order.wait.0 * 2).min(REPEAT_MOST);
        }
    }

    /// An agent acknowledges our order, or says that it obeys another tracker.
    pub(crate) fn on_epoch<B: PacketBuf>(
        &mut self,
        now: Nanos,
        received: ReceivedBody<B>,
        io: &mut impl Io<B>,
    ) {
        match self.take_epoch(now, &received) {
            Ok(None) => {}
            Ok(Some(worker)) => io.hand_over(received.buf, worker),
            Err(why) => io.drop(received.buf, why),
        }
    }

    /// Gives the worker that is to see it next.
    fn take_epoch<B: PacketBuf>(
        &mut self,
        now: Nanos,
        received: &ReceivedBody<B>,
    ) -> Result<Option<WorkerId>, Reason> {
        let body = received.body;
        if self.snapshot.member(body.sender).is_none_or(|m| m.role != MemberRole::Backend) {
            return Err(Reason::NotAMember);
        }
        if body.epoch != self.snapshot.epoch() {
            return Err(Reason::WrongEpoch);
        }
        let (sole, _) = SoleOwner::parse(received.payload()).ok_or(Reason::Malformed)?;
        if sole.workers != self.peers.workers() || sole.worker >= sole.workers {
            return Err(Reason::Malformed);
        }
        if sole.worker != self.peers.worker().0 {
            return Ok(Some(WorkerId(sole.worker)));
        }
        let flags = self.sole.flags() | body_flags::ACK;
        let me = self.peers.me();
        let order = self.sole.order_mut().filter(|order| order.nonce == body.nonce);
        let order = order.filter(|_| body.flags == flags).ok_or(Reason::Unexpected)?;
        if sole.owner == Some(me) {
            // A repeated one says nothing new.
            if !order.has(body.sender, Some(body.boot)) {
                order.acknowledged.insert(body.sender, (body.boot, now));
            }
            return Ok(None);
        }
        // Another one was first. Not both at the same time again.
        self.release(now);
        let more = self.sole.nonces.below(BACK_OFF_MORE);
        self.sole.not_before = now + BACK_OFF + Nanos::from_millis(more);
        Ok(None)
    }

    /// A backend's list says whom it obeys. If not us any more, we begin anew.
    pub(crate) fn on_listed_owner(&mut self, now: Nanos, backend: MemberId, owner: u16) {
        let Phase::Sole(order) = &self.sole.phase else { return };
        let obeyed = order.has(backend, self.peers.boot(backend));
        if obeyed && owner != self.peers.me().as_u16() {
            self.release(now);
        }
    }
}
