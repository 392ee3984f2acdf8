//! A small cluster around the state machine under test: everybody else answers Probe, and signs what the script says.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use jlb_flow::{FlowHasher, FlowId, HashKey};
use jlb_map::{
    Addresses, Admission, Backend, Family, Keys, Member, MemberRole, OnExhausted, Policy, Prefix,
    ReturnPath, Service, Snapshot, Spec, Underlay,
};
use jlb_peers::{Carried, Envelope, Peers, PeersConfig, ReceivedBody};
use jlb_role::{BUFFER_ROOM, FakeBuf, FakeIo, Nanos, PacketBuf as _, UnderlayDst, WorkerId};
use jlb_wire::{
    BodyKind, BootId, Encapsulation, Epoch, FiveTuple, Incarnation, MAX_BODY_PAYLOAD, MacKey,
    MacKeys, MemberId, Payload, Protocol, Refresh, RefreshRecord, Version, body_flags,
};

use crate::script::Script;

pub(crate) const INGRESS: [u16; 2] = [1, 2];
pub(crate) const TRACKERS: [u16; 4] = [11, 12, 13, 14];
pub(crate) const BACKENDS: [u16; 3] = [21, 22, 23];
const HASH_KEY: HashKey = HashKey([1; 16]);
/// Flows that a script can speak of.
const FLOWS: u8 = 8;

pub(crate) fn id(n: u16) -> MemberId {
    MemberId::new(n).expect("an id")
}

/// Lists that come one after the other in one script.
const LISTS: usize = 8;

/// The list in that generation; the last one stays.
pub(crate) fn snapshot(generation: u64) -> Arc<Snapshot> {
    // Thousands of scripts a second need the same few, each of which is thousands of partitions.
    static BUILT: [OnceLock<Arc<Snapshot>>; LISTS] = [const { OnceLock::new() }; LISTS];
    let n = generation.min(LISTS as u64 - 1);
    Arc::clone(BUILT[n as usize].get_or_init(|| build(n)))
}

/// Each third one changes the trackers, and so the epoch.
fn build(generation: u64) -> Arc<Snapshot> {
    let trackers = if generation % 6 >= 3 { &TRACKERS[..3] } else { &TRACKERS };
    let of =
        |role, ids: &[u16]| ids.iter().map(|&n| member(n, role, generation)).collect::<Vec<_>>();
    let members = [
        of(MemberRole::Ingress, &INGRESS),
        of(MemberRole::FlowTracker, trackers),
        of(MemberRole::Backend, &BACKENDS),
    ];
    let prefixes =
        [(v4(0), 24), (v6(0), 64)].map(|(ip, len)| Prefix::new(ip, len).expect("a prefix"));
    let spec = Spec {
        generation: generation + 1,
        epoch: Epoch((generation / 3) as u32 + 1),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: HASH_KEY, mac_keys: MacKeys::single(MacKey([2; 16])) },
        underlay: Underlay {
            prefixes: prefixes.to_vec(),
            prefer: Family::V4,
            port: 6081,
            mtu: 1500,
        },
        members: members.concat(),
        services: vec![
            service("reset", 80, Protocol::Tcp, OnExhausted::Reset),
            service("force", 81, Protocol::Tcp, OnExhausted::Force),
            service("drop", 6081, Protocol::Tcp, OnExhausted::Drop),
            service("datagrams", 53, Protocol::Udp, OnExhausted::Reset),
        ],
    };
    Snapshot::build(spec).expect("a list without contradictions")
}

fn v4(n: u16) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n as u8).into()
}

fn v6(n: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into()
}

fn member(n: u16, role: MemberRole, generation: u64) -> Member {
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4(n), v6(n)) else {
        unreachable!("as they were made")
    };
    // One that is reached over IPv6 only, one that drains now and then.
    let v4 = (n != 23).then_some(v4);
    let drain = n == 22 && generation % 2 == 1;
    Member {
        id: id(n),
        name: format!("m{n}"),
        role,
        addresses: Addresses { v4, v6: Some(v6) },
        drain,
    }
}

