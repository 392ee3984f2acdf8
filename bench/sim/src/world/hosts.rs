//! The backend hosts' part: their stacks, the two halves of their agents, and what they deliver.

use jlb_role::{FakeBuf, Nanos};

use super::{Event, Node, World, name};
use crate::backend::{Backend, Deeds, parsed};
use crate::check::Invariant;
use crate::stack::Met;

impl World {
    pub(super) fn backend(&mut self, node: u16) -> Option<&mut Backend> {
        match &mut self.nodes[usize::from(node)] {
            Node::Backend(b) => Some(b),
            Node::Ingress(_) | Node::Tracker(_) => None,
        }
    }

    pub(super) fn backend_receives(&mut self, node: u16, packet: &[u8]) {
        let (now, mut deeds) = (self.now, Deeds::default());
        if let Node::Backend(b) = &mut self.nodes[usize::from(node)] {
            b.receive(now, packet, &self.scripts, &mut deeds);
        }
        self.after_backend(node, deeds);
    }

    pub(super) fn stack_tick(&mut self, node: u16) {
        let (now, mut deeds) = (self.now, Deeds::default());
        let Node::Backend(b) = &mut self.nodes[usize::from(node)] else { return };
        if b.stack_at != Some(now) {
            return;
        }
        b.stack_at = None;
        b.stack_tick(now, &self.scripts, &mut deeds);
        self.after_backend(node, deeds);
    }

    pub(super) fn restart(&mut self, node: u16, away: Nanos) {
        let (now, mut deeds) = (self.now, Deeds::default());
        self.trace.event(now, node.into(), &[], || "servers go away".to_owned());
        if let Node::Backend(b) = &mut self.nodes[usize::from(node)] {
            b.stop_servers(now, &mut deeds);
        }
        self.queue.push(now + away, Event::Return { node });
        self.after_backend(node, deeds);
    }

    pub(super) fn daemon_tick(&mut self, node: u16) {
        let now = self.now;
        let Some(b) = self.backend(node) else { return };
        b.daemon_tick(now);
        let at = b.daemon_at;
        self.queue.push(at, Event::Daemon { node });
        self.after_backend(node, Deeds::default());
    }

    pub(super) fn after_backend(&mut self, node: u16, deeds: Deeds) {
        let now = self.now;
        for (inner, met) in &deeds.delivered {
            self.check_delivered(node, inner, *met);
        }
        for why in &deeds.dropped {
            let Self { plan, trace, .. } = self;
            trace.event(now, u64::from(node), &[], || {
                format!("{} drops {}", name(plan, node), why.label())
            });
        }
        if let Some(what) = deeds.broken {
            self.found.add(Invariant::Contract, now, || what.to_owned());
        }
        for packet in deeds.passed {
            self.enqueue(node, 0, FakeBuf::holding(&packet));
        }
        for packet in deeds.sent {
            self.transmit(node, FakeBuf::holding(&packet));
        }
        let Node::Backend(b) = &mut self.nodes[usize::from(node)] else { return };
        if let Some(tuple) = b.stack.corrupt.take() {
            self.found
                .add(Invariant::Bytes, now, || format!("the server got other bytes: {tuple:?}"));
        }
        b.publish(now, &mut self.io);
        let next = b.stack.next_deadline().map(|at| at.max(now + Nanos(1_000)));
        if let Some(next) = next
            && b.stack_at.is_none_or(|at| next < at)
        {
            b.stack_at = Some(next);
            self.queue.push(next, Event::Stack { node });
        }
        self.after_role(node, 0);
    }

    pub(super) fn check_delivered(&mut self, node: u16, inner: &[u8], met: Met) {
        let now = self.now;
        let Self { plan, trace, found, sticky, .. } = self;
        let Some(packet) = parsed(inner).filter(|_| met != Met::Broken) else {
            return found.add(Invariant::Bytes, now, || {
                format!("{} delivered wrong lengths or checksums", name(plan, node))
            });
        };
        trace.event(now, u64::from(node), inner, || {
            format!("{} delivers {:?} to {met:?}", name(plan, node), packet.tuple)
        });
        sticky.delivered(now, node + 1, &packet, met, found);
    }
}
