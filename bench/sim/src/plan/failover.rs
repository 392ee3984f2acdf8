//! What breaks besides packets: hosts, processes, the router, whole networks, and the member list that changes under way.

use jlb_map::{Backend, Member, MemberRole, Problems, Snapshot, Spec};
use jlb_role::Nanos;
use jlb_wire::Epoch;

use super::cluster::{Families, member};
use super::{Bounds, Expectation, Plan, WARM};
use crate::client::Intent;
use crate::random::Random;
use crate::script::Ending;

/// Something breaks. Nodes are indices in the list of all members.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A host loses power, and is there again, empty, after so long.
    Crash { node: u16, away: Nanos },
    /// A process (of a backend: the whole host) does nothing for so long.
    Hang { node: u16, time: Nanos },
    /// The daemon of an agent is killed, and started again after so long.
    DaemonDies { node: u16, away: Nanos },
    /// The daemon of an agent does nothing for so long.
    DaemonHangs { node: u16, time: Nanos },
    /// No packet of these reaches any of those for so long.
    Cut { from: Vec<u16>, to: Vec<u16>, time: Nanos },
    /// No Probe of these reaches any of those, until all is healed.
    Deafen { from: Vec<u16>, to: Vec<u16> },
    /// The router spreads all flows anew.
    Reroute { seed: u64 },
    /// The router loses a next hop for so long.
    Flap { node: u16, away: Nanos },
    /// The operator publishes the next list, which each member has a little later.
    Publish { list: usize },
}

/// A list is everywhere so long after it was published.
pub(crate) const SPREAD: Nanos = Nanos::from_millis(500);
/// The last fault ends so long before all is healed.
const LAST: Nanos = Nanos::from_millis(100);

/// Who is who among the nodes.
pub(super) struct Cast {
    pub(super) ingress: Vec<u16>,
    pub(super) trackers: Vec<u16>,
    pub(super) backends: Vec<u16>,
}

impl Plan {
    /// Each kind of fault is there or not; those that are there may meet.
    pub(super) fn draw_failover(
        &mut self,
        r: &mut Random,
        (families, wide): (Families, bool),
        spec: Spec,
    ) -> Result<(), Problems> {
        self.bounds = Bounds::AMPLE;
        if r.once_in(3) {
            return self.drill(r, families, spec);
        }
        self.draw_long_clients(r);
        if r.once_in(3) {
            self.draw_lists(r, (families, wide), spec)?;
        }
        let cast = self.cast();
        let kinds = r.next();
        let has = |kind: u32| kinds >> (2 * kind) & 3 == 0;
        if has(0) {
            self.crashes(r, &cast.trackers, 5);
        }
        if has(1) {
            // All of them, within a moment.
            let at = self.moment(r);
            for &node in &cast.trackers {
                let away = Nanos(r.pick([1_000_000, 50_000_000, 400_000_000]));
                self.fault(at + r.time(Nanos::ZERO, Nanos::from_millis(30)), |_| Fault::Crash {
                    node,
                    away,
                });
            }
        }
        if has(2) {
            self.crashes(r, &cast.ingress, 4);
        }
        if has(3) {
            self.crashes(r, &cast.backends, 2);
        }
        if has(4) {
            self.hangs(r, &cast);
        }
        if has(5) {
            for _ in 0..r.between(1, 3) {
                let (at, node) = (self.moment(r), one_of(r, &cast.backends));
                let time = Nanos(r.pick([10_000_000, 300_000_000, 1_500_000_000]));
                let dies = r.once_in(2);
                self.fault(at, |longest| {
                    let time = time.min(longest);
                    if dies {
                        Fault::DaemonDies { node, away: time }
                    } else {
                        Fault::DaemonHangs { node, time }
                    }
                });
            }
        }
        if has(6) {
            for _ in 0..r.between(1, 4) {
                let (at, seed) = (self.moment(r), r.next());
                self.fault(at, |_| Fault::Reroute { seed });
            }
        }
        if has(7) {
            for _ in 0..r.between(1, 4) {
                let (at, node) = (self.moment(r), one_of(r, &cast.ingress));
                let away = Nanos(r.pick([20_000_000, 200_000_000, 1_000_000_000]));
                self.fault(at, |longest| Fault::Flap { node, away: away.min(longest) });
            }
        }
        if has(8) {
            self.cuts(r, &cast);
        }
        self.faults.sort_by_key(|&(at, _)| at);
        Ok(())
    }

