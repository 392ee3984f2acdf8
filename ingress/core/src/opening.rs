//! Flows that wait for an answer to their Open.

use arrayvec::ArrayVec;
use jlb_flow::{Cookie, FlowId};
use jlb_map::TRIO;
use jlb_peers::{OUTER_ROOM, buffer_with};
use jlb_role::{Io, Nanos, PacketBuf, Reason, Rule, Rules};
use jlb_wire::{
    Epoch, FiveTuple, Flags, Incarnation, Kind, MemberId, OpenCut, Packet, Tcp, mend,
    transport_checksum_fits,
};

use crate::Ingress;
use crate::flows::Flow;
use crate::metrics::Opened;

/// Packets that wait behind a flow's first one.
pub const PENDING_QUEUE: usize = 8;
/// A pending entry is freed so long after its first Open (rule 8).
pub const OPEN_TIMEOUT: Nanos = Nanos::from_secs(1);

/// When Opens go out, counted from the first, and to which of the trackers (rule 8).
const OPEN_AT: [(Nanos, usize); 4] = [
    (Nanos::ZERO, 0),
    (Nanos::from_millis(25), 0),
    (Nanos::from_millis(75), 1),
    (Nanos::from_millis(125), 2),
];

/// A flow that waits.
#[derive(Debug)]
pub(crate) struct Pending<B> {
    pub(crate) id: FlowId,
    pub(crate) tuple: FiveTuple,
    /// The ISN; 0 for UDP.
    pub(crate) incarnation: Incarnation,
    /// The packet inside Open, whole.
    pub(crate) first: B,
    /// What came after it, oldest first.
    pub(crate) queue: ArrayVec<B, PENDING_QUEUE>,
    pub(crate) opened: Nanos,
    reject_ttl: u8,
    /// Opens that were sent.
    sent: usize,
    /// Whom to ask, in this order, in that epoch.
    trackers: ArrayVec<MemberId, TRIO>,
    epoch: Epoch,
    timer: Option<jlb_flow::TimerId>,
}

impl<B> Pending<B> {
    /// When the next Open goes out, or the entry goes.
    fn due(&self, one_retransmitter: bool) -> Nanos {
        let after = match OPEN_AT.get(self.sent) {
            Some(&(after, _)) if one_retransmitter => after,
            None if one_retransmitter => OPEN_TIMEOUT,
            Some(_) | None => Nanos(self.sent as u64 * OPEN_AT[1].0.0).min(OPEN_TIMEOUT),
        };
        self.opened + after
    }
}

impl<B: PacketBuf, R: Rules> Ingress<B, R> {
    /// Opens a flow with its first packet (without padding); takes the place of what the table has of that five-tuple.
    pub(crate) fn open(
        &mut self,
        now: Nanos,
        b: B,
        packet: &Packet,
        id: &FlowId,
        io: &mut impl Io<B>,
    ) {
        let trackers = self.trackers(id);
        let service = self.view.service(&packet.tuple);
        let Some(service) = service.and_then(|s| self.view.snapshot.service_by_id(s)) else {
            return io.drop(b, Reason::NoService);
        };
        if trackers.is_empty() {
            return io.drop(b, Reason::NoTracker);
        }
        // Nobody behind us would answer it: a client on this machine leaves checksums to a card that is not there.
        if !transport_checksum_fits(b.bytes(), packet) {
            return io.drop(b, Reason::BadChecksum);
        }
        // Only with kilobytes of IPv6 extension headers.
        if OpenCut::of(packet).len + OUTER_ROOM > usize::from(self.view.snapshot.mtu()) {
            return io.drop(b, Reason::TooBig);
        }
        if self.pending.is_full() || self.held >= self.most_held {
            return io.drop(b, Reason::PendingFull);
        }
        let pending = Pending {
            id: *id,
            tuple: packet.tuple,
            incarnation: packet.incarnation(),
            first: b,
            queue: ArrayVec::new(),
            opened: now,
            reject_ttl: service.reject_ttl,
            sent: 0,
            trackers,
            epoch: self.view.snapshot.epoch(),
            timer: None,
        };
        let Ok(cookie) = self.pending.insert(pending) else { return };
        let protocol = packet.tuple.protocol();
        if self.flows.put(id, Flow::Pending { protocol, cookie }).is_err() {
            if let Some(Pending { first, .. }) = self.pending.remove(cookie) {
                io.drop(first, Reason::FlowTableFull);
            }
            return;
        }
        self.held += 1;
        self.pending_due(now, cookie, io);
    }

    /// Another packet of a flow that waits.
    pub(crate) fn enqueue(&mut self, b: B, packet: &Packet, cookie: Cookie, io: &mut impl Io<B>) {
        if packet.tcp.is_some_and(Tcp::is_open) {
            return io.drop(b, Reason::DuplicateSyn);
        }
        let Some(pending) = self.pending.get_mut(cookie) else {
            return io.drop(b, Reason::NoFlow);
        };
        if self.held >= self.most_held {
            return io.drop(b, Reason::PendingQueueFull);
        }
        match pending.queue.try_push(b) {
            Ok(()) => self.held += 1,
            Err(full) => io.drop(full.element(), Reason::PendingQueueFull),
        }
    }

