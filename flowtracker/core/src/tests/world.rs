//! One tracker under test; all other members are puppets that answer Probe and say what a test tells them to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jlb_flow::{FlowHasher, FlowId, HashKey};
use jlb_map::{
    Admission, Backend, Family, Keys, Member, MemberRole, OnExhausted, Policy, ReturnPath, Service,
    Snapshot, Spec, Underlay,
};
use jlb_peers::{Carried, Envelope, Peers, PeersConfig, ReceivedBody, buffer_with};
use jlb_role::{
    Burst, FakeBuf, FakeIo, Nanos, PacketBuf as _, Reason, Report, Role as _, Rule, Samples,
    UnderlayDst, Without, WorkerId,
};
use jlb_wire::{
    Body, BodyKind, BootId, Control, Epoch, FiveTuple, Flags, Incarnation, Kind, LoadReport,
    MAX_BODY_PAYLOAD, MAX_FLOW_HEADERS, MacKey, MacKeys, MemberId, Outer, Probe, Protocol, Refresh,
    RefreshRecord, RejectReason, ServiceLoad, SoleOwner, Version, body_flags, flow_headers,
};

use crate::{Tracker, TrackerConfig, TrackerEvent};

pub(super) const fn id(n: u16) -> MemberId {
    MemberId::new(n).unwrap()
}

pub(super) const INGRESS: MemberId = id(1);
pub(super) const INGRESS_2: MemberId = id(2);
/// Everybody that is no backend, but for T1.
pub(super) const OTHERS: [MemberId; 5] = [INGRESS, INGRESS_2, T2, T3, OUTSIDER];
/// The test flows' trio, by rank; 14 is in none of theirs.
pub(super) const T1: MemberId = id(11);
pub(super) const T2: MemberId = id(12);
pub(super) const T3: MemberId = id(13);
pub(super) const OUTSIDER: MemberId = id(14);
pub(super) const BACKENDS: [MemberId; 4] = [id(21), id(22), id(23), id(24)];

/// The services: port 80 resets, 81 forces, UDP 53 resets.
pub(super) const RESET: u16 = 80;
pub(super) const FORCE: u16 = 81;
pub(super) const DNS: u16 = 53;

pub(super) const CLOSING: u64 = 2000;
pub(super) const REPLAY_WINDOW: u64 = 4000;

pub(super) fn boot(member: MemberId) -> BootId {
    BootId(u64::from(member.as_u16()) << 32)
}

pub(super) fn spec() -> Spec {
    use MemberRole::{FlowTracker, Ingress};
    let ids = [1, 2].map(|n| (n, Ingress)).into_iter();
    let ids = ids.chain([11, 12, 13, 14].map(|n| (n, FlowTracker)));
    let ids = ids.chain([21, 22, 23, 24].map(|n| (n, MemberRole::Backend)));
    let members = ids
        .map(|(n, role)| Member {
            id: id(n),
            name: format!("m{n}"),
            role,
            addresses: std::net::IpAddr::from([10, 0, 0, n as u8]).into(),
            drain: false,
        })
        .collect();
    let service = |name: &str, port, protocol, on_exhausted| Service {
        name: name.into(),
        vips: vec!["203.0.113.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
        port,
        protocol,
        backends: BACKENDS.map(Backend::new).to_vec(),
        policy: Policy::Random,
        reject_ttl: 3,
        on_exhausted,
        return_path: ReturnPath::Egress,
        admission: Admission::Accept,
    };
    Spec {
        generation: 1,
        epoch: Epoch(1),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: HashKey([1; 16]), mac_keys: MacKeys::single(MacKey([2; 16])) },
        underlay: Underlay {
            prefixes: vec!["10.0.0.0/24".parse().unwrap()],
            prefer: Family::V4,
            port: 6081,
            mtu: 1500,
        },
        members,
        services: vec![
            service("web", RESET, Protocol::Tcp, OnExhausted::Reset),
            service("forced", FORCE, Protocol::Tcp, OnExhausted::Force),
            service("dns", DNS, Protocol::Udp, OnExhausted::Reset),
        ],
    }
}

/// The list in a later epoch, without these trackers.
pub(super) fn later(epoch: u32, without: &[MemberId]) -> Spec {
    let mut spec = spec();
    (spec.generation, spec.epoch) = (u64::from(epoch), Epoch(epoch));
    spec.members.retain(|m| !without.contains(&m.id));
    spec
}

