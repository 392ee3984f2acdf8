//! What one seed means: the shape of the cluster, its services, the weather, and what the clients do. Swarm testing:
//! each seed also draws which kinds of trouble there are at all, so that rare kinds are not drowned by common ones.

mod clients;
mod cluster;
mod drills;
mod failover;
mod reference;
mod trim;
mod weather;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jlb_map::{Family, Problems, Snapshot};
use jlb_role::Nanos;
use jlb_wire::MemberId;

use crate::client::Client;
use crate::fabric::Faults;
use crate::random::Random;
use crate::stack::Accepting;
use crate::tcp::Patience;
use clients::draw_clients;
use cluster::{DrawnService, Families, members, spec};
use weather::{draw_faults, draw_outside};

pub(crate) use failover::{Fault, SPREAD};
pub use trim::{NoSuchPart, Part, Trouble};

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
    /// With everybody who is a member at any time: who has which address.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The lists that are in force one after the other.
    pub(crate) lists: Vec<Arc<Snapshot>>,
    /// What breaks, and when.
    pub(crate) faults: Vec<(Nanos, Fault)>,
    /// Who is so late with every list.
    pub(crate) late: BTreeMap<u16, Nanos>,
    /// Packets of former connections on the five-tuple of a client.
    pub(crate) strays: Vec<(Nanos, usize)>,
    /// There is more to go wrong than packets and servers.
    pub(crate) failover: bool,
    pub(crate) patience: Patience,
    /// When next hops change, flows of the others keep theirs.
    pub(crate) resilient: bool,
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
    /// Opens for backends come up to so much later.
    pub(crate) late_votes: Nanos,
    /// Orders of sole owners come so much later to these backends.
    pub(crate) late_orders: BTreeMap<u16, Nanos>,
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
    /// By member: how much faster its clock goes, in parts per million. Those behind the end, and backends, are right.
    pub(crate) drift: Vec<i64>,
    /// By service.
    pub(crate) accepting: Vec<Accepting>,
    pub(crate) expectations: Vec<Expectation>,
    /// By service: backends on which nobody listens.
    pub(crate) deaf: Vec<Vec<MemberId>>,
    pub(crate) ecmp_seed: u64,
}

/// Whether a seed also draws from what was added later: larger clusters, clocks that drift, ingress hosts that come and go.
/// The others stay what they were, so that seeds which once found something still do.
const fn is_wide(seed: u64) -> bool {
    seed % 8 >= 6
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Result<Self, Problems> {
        let mut r = Random::stream(seed, 1);
        let mut fate = Random::stream(seed, 5);
        let failover = fate.once_in(2);
        let (mut ingress, mut trackers, mut backends) =
            (r.between(1, 4) as u16, r.between(2, 5) as u16, r.between(1, 8) as u16);
        let wide = is_wide(seed);
        if wide {
            let more = &mut Random::stream(seed, 6);
            ingress = more.between(1, 8) as u16;
            trackers = more.between(2, 7) as u16;
            backends = more.pick([1, 2, 3, 5, 8, 13, 25, 50]);
        }
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
        let prefer = if r.once_in(2) { Family::V4 } else { Family::V6 };
        let members = members(ingress, trackers, backends, families);
        let spec = spec(seed, prefer, members, services);
        let longer = if failover { fate.pick([0, 1500, 4000]) } else { 0 };
        let heal = WARM + Nanos::from_millis(r.between(1500, 4000) + longer);
        let inside = draw_faults(&mut r);
        let outside = if r.once_in(2) { Faults::none() } else { draw_outside(&mut r) };
        let mut plan = Self {
            workers: r.pick([1, 1, 2]),
            poll: r.pick([Nanos(1_000), Nanos(30_000), Nanos(500_000)]),
            inside,
            outside,
            bounds: if r.once_in(6) { Bounds::TIGHT } else { Bounds::AMPLE },
            no_buffer: if r.once_in(6) { r.pick([1_000, 30_000]) } else { 0 },
            heal,
            clients: draw_clients(&mut r, &spec.services, heal),
            accepting,
            expectations,
            deaf,
            ecmp_seed: r.next(),
            failover,
            patience: if failover { Patience::LONG } else { Patience::USUAL },
            resilient: fate.once_in(2),
            ..Self::calm(Snapshot::build(spec.clone())?)
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
        if wide {
            plan.draw_clocks(&mut Random::stream(seed, 7));
        }
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
        if failover {
            plan.draw_failover(&mut fate, (families, wide), spec)?;
        }
        for client in &mut plan.clients {
            client.patience = plan.patience;
        }
        Ok(plan)
    }

    /// Nobody says anything, and nothing goes wrong.
    fn calm(snapshot: Arc<Snapshot>) -> Self {
        Self {
            lists: vec![Arc::clone(&snapshot)],
            snapshot,
            faults: Vec::new(),
            late: BTreeMap::new(),
            strays: Vec::new(),
            failover: false,
            patience: Patience::USUAL,
            resilient: false,
            workers: 1,
            poll: Nanos(30_000),
            inside: Faults::none(),
            outside: Faults::none(),
            bad_links: BTreeMap::new(),
            deaf_links: BTreeSet::new(),
            slow_links: BTreeMap::new(),
            late_votes: Nanos::ZERO,
            late_orders: BTreeMap::new(),
            restarts: Vec::new(),
            bounds: Bounds::AMPLE,
            no_buffer: 0,
            short_of_buffers: false,
            heal: WARM,
            clients: Vec::new(),
            spoofs: Vec::new(),
            drift: Vec::new(),
            accepting: Vec::new(),
            expectations: Vec::new(),
            deaf: Vec::new(),
            ecmp_seed: 0,
        }
    }

    /// Whether nothing at all goes wrong.
    pub(crate) fn harmless(&self) -> bool {
        self.inside.harmless()
            && self.outside.harmless()
            && self.bad_links.is_empty()
            && self.deaf_links.is_empty()
            && self.slow_links.is_empty()
            && self.restarts.is_empty()
            && !self.failover
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

    /// Clocks of ingress hosts and trackers that do not go alike. Half a thousandth is what a broken oscillator does.
    fn draw_clocks(&mut self, r: &mut Random) {
        let drift = r.pick([0, 50, 500]);
        let ppm = |_| r.between(0, 2 * drift) as i64 - drift as i64;
        self.drift = (0..self.snapshot.members().len()).map(ppm).collect();
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
