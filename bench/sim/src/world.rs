use std::collections::BTreeMap;

use jlb_flowtracker_core::{Tracker, TrackerConfig};
use jlb_ingress_core::{Ingress, IngressConfig};
use jlb_map::MemberRole;
use jlb_role::{FakeBuf, FakeIo, Nanos, PacketBuf, Role, Rule, Without, WorkerId};
use jlb_wire::{BootId, FiveTuple, MemberId, Protocol, tcp_flags};

use crate::backend::{Backend, Deeds, parsed};
use crate::bytes::{Segment, tcp_packet};
use crate::check::{Closes, Found, Invariant, Life, Opens, Order, Sticky};
use crate::client::{Intent, Outcome};
use crate::fabric::{Fabric, Faults};
use crate::plan::Plan;
use crate::queue::Queue;
use crate::random::Random;
use crate::run::Failure;
use crate::script::Scripts;
use crate::seen::{ACK, PacketKind, Seen};
use crate::stack::{Met, Stack, at};
use crate::tcp::reset_for;
use crate::trace::{Trace, hash_of};
use crate::worker::Worker;

type IngressWorker = Worker<Ingress<FakeBuf, Without>>;
type TrackerWorker = Worker<Tracker<Without>>;

/// What is to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet reaches the end of a link.
    Arrive {
        link: (u16, u16),
        packet: FakeBuf,
    },
    Poll {
        node: u16,
        worker: u8,
    },
    Tick {
        node: u16,
        worker: u8,
    },
    Stack {
        node: u16,
    },
    Daemon {
        node: u16,
    },
    Begin {
        client: usize,
    },
    ClientTimer {
        client: usize,
    },
    Spoof {
        client: usize,
    },
    /// The servers of a host go away, and come back after so long.
    Restart {
        node: u16,
        away: Nanos,
    },
    Return {
        node: u16,
    },
    Heal,
    /// Looks whether it is over.
    Look,
}

#[derive(Debug)]
pub(crate) enum Node {
    Ingress(Vec<IngressWorker>),
    Tracker(Vec<TrackerWorker>),
    Backend(Box<Backend>),
}

/// The place of all clients, behind the members.
const CLIENTS: u16 = u16::MAX;

