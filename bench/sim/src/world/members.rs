//! The members' part: when their workers poll and tick, and what becomes of what they do.

use jlb_role::{FakeBuf, FakeIo, Nanos, PacketBuf, Role};
use jlb_yann_core::AgentEvent;

use super::{Event, Node, World, name};
use crate::check::{Found, Invariant};
use crate::seen::Seen;
use crate::worker::{Life, Worker};

/// After a node hung it has so long to do what it missed.
const CATCH_UP: Nanos = Nanos::from_millis(10);

impl World {
    /// Puts a packet before a worker, which polls a little later.
    pub(super) fn enqueue(&mut self, node: u16, worker: u8, packet: FakeBuf) {
        let delay = self.random.time(Nanos(1), self.plan.poll);
        let at = self.now + delay;
        let w = usize::from(worker);
        let (room, polls_at) = match &mut self.nodes[usize::from(node)] {
            Node::Ingress(workers) => (workers[w].enqueue(packet), &mut workers[w].polls_at),
            Node::Tracker(workers) => (workers[w].enqueue(packet), &mut workers[w].polls_at),
            Node::Backend(b) => (b.agent.enqueue(packet), &mut b.agent.polls_at),
        };
        if polls_at.is_none() {
            *polls_at = Some(at);
            self.queue.push(at, Event::Poll { node, worker });
        }
        if !room {
            self.trace.event(self.now, u64::from(node), &[], || "receive queue full".to_owned());
        }
    }

    pub(super) fn poll(&mut self, node: u16, worker: u8) {
        let (now, w) = (self.now, usize::from(worker));
        let due = self.timers_of(node, worker).is_some_and(|(polls_at, _)| *polls_at == Some(now));
        if !due || !self.runs(node) {
            return;
        }
        self.io.exhausted = self.random.ppm(self.plan.no_buffer);
        let local = self.local(node, now);
        let io = &mut self.io;
        let (emptied, more) = match &mut self.nodes[usize::from(node)] {
            Node::Ingress(workers) => poll(&mut workers[w], local, io),
            Node::Tracker(workers) => poll(&mut workers[w], local, io),
            Node::Backend(b) => poll(&mut b.agent, local, io),
        };
        if !emptied {
            self.found
                .add(Invariant::Contract, now, || "a role left packets in its burst".to_owned());
        }
        if more {
            let at = now + Nanos(1_000);
            if let Some((polls_at, _)) = self.timers_of(node, worker) {
                *polls_at = Some(at);
            }
            self.queue.push(at, Event::Poll { node, worker });
        }
        self.after_role(node, worker);
    }

    /// When a worker is polled and ticked next.
    pub(super) fn timers_of(
        &mut self,
        node: u16,
        worker: u8,
    ) -> Option<(&mut Option<Nanos>, &mut Option<Nanos>)> {
        let w = usize::from(worker);
        match &mut self.nodes[usize::from(node)] {
            Node::Ingress(workers) => {
                workers.get_mut(w).map(|w| (&mut w.polls_at, &mut w.ticks_at))
            }
            Node::Tracker(workers) => {
                workers.get_mut(w).map(|w| (&mut w.polls_at, &mut w.ticks_at))
            }
            Node::Backend(b) => Some((&mut b.agent.polls_at, &mut b.agent.ticks_at)),
        }
    }

    /// Whether the process of a node's workers runs: of a backend, its daemon.
    fn runs(&self, node: u16) -> bool {
        let process = match &self.nodes[usize::from(node)] {
            Node::Backend(b) => b.daemon,
            Node::Ingress(_) | Node::Tracker(_) => Life::Up,
        };
        self.life(node) == Life::Up && process == Life::Up
    }

    pub(super) fn tick(&mut self, node: u16, worker: u8) {
        let (now, w) = (self.now, usize::from(worker));
        if !self.runs(node) {
            return;
        }
        self.io.exhausted = self.random.ppm(self.plan.no_buffer);
        let local = self.local(node, now);
        let io = &mut self.io;
        let due = match &mut self.nodes[usize::from(node)] {
            Node::Ingress(workers) => tick(&mut workers[w], (now, local), io),
            Node::Tracker(workers) => tick(&mut workers[w], (now, local), io),
            Node::Backend(b) => tick(&mut b.agent, (now, local), io),
        };
        if due {
            self.after_role(node, worker);
        }
    }

