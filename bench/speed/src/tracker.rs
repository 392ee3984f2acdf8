//! `jlb-bench tracker`: what one new flow costs at the flow tracker that places it.

use jlb_dpdk::Eal;
use jlb_flowtracker_core::{Tracker, TrackerConfig};
use jlb_map::Policy;
use jlb_role::{AllRules, Burst, Nanos, PacketBuf, Report, WorkerId};
use jlb_wire::{
    BootId, Control, FiveTuple, Flags, Incarnation, Kind, MAX_FLOW_HEADERS, MemberId, Protocol,
    flow_headers,
};

use crate::check::{self, Expected};
use crate::circuit::Circuit;
use crate::hotpath::{PATIENCE, median, start};
use crate::machine::{Borrowed, Machine};
use crate::members::{Members, Read};
use crate::rig::FILL;
use crate::traffic::{Draw, ETHERNET, LONGEST, MOST_FLOWS, Traffic};
use crate::{SpeedError, site};

/// Flows that are opened, accepted and closed in one round. Of each message five cache lines of packet memory are touched
/// (the buffer's head, outer headers, the option, the inner packet): 2.5 MiB, more than an L2 cache of 2 MiB.
const ROUND: usize = 8192;
/// Rounds are not counted before so much time has passed: then closed flows go as fast as new ones come, and so do the
/// tombstones, which stand for 4 s.
const STEADY: Nanos = Nanos::from_millis(4500);
/// As many as the daemon's default.
const PENDING: usize = 65_536;
const REMEMBERED: usize = 262_144;
/// Room for closed flows, of which something is left for 2 s, and for their tombstones: a round takes some 50 ms, most of it
/// the bench's own. Where it is faster, it waits.
const CLOSED: usize = 64 * ROUND;
const TOMBSTONES: usize = 2 * CLOSED;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct NewFlows {
    /// Flows that are established all the time: 1 to 2²⁷.
    pub flows: u32,
    /// IPv6 inside and outside.
    pub v6: bool,
    /// By which the tracker picks one of 64 backends.
    pub policy: Policy,
    /// Rounds of 8192 flows.
    pub rounds: u32,
}

/// What came of it. Times are in nanoseconds per flow, without the bench's own.
#[derive(Clone, Debug)]
pub struct NewFlowFigures {
    /// Open, Accept and Close together: the fastest round.
    pub best_ns: f64,
    /// The median round.
    pub median_ns: f64,
    /// Each of the three: its fastest round.
    pub kinds_ns: [f64; 3],
    /// What the bench itself takes for three messages, which the others do not contain.
    pub harness_ns: f64,
    /// Bytes that the process grew by while a tracker was made with the daemon's defaults and filled to 90 % of its
    /// capacity, per flow.
    pub bytes_per_flow: f64,
    /// Flows that are established.
    pub flows: u64,
    /// Flows that were opened, accepted and closed while it was measured.
    pub opened: u64,
    /// Messages of one round that were compared, byte by byte.
    pub verified: u64,
    /// What it was measured on.
    pub machine: Machine,
}

/// Measures. Takes the process's DPDK: once per process.
///
/// # Errors
/// [`SpeedError`], also when a message comes out wrong, and when a flow does not stay.
pub fn run_tracker(options: &NewFlows) -> Result<NewFlowFigures, SpeedError> {
    if options.flows == 0 || options.flows > MOST_FLOWS / 2 {
        return Err(SpeedError::TooManyFlows(options.flows));
    }
    let borrowed = Borrowed::hugepages(2 * Rig::MEMORY_MIB);
    let hugepages = borrowed.is_ok();
    let eal = start(1, 2 * Rig::MEMORY_MIB, hugepages)?;
    let (eal_too, options) = (eal.clone(), *options);
    let measured = eal.launch(0, move || {
        let full = u64::from(options.flows) * FILL.1 / FILL.0 + 1;
        let filled = Rig::new(&eal_too, 0, &options, (full as usize, REMEMBERED))?;
        let bytes_per_flow = filled.circuit.grown() as f64 / f64::from(options.flows);
        drop(filled);
        let room = options.flows as usize + CLOSED;
        let figures =
            Rig::new(&eal_too, 1, &options, (room, TOMBSTONES))?.measure(options.rounds)?;
        Ok::<_, SpeedError>(NewFlowFigures { bytes_per_flow, ..figures })
    })?;
    let figures = measured.join(PATIENCE)??;
    drop(borrowed);
    Ok(NewFlowFigures { machine: Machine::here(hugepages), ..figures })
}

