//! What one seed means: the shape of the cluster, its services, the weather, and what the clients do. Swarm testing:
//! each seed also draws which kinds of trouble there are at all, so that rare kinds are not drowned by common ones.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::num::NonZeroU32;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jlb_flow::HashKey;
use jlb_map::{
    Addresses, Admission, Backend, Family, Keys, Member, MemberRole, OnExhausted, Policy, Prefix,
    Problems, ReturnPath, Service, Snapshot, Spec, Underlay,
};
use jlb_role::Nanos;
use jlb_wire::{Epoch, FiveTuple, MacKey, MacKeys, MemberId, Protocol};

use crate::client::{Client, Intent};
use crate::fabric::Faults;
use crate::random::Random;
use crate::script::{Ending, Script};
use crate::seen::{PACKET_KINDS, PacketKind};
use crate::stack::Accepting;

/// Everybody finds everybody, before anything goes wrong and the first client comes.
pub(crate) const WARM: Nanos = Nanos::from_millis(500);
/// From the end of all faults to the first client that must succeed: late packets are gone and suspects cleared.
const HEALED: Nanos = Nanos::from_millis(2200);

/// How clients of one service must fare when nothing goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// A backend that takes everything is among the candidates of every flow.
    Admitted,
    /// Nobody takes anything.
    Refused,
    /// It depends on the load.
    Either,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) snapshot: Arc<Snapshot>,
    /// Of each ingress host and tracker.
    pub(crate) workers: u8,
    /// Longest time from a packet's arrival to the poll that takes it.
    pub(crate) poll: Nanos,
    pub(crate) inside: Faults,
    pub(crate) outside: Faults,
    /// Links between members, one way, that lose more than others, or all; by index in the list of members.
    pub(crate) bad_links: BTreeMap<(u16, u16), u32>,
    /// Links between members, one way, on which every Probe is lost: wrong suspicions, and nothing else.
    pub(crate) deaf_links: BTreeSet<(u16, u16)>,
    /// Links between members, one way, that take so much longer.
    pub(crate) slow_links: BTreeMap<(u16, u16), Nanos>,
    /// Server processes that restart: when, on which member of the list, for how long it is away.
    pub(crate) restarts: Vec<(Nanos, u16, Nanos)>,
    /// How much everybody may hold.
    pub(crate) bounds: Bounds,
    /// A role's call finds the mempool empty.
    pub(crate) no_buffer: u32,
    /// That was so at some time.
    pub(crate) short_of_buffers: bool,
    /// The end of all faults.
    pub(crate) heal: Nanos,
    pub(crate) clients: Vec<Client>,
    /// SYNs with a wrong ISN on the five-tuple of a client.
    pub(crate) spoofs: Vec<(Nanos, usize)>,
    /// By service.
    pub(crate) accepting: Vec<Accepting>,
    pub(crate) expectations: Vec<Expectation>,
    /// By service: backends on which nobody listens.
    pub(crate) deaf: Vec<Vec<MemberId>>,
    pub(crate) ecmp_seed: u64,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Result<Self, Problems> {
        let mut r = Random::stream(seed, 1);
        let ingress = r.between(1, 4) as u16;
        let trackers = r.between(2, 5) as u16;
        let backends = r.between(1, 8) as u16;
        let families = Families::draw(&mut r);
        let mut deaf = Vec::new();
        let mut accepting = Vec::new();
        let mut expectations = Vec::new();
        let mut services = Vec::new();
        for n in 0..r.between(1, 3) {
            let drawn = DrawnService::draw(&mut r, n as u16, ingress + trackers, backends);
            deaf.push(drawn.deaf);
            accepting.push(drawn.accepting);
            expectations.push(drawn.expectation);
            services.push(drawn.service);
        }
        let spec = Spec {
            generation: 1,
            epoch: Epoch(1),
            keys: Keys {
                hash_key: HashKey(u128::from(seed).wrapping_add(1).to_be_bytes()),
                mac_keys: MacKeys::single(MacKey(*b"simulated secret")),
            },
            underlay: Underlay {
                prefixes: prefixes(),
                prefer: if r.once_in(2) { Family::V4 } else { Family::V6 },
                port: 6081,
                mtu: 1500,
            },
            members: members(ingress, trackers, backends, families),
            services,
        };
        let heal = WARM + Nanos::from_millis(r.between(1500, 4000));
        let inside = draw_faults(&mut r);
        let outside = if r.once_in(2) { Faults::none() } else { draw_outside(&mut r) };
        let mut plan = Self {
            workers: r.pick([1, 1, 2]),
            poll: r.pick([Nanos(1_000), Nanos(30_000), Nanos(500_000)]),
            inside,
            outside,
            bad_links: BTreeMap::new(),
            deaf_links: BTreeSet::new(),
            slow_links: BTreeMap::new(),
            restarts: Vec::new(),
            bounds: if r.once_in(6) { Bounds::TIGHT } else { Bounds::AMPLE },
            no_buffer: if r.once_in(6) { r.pick([1_000, 30_000]) } else { 0 },
            short_of_buffers: false,
            heal,
            clients: draw_clients(&mut r, &spec.services, heal),
            spoofs: Vec::new(),
            accepting,
            expectations,
            deaf,
            ecmp_seed: r.next(),
            snapshot: Snapshot::build(spec)?,
        };
        if r.once_in(3) {
            plan.draw_spoofs(&mut r);
        }
        if r.once_in(3) {
            // Half of the time among those who hold votes.
            let votes = ingress + trackers;
            let members = u64::from(if r.once_in(2) { votes } else { votes + backends });
            for _ in 0..r.between(1, 4) {
                let link = (r.below(members) as u16, r.below(members) as u16);
                plan.bad_links.insert(link, r.pick([300_000, 700_000, 1_000_000]));
            }
        }
        if trackers > 2 && r.once_in(6) {
            plan.quarrel(&mut r, ingress, trackers, backends);
        }
        plan.short_of_buffers = plan.no_buffer > 0;
        if r.once_in(4) {
            for _ in 0..r.between(1, 3) {
                let at = r.time(WARM, heal - Nanos::from_secs(1));
                let away = Nanos(r.pick([1_000_000, 300_000_000, 900_000_000]));
                plan.restarts.push((
                    at,
                    ingress + trackers + r.below(backends.into()) as u16,
                    away,
                ));
            }
        }
        Ok(plan)
    }

    /// Whether nothing at all goes wrong.
    pub(crate) fn harmless(&self) -> bool {
        self.inside.harmless()
            && self.outside.harmless()
            && self.bad_links.is_empty()
            && self.deaf_links.is_empty()
            && self.slow_links.is_empty()
            && self.restarts.is_empty()
            && self.no_buffer == 0
    }

    /// Two trackers at the head of one flow, with different seconds: some do not hear of each other, Opens come late, so
    /// that more than one is asked, and answers come late, so that nobody knows yet.
    fn quarrel(&mut self, r: &mut Random, ingress: u16, trackers: u16, backends: u16) {
        self.inside = Faults::none();
        let trackers = ingress..ingress + trackers;
        for tracker in trackers.clone() {
            for other in trackers.clone().filter(|&other| other != tracker) {
                if r.once_in(2) {
                    self.deaf_links.insert((other, tracker));
                }
            }
            for host in 0..ingress {
                if r.once_in(3) {
                    let more = Nanos::from_millis(r.between(60, 120));
                    self.slow_links.insert((host, tracker), more);
                }
            }
            for backend in (trackers.end..).take(backends.into()) {
                if r.once_in(2) {
                    let more = Nanos::from_millis(r.between(40, 150));
                    self.slow_links.insert((backend, tracker), more);
                }
            }
        }
    }

    fn draw_spoofs(&mut self, r: &mut Random) {
        for (n, client) in self.clients.iter().enumerate() {
            if client.is_tcp() && client.predecessor.is_none() && r.once_in(2) {
                let soon = client.start + r.time(Nanos(100_000), Nanos::from_millis(900));
                self.spoofs.push((soon, n));
            }
        }
    }
}

