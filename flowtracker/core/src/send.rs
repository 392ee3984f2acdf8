//! The messages that a tracker writes.

use jlb_flow::FlowId;
use jlb_map::Trio;
use jlb_role::{Io, PacketBuf, Reason, Rules};
use jlb_wire::{
    Bar, BootId, Control, Flags, HOP_BUDGET, Incarnation, Kind, MAX_FLOW_HEADERS, MemberId,
    RejectReason, Tried, flow_headers,
};

use crate::entry::{Candidate, Pending};
use crate::query::Whereabouts;
use crate::tracker::{Message, Tracker};

/// An Open that is to be sent, but for whom to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) candidate: Candidate,
    pub(crate) incarnation: Incarnation,
    pub(crate) head: MemberId,
    pub(crate) head_boot: BootId,
    pub(crate) ingress: MemberId,
    pub(crate) cookie: u32,
    pub(crate) reject_ttl: u8,
    pub(crate) tried: Tried,
    pub(crate) hop_budget: u8,
    /// The packet inside is cut.
    pub(crate) cut: bool,
    pub(crate) bar: Bar,
    /// Health does not count.
    pub(crate) panic: bool,
}

impl Offer {
    /// What a stored vote asks, with the packet of a received message.
    pub(crate) const fn of(pending: &Pending, received: &Control) -> Self {
        Self {
            candidate: pending.candidate(),
            incarnation: pending.incarnation,
            head: pending.head,
            head_boot: pending.head_boot,
            ingress: pending.ingress,
            cookie: pending.cookie,
            reject_ttl: pending.reject_ttl,
            tried: pending.tried,
            hop_budget: match received.kind {
                // One hop less than the Open that made us send this; so no chain of Opens is endless.
                Kind::Open => received.hop_budget.saturating_sub(1),
                // A new try: these are bounded by the reject TTL.
                Kind::Accept
                | Kind::Reject
                | Kind::Cancel
                | Kind::Query
                | Kind::State
                | Kind::NotMine
                | Kind::Close => HOP_BUDGET,
            },
            cut: received.flags.has(Flags::CUT),
            bar: pending.bar,
            panic: pending.panic,
        }
    }
}

impl<R: Rules> Tracker<R> {
    /// Who is to stand second in a chain that we head: the first other live member of the trio that may vote, else the
    /// first other live one, else the first other.
    pub(crate) fn second_for(&self, trio: Trio) -> Option<MemberId> {
        let me = self.peers.me();
        self.peers.in_order(trio.iter().filter(|&m| m != me)).next()
    }

    /// Sends an Open to another tracker, who is to store it as second.
    pub(crate) fn send_to_second<B: PacketBuf>(
        &mut self,
        message: Message<B>,
        offer: &Offer,
        second: MemberId,
        io: &mut impl Io<B>,
    ) {
        let control =
            Control { second: Some(second), word_a: offer.head_boot.0, ..self.open(offer) };
        self.send(message, second, control, io);
    }

    /// Sends an Open to its backend, with both votes.
    pub(crate) fn send_to_backend<B: PacketBuf>(
        &mut self,
        message: Message<B>,
        offer: &Offer,
        (second, second_boot): (MemberId, BootId),
        io: &mut impl Io<B>,
    ) {
        let Some(backend) = offer.candidate.backend() else {
            return io.drop(message.buf, Reason::NoBackend);
        };
        let control = Control {
            second: Some(second),
            word_a: offer.head_boot.0,
            word_b: second_boot.0,
            ..self.open(offer)
        };
        self.send(message, backend, control, io);
    }

    fn open(&self, offer: &Offer) -> Control {
        Control {
            hop_budget: offer.hop_budget,
            reject_ttl: offer.reject_ttl,
            cookie: offer.cookie,
            ingress: Some(offer.ingress),
            head: Some(offer.head),
            backend: offer.candidate.backend(),
            flags: (offer.candidate.flags().set(Flags::CUT, offer.cut))
                .set(Flags::PANIC, offer.panic),
            tried: offer.tried,
            load: offer.bar.to_wire(),
            ..self.peers.control(Kind::Open, offer.incarnation)
        }
    }

    /// Asks the backend of a five-tuple's incumbent for its word, with the packet of another incarnation. `established`:
    /// the incumbent's own, if it is established.
    pub(crate) fn send_incumbent<B: PacketBuf>(
        &mut self,
        message: Message<B>,
        backend: MemberId,
        established: Option<Incarnation>,
        io: &mut impl Io<B>,
    ) {
        let received = &message.control;
        let control = Control {
            hop_budget: received.hop_budget.saturating_sub(1),
            cookie: received.cookie,
            ingress: received.ingress,
            head: received.head.or(Some(self.peers.me())),
            second: received.second,
            backend: Some(backend),
            flags: Flags::INCUMBENT.set(Flags::CUT, received.flags.has(Flags::CUT)),
            word_a: received.word_a,
            word_b: established.map_or(0, |incarnation| u64::from(incarnation.0)),
            ..self.peers.control(Kind::Open, received.incarnation)
        };
        self.send(message, backend, control, io);
    }