    /// An entry's time has come: the next Open, or its end.
    pub(crate) fn pending_due(&mut self, now: Nanos, cookie: Cookie, io: &mut impl Io<B>) {
        let once = self.rules.on(Rule::OneRetransmitter);
        let Some(pending) = self.pending.get(cookie) else { return };
        if now >= pending.opened + OPEN_TIMEOUT {
            let (tuple, waited) = (pending.tuple, now.since(pending.opened));
            self.count_open(&tuple, Opened::Timeout, waited);
            return self.abandon(cookie, Reason::OpenTimeout, io);
        }
        self.send_open(cookie, io);
        let Some(pending) = self.pending.get_mut(cookie) else { return };
        pending.sent += 1;
        // There are as many timers as entries.
        pending.timer = self.timers.schedule(pending.due(once), cookie).ok();
    }

    /// What cannot be sent now is sent at the next turn.
    fn send_open(&mut self, cookie: Cookie, io: &mut impl Io<B>) {
        let epoch = self.view.snapshot.epoch();
        let Some(pending) = self.pending.get(cookie) else { return };
        if pending.epoch != epoch {
            let trackers = self.trackers(&pending.id);
            if let Some(pending) = self.pending.get_mut(cookie) {
                (pending.trackers, pending.epoch) = (trackers, epoch);
            }
        }
        let Some(pending) = self.pending.get(cookie) else { return };
        let rank = match OPEN_AT.get(pending.sent) {
            Some(&(_, rank)) if self.rules.on(Rule::OneRetransmitter) => rank,
            Some(_) | None => pending.sent,
        };
        let Some(at) = rank.checked_rem(pending.trackers.len()) else { return };
        let tracker = pending.trackers[at];
        let bytes = pending.first.bytes();
        let Ok(packet) = Packet::parse(bytes) else { return };
        let OpenCut { len, cut } = OpenCut::of(&packet);
        let Some(mut b) = buffer_with(io, &bytes[..len]) else { return };
        if cut && mend(b.bytes_mut(), &packet).is_err() {
            return;
        }
        let mut open = self.peers.control(Kind::Open, pending.incarnation);
        open.reject_ttl = pending.reject_ttl;
        open.cookie = cookie.to_wire();
        open.ingress = Some(self.peers.me());
        open.flags = Flags::default().set(Flags::CUT, cut);
        self.peers.send_control(b, tracker, open, (&pending.tuple, &pending.id), io);
    }

    /// Takes a waiting flow out of the pool; the table still names it.
    pub(crate) fn take_pending(&mut self, cookie: Cookie) -> Option<Pending<B>> {
        let pending = self.pending.remove(cookie)?;
        self.held -= 1 + pending.queue.len();
        if let Some(timer) = pending.timer {
            self.timers.cancel(timer);
        }
        Some(pending)
    }

    /// Frees a waiting flow with its queue.
    pub(crate) fn abandon(&mut self, cookie: Cookie, why: Reason, io: &mut impl Io<B>) {
        let Some(id) = self.pending.get(cookie).map(|p| p.id) else { return };
        self.flows.remove(&id);
        if !self.rules.on(Rule::FreeQueue) {
            let timer = self.pending.get_mut(cookie).and_then(|p| p.timer.take());
            timer.and_then(|timer| self.timers.cancel(timer));
            return;
        }
        let Some(Pending { first, queue, .. }) = self.take_pending(cookie) else { return };
        io.drop(first, why);
        for b in queue {
            io.drop(b, why);
        }
    }

    /// Sends what waited to the backend, in order.
    pub(crate) fn flush(
        &mut self,
        now: Nanos,
        pending: Pending<B>,
        first_too: bool,
        backend: MemberId,
        io: &mut impl Io<B>,
    ) {
        let Pending { id, first, mut queue, .. } = pending;
        if !self.rules.on(Rule::FlushInOrder) {
            queue.reverse();
        }
        // The packet inside Open was delivered: its buffer just ends here.
        for b in first_too.then_some(first).into_iter().chain(queue) {
            match Packet::parse(b.bytes()) {
                Ok(packet) => self.send_data(now, b, &packet, &id, backend, io),
                Err(_) => io.drop(b, Reason::Malformed),
            }
        }
    }

    /// Counts what became of an Open.
    pub(crate) fn count_open(&mut self, tuple: &FiveTuple, how: Opened, waited: Nanos) {
        self.counters.opened(self.view.service(tuple), how, waited.as_secs_f64());
    }

    /// The partition's trackers: live ones first, then by rank.
    fn trackers(&self, id: &FlowId) -> ArrayVec<MemberId, TRIO> {
        let trio = self.view.snapshot.trio(id.partition());
        let alive = |m: &MemberId| self.peers.alive(*m);
        trio.iter().filter(alive).chain(trio.iter().filter(|m| !alive(m))).collect()
    }
}