/// Capacities of tables and pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Of each worker of an ingress or tracker, and of each agent.
    pub(crate) flows: usize,
    pub(crate) pending: usize,
    pub(crate) remembered: usize,
}

impl Bounds {
    /// More than any run needs.
    const AMPLE: Self = Self { flows: 1024, pending: 256, remembered: 1024 };
    /// Full before long.
    const TIGHT: Self = Self { flows: 12, pending: 5, remembered: 8 };

    pub(crate) fn tight(self) -> bool {
        self == Self::TIGHT
    }
}

#[derive(Clone, Copy)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    fn draw(r: &mut Random) -> Self {
        let (v4, v6) = r.pick([(true, false), (false, true), (true, true)]);
        Self { v4, v6 }
    }
}

fn prefixes() -> Vec<Prefix> {
    let v4 = Prefix::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 16);
    let v6 = Prefix::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)), 64);
    [v4, v6].into_iter().flatten().collect()
}

fn members(ingress: u16, trackers: u16, backends: u16, families: Families) -> Vec<Member> {
    let roles = [
        (MemberRole::Ingress, ingress),
        (MemberRole::FlowTracker, trackers),
        (MemberRole::Backend, backends),
    ];
    let roles = roles.into_iter().flat_map(|(role, n)| (1..=n).map(move |i| (role, i)));
    (1..)
        .zip(roles)
        .filter_map(|(id, (role, i))| {
            let v4 = Ipv4Addr::new(10, 0, role as u8, i as u8);
            let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, role as u16, i);
            Some(Member {
                id: MemberId::new(id)?,
                name: format!("{role}-{i}"),
                role,
                addresses: Addresses {
                    v4: families.v4.then_some(v4),
                    v6: families.v6.then_some(v6),
                },
                drain: false,
            })
        })
        .collect()
}

