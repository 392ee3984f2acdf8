//! Hosts and processes that die, hang and come back, networks that come apart, and member lists that change.

use std::collections::VecDeque;
use std::sync::Arc;

use jlb_flowtracker_core::TrackerEvent;
use jlb_ingress_core::IngressEvent;
use jlb_map::MemberRole;
use jlb_role::{Collect, FakeBuf, Nanos, Role};
use jlb_yann_core::AgentEvent;

use super::{Event, Node, World, name};
use crate::plan::{Fault, SPREAD};
use crate::worker::{Life, RX_QUEUE};

/// The router needs so long to miss a next hop (BFD), or to take it up again.
const DETECTED: (Nanos, Nanos) = (Nanos::from_millis(20), Nanos::from_millis(200));
/// A tracker that was taken out of the list is stopped so long after it knows.
const STOPPED: Nanos = Nanos::from_millis(1500);
/// The daemon writes the eBPF maps before it tells its user half: so long apart at most.
const MAPS_FIRST: Nanos = Nanos::from_millis(20);
/// A collection waits for programs that are at work, and takes a while.
const COLLECTED: (Nanos, Nanos) = (Nanos::from_millis(10), Nanos::from_millis(40));

/// How a node is.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) life: Life,
    /// Changes of it, so that what was to end one is told apart.
    turn: u32,
    /// The list in force there, and the latest on its disk.
    pub(super) list: usize,
    known: usize,
    /// Packets that wait for a host that hangs.
    backlog: VecDeque<FakeBuf>,
    /// Its operator has stopped it for good.
    gone: bool,
    /// It hung until then.
    pub(super) resumed: Option<Nanos>,
}

impl Status {
    pub(super) const fn new(life: Life, list: usize) -> Self {
        Self {
            life,
            turn: 0,
            list,
            known: list,
            backlog: VecDeque::new(),
            gone: false,
            resumed: None,
        }
    }
}

impl World {
    pub(crate) fn life(&self, node: u16) -> Life {
        self.status[usize::from(node)].life
    }

    pub(super) fn strike(&mut self, n: usize) {
        let now = self.now;
        let Some((_, fault)) = self.plan.faults.get(n).cloned() else { return };
        self.trace.event(now, n as u64, &[], || format!("FAULT {fault:?}"));
        match fault {
            Fault::Crash { node, away } => {
                if let Some(turn) = self.crash(node) {
                    self.queue.push(now + away, Event::Boot { node, turn });
                }
            }
            Fault::Hang { node, time } => self.hang(node, time),
            Fault::DaemonDies { node, away } => {
                if let Some(starts) = self.stop_daemon(node, Life::Down) {
                    self.queue.push(now + away, Event::DaemonBack { node, starts });
                }
            }
            Fault::DaemonHangs { node, time } => {
                if let Some(starts) = self.stop_daemon(node, Life::Hung) {
                    self.queue.push(now + time, Event::DaemonBack { node, starts });
                }
            }
            Fault::Cut { from, to, time } => {
                for link in from.iter().flat_map(|&f| to.iter().map(move |&t| (f, t))) {
                    *self.cuts.entry(link).or_default() += 1;
                }
                self.queue.push(now + time, Event::CutEnds { fault: n });
            }
            Fault::Deafen { from, to } => {
                let links = from.iter().flat_map(|&f| to.iter().map(move |&t| (f, t)));
                self.plan.deaf_links.extend(links);
            }
            Fault::Reroute { seed } => self.plan.ecmp_seed = seed,
            Fault::Flap { node, away } => {
                self.hops.retain(|&hop| hop != node);
                self.queue.push(now + away, Event::Hop { node });
            }
            Fault::Publish { list } => self.publish(list),
        }
    }

    pub(super) fn cut_ends(&mut self, n: usize) {
        let Some((_, Fault::Cut { from, to, .. })) = self.plan.faults.get(n) else { return };
        for link in from.iter().flat_map(|&f| to.iter().map(move |&t| (f, t))) {
            if let Some(cuts) = self.cuts.get_mut(&link) {
                *cuts = cuts.saturating_sub(1);
            }
        }
        self.trace.event(self.now, n as u64, &[], || "a cut ends".to_owned());
    }

