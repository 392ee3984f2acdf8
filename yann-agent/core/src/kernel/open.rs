//! Open and Cancel: the host's decision about a flow, once and for all (rule 3).

use jlb_role::{Nanos, Reason, Rule, Rules};
use jlb_wire::{Bar, FiveTuple, Flags, MemberId, Protocol, RejectReason};

use super::control::Believed;
use super::reply::Refusal;
use super::{Kernel, NO_SERVICE, Verdict};
use crate::admission::{Busy, Limits};
use crate::maps::{
    Answer, AnswerKey, EventRecord, Flow, HEARTBEAT_LIMIT, INGRESS_HOSTS, Service, ServiceKey,
    answer_kind, flow_flags, flow_state, host_flags,
};
use crate::{BackendWord, EventKind, Sockets, TcpSocket};

/// What the host said when it was asked for the first time.
enum Admission {
    Taken { service: Service, queue: u16 },
    Refused { reason: RejectReason, slot: u16 },
}

impl<R: Rules> Kernel<R> {
    pub(super) fn open(
        &mut self,
        now: Nanos,
        m: &Believed<'_>,
        sockets: &impl Sockets,
    ) -> Result<Verdict, Reason> {
        if !m.packet.can_open() || m.control.incarnation != m.packet.incarnation() {
            return Err(Reason::Malformed);
        }
        let tuple = m.tuple();
        let udp = tuple.protocol() == Protocol::Udp;
        if udp && m.has(Flags::INCUMBENT) {
            return Err(Reason::Unexpected);
        }
        if !self.rules.on(Rule::DecideOnce) {
            return self.admit(now, m, sockets);
        }
        let incarnation = m.control.incarnation.0;
        let live = self.flows.get(&tuple).copied();
        if m.has(Flags::INCUMBENT) {
            return self.incumbent(now, m, live, sockets);
        }
        if let Some(flow) = live {
            if !udp && flow.incarnation != incarnation {
                return self.incumbent(now, m, live, sockets);
            }
            return Ok(self.repeated(m));
        }
        let closed = self.answer(now, &AnswerKey::new(&tuple, incarnation, false));
        if let Some(closed) = closed.filter(|a| a.kind == answer_kind::CLOSED && !udp) {
            self.emit(repeat_close(m, incarnation, &closed));
            return Ok(Verdict::Done);
        }
        let key = AnswerKey::new(&tuple, incarnation, m.has(Flags::FORCE));
        if let Some(answer) = self.answer(now, &key) {
            let counter = self.refuse_again(now, key, answer);
            let reason = RejectReason::from_wire(answer.reason).unwrap_or(RejectReason::None);
            let slot = answer.service;
            return self.reject(m, Refusal { reason, counter, slot }, sockets);
        }
        self.admit(now, m, sockets)
    }

    /// An Open of a flow that we took. Its answers go along this newest chain from now on.
    fn repeated(&mut self, m: &Believed<'_>) -> Verdict {
        let tuple = m.tuple();
        let Some(flow) = self.flows.get_mut(&tuple) else { return Verdict::Done };
        take_chain(flow, m);
        if flow.state == flow_state::ADMITTED {
            return Verdict::Deliver(m.delivered());
        }
        let event = flow_record(EventKind::RepeatAccept, &tuple, flow);
        self.emit(event);
        Verdict::Done
    }

    /// A flow of another incarnation is in the way of this one, here or at a tracker (rule 9). The stack knows best:
    /// it challenges the client (RFC 5961, section 4) if the connection is there.
    ///
    /// A tracker whose entry is established names that entry's incarnation in word b; 0 names none.
    fn incumbent(
        &mut self,
        now: Nanos,
        m: &Believed<'_>,
        live: Option<Flow>,
        sockets: &impl Sockets,
    ) -> Result<Verdict, Reason> {
        let tuple = m.tuple();
        let named = if m.has(Flags::INCUMBENT) { m.control.word_b as u32 } else { 0 };
        let meant = |flow: &Flow| match named {
            0 => flow.incarnation != m.control.incarnation.0,
            named => flow.incarnation == named,
        };
        if let Some(flow) = live.filter(meant) {
            if sockets.tcp(&tuple) == Some(TcpSocket::Open) {
                return Ok(Verdict::Deliver(m.delivered()));
            }
            if flow.state != flow_state::ESTABLISHED {
                // Its handshake may still be under way, without a socket (SYN cookies). The sweep ends it otherwise.
                return Err(Reason::DuplicateSyn);
            }
            self.close(now, &tuple)?;
            return Ok(Verdict::Done);
        }
        let key = AnswerKey::new(&tuple, named, false);
        let event = match self.answer(now, &key) {
            Some(answer) if answer.kind == answer_kind::REJECTED => return Err(Reason::Unexpected),
            Some(closed) => repeat_close(m, named, &closed),
            None if named == 0 => repeat_close(m, 0, &Answer::default()),
            None => {
                // The tracker believes in a flow that was over so long ago that we forgot it.
                let mut closed = Answer {
                    at: now.0,
                    kind: answer_kind::CLOSED,
                    service: NO_SERVICE,
                    ..Answer::default()
                };
                self.remember(key, closed)?;
                closed.counter = self.word.next_counter();
                self.answers.insert(key, closed);
                repeat_close(m, named, &closed)
            }
        };
        self.emit(event);
        Ok(Verdict::Done)
    }