struct DrawnService {
    service: Service,
    accepting: Accepting,
    expectation: Expectation,
    deaf: Vec<MemberId>,
}

impl DrawnService {
    /// Backends have the ids behind `before`.
    fn draw(r: &mut Random, n: u16, before: u16, backends: u16) -> Self {
        let protocol = r.pick([Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
        let reject_ttl = r.below(4) as u8;
        let on_exhausted = r.pick([OnExhausted::Force, OnExhausted::Reset, OnExhausted::Drop]);
        // How this service's backends may refuse: not at all, by order, by load, or since nobody listens.
        let trouble = r.below(6);
        let mut entries = Vec::new();
        let mut deaf = Vec::new();
        let mut refusing = 0;
        let mut limited = false;
        for id in (1..=backends).filter_map(|i| MemberId::new(before + i)) {
            let mut backend = Backend::new(id);
            match trouble {
                1 | 2 if r.once_in(2) => backend.admission = Admission::Refuse,
                3 if r.once_in(2) => {
                    backend.max_connections = NonZeroU32::new(1 + r.below(2) as u32);
                }
                4 if r.once_in(2) => deaf.push(id),
                _ => {}
            }
            let refuses = backend.admission == Admission::Refuse || deaf.contains(&id);
            refusing += u32::from(refuses);
            limited |= backend.max_connections.is_some();
            entries.push(backend);
        }
        let slow = trouble == 5 && protocol == Protocol::Tcp;
        let accepting = if slow {
            Accepting {
                limit: 1 + r.below(3) as u32,
                every: Nanos::from_millis(r.between(20, 300)),
            }
        } else {
            Accepting { limit: 128, every: Nanos(10_000) }
        };
        let expectation = if refusing == u32::from(backends) {
            Expectation::Refused
        } else if limited || slow || refusing > u32::from(reject_ttl) {
            Expectation::Either
        } else {
            Expectation::Admitted
        };
        let octet = 1 + n as u8;
        let vips = match r.below(3) {
            0 => vec![vip4(octet)],
            1 => vec![vip6(n + 1)],
            _ => vec![vip4(octet), vip6(n + 1)],
        };
        let service = Service {
            name: format!("service-{n}"),
            vips,
            // The underlay's own port is a port like any other outside.
            port: if r.once_in(8) { 6081 } else { 80 + n },
            protocol,
            backends: entries,
            policy: Policy::Random,
            reject_ttl,
            on_exhausted,
            return_path: r.pick([ReturnPath::Egress, ReturnPath::Egress, ReturnPath::Direct]),
            admission: Admission::Accept,
        };
        Self { service, accepting, expectation, deaf }
    }
}

fn vip4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, n))
}

fn vip6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, n))
}

