//! Whom this host obeys alone (rule 14), and whom that shuts out.
//!
//! ```text
//! SOLE_OWNER ─► wanted, shut out ─► Report::SoleChanged ─► the kernel half's maps ─► AgentEvent::SoleWritten ─► ACK
//! PULL of who is shut out, when nobody is obeyed any more ─► Report::Pulled, Report::SoleChanged
//! ```
//!
//! The kernel half obeys before anybody is told so: an owner that has all acknowledgements knows that no other vote
//! admits a flow any more. Its answers to Probe tell the others, from the moment at which their votes count no more until
//! they have pulled what was decided without them.

use std::collections::{BTreeMap, BTreeSet};

use jlb_flow::{PARTITIONS, Partition};
use jlb_map::{MemberRole, Snapshot};
use jlb_peers::{Peers, ReceivedBody};
use jlb_role::{Io, Metric, MetricKind, MetricSink, Nanos, PacketBuf, Reason, Report};
use jlb_wire::{Body, BodyKind, BootId, MemberId, Refresh, SoleOwner, body_flags};

use crate::maps::Standing;

/// Workers of trackers whose orders are known at once; others are dropped, and trackers repeat them.
pub const SOLE_WORKERS: usize = 256;
/// An owner that is silent for so long decides no more.
pub const SOLE_SILENT: Nanos = Nanos::from_secs(3);

/// Workers that a tracker can have.
const WORKERS: u8 = 16;

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
    /// To be repeated in the answer.
    payload: Payload,
    /// The acknowledgement is due once that change is written.
    ack_after: Option<u64>,
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
    /// By tracker, if it was ever obeyed or shut out; as in the kernel half's map.
    standings: BTreeMap<MemberId, Standing>,
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
            standings: BTreeMap::new(),
        }
    }
}

impl Sole {
    pub(super) fn owners(&self) -> &Owners {
        &self.wanted
    }

    pub(super) const fn standings(&self) -> &BTreeMap<MemberId, Standing> {
        &self.standings
    }

    /// What the kernel half obeys already, with the boot ids that it knows: the daemon before us wrote them.
    pub(super) fn adopt(
        &mut self,
        now: Nanos,
        owners: &Owners,
        standings: impl Iterator<Item = (MemberId, Standing)>,
        boot: impl Fn(MemberId) -> BootId,
    ) {
        self.wanted.copy_from_slice(owners);
        self.standings = standings.filter(|(_, s)| *s != Standing::default()).collect();
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
            let is_new = self.set_obeyed(body.sender, worker, true);
            self.give(meant, me, &snapshot, is_new, io);
        } else {
            let its = Partition::all().skip(worker.into()).step_by(workers.into());
            let its = self.held_by(me, its);
            let is_new = self.set_obeyed(body.sender, worker, false);
            self.give(its, 0, peers.snapshot(), is_new, io);
        }
        let order = Order {
            boot: body.boot,
            sequence: body.sequence,
            nonce: body.nonce,
            flags: body.flags,
            payload,
            ack_after: Some(self.change),
        };
        self.orders.insert(key, order);
        self.answer(peers, io);
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
    /// Who was shut out stays so until it has pulled.
    pub(super) fn clear<B: PacketBuf>(&mut self, snapshot: &Snapshot, io: &mut impl Io<B>) {
        self.orders.values_mut().for_each(Order::end);
        let all = Partition::all().filter(|p| self.wanted[p.index()] != 0).collect();
        let mut was_obeyed = false;
        for standing in self.standings.values_mut() {
            was_obeyed |= core::mem::take(&mut standing.obeyed) != 0;
        }
        self.give(all, 0, snapshot, was_obeyed, io);
    }