    /// The host loses power. `None`: it was down already.
    fn crash(&mut self, node: u16) -> Option<u32> {
        let status = &mut self.status[usize::from(node)];
        if status.life == Life::Down {
            return None;
        }
        status.life = Life::Down;
        status.turn += 1;
        status.backlog.clear();
        let turn = status.turn;
        let member = node + 1;
        match &self.nodes[usize::from(node)] {
            Node::Ingress(_) => {
                self.opens.died(member);
                self.order.died(member);
                self.missed(node);
            }
            Node::Tracker(_) => {}
            Node::Backend(_) => {
                self.sticky.died(member);
                self.durable.died(member);
            }
        }
        Some(turn)
    }

    /// It is there again, with nothing of what it had.
    pub(super) fn boot(&mut self, node: u16, turn: u32) {
        let status = &mut self.status[usize::from(node)];
        if status.life != Life::Down || status.turn != turn || status.gone {
            return;
        }
        status.life = Life::Up;
        status.turn += 1;
        status.list = status.known;
        let list = status.list;
        let mut random = self.fate.clone();
        let made = self.make(node, list, &mut random);
        self.fate = random;
        // The sizes were good before.
        let Ok(made) = made else { return };
        self.nodes[usize::from(node)] = made;
        self.trace
            .event(self.now, node.into(), &[], || format!("{} boots", name(&self.plan, node)));
        self.starts_to_listen(node);
        self.hops_again(node);
        if let Node::Backend(_) = self.nodes[usize::from(node)] {
            self.queue.push(self.now, Event::Daemon { node });
        }
        for worker in 0..self.workers(node) {
            self.reschedule(node, worker);
        }
    }

    /// The router misses an ingress a little later; unless it is back by then.
    fn missed(&mut self, node: u16) {
        let after = self.fate.time(DETECTED.0, DETECTED.1);
        self.queue.push(self.now + after, Event::Missed { node });
    }

    fn hops_again(&mut self, node: u16) {
        if matches!(self.nodes[usize::from(node)], Node::Ingress(_)) {
            let after = self.fate.time(DETECTED.0, DETECTED.1);
            self.queue.push(self.now + after, Event::Hop { node });
        }
    }

    pub(super) fn lose_hop(&mut self, node: u16) {
        if self.life(node) != Life::Up {
            self.hops.retain(|&hop| hop != node);
        }
    }

    pub(super) fn gain_hop(&mut self, node: u16) {
        let listed = self.is_listed(node, self.status[usize::from(node)].known);
        if listed && self.life(node) == Life::Up && !self.hops.contains(&node) {
            self.hops.push(node);
            self.hops.sort_unstable();
        }
    }

    /// Whether that list names the node.
    pub(super) fn is_listed(&self, node: u16, list: usize) -> bool {
        let id = self.plan.snapshot.members()[usize::from(node)].id;
        self.plan.lists[list].member(id).is_some()
    }

    fn hang(&mut self, node: u16, time: Nanos) {
        let status = &mut self.status[usize::from(node)];
        if status.life != Life::Up {
            return;
        }
        status.life = Life::Hung;
        status.turn += 1;
        let turn = status.turn;
        if matches!(self.nodes[usize::from(node)], Node::Ingress(_)) {
            self.missed(node);
        }
        self.queue.push(self.now + time, Event::Resume { node, turn });
    }

    pub(super) fn resume(&mut self, node: u16, turn: u32) {
        let status = &mut self.status[usize::from(node)];
        if status.life != Life::Hung || status.turn != turn {
            return;
        }
        status.life = Life::Up;
        status.turn += 1;
        status.resumed = Some(self.now);
        let backlog = core::mem::take(&mut status.backlog);
        self.trace
            .event(self.now, node.into(), &[], || format!("{} goes on", name(&self.plan, node)));
        self.wake(node);
        self.take_list(node);
        self.hops_again(node);
        for packet in backlog {
            self.backend_receives(node, packet);
        }
    }