/// What the tracker sent, as its receiver reads it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) to: MemberId,
    pub(super) control: Control,
    pub(super) inner: Vec<u8>,
}

impl Sent {
    /// Whether it carries that flow's headers or packet.
    pub(super) fn inner_is_of(&self, flow: &Flow) -> bool {
        jlb_wire::Packet::parse(&self.inner).unwrap().tuple == flow.tuple
    }
}

struct Puppet {
    peers: Peers,
    io: FakeIo,
    /// The last pull of a backend's flows, as it was collected.
    pull: Option<(u64, u64, Vec<RefreshRecord>)>,
    /// Whom a backend obeys alone, and the last order of it that it took.
    obeys: Option<MemberId>,
    /// What it says of the tracker's votes.
    shut_out: u8,
}

impl Puppet {
    fn new(id: MemberId, boot: BootId, snapshot: &Arc<Snapshot>, now: Nanos) -> Self {
        let seed = u64::from(id.as_u16()) ^ boot.0;
        let config = PeersConfig { id, worker: WorkerId(0), workers: 1, boot, seed };
        let peers = Peers::new(config, Arc::clone(snapshot), now);
        Self { peers, io: FakeIo::default(), pull: None, obeys: None, shut_out: 0 }
    }

    /// What an agent does with a tracker's order.
    fn obey(&mut self, received: &ReceivedBody<FakeBuf>) {
        let body = received.body;
        let (sole, absent) = SoleOwner::parse(received.payload()).unwrap();
        let absent: Vec<_> = absent.iter().collect();
        let other = self.obeys.filter(|&owner| owner != body.sender);
        if body.flags == body_flags::SOLE_OWNER && other.is_none() {
            self.obeys = sole.owner;
        } else if other.is_none() {
            self.obeys = None;
        }
        let said = SoleOwner { owner: other.or(sole.owner), ..sole };
        let mut payload = [0; SoleOwner::MAX_LEN];
        let len = said.emit(&absent, &mut payload);
        let words = (BodyKind::Epoch, body.flags | body_flags::ACK, body.nonce);
        self.peers.send_body(body.sender, words, &payload[..len], &mut self.io);
    }

    /// What an agent's eBPF answers to Probe.
    fn answer_probe(&mut self, question: &Body, payload: &[u8]) {
        let (asked, _) = Probe::parse(payload).unwrap();
        let obeys = self.obeys == Some(question.sender);
        let flags = body_flags::ANSWER | if obeys { body_flags::OBEYS } else { 0 };
        let probe = Probe { shut_out: self.shut_out, ..asked };
        let words = (BodyKind::Probe, flags, question.nonce);
        self.peers.send_body(question.sender, words, &probe.emit(), &mut self.io);
    }

    /// What an agent answers to a tracker's PULL.
    fn answer(&mut self, received: &ReceivedBody<FakeBuf>, has: &(u64, Vec<RefreshRecord>)) {
        let body = received.body;
        assert_eq!((body.kind, body.flags), (BodyKind::Refresh, body_flags::PULL));
        let obeyed = MemberId::to_wire(self.obeys);
        if body.epoch != self.peers.snapshot().epoch() {
            return;
        }
        let (pull, _) = Refresh::parse(received.payload()).unwrap();
        let nobody_else = self.obeys.is_none_or(|owner| owner == body.sender);
        if nobody_else && pull.shut_out == self.shut_out {
            self.shut_out = 0;
        }
        if self.pull.as_ref().is_none_or(|(nonce, ..)| *nonce != body.nonce) {
            self.pull = Some((body.nonce, has.0, has.1.clone()));
        }
        let (nonce, counter, flows) = self.pull.as_ref().unwrap();
        let batches: Vec<_> = flows.chunks(BATCH).collect();
        let batch = pull.batch as usize;
        let flags = if batch == batches.len() { body_flags::END } else { body_flags::BATCH };
        let refresh =
            Refresh { batches: batches.len() as u32, counter: *counter, sole: obeyed, ..pull };
        let mut payload = [0; MAX_BODY_PAYLOAD];
        let len = refresh.emit(batches.get(batch).copied().unwrap_or_default(), &mut payload);
        let words = (BodyKind::Refresh, flags, *nonce);
        self.peers.send_body(body.sender, words, &payload[..len], &mut self.io);
    }
}

