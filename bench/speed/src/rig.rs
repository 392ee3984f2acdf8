//! One worker on its cable, with the cluster around it.

use std::sync::Barrier;
use std::time::Instant;

use jlb_dpdk::{Eal, Mbuf, Mempool, ROOM};
use jlb_ingress_core::{Ingress, IngressConfig};
use jlb_role::{AllRules, BURST, Burst, Nanos, PacketBuf, WorkerId};
use jlb_runtime::{Clock, Lone, MacAddr};
use jlb_wire::{BootId, Content, FiveTuple, Outer, Protocol};

use crate::cable::Cable;
use crate::check::{self, Expected};
use crate::hotpath::Hotpath;
use crate::machine::resident;
use crate::members::{Members, Read};
use crate::traffic::{Draw, ETHERNET, LONGEST, MOST_FLOWS, Traffic, What};
use crate::{SpeedError, site};

/// Packets of a round at most.
const MOST: usize = 16_384;
/// Rounds before the first that counts.
const WARM_UP: u32 = 3;
/// The tables are filled to 90 % of their capacity.
const FILL: (u64, u64) = (9, 10);
/// As many as the daemon's default.
const PENDING: usize = 16_384;
/// Flows that are opened at once, before the tick that would ask again.
const OPENED_AT_ONCE: usize = 8 * BURST;
/// The bench's own address.
const US: [u8; 6] = [2, 0, 0, 0, 0xff, 0xfe];
/// What the members need to ask each other: agents ask once a second.
const ACQUAINTED: Nanos = Nanos::from_secs(5);

/// What one worker measured, in nanoseconds per packet.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) alone: Vec<f64>,
    /// At the same time as the other workers, after the round of the same number in `alone`.
    pub(crate) together: Vec<f64>,
    pub(crate) harness_ns: f64,
    pub(crate) open_ns: f64,
    pub(crate) bytes_per_flow: f64,
    pub(crate) flows: u64,
    pub(crate) capacity: u64,
    pub(crate) packets: u64,
    pub(crate) verified: u64,
}

pub(crate) struct Rig {
    lone: Lone<Ingress<Mbuf>>,
    clock: Clock,
    mac: MacAddr,
    cable: Cable,
    members: Members,
    traffic: Traffic,
    what: What,
    /// Established flows of this worker.
    flows: Vec<u32>,
    /// Flows of this worker that SYNs will open.
    fresh: std::vec::IntoIter<u32>,
    draw: Draw,

    /// The round that comes, and which flow each of its packets is of.
    bursts: Vec<Burst<Mbuf>>,
    numbers: Vec<u32>,
    out: Vec<Mbuf>,
    measured: Measured,
}

impl What {
    /// Packets of a round. Of each, three cache lines are touched (the buffer's head, the packet, the new headers in front
    /// of it), and for a SYN as many and the option's two of its Open: 3 and 4 MiB, more than an L2 cache of 2 MiB.
    pub(crate) const fn round(self) -> usize {
        match self {
            Self::Data | Self::Egress => MOST,
            Self::Syn => MOST / 2,
        }
    }

    /// Packets that are measured in one go: SYNs are answered before they time out.
    const fn part(self) -> usize {
        match self {
            Self::Data | Self::Egress => MOST,
            Self::Syn => 1024,
        }
    }
}

impl Rig {
    /// Packet memory that one worker takes: two pools of buffers, about 2.4 KiB each.
    pub(crate) const MEMORY_MIB: u32 = 256;
    const BUFFERS: u32 = MOST as u32 + 4095;

    /// Flows that a worker's SYNs open in so many rounds.
    pub(crate) const fn new_flows(rounds: u32) -> u32 {
        (rounds + WARM_UP + 1) * What::Syn.round() as u32
    }

