//! Packets of clients, and what goes on to the backends.

use arrayvec::ArrayVec;
use jlb_flow::FlowId;
use jlb_peers::packet_reason;
use jlb_role::{BURST, Io, Nanos, PacketBuf, Reason, Rule, Rules, UnderlayDst};
use jlb_wire::{Glance, IpHeader, MemberId, Packet, PacketError, entropy_port, tcp_flags};

use crate::Ingress;
use crate::flows::Flow;
use crate::fragment::fragment;
use crate::reply::Reply;

/// The clients' packets of one burst, between the stages. The arrays run in parallel.
pub(crate) struct Clients<B> {
    bufs: ArrayVec<B, BURST>,
    /// As many as `bufs` are meant.
    glances: [Glance; BURST],
    /// Their TCP flags together.
    flags: u8,
}

impl<B> Clients<B> {
    pub(crate) fn new() -> Self {
        Self { bufs: ArrayVec::new(), glances: [Glance::default(); BURST], flags: 0 }
    }
}

impl<B: PacketBuf, R: Rules> Ingress<B, R> {
    /// First stage: looks at a packet, and sets aside what is for a service.
    #[inline]
    pub(crate) fn parse_client(&mut self, mut b: B, clients: &mut Clients<B>, io: &mut impl Io<B>) {
        // There are no more than a burst of them.
        let Some(glance) = clients.glances.get_mut(clients.bufs.len()) else {
            return io.drop(b, Reason::Unexpected);
        };
        if glance.look(b.bytes()) && self.view.serves(glance) {
            b.truncate(glance.len.into());
            clients.flags |= glance.flags;
            clients.bufs.push(b);
        } else {
            self.parse_odd_client(b, clients, io);
        }
    }

    /// As [`Self::parse_client`], for what is unusual or for nobody.
    #[cold]
    fn parse_odd_client(&mut self, mut b: B, clients: &mut Clients<B>, io: &mut impl Io<B>) {
        let why = match Packet::parse(b.bytes()) {
            Ok(packet) if self.view.service(&packet.tuple).is_some() => {
                b.truncate(packet.len);
                // A place for it was seen.
                clients.glances[clients.bufs.len()] = Glance::of(&packet);
                clients.bufs.push(b);
                return;
            }
            Ok(packet) if self.view.directory.is_vip(packet.tuple.vip().ip()) => Reason::NoService,
            Ok(_) => Reason::NotForUs,
            Err(error) => self.not_balanced(b.bytes(), error),
        };
        io.drop(b, why);
    }

    /// What is no client's packet may be wrong only because it is for somebody else: the interface may be shared.
    #[cold]
    fn not_balanced(&self, bytes: &[u8], error: PacketError) -> Reason {
        match IpHeader::parse(bytes) {
            Ok(header) if !self.view.directory.is_vip(header.dst) => Reason::NotForUs,
            Ok(_) | Err(_) => packet_reason(error),
        }
    }

    /// The other stages: the flows' ids, while their memory is asked for, and then the deeds.
    #[inline]
    pub(crate) fn clients(&mut self, now: Nanos, clients: &mut Clients<B>, io: &mut impl Io<B>) {
        let Clients { bufs, glances, flags } = clients;
        let glances = &glances[..bufs.len()];
        self.counters.work += bufs.len() as u64;
        let mut ids = ArrayVec::<FlowId, BURST>::new();
        self.view.ids(glances, |id| {
            self.flows.prefetch(&id);
            ids.push(id);
        });
        if *flags & tcp_flags::SYN != 0 {
            self.prefetch_openings(glances, &ids);
        }
        let (me, workers) = (self.peers.worker(), self.peers.workers());
        let incumbent = self.rules.on(Rule::Incumbent);
        for ((b, glance), id) in bufs.drain(..).zip(glances).zip(&ids) {
            let owner = id.worker(workers);
            if owner != me {
                io.hand_over(b, owner);
                continue;
            }
            match self.flows.seen(id) {
                Some(Flow::Established { backend, .. }) if incumbent => {
                    self.send_data(now, b, glance, id, backend, io);
                }
                _ => self.not_established(now, b, id, io),
            }
        }
    }

    /// Asks for the memory that new connections will need besides.
    fn prefetch_openings(&self, glances: &[Glance], ids: &[FlowId]) {
        let opening =
            glances.iter().zip(ids).filter(|(glance, _)| glance.flags & tcp_flags::SYN != 0);
        for (nth, (_, id)) in opening.enumerate() {
            self.flows.prefetch_new(id);
            self.pending.prefetch_free(nth);
        }
    }