fn service(name: &str, port: u16, protocol: Protocol, on_exhausted: OnExhausted) -> Service {
    Service {
        name: name.to_owned(),
        vips: vec![vip(false), vip(true)],
        port,
        protocol,
        backends: BACKENDS.map(|n| Backend::new(id(n))).to_vec(),
        policy: Policy::Random,
        reject_ttl: 2,
        on_exhausted,
        return_path: ReturnPath::Egress,
        admission: Admission::Accept,
    }
}

fn vip(is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10).into()
    } else {
        Ipv4Addr::new(203, 0, 113, 10).into()
    }
}

/// One of a few flows: both families, all services, and one of none.
pub(crate) fn flow(s: &mut Script<'_>) -> (FiveTuple, FlowId) {
    let n = s.below(FLOWS);
    let is_v6 = n & 1 == 1;
    let (port, protocol) = match n {
        0 | 1 => (80, Protocol::Tcp),
        2 => (81, Protocol::Tcp),
        3 => (6081, Protocol::Tcp),
        4..=6 => (53, Protocol::Udp),
        _ => (9, Protocol::Tcp),
    };
    let client: IpAddr = if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7).into()
    } else {
        Ipv4Addr::new(198, 51, 100, 7).into()
    };
    let client = SocketAddr::new(client, 40_000 + u16::from(n));
    let tuple =
        FiveTuple::new(client, SocketAddr::new(vip(is_v6), port), protocol).expect("one family");
    (tuple, FlowHasher::new(HASH_KEY).id(&tuple))
}

/// Everybody but the state machine under test.
pub(crate) struct Site {
    pub(crate) me: MemberId,
    pub(crate) snapshot: Arc<Snapshot>,
    puppets: BTreeMap<MemberId, (Peers, FakeIo)>,
    /// Who neither hears nor speaks.
    down: BTreeSet<MemberId>,
    /// What backends answer to a pull.
    has: Vec<RefreshRecord>,
    boots: u64,
    /// When the others ask again who is there. Seldom: they answer all the same, and what they ask is no matter here.
    asks: Nanos,
}

const ASKS: Nanos = Nanos::from_millis(150);

impl Site {
    pub(crate) fn new(me: MemberId, now: Nanos) -> Self {
        let snapshot = snapshot(0);
        let others = snapshot.members().iter().map(|m| m.id).filter(|&id| id != me);
        let puppets = others.map(|id| (id, puppet(id, u64::from(id.as_u16()), &snapshot, now)));
        let puppets = puppets.collect();
        Self {
            me,
            snapshot,
            puppets,
            down: BTreeSet::new(),
            has: Vec::new(),
            boots: 100,
            asks: now,
        }
    }

    /// Somebody else.
    pub(crate) fn other(&self, s: &mut Script<'_>) -> MemberId {
        let n = usize::from(s.byte()) % self.puppets.len();
        self.puppets.keys().nth(n).copied().unwrap_or(self.me)
    }

    pub(crate) fn peers(&mut self, who: MemberId) -> Option<(&mut Peers, &mut FakeIo)> {
        let (peers, io) = self.puppets.get_mut(&who)?;
        Some((peers, io))
    }

    /// Everybody else's time goes on; gives what they send to the one under test.
    pub(crate) fn tick(&mut self, now: Nanos) -> Vec<FakeBuf> {
        if now >= self.asks {
            self.asks = now + ASKS;
            for (peers, io) in self.puppets.values_mut() {
                peers.tick(now, io);
            }
        }
        self.mail()
    }

    /// A packet of the one under test reaches a member.
    pub(crate) fn receive(&mut self, now: Nanos, to: MemberId, buf: FakeBuf) {
        let Ok(envelope) = Envelope::open(buf.bytes(), to, &self.snapshot) else { return };
        if self.down.contains(&to) || !matches!(envelope.carried, Carried::Body { .. }) {
            return;
        }
        let Some((peers, io)) = self.puppets.get_mut(&to) else { return };
        if let Some(pull) = peers.receive_body(now, buf, &envelope, io) {
            answer(peers, io, &pull, &self.has);
        }
    }

