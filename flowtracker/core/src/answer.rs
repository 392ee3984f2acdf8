//! The backend's word: Accept, Reject, Close.

use jlb_flow::{Cookie, FlowId};
use jlb_map::{MemberRole, OnExhausted};
use jlb_role::{Io, Nanos, PacketBuf, Reason, Rule, Rules};
use jlb_wire::{Bar, BootId, Flags, HOP_BUDGET, Incarnation, MemberId, Protocol, RejectReason};

use crate::entry::{Candidate, Entry, Pending, Tombstone};
use crate::pick::{Ask, Picked};
use crate::send::Offer;
use crate::tracker::{Message, Tracker};

/// What a backend says of a flow of its own, in a message about it or in a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) flow: FlowId,
    pub(crate) protocol: Protocol,
    pub(crate) incarnation: Incarnation,
    pub(crate) backend: MemberId,
    pub(crate) boot: BootId,
    pub(crate) counter: u64,
}

impl Word {
    const fn of<B>(message: &Message<B>) -> Self {
        let control = &message.control;
        Self {
            flow: message.flow,
            protocol: message.tuple.protocol(),
            incarnation: control.incarnation,
            backend: control.sender,
            boot: control.boot,
            counter: control.word_a,
        }
    }
}

impl<R: Rules> Tracker<R> {
    /// The backend took the flow: this is stored before it is passed on, so that whoever learns it later can be told
    /// again by two trackers.
    pub(crate) fn on_accept<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        io: &mut impl Io<B>,
    ) {
        let next = self.accept_goes_to(&message).and_then(|next| {
            let listed = self.sources.number(message.control.sender);
            self.store_word(now, &Word::of(&message), listed, false)?;
            Ok(next)
        });
        match next {
            Ok(next) => {
                let flow = message.flow;
                self.peers.forward(message.buf, &message.envelope, next, &flow, io);
            }
            Err(why) => io.drop(message.buf, why),
        }
    }

    fn accept_goes_to<B>(&self, message: &Message<B>) -> Result<MemberId, Reason> {
        let control = &message.control;
        let role = |id| self.snapshot.member(id).map(|m| m.role);
        if control.backend != Some(control.sender)
            || control.ingress != Some(control.receiver)
            || role(control.receiver) != Some(MemberRole::Ingress)
        {
            return Err(Reason::Malformed);
        }
        let me = Some(self.peers.me());
        if control.head == me {
            return Ok(control.receiver);
        }
        match control.head {
            Some(head) if control.second == me && role(head) == Some(MemberRole::FlowTracker) => {
                Ok(head)
            }
            Some(_) | None => Err(Reason::Unexpected),
        }
    }

    /// Stores that a backend has a flow. `listed`: the pull that says so, or that ran when it was said. `in_list`: it is
    /// one of a list of all, not the answer to an Open.
    pub(crate) fn store_word(
        &mut self,
        now: Nanos,
        word: &Word,
        listed: u8,
        in_list: bool,
    ) -> Result<(), Reason> {
        let Word { flow, protocol, incarnation, backend, boot, counter } = *word;
        let over = self
            .store
            .tombstone(now, &flow, protocol, incarnation)
            .is_some_and(|t| t.covers(protocol, backend, (boot, incarnation)));
        if over {
            return Err(Reason::StaleCounter);
        }
        let overwrite = !self.rules.on(Rule::FirstWriterWins);
        match self.store.entry(&flow) {
            Some(Entry::Pending(cookie)) => {
                let ours = self.store.pending(cookie).is_some_and(|p| {
                    p.backend == backend
                        && (protocol == Protocol::Udp || p.incarnation == incarnation)
                });
                if !ours && !overwrite {
                    return Err(Reason::Unexpected);
                }
            }
            Some(Entry::Established {
                boot: b, counter: c, incarnation: i, backend: of, ..
            }) => {
                let same = of == backend && i == incarnation;
                if same && in_list {
                    self.store.mark(&flow, listed);
                }
                // A list also says which of its own flows a backend has now.
                let newer = in_list && of == backend && b == boot && counter > c;
                if !same && !newer && !overwrite && self.holds(now, (of, b)) {
                    return Err(Reason::Unexpected);
                }
                if same && b == boot && counter < c && self.rules.on(Rule::VersionedWord) {
                    return Err(Reason::StaleCounter);
                }
                if same && b == boot && counter == c && in_list {
                    return Ok(());
                }
            }
            Some(Entry::Closing { .. }) | None => {}
        }
        if !self.snapshot.trio(flow.partition()).contains(self.peers.me()) {
            // A vote from before the last epoch: who owns the flow now has it from the backend's list, and its Close will
            // not come to us.
            self.store.remove(&flow);
            return Ok(());
        }
        self.store.establish(&flow, protocol, (backend, incarnation), (boot, counter), listed)
    }

    /// The backend refused: the second undoes its vote and passes it to the head; the head finds another one.
    pub(crate) fn on_reject<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        io: &mut impl Io<B>,
    ) {
        let control = message.control;
        let me = self.peers.me();
        if control.backend != Some(control.sender) {
            return io.drop(message.buf, Reason::Malformed);
        }
        let asked = self.asked(&message);
        if let Some(pending) = asked.and_then(|cookie| self.store.pending_mut(cookie)) {
            if !pending.refused && !pending.force && self.rules.on(Rule::RejectTtl) {
                // Full at four: as many candidates as there can be.
                pending.tried.push(control.sender);
            }
            pending.refused = true;
        }
        if control.receiver != me {
            if control.second != Some(me) || control.head != Some(control.receiver) {
                return io.drop(message.buf, Reason::Unexpected);
            }
            let flow = message.flow;
            return self.peers.forward(message.buf, &message.envelope, control.receiver, &flow, io);
        }
        let Some(cookie) = asked else {
            return io.drop(message.buf, Reason::Unexpected);
        };
        self.count_reject(&message);
        // The vote is free, and where we may not lead the chain any more, we vote no more.
        if let Some(why) = self.may_not_head(now, message.flow.partition()) {
            self.store.remove(&message.flow);
            return io.drop(message.buf, why);
        }
        let yields = self.store.pending(cookie).is_some_and(|p| p.yields);
        // The answer to a Cancel names no second and carries no packet that could be offered to another backend: the
        // vote is free, and the client's next packet starts again.
        if control.second.is_none() || yields {
            self.store.remove(&message.flow);
        } else {
            self.next_candidate(now, message, cookie, io);
        }
    }

    /// The pending entry whose candidate this Reject speaks about.
    fn asked<B>(&self, message: &Message<B>) -> Option<Cookie> {
        let control = &message.control;
        let Some(Entry::Pending(cookie)) = self.store.entry(&message.flow) else { return None };
        let pending = self.store.pending(cookie)?;
        (pending.backend == control.sender
            && pending.force == control.flags.has(Flags::FORCE)
            && pending.incarnation == control.incarnation)
            .then_some(cookie)
    }

    fn count_reject<B>(&mut self, message: &Message<B>) {
        let (vip, protocol) = (message.tuple.vip(), message.tuple.protocol());
        if let Some(service) = self.snapshot.service(vip.ip(), vip.port(), protocol) {
            self.rejects.count(service, message.control.sender, message.control.reason);
        }
    }

    /// We head the chain and our candidate has refused.
    fn next_candidate<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        cookie: Cookie,
        io: &mut impl Io<B>,
    ) {
        let trio = self.snapshot.trio(message.flow.partition());
        let Some(pending) = self.store.pending_mut(cookie) else { return };
        if message.control.reason == RejectReason::Busy {
            pending.able = Some(message.control.sender);
        }
        let pending = *pending;
        let (vip, protocol) = (message.tuple.vip(), message.tuple.protocol());
        let service = self.snapshot.service(vip.ip(), vip.port(), protocol);
        let panics = service.is_some_and(|id| self.picker.panics(id));
        let bounded = self.rules.on(Rule::RejectTtl);
        let untried = service.filter(|_| !pending.force && (pending.reject_ttl > 0 || !bounded));
        let untried = untried.map_or(Ok(None), |id| {
            let flow = (&pending.flow, pending.incarnation);
            let reject_ttl = pending.reject_ttl.saturating_sub(1);
            self.pick(now, &Ask::new(id, flow, &pending.tried, reject_ttl))
        });
        let untried = match untried {
            Ok(untried) => untried,
            // The candidate stays, as one that refused; the ingress's next Open brings us here again.
            Err(why) => return io.drop(message.buf, why),
        };
        let service = service.and_then(|id| self.snapshot.service_by_id(id));
        // Those with fewer flows have all refused: so whoever left it to them is the best one after all.
        let able = pending.able.filter(|&id| {
            service.is_some_and(|s| s.backend(id).is_some()) && self.choice().may_have(id)
        });
        let forces = service.is_some_and(|s| s.on_exhausted == OnExhausted::Force);
        let next = match untried {
            Some(Picked { backend, .. }) => Candidate::Backend(backend),
            None if pending.force => Candidate::Refused,
            None => match able.or(forces.then_some(pending.backend)) {
                Some(backend) => Candidate::Force(backend),
                None => Candidate::Refused,
            },
        };
        let (me, boot) = (self.peers.me(), self.peers.own_boot());
        let Some(backend) = next.backend() else {
            let offer =
                Offer { head: me, head_boot: boot, ..Offer::of(&pending, &message.control) };
            return self.refuse(now, message, &offer, trio, io);
        };
        if let Some(stored) = self.store.reoffer(cookie, backend) {
            *stored = Pending {
                bar: untried.map_or(Bar::LAST, |picked| picked.bar),
                panic: untried.map_or(panics, |picked| picked.panic),
                force: matches!(next, Candidate::Force(_)),
                refused: false,
                head: me,
                head_boot: boot,
                reject_ttl: if bounded {
                    stored.reject_ttl.saturating_sub(1)
                } else {
                    stored.reject_ttl
                },
                ..*stored
            };
            // By the last one of this list others know whom we forced.
            stored.tried.move_to_end(backend);
        }
        self.drive(now, message, cookie, trio, io);
    }

    /// The flow has ended.
    pub(crate) fn on_close<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        io: &mut impl Io<B>,
    ) {
        let control = message.control;
        if control.backend != Some(control.sender) {
            return io.drop(message.buf, Reason::Malformed);
        }
        let (backend, incarnation) = (control.sender, control.incarnation);
        let (flow, protocol) = (message.flow, message.tuple.protocol());
        if self.rules.on(Rule::Tombstones) {
            let tombstone = Tombstone { backend, boot: control.boot, incarnation };
            // Without room for it there is no acknowledgement either: the agent says it again.
            if let Err(why) = self.store.bury(now, &flow, protocol, tombstone) {
                return io.drop(message.buf, why);
            }
        }
        self.close_by(now, &Word::of(&message));
        self.send_close_ack(message, io);
    }

    /// Ends the flow's entry, if its backend's word says so.
    pub(crate) fn close_by(&mut self, now: Nanos, word: &Word) {
        if self.closes(word) {
            self.store.close(now, &word.flow, word.protocol, (word.backend, word.incarnation));
        }
    }

    /// Whether a Close ends the flow's entry: it is of that incarnation and backend, and not older than what made it.
    fn closes(&self, word: &Word) -> bool {
        match self.store.entry(&word.flow) {
            Some(Entry::Established { boot: b, counter: c, incarnation, backend, .. }) => {
                let stale = b == word.boot && word.counter < c;
                let stale = stale && self.rules.on(Rule::VersionedWord);
                incarnation == word.incarnation && backend == word.backend && !stale
            }
            // It was admitted, and its Accept was lost. (A pending UDP flow has no number yet: this may be the end of
            // the one before.)
            Some(Entry::Pending(cookie)) => self.store.pending(cookie).is_some_and(|p| {
                word.protocol == Protocol::Tcp
                    && p.incarnation == word.incarnation
                    && p.backend == word.backend
            }),
            Some(Entry::Closing { .. }) | None => false,
        }
    }
}

// A new try may go as far as the first one.
const _: () = assert!(HOP_BUDGET >= 2);