    /// Has all workers of a node polled and ticked, whatever they missed.
    fn wake(&mut self, node: u16) {
        for worker in 0..self.workers(node) {
            let at = self.now + Nanos(1_000 + u64::from(worker));
            if let Some((polls_at, ticks_at)) = self.timers_of(node, worker) {
                (*polls_at, *ticks_at) = (Some(at), Some(at));
                self.queue.push(at, Event::Poll { node, worker });
                self.queue.push(at, Event::Tick { node, worker });
            }
        }
        let at = self.now + Nanos(2_000);
        if let Node::Backend(b) = &mut self.nodes[usize::from(node)] {
            (b.stack_at, b.daemon_at) = (Some(at), at);
            self.queue.push(at, Event::Stack { node });
            self.queue.push(at, Event::Daemon { node });
        }
    }

    /// A packet for a host that hangs: its queue is bounded.
    pub(super) fn queue_up(&mut self, node: u16, packet: FakeBuf) {
        let backlog = &mut self.status[usize::from(node)].backlog;
        if backlog.len() < RX_QUEUE {
            backlog.push_back(packet);
        }
    }

    fn stop_daemon(&mut self, node: u16, life: Life) -> Option<u32> {
        let b = self.backend(node)?;
        if b.daemon != Life::Up {
            return None;
        }
        b.daemon = life;
        b.starts += 1;
        Some(b.starts)
    }

    pub(super) fn daemon_back(&mut self, node: u16, starts: u32) {
        let now = self.now;
        let seed = self.fate.next();
        let status = &mut self.status[usize::from(node)];
        let Node::Backend(b) = &mut self.nodes[usize::from(node)] else { return };
        if b.starts != starts {
            return;
        }
        match b.daemon {
            Life::Up => {}
            Life::Hung => {
                b.daemon = Life::Up;
                b.daemon_at = now;
                self.queue.push(now, Event::Daemon { node });
                self.wake(node);
                self.take_list(node);
            }
            Life::Down => {
                status.list = status.known;
                let snapshot = Arc::clone(&self.plan.lists[status.list]);
                b.start_daemon(now, &snapshot, seed);
                self.queue.push(now, Event::Daemon { node });
                self.reschedule(node, 0);
            }
        }
        self.trace.event(now, node.into(), &[], || {
            format!("the daemon of {} is back", name(&self.plan, node))
        });
    }

    /// The operator publishes a list: each member has it on its disk a little later, and is told to read it.
    fn publish(&mut self, list: usize) {
        for node in 0..self.nodes.len() as u16 {
            let after = self.fate.time(Nanos::ZERO, SPREAD);
            let at = self.now + self.plan.late.get(&node).copied().unwrap_or(after);
            self.queue.push(at, Event::List { node, list });
        }
    }

    pub(super) fn list(&mut self, node: u16, list: usize) {
        let status = &mut self.status[usize::from(node)];
        status.known = status.known.max(list);
        let (before, after) = (self.is_listed(node, list - 1), self.is_listed(node, list));
        let (joins, leaves) = (!before && after, before && !after);
        let status = &mut self.status[usize::from(node)];
        if joins && status.life == Life::Down {
            let turn = status.turn;
            self.boot(node, turn);
        }
        if leaves {
            // Its operator has withdrawn its routes.
            self.hops.retain(|&hop| hop != node);
            let at = self.now + self.fate.time(Nanos::ZERO, STOPPED);
            self.queue.push(at, Event::Stop { node });
        }
        self.take_list(node);
    }

    /// The operator stops a host that is no member any more.
    pub(super) fn stop(&mut self, node: u16) {
        self.crash(node);
        self.status[usize::from(node)].gone = true;
    }

