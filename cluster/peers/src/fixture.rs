//! A small cluster for this crate's tests.

use std::collections::VecDeque;
use std::sync::Arc;

use jlb_flow::HashKey;
use jlb_map::{Keys, Member, MemberRole, Service, Snapshot, Spec, Underlay};
use jlb_role::{FakeBuf, FakeIo, Io as _, Nanos, PacketBuf as _, Reason, Report, WorkerId};
use jlb_wire::{BootId, Epoch, MacKey, MacKeys, MemberId, Protocol, Version};

use crate::{Carried, Envelope, Peers, PeersConfig};

/// Ingress 1 and 2, trackers 11 and 12, backends 21 and 22, at 10.0.0.id.
pub(crate) const INGRESS: MemberId = id(1);
pub(crate) const TRACKER: MemberId = id(11);
pub(crate) const TRACKER_2: MemberId = id(12);
pub(crate) const BACKEND: MemberId = id(21);

pub(crate) const fn id(n: u16) -> MemberId {
    MemberId::new(n).unwrap()
}

pub(crate) fn spec() -> Spec {
    use MemberRole::{Backend, FlowTracker, Ingress};
    let members = [
        (1, Ingress),
        (2, Ingress),
        (11, FlowTracker),
        (12, FlowTracker),
        (21, Backend),
        (22, Backend),
    ]
    .map(|(n, role)| Member {
        id: id(n),
        name: format!("m{n}"),
        role,
        addresses: std::net::IpAddr::from([10, 0, 0, n as u8]).into(),
        drain: false,
    });
    Spec {
        generation: 1,
        epoch: Epoch(1),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: HashKey([1; 16]), mac_keys: MacKeys::single(MacKey([2; 16])) },
        underlay: Underlay {
            prefixes: vec!["10.0.0.0/24".parse().unwrap()],
            prefer: jlb_map::Family::V4,
            port: 6081,
            mtu: 1500,
        },
        members: members.to_vec(),
        services: vec![Service {
            name: "web".into(),
            vips: vec!["203.0.113.10".parse().unwrap()],
            port: 80,
            protocol: Protocol::Tcp,
            backends: vec![jlb_map::Backend::new(id(21)), jlb_map::Backend::new(id(22))],
            policy: jlb_map::Policy::Random,
            reject_ttl: 3,
            on_exhausted: jlb_map::OnExhausted::Reset,
            return_path: jlb_map::ReturnPath::Egress,
            admission: jlb_map::Admission::Accept,
        }],
    }
}

pub(crate) fn snapshot() -> Arc<Snapshot> {
    Snapshot::build(spec()).unwrap()
}

/// One worker of one member.
pub(crate) struct Host {
    pub(crate) peers: Peers,
    pub(crate) io: FakeIo,
    pub(crate) down: bool,
}

impl Host {
    pub(crate) fn new(member: MemberId, worker: u8, boot: u64) -> Self {
        let config = PeersConfig {
            id: member,
            worker: WorkerId(worker),
            workers: 2,
            boot: BootId(boot),
            seed: boot * 16 + u64::from(worker),
        };
        let peers = Peers::new(config, snapshot(), Nanos::ZERO);
        Self { peers, io: FakeIo::default(), down: false }
    }

    pub(crate) fn receive(&mut self, now: Nanos, buf: FakeBuf) {
        let snapshot = Arc::clone(self.peers.snapshot());
        match Envelope::open(buf.bytes(), self.peers.me(), &snapshot) {
            Ok(e) if matches!(e.carried, Carried::Body { .. }) => {
                self.peers.receive_body(now, buf, &e, &mut self.io);
            }
            Ok(_) => panic!("only bodies are sent here"),
            Err(why) => self.io.drop(buf, why),
        }
    }

    pub(crate) fn reports(&mut self) -> Vec<Report> {
        self.io.reports.drain(..).collect()
    }

    pub(crate) fn drops(&mut self) -> Vec<Reason> {
        self.io.dropped.drain(..).map(|(_, why)| why).collect()
    }
}

/// Hosts (worker 0 gets what arrives) that exchange what they send, after `delay`.
pub(crate) struct Net {
    pub(crate) hosts: Vec<Host>,
    pub(crate) now: Nanos,
    pub(crate) delay: Nanos,
    /// Everything that was sent.
    pub(crate) tape: Vec<(MemberId, FakeBuf)>,
    flying: VecDeque<(Nanos, MemberId, FakeBuf)>,
}

impl Net {
    pub(crate) fn new(hosts: Vec<Host>) -> Self {
        Self {
            hosts,
            now: Nanos::ZERO,
            delay: Nanos::from_millis(1),
            tape: Vec::new(),
            flying: VecDeque::new(),
        }
    }

    pub(crate) fn host(&mut self, n: usize) -> &mut Host {
        &mut self.hosts[n]
    }

    /// Runs so many milliseconds, in steps of one.
    pub(crate) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now = self.now + Nanos::from_millis(1);
        while let Some((at, to, buf)) = self.flying.pop_front() {
            if at > self.now {
                self.flying.push_front((at, to, buf));
                break;
            }
            let now = self.now;
            if let Some(h) = self.hosts.iter_mut().find(|h| h.peers.me() == to && !h.down) {
                h.receive(now, buf);
            }
        }
        for host in &mut self.hosts {
            if host.down {
                continue;
            }
            host.peers.tick(self.now, &mut host.io);
            for (buf, to) in host.io.sent.drain(..) {
                let jlb_role::UnderlayDst::Member(to) = to else { panic!("members only") };
                self.tape.push((to, buf.clone()));
                self.flying.push_back((self.now + self.delay, to, buf));
            }
        }
    }
}
