//! Query: packets in the middle of a flow whose beginning was elsewhere, and the trackers' answer.

use arrayvec::ArrayVec;
use jlb_flow::{Cookie, FlowId};
use jlb_map::TRIO;
use jlb_role::{Io, Nanos, PacketBuf, Reason, Rule, Rules};
use jlb_wire::{Control, FiveTuple, Incarnation, Kind, MemberId, Packet, not_mine_proof};

use crate::Ingress;
use crate::budget::Verdict;
use crate::flows::Flow;
use crate::metrics::Queried;
use crate::pending::Question;
use crate::reply::Reply;

/// A Query's packets are given up so long after it was first sent: then the client's next transmission asks again.
const QUERY_TIMEOUT: Nanos = Nanos::from_secs(1);
/// When Queries go out, counted from the first; each to the next tracker. (One that does not know makes us ask the next
/// one at once.)
const QUERY_AT: [Nanos; 6] = [
    Nanos::ZERO,
    Nanos::from_millis(25),
    Nanos::from_millis(75),
    Nanos::from_millis(125),
    Nanos::from_millis(250),
    Nanos::from_millis(500),
];

/// A flow whose place is asked for.
#[derive(Debug)]
pub(crate) struct Query {
    /// Of this round. "Nobody knows" is said of packets only that waited when the round began (rule 6): what came later may
    /// belong to a flow that began meanwhile.
    nonce: u64,
    /// So many of the queue waited then.
    asked: usize,
    /// Who does not know it.
    unknown: ArrayVec<MemberId, TRIO>,
    /// A backend that does not have it, and the proof.
    not_mine: Option<(MemberId, u64)>,
}

impl<B: PacketBuf, R: Rules> Ingress<B, R> {
    /// A packet (without padding) in the middle of a flow that we do not know.
    pub(crate) fn query(
        &mut self,
        now: Nanos,
        b: B,
        packet: &Packet,
        id: &FlowId,
        io: &mut impl Io<B>,
    ) {
        match self.budget.judge(now, id) {
            Verdict::Ask if self.may_query(1) => {
                let queue = core::iter::once(b).collect();
                self.ask(now, (&packet.tuple, id), None, queue, io);
            }
            Verdict::Ask => io.drop(b, Reason::PendingFull),
            Verdict::Unknown => io.drop(b, Reason::UnknownFlow),
            Verdict::Over => io.drop(b, Reason::QueryLimit),
        }
    }

    /// A backend does not have a flow that we sent it packets of: the trackers are asked where it is.
    pub(crate) fn not_mine(
        &mut self,
        now: Nanos,
        message: &Control,
        (tuple, id): (&FiveTuple, &FlowId),
        io: &mut impl Io<B>,
    ) -> Result<(), Reason> {
        match self.flows.get(id) {
            Some(Flow::Established { backend, .. }) if backend == message.sender => {}
            _ => return Err(Reason::Unexpected),
        }
        self.flows.remove(id);
        if self.may_query(0) {
            let proof = not_mine_proof(message.boot, message.word_a);
            let not_mine = Some((message.sender, proof));
            self.ask(now, (tuple, id), not_mine, ArrayVec::new(), io);
        }
        Ok(())
    }

    /// Queries may hold half of the pool: new flows need the other.
    fn may_query(&self, packets: usize) -> bool {
        self.may_wait(packets) && self.queries < self.pending.capacity().div_ceil(2)
    }

    fn ask(
        &mut self,
        now: Nanos,
        flow: (&FiveTuple, &FlowId),
        not_mine: Option<(MemberId, u64)>,
        queue: ArrayVec<B, { crate::pending::PENDING_QUEUE }>,
        io: &mut impl Io<B>,
    ) {
        let nonce = self.nonces.next();
        let query = Query { nonce, asked: queue.len(), unknown: ArrayVec::new(), not_mine };
        self.queries += 1;
        self.wait(now, flow, Question::Query(query), queue, io);
    }

    pub(crate) fn query_due(&mut self, now: Nanos, cookie: Cookie, io: &mut impl Io<B>) {
        let Some(pending) = self.pending.get(cookie) else { return };
        if now >= pending.since + QUERY_TIMEOUT {
            self.counters.queried(Queried::Timeout);
            return self.abandon(cookie, Reason::QueryTimeout, io);
        }
        if let Some(next) = pending.sent.checked_rem(pending.trackers.len()) {
            self.send_query(cookie, pending.trackers[next], io);
        }
        let Some(pending) = self.pending.get_mut(cookie) else { return };
        pending.sent += 1;
        let after = QUERY_AT.get(pending.sent).copied().unwrap_or(QUERY_TIMEOUT);
        pending.timer = self.timers.schedule(pending.since + after, cookie).ok();
    }

