//! The clients' part: what they send, what reaches them, and whether they were treated well.

use jlb_role::{FakeBuf, Nanos};
use jlb_wire::{FiveTuple, Protocol, tcp_flags};

use super::{CLIENTS, Event, Node, World};
use crate::bytes::{Segment, tcp_packet};
use crate::check::{Invariant, Life};
use crate::client::{Intent, Outcome};
use crate::tcp::reset_for;

impl World {
    pub(super) fn begin(&mut self, client: usize) {
        let now = self.now;
        let c = &mut self.plan.clients[client];
        if !c.waiting() {
            return;
        }
        let tuple = c.tuple;
        // A client's ISNs of one five-tuple rise (RFC 6528), faster than any connection sends.
        let isn = match self.isns.get(&tuple) {
            Some(last) => last.wrapping_add(self.random.between(200_000, 2_000_000) as u32),
            None => self.random.next() as u32,
        };
        self.isns.insert(tuple, isn);
        if let Intent::Tcp { script, .. } = c.intent {
            self.scripts.insert((tuple, isn), script);
        }
        self.sticky.begins(tuple, isn);
        self.current.insert(tuple, client);
        let mut out = Vec::new();
        c.begin(now, isn, &mut out);
        self.trace.event(now, client as u64, &[], || format!("client {client} begins {tuple:?}"));
        self.after_client(client, out);
    }

    pub(super) fn client_timer(&mut self, client: usize) {
        if self.timers[client] != Some(self.now) {
            return;
        }
        self.timers[client] = None;
        if self.plan.clients[client].outcome().is_some() {
            return;
        }
        let mut out = Vec::new();
        self.plan.clients[client].on_time(self.now, &mut out);
        self.after_client(client, out);
    }

    pub(super) fn client_receives(&mut self, bytes: &[u8]) {
        let Ok(packet) = jlb_wire::Packet::parse(bytes) else {
            return self.icmp(bytes);
        };
        let (src, dst) = (packet.tuple.client(), packet.tuple.vip());
        let Ok(tuple) = FiveTuple::new(dst, src, packet.tuple.protocol()) else { return };
        if !jlb_wire::transport_checksum_fits(bytes, &packet) {
            let now = self.now;
            return self.found.add(Invariant::Bytes, now, || format!("wrong checksum: {tuple:?}"));
        }
        let current = self.current.get(&tuple).copied();
        let current = current.filter(|&c| self.plan.clients[c].outcome().is_none());
        let payload = &bytes[packet.payload..packet.len];
        let mut out = Vec::new();
        match (current, packet.tcp) {
            (Some(client), Some(tcp)) => {
                let (seq, ack, flags) = (tcp.seq, tcp.ack, tcp.flags);
                let segment = Segment { seq, ack, flags, payload: payload.to_vec() };
                self.plan.clients[client].on_segment(self.now, &segment, &mut out);
                self.after_client(client, out);
            }
            (Some(client), None) => self.plan.clients[client].on_datagram(payload),
            (None, Some(tcp)) if tcp.flags & tcp_flags::RST == 0 => {
                let (seq, ack, flags) = (tcp.seq, tcp.ack, tcp.flags);
                let segment = Segment { seq, ack, flags, payload: payload.to_vec() };
                let reset = tcp_packet(tuple.client(), tuple.vip(), &reset_for(&segment));
                let packet = FakeBuf::holding(&reset);
                self.transmit(CLIENTS, packet);
            }
            (None, _) => {}
        }
    }

    /// ICMP or ICMPv6: only "port unreachable" is known here.
    pub(super) fn icmp(&mut self, bytes: &[u8]) {
        let (at, quoted) = match bytes.first().map(|b| b >> 4) {
            Some(4) if bytes.get(20..22) == Some(&[3, 3]) => (28, bytes.get(28..)),
            Some(6) if bytes.get(40..42) == Some(&[1, 4]) => (48, bytes.get(48..)),
            _ => (0, None),
        };
        // The quote may be cut; the ports are there (RFC 792).
        let Some(tuple) = quoted.and_then(quoted_tuple) else {
            let now = self.now;
            return self.found.add(Invariant::Bytes, now, || {
                format!("a client got what is neither TCP, UDP nor port unreachable (at {at})")
            });
        };
        if let Some(&client) = self.current.get(&tuple) {
            self.plan.clients[client].on_unreachable();
        }
    }

