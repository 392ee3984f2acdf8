//! One ingress worker, the other members around it, and what it sent to whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jlb_flow::{FlowHasher, FlowId, HashKey};
use jlb_ingress_core::{FlowState, Ingress, IngressConfig};
use jlb_map::{
    Addresses, Admission, Backend, Family, Keys, Member, MemberRole, OnExhausted, Policy,
    ReturnPath, Service, Snapshot, Spec, Underlay,
};
use jlb_peers::{Carried, Envelope, Peers, PeersConfig};
use jlb_role::{
    BURST, Burst, FakeBuf, FakeIo, Nanos, PacketBuf, Reason, Role, Samples, UnderlayDst, Without,
    WorkerId,
};
use jlb_wire::{
    BootId, Control, Epoch, Flags, Incarnation, Kind, MacKey, MacKeys, MemberId, Protocol, Version,
};

use crate::packets::{Client, well_formed};

pub(crate) const KEY: HashKey = HashKey([1; 16]);
pub(crate) const INGRESS: u16 = 1;
pub(crate) const TRACKERS: [u16; 3] = [11, 12, 13];
pub(crate) const BACKENDS: [u16; 2] = [21, 22];
/// Outer and inner families: all mixes.
pub(crate) const MIXES: [(Family, bool); 4] =
    [(Family::V4, false), (Family::V4, true), (Family::V6, false), (Family::V6, true)];

pub(crate) fn id(n: u16) -> MemberId {
    MemberId::new(n).unwrap()
}

pub(crate) const fn ms(n: u64) -> Nanos {
    Nanos::from_millis(n)
}

fn service(name: &str, port: u16, protocol: Protocol, on_exhausted: OnExhausted) -> Service {
    Service {
        name: name.into(),
        vips: vec![crate::packets::vip(false), crate::packets::vip(true)],
        port,
        protocol,
        backends: BACKENDS.map(|b| Backend::new(id(b))).to_vec(),
        policy: Policy::Random,
        reject_ttl: 2,
        on_exhausted,
        return_path: ReturnPath::Egress,
        admission: Admission::Accept,
    }
}

pub(crate) fn spec(prefer: Family) -> Spec {
    let members = |role, ids: &[u16]| -> Vec<_> {
        let member = |&n: &u16| Member {
            id: id(n),
            name: format!("m{n}"),
            role,
            addresses: Addresses {
                v4: Some(format!("10.0.0.{n}").parse().unwrap()),
                v6: Some(format!("fd00::{n}").parse().unwrap()),
            },
            drain: false,
        };
        ids.iter().map(member).collect()
    };
    Spec {
        generation: 1,
        epoch: Epoch(1),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: KEY, mac_keys: MacKeys::single(MacKey([2; 16])) },
        underlay: Underlay {
            prefixes: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            prefer,
            port: 6081,
            mtu: 1500,
        },
        members: [
            members(MemberRole::Ingress, &[INGRESS, 2]),
            members(MemberRole::FlowTracker, &TRACKERS),
            members(MemberRole::Backend, &BACKENDS),
        ]
        .concat(),
        services: vec![
            service("web", 80, Protocol::Tcp, OnExhausted::Reset),
            service("dns", 53, Protocol::Udp, OnExhausted::Reset),
            service("quiet", 81, Protocol::Tcp, OnExhausted::Drop),
            service("geneve", 6081, Protocol::Udp, OnExhausted::Force),
        ],
    }
}

/// What the ingress sent, Probe aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// A control message that its receiver believes, with the inner packet.
    Control(u16, Control, Vec<u8>),
    /// `Data`, with outer traffic class and inner packet.
    Data(u16, u8, Vec<u8>),
    /// To a client.
    Client(Vec<u8>),
}

pub(crate) struct Setup {
    pub(crate) spec: Spec,
    pub(crate) rules: Without,
    pub(crate) workers: u8,
    pub(crate) flows: usize,
    pub(crate) pending: usize,
}

impl Default for Setup {
    fn default() -> Self {
        let rules = Without(None);
        Self { spec: spec(Family::V4), rules, workers: 1, flows: 64, pending: 16 }
    }
}