/// A message that came out and was believed: who read it, and what it was.
type Heard = (MemberId, Control, FiveTuple);

struct Rig {
    circuit: Circuit<Tracker>,
    traffic: Traffic,
    /// Established flows, and where.
    live: Vec<(u32, MemberId)>,
    /// The next flow that nobody has opened yet.
    next: u32,
    draw: Draw,
    bursts: Vec<Burst<jlb_dpdk::Mbuf>>,
    capacity: usize,
    verified: u64,
}

impl Rig {
    /// Packet memory: two pools of buffers, about 2.4 KiB each.
    const MEMORY_MIB: u32 = 128;
    const BUFFERS: u32 = 2 * ROUND as u32 + 4095;

    /// A tracker that holds so many flows and ends, with all flows established.
    fn new(
        eal: &Eal,
        cable: u8,
        options: &NewFlows,
        (capacity, remembered): (usize, usize),
    ) -> Result<Self, SpeedError> {
        let snapshot = site::snapshot(options.v6, options.policy)?;
        let members = Members::new(site::tracker(), &snapshot, Nanos::ZERO);
        let config = TrackerConfig {
            id: site::tracker(),
            worker: WorkerId(0),
            workers: 1,
            boot: BootId(1),
            seed: 1,
            flow_capacity: capacity,
            pending_capacity: PENDING,
            remembered_capacity: remembered,
        };
        let circuit = Circuit::new(eal, cable, Self::BUFFERS, members, |now| {
            Tracker::new(config, snapshot, AllRules, now)
        })?;
        let mut rig = Self {
            circuit,
            traffic: Traffic { v6: options.v6 },
            live: Vec::with_capacity(options.flows as usize + ROUND),
            next: 0,
            draw: Draw::new(),
            bursts: Vec::new(),
            capacity,
            verified: 0,
        };
        let mut warm = false;
        rig.circuit.acquaint(|lone, id| {
            while let Ok((_, report)) = lone.reports().try_recv() {
                warm = if let Report::Warm(is) = report { is } else { warm };
            }
            warm && lone.role().peers().alive(id)
        })?;
        rig.open_flows(options.flows)?;
        Ok(rig)
    }

    /// Opens the first flows, of all services.
    fn open_flows(&mut self, flows: u32) -> Result<(), SpeedError> {
        while self.next < flows {
            let numbers: Vec<u32> = (self.next..flows.min(self.next + ROUND as u32)).collect();
            self.next += numbers.len() as u32;
            self.open(&numbers, false)?;
        }
        let there = self.circuit.lone.role().counts().established;
        let there = (there[0] + there[1]) as u64;
        if there < u64::from(flows) {
            return Err(SpeedError::LostFlows {
                lost: u64::from(flows) - there,
                flows: flows.into(),
            });
        }
        Ok(())
    }

    fn measure(mut self, rounds: u32) -> Result<NewFlowFigures, SpeedError> {
        let began = self.circuit.clock.now();
        let mut all: Vec<[f64; 3]> = Vec::new();
        let mut last = false;
        while !last {
            self.make_room()?;
            let counts = self.circuit.clock.now().since(began) >= STEADY;
            last = all.len() + 1 == rounds.max(1) as usize;
            let took = self.round(counts && last)?;
            last &= counts;
            all.extend(counts.then_some(took));
        }
        let best = |of: &dyn Fn(&[f64; 3]) -> f64| all.iter().map(of).fold(f64::INFINITY, f64::min);
        let sum = |ns: &[f64; 3]| ns.iter().sum::<f64>();
        let flows = self.circuit.lone.role().counts().established;
        Ok(NewFlowFigures {
            best_ns: best(&sum),
            median_ns: median(all.iter().map(sum)),
            kinds_ns: [0, 1, 2].map(|kind| best(&|ns: &[f64; 3]| ns[kind])),
            harness_ns: 3.0 * self.circuit.harness_ns,
            bytes_per_flow: f64::NAN,
            flows: (flows[0] + flows[1]) as u64,
            opened: (all.len() * ROUND) as u64,
            verified: self.verified,
            machine: Machine::here(false),
        })
    }

