//! Whom this host obeys alone (rule 14).
//!
//! ```text
//! SOLE_OWNER ─► wanted ─► Report::SoleChanged ─► the kernel half's map ─► AgentEvent::SoleWritten ─► ACK
//!                  └─► notice to all other trackers, three times
//! ```
//!
//! The kernel half obeys before anybody is told so: an owner that has all acknowledgements knows that no other vote
//! admits a flow any more.

use std::collections::BTreeMap;

use jlb_flow::{PARTITIONS, Partition};
use jlb_map::{MemberRole, Snapshot};
use jlb_peers::{Peers, ReceivedBody};
use jlb_role::{Io, Metric, MetricKind, MetricSink, Nanos, PacketBuf, Reason, Report};
use jlb_wire::{Body, BodyKind, BootId, MemberId, SoleOwner, body_flags};

/// Workers of trackers whose orders are known at once; others are dropped, and trackers repeat them.
pub const SOLE_WORKERS: usize = 256;
/// An owner that is silent for so long decides no more.
pub const SOLE_SILENT: Nanos = Nanos::from_secs(3);

/// Workers that a tracker can have.
const WORKERS: u8 = 16;
/// When the notices of an order go out: at once, and so much later.
const NOTICES: [Nanos; 3] = [Nanos::ZERO, Nanos::from_millis(25), Nanos::from_millis(75)];

static PARTITIONS_OBEYED: Metric = Metric {
    name: "jlb_sole_owner_partitions",
    help: "Partitions in which this host takes new flows from one tracker alone.",
    kind: MetricKind::Gauge,
};

/// By partition: the member id of its sole owner, or 0.
pub type Owners = [u16; PARTITIONS];

/// The last order of one worker of a tracker.
#[derive(Debug)]
struct Order {
    boot: BootId,
    /// What is not newer came late.
    sequence: u64,
    nonce: u64,
    flags: u16,
    /// To be repeated in the answer and in notices.
    payload: Payload,
    /// The acknowledgement is due once that change is written.
    ack_after: Option<u64>,
    /// Notices that were sent, and when the order came.
    notices: usize,
    since: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Payload {
    bytes: [u8; SoleOwner::MAX_LEN],
    len: usize,
}

/// All that is known of sole owners. Bounded.
#[derive(Debug)]
pub(super) struct Sole {
    wanted: Box<Owners>,
    /// Which change `wanted` is, and which one the kernel half has.
    change: u64,
    written: u64,
    news: bool,
    /// By tracker and worker.
    orders: BTreeMap<(MemberId, u8), Order>,
    /// When each owner's silence begins to count if it says nothing.
    owners: BTreeMap<MemberId, (BootId, Nanos)>,
}

impl Default for Sole {
    fn default() -> Self {
        Self {
            wanted: Box::new([0; PARTITIONS]),
            change: 0,
            written: 0,
            news: false,
            orders: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }
}

impl Sole {
    pub(super) fn owners(&self) -> &Owners {
        &self.wanted
    }

    /// What the kernel half obeys already, with the boot ids that it knows: the daemon before us wrote them.
    pub(super) fn adopt(&mut self, now: Nanos, owners: &Owners, boot: impl Fn(MemberId) -> BootId) {
        self.wanted.copy_from_slice(owners);
        for owner in self.wanted.iter().filter_map(|&id| MemberId::new(id)) {
            self.owners.entry(owner).or_insert_with(|| (boot(owner), now));
        }
    }

    /// Whether something has changed, or was written, since this was last asked.
    pub(super) const fn takes_news(&mut self) -> bool {
        let news = self.news;
        self.news = false;
        news
    }

    /// The kernel half has yet to be told something.
    pub(super) const fn is_unwritten(&self) -> bool {
        self.change != self.written
    }

    /// What END says to that worker: another tracker that owns a partition of its alone, else the tracker itself, else 0.
    pub(super) fn seen_by(
        &self,
        snapshot: &Snapshot,
        tracker: MemberId,
        (worker, workers): (u8, u8),
    ) -> u16 {
        if self.owners.is_empty() {
            return 0;
        }
        let mut seen = 0;
        for partition in Partition::all().skip(worker.into()).step_by(workers.max(1).into()) {
            let owner = self.wanted[partition.index()];
            if owner != 0 && snapshot.trio(partition).contains(tracker) {
                seen = owner;
                if owner != tracker.as_u16() {
                    break;
                }
            }
        }
        seen
    }