    /// Tells the ingress where the flow is.
    pub(crate) fn send_state<B: PacketBuf>(
        &mut self,
        message: Message<B>,
        whereabouts: Whereabouts,
        io: &mut impl Io<B>,
    ) {
        let Some(ingress) = message.control.ingress else {
            return io.drop(message.buf, Reason::Malformed);
        };
        let (backend, incarnation, flags) = whereabouts.words();
        let asked = message.control.kind == Kind::Query;
        let control = Control {
            cookie: message.control.cookie,
            ingress: Some(ingress),
            head: Some(self.peers.me()),
            backend,
            flags,
            word_a: if asked { message.control.word_a } else { 0 },
            ..self.peers.control(Kind::State, incarnation)
        };
        self.send_with_headers(message, ingress, control, io);
    }

    /// Tells the ingress that the client is refused.
    pub(crate) fn send_final_reject<B: PacketBuf>(
        &mut self,
        message: Message<B>,
        (ingress, cookie): (MemberId, u32),
        tried: Tried,
        io: &mut impl Io<B>,
    ) {
        let received = &message.control;
        let control = Control {
            cookie,
            ingress: Some(ingress),
            head: received.head,
            second: received.second,
            flags: Flags::FINAL.set(Flags::CUT, received.flags.has(Flags::CUT)),
            reason: RejectReason::Exhausted,
            tried,
            ..self.peers.control(Kind::Reject, received.incarnation)
        };
        self.send(message, ingress, control, io);
    }

    /// Acknowledges a Close.
    pub(crate) fn send_close_ack<B: PacketBuf>(
        &mut self,
        message: Message<B>,
        io: &mut impl Io<B>,
    ) {
        let received = &message.control;
        let to = received.sender;
        let control = Control {
            backend: received.backend,
            ingress: received.ingress,
            flags: Flags::ACK,
            word_a: received.word_a,
            ..self.peers.control(Kind::Close, received.incarnation)
        };
        self.send(message, to, control, io);
    }

    /// Asks a pending entry's backend to decide now. The answer comes to us as head; there is no second. An empty
    /// mempool does not matter: it is repeated.
    pub(crate) fn send_cancel<B: PacketBuf>(&mut self, pending: &Pending, io: &mut impl Io<B>) {
        let control = Control {
            cookie: pending.cookie,
            ingress: Some(pending.ingress),
            head: Some(self.peers.me()),
            backend: Some(pending.backend),
            flags: Flags::default().set(Flags::FORCE, pending.force),
            ..self.peers.control(Kind::Cancel, pending.incarnation)
        };
        let flow: (_, &FlowId) = (&pending.tuple, &pending.flow);
        self.peers.send_headers(pending.backend, control, flow, io);
    }

    /// Sends a message with the inner packet of the one that was received.
    fn send<B: PacketBuf>(
        &mut self,
        mut message: Message<B>,
        to: MemberId,
        control: Control,
        io: &mut impl Io<B>,
    ) {
        if control.hop_budget == 0 {
            return io.drop(message.buf, Reason::HopBudget);
        }
        match message.envelope.strip(&mut message.buf) {
            Ok(()) => {
                let flow = (&message.tuple, &message.flow);
                self.peers.send_control(message.buf, to, control, flow, io);
            }
            Err(why) => io.drop(message.buf, why),
        }
    }

    /// Sends a message with flow headers, in the buffer of the one that was received.
    fn send_with_headers<B: PacketBuf>(
        &mut self,
        mut message: Message<B>,
        to: MemberId,
        control: Control,
        io: &mut impl Io<B>,
    ) {
        let mut headers = [0; MAX_FLOW_HEADERS];
        let len = flow_headers(&message.tuple, control.incarnation, &mut headers);
        if let Err(why) = message.envelope.strip(&mut message.buf) {
            return io.drop(message.buf, why);
        }
        message.buf.truncate(0);
        match message.buf.append(len) {
            Ok(room) => room.copy_from_slice(&headers[..len]),
            Err(jlb_role::NoRoom) => return io.drop(message.buf, Reason::Oversized),
        }
        let flow = (&message.tuple, &message.flow);
        self.peers.send_control(message.buf, to, control, flow, io);
    }
}