    /// Reads the latest list, if there is one that is not in force yet.
    fn take_list(&mut self, node: u16) {
        let now = self.now;
        let status = &mut self.status[usize::from(node)];
        if status.life != Life::Up || status.known == status.list {
            return;
        }
        if let Node::Backend(b) = &self.nodes[usize::from(node)]
            && b.daemon != Life::Up
        {
            return;
        }
        status.list = status.known;
        let list = status.list;
        let snapshot = Arc::clone(&self.plan.lists[list]);
        self.trace.event(now, node.into(), &[list as u8], || {
            format!("{} reads list {list}", name(&self.plan, node))
        });
        let local = self.local(node, now);
        let io = &mut self.io;
        match &mut self.nodes[usize::from(node)] {
            Node::Ingress(workers) => {
                for w in workers {
                    w.role.event(local, IngressEvent::Snapshot(Arc::clone(&snapshot)), io);
                }
            }
            Node::Tracker(workers) => {
                for w in workers {
                    w.role.event(local, TrackerEvent::Snapshot(Arc::clone(&snapshot)), io);
                }
            }
            Node::Backend(b) => {
                b.kernel.configure(&snapshot);
                let starts = b.starts;
                let at = now + self.fate.time(Nanos::ZERO, MAPS_FIRST);
                let event = Box::new(AgentEvent::Snapshot(snapshot));
                return self.queue.push(at, Event::Agent { node, starts, event });
            }
        }
        for worker in 0..self.workers(node) {
            self.after_role(node, worker);
        }
    }

    /// A tracker wants to know what this host has. The daemon looks a little later.
    pub(super) fn order(&mut self, node: u16, collect: Collect) {
        let Some(starts) = self.backend(node).map(|b| b.starts) else { return };
        let at = self.now + self.fate.time(COLLECTED.0, COLLECTED.1);
        self.queue.push(at, Event::Collect { node, starts, collect });
    }

    pub(super) fn collect(&mut self, node: u16, starts: u32, collect: Collect) {
        let now = self.now;
        let Some(b) = self.backend(node) else { return };
        if b.starts != starts {
            return;
        }
        let (counter, records) = b.kernel.refresh_records(now);
        let Collect { tracker, nonce, .. } = collect;
        let event = AgentEvent::Flows { tracker, nonce, counter, records: records.into() };
        let at = now + self.fate.time(Nanos(1_000), COLLECTED.0);
        self.queue.push(at, Event::Agent { node, starts, event: Box::new(event) });
    }

    /// What the daemon tells the user half, unless that was another start of it.
    pub(super) fn agent(&mut self, node: u16, starts: u32, event: AgentEvent) {
        let now = self.now;
        if self.life(node) != Life::Up {
            return;
        }
        let Node::Backend(b) = &mut self.nodes[usize::from(node)] else { return };
        if b.starts == starts && b.daemon == Life::Up {
            b.agent.role.event(now, event, &mut self.io);
            self.after_role(node, 0);
        }
    }

    /// All that is broken is mended.
    pub(super) fn mend(&mut self) {
        self.cuts.clear();
        for node in 0..self.nodes.len() as u16 {
            self.hops_again(node);
        }
    }

    // What the checker of silence sees.

    fn starts_to_listen(&mut self, node: u16) {
        for worker in 0..self.workers(node) {
            for backend in self.plan.snapshot.with_role(MemberRole::Backend) {
                self.silence.heard(self.now, (node + 1, worker), backend.as_u16());
            }
        }
    }

    pub(super) fn watch(&mut self) {
        let workers = self.plan.workers;
        for backend in self.plan.snapshot.with_role(MemberRole::Backend) {
            let members = (0..).zip(&self.nodes).zip(&self.status).filter_map(
                |((node, kind), status): ((u16, &Node), &Status)| match kind {
                    _ if status.life == Life::Down => None,
                    Node::Ingress(_) => Some((node + 1, workers, false)),
                    Node::Tracker(_) => Some((node + 1, workers, true)),
                    Node::Backend(_) => None,
                },
            );
            self.silence.look(self.now, backend.as_u16(), members);
        }
    }
}