    /// A worker whose flows are all established.
    pub(crate) fn new(eal: &Eal, worker: u8, options: &Hotpath) -> Result<Self, SpeedError> {
        let snapshot = site::snapshot(options.v6)?;
        let traffic = Traffic { v6: options.v6 };
        let (mut cable, mut queues) = Cable::new(eal, worker, Self::BUFFERS)?;
        let harness_ns = cable.cost(&mut queues.0)?;
        let members = Members::new(&snapshot, Nanos::ZERO);
        let (flows, fresh) = own_flows(worker, options, &members, traffic);
        let capacity = (flows.len() + fresh.len()) as u64 * FILL.1 / FILL.0 + 1;
        let config = IngressConfig {
            id: site::ingress(),
            worker: WorkerId(worker),
            workers: options.workers,
            boot: BootId(1),
            seed: 1,
            flow_capacity: capacity as usize,
            pending_capacity: if fresh.is_empty() { PENDING } else { 2 * PENDING },
        };
        let (clock, link) = (Clock::start(), cable.link());
        let pool = Mempool::new(eal, Self::BUFFERS, ROOM)?;
        let neighbours = site::neighbours(&snapshot);
        let before = resident();
        let role = Ingress::new(config, snapshot, AllRules, clock.now())?;
        let lone = Lone::new(role, queues, link, pool, &neighbours, clock);
        let mut rig = Self {
            lone,
            clock,
            mac: link.0,
            cable,
            members,
            traffic,
            what: options.what,
            flows,
            fresh: fresh.into_iter(),
            draw: Draw::new(),
            bursts: std::iter::repeat_with(Burst::new).take(options.what.round() / BURST).collect(),
            numbers: Vec::new(),
            out: Vec::new(),
            measured: Measured { capacity, harness_ns, ..Measured::default() },
        };
        rig.acquaint()?;
        if options.what != What::Egress {
            rig.open_flows()?;
        }
        let grown = resident().saturating_sub(before);
        rig.measured.bytes_per_flow = grown as f64 / rig.flows.len() as f64;
        // Not before, since it is the bench's.
        rig.numbers.reserve(MOST);
        rig.out.reserve(2 * MOST);
        Ok(rig)
    }