    /// New flows are opened and accepted, and as many older ones closed, drawn at random. Gives what each kind of message
    /// cost.
    fn round(&mut self, check: bool) -> Result<[f64; 3], SpeedError> {
        let (from, traffic) = (self.next, self.traffic);
        let tcp = |n: &u32| traffic.tuple(*n).protocol() == Protocol::Tcp;
        let numbers: Vec<u32> = (from..MOST_FLOWS).filter(tcp).take(ROUND).collect();
        let &last = numbers.get(ROUND - 1).ok_or(SpeedError::TooManyFlows(from))?;
        self.next = last + 1;
        let [open, accept] = self.open(&numbers, check)?;
        let close = self.close(check)?;
        Ok([open, accept, close])
    }

    /// What is left of closed flows must not fill the tables: real time passes until it does not.
    fn make_room(&mut self) -> Result<(), SpeedError> {
        loop {
            let counts = self.circuit.lone.role().counts();
            let entries = counts.established.into_iter().chain(counts.closing).sum::<usize>();
            let room = self.capacity - entries.min(self.capacity);
            if room >= 2 * ROUND && counts.tombstones + 2 * ROUND <= TOMBSTONES {
                return Ok(());
            }
            self.settle()?;
        }
    }

    /// Opens flows. Gives what Open and Accept cost.
    fn open(&mut self, numbers: &[u32], check: bool) -> Result<[f64; 2], SpeedError> {
        for &n in numbers {
            let mut frame = [0; LONGEST];
            self.traffic.write(n, true, ([0; 6], [0; 6]), &mut frame);
            let packet = &frame[ETHERNET..][..self.traffic.length(n)];
            let message = self.circuit.members.open(packet, n);
            self.put(message)?;
        }
        let opened = self.timed(numbers.len())?;
        let opens = self.heard(&opened.0, Kind::Open, numbers, check)?;
        for (_, open, tuple) in &opens {
            let message = self.circuit.members.accept_by_second(open, tuple);
            self.put(message)?;
        }
        let accepted = self.timed(numbers.len())?;
        let accepts = self.heard(&accepted.0, Kind::Accept, numbers, check)?;
        self.live.extend(numbers.iter().zip(&accepts).map(|(&n, (_, a, _))| (n, a.sender)));
        self.settle()?;
        Ok([opened.1, accepted.1])
    }

    /// Closes as many flows as a round opens.
    fn close(&mut self, check: bool) -> Result<f64, SpeedError> {
        let mut numbers = Vec::with_capacity(ROUND);
        for _ in 0..ROUND {
            let at = self.draw.below(self.live.len() as u32) as usize;
            let (n, backend) = self.live.swap_remove(at);
            let message =
                self.circuit.members.close(&self.traffic.tuple(n), (backend, Incarnation(n)));
            self.put(message)?;
            numbers.push(n);
        }
        let closed = self.timed(ROUND)?;
        self.heard(&closed.0, Kind::Close, &numbers, check)?;
        self.settle()?;
        Ok(closed.1)
    }

    /// Adds a message to what will be sent.
    fn put(&mut self, message: Option<jlb_role::FakeBuf>) -> Result<(), SpeedError> {
        let message = message.ok_or(SpeedError::NoBuffer)?;
        let frame = self.circuit.frame(message.bytes())?;
        if self.bursts.last().is_none_or(Burst::is_full) {
            self.bursts.push(Burst::new());
        }
        if let Some(burst) = self.bursts.last_mut() {
            burst.push(frame);
        }
        Ok(())
    }

