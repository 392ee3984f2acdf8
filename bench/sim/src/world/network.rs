//! The network's part: who gets a packet, what happens to it on the way, and what it says to the checkers.

use jlb_map::MemberRole;
use jlb_role::{FakeBuf, PacketBuf};

use super::{CLIENTS, Event, Node, World, name};
use crate::backend::parsed;
use crate::check::Invariant;
use crate::plan::Plan;
use crate::random::Random;
use crate::seen::{ACK, PacketKind, Seen};
use crate::trace::hash_of;

impl World {
    /// Somebody sends a packet: whoever has its destination address gets it, after what the network does to it.
    pub(super) fn transmit(&mut self, from: u16, packet: FakeBuf) {
        let now = self.now;
        let bytes = packet.bytes();
        let Self { plan, trace, found, .. } = self;
        let Some(seen) = Seen::parse(bytes, &plan.snapshot) else {
            let sender = name(plan, from);
            return found.add(Invariant::Contract, now, || format!("{sender} sent no IP packet"));
        };
        let to = match plan.snapshot.member_by_address(seen.dst) {
            Some(member) => member.id.as_u16() - 1,
            None if plan.snapshot.is_vip(seen.dst) => ecmp(plan, &seen),
            None => CLIENTS,
        };
        let outer = from == CLIENTS || to == CLIENTS;
        let faults = if outer { &plan.outside } else { &plan.inside };
        let deaf = seen.kind == PacketKind::Body && plan.deaf_links.contains(&(from, to));
        let bad = plan.bad_links.get(&(from, to)).copied().unwrap_or(0);
        let bad = if deaf { 1_000_000 } else { bad };
        let [first, second] = self.fabric.send(now, (from, to), (seen.kind, bad), faults);
        let more = plan.slow_links.get(&(from, to)).copied().unwrap_or_default();
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
        }
        let link = (from, to);
        if let Some(at) = second {
            self.queue.push(at, Event::Arrive { link, packet: packet.clone() });
        }
        if let Some(at) = first {
            self.queue.push(at, Event::Arrive { link, packet });
        }
    }

    pub(super) fn check_sent(&mut self, from: u16, seen: &Seen, bytes: &[u8]) {
        let sender = from + 1;
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
            self.opens.sent(self.now, seen, tuple, candidates, &mut self.found);
            self.closes.sent(seen, tuple);
            if let Some(word) = seen.word.filter(|w| seen.kind == PacketKind::Close && !w.has(ACK))
            {
                self.sticky.closed(sender, tuple, word.incarnation);
            }
        }
    }

    pub(super) fn arrive(&mut self, link: (u16, u16), packet: FakeBuf) {
        self.fabric.arrived(link);
        let (from, to) = link;
        if to == CLIENTS {
            return self.client_receives(packet.bytes());
        }
        let seen = Seen::parse(packet.bytes(), &self.plan.snapshot);
        match &self.nodes[usize::from(to)] {
            Node::Ingress(_) if from == CLIENTS => {
                if let Some(p) = parsed(packet.bytes()) {
                    self.opens.client_packet(p.tuple);
                    self.order.came(to + 1, p.tuple, hash_of(packet.bytes()));
                }
            }
            Node::Ingress(_) | Node::Tracker(_) | Node::Backend(_) => {
                if let Some((seen, tuple)) = seen.and_then(|s| Some((s, s.flow(false)?))) {
                    self.closes.arrived(&seen, tuple);
                }
            }
        }
        if matches!(self.nodes[usize::from(to)], Node::Backend(_)) {
            return self.backend_receives(to, packet.bytes());
        }
        let worker = (rss(packet.bytes()) % u64::from(self.plan.workers)) as u8;
        self.enqueue(to, worker, packet);
    }
}

/// Equal-cost multipath: a hash of the five-tuple chooses the ingress.
fn ecmp(plan: &Plan, seen: &Seen) -> u16 {
    let hosts = plan.snapshot.with_role(MemberRole::Ingress);
    let hash = seen.packet.map_or(0, |p| hash_of(p.tuple.padded())) ^ plan.ecmp_seed;
    // Spread again: the low bits of both are not independent.
    hosts[(Random::new(hash).next() % hosts.len() as u64) as usize].as_u16() - 1
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
