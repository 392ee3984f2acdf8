//! The backend hosts' part: their stacks, the two halves of their agents, and what they deliver.

use jlb_role::{FakeBuf, Nanos};

use super::{Event, Node, World, name};
use crate::backend::{Backend, Deeds, parsed};
use crate::check::{self, Invariant};
use crate::stack::Met;
use crate::worker::Life;

impl World {
    pub(super) fn backend(&mut self, node: u16) -> Option<&mut Backend> {
        match &mut self.nodes[usize::from(node)] {
            Node::Backend(b) => Some(b),
            Node::Ingress(_) | Node::Tracker(_) => None,
        }
    }

    pub(super) fn backend_receives(&mut self, node: u16, packet: FakeBuf) {
        let (now, mut deeds) = (self.now, core::mem::take(&mut self.deeds));
        if let Node::Backend(b) = &mut self.nodes[usize::from(node)] {
            b.receive(now, packet, &self.scripts, &mut deeds);
        }
        self.after_backend(node, deeds);
    }

    pub(super) fn stack_tick(&mut self, node: u16) {
        let now = self.now;
        let up = self.life(node) == Life::Up;
        let Node::Backend(b) = &mut self.nodes[usize::from(node)] else { return };
        if b.stack_at != Some(now) || !up {
            return;
        }
        b.stack_at = None;
        let mut deeds = core::mem::take(&mut self.deeds);
        b.stack_tick(now, &self.scripts, &mut deeds);
        self.after_backend(node, deeds);
    }

    pub(super) fn restart(&mut self, node: u16, away: Nanos) {
        let (now, mut deeds) = (self.now, Deeds::default());
        if self.life(node) != Life::Up {
            return;
        }
        self.trace.event(now, node.into(), &[], || "servers go away".to_owned());
        if let Node::Backend(b) = &mut self.nodes[usize::from(node)] {
            b.stop_servers(now, &mut deeds);
        }
        self.queue.push(now + away, Event::Return { node });
        self.after_backend(node, deeds);
    }

    pub(super) fn daemon_tick(&mut self, node: u16) {
        let now = self.now;
        let up = self.life(node) == Life::Up;
        let Some(b) = self.backend(node) else { return };
        if b.daemon_at != now || b.daemon != Life::Up || !up {
            return;
        }
        b.daemon_tick(now);
        let at = b.daemon_at;
        self.queue.push(at, Event::Daemon { node });
        self.after_backend(node, Deeds::default());
    }

    pub(super) fn after_backend(&mut self, node: u16, mut deeds: Deeds) {
        let now = self.now;
        for (inner, met) in deeds.delivered.drain(..) {
            self.check_delivered(node, &inner, met);
        }
        for why in deeds.dropped.drain(..) {
            let Self { plan, trace, .. } = self;
            trace.event(now, u64::from(node), &[], || {
                format!("{} drops {}", name(plan, node), why.label())
            });
        }
        if let Some(what) = deeds.broken.take() {
            self.found.add(Invariant::Contract, now, || what.to_owned());
        }
        // With no daemon there is no socket.
        if let Some(packet) = deeds.passed.take()
            && self.backend(node).is_some_and(|b| b.daemon != Life::Down)
        {
            self.enqueue(node, 0, packet);
        }
        for packet in deeds.sent.drain(..) {
            self.transmit(node, FakeBuf::holding(&packet));
        }
        self.deeds = deeds;
        let Node::Backend(b) = &mut self.nodes[usize::from(node)] else { return };
        if let Some(tuple) = b.stack.corrupt.take() {
            self.found
                .add(Invariant::Bytes, now, || format!("the server got other bytes: {tuple:?}"));
        }
        for (tuple, isn) in b.stack.gave_up.drain(..) {
            self.durable.gave_up(check::Life { tuple, isn });
        }
        let published = b.publish(now, &mut self.io);
        let next = b.stack.next_deadline().map(|at| at.max(now + Nanos(1_000)));
        if let Some(next) = next
            && b.stack_at.is_none_or(|at| next < at)
        {
            b.stack_at = Some(next);
            self.queue.push(next, Event::Stack { node });
        }
        if published {
            self.after_role(node, 0);
        }
    }

    pub(super) fn check_delivered(&mut self, node: u16, inner: &[u8], met: Met) {
        let now = self.now;
        let Self { plan, trace, found, sticky, silence, nodes, .. } = self;
        let Some(packet) = parsed(inner).filter(|_| met != Met::Broken) else {
            return found.add(Invariant::Bytes, now, || {
                format!("{} delivered wrong lengths or checksums", name(plan, node))
            });
        };
        trace.event(now, u64::from(node), inner, || {
            format!("{} delivers {:?} to {met:?}", name(plan, node), packet.tuple)
        });
        let lives = |backend: u16| match nodes.get(usize::from(backend) - 1) {
            Some(Node::Backend(b)) => b.kernel.flow(&packet.tuple).is_some(),
            Some(Node::Ingress(_) | Node::Tracker(_)) | None => false,
        };
        sticky.delivered(now, node + 1, (&packet, met), (silence, lives), found);
    }
}