/// Everything there is in one run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Nanos,
    pub(crate) plan: Plan,
    pub(crate) queue: Queue<Event>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) found: Found,
    pub(crate) opens: Opens,
    pub(crate) closes: Closes,
    pub(crate) trace: Trace,
    sticky: Sticky,
    order: Order,
    fabric: Fabric,
    pub(crate) healed: bool,
    scripts: Scripts,
    /// Who has a five-tuple now.
    current: BTreeMap<FiveTuple, usize>,
    /// The last ISN of a five-tuple.
    isns: BTreeMap<FiveTuple, u32>,
    /// By client: when its timer is due.
    timers: Vec<Option<Nanos>>,
    random: Random,
    io: FakeIo,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        plan: Plan,
        without: Option<Rule>,
        trace: Trace,
    ) -> Result<Self, Failure> {
        let mut random = Random::stream(seed, 2);
        let mut world = Self {
            now: Nanos::ZERO,
            queue: Queue::new(),
            nodes: Vec::new(),
            found: Found::default(),
            opens: Opens::default(),
            closes: Closes::default(),
            trace,
            sticky: Sticky::default(),
            order: Order::default(),
            fabric: Fabric::new(Random::stream(seed, 3)),
            healed: false,
            scripts: Scripts::new(),
            current: BTreeMap::new(),
            isns: BTreeMap::new(),
            timers: vec![None; plan.clients.len()],
            io: FakeIo::default(),
            random: random.clone(),
            plan,
        };
        world.raise(&mut random, Without(without))?;
        world.random = random;
        world.schedule();
        Ok(world)
    }

    /// Makes all members. Ids are dense from 1 in the order of the list, so a node's index is its id − 1.
    fn raise(&mut self, random: &mut Random, rules: Without) -> Result<(), Failure> {
        let (snapshot, bounds) = (self.plan.snapshot.clone(), self.plan.bounds);
        for member in snapshot.members() {
            let boot = BootId(random.next());
            let workers = (0..self.plan.workers).map(WorkerId);
            let node = match member.role {
                MemberRole::Ingress => {
                    let make = |worker| {
                        let config = IngressConfig {
                            id: member.id,
                            worker,
                            workers: self.plan.workers,
                            boot,
                            seed: random.next(),
                            flow_capacity: bounds.flows,
                            pending_capacity: bounds.pending,
                        };
                        let role = Ingress::new(config, snapshot.clone(), rules, Nanos::ZERO);
                        role.map(Worker::new).map_err(|_| Failure::Pool)
                    };
                    Node::Ingress(workers.map(make).collect::<Result<_, _>>()?)
                }
                MemberRole::FlowTracker => {
                    let make = |worker| {
                        let config = TrackerConfig {
                            id: member.id,
                            worker,
                            workers: self.plan.workers,
                            boot,
                            seed: random.next(),
                            flow_capacity: bounds.flows,
                            pending_capacity: bounds.pending,
                            remembered_capacity: bounds.remembered,
                        };
                        // Trackers that agree on a flow's backend hardly ever split votes: mostly they do not.
                        let agree = self.plan.ecmp_seed.is_multiple_of(4);
                        let salt = if agree { 0 } else { u64::from(member.id.as_u16()) << 48 };
                        let role = Tracker::new(config, snapshot.clone(), rules, Nanos::ZERO);
                        let role = role.map(|tracker| tracker.with_salt(salt));
                        role.map(Worker::new).map_err(|_| Failure::Pool)
                    };
                    Node::Tracker(workers.map(make).collect::<Result<_, _>>()?)
                }
                MemberRole::Backend => {
                    let stack = self.stack(member.id, random);
                    let words = (boot, random.next());
                    let rules = (rules, bounds);
                    Node::Backend(Box::new(Backend::new(member.id, &snapshot, rules, words, stack)))
                }
            };
            self.nodes.push(node);
        }
        Ok(())
    }

    fn stack(&self, id: MemberId, random: &mut Random) -> Stack {
        let mut stack = Stack::new(Random::new(random.next()));
        for (n, service) in self.plan.snapshot.services().iter().enumerate() {
            if service.backend(id).is_none() || self.plan.deaf[n].contains(&id) {
                continue;
            }
            for &vip in &service.vips {
                match service.protocol {
                    Protocol::Tcp => stack.listen(at(vip, service.port), self.plan.accepting[n]),
                    Protocol::Udp => stack.bind(at(vip, service.port)),
                }
            }
        }
        stack
    }

    fn schedule(&mut self) {
        for node in 0..self.nodes.len() as u16 {
            let workers = self.workers(node);
            for worker in 0..workers {
                self.reschedule(node, worker);
            }
            if matches!(self.nodes[usize::from(node)], Node::Backend(_)) {
                self.queue.push(Nanos::ZERO, Event::Daemon { node });
            }
        }
        for (client, c) in self.plan.clients.iter().enumerate() {
            if c.predecessor.is_none() {
                self.queue.push(c.start, Event::Begin { client });
            }
        }
        for &(at, client) in &self.plan.spoofs {
            self.queue.push(at, Event::Spoof { client });
        }
        for &(at, node, away) in &self.plan.restarts {
            self.queue.push(at, Event::Restart { node, away });
        }
        self.queue.push(self.plan.heal, Event::Heal);
        self.queue.push(self.plan.heal, Event::Look);
    }

    /// The next event. `false` when it says that it is time to look whether all is over.
    pub(crate) fn step(&mut self) -> bool {
        let Some((now, event)) = self.queue.pop() else { return false };
        self.now = now;
        match event {
            Event::Arrive { link, packet } => self.arrive(link, packet),
            Event::Poll { node, worker } => self.poll(node, worker),
            Event::Tick { node, worker } => self.tick(node, worker),
            Event::Stack { node } => self.stack_tick(node),
            Event::Daemon { node } => self.daemon_tick(node),
            Event::Begin { client } => self.begin(client),
            Event::ClientTimer { client } => self.client_timer(client),
            Event::Spoof { client } => self.spoof(client),
            Event::Restart { node, away } => self.restart(node, away),
            Event::Return { node } => {
                self.trace.event(now, node.into(), &[], || "servers are back".to_owned());
                if let Some(b) = self.backend(node) {
                    b.stack.start();
                }
            }
            Event::Heal => {
                self.healed = true;
                self.plan.inside = Faults::none();
                self.plan.outside = Faults::none();
                self.plan.bad_links.clear();
                self.plan.deaf_links.clear();
                self.plan.slow_links.clear();
                self.plan.no_buffer = 0;
                self.trace.event(now, 0, &[], || "healed".to_owned());
            }
            Event::Look => return false,
        }
        true
    }

    fn workers(&self, node: u16) -> u8 {
        match self.nodes[usize::from(node)] {
            Node::Ingress(_) | Node::Tracker(_) => self.plan.workers,
            Node::Backend(_) => 1,
        }
    }

    // The network.

    /// Somebody sends a packet: whoever has its destination address gets it, after what the network does to it.
    fn transmit(&mut self, from: u16, packet: FakeBuf) {
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

    fn check_sent(&mut self, from: u16, seen: &Seen, bytes: &[u8]) {
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

    fn arrive(&mut self, link: (u16, u16), packet: FakeBuf) {
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

    // Members.

    /// Puts a packet before a worker, which polls a little later.
    fn enqueue(&mut self, node: u16, worker: u8, packet: FakeBuf) {
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

    fn poll(&mut self, node: u16, worker: u8) {
        let (now, w) = (self.now, usize::from(worker));
        self.io.exhausted = self.random.ppm(self.plan.no_buffer);
        let io = &mut self.io;
        let (emptied, more) = match &mut self.nodes[usize::from(node)] {
            Node::Ingress(workers) => poll(&mut workers[w], now, io),
            Node::Tracker(workers) => poll(&mut workers[w], now, io),
            Node::Backend(b) => poll(&mut b.agent, now, io),
        };
        if !emptied {
            self.found
                .add(Invariant::Contract, now, || "a role left packets in its burst".to_owned());
        }
        if more {
            let at = now + Nanos(1_000);
            if let Some(polls_at) = self.polls_at(node, worker) {
                *polls_at = Some(at);
            }
            self.queue.push(at, Event::Poll { node, worker });
        }
        self.after_role(node, worker);
    }

    fn polls_at(&mut self, node: u16, worker: u8) -> Option<&mut Option<Nanos>> {
        let w = usize::from(worker);
        match &mut self.nodes[usize::from(node)] {
            Node::Ingress(workers) => workers.get_mut(w).map(|w| &mut w.polls_at),
            Node::Tracker(workers) => workers.get_mut(w).map(|w| &mut w.polls_at),
            Node::Backend(b) => Some(&mut b.agent.polls_at),
        }
    }

    fn tick(&mut self, node: u16, worker: u8) {
        let (now, w) = (self.now, usize::from(worker));
        self.io.exhausted = self.random.ppm(self.plan.no_buffer);
        let io = &mut self.io;
        let due = match &mut self.nodes[usize::from(node)] {
            Node::Ingress(workers) => tick(&mut workers[w], now, io),
            Node::Tracker(workers) => tick(&mut workers[w], now, io),
            Node::Backend(b) => tick(&mut b.agent, now, io),
        };
        if due {
            self.after_role(node, worker);
        }
    }

    /// Carries out what a role asked for, and looks at what it holds.
    fn after_role(&mut self, node: u16, worker: u8) {
        let mut io = core::mem::take(&mut self.io);
        let Self { plan, trace, nodes, .. } = self;
        for (packet, why) in io.dropped.drain(..) {
            trace.event(self.now, u64::from(node), packet.bytes(), || {
                let seen = Seen::parse(packet.bytes(), &plan.snapshot);
                let shown = seen.map_or_else(String::new, |s| s.to_string());
                format!("{} drops {} {shown}", name(plan, node), why.label())
            });
        }
        for report in io.reports.drain(..) {
            trace.event(self.now, u64::from(node), &[], || {
                format!("{} reports {report:?}", name(plan, node))
            });
            if let Node::Backend(b) = &mut nodes[usize::from(node)] {
                b.learn(report);
            }
        }
        for (packet, to) in io.handed.drain(..) {
            if to.0 < self.workers(node) && to.0 != worker {
                self.enqueue(node, to.0, packet);
            } else {
                self.found.add(Invariant::Contract, self.now, || format!("handed over to {to:?}"));
            }
        }
        for (packet, _) in io.sent.drain(..) {
            self.transmit(node, packet);
        }
        self.io = io;
        if let Node::Ingress(workers) = &self.nodes[usize::from(node)] {
            let held = workers[usize::from(worker)].role.waiting().0;
            let found =
                if self.plan.short_of_buffers { &mut Found::default() } else { &mut self.found };
            self.opens.holds(self.now, (node + 1, worker), held, found);
        }
        self.reschedule(node, worker);
    }

    fn reschedule(&mut self, node: u16, worker: u8) {
        let (now, w) = (self.now, usize::from(worker));
        let (next, ticks_at) = match &mut self.nodes[usize::from(node)] {
            Node::Ingress(workers) => (workers[w].next_tick(now), &mut workers[w].ticks_at),
            Node::Tracker(workers) => (workers[w].next_tick(now), &mut workers[w].ticks_at),
            Node::Backend(b) => (b.agent.next_tick(now), &mut b.agent.ticks_at),
        };
        if let Some(next) = next
            && ticks_at.is_none_or(|at| next < at)
        {
            *ticks_at = Some(next);
            self.queue.push(next, Event::Tick { node, worker });
        }
    }

    fn backend(&mut self, node: u16) -> Option<&mut Backend> {
        match &mut self.nodes[usize::from(node)] {
            Node::Backend(b) => Some(b),
            Node::Ingress(_) | Node::Tracker(_) => None,
        }
    }

    fn backend_receives(&mut self, node: u16, packet: &[u8]) {
        let (now, mut deeds) = (self.now, Deeds::default());
        if let Node::Backend(b) = &mut self.nodes[usize::from(node)] {
            b.receive(now, packet, &self.scripts, &mut deeds);
        }
        self.after_backend(node, deeds);
    }

    fn stack_tick(&mut self, node: u16) {
        let (now, mut deeds) = (self.now, Deeds::default());
        let Node::Backend(b) = &mut self.nodes[usize::from(node)] else { return };
        if b.stack_at != Some(now) {
            return;
        }
        b.stack_at = None;
        b.stack_tick(now, &self.scripts, &mut deeds);
        self.after_backend(node, deeds);
    }

    fn restart(&mut self, node: u16, away: Nanos) {
        let (now, mut deeds) = (self.now, Deeds::default());
        self.trace.event(now, node.into(), &[], || "servers go away".to_owned());
        if let Node::Backend(b) = &mut self.nodes[usize::from(node)] {
            b.stop_servers(now, &mut deeds);
        }
        self.queue.push(now + away, Event::Return { node });
        self.after_backend(node, deeds);
    }

    fn daemon_tick(&mut self, node: u16) {
        let now = self.now;
        let Some(b) = self.backend(node) else { return };
        b.daemon_tick(now);
        let at = b.daemon_at;
        self.queue.push(at, Event::Daemon { node });
        self.after_backend(node, Deeds::default());
    }

    fn after_backend(&mut self, node: u16, deeds: Deeds) {
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

    fn check_delivered(&mut self, node: u16, inner: &[u8], met: Met) {
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

    // Clients.

    fn begin(&mut self, client: usize) {
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

    fn client_timer(&mut self, client: usize) {
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

    fn client_receives(&mut self, bytes: &[u8]) {
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
                self.transmit(CLIENTS, FakeBuf::holding(&reset));
            }
            (None, _) => {}
        }
    }

    /// ICMP or ICMPv6: only "port unreachable" is known here.
    fn icmp(&mut self, bytes: &[u8]) {
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

    fn after_client(&mut self, client: usize, out: Vec<Vec<u8>>) {
        for packet in out {
            self.transmit(CLIENTS, FakeBuf::holding(&packet));
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
        let successor = client + 1;
        if let Some(next) = self.plan.clients.get(successor)
            && next.predecessor == Some(client)
            && next.waiting()
        {
            self.queue.push(now + next.start, Event::Begin { client: successor });
        }
    }

    /// A client's connection was reset: by its server, or else by somebody who must not.
    fn check_survival(&mut self, client: usize) {
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

    /// Somebody who does not get the answers sends a SYN in a client's name.
    fn spoof(&mut self, client: usize) {
        let tuple = self.plan.clients[client].tuple;
        let isn = self.random.next() as u32;
        self.sticky.begins(tuple, isn);
        let syn = Segment { seq: isn, ack: 0, flags: tcp_flags::SYN, payload: Vec::new() };
        self.trace.event(self.now, client as u64, &[], || format!("spoofed SYN {tuple:?}"));
        let packet = tcp_packet(tuple.client(), tuple.vip(), &syn);
        self.transmit(CLIENTS, FakeBuf::holding(&packet));
    }

    /// Lets time pass while nothing is sent any more: all that is left to happen is forgetting. The network is dead
    /// meanwhile, and the drivers come round once a second only, as on a machine that was suspended.
    pub(crate) fn coast(&mut self, time: Nanos) {
        /// Bounded work per tick: what is left over is done by further ones.
        const TICKS: usize = 16;
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + Nanos::from_secs(1);
            let mut io = FakeIo::default();
            for node in &mut self.nodes {
                for _ in 0..TICKS {
                    match node {
                        Node::Ingress(w) => w.iter_mut().for_each(|w| w.tick(self.now, &mut io)),
                        Node::Tracker(w) => w.iter_mut().for_each(|w| w.tick(self.now, &mut io)),
                        Node::Backend(b) => {
                            b.daemon_tick(self.now);
                            b.publish(self.now, &mut io);
                            b.agent.tick(self.now, &mut io);
                        }
                    }
                    io.sent.clear();
                }
            }
        }
    }

    /// Closes the UDP sockets of all hosts: how datagram flows end within a run's time.
    pub(crate) fn unbind(&mut self) {
        for node in &mut self.nodes {
            if let Node::Backend(b) = node {
                b.stack.unbind_all();
            }
        }
    }
}

fn poll<R: Role<FakeBuf>>(w: &mut Worker<R>, now: Nanos, io: &mut FakeIo) -> (bool, bool) {
    w.polls_at = None;
    (w.poll(now, io), w.has_work())
}

/// Equal-cost multipath: a hash of the five-tuple chooses the ingress.
fn ecmp(plan: &Plan, seen: &Seen) -> u16 {
    let hosts = plan.snapshot.with_role(MemberRole::Ingress);
    let hash = seen.packet.map_or(0, |p| hash_of(p.tuple.padded())) ^ plan.ecmp_seed;
    // Spread again: the low bits of both are not independent.
    hosts[(Random::new(hash).next() % hosts.len() as u64) as usize].as_u16() - 1
}

fn name(plan: &Plan, node: u16) -> &str {
    plan.snapshot.members().get(usize::from(node)).map_or("clients", |m| &m.name)
}

/// Ticks when it is due; `false` for a tick that an earlier one made needless.
fn tick<R: Role<FakeBuf>>(w: &mut Worker<R>, now: Nanos, io: &mut FakeIo) -> bool {
    let due = w.ticks_at == Some(now);
    if due {
        w.ticks_at = None;
        w.tick(now, io);
    }
    due
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