    /// A worker pulls. That it is shut out ends with it, if it knows that it is (so that it counts nothing that we told
    /// before) and nobody else is obeyed any more. From then on no older message of it counts.
    ///
    /// # Errors
    /// [`Reason::SoleOwner`] while somebody else decides alone: what that one decides would not be in our answer.
    pub(super) fn pulled<B: PacketBuf>(
        &mut self,
        body: &Body,
        asked: &Refresh,
        snapshot: &Snapshot,
        io: &mut impl Io<B>,
    ) -> Result<(), Reason> {
        let member = body.sender;
        let Some(standing) = self.standings.get(&member) else { return Ok(()) };
        let number = standing.shut_out(asked.worker);
        if number == 0 {
            return Ok(());
        }
        let other = |&p: &Partition| {
            let owner = self.wanted[p.index()];
            owner != 0 && owner != member.as_u16() && snapshot.trio(p).contains(member)
        };
        if !self.owners.is_empty() && Partition::all().any(|p| other(&p)) {
            return Err(Reason::SoleOwner);
        }
        if asked.shut_out == number {
            let standing = self.standings.entry(member).or_default();
            // Workers that it does not have send nothing.
            let others = ((1_u32 << asked.workers) - 1) as u16;
            standing.shut_out &= others & !(1 << asked.worker);
            let (boot, sequence) = (body.boot, body.sequence);
            io.report(Report::Pulled { member, boot, sequence });
            self.changed(io);
        }
        Ok(())
    }

    /// Owners that are gone from the list, began anew or fell silent decide no more.
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
            if let Some(standing) = self.standings.get_mut(&owner) {
                standing.obeyed = 0;
            }
            self.give(its, 0, peers.snapshot(), true, io);
        }
        self.orders.retain(|(of, _), _| is_tracker(*of));
    }

    pub(super) fn next_deadline(&self, peers: &Peers) -> Option<Nanos> {
        let silent = self.owners.iter().map(|(&id, &(_, since))| silent_at(peers, id, since));
        silent.min()
    }

    pub(super) fn collect(&self, out: &mut dyn MetricSink) {
        let obeyed = self.wanted.iter().filter(|&&owner| owner != 0).count();
        out.value(&PARTITIONS_OBEYED, &[], obeyed as f64);
    }

    fn held_by(&self, owner: u16, among: impl Iterator<Item = Partition>) -> Vec<Partition> {
        among.filter(|p| self.wanted[p.index()] == owner).collect()
    }

    /// Gives partitions to an owner, 0 for nobody, and has that written if it, or something else, is new.
    fn give<B: PacketBuf>(
        &mut self,
        partitions: Vec<Partition>,
        owner: u16,
        snapshot: &Snapshot,
        mut is_new: bool,
        io: &mut impl Io<B>,
    ) {
        let mut others = BTreeSet::new();
        for partition in partitions {
            if self.wanted[partition.index()] != owner {
                self.wanted[partition.index()] = owner;
                (is_new, self.news) = (true, true);
                let trio = snapshot.trio(partition);
                others.extend(trio.iter().filter(|id| owner != 0 && id.as_u16() != owner));
            }
        }
        for other in others {
            let standing = self.standings.entry(other).or_default();
            standing.shut_out = u16::MAX;
            standing.number = standing.number % u8::MAX + 1;
        }
        let wanted = &self.wanted;
        self.owners.retain(|owner, _| wanted.contains(&owner.as_u16()));
        if is_new {
            self.changed(io);
        }
    }

    fn changed<B: PacketBuf>(&mut self, io: &mut impl Io<B>) {
        self.change += 1;
        io.report(Report::SoleChanged { change: self.change });
    }

    /// Gives whether that is new.
    fn set_obeyed(&mut self, tracker: MemberId, worker: u8, obeyed: bool) -> bool {
        let standing = self.standings.entry(tracker).or_default();
        let was = standing.obeyed;
        standing.obeyed = if obeyed { was | 1 << worker } else { was & !(1 << worker) };
        standing.obeyed != was
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
}

impl Order {
    /// It is not in force any more: it is not acknowledged.
    fn end(&mut self) {
        self.ack_after = None;
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