/// Records of a batch: few, so that there are many batches.
const BATCH: usize = 3;

pub(super) struct World {
    pub(super) now: Nanos,
    pub(super) tracker: Tracker<Without>,
    pub(super) io: FakeIo,
    puppets: BTreeMap<MemberId, Puppet>,
    pub(super) down: BTreeSet<MemberId>,
    /// Backends whose daemon does not run: their eBPF answers Probe all the same.
    pub(super) mute: BTreeSet<MemberId>,
    /// Counter and flows of each backend.
    pub(super) has: BTreeMap<MemberId, (u64, Vec<RefreshRecord>)>,
    /// Backends that take no orders of sole owners.
    pub(super) deaf: BTreeSet<MemberId>,
    /// Such orders that came to each backend, by their flags.
    pub(super) orders: BTreeMap<(MemberId, u16), usize>,
    /// What backends say of new flows, in their Loads.
    pub(super) words: BTreeMap<MemberId, RejectReason>,
    /// Pulls that came to each backend.
    pub(super) pulls: BTreeMap<MemberId, usize>,
    /// When there is one, answers to pulls go there and not to the tracker.
    pub(super) held: Option<Vec<FakeBuf>>,
    /// Control messages of the tracker that nobody looked at yet; the last one as it went out.
    pub(super) out: Vec<Sent>,
    pub(super) last: Option<FakeBuf>,
}

pub(super) fn config(me: MemberId) -> TrackerConfig {
    TrackerConfig {
        id: me,
        worker: WorkerId(0),
        workers: 1,
        boot: boot(me),
        seed: 5,
        flow_capacity: 64,
        pending_capacity: 16,
        remembered_capacity: 16,
    }
}

impl World {
    pub(super) fn new(me: MemberId) -> Self {
        Self::with(config(me), spec(), None)
    }

    pub(super) fn without(me: MemberId, rule: Rule) -> Self {
        Self::with(config(me), spec(), Some(rule))
    }

    /// All members know each other, and the tracker is warm.
    pub(super) fn with(config: TrackerConfig, spec: Spec, broken: Option<Rule>) -> Self {
        let mut world = Self::cold(config, spec, broken);
        world.run(200);
        world.io.reports.clear();
        // Answers that came before the boot ids were known.
        world.io.dropped.clear();
        assert_eq!(world.metric("jlb_cold_partitions", &[]), 0.0);
        world
    }

    /// As the tracker starts.
    pub(super) fn cold(config: TrackerConfig, spec: Spec, broken: Option<Rule>) -> Self {
        let snapshot = Snapshot::build(spec).unwrap();
        let puppet = |m: &Member| (m.id, Puppet::new(m.id, boot(m.id), &snapshot, Nanos::ZERO));
        let puppets = snapshot.members().iter().filter(|m| m.id != config.id).map(puppet).collect();
        let tracker =
            Tracker::new(config, Arc::clone(&snapshot), Without(broken), Nanos::ZERO).unwrap();
        Self {
            now: Nanos::ZERO,
            tracker,
            io: FakeIo::default(),
            puppets,
            down: BTreeSet::new(),
            mute: BTreeSet::new(),
            has: BTreeMap::new(),
            deaf: BTreeSet::new(),
            orders: BTreeMap::new(),
            words: BTreeMap::new(),
            pulls: BTreeMap::new(),
            held: None,
            out: Vec::new(),
            last: None,
        }
    }

    /// A member begins anew, with another boot id.
    pub(super) fn reboot(&mut self, member: MemberId) {
        let snapshot = Arc::clone(self.tracker.snapshot());
        let boot = BootId(boot(member).0 + 1);
        self.puppets.insert(member, Puppet::new(member, boot, &snapshot, self.now));
    }

    /// The tracker under test starts anew, with this list.
    pub(super) fn restart(&mut self, spec: Spec) {
        let config = TrackerConfig { boot: BootId(99), ..config(self.me()) };
        let snapshot = Snapshot::build(spec).unwrap();
        self.tracker = Tracker::new(config, snapshot, Without(None), self.now).unwrap();
    }