    /// Takes a tracker's order.
    pub(super) fn receive<B: PacketBuf>(
        &mut self,
        now: Nanos,
        received: ReceivedBody<B>,
        from: MemberRole,
        peers: &mut Peers,
        io: &mut impl Io<B>,
    ) {
        if let Err(why) = self.order(now, &received.body, received.payload(), from, peers, io) {
            io.drop(received.buf, why);
        }
    }

    fn order<B: PacketBuf>(
        &mut self,
        now: Nanos,
        body: &Body,
        bytes: &[u8],
        from: MemberRole,
        peers: &mut Peers,
        io: &mut impl Io<B>,
    ) -> Result<(), Reason> {
        if from != MemberRole::FlowTracker {
            return Err(Reason::NotAMember);
        }
        if !matches!(body.flags, body_flags::SOLE_OWNER | body_flags::TWO_VOTES) {
            return Err(Reason::WrongKind);
        }
        // Both must mean the same trios.
        if body.epoch != peers.snapshot().epoch() {
            return Err(Reason::WrongEpoch);
        }
        let (asked, absent) = SoleOwner::parse(bytes).ok_or(Reason::Malformed)?;
        let SoleOwner { owner, worker, workers } = asked;
        if owner != Some(body.sender) || !(1..=WORKERS).contains(&workers) || worker >= workers {
            return Err(Reason::Malformed);
        }
        let key = (body.sender, worker);
        let known = self.orders.get(&key).filter(|order| order.boot == body.boot);
        // One that was overtaken by a later one means nothing any more.
        if known.is_some_and(|order| order.sequence >= body.sequence) {
            return Err(Reason::Unexpected);
        }
        if self.orders.len() >= SOLE_WORKERS && !self.orders.contains_key(&key) {
            return Err(Reason::NotReady);
        }
        let repeated = known.filter(|o| (o.nonce, o.flags) == (body.nonce, body.flags));
        let (notices, since) = repeated.map_or((0, now), |order| (order.notices, order.since));
        let mut payload = Payload { bytes: [0; SoleOwner::MAX_LEN], len: bytes.len() };
        payload.bytes[..bytes.len()].copy_from_slice(bytes);
        let me = body.sender.as_u16();
        if body.flags == body_flags::SOLE_OWNER {
            let absent: Vec<MemberId> = absent.iter().collect();
            let is_absent = |id| absent.contains(&id);
            let snapshot = std::sync::Arc::clone(peers.snapshot());
            let meant = || snapshot.lonely(body.sender, (worker, workers), is_absent);
            if meant().next().is_none() {
                return Err(Reason::Malformed);
            }
            let other = meant().map(|p| self.wanted[p.index()]).find(|&o| o != 0 && o != me);
            if let Some(other) = other {
                // Whom it can see and we do not obey must settle it with that one.
                let held = SoleOwner { owner: MemberId::new(other), worker, workers };
                let mut bytes = [0; SoleOwner::MAX_LEN];
                let len = held.emit(&absent, &mut bytes);
                acknowledge(peers, (body.sender, body.flags, body.nonce), &bytes[..len], io);
                return Ok(());
            }
            let meant = meant().collect();
            self.owners.insert(body.sender, (body.boot, now));
            self.give(meant, me, io);
        } else {
            let its = Partition::all().skip(worker.into()).step_by(workers.into());
            let its = self.held_by(me, its);
            self.give(its, 0, io);
        }
        let order = Order {
            boot: body.boot,
            sequence: body.sequence,
            nonce: body.nonce,
            flags: body.flags,
            payload,
            ack_after: Some(self.change),
            notices,
            since,
        };
        self.orders.insert(key, order);
        self.answer(peers, io);
        self.notify(now, peers, io);
        Ok(())
    }

    /// The kernel half has that change. What waited for it is acknowledged.
    pub(super) fn is_written<B: PacketBuf>(
        &mut self,
        change: u64,
        peers: &mut Peers,
        io: &mut impl Io<B>,
    ) {
        self.written = self.written.max(change);
        self.answer(peers, io);
    }

    /// A list of another epoch: other trios, and everybody begins anew.
    pub(super) fn clear<B: PacketBuf>(&mut self, io: &mut impl Io<B>) {
        self.orders.values_mut().for_each(Order::end);
        let all = Partition::all().filter(|p| self.wanted[p.index()] != 0).collect();
        self.give(all, 0, io);
    }