    pub(super) fn cast(&self) -> Cast {
        let of = |role| {
            let members = self.snapshot.members().iter().filter(|m| m.role == role);
            members.map(|m| m.id.as_u16() - 1).collect()
        };
        Cast {
            ingress: of(MemberRole::Ingress),
            trackers: of(MemberRole::FlowTracker),
            backends: of(MemberRole::Backend),
        }
    }

    /// A time for a fault to begin.
    fn moment(&self, r: &mut Random) -> Nanos {
        r.time(WARM, self.heal - Nanos::from_millis(400))
    }

    /// Adds one that begins at this time and can last so long at most.
    fn fault(&mut self, at: Nanos, fault: impl FnOnce(Nanos) -> Fault) {
        let longest = Nanos((self.heal - LAST).since(at).0);
        self.faults.push((at, fault(longest)));
    }

    fn crashes(&mut self, r: &mut Random, nodes: &[u16], most: u64) {
        for _ in 0..r.between(1, most) {
            let (at, node) = (self.moment(r), one_of(r, nodes));
            let away = Nanos(r.pick([1_000_000, 30_000_000, 200_000_000, 1_000_000_000]));
            self.fault(at, |longest| Fault::Crash { node, away: away.min(longest) });
        }
    }

    fn hangs(&mut self, r: &mut Random, cast: &Cast) {
        let voters: Vec<u16> = cast.ingress.iter().chain(&cast.trackers).copied().collect();
        for _ in 0..r.between(1, 4) {
            let at = self.moment(r);
            let among = if r.once_in(4) { &cast.backends } else { &voters };
            let node = one_of(r, among);
            let time = Nanos(r.pick([30_000_000, 100_000_000, 600_000_000, 2_000_000_000]));
            self.fault(at, |longest| Fault::Hang { node, time: time.min(longest) });
        }
    }

    /// Networks that come apart, mostly one way only, and mostly for less long than makes a backend count as dead.
    fn cuts(&mut self, r: &mut Random, cast: &Cast) {
        let all: Vec<u16> = (0..self.snapshot.members().len() as u16).collect();
        let voters: Vec<u16> = cast.ingress.iter().chain(&cast.trackers).copied().collect();
        for _ in 0..r.between(1, 3) {
            let at = self.moment(r);
            let time = Nanos(r.pick([30_000_000, 300_000_000, 1_500_000_000, 5_000_000_000]));
            let (from, to) = match r.below(4) {
                // One member that does not hear the backends, or some of them.
                0 => (some_of(r, &cast.backends), vec![one_of(r, &voters)]),
                1 => (vec![one_of(r, &all)], some_of(r, &all)),
                2 => (some_of(r, &cast.trackers), some_of(r, &cast.trackers)),
                _ => (some_of(r, &all), some_of(r, &all)),
            };
            let short = from.len().min(to.len()) > 1;
            let time = if short { time.min(Nanos::from_millis(1500)) } else { time };
            if r.once_in(3) {
                let (from, to) = (to.clone(), from.clone());
                self.fault(at, |longest| Fault::Cut { from, to, time: time.min(longest) });
            }
            self.fault(at, |longest| Fault::Cut { from, to, time: time.min(longest) });
        }
    }

