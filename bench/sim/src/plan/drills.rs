//! Scenarios that are too rare to be drawn by chance, each of which a rule of the protocol stands against. Packets fare
//! well in them; what happens does so at the worst moment.

use jlb_map::{MemberRole, Problems, Snapshot, Spec};
use jlb_role::Nanos;
use jlb_wire::Epoch;

use super::cluster::{Families, member};
use super::failover::{Cast, Fault, one_of, some_of};
use super::{Plan, WARM};
use crate::client::Intent;
use crate::fabric::Faults;
use crate::random::Random;
use crate::script::{Ending, Script};
use crate::seen::PacketKind;

/// When the worst moment is.
const MOMENT: Nanos = Nanos::from_millis(1500);
/// What it breaks is mended then.
const HEAL: Nanos = Nanos::from_millis(6500);

const fn ms(n: u64) -> Nanos {
    Nanos::from_millis(n)
}

impl Plan {
    /// One of them.
    pub(super) fn drill(
        &mut self,
        r: &mut Random,
        families: Families,
        spec: Spec,
    ) -> Result<(), Problems> {
        self.inside = Faults::none();
        self.outside = Faults::none();
        self.bad_links.clear();
        self.deaf_links.clear();
        self.slow_links.clear();
        self.restarts.clear();
        self.spoofs.clear();
        self.no_buffer = 0;
        self.short_of_buffers = false;
        let later = Nanos(HEAL.0.saturating_sub(self.heal.0));
        self.heal = self.heal + later;
        for client in self.clients.iter_mut().filter(|c| c.after_healing) {
            client.start = client.start + later;
        }
        let cast = self.cast();
        match r.below(5) {
            0 => self.one_who_does_not_hear(r, &cast),
            1 => self.trackers_without_a_witness(r, &cast),
            2 => self.votes_of_the_dead(r, &cast),
            3 => self.strays(r),
            _ if r.once_in(2) => self.alone_by_mistake(r, &cast),
            _ => self.two_epochs(r, &cast, families, spec)?,
        }
        self.faults.sort_by_key(|&(at, _)| at);
        Ok(())
    }

    /// A single ingress does not hear some backends for longer than makes them count as dead.
    fn one_who_does_not_hear(&mut self, r: &mut Random, cast: &Cast) {
        self.long_clients(r, (WARM, MOMENT));
        for client in self.clients.iter_mut().filter(|c| !c.after_healing) {
            if let Intent::Tcp { script, .. } = &mut client.intent {
                (script.rounds, script.pause) = (12, ms(450));
            }
        }
        let (from, to) = (some_of(r, &cast.backends), vec![one_of(r, &cast.ingress)]);
        self.faults.push((MOMENT, Fault::Deafen { from, to }));
    }

    /// All trackers start anew while some backends do not reach them, and the flows move to other ingress hosts.
    fn trackers_without_a_witness(&mut self, r: &mut Random, cast: &Cast) {
        self.long_clients(r, (WARM, MOMENT));
        let (from, to) = (some_of(r, &cast.backends), cast.trackers.clone());
        self.faults.push((MOMENT - ms(10), Fault::Cut { from, to, time: ms(2500) }));
        for &node in &cast.trackers {
            self.faults.push((MOMENT, Fault::Crash { node, away: ms(1) }));
        }
        for after in [700, 1000, 1500, 2000] {
            self.faults.push((MOMENT + ms(after), Fault::Reroute { seed: r.next() }));
        }
    }

    /// All trackers start anew, and Opens that they sent before come to the backends after their end markers.
    fn votes_of_the_dead(&mut self, r: &mut Random, cast: &Cast) {
        self.long_clients(r, (MOMENT - ms(120), MOMENT));
        self.late_votes = ms(r.pick([600, 1500]));
        // They must not choose as they did before.
        self.ecmp_seed |= 1;
        for &node in &cast.trackers {
            let at = MOMENT + r.time(Nanos::ZERO, ms(10));
            self.faults.push((at, Fault::Crash { node, away: ms(1) }));
        }
    }

