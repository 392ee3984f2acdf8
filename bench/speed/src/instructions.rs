//! Pieces of the packet path, run a fixed number of times in virtual time, for whoever counts their instructions
//! (`make instructions`).
//!
//! Time is noisy on a shared machine; the number of instructions is not. So that it is the same in each run, nothing here
//! reads a clock: the roles alone are driven, with the buffers of the tests in place of mbufs. What surrounds a role in a
//! worker (the driver, Ethernet, neighbours) is not in the figure; `hotpath` has it.

use std::sync::Arc;

use jlb_flowtracker_core::{Tracker, TrackerConfig};
use jlb_ingress_core::{Ingress, IngressConfig};
use jlb_map::{Policy, Snapshot};
use jlb_role::{
    AllRules, BURST, Burst, FakeBuf, FakeIo, Nanos, PacketBuf as _, Role, UnderlayDst, WorkerId,
};
use jlb_wire::{BootId, Content, Kind, MemberId, Outer};

use crate::members::{Members, Read};
use crate::traffic::{Draw, ETHERNET, LONGEST, Traffic};
use crate::{SpeedError, rig, site};

/// Packets of a round.
const ROUND: usize = 1024;
/// Rounds that are counted, after two that are not.
const ROUNDS: u32 = 8;
const WARM_UP: u32 = 2;
/// Flows that are established.
const FLOWS: u32 = 4096;
/// The daemons' defaults would take more memory than an emulator likes.
const CAPACITY: usize = 65_536;
const PENDING: usize = 4096;
/// Between two looks of the members at what came.
const STEP: Nanos = Nanos::from_millis(1);
/// What the members need to ask each other.
const ACQUAINTED: Nanos = Nanos::from_secs(5);

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The ingress: a packet of an established flow.
    Data,
    /// The same, IPv6.
    DataV6,
    /// The ingress: a SYN of a new flow.
    Syn,
    /// The egress: a backend's reply.
    Egress,
    /// The flow tracker: an Open of a new flow.
    Open,
}

/// Runs a piece: all that is to be counted is inside of [`counted`]. Gives the number of packets there.
///
/// # Errors
/// [`SpeedError`], also when not every packet had its effect.
pub fn run_piece(piece: Piece) -> Result<u32, SpeedError> {
    let traffic = Traffic { v6: piece == Piece::DataV6 };
    let snapshot = site::snapshot(traffic.v6, Policy::PowerOfTwo)?;
    if piece == Piece::Open {
        let config = TrackerConfig {
            id: site::tracker(),
            worker: WorkerId(0),
            workers: 1,
            boot: BootId(1),
            seed: 1,
            flow_capacity: CAPACITY,
            pending_capacity: PENDING,
            remembered_capacity: CAPACITY,
        };
        let role: Tracker = Tracker::new(config, Arc::clone(&snapshot), AllRules, Nanos::ZERO)?;
        return Course::new(role, site::tracker(), &snapshot, traffic)?.run(piece);
    }
    let config = IngressConfig {
        id: site::ingress(),
        worker: WorkerId(0),
        workers: 1,
        boot: BootId(1),
        seed: 1,
        flow_capacity: CAPACITY,
        pending_capacity: PENDING,
    };
    let role = Ingress::new(config, Arc::clone(&snapshot), AllRules, Nanos::ZERO)?;
    Course::new(role, site::ingress(), &snapshot, traffic)?.run(piece)
}

/// What is counted, known by this name: the role's work on bursts that lie ready.
#[inline(never)]
fn counted<R: Role<FakeBuf>>(
    role: &mut R,
    now: Nanos,
    bursts: &mut [Burst<FakeBuf>],
    io: &mut FakeIo,
) {
    for burst in bursts {
        role.rx(now, burst, io);
    }
}

struct Course<R> {
    role: R,
    members: Members,
    traffic: Traffic,
    io: FakeIo,
    now: Nanos,
    draw: Draw,
    /// The next flow that nobody has opened yet.
    next: u32,
}

impl<R: Role<FakeBuf>> Course<R> {
    /// A role that knows all others and is known to them.
    fn new(
        role: R,
        me: MemberId,
        snapshot: &Arc<Snapshot>,
        traffic: Traffic,
    ) -> Result<Self, SpeedError> {
        let members = Members::new(me, snapshot, Nanos::ZERO);
        let io = FakeIo::default();
        let mut course =
            Self { role, members, traffic, io, now: Nanos::ZERO, draw: Draw::new(), next: 0 };
        // A few rounds more than they need to know it: it must know them, too.
        let mut rounds_left = 300;
        while rounds_left > 0 {
            course.settle()?;
            rounds_left -= u32::from(course.members.know_it());
            if course.now > ACQUAINTED {
                return Err(SpeedError::NotAcquainted);
            }
        }
        Ok(course)
    }

    fn run(mut self, piece: Piece) -> Result<u32, SpeedError> {
        if matches!(piece, Piece::Data | Piece::DataV6) {
            while self.next < FLOWS {
                let numbers = self.fresh(BURST);
                self.round(Piece::Syn, &numbers, false)?;
            }
        }
        for n in 0..WARM_UP + ROUNDS {
            let numbers: Vec<u32> = match piece {
                Piece::Data | Piece::DataV6 | Piece::Egress => {
                    (0..ROUND).map(|_| self.draw.below(FLOWS)).collect()
                }
                Piece::Syn | Piece::Open => self.fresh(ROUND),
            };
            self.round(piece, &numbers, n >= WARM_UP)?;
        }
        Ok(ROUNDS * ROUND as u32)
    }