    #[cold]
    fn not_established(&mut self, now: Nanos, b: B, id: &FlowId, io: &mut impl Io<B>) {
        match Packet::parse(b.bytes()) {
            Ok(packet) => self.client(now, b, &packet, id, io),
            Err(error) => io.drop(b, packet_reason(error)),
        }
    }

    /// A packet that is no plain part of an established flow.
    fn client(&mut self, now: Nanos, b: B, packet: &Packet, id: &FlowId, io: &mut impl Io<B>) {
        let other_isn = |stored: u32| packet.tcp.is_some_and(|t| t.is_open() && t.seq != stored);
        match self.flows.get(id) {
            None if packet.can_open() => self.open(now, b, packet, id, io),
            None => self.query(now, b, packet, id, io),
            Some(Flow::Pending { cookie, .. }) => {
                let displaced = self
                    .pending
                    .get(cookie)
                    .and_then(crate::pending::Pending::opens)
                    .is_some_and(|isn| !self.rules.on(Rule::Incumbent) && other_isn(isn.0));
                if displaced {
                    self.abandon(cookie, Reason::DuplicateSyn, io);
                    self.open(now, b, packet, id, io);
                } else {
                    self.enqueue(b, packet, cookie, io);
                }
            }
            Some(Flow::Established { incarnation, .. })
                if !self.rules.on(Rule::Incumbent) && other_isn(incarnation.0) =>
            {
                self.open(now, b, packet, id, io);
            }
            Some(Flow::Closing { incarnation, .. }) if other_isn(incarnation.0) => {
                self.open(now, b, packet, id, io);
            }
            Some(Flow::Established { backend, .. } | Flow::Closing { backend, .. }) => {
                self.send_data(now, b, &Glance::of(packet), id, backend, io);
            }
        }
    }

    /// Sends a client's packet (without padding) to a backend.
    #[inline]
    pub(crate) fn send_data(
        &mut self,
        now: Nanos,
        mut b: B,
        glance: &Glance,
        id: &FlowId,
        backend: MemberId,
        io: &mut impl Io<B>,
    ) {
        let Some(template) = self.view.templates.of(backend) else {
            return self.no_way(now, b, id, backend, io);
        };
        if b.len() > template.max_inner() {
            let max = template.max_inner();
            return self.send_large(now, b, (glance, id), (backend, max), io);
        }
        let port = entropy_port(id.bucket_hash());
        match template.wrap(&mut b, glance.v6, glance.traffic_class, port) {
            Ok(()) => {
                self.counters.data += 1;
                io.send(b, UnderlayDst::Member(backend));
            }
            Err(_) => io.drop(b, Reason::Oversized),
        }
    }

    /// A packet of a flow whose backend is not there. If it is dead, so is the flow: its client is told now, and not by its
    /// own patience; what can open a flow opens another one.
    #[cold]
    fn no_way(&mut self, now: Nanos, b: B, id: &FlowId, backend: MemberId, io: &mut impl Io<B>) {
        if !self.view.templates.is_dead(backend) {
            return io.drop(b, Reason::NoBackend);
        }
        let packet = match Packet::parse(b.bytes()) {
            Ok(packet) => packet,
            Err(error) => return io.drop(b, packet_reason(error)),
        };
        self.flows.remove(id);
        if packet.can_open() {
            return self.open(now, b, &packet, id, io);
        }
        if Reply::may_reset(&packet) {
            self.replies.say(now, Reply::Unknown, (b.bytes(), &packet), &self.view, io);
        }
        io.drop(b, Reason::BackendDead);
    }

    /// A packet that does not fit the underlay when it is encapsulated.
    #[cold]
    fn send_large(
        &mut self,
        now: Nanos,
        b: B,
        (glance, id): (&Glance, &FlowId),
        (backend, max): (MemberId, usize),
        io: &mut impl Io<B>,
    ) {
        let packet = match Packet::parse(b.bytes()) {
            Ok(packet) => packet,
            Err(error) => return io.drop(b, packet_reason(error)),
        };
        if packet.dont_fragment {
            let what = Reply::TooBig(max as u16);
            self.replies.say(now, what, (b.bytes(), &packet), &self.view, io);
            return io.drop(b, Reason::TooBig);
        }
        match fragment(b, max, io) {
            // Each of them fits, so this ends here.
            Ok(pieces) => {
                for piece in pieces {
                    self.send_data(now, piece, glance, id, backend, io);
                }
            }
            Err((b, why)) => io.drop(b, why),
        }
    }
}