    pub(super) fn after_client(&mut self, client: usize, out: Vec<Vec<u8>>) {
        for packet in out {
            let packet = FakeBuf::holding(&packet);
            self.transmit(CLIENTS, packet);
        }
        let now = self.now;
        let c = &self.plan.clients[client];
        if c.corrupt {
            self.found.add(Invariant::Bytes, now, || format!("client {client} got other bytes"));
        }
        if let Some(next) = c.next_deadline().map(|at| at.max(now + Nanos(1_000)))
            && self.timers[client].is_none_or(|at| next < at)
        {
            self.timers[client] = Some(next);
            self.queue.push(next, Event::ClientTimer { client });
        }
        let Some(outcome) = c.outcome() else { return };
        self.trace.event(now, client as u64, &[], || format!("client {client} is {outcome:?}"));
        if outcome == Outcome::Reset {
            self.check_survival(client);
        }
        if matches!(outcome, Outcome::Reset | Outcome::Silent) && self.plan.failover {
            self.check_durability(client);
        }
        let successor = client + 1;
        if let Some(next) = self.plan.clients.get(successor)
            && next.predecessor == Some(client)
            && next.waiting()
        {
            self.queue.push(now + next.start, Event::Begin { client: successor });
        }
    }

    /// A client's connection was reset: by its server, or else by somebody who must not.
    pub(super) fn check_survival(&mut self, client: usize) {
        let tuple = self.plan.clients[client].tuple;
        let Some(&isn) = self.isns.get(&tuple) else { return };
        let home = self.sticky.home(Life { tuple, isn });
        let server = home.and_then(|home| self.nodes.get(usize::from(home) - 1));
        if let Some(Node::Backend(b)) = server
            && b.stack.has(&tuple, isn)
        {
            self.found.add(Invariant::Survival, self.now, || {
                format!("{tuple:?} i={isn:08x} was reset, and its server still has it")
            });
        }
    }

    /// A client's connection broke, though its server's host promised it, lives, and did not end it.
    fn check_durability(&mut self, client: usize) {
        let tuple = self.plan.clients[client].tuple;
        let Some(&isn) = self.isns.get(&tuple) else { return };
        let life = Life { tuple, isn };
        let server = self.plan.clients[client].server();
        let promise = self.durable.promise(life, &self.silence);
        // After its first server's host died, its SYN may have got it another one that it does not know of.
        if let Some(promise) = promise.filter(|p| server.is_none_or(|iss| iss == p.iss)) {
            let outcome = self.plan.clients[client].outcome();
            self.found.add(Invariant::Durability, self.now, || {
                format!("{tuple:?} i={isn:08x} on backend {} was {outcome:?}", promise.backend)
            });
        }
    }

    /// A packet of a connection that was over before the run began comes late.
    pub(super) fn stray(&mut self, client: usize) {
        let tuple = self.plan.clients[client].tuple;
        let isn = self.random.next() as u32;
        self.sticky.begins(tuple, isn);
        let (seq, ack) = (isn.wrapping_add(1), self.random.next() as u32);
        let segment = Segment { seq, ack, flags: tcp_flags::ACK, payload: Vec::new() };
        self.trace.event(self.now, client as u64, &[], || format!("stray {tuple:?}"));
        let packet = tcp_packet(tuple.client(), tuple.vip(), &segment);
        let packet = FakeBuf::holding(&packet);
        self.transmit(CLIENTS, packet);
    }

    /// Somebody who does not get the answers sends a SYN in a client's name.
    pub(super) fn spoof(&mut self, client: usize) {
        let tuple = self.plan.clients[client].tuple;
        let isn = self.random.next() as u32;
        self.sticky.begins(tuple, isn);
        let syn = Segment { seq: isn, ack: 0, flags: tcp_flags::SYN, payload: Vec::new() };
        self.trace.event(self.now, client as u64, &[], || format!("spoofed SYN {tuple:?}"));
        let packet = tcp_packet(tuple.client(), tuple.vip(), &syn);
        let packet = FakeBuf::holding(&packet);
        self.transmit(CLIENTS, packet);
    }
}

fn quoted_tuple(quoted: &[u8]) -> Option<FiveTuple> {
    if quoted.first()? >> 4 == 6 {
        let ports = quoted.get(40..44)?.try_into().ok()?;
        let protocol = Protocol::from_number(quoted[6])?;
        let (src, dst) =
            (quoted.get(8..24)?.try_into().ok()?, quoted.get(24..40)?.try_into().ok()?);
        Some(FiveTuple::v6(src, dst, ports, protocol))
    } else {
        let ports = quoted.get(20..24)?.try_into().ok()?;
        let protocol = Protocol::from_number(quoted[9])?;
        let (src, dst) =
            (quoted.get(12..16)?.try_into().ok()?, quoted.get(16..20)?.try_into().ok()?);
        Some(FiveTuple::v4(src, dst, ports, protocol))
    }
}
