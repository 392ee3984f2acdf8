//! The ingress of one worker, with the flows whose packets are measured.

use std::sync::Barrier;
use std::time::Instant;

use jlb_dpdk::{Eal, Mbuf};
use jlb_ingress_core::{Ingress, IngressConfig};
use jlb_map::Policy;
use jlb_role::{AllRules, BURST, Burst, Nanos, PacketBuf, WorkerId};
use jlb_wire::{BootId, Content, FiveTuple, Kind, Outer, Protocol};

use crate::check::{self, Expected};
use crate::circuit::{Circuit, US};
use crate::hotpath::Hotpath;
use crate::members::{Members, Read};
use crate::traffic::{Draw, ETHERNET, LONGEST, MOST_FLOWS, Traffic, What};
use crate::{SpeedError, site};

/// Packets of a round at most.
const MOST: usize = 16_384;
/// Rounds before the first that counts.
const WARM_UP: u32 = 3;
/// The tables are filled to 90 % of their capacity.
pub(crate) const FILL: (u64, u64) = (9, 10);
/// As many as the daemon's default.
const PENDING: usize = 16_384;
/// Flows that are opened at once, before the tick that would ask again.
const OPENED_AT_ONCE: usize = 8 * BURST;

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
    circuit: Circuit<Ingress<Mbuf>>,
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
        let snapshot = site::snapshot(options.v6, Policy::default())?;
        let traffic = Traffic { v6: options.v6 };
        let members = Members::new(site::ingress(), &snapshot, Nanos::ZERO);
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
        let circuit = Circuit::new(eal, worker, Self::BUFFERS, members, |now| {
            Ingress::new(config, snapshot, AllRules, now)
        })?;
        let harness_ns = circuit.harness_ns;
        let mut rig = Self {
            circuit,
            traffic,
            what: options.what,
            flows,
            fresh: fresh.into_iter(),
            draw: Draw::new(),
            bursts: std::iter::repeat_with(Burst::new).take(options.what.round() / BURST).collect(),
            numbers: Vec::new(),
            measured: Measured { capacity, harness_ns, ..Measured::default() },
        };
        rig.circuit.acquaint(|lone, id| lone.role().peers().alive(id))?;
        if options.what != What::Egress {
            rig.open_flows()?;
        }
        let grown = rig.circuit.grown();
        rig.measured.bytes_per_flow = grown as f64 / rig.flows.len() as f64;
        // Not before, since it is the bench's.
        rig.numbers.reserve(MOST);
        rig.circuit.out.reserve(2 * MOST);
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
                let (ends, snapshot) = ((self.circuit.mac.0, US), self.circuit.members.snapshot());
                let len = match self.what {
                    What::Egress => self.traffic.write_reply(n, snapshot, ends, &mut bytes),
                    What::Data => self.traffic.write(n, false, ends, &mut bytes),
                    What::Syn => self.traffic.write(n, true, ends, &mut bytes),
                };
                let frame = self.circuit.cable.frame(&bytes[..len]).ok_or(SpeedError::NoBuffer)?;
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
            self.circuit.turn(burst);
        }
        began.elapsed().as_secs_f64()
    }

    /// Looks at what came out of a part, frees it, and lets the members have their say.
    fn drain(&mut self, part: usize, check: bool) -> Result<(), SpeedError> {
        let out = core::mem::take(&mut self.circuit.out);
        let now = self.circuit.clock.now();
        let sent = self.what.part();
        let first = part * sent;
        let mut came = 0;
        for frame in &out {
            let ip = frame.bytes().get(ETHERNET..).unwrap_or_default();
            let outer = Outer::parse(ip, self.circuit.members.snapshot().geneve_port());
            let plain = outer.is_ok_and(|o| matches!(o.content, Content::Plain { .. }));
            let measured = match self.what {
                What::Data if plain => true,
                What::Egress if frame.bytes().starts_with(&site::GATEWAY.0) => true,
                What::Data | What::Egress => {
                    self.heard(now, ip)?;
                    false
                }
                // On a crowded machine it may take longer than 25 ms, and then Opens come again.
                What::Syn => {
                    let opened = self.heard(now, ip)?;
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
        self.circuit.out = out;
        self.circuit.out.clear();
        self.settle()
    }

    fn heard(&mut self, now: Nanos, ip: &[u8]) -> Result<Option<u32>, SpeedError> {
        let read = self.circuit.members.read(now, ip);
        answer(&mut self.circuit.members, read)
    }

    /// Whether the frame is what must come of that packet of the round.
    fn check(&self, packet: usize, frame: &[u8]) -> Result<(), SpeedError> {
        let n = self.numbers.get(packet).copied().unwrap_or_default();
        if self.what == What::Egress {
            let mut inner = [0; LONGEST];
            let len = self.traffic.reply(n, &mut inner);
            let ends = (site::GATEWAY.0, self.circuit.mac.0);
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
            What::Syn => self.circuit.members.head(&tuple),
        };
        let checked = to.ok_or_else(|| "a flow without trackers".to_owned()).and_then(|to| {
            let expected = Expected {
                snapshot: self.circuit.members.snapshot(),
                from: (site::ingress(), self.circuit.mac),
                to,
                source_port: self.circuit.members.entropy(&tuple),
            };
            let geneve = check::outer(frame, &expected)?;
            match self.what {
                What::Data | What::Egress => check::data(geneve, inner, &tuple),
                // The option with its MAC was read by the tracker.
                What::Syn => check::control(geneve, inner),
            }
        });
        checked.map_err(|what| SpeedError::Wrong { packet, what })
    }

    fn settle(&mut self) -> Result<(), SpeedError> {
        self.circuit.settle(|members, read| Ok(answer(members, read)?.is_some()))?;
        while self.circuit.lone.reports().try_recv().is_ok() {}
        Ok(())
    }

    fn open_flows(&mut self) -> Result<(), SpeedError> {
        let began = Instant::now();
        let flows = core::mem::take(&mut self.flows);
        for chunk in flows.chunks(OPENED_AT_ONCE) {
            for chunk in chunk.chunks(BURST) {
                let mut burst = Burst::new();
                for &n in chunk {
                    let mut bytes = [0; LONGEST];
                    let len = self.traffic.write(n, true, (self.circuit.mac.0, US), &mut bytes);
                    burst
                        .push(self.circuit.cable.frame(&bytes[..len]).ok_or(SpeedError::NoBuffer)?);
                }
                self.circuit.turn(&mut burst);
            }
            let now = self.circuit.clock.now();
            for frame in core::mem::take(&mut self.circuit.out) {
                let ip = frame.bytes().get(ETHERNET..).unwrap_or_default();
                let members = &mut self.circuit.members;
                let read = members.read(now, ip);
                answer(members, read)?;
            }
            self.settle()?;
        }
        self.flows = flows;
        let (flows, there) =
            (self.flows.len() as u64, self.circuit.lone.role().flows().established);
        self.measured.flows = flows;
        self.measured.open_ns = began.elapsed().as_secs_f64() * 1e9 / flows as f64;
        if there == flows {
            Ok(())
        } else {
            Err(SpeedError::LostFlows { lost: flows - there, flows })
        }
    }
}

/// What a member has read: if it was an Open, its flow gets a backend. Which flow it was.
pub(crate) fn answer(members: &mut Members, read: Read) -> Result<Option<u32>, SpeedError> {
    match read {
        Read::Message(_, open, tuple) if open.kind == Kind::Open => {
            let n = Traffic::number(&tuple);
            members.accept(&open, &tuple, site::backend_of(n));
            Ok(Some(n))
        }
        Read::Message(..) | Read::Data | Read::Other => Ok(None),
        Read::Refused(why) => Err(SpeedError::Refused(why)),
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