    fn admit(
        &mut self,
        now: Nanos,
        m: &Believed<'_>,
        sockets: &impl Sockets,
    ) -> Result<Verdict, Reason> {
        let tuple = m.tuple();
        match self.ask_host(now, m, sockets) {
            Admission::Refused { reason, slot } => {
                let counter = self.record_refusal(now, m, reason, slot)?;
                self.reject(m, Refusal { reason, counter, slot }, sockets)
            }
            Admission::Taken { service, queue } => {
                let flow = self.new_flow(now, m, service, queue);
                self.flows.insert(tuple, flow);
                if let Some(live) = self.live.get_mut(usize::from(service.slot)) {
                    *live += 1;
                }
                *self.counters.admitted.entry(service.slot).or_default() += 1;
                if tuple.protocol() == Protocol::Udp {
                    self.emit(flow_record(EventKind::UdpAdmitted, &tuple, &flow));
                    if m.has(Flags::CUT) {
                        // Half a datagram is of no use; the ingress sends the whole one after Accept.
                        return Ok(Verdict::Done);
                    }
                }
                Ok(Verdict::Deliver(m.delivered()))
            }
        }
    }

    /// The order of the reasons is the protocol's.
    fn ask_host(&self, now: Nanos, m: &Believed<'_>, sockets: &impl Sockets) -> Admission {
        let tuple = m.tuple();
        let Some(&service) = self.services.get(&ServiceKey::of(&tuple)) else {
            return Admission::Refused { reason: RejectReason::NotServed, slot: NO_SERVICE };
        };
        let slot = service.slot;
        let refused = |reason| Admission::Refused { reason, slot };
        if now.since(self.heartbeat) > HEARTBEAT_LIMIT {
            return refused(RejectReason::AgentDown);
        }
        if let Some(reason) = service.refusal().filter(|&reason| !overrides(m, reason)) {
            return refused(reason);
        }
        if self.host.flags & host_flags::DRAIN != 0 {
            return refused(RejectReason::Drain);
        }
        let (depth, limit) = match tuple.protocol() {
            Protocol::Tcp => match sockets.listener(&tuple) {
                Some(listener) => (listener.depth, listener.limit),
                None => return refused(RejectReason::NoListener),
            },
            Protocol::Udp if sockets.udp(&tuple) => (0, 0),
            Protocol::Udp => return refused(RejectReason::NoListener),
        };
        let queue = u16::try_from(depth).unwrap_or(u16::MAX);
        if self.flows.len() >= self.limits.flows && !self.flows.contains_key(&tuple) {
            return refused(RejectReason::TableFull);
        }
        if !m.has(Flags::FORCE) {
            let busy = Busy { live: self.live(slot), all: self.flows.len() as u32, queue: depth };
            let (live, all) = (service.max_connections, self.host.max_connections);
            let limits = Limits { live, all, queue: limit };
            if let Some(reason) = busy.refusal(&limits, Bar(m.control.load.live)) {
                return refused(reason);
            }
        }
        Admission::Taken { service, queue }
    }

    fn new_flow(&self, now: Nanos, m: &Believed<'_>, service: Service, queue: u16) -> Flow {
        let tuple = m.tuple();
        let mut counter = self.word.next_counter();
        let (incarnation, state) = match tuple.protocol() {
            Protocol::Tcp => (m.control.incarnation.0, flow_state::ADMITTED),
            Protocol::Udp => {
                // New for this five-tuple, and another than other backends give: they have other boot ids.
                let number =
                    |counter: u64| (self.word.boot().0 as u32).wrapping_add(counter as u32);
                if number(counter) == 0 {
                    counter = self.word.next_counter();
                }
                (number(counter), flow_state::ACCEPTED)
            }
        };
        let mut flow = Flow {
            incarnation,
            counter,
            admitted: now.0,
            last_packet: now.0,
            socket_seen: now.0,
            hash: self.hasher.id(&tuple).bucket_hash(),
            service: service.slot,
            queue,
            state,
            flags: if m.has(Flags::FORCE) { flow_flags::FORCE } else { 0 },
            ..Flow::default()
        };
        take_chain(&mut flow, m);
        flow
    }

    /// A refusal is recorded before it is said, under a counter of its own.
    fn record_refusal(
        &mut self,
        now: Nanos,
        m: &Believed<'_>,
        reason: RejectReason,
        slot: u16,
    ) -> Result<u64, Reason> {
        let key = AnswerKey::new(&m.tuple(), m.control.incarnation.0, m.has(Flags::FORCE));
        let mut answer = Answer {
            at: now.0,
            service: slot,
            kind: answer_kind::REJECTED,
            reason: reason as u8,
            ..Answer::default()
        };
        self.remember(key, answer)?;
        answer.counter = self.word.next_counter();
        self.answers.insert(key, answer);
        self.count_reject(slot, reason);
        Ok(answer.counter)
    }