    /// Sends all of that. Gives the frames that came out, and what each message cost.
    fn timed(&mut self, messages: usize) -> Result<(Vec<jlb_dpdk::Mbuf>, f64), SpeedError> {
        let mut bursts = core::mem::take(&mut self.bursts);
        self.circuit.out.reserve(2 * ROUND);
        let began = std::time::Instant::now();
        for burst in &mut bursts {
            self.circuit.turn(burst);
        }
        let ns = began.elapsed().as_secs_f64() * 1e9 / messages as f64;
        Ok((core::mem::take(&mut self.circuit.out), ns - self.circuit.harness_ns))
    }

    /// Lets the members read what came out: of each flow one message of that kind, in order, and whatever else.
    fn heard(
        &mut self,
        out: &[jlb_dpdk::Mbuf],
        kind: Kind,
        numbers: &[u32],
        check: bool,
    ) -> Result<Vec<Heard>, SpeedError> {
        let now = self.circuit.clock.now();
        let mut all = Vec::with_capacity(numbers.len());
        for frame in out {
            let ip = frame.bytes().get(ETHERNET..).unwrap_or_default();
            let (to, control, tuple) = match self.circuit.members.read(now, ip) {
                Read::Message(to, control, tuple) if control.kind == kind => (to, control, tuple),
                Read::Refused(why) => return Err(SpeedError::Refused(why)),
                // On a crowded machine a Cancel may come in between.
                Read::Message(..) | Read::Data | Read::Other => continue,
            };
            let packet = all.len();
            let wrong = |what| SpeedError::Wrong { packet, what };
            let Some(&n) = numbers.get(packet) else { continue };
            says(&control, &tuple, n).map_err(wrong)?;
            if check {
                self.compare(frame.bytes(), (to, &control, &tuple)).map_err(wrong)?;
                self.verified += 1;
            }
            all.push((to, *control, tuple));
        }
        if all.len() == numbers.len() {
            Ok(all)
        } else {
            Err(SpeedError::Lost { sent: numbers.len(), came: all.len() })
        }
    }

    /// Whether all around a message is what it must be, and the packet in it.
    fn compare(
        &self,
        frame: &[u8],
        (to, control, tuple): (MemberId, &Control, &FiveTuple),
    ) -> Result<(), String> {
        let members = &self.circuit.members;
        let expected = Expected {
            snapshot: members.snapshot(),
            from: (site::tracker(), self.circuit.mac),
            to,
            source_port: members.entropy(tuple),
        };
        let geneve = check::outer(frame, &expected)?;
        let n = Traffic::number(tuple);
        if control.kind == Kind::Open {
            let mut bytes = [0; LONGEST];
            self.traffic.write(n, true, ([0; 6], [0; 6]), &mut bytes);
            return check::control(geneve, &bytes[ETHERNET..][..self.traffic.length(n)]);
        }
        let mut headers = [0; MAX_FLOW_HEADERS];
        let len = flow_headers(tuple, control.incarnation, &mut headers);
        check::control(geneve, &headers[..len])
    }

    fn settle(&mut self) -> Result<(), SpeedError> {
        self.circuit.settle(|_, read| match read {
            Read::Refused(why) => Err(SpeedError::Refused(why)),
            Read::Message(..) | Read::Data | Read::Other => Ok(false),
        })?;
        while self.circuit.lone.reports().try_recv().is_ok() {}
        Ok(())
    }
}

/// Whether a message is about that flow, and says of it what it must.
fn says(control: &Control, tuple: &FiveTuple, n: u32) -> Result<(), String> {
    let of = Traffic::number(tuple);
    let Control { ingress, head, backend, cookie, .. } = *control;
    let (us, its) = (Some(site::tracker()), Some(site::ingress()));
    let right = match control.kind {
        Kind::Open => (ingress, head, cookie) == (its, us, n) && backend.is_some(),
        Kind::Accept => (ingress, head, cookie, backend) == (its, us, n, Some(control.sender)),
        Kind::Close => control.flags.has(Flags::ACK) && control.sender == site::tracker(),
        Kind::Reject | Kind::Cancel | Kind::Query | Kind::State | Kind::NotMine => false,
    };
    if of == n && right { Ok(()) } else { Err(format!("flow {of} instead of {n}: {control:?}")) }
}