    /// Flows that were not there yet.
    fn fresh(&mut self, count: usize) -> Vec<u32> {
        let first = self.next;
        self.next += count as u32;
        (first..self.next).collect()
    }

    /// One round; all its packets must have their effect.
    fn round(&mut self, piece: Piece, numbers: &[u32], count: bool) -> Result<(), SpeedError> {
        let mut bursts: Vec<Burst<FakeBuf>> = Vec::with_capacity(numbers.len() / BURST);
        for numbers in numbers.chunks(BURST) {
            let mut burst = Burst::new();
            for &n in numbers {
                burst.push(self.packet(piece, n)?);
            }
            bursts.push(burst);
        }
        // What the role asks for lies ready, as in a pool.
        drop((0..2 * numbers.len()).map(|_| FakeBuf::new()).collect::<Vec<_>>());
        self.io.sent.reserve(2 * numbers.len());
        if count {
            counted(&mut self.role, self.now, &mut bursts, &mut self.io);
        } else {
            bursts.iter_mut().for_each(|burst| self.role.rx(self.now, burst, &mut self.io));
        }
        let came = self.io.sent.iter().filter(|sent| self.is_effect(piece, sent)).count();
        if came != numbers.len() {
            return Err(SpeedError::Lost { sent: numbers.len(), came });
        }
        self.settle()
    }

    /// A packet for the role, from its outermost IP header on.
    fn packet(&mut self, piece: Piece, n: u32) -> Result<FakeBuf, SpeedError> {
        let mut frame = [0; LONGEST];
        let ends = ([0; 6], [0; 6]);
        if piece == Piece::Egress {
            let len = self.traffic.write_reply(n, self.members.snapshot(), ends, &mut frame);
            return Ok(FakeBuf::holding(&frame[ETHERNET..len]));
        }
        let opens = matches!(piece, Piece::Syn | Piece::Open);
        self.traffic.write(n, opens, ends, &mut frame);
        let packet = &frame[ETHERNET..][..self.traffic.length(n)];
        if piece == Piece::Open {
            return self.members.open(packet, n).ok_or(SpeedError::NoBuffer);
        }
        Ok(FakeBuf::holding(packet))
    }

    /// Whether the role has sent what must come of a packet.
    fn is_effect(&self, piece: Piece, (buf, to): &(FakeBuf, UnderlayDst)) -> bool {
        let outer = Outer::parse(buf.bytes(), self.members.snapshot().geneve_port());
        match piece {
            Piece::Data | Piece::DataV6 => {
                outer.is_ok_and(|outer| matches!(outer.content, Content::Plain { .. }))
            }
            Piece::Egress => matches!(to, UnderlayDst::Ip(_)),
            Piece::Syn | Piece::Open => {
                outer.is_ok_and(|outer| matches!(outer.content, Content::Control { .. }))
            }
        }
    }

    /// A step of time; what all have to say to each other arrives, and flows are accepted.
    fn settle(&mut self) -> Result<(), SpeedError> {
        self.now = self.now + STEP;
        loop {
            for (buf, _) in core::mem::take(&mut self.io.sent) {
                let read = self.members.read(self.now, buf.bytes());
                self.hear(read)?;
            }
            self.io.dropped.clear();
            self.io.reports.clear();
            self.members.tick(self.now);
            let mut packets = self.members.sent(self.now).into_iter().peekable();
            let quiet = packets.peek().is_none();
            while packets.peek().is_some() {
                let mut burst: Burst<FakeBuf> = packets.by_ref().take(BURST).collect();
                self.role.rx(self.now, &mut burst, &mut self.io);
            }
            if self.role.next_deadline().is_some_and(|due| due <= self.now) {
                self.role.tick(self.now, &mut self.io);
            }
            if quiet && self.io.sent.is_empty() {
                return Ok(());
            }
        }
    }

    fn hear(&mut self, read: Read) -> Result<(), SpeedError> {
        match read {
            // From the tracker to the second, or from the ingress to the tracker.
            Read::Message(_, open, tuple) if open.kind == Kind::Open && open.second.is_some() => {
                if let Some(accept) = self.members.accept_by_second(&open, &tuple) {
                    let mut burst: Burst<FakeBuf> = [accept].into_iter().collect();
                    self.role.rx(self.now, &mut burst, &mut self.io);
                }
                Ok(())
            }
            // Egress: a packet for a client is for no member.
            Read::Refused(jlb_role::Reason::BadGeneve | jlb_role::Reason::NotForUs) => Ok(()),
            read @ (Read::Data | Read::Message(..) | Read::Other | Read::Refused(_)) => {
                rig::answer(&mut self.members, read).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_of_every_piece_has_its_effect() {
        for piece in [Piece::Data, Piece::DataV6, Piece::Syn, Piece::Egress, Piece::Open] {
            let packets = run_piece(piece).unwrap_or_else(|e| panic!("{piece:?}: {e}"));
            assert_eq!(packets, 8192, "{piece:?}");
        }
    }
}