    /// Owners that are gone from the list, began anew or fell silent decide no more; and notices that are due.
    pub(super) fn tick<B: PacketBuf>(
        &mut self,
        now: Nanos,
        peers: &mut Peers,
        io: &mut impl Io<B>,
    ) {
        let is_tracker =
            |id| peers.snapshot().member(id).is_some_and(|m| m.role == MemberRole::FlowTracker);
        let over = |(&owner, &(boot, since)): (&MemberId, &(BootId, Nanos))| {
            let other_boot = peers.boot(owner).is_some_and(|current| current != boot);
            let over = !is_tracker(owner) || other_boot || now >= silent_at(peers, owner, since);
            over.then_some(owner)
        };
        let ended: Vec<MemberId> = self.owners.iter().filter_map(over).collect();
        for owner in ended {
            let orders = self.orders.iter_mut().filter(|((of, _), _)| *of == owner);
            orders.for_each(|(_, order)| order.end());
            let its = self.held_by(owner.as_u16(), Partition::all());
            self.give(its, 0, io);
        }
        self.orders.retain(|(of, _), _| is_tracker(*of));
        self.notify(now, peers, io);
    }

    pub(super) fn next_deadline(&self, peers: &Peers) -> Option<Nanos> {
        let silent = self.owners.iter().map(|(&id, &(_, since))| silent_at(peers, id, since));
        self.orders.values().filter_map(Order::notice_at).chain(silent).min()
    }

    pub(super) fn collect(&self, out: &mut dyn MetricSink) {
        let obeyed = self.wanted.iter().filter(|&&owner| owner != 0).count();
        out.value(&PARTITIONS_OBEYED, &[], obeyed as f64);
    }

    fn held_by(&self, owner: u16, among: impl Iterator<Item = Partition>) -> Vec<Partition> {
        among.filter(|p| self.wanted[p.index()] == owner).collect()
    }

    /// Gives partitions to an owner, 0 for nobody, and has that written if it changes anything.
    fn give<B: PacketBuf>(&mut self, partitions: Vec<Partition>, owner: u16, io: &mut impl Io<B>) {
        let mut changed = false;
        for partition in partitions {
            changed |= self.wanted[partition.index()] != owner;
            self.wanted[partition.index()] = owner;
        }
        let wanted = &self.wanted;
        self.owners.retain(|owner, _| wanted.contains(&owner.as_u16()));
        if changed {
            self.change += 1;
            self.news = true;
            io.report(Report::SoleChanged { change: self.change });
        }
    }

    /// Acknowledges what the kernel half has.
    fn answer<B: PacketBuf>(&mut self, peers: &mut Peers, io: &mut impl Io<B>) {
        let written = self.written;
        for (&(tracker, _), order) in &mut self.orders {
            if order.ack_after.is_some_and(|change| change <= written) {
                order.ack_after = None;
                let words = (tracker, order.flags, order.nonce);
                acknowledge(peers, words, order.payload.bytes(), io);
            }
        }
    }

    /// Tells all other trackers whom we obey.
    fn notify<B: PacketBuf>(&mut self, now: Nanos, peers: &mut Peers, io: &mut impl Io<B>) {
        let snapshot = std::sync::Arc::clone(peers.snapshot());
        for (&(owner, _), order) in &mut self.orders {
            if order.notice_at().is_none_or(|at| at > now) {
                continue;
            }
            order.notices += 1;
            let trackers = snapshot.with_role(MemberRole::FlowTracker).iter();
            for &other in trackers.filter(|&&id| id != owner) {
                let words = (BodyKind::Epoch, body_flags::SOLE_OWNER, order.nonce);
                peers.send_body(other, words, order.payload.bytes(), io);
            }
        }
    }
}

impl Order {
    /// It is not in force any more: nothing is said of it.
    fn end(&mut self) {
        self.ack_after = None;
        self.notices = NOTICES.len();
    }

    fn notice_at(&self) -> Option<Nanos> {
        let after = NOTICES.get(self.notices).filter(|_| self.flags == body_flags::SOLE_OWNER)?;
        Some(self.since + *after)
    }
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// When an owner has been silent for too long, if it says nothing until then.
fn silent_at(peers: &Peers, owner: MemberId, since: Nanos) -> Nanos {
    peers.heard_at(owner).map_or(since, |heard| heard.max(since)) + SOLE_SILENT
}

/// A lost one is sent again when the order is repeated.
fn acknowledge<B: PacketBuf>(
    peers: &mut Peers,
    (to, flags, nonce): (MemberId, u16, u64),
    payload: &[u8],
    io: &mut impl Io<B>,
) {
    let words = (BodyKind::Epoch, flags | body_flags::ACK, nonce);
    peers.send_body(to, words, payload, io);
}
