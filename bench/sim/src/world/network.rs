//! The network's part: who gets a packet, what happens to it on the way, and what it says to the checkers.

use jlb_role::{FakeBuf, Nanos, PacketBuf};

use super::{CLIENTS, Event, Node, World, name};
use crate::backend::parsed;
use crate::check::Invariant;
use crate::plan::Plan;
use crate::random::Random;
use crate::seen::{ACK, PacketKind, Seen};
use crate::trace::hash_of;
use crate::worker::Life;

impl World {
    /// Somebody sends a packet: whoever has its destination address gets it, after what the network does to it.
    pub(super) fn transmit(&mut self, from: u16, packet: FakeBuf) {
        let now = self.now;
        let bytes = packet.bytes();
        let Self { plan, trace, found, hops, .. } = self;
        let Some(seen) = Seen::parse(bytes, &plan.snapshot) else {
            let sender = name(plan, from);
            return found.add(Invariant::Contract, now, || format!("{sender} sent no IP packet"));
        };
        let to = match seen.to {
            Some(member) => member.as_u16() - 1,
            None if plan.snapshot.is_vip(seen.dst) => match next_hop(plan, hops, &seen) {
                Some(to) => to,
                None => return,
            },
            None => CLIENTS,
        };
        let outer = from == CLIENTS || to == CLIENTS;
        let faults = if outer { &plan.outside } else { &plan.inside };
        let deaf = seen.kind == PacketKind::Body && plan.deaf_links.contains(&(from, to));
        let bad = plan.bad_links.get(&(from, to)).copied().unwrap_or(0);
        let cut = self.cuts.get(&(from, to)).is_some_and(|&cuts| cuts > 0);
        let bad = if deaf || cut { 1_000_000 } else { bad };
        let [first, second] = self.fabric.send(now, (from, to), (seen.kind, bad), faults);
        let mut more = plan.slow_links.get(&(from, to)).copied().unwrap_or_default();
        let backend = matches!(self.nodes.get(usize::from(to)), Some(Node::Backend(_)));
        if backend && seen.kind == PacketKind::Open && plan.late_votes > Nanos::ZERO {
            more = more + self.fate.time(Nanos::ZERO, plan.late_votes);
        }
        if seen.is_order {
            more = more + plan.late_orders.get(&to).copied().unwrap_or_default();
        }
        let [first, second] = [first, second].map(|at| at.map(|at| at + more));
        trace.event(now, u64::from(from) << 16 | u64::from(to), bytes, || {
            let fate = match (first, second) {
                (None, None) => "LOST".to_owned(),
                (Some(at), None) | (None, Some(at)) => format!("+{}us", at.since(now).0 / 1000),
                (Some(at), Some(_)) => format!("+{}us TWICE", at.since(now).0 / 1000),
            };
            format!("{} > {} {seen} {fate}", name(plan, from), name(plan, to))
        });
        if !outer {
            self.check_sent(from, &seen, bytes);
        } else if to == CLIENTS {
            self.check_reset(from, &seen);
        }
        let link = (from, to);
        let answers = seen.answers;
        if let Some(at) = second {
            let packet = FakeBuf::holding(packet.bytes());
            self.queue.push(at, Event::Arrive { link, packet, answers });
        }
        if let Some(at) = first {
            self.queue.push(at, Event::Arrive { link, packet, answers });
        }
    }

    pub(super) fn check_sent(&mut self, from: u16, seen: &Seen, bytes: &[u8]) {
        let sender = from + 1;
        if let Node::Backend(_) = self.nodes[usize::from(from)] {
            self.promise(from, seen);
        }
        let from_ingress = matches!(self.nodes[usize::from(from)], Node::Ingress(_));
        if seen.kind == PacketKind::Plain {
            let Some(tuple) = seen.flow(!from_ingress).filter(|_| from_ingress) else { return };
            self.opens.data(self.now, tuple, &mut self.found);
            let inner = inner_of(bytes);
            self.order.went(self.now, sender, tuple, hash_of(inner), &mut self.found);
        } else if let Some(tuple) = seen.flow(false) {
            let service =
                self.plan.snapshot.service(tuple.vip().ip(), tuple.vip().port(), tuple.protocol());
            let service = service.and_then(|s| self.plan.snapshot.service_by_id(s));
            let candidates = service.map_or(0, |s| usize::from(s.reject_ttl) + 1);
            self.opens.sent(self.now, (sender, seen), tuple, candidates, &mut self.found);
            if let Some(word) = seen.word.filter(|w| seen.kind == PacketKind::Close && !w.has(ACK))
            {
                self.sticky.closed(sender, tuple, word.incarnation);
            }
        }
    }