    /// Packets of former connections come before the SYNs of new ones, whose packets come by another way and then by the
    /// former's, while it is still asked whose the former was.
    fn strays(&mut self, r: &mut Random) {
        self.inside.late = ms(400);
        self.inside.late_of[PacketKind::State as usize] = 1_000_000;
        self.long_clients(r, (MOMENT, MOMENT + ms(4)));
        for n in 0..self.clients.len() {
            let client = &self.clients[n];
            if client.is_tcp() && client.start >= MOMENT && client.start <= MOMENT + ms(4) {
                self.strays.push((client.start - ms(r.between(26, 60)), n));
            }
        }
        let seed = r.next();
        self.faults.push((MOMENT - ms(2), Fault::Reroute { seed }));
        self.faults.push((MOMENT + ms(r.between(10, 40)), Fault::Reroute { seed: self.ecmp_seed }));
    }

    /// A tracker that hears no other one wants to decide alone. Some backends hear of that late, and the others do not get
    /// through to the other trackers, who go on as before.
    fn alone_by_mistake(&mut self, r: &mut Random, cast: &Cast) {
        self.long_clients(r, (MOMENT + ms(300), MOMENT + ms(1500)));
        // So that the next tracker is asked for the same flow.
        self.inside.late = ms(400);
        self.inside.late_of[PacketKind::Accept as usize] = 500_000;
        let alone = one_of(r, &cast.trackers);
        let others: Vec<u16> = cast.trackers.iter().copied().filter(|&t| t != alone).collect();
        for (from, to) in [(vec![alone], others.clone()), (others.clone(), vec![alone])] {
            self.faults.push((MOMENT, Fault::Cut { from, to, time: ms(2500) }));
        }
        let half = cast.backends.len() / 2;
        let (obey, late) = cast.backends.split_at(half);
        self.late_orders = late.iter().map(|&backend| (backend, ms(3000))).collect();
        self.faults.push((MOMENT, Fault::Deafen { from: obey.to_vec(), to: others }));
    }

    /// A tracker joins; some members know, others go on as before for a while, and then the flows move.
    fn two_epochs(
        &mut self,
        r: &mut Random,
        cast: &Cast,
        families: Families,
        mut spec: Spec,
    ) -> Result<(), Problems> {
        let id = self.snapshot.members().len() as u16 + 1;
        let Some(new) = member(id, MemberRole::FlowTracker, families) else { return Ok(()) };
        spec.generation += 1;
        spec.epoch = Epoch(spec.epoch.0 + 1);
        spec.members.push(new);
        self.snapshot = Snapshot::build(spec)?;
        self.lists.push(self.snapshot.clone());
        self.long_clients(r, (MOMENT + ms(100), MOMENT + ms(700)));
        self.faults.push((MOMENT, Fault::Publish { list: 1 }));
        // Who is late with it: some trackers and ingress hosts.
        let late = some_of(r, &cast.trackers).into_iter().chain(some_of(r, &cast.ingress));
        let late: Vec<u16> = late.collect();
        let all = 0..self.snapshot.members().len() as u16;
        let mut time = |node| if late.contains(&node) { r.between(750, 800) } else { r.below(100) };
        self.late = all.map(|node| (node, time(node))).map(|(node, t)| (node, ms(t))).collect();
        for after in [300, 500, 700] {
            self.faults.push((MOMENT + ms(after), Fault::Reroute { seed: r.next() }));
        }
        Ok(())
    }

    /// All connections begin within this time and last until the end.
    fn long_clients(&mut self, r: &mut Random, (first, last): (Nanos, Nanos)) {
        let ours = |c: &&mut crate::client::Client| !c.after_healing && c.predecessor.is_none();
        for client in self.clients.iter_mut().filter(ours) {
            client.start = r.time(first, last);
            if let Intent::Tcp { script, .. } = &mut client.intent {
                *script = Script {
                    rounds: r.between(6, 12) as u32,
                    request: 100,
                    response: 500,
                    pause: ms(r.between(20, 500)),
                    ending: Ending::Client,
                };
            }
        }
    }
}