    /// These members take a new list.
    pub(super) fn apply(&mut self, spec: Spec, who: &[MemberId]) {
        let (me, snapshot) = (self.me(), Snapshot::build(spec).unwrap());
        for &id in who {
            if id == me {
                let event = TrackerEvent::Snapshot(Arc::clone(&snapshot));
                jlb_role::Role::event(&mut self.tracker, self.now, event, &mut self.io);
            } else if let Some(puppet) = self.puppets.get_mut(&id) {
                puppet.peers.update(Arc::clone(&snapshot), self.now);
            } else {
                self.puppets.insert(id, Puppet::new(id, boot(id), &snapshot, self.now));
            }
        }
    }

    /// Whom a backend obeys alone.
    pub(super) fn obeys(&mut self, backend: MemberId, owner: Option<MemberId>) {
        self.puppets.get_mut(&backend).unwrap().obeys = owner;
    }

    pub(super) fn obeyed_by(&self, backend: MemberId) -> Option<MemberId> {
        self.puppets[&backend].obeys
    }

    /// A backend takes no votes of the tracker under test until it has pulled, knowing that.
    pub(super) fn shuts_out(&mut self, backend: MemberId, number: u8) {
        self.puppets.get_mut(&backend).unwrap().shut_out = number;
    }

    /// What the backend answers when it is pulled.
    pub(super) fn has(&mut self, backend: MemberId, counter: u64, flows: &[RefreshRecord]) {
        self.has.insert(backend, (counter, flows.to_vec()));
    }

    /// Asks where the flow is, on behalf of an ingress; gives the answer and what else was sent.
    pub(super) fn query(&mut self, flow: &Flow, disproved: Option<(MemberId, u64)>) -> Vec<Sent> {
        self.sent();
        self.say(INGRESS_2, &flow.incarnation(0), Kind::Query, |c| {
            (c.ingress, c.cookie, c.word_a) = (Some(INGRESS_2), 88, 4711);
            if let Some((backend, counter)) = disproved {
                c.backend = Some(backend);
                c.word_b = jlb_wire::not_mine_proof(boot(backend), counter);
            }
        });
        self.sent()
    }

    /// The State that answers a Query: backend and flags.
    pub(super) fn state(&mut self, flow: &Flow) -> (Option<MemberId>, Flags) {
        let sent = self.query(flow, None);
        let state = sent.iter().find(|s| s.control.kind == Kind::State);
        let state = state.unwrap_or_else(|| panic!("{sent:?}; dropped {:?}", self.io.dropped));
        assert_eq!((state.to, state.control.head), (INGRESS_2, Some(self.me())));
        assert_eq!((state.control.word_a, state.control.cookie), (4711, 88));
        (state.control.backend, state.control.flags)
    }

    pub(super) fn me(&self) -> MemberId {
        self.tracker.peers().me()
    }

