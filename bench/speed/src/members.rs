//! The other members, as far as the ingress meets them: they answer Probe, and a tracker's Open with the Accept of a
//! backend.

use std::collections::BTreeMap;
use std::sync::Arc;

use jlb_flow::FlowHasher;
use jlb_map::{MemberRole, Snapshot};
use jlb_peers::{Carried, Envelope, Peers, PeersConfig};
use jlb_role::{FakeBuf, FakeIo, Nanos, UnderlayDst, WorkerId};
use jlb_wire::{BootId, Control, FiveTuple, Incarnation, Kind, MemberId, Outer, Protocol};

use crate::site;

#[derive(Debug)]
pub(crate) struct Members {
    snapshot: Arc<Snapshot>,
    hasher: FlowHasher,
    peers: BTreeMap<MemberId, Peers>,
    io: FakeIo,
}

/// What a packet of the ingress was, once a member has read it.
#[derive(Debug)]
pub(crate) enum Read {
    /// A packet for a backend.
    Data,
    /// An Open that a tracker believes, with the flow.
    Open(Box<Control>, FiveTuple),
    /// Something of the members among each other.
    Other,
    /// Nothing that a member would read.
    Refused(jlb_role::Reason),
}

impl Members {
    pub(crate) fn new(snapshot: &Arc<Snapshot>, now: Nanos) -> Self {
        let others = snapshot.members().iter().filter(|m| m.role != MemberRole::Ingress);
        let peers = others.map(|m| {
            let n = u64::from(m.id.as_u16());
            let config =
                PeersConfig { id: m.id, worker: WorkerId(0), workers: 1, boot: BootId(n), seed: n };
            (m.id, Peers::new(config, Arc::clone(snapshot), now))
        });
        Self {
            peers: peers.collect(),
            hasher: FlowHasher::new(snapshot.keys().hash_key),
            snapshot: Arc::clone(snapshot),
            io: FakeIo::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn hasher(&self) -> &FlowHasher {
        &self.hasher
    }

    /// A member reads a packet of the ingress, from its outer IP header.
    pub(crate) fn read(&mut self, now: Nanos, bytes: &[u8]) -> Read {
        let to = Outer::parse(bytes, self.snapshot.geneve_port()).map_err(jlb_peers::geneve_reason);
        let to = to.map(|outer| self.snapshot.member_by_address(outer.dst).map(|m| m.id));
        let (to, peers) = match to {
            Ok(Some(to)) => match self.peers.get_mut(&to) {
                Some(peers) => (to, peers),
                None => return Read::Refused(jlb_role::Reason::NotAMember),
            },
            Ok(None) => return Read::Refused(jlb_role::Reason::NotAMember),
            Err(why) => return Read::Refused(why),
        };
        let envelope = match Envelope::open(bytes, to, &self.snapshot) {
            Ok(envelope) => envelope,
            Err(why) => return Read::Refused(why),
        };
        match envelope.carried {
            Carried::Plain { .. } => Read::Data,
            Carried::Body { .. } => {
                peers.receive_body(now, FakeBuf::holding(bytes), &envelope, &mut self.io);
                Read::Other
            }
            Carried::Control { packet, .. } => match envelope.control(now, bytes, peers) {
                Ok(control) if control.kind == Kind::Open => {
                    Read::Open(Box::new(control), packet.tuple)
                }
                Ok(_) => Read::Other,
                Err(why) => Read::Refused(why),
            },
        }
    }

    /// A backend takes the flow of an Open. The answer is among what [`Self::sent`] gives.
    pub(crate) fn accept(&mut self, open: &Control, tuple: &FiveTuple, backend: MemberId) {
        let Some(peers) = self.peers.get_mut(&backend) else { return };
        let incarnation = match tuple.protocol() {
            Protocol::Tcp => open.incarnation,
            // Its agent numbers datagram flows.
            Protocol::Udp => Incarnation(1),
        };
        let mut accept = peers.control(Kind::Accept, incarnation);
        accept.cookie = open.cookie;
        let id = self.hasher.id(tuple);
        peers.send_headers(site::ingress(), accept, (tuple, &id), &mut self.io);
    }

    /// Lets all of them ask whom they ask.
    pub(crate) fn tick(&mut self, now: Nanos) {
        for peers in self.peers.values_mut() {
            peers.tick(now, &mut self.io);
        }
    }

    /// What they sent to the ingress since the last time.
    pub(crate) fn sent(&mut self) -> Vec<FakeBuf> {
        self.io.dropped.clear();
        self.io.reports.clear();
        let to_ingress = |to| to == UnderlayDst::Member(site::ingress());
        self.io.sent.drain(..).filter(|&(_, to)| to_ingress(to)).map(|(b, _)| b).collect()
    }

    /// Whether all know the ingress by now.
    pub(crate) fn know_the_ingress(&self) -> bool {
        self.peers.values().all(|p| p.alive(site::ingress()))
    }

    /// Which tracker is asked for a flow first while all are alive.
    pub(crate) fn head(&self, tuple: &FiveTuple) -> Option<MemberId> {
        self.snapshot.trio(self.hasher.id(tuple).partition()).iter().next()
    }

    /// The outer source port that a flow must have.
    pub(crate) fn entropy(&self, tuple: &FiveTuple) -> u16 {
        jlb_wire::entropy_port(self.hasher.id(tuple).bucket_hash())
    }
}
