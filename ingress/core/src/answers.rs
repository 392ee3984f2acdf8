//! What comes from the other members.

use jlb_flow::FlowId;
use jlb_map::{MemberRole, OnExhausted};
use jlb_peers::{Carried, Envelope, geneve_reason};
use jlb_role::{Io, Nanos, PacketBuf, Reason, Rules};
use jlb_wire::{
    Content, Control, FiveTuple, Flags, Kind, MemberId, OpenCut, Outer, Packet, Protocol,
};

use crate::Ingress;
use crate::egress;
use crate::flows::{CLOSING_TIME, Flow};
use crate::metrics::{Opened, Queried};
use crate::pending::{Pending, Question};
use crate::reply::Reply;

impl<B: PacketBuf, R: Rules> Ingress<B, R> {
    /// A packet to our underlay address.
    pub(crate) fn encapsulated(&mut self, now: Nanos, b: B, io: &mut impl Io<B>) {
        let outer = match Outer::parse(b.bytes(), self.view.snapshot.geneve_port()) {
            Ok(outer) => outer,
            Err(error) => return io.drop(b, geneve_reason(error)),
        };
        if let Content::Plain { inner } = outer.content {
            self.counters.work += 1;
            match egress::pass(b, &outer, inner, &self.view, io) {
                Ok(()) => self.counters.egress += 1,
                Err((b, why)) => io.drop(b, why),
            }
            return;
        }
        let (me, snapshot) = (self.peers.me(), &self.view.snapshot);
        let envelope = match Envelope::within(outer, b.bytes(), me, snapshot) {
            Ok(envelope) => envelope,
            Err(why) => return io.drop(b, why),
        };
        match envelope.carried {
            Carried::Body { .. } => {
                let former = self.peers.boot(envelope.from);
                if let Some(other) = self.peers.receive_body(now, b, &envelope, io) {
                    io.drop(other.buf, Reason::WrongKind);
                }
                let renewed = former.is_some() && self.peers.boot(envelope.from) != former;
                if renewed && envelope.from_role == MemberRole::Backend {
                    self.flows.renew(envelope.from);
                }
            }
            Carried::Control { packet, .. } => {
                self.counters.work += 1;
                self.control(now, b, &envelope, &packet.tuple, io);
            }
            Carried::Plain { .. } => io.drop(b, Reason::WrongKind),
        }
    }

    /// A control message about a flow. One that was understood and used is no drop.
    fn control(
        &mut self,
        now: Nanos,
        b: B,
        envelope: &Envelope,
        tuple: &FiveTuple,
        io: &mut impl Io<B>,
    ) {
        let id = self.view.id(tuple);
        let owner = id.worker(self.peers.workers());
        if owner != self.peers.worker() {
            return io.hand_over(b, owner);
        }
        let used = envelope.control(now, b.bytes(), &mut self.peers).and_then(|message| {
            let flow = (tuple, &id);
            match message.kind {
                Kind::Accept => self.found(now, &message, flow, message.sender, io),
                Kind::State => self.state(now, &message, flow, io),
                Kind::Reject => self.reject(now, &message, flow, io),
                Kind::Close => {
                    self.close(now, &message, flow, io);
                    Ok(())
                }
                Kind::NotMine => self.not_mine(now, &message, flow, io),
                Kind::Open | Kind::Cancel | Kind::Query => Err(Reason::WrongKind),
            }
        });
        if let Err(why) = used {
            io.drop(b, why);
        }
    }

    /// A tracker's word on a flow that it knows, or does not.
    fn state(
        &mut self,
        now: Nanos,
        message: &Control,
        flow: (&FiveTuple, &FlowId),
        io: &mut impl Io<B>,
    ) -> Result<(), Reason> {
        // The retransmitter goes on.
        if message.flags.has(Flags::PENDING) {
            return Ok(());
        }
        if message.flags.has(Flags::UNKNOWN) {
            return match self.flows.get(flow.1) {
                Some(Flow::Pending { cookie, .. }) => self.unknown(now, message, cookie, io),
                _ => Err(Reason::Unexpected),
            };
        }
        let backend = message.backend.ok_or(Reason::Malformed)?;
        if let Some(Flow::Pending { cookie, .. }) = self.flows.get(flow.1)
            && !self.answers(message, cookie)
        {
            return Err(Reason::Unexpected);
        }
        self.found(now, message, flow, backend, io)
    }