    /// Trackers, backends and ingress hosts that come and go.
    fn draw_lists(
        &mut self,
        r: &mut Random,
        (families, wide): (Families, bool),
        mut spec: Spec,
    ) -> Result<(), Problems> {
        let mut everybody = spec.members.clone();
        let mut specs: Vec<Spec> = Vec::new();
        let mut at = self.moment(r);
        for _ in 0..r.between(1, 3) {
            spec.generation += 1;
            let id = everybody.len() as u16 + 1;
            let trackers: Vec<_> =
                spec.members.iter().filter(|m| m.role == MemberRole::FlowTracker).collect();
            match r.below(if wide { 6 } else { 4 }) {
                0 if trackers.len() > 2 => {
                    let gone = trackers[r.below(trackers.len() as u64) as usize].id;
                    spec.members.retain(|m| m.id != gone);
                    spec.epoch = Epoch(spec.epoch.0 + 1);
                }
                0 | 1 => {
                    join(&mut spec, &mut everybody, member(id, MemberRole::FlowTracker, families));
                    spec.epoch = Epoch(spec.epoch.0 + 1);
                }
                2 => {
                    let Some(new) = member(id, MemberRole::Backend, families) else { continue };
                    for service in &mut spec.services {
                        service.backends.push(Backend::new(new.id));
                    }
                    join(&mut spec, &mut everybody, Some(new));
                    self.expect_either();
                }
                4 => join(&mut spec, &mut everybody, member(id, MemberRole::Ingress, families)),
                5 => {
                    let hosts = spec.members.iter().filter(|m| m.role == MemberRole::Ingress);
                    let hosts: Vec<_> = hosts.map(|m| m.id).collect();
                    if hosts.len() > 1 {
                        let gone = hosts[r.below(hosts.len() as u64) as usize];
                        spec.members.retain(|m| m.id != gone);
                    }
                }
                _ => {
                    let backends = spec
                        .members
                        .iter_mut()
                        .filter(|m| m.role == MemberRole::Backend && !m.drain);
                    let mut backends: Vec<_> = backends.collect();
                    if backends.len() > 1 {
                        let n = r.below(backends.len() as u64) as usize;
                        backends[n].drain = true;
                    }
                    self.expect_either();
                }
            }
            specs.push(spec.clone());
            self.faults.push((at, Fault::Publish { list: specs.len() }));
            at = (at + r.time(Nanos::ZERO, Nanos::from_secs(2))).min(self.heal - SPREAD);
        }
        for spec in specs {
            self.lists.push(Snapshot::build(spec)?);
        }
        let all = Spec { members: everybody, ..spec };
        self.snapshot = Snapshot::build(all)?;
        Ok(())
    }

    /// Who may be offered a flow changes under way.
    fn expect_either(&mut self) {
        for expectation in &mut self.expectations {
            *expectation = Expectation::Either;
        }
    }

    /// Conversations that are there when something breaks, and still there afterwards.
    fn draw_long_clients(&mut self, r: &mut Random) {
        let span = (self.heal - WARM).0 / 1_000_000;
        for client in
            self.clients.iter_mut().filter(|c| !c.after_healing && c.predecessor.is_none())
        {
            if r.once_in(3) {
                continue;
            }
            client.start = r.time(WARM, WARM + Nanos::from_millis(span * 2 / 3));
            match &mut client.intent {
                Intent::Tcp { script, .. } => {
                    script.rounds = r.between(3, 12) as u32;
                    script.pause = Nanos(r.pick([50_000_000, 300_000_000, 900_000_000]));
                    if script.ending == Ending::Vanish && !r.once_in(4) {
                        script.ending = Ending::Client;
                    }
                }
                Intent::Udp { datagrams, every, .. } => {
                    *datagrams = r.between(4, 12) as u32;
                    *every = Nanos(r.pick([50_000_000, 300_000_000, 900_000_000]));
                }
            }
        }
    }
}

fn join(spec: &mut Spec, everybody: &mut Vec<Member>, new: Option<Member>) {
    if let Some(new) = new {
        spec.members.push(new.clone());
        everybody.push(new);
    }
}

pub(super) fn one_of(r: &mut Random, nodes: &[u16]) -> u16 {
    nodes[r.below(nodes.len() as u64) as usize]
}

/// At least one.
pub(super) fn some_of(r: &mut Random, nodes: &[u16]) -> Vec<u16> {
    let first = one_of(r, nodes);
    nodes.iter().copied().filter(|&n| n == first || r.once_in(2)).collect()
}