pub(crate) struct World {
    pub(crate) now: Nanos,
    pub(crate) ingress: Ingress<FakeBuf, Without>,
    pub(crate) io: FakeIo,
    pub(crate) others: BTreeMap<u16, (Peers, FakeIo)>,
    /// Members that neither hear nor speak.
    pub(crate) down: BTreeSet<u16>,
    /// Clients may send what is not well-formed, and it is passed on as it is.
    pub(crate) bad_clients: bool,
    sent: Vec<Sent>,
    /// Of the last Open of each flow.
    cookies: HashMap<FlowId, u32>,
}

impl Setup {
    /// Runs until all members know each other's boot ids.
    pub(crate) fn build(self) -> World {
        let snapshot = Snapshot::build(self.spec).unwrap();
        let config = IngressConfig {
            id: id(INGRESS),
            worker: WorkerId(0),
            workers: self.workers,
            boot: BootId(77),
            seed: 1,
            flow_capacity: self.flows,
            pending_capacity: self.pending,
        };
        let now = ms(1000);
        let ingress = Ingress::new(config, Arc::clone(&snapshot), self.rules, now).unwrap();
        let others = snapshot
            .members()
            .iter()
            .filter(|m| m.role != MemberRole::Ingress)
            .map(|m| {
                let n = m.id.as_u16();
                let config = PeersConfig {
                    id: m.id,
                    worker: WorkerId(0),
                    workers: 1,
                    boot: BootId(u64::from(n)),
                    seed: u64::from(n),
                };
                (n, (Peers::new(config, Arc::clone(&snapshot), now), FakeIo::default()))
            })
            .collect();
        let mut world = World {
            now,
            ingress,
            io: FakeIo::default(),
            others,
            down: BTreeSet::new(),
            bad_clients: false,
            sent: Vec::new(),
            cookies: HashMap::new(),
        };
        // Agents ask once a second, and all of them at once in the beginning.
        world.run(60);
        for &n in world.others.keys() {
            assert!(world.ingress.peers().alive(id(n)), "{n}");
            assert!(world.others[&n].0.alive(id(INGRESS)), "{n}");
        }
        assert_eq!((world.sent(), world.drops()), (vec![], vec![]));
        world
    }
}

pub(crate) fn world() -> World {
    Setup::default().build()
}

pub(crate) fn world_over(prefer: Family) -> World {
    Setup { spec: spec(prefer), ..Setup::default() }.build()
}

impl World {
    /// A member begins anew, with another boot id.
    pub(crate) fn reboot(&mut self, n: u16) {
        let snapshot = Arc::clone(self.ingress.snapshot());
        let boot = BootId(1000 + u64::from(n));
        let worker = WorkerId(0);
        let config = PeersConfig { id: id(n), worker, workers: 1, boot, seed: boot.0 };
        self.others.insert(n, (Peers::new(config, snapshot, self.now), FakeIo::default()));
    }

    /// What the ingress sent since the last time.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// What it dropped since the last time.
    pub(crate) fn drops(&mut self) -> Vec<Reason> {
        self.io.dropped.drain(..).map(|(_, why)| why).collect()
    }

