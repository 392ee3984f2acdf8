//! The other members, as far as the one that is measured meets them: all answer Probe, ingress hosts open flows, trackers
//! pass messages on, and backends take flows and end them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jlb_flow::FlowHasher;
use jlb_map::Snapshot;
use jlb_peers::{Carried, Envelope, Peers, PeersConfig, ReceivedBody, buffer_with};
use jlb_role::{FakeBuf, FakeIo, Nanos, PacketBuf as _, UnderlayDst, WorkerId};
use jlb_wire::{
    BodyKind, BootId, Control, FiveTuple, Incarnation, Kind, MAX_BODY_PAYLOAD, MemberId, Outer,
    Packet, Protocol, Refresh, body_flags,
};

use crate::site;

/// All of them, and what they say to each other and to the one that is measured.
#[derive(Debug)]
pub struct Members {
    /// Who is measured.
    measured: MemberId,
    snapshot: Arc<Snapshot>,
    hasher: FlowHasher,
    peers: BTreeMap<MemberId, Peers>,
    io: FakeIo,
}

/// What a packet of the measured one was, once a member has read it.
#[derive(Debug)]
pub enum Read {
    /// A packet for a backend.
    Data,
    /// A message about a flow that this member believes.
    Message(MemberId, Box<Control>, FiveTuple),
    /// Something of the members among each other.
    Other,
    /// Nothing that a member would read.
    Refused(jlb_role::Reason),
}

impl Members {
    /// All but the one that is measured.
    pub fn new(measured: MemberId, snapshot: &Arc<Snapshot>, now: Nanos) -> Self {
        let others = snapshot.members().iter().filter(|m| m.id != measured);
        let peers = others.map(|m| {
            let n = u64::from(m.id.as_u16());
            let config =
                PeersConfig { id: m.id, worker: WorkerId(0), workers: 1, boot: BootId(n), seed: n };
            (m.id, Peers::new(config, Arc::clone(snapshot), now))
        });
        Self {
            measured,
            peers: peers.collect(),
            hasher: FlowHasher::new(snapshot.keys().hash_key),
            snapshot: Arc::clone(snapshot),
            io: FakeIo::default(),
        }
    }

    /// The cluster as all of them see it.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Who they are.
    pub fn ids(&self) -> impl Iterator<Item = MemberId> {
        self.peers.keys().copied()
    }

    /// Gives ids of flows.
    pub fn hasher(&self) -> &FlowHasher {
        &self.hasher
    }

    /// A member reads a packet of the measured one, from its outer IP header.
    pub fn read(&mut self, now: Nanos, bytes: &[u8]) -> Read {
        self.try_read(now, bytes).unwrap_or_else(Read::Refused)
    }

    fn try_read(&mut self, now: Nanos, bytes: &[u8]) -> Result<Read, jlb_role::Reason> {
        let outer = Outer::parse(bytes, self.snapshot.geneve_port());
        let outer = outer.map_err(jlb_peers::geneve_reason)?;
        let to = self.snapshot.member_by_address(outer.dst).map(|m| m.id);
        let to = to.ok_or(jlb_role::Reason::NotAMember)?;
        let peers = self.peers.get_mut(&to).ok_or(jlb_role::Reason::NotAMember)?;
        let envelope = Envelope::open(bytes, to, &self.snapshot)?;
        Ok(match envelope.carried {
            Carried::Plain { .. } => Read::Data,
            Carried::Body { .. } => {
                let buf = FakeBuf::holding(bytes);
                if let Some(body) = peers.receive_body(now, buf, &envelope, &mut self.io) {
                    answer(peers, &body, &mut self.io);
                }
                Read::Other
            }
            Carried::Control { packet, .. } => {
                let control = envelope.control(now, bytes, peers)?;
                Read::Message(to, Box::new(control), packet.tuple)
            }
        })
    }

    /// A backend takes the flow of an Open. The answer is among what [`Self::sent`] gives.
    pub fn accept(&mut self, open: &Control, tuple: &FiveTuple, backend: MemberId) {
        let Some(peers) = self.peers.get_mut(&backend) else { return };
        let mut accept = peers.control(Kind::Accept, taken(tuple, open.incarnation));
        accept.cookie = open.cookie;
        let id = self.hasher.id(tuple);
        peers.send_headers(site::ingress(), accept, (tuple, &id), &mut self.io);
    }

    /// The ingress asks for a flow with its first packet: gives its Open to the measured tracker, from the outer IP header
    /// on.
    pub fn open(&mut self, packet: &[u8], cookie: u32) -> Option<FakeBuf> {
        let parsed = Packet::parse(packet).ok()?;
        let id = self.hasher.id(&parsed.tuple);
        let peers = self.peers.get_mut(&site::ingress())?;
        let mut open = peers.control(Kind::Open, parsed.incarnation());
        open.reject_ttl = jlb_map::DEFAULT_REJECT_TTL;
        open.cookie = cookie;
        open.ingress = Some(site::ingress());
        let buf = buffer_with(&mut self.io, packet)?;
        peers.send_control(buf, self.measured, open, (&parsed.tuple, &id), &mut self.io);
        self.io.sent.pop_back().map(|(b, _)| b)
    }