    /// A refusal is about to be said again, and frees votes as the first one did: what was sent for these may still be under
    /// way, so it stands anew.
    fn refuse_again(&mut self, now: Nanos, key: AnswerKey, answer: Answer) -> u64 {
        self.answers.insert(key, Answer { at: now.0, ..answer });
        answer.counter
    }

    /// A tracker wants its vote back. Handing the SYN to the stack was the decision, SYN-ACK or not.
    pub(super) fn cancel(
        &mut self,
        now: Nanos,
        m: &Believed<'_>,
        sockets: &impl Sockets,
    ) -> Result<Verdict, Reason> {
        let tuple = m.tuple();
        let udp = tuple.protocol() == Protocol::Udp;
        let incarnation = m.control.incarnation.0;
        let live = self.flows.get(&tuple).filter(|flow| udp || flow.incarnation == incarnation);
        if let Some(flow) = live {
            let mut event = flow_record(EventKind::CancelledButLive, &tuple, flow);
            event.peer = m.control.sender.as_u16();
            if m.control.ingress.is_some() {
                (event.asker, event.cookie) =
                    (MemberId::to_wire(m.control.ingress), m.control.cookie);
            }
            self.emit(event);
            return Ok(Verdict::Done);
        }
        let reason = RejectReason::Cancelled;
        if self.rules.on(Rule::DecideOnce) {
            let closed = self.answer(now, &AnswerKey::new(&tuple, incarnation, false));
            if let Some(closed) = closed.filter(|a| a.kind == answer_kind::CLOSED && !udp) {
                self.emit(repeat_close(m, incarnation, &closed));
                return Ok(Verdict::Done);
            }
            let key = AnswerKey::new(&tuple, incarnation, m.has(Flags::FORCE));
            if let Some(rejected) = self.answer(now, &key) {
                let counter = self.refuse_again(now, key, rejected);
                let slot = rejected.service;
                return self.reject(m, Refusal { reason, counter, slot }, sockets);
            }
        }
        let slot = self.services.get(&ServiceKey::of(&tuple));
        let slot = slot.map_or(NO_SERVICE, |service| service.slot);
        let counter = self.record_refusal(now, m, reason, slot)?;
        self.reject(m, Refusal { reason, counter, slot }, sockets)
    }
}

/// Whether the Open is not to be refused for that reason, which the host gave by itself.
fn overrides(m: &Believed<'_>, reason: RejectReason) -> bool {
    reason == RejectReason::Overloaded && m.has(Flags::FORCE)
        || reason.is_of_health() && m.has(Flags::PANIC)
}

/// The flow's answers go to whoever asked last.
fn take_chain(flow: &mut Flow, m: &Believed<'_>) {
    flow.head = MemberId::to_wire(m.control.head);
    flow.second = MemberId::to_wire(m.control.second);
    flow.asker = MemberId::to_wire(m.control.ingress);
    flow.cookie = m.control.cookie;
    flow.tries = m.control.tried.len() as u8 + 1;
    came_from(flow, flow.asker);
}

/// Remembers an ingress host of the flow: newest first, the oldest goes.
pub(super) fn came_from(flow: &mut Flow, ingress: u16) {
    if ingress == 0 || flow.ingress[0] == ingress {
        return;
    }
    let last = INGRESS_HOSTS - 1;
    let at = flow.ingress.iter().position(|&id| id == ingress).unwrap_or(last);
    flow.ingress[..=at].rotate_right(1);
    flow.ingress[0] = ingress;
}

pub(super) fn flow_record(kind: EventKind, tuple: &FiveTuple, flow: &Flow) -> EventRecord {
    EventRecord {
        kind: kind as u8,
        flags: flow.flags & flow_flags::FORCE,
        peer: 0,
        incarnation: flow.incarnation,
        counter: flow.counter,
        tuple: *tuple.padded(),
        cookie: flow.cookie,
        head: flow.head,
        second: flow.second,
        asker: flow.asker,
        queue: flow.queue,
        ingress: flow.ingress,
        service: flow.service,
        pad: [0; 2],
        live: 0,
        pad_2: [0; 4],
    }
}

/// To the sender of an Open or Cancel, and to all that know the flow: it is over.
fn repeat_close(m: &Believed<'_>, incarnation: u32, closed: &Answer) -> EventRecord {
    EventRecord {
        peer: m.control.sender.as_u16(),
        cookie: m.control.cookie,
        head: MemberId::to_wire(m.control.head),
        second: MemberId::to_wire(m.control.second),
        asker: MemberId::to_wire(m.control.ingress),
        ..closed_record(&m.tuple(), incarnation, closed)
    }
}

pub(super) fn closed_record(tuple: &FiveTuple, incarnation: u32, closed: &Answer) -> EventRecord {
    EventRecord {
        kind: EventKind::RepeatClose as u8,
        incarnation,
        counter: closed.counter,
        tuple: *tuple.padded(),
        ingress: closed.ingress,
        service: closed.service,
        ..EventRecord::default()
    }
}