    /// Lets so many milliseconds pass, in steps of one.
    pub(super) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now + Nanos::from_millis(1);
            self.tracker.tick(self.now, &mut self.io);
            self.flush();
            let ids: Vec<_> = self.puppets.keys().copied().collect();
            for from in ids {
                let now = self.now;
                let puppet = self.puppets.get_mut(&from).unwrap();
                puppet.peers.tick(now, &mut puppet.io);
                self.bring(from);
            }
        }
    }

    /// Hands the tracker what a puppet sends it.
    fn bring(&mut self, from: MemberId) {
        let me = self.me();
        let puppet = self.puppets.get_mut(&from).unwrap();
        let mail: Vec<_> = puppet.io.sent.drain(..).collect();
        puppet.io.reports.clear();
        if self.down.contains(&from) {
            return;
        }
        for (buf, to) in mail {
            if to == UnderlayDst::Member(me) {
                self.receive(buf);
            }
        }
    }

    pub(super) fn receive(&mut self, buf: FakeBuf) {
        let mut burst = Burst::new();
        burst.push(buf);
        self.tracker.rx(self.now, &mut burst, &mut self.io);
        self.flush();
    }

    /// Probes are answered by the puppets; control messages are kept for the test.
    fn flush(&mut self) {
        let snapshot = Arc::clone(self.tracker.snapshot());
        while let Some((buf, to)) = self.io.sent.pop_front() {
            let UnderlayDst::Member(to) = to else { panic!("a tracker only speaks to members") };
            let envelope = Envelope::open(buf.bytes(), to, &snapshot).unwrap();
            match envelope.carried {
                Carried::Control { option, inner, packet } => {
                    let keys = &snapshot.keys().mac_keys;
                    let control =
                        Control::parse(&buf.bytes()[option..], &packet.tuple, keys).unwrap();
                    assert_eq!(Outer::parse(buf.bytes(), 6081).unwrap().len, buf.bytes().len());
                    let inner = buf.bytes()[inner..].to_vec();
                    self.out.push(Sent { to, control, inner });
                    self.last = Some(buf);
                }
                Carried::Body { .. } => {
                    if !self.down.contains(&to) {
                        let now = self.now;
                        // A member that is not there any more.
                        let Some(puppet) = self.puppets.get_mut(&to) else { continue };
                        let Carried::Body { body: at } = envelope.carried else { continue };
                        let keys = &snapshot.keys().mac_keys;
                        let (body, payload) =
                            Body::parse(&buf.bytes()[at..envelope.outer.len], keys).unwrap();
                        if body.kind == BodyKind::Probe
                            && body.flags & body_flags::ANSWER == 0
                            && BACKENDS.contains(&to)
                        {
                            puppet.answer_probe(&body, payload);
                            self.bring(to);
                            continue;
                        }
                        let other = puppet.peers.receive_body(now, buf, &envelope, &mut puppet.io);
                        if let Some(order) = &other
                            && order.body.kind == BodyKind::Epoch
                        {
                            *self.orders.entry((to, order.body.flags)).or_default() += 1;
                            if !self.deaf.contains(&to) {
                                puppet.obey(order);
                            }
                        } else if let Some(pull) = other {
                            *self.pulls.entry(to).or_default() += 1;
                            if !self.mute.contains(&to) {
                                let nothing = (0, Vec::new());
                                puppet.answer(&pull, self.has.get(&to).unwrap_or(&nothing));
                            }
                            if let Some(held) = &mut self.held {
                                held.extend(puppet.io.sent.drain(..).map(|(buf, _)| buf));
                            }
                        }
                        self.bring(to);
                    }
                }
                Carried::Plain { .. } => panic!("a tracker sends no Data"),
            }
        }
    }

    /// A puppet says something, with flow headers or that packet inside, signed for `receiver`.
    pub(super) fn say_for(
        &mut self,
        from: MemberId,
        receiver: MemberId,
        flow: &Flow,
        packet: Option<&[u8]>,
        kind: Kind,
        set: impl FnOnce(&mut Control),
    ) {
        let me = self.me();
        let puppet = self.puppets.get_mut(&from).unwrap();
        let mut control = puppet.peers.control(kind, flow.incarnation);
        set(&mut control);
        let mut headers = [0; MAX_FLOW_HEADERS];
        let len = flow_headers(&flow.tuple, flow.incarnation, &mut headers);
        let inner = packet.unwrap_or(&headers[..len]);
        let buf = buffer_with(&mut puppet.io, inner).unwrap();
        let id = (&flow.tuple, &flow.id);
        puppet.peers.send_control_by(buf, (me, receiver), control, id, &mut puppet.io);
        self.bring(from);
    }

    /// The same, for the tracker itself.
    pub(super) fn say(
        &mut self,
        from: MemberId,
        flow: &Flow,
        kind: Kind,
        set: impl FnOnce(&mut Control),
    ) {
        let me = self.me();
        self.say_for(from, me, flow, None, kind, set);
    }

    /// An ingress opens the flow.
    pub(super) fn open(&mut self, flow: &Flow) {
        let packet = flow.packet();
        let me = self.me();
        self.say_for(INGRESS, me, flow, Some(&packet), Kind::Open, |c| {
            (c.ingress, c.cookie, c.reject_ttl) = (Some(INGRESS), 77, 3);
        });
    }

    /// A tracker that heads a chain asks for the second vote.
    pub(super) fn open_by(&mut self, head: MemberId, flow: &Flow, backend: MemberId) {
        self.open_by_with(head, flow, |c| c.backend = Some(backend));
    }

    pub(super) fn open_by_with(
        &mut self,
        head: MemberId,
        flow: &Flow,
        set: impl FnOnce(&mut Control),
    ) {
        let packet = flow.packet();
        let me = self.me();
        self.say_for(head, me, flow, Some(&packet), Kind::Open, |c| {
            (c.ingress, c.cookie, c.reject_ttl) = (Some(INGRESS), 77, 3);
            (c.head, c.second, c.word_a) = (Some(head), Some(me), boot(head).0);
            c.hop_budget -= 1;
            set(c);
        });
    }

    /// The backend takes the flow, in a chain that the tracker under test is in.
    pub(super) fn accept(&mut self, flow: &Flow, backend: MemberId, counter: u64) {
        let me = self.me();
        self.say_for(backend, INGRESS, flow, None, Kind::Accept, |c| {
            (c.ingress, c.backend, c.word_a) = (Some(INGRESS), Some(backend), counter);
            (c.head, c.second) = if me == T1 { (Some(T1), Some(T2)) } else { (Some(T1), Some(me)) };
        });
    }

    /// The backend refuses what the tracker, as head or second, asked with that Open.
    pub(super) fn reject(&mut self, flow: &Flow, asked: &Sent) {
        self.reject_with(flow, asked, |_| {});
    }

    pub(super) fn reject_with(
        &mut self,
        flow: &Flow,
        asked: &Sent,
        set: impl FnOnce(&mut Control),
    ) {
        let packet = asked.inner.clone();
        let (backend, head) = (asked.control.backend.unwrap(), asked.control.head.unwrap());
        let asked = asked.control;
        self.say_for(backend, head, flow, Some(&packet), Kind::Reject, |c| {
            (c.ingress, c.backend, c.cookie) = (asked.ingress, asked.backend, asked.cookie);
            (c.head, c.second, c.tried) = (asked.head, asked.second, asked.tried);
            c.flags = Flags(asked.flags.0 & (Flags::FORCE.0 | Flags::CUT.0));
            c.reason = jlb_wire::RejectReason::QueueFull;
            set(c);
        });
    }

    /// The backend answers a Cancel: it never took the flow and never will.
    pub(super) fn cancelled(&mut self, flow: &Flow, cancel: &Sent) {
        let cancel = cancel.control;
        let me = self.me();
        self.say(cancel.backend.unwrap(), flow, Kind::Reject, |c| {
            (c.ingress, c.backend) = (cancel.ingress, cancel.backend);
            (c.head, c.flags) = (Some(me), cancel.flags);
            c.reason = jlb_wire::RejectReason::Cancelled;
        });
    }

    pub(super) fn close(&mut self, flow: &Flow, backend: MemberId, counter: u64) {
        self.say(backend, flow, Kind::Close, |c| {
            (c.backend, c.word_a) = (Some(backend), counter);
        });
    }

    /// Lets the answers to pulls go that were held back.
    pub(super) fn release(&mut self) {
        for buf in self.held.take().unwrap_or_default() {
            self.receive(buf);
        }
    }

    /// Somebody says unasked that it has a flow, for that worker.
    pub(super) fn list_by(&mut self, from: MemberId, flow: &Flow, worker: u8) {
        let me = self.me();
        let puppet = self.puppets.get_mut(&from).unwrap();
        let refresh =
            Refresh { batch: 0, batches: 1, worker, workers: 1, sole: 0, shut_out: 0, counter: 9 };
        let mut payload = [0; MAX_BODY_PAYLOAD];
        let len = refresh.emit(&[flow.record(true, 5)], &mut payload);
        let words = (BodyKind::Refresh, body_flags::BATCH, 7);
        puppet.peers.send_body(me, words, &payload[..len], &mut puppet.io);
        self.bring(from);
    }

    /// A backend says unasked how many flows the first service has there, by its list of that generation.
    pub(super) fn load_by(&mut self, from: MemberId, live: u32, (generation, worker): (u64, u8)) {
        let me = self.me();
        let puppet = self.puppets.get_mut(&from).unwrap();
        let report = LoadReport { generation, live, cpu: 0, worker };
        let mut payload = [0; MAX_BODY_PAYLOAD];
        let unwilling = self.words.get(&from).copied();
        let load = ServiceLoad { service: 0, live, unwilling, share: 100 };
        let len = report.emit(&[load], &mut payload);
        puppet.peers.send_body(me, (BodyKind::Load, 0, 0), &payload[..len], &mut puppet.io);
        self.bring(from);
    }

    /// Partitions that the tracker owns.
    pub(super) fn owned(&self) -> usize {
        let snapshot = self.tracker.snapshot();
        let ours = |p: &jlb_flow::Partition| snapshot.trio(*p).contains(self.me());
        jlb_flow::Partition::all().filter(ours).count()
    }

    /// The tracker is told that it is about to leave.
    pub(super) fn leave(&mut self) {
        let event = TrackerEvent::Leaving(true);
        jlb_role::Role::event(&mut self.tracker, self.now, event, &mut self.io);
    }

    /// Another member says in Probe that it is about to leave, or that it is cold.
    pub(super) fn says(&mut self, who: MemberId, say: fn(&mut Peers)) {
        say(&mut self.puppets.get_mut(&who).unwrap().peers);
    }

    /// Whether the tracker has told that member that it is about to leave.
    pub(super) fn says_leaving(&self, to: MemberId) -> bool {
        self.puppets[&to].peers.leaving(self.me())
    }

    /// Whether the tracker has told that member that it is cold.
    pub(super) fn says_cold(&self, to: MemberId) -> bool {
        self.puppets[&to].peers.cold(self.me())
    }

    pub(super) fn reports(&mut self) -> Vec<Report> {
        let ours = |r: &Report| {
            matches!(
                r,
                Report::Warm(_) | Report::WaitsFor { .. } | Report::MayLeave | Report::Sole(_)
            )
        };
        self.io.reports.drain(..).filter(ours).collect()
    }

    /// What was sent since the last time.
    pub(super) fn sent(&mut self) -> Vec<Sent> {
        core::mem::take(&mut self.out)
    }

    /// The one message that was sent since the last time.
    pub(super) fn one(&mut self) -> Sent {
        let sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}; dropped {:?}", self.io.dropped);
        sent.into_iter().next().unwrap()
    }

    pub(super) fn drops(&mut self) -> Vec<Reason> {
        self.io.dropped.drain(..).map(|(_, why)| why).collect()
    }

    /// Nothing was sent, and one packet dropped for that reason.
    pub(super) fn refused(&mut self, why: Reason) {
        assert_eq!(self.drops(), [why], "{:?}", self.out);
        assert!(self.sent().is_empty());
    }

    pub(super) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut samples = Samples::default();
        jlb_role::Role::<FakeBuf>::collect(&self.tracker, &mut samples);
        samples.sum(name, labels)
    }
}