    /// Lets so many milliseconds pass, in steps of one.
    pub(crate) fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now = self.now + ms(1);
            // By its own deadline only: so that it is held to it.
            while self.ingress.next_deadline().is_some_and(|t| t <= self.now) {
                self.ingress.tick(self.now, &mut self.io);
                self.deliver();
            }
            for (n, (peers, io)) in &mut self.others {
                peers.tick(self.now, io);
                if self.down.contains(n) {
                    io.sent.clear();
                }
            }
            self.deliver();
        }
    }

    /// Packets arrive at the ingress in bursts.
    pub(crate) fn rx(&mut self, packets: impl IntoIterator<Item = Vec<u8>>) {
        let packets: Vec<_> = packets.into_iter().map(|p| FakeBuf::holding(&p)).collect();
        for chunk in packets.chunks(BURST) {
            let mut burst: Burst<_> = chunk.iter().cloned().collect();
            self.ingress.rx(self.now, &mut burst, &mut self.io);
            assert!(burst.is_empty());
        }
        self.deliver();
    }

    /// Carries what was sent to where it goes, until nothing moves any more.
    fn deliver(&mut self) {
        loop {
            while let Some((buf, to)) = self.io.sent.pop_front() {
                self.take_sent(&buf, to);
            }
            let mut burst = Burst::new();
            for (_, io) in self.others.values_mut() {
                while let Some((buf, to)) = io.sent.pop_front() {
                    if to == UnderlayDst::Member(id(INGRESS)) && !burst.is_full() {
                        burst.push(buf);
                    }
                }
            }
            if burst.is_empty() {
                return;
            }
            self.ingress.rx(self.now, &mut burst, &mut self.io);
        }
    }

    fn take_sent(&mut self, buf: &FakeBuf, to: UnderlayDst) {
        let bad_clients = self.bad_clients;
        let check = |packet: &[u8]| {
            if !bad_clients {
                well_formed(packet);
            }
        };
        let to = match to {
            UnderlayDst::Ip(ip) => {
                check(buf.bytes());
                let p = jlb_wire::IpHeader::parse(buf.bytes()).unwrap();
                assert_eq!(p.dst, ip);
                self.sent.push(Sent::Client(buf.bytes().to_vec()));
                return;
            }
            UnderlayDst::Member(to) => to.as_u16(),
        };
        well_formed(buf.bytes());
        if self.down.contains(&to) {
            return;
        }
        let (peers, io) = self.others.get_mut(&to).unwrap();
        let snapshot = Arc::clone(peers.snapshot());
        // A fragment is no packet of a flow, so it is looked at from outside only.
        let envelope = match Envelope::open(buf.bytes(), id(to), &snapshot) {
            Err(Reason::Fragment) => {
                let outer = jlb_wire::Outer::parse(buf.bytes(), 6081).unwrap();
                let jlb_wire::Content::Plain { inner } = outer.content else { panic!() };
                check(&buf.bytes()[inner..]);
                let inner = buf.bytes()[inner..].to_vec();
                self.sent.push(Sent::Data(to, outer.traffic_class, inner));
                return;
            }
            envelope => envelope.unwrap(),
        };
        match envelope.carried {
            Carried::Body { .. } => {
                assert!(peers.receive_body(self.now, buf.clone(), &envelope, io).is_none());
            }
            Carried::Control { inner, packet, .. } => {
                let control = envelope.control(self.now, buf.bytes(), peers).unwrap();
                if control.kind == Kind::Open {
                    self.cookies.insert(FlowHasher::new(KEY).id(&packet.tuple), control.cookie);
                }
                check(&buf.bytes()[inner..]);
                self.sent.push(Sent::Control(to, control, buf.bytes()[inner..].to_vec()));
            }
            Carried::Plain { inner, packet } => {
                check(&buf.bytes()[inner..]);
                let entropy = FlowHasher::new(KEY).id(&packet.tuple).bucket_hash();
                assert_eq!(envelope.outer.source_port, jlb_wire::entropy_port(entropy));
                let inner = buf.bytes()[inner..].to_vec();
                self.sent.push(Sent::Data(to, envelope.outer.traffic_class, inner));
            }
        }
    }

    /// A control message for the ingress about a flow, signed by a member; `change` fills it in.
    pub(crate) fn message(
        &mut self,
        signer: u16,
        kind: Kind,
        flow: &Client,
        incarnation: u32,
        change: impl FnOnce(&mut Control),
    ) -> Vec<u8> {
        self.message_to(INGRESS, signer, kind, flow, incarnation, change)
    }

    pub(crate) fn message_to(
        &mut self,
        to: u16,
        signer: u16,
        kind: Kind,
        flow: &Client,
        incarnation: u32,
        change: impl FnOnce(&mut Control),
    ) -> Vec<u8> {
        let (peers, _) = self.others.get_mut(&signer).unwrap();
        let mut io = FakeIo::default();
        let mut control = peers.control(kind, Incarnation(incarnation));
        change(&mut control);
        assert!(peers.send_headers(id(to), control, (&flow.tuple(), &flow.id()), &mut io));
        io.sent.pop_front().unwrap().0.bytes().to_vec()
    }

    /// The backend's Accept of the flow's last Open, as the head of the chain brings it.
    pub(crate) fn accept(&mut self, backend: u16, flow: &Client, incarnation: u32) -> Vec<u8> {
        let cookie = self.cookies.get(&flow.id()).copied().unwrap_or(0);
        let set = |c: &mut Control| c.cookie = cookie;
        let bytes = self.message(backend, Kind::Accept, flow, incarnation, set);
        self.forwarded(TRACKERS[0], flow, &bytes)
    }

    /// A message for the ingress as a tracker forwards it.
    pub(crate) fn forwarded(&mut self, via: u16, flow: &Client, bytes: &[u8]) -> Vec<u8> {
        let (peers, _) = self.others.get_mut(&via).unwrap();
        let envelope = Envelope::open(bytes, id(INGRESS), peers.snapshot()).unwrap();
        let mut io = FakeIo::default();
        peers.forward(FakeBuf::holding(bytes), &envelope, id(INGRESS), &flow.id(), &mut io);
        io.sent.pop_front().unwrap().0.bytes().to_vec()
    }

    pub(crate) fn state(&mut self, tracker: u16, flow: &Client, n: u32, backend: u16) -> Vec<u8> {
        self.message(tracker, Kind::State, flow, n, |c| c.backend = Some(id(backend)))
    }

    /// A tracker's final Reject with the cookie of the pending entry's Open.
    pub(crate) fn refuse(&mut self, flow: &Client, incarnation: u32, cookie: u32) -> Vec<u8> {
        self.message(TRACKERS[1], Kind::Reject, flow, incarnation, |c| {
            c.flags = Flags::FINAL;
            c.cookie = cookie;
            c.reason = jlb_wire::RejectReason::Exhausted;
        })
    }

    /// A packet from a backend as its eBPF encapsulates it.
    pub(crate) fn egress(&self, backend: u16, traffic_class: u8, inner: &[u8]) -> Vec<u8> {
        self.plain(backend, traffic_class, inner)
    }

    /// A packet without option from any member.
    pub(crate) fn plain(&self, from: u16, traffic_class: u8, inner: &[u8]) -> Vec<u8> {
        let (src, dst) = self.ingress.snapshot().underlay_pair(id(from), id(INGRESS)).unwrap();
        let e = jlb_wire::Encapsulation { src, dst, source_port: 50000, port: 6081, traffic_class };
        let payload = jlb_wire::Payload::Plain { v6: inner[0] >> 4 == 6 };
        let mut out = vec![0; e.header_len(payload)];
        e.emit(payload, inner.len(), &mut out).unwrap();
        out.extend_from_slice(inner);
        out
    }

    /// Brings a flow to a backend, with nothing left to look at.
    pub(crate) fn establish(&mut self, flow: &Client, incarnation: u32, backend: u16) {
        self.rx([flow.opener(incarnation)]);
        let accept = self.accept(backend, flow, incarnation);
        self.rx([accept]);
        self.sent();
        assert_eq!(self.drops(), []);
        assert_eq!(self.flow(flow), established(backend, incarnation));
    }

    pub(crate) fn flow(&self, flow: &Client) -> Option<FlowState> {
        self.ingress.flow(&flow.id())
    }

    /// A metric's value.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut samples = Samples::default();
        self.ingress.collect(&mut samples);
        samples.sum(name, labels)
    }

    /// Opens among what was sent, since the last time: to whom, and the message.
    pub(crate) fn opens(&mut self) -> Vec<(u16, Control, Vec<u8>)> {
        let open = |s| match s {
            Sent::Control(to, c, inner) if c.kind == Kind::Open => Some((to, c, inner)),
            _ => None,
        };
        self.sent().into_iter().filter_map(open).collect()
    }

    /// Its trio in the order of rank.
    pub(crate) fn trio(&self, flow: &Client) -> Vec<u16> {
        let trio = self.ingress.snapshot().trio(flow.id().partition());
        trio.iter().map(MemberId::as_u16).collect()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what `World::flow` gives")]
pub(crate) fn established(backend: u16, incarnation: u32) -> Option<FlowState> {
    let incarnation = Incarnation(incarnation);
    Some(FlowState::Established { backend: id(backend), incarnation })
}

#[expect(clippy::unnecessary_wraps, reason = "what `World::flow` gives")]
pub(crate) fn closing(backend: u16, incarnation: u32) -> Option<FlowState> {
    let incarnation = Incarnation(incarnation);
    Some(FlowState::Closing { backend: id(backend), incarnation })
}

#[expect(clippy::unnecessary_wraps, reason = "what `World::flow` gives")]
pub(crate) fn pending(incarnation: u32, packets: usize) -> Option<FlowState> {
    Some(FlowState::Pending { incarnation: Incarnation(incarnation), packets })
}
