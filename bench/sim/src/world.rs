use std::collections::BTreeMap;
use std::sync::Arc;

use jlb_flowtracker_core::{Tracker, TrackerConfig};
use jlb_ingress_core::{Ingress, IngressConfig};
use jlb_map::MemberRole;
use jlb_role::{Collect, FakeBuf, FakeIo, Nanos, Rule, Without, WorkerId};
use jlb_wire::{BootId, FiveTuple, MemberId, Protocol};
use jlb_yann_core::AgentEvent;

use crate::backend::{Backend, Deeds};
use crate::check::{Durable, Found, Opens, Order, Silence, Sticky};
use crate::fabric::{Fabric, Faults};
use crate::map::Map;
use crate::plan::Plan;
use crate::queue::Queue;
use crate::random::Random;
use crate::run::Failure;
use crate::script::Scripts;
use crate::stack::{Stack, at};
use crate::trace::Trace;
use crate::worker::{Life, Worker};
use lifecycle::Status;

mod clients;
mod hosts;
mod lifecycle;
mod members;
mod network;

type IngressWorker = Worker<Ingress<FakeBuf, Without>>;
type TrackerWorker = Worker<Tracker<Without>>;

/// What is to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet reaches the end of a link.
    Arrive {
        link: (u16, u16),
        packet: FakeBuf,
        answers: Option<u8>,
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
    /// A packet of the five-tuple's former connection comes late.
    Stray {
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
    /// The `n`th fault of the plan.
    Fault {
        n: usize,
    },
    /// A host starts, if it is still down since that turn.
    Boot {
        node: u16,
        turn: u32,
    },
    /// A host goes on, if it still hangs since that turn.
    Resume {
        node: u16,
        turn: u32,
    },
    DaemonBack {
        node: u16,
        starts: u32,
    },
    CutEnds {
        fault: usize,
    },
    /// The router notices that a next hop is not there.
    Missed {
        node: u16,
    },
    /// The router has a next hop (again).
    Hop {
        node: u16,
    },
    /// A member list reaches a member's disk.
    List {
        node: u16,
        list: usize,
    },
    /// A former member is stopped.
    Stop {
        node: u16,
    },
    /// An agent's daemon reads flows from its maps.
    Collect {
        node: u16,
        starts: u32,
        collect: Collect,
    },
    /// An agent's daemon tells its user half.
    Agent {
        node: u16,
        starts: u32,
        event: Box<AgentEvent>,
    },
    /// Looks which backends may count as dead.
    Watch,
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

/// How often it is looked which backends may count as dead, and for how long after the faults.
const WATCH: Nanos = Nanos::from_millis(50);
const WATCHED: Nanos = Nanos::from_secs(8);

/// The place of all clients, behind the members.
const CLIENTS: u16 = u16::MAX;

/// Everything there is in one run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Nanos,
    pub(crate) plan: Plan,
    pub(crate) queue: Queue<Event>,
    pub(crate) nodes: Vec<Node>,
    status: Vec<Status>,
    pub(crate) found: Found,
    pub(crate) opens: Opens,
    pub(crate) trace: Trace,
    pub(crate) sticky: Sticky,
    pub(crate) durable: Durable,
    pub(crate) silence: Silence,
    order: Order,
    fabric: Fabric,
    /// Links on which nothing arrives, and for how many reasons.
    cuts: BTreeMap<(u16, u16), u32>,
    /// The router's next hops for client packets.
    hops: Vec<u16>,
    rules: Without,
    /// Trackers pick alike.
    agree: bool,
    pub(crate) healed: bool,
    scripts: Scripts,
    /// Who has a five-tuple now.
    current: Map<FiveTuple, usize>,
    /// The last ISN of a five-tuple.
    isns: Map<FiveTuple, u32>,
    /// By client: when its timer is due.
    timers: Vec<Option<Nanos>>,
    random: Random,
    /// For what the faults draw.
    fate: Random,
    io: FakeIo,
    deeds: Deeds,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        plan: Plan,
        without: Option<Rule>,
        trace: Trace,
    ) -> Result<Self, Failure> {
        // Also what buffers hold beyond their packets depends on this run alone.
        FakeBuf::forget_used();
        let mut random = Random::stream(seed, 2);
        let members = plan.snapshot.members().len();
        let mut world = Self {
            now: Nanos::ZERO,
            queue: Queue::new(),
            nodes: Vec::new(),
            status: Vec::new(),
            found: Found::default(),
            opens: Opens::default(),
            trace,
            sticky: Sticky::default(),
            durable: Durable::default(),
            silence: Silence::new(members, plan.workers),
            order: Order::default(),
            cuts: BTreeMap::new(),
            hops: Vec::new(),
            rules: Without(without),
            agree: plan.ecmp_seed.is_multiple_of(4),
            fate: Random::stream(seed, 4),
            fabric: Fabric::new(Random::stream(seed, 3), members),
            healed: false,
            scripts: Scripts::default(),
            current: Map::default(),
            isns: Map::default(),
            timers: vec![None; plan.clients.len()],
            io: FakeIo::default(),
            deeds: Deeds::default(),
            random: random.clone(),
            plan,
        };
        world.raise(&mut random)?;
        world.random = random;
        world.schedule();
        Ok(world)
    }

    /// Makes all members. Ids are dense from 1 in the order of the list, so a node's index is its id − 1.
    fn raise(&mut self, random: &mut Random) -> Result<(), Failure> {
        let members = self.plan.snapshot.members();
        let ids: Vec<(MemberId, MemberRole)> = members.iter().map(|m| (m.id, m.role)).collect();
        for (node, (id, role)) in (0..).zip(ids) {
            let first = self.plan.lists.iter().position(|list| list.member(id).is_some());
            let list = first.unwrap_or(0);
            let made = self.make(node, list, random)?;
            self.nodes.push(made);
            let life = if list == 0 { Life::Up } else { Life::Down };
            self.status.push(Status::new(life, list));
            if role == MemberRole::Ingress && life == Life::Up {
                self.hops.push(node);
            }
        }
        Ok(())
    }

    /// Makes one member, with nothing that it had before.
    fn make(&self, node: u16, list: usize, random: &mut Random) -> Result<Node, Failure> {
        let (now, bounds, rules) = (self.local(node, self.now), self.plan.bounds, self.rules);
        let snapshot = &self.plan.lists[list];
        let member = &self.plan.snapshot.members()[usize::from(node)];
        let boot = BootId(random.next());
        let workers = (0..self.plan.workers).map(WorkerId);
        Ok(match member.role {
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
                    let role = Ingress::new(config, Arc::clone(snapshot), rules, now);
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
                    let own = u64::from(member.id.as_u16()) << 48 | boot.0 >> 24;
                    let salt = if self.agree { 0 } else { own };
                    let role = Tracker::new(config, Arc::clone(snapshot), rules, now);
                    let role = role.map(|tracker| tracker.with_salt(salt));
                    role.map(Worker::new).map_err(|_| Failure::Pool)
                };
                Node::Tracker(workers.map(make).collect::<Result<_, _>>()?)
            }
            MemberRole::Backend => {
                let stack = self.stack(member.id, random);
                let words = (boot, random.next());
                let b = Backend::new(member.id, snapshot, (rules, bounds), words, stack, self.now);
                Node::Backend(Box::new(b))
            }
        })
    }

    fn stack(&self, id: MemberId, random: &mut Random) -> Stack {
        let mut stack = Stack::new(Random::new(random.next()), self.plan.patience);
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
            if self.life(node) == Life::Down {
                continue;
            }
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
        for &(at, client) in &self.plan.strays {
            self.queue.push(at, Event::Stray { client });
        }
        for &(at, node, away) in &self.plan.restarts {
            self.queue.push(at, Event::Restart { node, away });
        }
        for (n, &(at, _)) in self.plan.faults.iter().enumerate() {
            self.queue.push(at, Event::Fault { n });
        }
        self.queue.push(Nanos::ZERO, Event::Watch);
        self.queue.push(self.plan.heal, Event::Heal);
        self.queue.push(self.plan.heal, Event::Look);
    }

    /// The next event. `false` when it says that it is time to look whether all is over.
    pub(crate) fn step(&mut self) -> bool {
        let Some((now, event)) = self.queue.pop() else { return false };
        self.now = now;
        match event {
            Event::Arrive { link, packet, answers } => self.arrive(link, packet, answers),
            Event::Poll { node, worker } => self.poll(node, worker),
            Event::Tick { node, worker } => self.tick(node, worker),
            Event::Stack { node } => self.stack_tick(node),
            Event::Daemon { node } => self.daemon_tick(node),
            Event::Begin { client } => self.begin(client),
            Event::ClientTimer { client } => self.client_timer(client),
            Event::Spoof { client } => self.spoof(client),
            Event::Stray { client } => self.stray(client),
            Event::Restart { node, away } => self.restart(node, away),
            Event::Return { node } => {
                self.trace.event(now, node.into(), &[], || "servers are back".to_owned());
                if let Some(b) = self.backend(node) {
                    b.stack.start();
                }
            }
            Event::Fault { n } => self.strike(n),
            Event::Boot { node, turn } => self.boot(node, turn),
            Event::Resume { node, turn } => self.resume(node, turn),
            Event::DaemonBack { node, starts } => self.daemon_back(node, starts),
            Event::CutEnds { fault } => self.cut_ends(fault),
            Event::Missed { node } => self.lose_hop(node),
            Event::Hop { node } => self.gain_hop(node),
            Event::List { node, list } => self.list(node, list),
            Event::Stop { node } => self.stop(node),
            Event::Collect { node, starts, collect } => self.collect(node, starts, collect),
            Event::Agent { node, starts, event } => self.agent(node, starts, *event),
            Event::Watch => {
                self.watch();
                if now < self.plan.heal + WATCHED {
                    self.queue.push(now + WATCH, Event::Watch);
                }
            }
            Event::Heal => {
                self.healed = true;
                self.mend();
                self.plan.inside = Faults::none();
                self.plan.outside = Faults::none();
                self.plan.bad_links.clear();
                self.plan.deaf_links.clear();
                self.plan.slow_links.clear();
                self.plan.late_votes = Nanos::ZERO;
                self.plan.late_orders.clear();
                self.plan.no_buffer = 0;
                self.trace.event(now, 0, &[], || "healed".to_owned());
            }
            Event::Look => return false,
        }
        true
    }

    /// What the clock of an ingress host or tracker says then.
    fn local(&self, node: u16, at: Nanos) -> Nanos {
        match self.drift(node) {
            0 => at,
            drift => Nanos((u128::from(at.0) * speed(drift) / 1_000_000) as u64),
        }
    }

    /// When that clock says so.
    fn global(&self, node: u16, local: Nanos) -> Nanos {
        match self.drift(node) {
            0 => local,
            drift => Nanos((u128::from(local.0) * 1_000_000).div_ceil(speed(drift)) as u64),
        }
    }

    /// What all clocks say.
    fn clocks(&self) -> Vec<Nanos> {
        (0..self.nodes.len() as u16).map(|node| self.local(node, self.now)).collect()
    }

    fn drift(&self, node: u16) -> i64 {
        match self.nodes.get(usize::from(node)) {
            Some(Node::Backend(_)) => 0,
            Some(Node::Ingress(_) | Node::Tracker(_)) | None => {
                self.plan.drift.get(usize::from(node)).copied().unwrap_or(0)
            }
        }
    }

    fn workers(&self, node: u16) -> u8 {
        match self.nodes[usize::from(node)] {
            Node::Ingress(_) | Node::Tracker(_) => self.plan.workers,
            Node::Backend(_) => 1,
        }
    }

    /// Lets so much time pass that ingress hosts have dropped what nobody used: their entries are only a cache.
    pub(crate) fn coast_of_ingress(&mut self, time: Nanos) {
        const STEP: Nanos = Nanos::from_secs(10);
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + STEP;
            let mut io = FakeIo::default();
            let clocks = self.clocks();
            for (node, now) in self.nodes.iter_mut().zip(clocks) {
                if let Node::Ingress(workers) = node {
                    for _ in 0..8 {
                        workers.iter_mut().for_each(|w| w.tick(now, &mut io));
                        io.sent.clear();
                    }
                }
            }
        }
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
            let clocks = self.clocks();
            for ((node, status), now) in self.nodes.iter_mut().zip(&self.status).zip(clocks) {
                if status.life == Life::Down {
                    continue;
                }
                for _ in 0..TICKS {
                    match node {
                        Node::Ingress(w) => w.iter_mut().for_each(|w| w.tick(now, &mut io)),
                        Node::Tracker(w) => w.iter_mut().for_each(|w| w.tick(now, &mut io)),
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

/// Local time in a second, in microseconds.
const fn speed(drift: i64) -> u128 {
    (1_000_000 + drift) as u128
}

fn name(plan: &Plan, node: u16) -> &str {
    plan.snapshot.members().get(usize::from(node)).map_or("clients", |m| &m.name)
}