    /// What cannot be sent now is sent at the next turn.
    fn send_query(&mut self, cookie: Cookie, to: MemberId, io: &mut impl Io<B>) {
        let Some(pending) = self.pending.get(cookie) else { return };
        let Question::Query(query) = &pending.question else { return };
        let mut message = self.peers.control(Kind::Query, Incarnation(0));
        message.cookie = cookie.to_wire();
        message.ingress = Some(self.peers.me());
        message.word_a = query.nonce;
        if let Some((backend, proof)) = query.not_mine {
            (message.backend, message.word_b) = (Some(backend), proof);
        }
        self.peers.send_headers(to, message, (&pending.tuple, &pending.id), io);
    }

    /// Whether a tracker's word of where the flow is answers what waits: an Open, or this round of a Query.
    pub(crate) fn answers(&self, message: &Control, cookie: Cookie) -> bool {
        match self.pending.get(cookie).map(|p| &p.question) {
            Some(Question::Query(query)) => message.word_a == query.nonce,
            Some(Question::Open(_)) | None => true,
        }
    }

    /// A tracker does not know the flow. Two of one epoch's trio: nobody knows it (rule 6).
    pub(crate) fn unknown(
        &mut self,
        now: Nanos,
        message: &Control,
        cookie: Cookie,
        io: &mut impl Io<B>,
    ) -> Result<(), Reason> {
        let by_nonce = self.rules.on(Rule::UnknownByNonce);
        let one_epoch = self.rules.on(Rule::OneEpoch);
        let needed = if self.rules.on(Rule::TwoUnknown) { 2 } else { 1 };
        let epoch = self.view.snapshot.epoch();
        let pending = self.pending.get_mut(cookie).ok_or(Reason::Unexpected)?;
        let trio = self.view.snapshot.trio(pending.id.partition());
        // The retransmitter of an Open goes on.
        let Question::Query(query) = &mut pending.question else { return Ok(()) };
        if by_nonce && message.word_a != query.nonce {
            return Err(Reason::Unexpected);
        }
        if one_epoch && message.epoch != epoch {
            return Err(Reason::WrongEpoch);
        }
        if !trio.contains(message.sender) {
            return Err(Reason::NotInTrio);
        }
        if !query.unknown.contains(&message.sender) {
            query.unknown.push(message.sender);
        }
        if query.unknown.len() < needed {
            let asked = &query.unknown;
            let next = pending.trackers.iter().copied().find(|m| !asked.contains(m));
            if let Some(next) = next {
                self.send_query(cookie, next, io);
            }
            return Ok(());
        }
        self.nobody_knows(now, cookie, io);
        Ok(())
    }

    /// Tells the client, of the packets that waited when this round of questions began; the others begin another.
    fn nobody_knows(&mut self, now: Nanos, cookie: Cookie, io: &mut impl Io<B>) {
        let by_nonce = self.rules.on(Rule::UnknownByNonce);
        let Some(pending) = self.pending.get_mut(cookie) else { return };
        let Question::Query(query) = &mut pending.question else { return };
        let told = if by_nonce { query.asked } else { pending.queue.len() };
        let told: ArrayVec<B, { crate::pending::PENDING_QUEUE }> =
            pending.queue.drain(..told).collect();
        self.held -= told.len();
        self.counters.queried(Queried::Unknown);
        // One RST is enough: the last, which the client expects next.
        let last = told.iter().rev().find_map(|b| {
            let packet = Packet::parse(b.bytes()).ok()?;
            Reply::may_reset(&packet).then_some((b.bytes(), packet))
        });
        if let Some((bytes, packet)) = last {
            self.replies.say(now, Reply::Unknown, (bytes, &packet), &self.view, io);
        }
        for b in told {
            io.drop(b, Reason::UnknownFlow);
        }
        if pending.queue.is_empty() {
            let id = pending.id;
            self.budget.unknown(now, &id);
            return self.abandon(cookie, Reason::UnknownFlow, io);
        }
        query.nonce = self.nonces.next();
        query.asked = pending.queue.len();
        query.unknown.clear();
        if let Some(first) = pending.trackers.first().copied() {
            self.send_query(cookie, first, io);
        }
    }
}