    /// Measures so many rounds, each followed by one together with the other workers, if there are any.
    pub(crate) fn measure(
        mut self,
        first: bool,
        options: &Hotpath,
        barrier: &Barrier,
    ) -> Result<Measured, SpeedError> {
        let mut failed = None;
        for n in 0..WARM_UP + options.rounds {
            // Whoever fails goes on to the end: the others wait at the barrier.
            let check = n == WARM_UP;
            let mut round = |rig: &mut Self, turn: bool| {
                let mut done = rig.fill();
                let mut seconds = 0.0;
                for part in 0..rig.what.round() / rig.what.part() {
                    barrier.wait();
                    seconds += if turn { rig.timed(part) } else { 0.0 };
                    barrier.wait();
                    done = done.and_then(|()| if turn { rig.drain(part, check) } else { Ok(()) });
                }
                failed = failed.take().or(done.err());
                seconds * 1e9 / rig.what.round() as f64 - rig.measured.harness_ns
            };
            let alone = round(&mut self, first);
            if n >= WARM_UP {
                self.measured.alone.push(alone);
            }
            if options.workers > 1 {
                let together = round(&mut self, true);
                if n >= WARM_UP {
                    self.measured.together.push(together);
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(self.measured),
        }
    }

    /// Writes a round's packets, unless there are some.
    fn fill(&mut self) -> Result<(), SpeedError> {
        if !self.bursts[0].is_empty() {
            return Ok(());
        }
        self.numbers.clear();
        for burst in &mut self.bursts {
            for _ in 0..BURST {
                let n = match self.what {
                    What::Data | What::Egress => {
                        self.flows[self.draw.below(self.flows.len() as u32) as usize]
                    }
                    What::Syn => self.fresh.next().unwrap_or_default(),
                };
                let mut bytes = [0; LONGEST];
                let (ends, snapshot) = ((self.mac.0, US), self.members.snapshot());
                let len = match self.what {
                    What::Egress => self.traffic.write_reply(n, snapshot, ends, &mut bytes),
                    What::Data => self.traffic.write(n, false, ends, &mut bytes),
                    What::Syn => self.traffic.write(n, true, ends, &mut bytes),
                };
                let frame = self.cable.frame(&bytes[..len]).ok_or(SpeedError::NoBuffer)?;
                burst.push(frame);
                self.numbers.push(n);
            }
        }
        Ok(())
    }

    /// What is measured: seconds for a part of the round.
    fn timed(&mut self, part: usize) -> f64 {
        let bursts = self.what.part() / BURST;
        let began = Instant::now();
        for burst in &mut self.bursts[part * bursts..][..bursts] {
            self.cable.put(burst);
            self.lone.turn();
            self.cable.take(&mut self.out);
        }
        began.elapsed().as_secs_f64()
    }

    /// Looks at what came out of a part, frees it, and lets the members have their say.
    fn drain(&mut self, part: usize, check: bool) -> Result<(), SpeedError> {
        let out = core::mem::take(&mut self.out);
        let now = self.clock.now();
        let sent = self.what.part();
        let first = part * sent;
        let mut came = 0;
        for frame in &out {
            let ip = frame.bytes().get(ETHERNET..).unwrap_or_default();
            let outer = Outer::parse(ip, self.members.snapshot().geneve_port());
            let plain = outer.is_ok_and(|o| matches!(o.content, Content::Plain { .. }));
            let measured = match self.what {
                What::Data if plain => true,
                What::Egress if frame.bytes().starts_with(&site::GATEWAY.0) => true,
                What::Data | What::Egress => {
                    self.answer(now, ip)?;
                    false
                }
                // On a crowded machine it may take longer than 25 ms, and then Opens come again.
                What::Syn => {
                    let opened = self.answer(now, ip)?;
                    opened.is_some() && opened == self.numbers.get(first + came).copied()
                }
            };
            if measured {
                if check {
                    self.check(first + came, frame.bytes())?;
                }
                came += 1;
            }
        }
        if came != sent {
            return Err(SpeedError::Lost { sent, came });
        }
        self.measured.packets += sent as u64;
        if check {
            self.measured.verified += sent as u64;
        }
        self.out = out;
        self.out.clear();
        self.settle()
    }

    /// A member takes a packet. If it was an Open, its flow gets a backend: which flow it was.
    fn answer(&mut self, now: Nanos, ip: &[u8]) -> Result<Option<u32>, SpeedError> {
        match self.members.read(now, ip) {
            Read::Open(open, tuple) => {
                let n = Traffic::number(&tuple);
                self.members.accept(&open, &tuple, site::backend_of(n));
                Ok(Some(n))
            }
            Read::Data | Read::Other => Ok(None),
            Read::Refused(why) => Err(SpeedError::Refused(why)),
        }
    }

    /// Whether the frame is what must come of that packet of the round.
    fn check(&self, packet: usize, frame: &[u8]) -> Result<(), SpeedError> {
        let n = self.numbers.get(packet).copied().unwrap_or_default();
        if self.what == What::Egress {
            let mut inner = [0; LONGEST];
            let len = self.traffic.reply(n, &mut inner);
            let ends = (site::GATEWAY.0, self.mac.0);
            return check::bare(frame, ends, &inner[..len], self.traffic.v6)
                .map_err(|what| SpeedError::Wrong { packet, what });
        }
        let tuple: FiveTuple = self.traffic.tuple(n);
        let mut bytes = [0; LONGEST];
        let opens = self.what == What::Syn;
        self.traffic.write(n, opens, ([0; 6], [0; 6]), &mut bytes);
        let inner = &bytes[ETHERNET..][..self.traffic.length(n)];
        let to = match self.what {
            What::Data | What::Egress => Some(site::backend_of(n)),
            What::Syn => self.members.head(&tuple),
        };
        let checked = to.ok_or_else(|| "a flow without trackers".to_owned()).and_then(|to| {
            let expected = Expected {
                snapshot: self.members.snapshot(),
                from: self.mac,
                to,
                source_port: self.members.entropy(&tuple),
            };
            let geneve = check::outer(frame, &expected)?;
            match self.what {
                What::Data | What::Egress => check::data(geneve, inner, &tuple),
                // The option with its MAC was read by the tracker.
                What::Syn => check::open(geneve, inner),
            }
        });
        checked.map_err(|what| SpeedError::Wrong { packet, what })
    }

    /// Carries what the members have to say to the worker, and back, until nobody says anything.
    fn settle(&mut self) -> Result<(), SpeedError> {
        loop {
            let now = self.clock.now();
            self.members.tick(now);
            let mut quiet = true;
            let ether_type: [u8; 2] = if self.traffic.v6 { [0x86, 0xdd] } else { [8, 0] };
            let mut packets = self.members.sent().into_iter().peekable();
            while packets.peek().is_some() {
                quiet = false;
                let mut burst = Burst::new();
                for b in packets.by_ref().take(BURST) {
                    let bytes = [&self.mac.0[..], &US, &ether_type, b.bytes()].concat();
                    burst.push(self.cable.frame(&bytes).ok_or(SpeedError::NoBuffer)?);
                }
                self.cable.put(&mut burst);
                self.lone.turn();
                self.cable.take(&mut self.out);
            }
            self.lone.turn();
            self.cable.take(&mut self.out);
            for frame in core::mem::take(&mut self.out) {
                let ip = frame.bytes().get(ETHERNET..).unwrap_or_default();
                quiet &= self.answer(now, ip)?.is_none();
            }
            while self.lone.reports().try_recv().is_ok() {}
            if quiet {
                return Ok(());
            }
        }
    }

    /// Lets all members find each other.
    fn acquaint(&mut self) -> Result<(), SpeedError> {
        loop {
            self.settle()?;
            let now = self.clock.now();
            let peers = self.lone.role().peers();
            let mut others = self.members.snapshot().members().iter().map(|m| m.id);
            let known = others.all(|id| id == site::ingress() || peers.alive(id));
            if known && self.members.know_the_ingress() {
                return Ok(());
            }
            if now > ACQUAINTED {
                return Err(SpeedError::NotAcquainted);
            }
        }
    }

    fn open_flows(&mut self) -> Result<(), SpeedError> {
        let began = Instant::now();
        let flows = core::mem::take(&mut self.flows);
        for chunk in flows.chunks(OPENED_AT_ONCE) {
            for chunk in chunk.chunks(BURST) {
                let mut burst = Burst::new();
                for &n in chunk {
                    let mut bytes = [0; LONGEST];
                    let len = self.traffic.write(n, true, (self.mac.0, US), &mut bytes);
                    burst.push(self.cable.frame(&bytes[..len]).ok_or(SpeedError::NoBuffer)?);
                }
                self.cable.put(&mut burst);
                self.lone.turn();
                self.cable.take(&mut self.out);
            }
            let now = self.clock.now();
            for frame in core::mem::take(&mut self.out) {
                self.answer(now, frame.bytes().get(ETHERNET..).unwrap_or_default())?;
            }
            self.settle()?;
        }
        self.flows = flows;
        let (flows, there) = (self.flows.len() as u64, self.lone.role().flows().established);
        self.measured.flows = flows;
        self.measured.open_ns = began.elapsed().as_secs_f64() * 1e9 / flows as f64;
        if there == flows {
            Ok(())
        } else {
            Err(SpeedError::LostFlows { lost: flows - there, flows })
        }
    }
}

/// The flows whose packets are this worker's: those that are established, and those that SYNs will open.
fn own_flows(
    worker: u8,
    options: &Hotpath,
    members: &Members,
    traffic: Traffic,
) -> (Vec<u32>, Vec<u32>) {
    let mine = |n: &u32| {
        members.hasher().id(&traffic.tuple(*n)).worker(options.workers) == WorkerId(worker)
    };
    let old: Vec<u32> = (0..options.flows).filter(mine).collect();
    let wanted = match options.what {
        What::Data | What::Egress => 0,
        What::Syn => Rig::new_flows(options.rounds) as usize,
    };
    let numbers =
        (options.flows..MOST_FLOWS).filter(|&n| traffic.tuple(n).protocol() == Protocol::Tcp);
    (old, numbers.filter(mine).take(wanted).collect())
}