/// A flow of the trio T1, T2, T3.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) tuple: FiveTuple,
    pub(super) id: FlowId,
    pub(super) incarnation: Incarnation,
}

impl Flow {
    /// The `n`th flow to that port.
    pub(super) fn new(port: u16, n: usize) -> Self {
        Self::of([T1, T2, T3], port, n)
    }

    pub(super) fn of(trio: [MemberId; 3], port: u16, n: usize) -> Self {
        let snapshot = Snapshot::build(spec()).unwrap();
        let hasher = FlowHasher::new(snapshot.keys().hash_key);
        let protocol = if port == DNS { Protocol::Udp } else { Protocol::Tcp };
        let flow = |client_port: u16| {
            let client = format!("198.51.100.9:{client_port}").parse().unwrap();
            let vip = format!("203.0.113.10:{port}").parse().unwrap();
            let tuple = FiveTuple::new(client, vip, protocol).unwrap();
            let incarnation = Incarnation(if port == DNS { 0 } else { 1000 });
            Self { tuple, id: hasher.id(&tuple), incarnation }
        };
        let fits = |f: &Self| snapshot.trio(f.id.partition()).iter().eq(trio);
        (1..u16::MAX).map(flow).filter(fits).nth(n).unwrap()
    }

    /// As its backend lists it.
    pub(super) fn record(&self, live: bool, counter: u64) -> RefreshRecord {
        RefreshRecord { tuple: self.tuple, incarnation: self.incarnation, live, counter }
    }

    pub(super) fn incarnation(self, n: u32) -> Self {
        Self { incarnation: Incarnation(n), ..self }
    }

    /// The client's packet: flow headers that can be told from those that others write.
    fn packet(&self) -> Vec<u8> {
        let mut headers = [0; MAX_FLOW_HEADERS];
        let len = flow_headers(&self.tuple, self.incarnation, &mut headers);
        let mut packet = headers[..len].to_vec();
        // Another TTL, and the checksum mended for it.
        packet[8] = 57;
        packet[10..12].fill(0);
        let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    pub(super) fn carries_packet(&self, sent: &Sent) -> bool {
        sent.inner == self.packet()
    }
}