    /// A backend's reply to a client, encapsulated or not.
    fn promise(&mut self, from: u16, seen: &Seen) {
        let is_reply = matches!(seen.kind, PacketKind::Plain | PacketKind::Client);
        if let Some(packet) = seen.packet.filter(|_| is_reply)
            && let Some(tcp) = packet.tcp
            && let Some(tuple) = seen.flow(true)
        {
            let sent = (tuple, tcp, packet.len - packet.payload);
            self.durable.server_sent(self.now, from + 1, sent, &self.sticky);
        }
    }

    /// Something goes to a client.
    fn check_reset(&mut self, from: u16, seen: &Seen) {
        let node = usize::from(from);
        let Some(Node::Ingress(_)) = self.nodes.get(node) else { return self.promise(from, seen) };
        let Some(tcp) = seen.packet.and_then(|p| p.tcp) else { return };
        let Some(tuple) = seen.flow(true) else { return };
        let Some((life, promise)) = self.durable.broken_by((tuple, tcp), &self.silence) else {
            return;
        };
        if let Some(Node::Backend(b)) = self.nodes.get(usize::from(promise.backend) - 1)
            && b.stack.holds(&tuple, life.isn)
        {
            self.found.add(Invariant::Durability, self.now, || {
                format!(
                    "{} resets {tuple:?} i={:08x}, and backend {} still has it",
                    name(&self.plan, from),
                    life.isn,
                    promise.backend
                )
            });
        }
    }

    /// A packet arrives; `answers`: it answers the Probe of this worker.
    pub(super) fn arrive(&mut self, link: (u16, u16), packet: FakeBuf, answers: Option<u8>) {
        self.fabric.arrived(link);
        let (from, to) = link;
        if to == CLIENTS {
            return self.client_receives(packet.bytes());
        }
        match (self.life(to), &self.nodes[usize::from(to)]) {
            (Life::Down, _) => return,
            (Life::Hung, Node::Backend(_)) => return self.queue_up(to, packet),
            (Life::Up | Life::Hung, _) => {}
        }
        if let Some(worker) = answers
            && from != CLIENTS
            && self.life(to) == Life::Up
        {
            self.silence.heard(self.now, (to + 1, worker), from + 1);
        }
        match &self.nodes[usize::from(to)] {
            Node::Ingress(_) if from == CLIENTS => {
                if let Some(p) = parsed(packet.bytes()) {
                    self.opens.client_packet(p.tuple);
                    self.order.came(to + 1, p.tuple, hash_of(packet.bytes()));
                }
            }
            Node::Ingress(_) | Node::Tracker(_) | Node::Backend(_) => {}
        }
        if matches!(self.nodes[usize::from(to)], Node::Backend(_)) {
            return self.backend_receives(to, packet);
        }
        let worker = match u64::from(self.plan.workers) {
            0 | 1 => 0,
            workers => (rss(packet.bytes()) % workers) as u8,
        };
        self.enqueue(to, worker, packet);
    }
}

/// Equal-cost multipath: a hash of the five-tuple chooses the ingress.
fn next_hop(plan: &Plan, hops: &[u16], seen: &Seen) -> Option<u16> {
    let hash = seen.packet.map_or(0, |p| hash_of(p.tuple.padded())) ^ plan.ecmp_seed;
    if plan.resilient {
        let weight = |&&hop: &&u16| Random::new(hash ^ u64::from(hop) << 32).next();
        return hops.iter().max_by_key(weight).copied();
    }
    // Spread again: the low bits of both are not independent.
    hops.get((Random::new(hash).next() % (hops.len() as u64).max(1)) as usize).copied()
}

/// What is inside a packet without option.
fn inner_of(bytes: &[u8]) -> &[u8] {
    let header = if bytes[0] >> 4 == 6 { jlb_wire::OVERHEAD_V6 } else { jlb_wire::OVERHEAD_V4 };
    bytes.get(header..).unwrap_or_default()
}

/// A NIC's hash over addresses and ports: not the flow's, so packets come to workers that do not own them.
fn rss(bytes: &[u8]) -> u64 {
    let addresses = if bytes.first().is_some_and(|b| b >> 4 == 6) { 8..44 } else { 12..24 };
    hash_of(bytes.get(addresses).unwrap_or_default()) >> 7
}