/// The weather inside: each kind of trouble is there or not, and some of it hits one kind of packet only.
fn draw_faults(r: &mut Random) -> Faults {
    let mut f = Faults::none();
    if r.once_in(5) {
        return f;
    }
    // 30 ms: a chain takes longer than the retransmitter waits for it, so two trackers lead one.
    f.delay = Nanos(r.pick([20_000, 200_000, 2_000_000, 30_000_000]));
    f.jitter = Nanos(r.pick([10_000, 300_000, 3_000_000, 30_000_000]));
    f.overtaking = r.once_in(2);
    f.late = Nanos::from_millis(r.pick([1, 20, 100, 300, 2000]));
    if r.once_in(2) {
        f.loss = r.pick([1_000, 20_000, 100_000, 200_000]);
    }
    if r.once_in(2) {
        f.duplicate = r.pick([1_000, 20_000, 200_000]);
    }
    if r.once_in(2) {
        f.reorder = r.pick([1_000, 30_000, 300_000]);
    }
    if r.once_in(2) {
        for _ in 0..r.between(1, 3) {
            let kind = r.between(1, PACKET_KINDS as u64 - 1) as usize;
            f.loss_of[kind] = r.pick([50_000, 200_000, 500_000]);
        }
    }
    if r.once_in(2) {
        for _ in 0..r.between(1, 3) {
            f.late_of[r.between(1, PACKET_KINDS as u64 - 1) as usize] = 400_000;
        }
    }
    // What wrong suspicions and two heads at once come from.
    if r.once_in(3) {
        f.loss_of[PacketKind::Body as usize] = r.pick([300_000, 600_000]);
    }
    if r.once_in(3) {
        f.late_of[PacketKind::Open as usize] = 400_000;
    }
    if r.once_in(8) {
        f.queue = r.pick([8, 32]);
    }
    f
}

/// The weather between clients and the cluster.
fn draw_outside(r: &mut Random) -> Faults {
    let mut f = Faults::none();
    f.delay = Nanos(r.pick([50_000, 1_000_000, 20_000_000]));
    f.jitter = Nanos(r.pick([10_000, 1_000_000, 10_000_000]));
    f.overtaking = r.once_in(3);
    f.late = Nanos::from_millis(r.pick([1, 20, 200]));
    f.loss = r.pick([0, 10_000, 100_000]);
    f.duplicate = r.pick([0, 10_000, 200_000]);
    f.reorder = r.pick([0, 10_000, 200_000]);
    f
}

fn draw_clients(r: &mut Random, services: &[Service], heal: Nanos) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..r.between(4, 24) as u16 {
        let start = r.time(WARM, heal);
        let Some(mut client) = draw_client(r, services, n, start) else { continue };
        clients.push(client);
        // Port reuse: another connection from the same port, right after this one or a little later.
        while r.once_in(3) && clients.len() < 40 {
            let Some(previous) = clients.len().checked_sub(1) else { break };
            let tuple = clients[previous].tuple;
            let service = clients[previous].service;
            let pause = Nanos(r.pick([10_000, 1_000_000, 100_000_000, 3_000_000_000]));
            client = Client::new(tuple, draw_intent(r, tuple), service, pause, Some(previous));
            clients.push(client);
        }
    }
    for n in 0..services.len() as u16 {
        let start = heal + HEALED + Nanos::from_millis(u64::from(n) * 7);
        let Some(mut client) =
            draw_client(r, &services[usize::from(n)..=usize::from(n)], 1000 + n, start)
        else {
            continue;
        };
        client.service = usize::from(n);
        client.after_healing = true;
        clients.push(client);
    }
    clients
}

fn draw_client(r: &mut Random, services: &[Service], n: u16, start: Nanos) -> Option<Client> {
    let service = r.below(services.len() as u64) as usize;
    let s = &services[service];
    let vip = s.vips[r.below(s.vips.len() as u64) as usize];
    let host = 1 + n % 3;
    let address: IpAddr = if vip.is_ipv4() {
        Ipv4Addr::new(198, 51, 100, host as u8).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, host).into()
    };
    let (client, vip) = (SocketAddr::new(address, 20_000 + n), SocketAddr::new(vip, s.port));
    let tuple = FiveTuple::new(client, vip, s.protocol).ok()?;
    Some(Client::new(tuple, draw_intent(r, tuple), service, start, None))
}

fn draw_intent(r: &mut Random, tuple: FiveTuple) -> Intent {
    match tuple.protocol() {
        Protocol::Tcp => draw_tcp(r),
        Protocol::Udp => Intent::Udp {
            datagrams: r.between(1, 8) as u32,
            size: r.pick([1, 40, 256, 257, 900]),
            every: Nanos(r.pick([10_000, 1_000_000, 50_000_000, 400_000_000])),
        },
    }
}

fn draw_tcp(r: &mut Random) -> Intent {
    let ending =
        r.pick([Ending::Client, Ending::Client, Ending::Server, Ending::Abort, Ending::Vanish]);
    Intent::Tcp {
        script: Script {
            rounds: r.between(1, 4) as u32,
            request: r.pick([1, 100, 3000]),
            response: r.pick([1, 500, 6000]),
            pause: Nanos(r.pick([100_000, 20_000_000, 700_000_000])),
            ending,
        },
        syn_data: if r.once_in(6) { r.pick([10, 700]) } else { 0 },
    }
}
