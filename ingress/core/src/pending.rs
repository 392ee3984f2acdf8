//! Flows that wait for word from the trackers, and the packets that wait with them.

use arrayvec::ArrayVec;
use jlb_flow::{Cookie, FlowId, TimerId};
use jlb_map::TRIO;
use jlb_role::{Io, Nanos, PacketBuf, Reason, Rule, Rules};
use jlb_wire::{Epoch, FiveTuple, Glance, Incarnation, MemberId, Packet, Tcp};

use crate::Ingress;
use crate::opening::Opening;
use crate::query::Query;

/// Packets that wait behind a flow's first one.
pub const PENDING_QUEUE: usize = 8;

/// A flow that waits.
#[derive(Debug)]
pub(crate) struct Pending<B> {
    pub(crate) id: FlowId,
    pub(crate) tuple: FiveTuple,
    pub(crate) question: Question<B>,
    /// What came behind the packet inside Open; with a Query, all that came. Oldest first.
    pub(crate) queue: ArrayVec<B, PENDING_QUEUE>,
    /// When it was asked first.
    pub(crate) since: Nanos,
    /// Questions that were sent.
    pub(crate) sent: usize,
    /// Whom to ask, in this order, in that epoch.
    pub(crate) trackers: ArrayVec<MemberId, TRIO>,
    pub(crate) epoch: Epoch,
    pub(crate) timer: Option<TimerId>,
}

/// What the trackers are asked.
#[derive(Debug)]
pub(crate) enum Question<B> {
    /// To place a new flow.
    Open(Opening<B>),
    /// Where a flow lives whose beginning was elsewhere.
    Query(Query),
}

impl<B> Pending<B> {
    /// The incarnation that its Open names; none for a Query.
    pub(crate) const fn opens(&self) -> Option<Incarnation> {
        match &self.question {
            Question::Open(opening) => Some(opening.incarnation),
            Question::Query(_) => None,
        }
    }

    /// Packets that it holds.
    pub(crate) const fn packets(&self) -> usize {
        let first = matches!(self.question, Question::Open(_)) as usize;
        first + self.queue.len()
    }
}

impl<B: PacketBuf, R: Rules> Ingress<B, R> {
    /// A new entry, and its first question.
    pub(crate) fn wait(
        &mut self,
        now: Nanos,
        (tuple, id): (&FiveTuple, &FlowId),
        question: Question<B>,
        queue: ArrayVec<B, PENDING_QUEUE>,
        io: &mut impl Io<B>,
    ) {
        let pending = Pending {
            id: *id,
            tuple: *tuple,
            question,
            queue,
            since: now,
            sent: 0,
            trackers: self.trackers(id),
            epoch: self.view.snapshot.epoch(),
            timer: None,
        };
        let packets = pending.packets();
        // Whoever calls this has seen that there is room.
        let Ok(cookie) = self.pending.insert(pending) else { return };
        self.held += packets;
        let waits = crate::flows::Flow::Pending { protocol: tuple.protocol(), cookie };
        if self.flows.put(id, waits).is_err() {
            if let Some(pending) = self.take_pending(cookie) {
                drop_all(pending, Reason::FlowTableFull, io);
            }
            return;
        }
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

    /// An entry's time has come: the next question, or its end.
    pub(crate) fn pending_due(&mut self, now: Nanos, cookie: Cookie, io: &mut impl Io<B>) {
        let epoch = self.view.snapshot.epoch();
        let Some(pending) = self.pending.get(cookie) else { return };
        if pending.epoch != epoch {
            let trackers = self.trackers(&pending.id);
            if let Some(pending) = self.pending.get_mut(cookie) {
                (pending.trackers, pending.epoch) = (trackers, epoch);
            }
        }
        match self.pending.get(cookie).map(|p| &p.question) {
            Some(Question::Open(_)) => self.open_due(now, cookie, io),
            Some(Question::Query(_)) => self.query_due(now, cookie, io),
            None => {}
        }
    }

    /// Takes a waiting flow out of the pool; the table still names it.
    pub(crate) fn take_pending(&mut self, cookie: Cookie) -> Option<Pending<B>> {
        let pending = self.pending.remove(cookie)?;
        self.held -= pending.packets();
        if let Question::Query(_) = pending.question {
            self.queries -= 1;
        }
        if let Some(timer) = pending.timer {
            self.timers.cancel(timer);
        }
        Some(pending)
    }

    /// Frees a waiting flow with its packets.
    pub(crate) fn abandon(&mut self, cookie: Cookie, why: Reason, io: &mut impl Io<B>) {
        let Some(id) = self.pending.get(cookie).map(|p| p.id) else { return };
        self.flows.remove(&id);
        if !self.rules.on(Rule::FreeQueue) {
            let timer = self.pending.get_mut(cookie).and_then(|p| p.timer.take());
            timer.and_then(|timer| self.timers.cancel(timer));
            return;
        }
        if let Some(pending) = self.take_pending(cookie) {
            drop_all(pending, why, io);
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
        let Pending { id, question, mut queue, .. } = pending;
        if !self.rules.on(Rule::FlushInOrder) {
            queue.reverse();
        }
        // The packet inside Open was delivered: its buffer just ends here.
        let first = match question {
            Question::Open(opening) if first_too => Some(opening.first),
            Question::Open(_) | Question::Query(_) => None,
        };
        for b in first.into_iter().chain(queue) {
            match Packet::parse(b.bytes()) {
                Ok(packet) => self.send_data(now, b, &Glance::of(&packet), &id, backend, io),
                Err(_) => io.drop(b, Reason::Malformed),
            }
        }
    }

    /// Whether one more may wait, with a packet or none.
    pub(crate) fn may_wait(&self, packets: usize) -> bool {
        !self.pending.is_full() && self.held + packets <= self.most_held
    }

    /// The partition's trackers, in the order in which they are asked.
    fn trackers(&self, id: &FlowId) -> ArrayVec<MemberId, TRIO> {
        let trio = self.view.snapshot.trio(id.partition());
        self.peers.in_order(trio.iter()).collect()
    }
}

fn drop_all<B: PacketBuf>(pending: Pending<B>, why: Reason, io: &mut impl Io<B>) {
    if let Question::Open(opening) = pending.question {
        io.drop(opening.first, why);
    }
    for b in pending.queue {
        io.drop(b, why);
    }
}