    /// The backend of an Open that came to the second takes the flow: gives its Accept as the second passes it on.
    pub fn accept_by_second(&mut self, open: &Control, tuple: &FiveTuple) -> Option<FakeBuf> {
        let (backend, second) = (open.backend?, open.second?);
        let id = self.hasher.id(tuple);
        let peers = self.peers.get_mut(&backend)?;
        let mut accept = peers.control(Kind::Accept, taken(tuple, open.incarnation));
        accept.cookie = open.cookie;
        (accept.ingress, accept.backend) = (open.ingress, Some(backend));
        (accept.head, accept.second) = (open.head, Some(second));
        // A host's counter rises; that of flows that are listed is lower.
        (accept.word_a, accept.load.live) = (1, 100);
        let mut headers = [0; jlb_wire::MAX_FLOW_HEADERS];
        let len = jlb_wire::flow_headers(tuple, accept.incarnation, &mut headers);
        let buf = buffer_with(&mut self.io, &headers[..len])?;
        let way = (second, open.ingress?);
        peers.send_control_by(buf, way, accept, (tuple, &id), &mut self.io);
        let (buf, _) = self.io.sent.pop_back()?;
        let envelope = Envelope::open(buf.bytes(), second, &self.snapshot).ok()?;
        let peers = self.peers.get_mut(&second)?;
        peers.forward(buf, &envelope, self.measured, &id, &mut self.io);
        self.io.sent.pop_back().map(|(b, _)| b)
    }

    /// A backend says that a flow of its own has ended: gives its Close to the measured tracker.
    pub fn close(
        &mut self,
        tuple: &FiveTuple,
        (backend, incarnation): (MemberId, Incarnation),
    ) -> Option<FakeBuf> {
        let id = self.hasher.id(tuple);
        let peers = self.peers.get_mut(&backend)?;
        let mut close = peers.control(Kind::Close, taken(tuple, incarnation));
        (close.ingress, close.backend) = (Some(site::ingress()), Some(backend));
        (close.word_a, close.load.live) = (2, 100);
        peers.send_headers(self.measured, close, (tuple, &id), &mut self.io);
        self.io.sent.pop_back().map(|(b, _)| b)
    }

    /// Lets all of them ask whom they ask.
    pub fn tick(&mut self, now: Nanos) {
        for peers in self.peers.values_mut() {
            peers.tick(now, &mut self.io);
        }
    }

    /// What they sent to the measured one since the last time. What they sent to each other arrives.
    pub fn sent(&mut self, now: Nanos) -> Vec<FakeBuf> {
        let mut to_measured = Vec::new();
        while let Some((buf, to)) = self.io.sent.pop_front() {
            if to == UnderlayDst::Member(self.measured) {
                to_measured.push(buf);
            } else {
                // What they do not know of each other yet, they ask again.
                let _ = self.try_read(now, buf.bytes());
            }
        }
        self.io.dropped.clear();
        self.io.reports.clear();
        to_measured
    }

    /// Whether all know the measured one by now.
    pub fn know_it(&self) -> bool {
        self.peers.values().all(|p| p.alive(self.measured))
    }

    /// Which tracker is asked for a flow first while all are alive.
    pub fn head(&self, tuple: &FiveTuple) -> Option<MemberId> {
        self.snapshot.trio(self.hasher.id(tuple).partition()).iter().next()
    }

    /// The outer source port that a flow must have.
    pub fn entropy(&self, tuple: &FiveTuple) -> u16 {
        jlb_wire::entropy_port(self.hasher.id(tuple).bucket_hash())
    }
}

/// Which incarnation a flow that was opened under that one has.
fn taken(tuple: &FiveTuple, opened: Incarnation) -> Incarnation {
    match tuple.protocol() {
        Protocol::Tcp => opened,
        // Its agent numbers datagram flows.
        Protocol::Udp => Incarnation(1),
    }
}

/// A backend is asked for its flows by a tracker that was just started: it had none when it began to count.
fn answer(peers: &mut Peers, asked: &ReceivedBody<FakeBuf>, io: &mut FakeIo) {
    let body = asked.body;
    if body.kind != BodyKind::Refresh || body.flags != body_flags::PULL {
        return;
    }
    let Some((pull, _)) = Refresh::parse(asked.payload()) else { return };
    let mut payload = [0; MAX_BODY_PAYLOAD];
    let len = Refresh { batches: 0, counter: 0, sole: 0, ..pull }.emit(&[], &mut payload);
    let words = (BodyKind::Refresh, body_flags::END, body.nonce);
    peers.send_body(body.sender, words, &payload[..len], io);
}