    /// What the others have sent to the one under test.
    pub(crate) fn mail(&mut self) -> Vec<FakeBuf> {
        let mut mail = Vec::new();
        for (who, (_, io)) in &mut self.puppets {
            let sent = io.sent.drain(..).filter(|(_, to)| *to == UnderlayDst::Member(self.me));
            mail.extend(sent.map(|(buf, _)| buf).filter(|_| !self.down.contains(who)));
            io.dropped.clear();
            io.reports.clear();
        }
        mail
    }

    /// A packet as `Data` or `Egress` of that member.
    pub(crate) fn encapsulated(&self, from: MemberId, packet: &[u8]) -> Option<FakeBuf> {
        let (src, dst) = self.snapshot.underlay_pair(from, self.me)?;
        let e = Encapsulation { src, dst, source_port: 50_000, port: 6081, traffic_class: 0 };
        let payload = Payload::Plain { v6: packet.first().is_some_and(|b| b >> 4 == 6) };
        let mut bytes = vec![0; e.header_len(payload)];
        e.emit(payload, packet.len(), &mut bytes).ok()?;
        bytes.extend_from_slice(packet);
        (bytes.len() <= BUFFER_ROOM).then(|| FakeBuf::holding(&bytes))
    }

    /// Something befalls somebody else.
    pub(crate) fn trouble(&mut self, now: Nanos, s: &mut Script<'_>) {
        let who = self.other(s);
        match s.below(3) {
            0 => {
                self.down.insert(who);
            }
            1 => self.down.clear(),
            _ => {
                self.boots += 1;
                self.puppets.insert(who, puppet(who, self.boots, &self.snapshot, now));
            }
        }
    }

    /// Backends have this flow, or have it no more.
    pub(crate) fn remember(&mut self, s: &mut Script<'_>) {
        if self.has.len() == 64 || s.below(8) == 0 {
            self.has.clear();
        }
        let incarnation = Incarnation(u32::from(s.below(4)));
        let (live, counter) = (s.flip(), u64::from(s.byte()));
        self.has.push(RefreshRecord { tuple: flow(s).0, incarnation, live, counter });
    }

    /// The next list is in force with everybody else.
    pub(crate) fn publish(&mut self, now: Nanos) -> Arc<Snapshot> {
        self.snapshot = snapshot(self.snapshot.generation());
        for (who, (peers, _)) in &mut self.puppets {
            if self.snapshot.member(*who).is_some() {
                peers.update(Arc::clone(&self.snapshot), now);
            }
        }
        Arc::clone(&self.snapshot)
    }

    /// All is well again.
    pub(crate) fn mend(&mut self) {
        self.down.clear();
    }
}

fn puppet(id: MemberId, boot: u64, snapshot: &Arc<Snapshot>, now: Nanos) -> (Peers, FakeIo) {
    let config =
        PeersConfig { id, worker: WorkerId(0), workers: 1, boot: BootId(boot), seed: boot };
    (Peers::new(config, Arc::clone(snapshot), now), FakeIo::default())
}

/// What an agent answers to a tracker's pull: all that there is in one batch.
fn answer(peers: &mut Peers, io: &mut FakeIo, pull: &ReceivedBody<FakeBuf>, has: &[RefreshRecord]) {
    let body = pull.body;
    if body.kind != BodyKind::Refresh || body.flags != body_flags::PULL {
        return;
    }
    let Some((asked, _)) = Refresh::parse(pull.payload()) else { return };
    let batches = u32::from(!has.is_empty());
    let (flags, records) =
        if asked.batch < batches { (body_flags::BATCH, has) } else { (body_flags::END, &[][..]) };
    let said = Refresh { batches, counter: 1000, ..asked };
    let mut payload = [0; MAX_BODY_PAYLOAD];
    let len = said.emit(&records[..records.len().min(Refresh::MAX_RECORDS)], &mut payload);
    peers.send_body(body.sender, (BodyKind::Refresh, flags, body.nonce), &payload[..len], io);
}