    /// Carries out what a role asked for, and looks at what it holds.
    pub(super) fn after_role(&mut self, node: u16, worker: u8) {
        while let Some((packet, why)) = self.io.dropped.pop_front() {
            let Self { plan, trace, .. } = self;
            trace.event(self.now, u64::from(node), packet.bytes(), || {
                let seen = Seen::parse(packet.bytes(), &plan.snapshot);
                let shown = seen.map_or_else(String::new, |s| s.to_string());
                format!("{} drops {} {shown}", name(plan, node), why.label())
            });
        }
        let mut collects = Vec::new();
        let mut written = None;
        while let Some(report) = self.io.reports.pop_front() {
            let Self { plan, trace, nodes, .. } = self;
            trace.event(self.now, u64::from(node), &[], || {
                format!("{} reports {report:?}", name(plan, node))
            });
            if let Node::Backend(b) = &mut nodes[usize::from(node)] {
                collects.extend(b.learn(report));
                written = b.sole_change.take().map(|change| (b.starts, change)).or(written);
            }
        }
        if let Some((starts, change)) = written {
            let event = Box::new(AgentEvent::SoleWritten { change });
            self.queue.push(self.now, Event::Agent { node, starts, event });
        }
        for collect in collects {
            self.order(node, collect);
        }
        while let Some((packet, to)) = self.io.handed.pop_front() {
            if to.0 < self.workers(node) && to.0 != worker {
                self.enqueue(node, to.0, packet);
            } else {
                self.found.add(Invariant::Contract, self.now, || format!("handed over to {to:?}"));
            }
        }
        while let Some((packet, _)) = self.io.sent.pop_front() {
            self.transmit(node, packet);
        }
        if let Node::Ingress(workers) = &self.nodes[usize::from(node)] {
            let held = workers[usize::from(worker)].role.waiting().0;
            // What is overdue after it hung, its next ticks end.
            let resumed = self.status[usize::from(node)].resumed;
            let late = resumed.is_some_and(|at| self.now.since(at) < CATCH_UP);
            // Who is no member any more sends no Open for what it still takes.
            let listed = self.is_listed(node, self.status[usize::from(node)].list);
            let found = if self.plan.short_of_buffers || late || !listed {
                &mut Found::default()
            } else {
                &mut self.found
            };
            self.opens.holds(self.now, (node + 1, worker), held, found);
        }
        self.reschedule(node, worker);
    }

    pub(super) fn reschedule(&mut self, node: u16, worker: u8) {
        let w = usize::from(worker);
        let local = self.local(node, self.now);
        let next = match &self.nodes[usize::from(node)] {
            Node::Ingress(workers) => workers[w].next_tick(local),
            Node::Tracker(workers) => workers[w].next_tick(local),
            Node::Backend(b) => b.agent.next_tick(local),
        };
        let next = next.map(|at| self.global(node, at));
        let Some((_, ticks_at)) = self.timers_of(node, worker) else { return };
        if let Some(next) = next
            && ticks_at.is_none_or(|at| next < at)
        {
            *ticks_at = Some(next);
            self.queue.push(next, Event::Tick { node, worker });
        }
    }
}

fn poll<R: Role<FakeBuf>>(w: &mut Worker<R>, now: Nanos, io: &mut FakeIo) -> (bool, bool) {
    w.polls_at = None;
    (w.poll(now, io), w.has_work())
}

/// Ticks when it is due; `false` for a tick that an earlier one made needless.
fn tick<R: Role<FakeBuf>>(
    w: &mut Worker<R>,
    (now, local): (Nanos, Nanos),
    io: &mut FakeIo,
) -> bool {
    let due = w.ticks_at == Some(now);
    if due {
        w.ticks_at = None;
        w.tick(local, io);
    }
    due
}