    /// The flow has a backend: by Accept, which also says that the packet inside Open was delivered, or by State.
    fn found(
        &mut self,
        now: Nanos,
        message: &Control,
        (tuple, id): (&FiveTuple, &FlowId),
        backend: MemberId,
        io: &mut impl Io<B>,
    ) -> Result<(), Reason> {
        let Some(Flow::Pending { protocol, cookie }) = self.flows.get(id) else {
            return Err(Reason::Unexpected);
        };
        let pending = self.pending.get(cookie).ok_or(Reason::Unexpected)?;
        let opens = pending.opens();
        if protocol == Protocol::Tcp && opens.is_some_and(|isn| isn != message.incarnation) {
            return Err(Reason::Unexpected);
        }
        if self.view.templates.of(backend).is_none() {
            let dead = self.view.templates.is_dead(backend);
            return Err(if dead { Reason::BackendDead } else { Reason::NoBackend });
        }
        let waited = now.since(pending.since);
        let incarnation = message.incarnation;
        let templates = &self.view.templates;
        self.flows.settle(backend, |backend| templates.knows(backend));
        // In place of the pending entry, so never full.
        let established = Flow::Established { protocol, backend, incarnation };
        self.flows.put(id, established).map_err(|_| Reason::FlowTableFull)?;
        let pending = self.take_pending(cookie).ok_or(Reason::Unexpected)?;
        let accepted = message.kind == Kind::Accept;
        // Of a datagram flow, the Accept of an earlier Open says nothing of the datagram in this one.
        let delivered =
            accepted && (protocol == Protocol::Tcp || message.cookie == cookie.to_wire());
        match opens {
            None => self.counters.queried(Queried::Found),
            Some(_) if accepted => self.count_open(tuple, Opened::Accepted, waited),
            Some(_) => self.count_open(tuple, Opened::Found, waited),
        }
        // Half a datagram was of no use: the whole one was not delivered yet. A cut SYN's data comes again.
        let whole_to_come = protocol == Protocol::Udp && was_cut(&pending);
        self.flush(now, pending, !delivered || whole_to_come, backend, io);
        Ok(())
    }

    /// The trackers' last word: nobody takes the flow.
    fn reject(
        &mut self,
        now: Nanos,
        message: &Control,
        (tuple, id): (&FiveTuple, &FlowId),
        io: &mut impl Io<B>,
    ) -> Result<(), Reason> {
        if !message.flags.has(Flags::FINAL) {
            return Err(Reason::WrongKind);
        }
        let Some(Flow::Pending { protocol, cookie }) = self.flows.get(id) else {
            return Err(Reason::Unexpected);
        };
        let pending = self.pending.get(cookie).ok_or(Reason::Unexpected)?;
        let opens = pending.opens().ok_or(Reason::Unexpected)?;
        match protocol {
            Protocol::Tcp if opens != message.incarnation => return Err(Reason::Unexpected),
            // All Opens of a datagram flow name incarnation 0, so the cookie tells this one from an earlier one.
            Protocol::Udp if message.cookie != cookie.to_wire() => return Err(Reason::StaleCookie),
            Protocol::Tcp | Protocol::Udp => {}
        }
        let waited = now.since(pending.since);
        self.count_open(tuple, Opened::Refused, waited);
        let service = self.view.service(tuple);
        let service = service.and_then(|s| self.view.snapshot.service_by_id(s));
        if service.is_some_and(|s| s.on_exhausted == OnExhausted::Drop) {
            self.abandon(cookie, Reason::RefusedDrop, io);
        } else {
            if let Some(Question::Open(opening)) = self.pending.get(cookie).map(|p| &p.question)
                && let Ok(packet) = Packet::parse(opening.first.bytes())
            {
                let original = (opening.first.bytes(), &packet);
                self.replies.say(now, Reply::Refused, original, &self.view, io);
            }
            self.abandon(cookie, Reason::RefusedReset, io);
        }
        Ok(())
    }

    /// The backend says that a flow has ended. Always acknowledged, so that it stops saying so.
    fn close(
        &mut self,
        now: Nanos,
        message: &Control,
        (tuple, id): (&FiveTuple, &FlowId),
        io: &mut impl Io<B>,
    ) {
        let (backend, incarnation) = (message.sender, message.incarnation);
        match self.flows.get(id) {
            Some(Flow::Established { protocol, backend: b, incarnation: i })
                if (b, i) == (backend, incarnation) =>
            {
                self.start_closing(now, id, Flow::Closing { protocol, backend, incarnation });
            }
            // It overtook its Accept, which may come after the entry is freed, when no Close would follow it. (A
            // datagram flow's Close may be of an earlier incarnation: its Open goes on.)
            Some(Flow::Pending { protocol: Protocol::Tcp, cookie })
                if self.pending.get(cookie).is_some_and(|p| p.opens() == Some(incarnation)) =>
            {
                let protocol = Protocol::Tcp;
                self.start_closing(now, id, Flow::Closing { protocol, backend, incarnation });
                if let Some(pending) = self.take_pending(cookie) {
                    self.count_open(tuple, Opened::Closed, now.since(pending.since));
                    self.flush(now, pending, false, backend, io);
                }
            }
            None | Some(Flow::Pending { .. } | Flow::Established { .. } | Flow::Closing { .. }) => {
            }
        }
        let mut ack = self.peers.control(Kind::Close, incarnation);
        ack.flags = Flags::ACK;
        ack.cookie = message.cookie;
        ack.ingress = Some(self.peers.me());
        ack.backend = Some(backend);
        ack.word_a = message.word_a;
        // Without a buffer it goes unacknowledged, and is repeated.
        self.peers.send_headers(backend, ack, (tuple, id), io);
    }

    fn start_closing(&mut self, now: Nanos, id: &FlowId, closing: Flow) {
        let Flow::Closing { incarnation, .. } = closing else { return };
        // In place of what was there, so never full.
        if self.flows.put(id, closing).is_ok() {
            self.flows.close_at(now + CLOSING_TIME, id, incarnation);
        }
    }
}

/// Whether its Open carried only the headers.
fn was_cut<B: PacketBuf>(pending: &Pending<B>) -> bool {
    match &pending.question {
        Question::Open(opening) => {
            Packet::parse(opening.first.bytes()).is_ok_and(|p| OpenCut::of(&p).cut)
        }
        Question::Query(_) => false,
    }
}
