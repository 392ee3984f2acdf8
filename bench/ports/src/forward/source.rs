//! The process that the traffic comes from, and to which it comes back.

use core::time::Duration;
use std::io::{Read, Write};
use std::time::Instant;

use arrayvec::ArrayVec;
use jlb_dpdk::Mbuf;
use jlb_role::PacketBuf;
use jlb_speed::traffic::{Draw, LONGEST};
use serde::{Deserialize, Serialize};

use super::judge::{Heard, Judge};
use super::wire::{self, Wire};
use super::{COUNTING, End, Under};
use crate::PortsError;

/// Longest that all of it may take, whatever the number of flows.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Traffic before the packets count.
const WARM_UP: Duration = Duration::from_millis(300);
/// Flows that are opened, or checked, at once.
const AT_ONCE: u32 = 256;
/// How long their packets may be under way until they are sent again, and how often they are.
const UNDER_WAY: Duration = Duration::from_millis(500);
const TRIES: u32 = 6;
/// One in so many packets is compared while it is counted. All flows were before.
const COMPARED: u64 = 8192;
/// How often the clock is read, and the members do what is due: once in so many turns.
const LOOK: u32 = 32;
/// A frame without its checksum, and where it lies in memory.
const FRAME: usize = 60;
const LINE: usize = 64;

/// What the source saw.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Seconds in which packets were counted.
    pub seconds: f64,
    /// Packets that the ring took.
    pub sent: u64,
    /// Packets that came back.
    pub received: u64,
    /// Packets that the ring did not take at the first try: it was full.
    pub refused: u64,
    /// Packets that were compared byte by byte, those before the count included.
    pub verified: u64,
}

/// Sends packets of established flows, opens them before if it is our ingress, and counts what comes back. Says on `out` when
/// it begins to count, and a [`Report`] as JSON; keeps the port open until `until` ends, since testpmd forgets its counts with
/// the other end. Takes the process's DPDK.
///
/// # Errors
/// [`PortsError`], also when a packet comes back wrong, or not at all while the ring is not full.
pub fn source(
    end: &End,
    under: Under,
    seconds: f64,
    until: &mut impl Read,
    mut out: impl Write + Send + 'static,
) -> Result<(), PortsError> {
    let (eal, wire) = Wire::open(end)?;
    let flows = end.flows;
    let running = eal.launch(0, move || {
        let mut source = Source { wire, judge: Judge::new(under)?, flows, verified: 0 };
        source.judge.acquaint(&mut source.wire)?;
        if under == Under::Jlb {
            source.exchange_all(true)?;
        }
        source.exchange_all(false)?;
        let frames = Frames::new(flows);
        writeln!(out, "{COUNTING}")?;
        out.flush()?;
        let report = source.measure(&frames, Duration::from_secs_f64(seconds))?;
        writeln!(out, "{}", serde_json::to_string(&report).map_err(std::io::Error::from)?)?;
        out.flush()?;
        Ok::<_, PortsError>(source)
    })?;
    let source = running.join(PATIENCE)??;
    until.read_to_end(&mut Vec::new())?;
    drop(source);
    Ok(())
}

struct Source {
    wire: Wire,
    judge: Judge,
    flows: u32,
    verified: u64,
}

/// One frame of each flow, in an order drawn at random.
struct Frames(Vec<[u8; LINE]>);

impl Frames {
    fn new(flows: u32) -> Self {
        let mut order: Vec<u32> = (0..flows).collect();
        let mut draw = Draw::new();
        for last in (1..order.len()).rev() {
            order.swap(last, draw.below(last as u32 + 1) as usize);
        }
        let frame = |n| {
            let (mut long, mut frame) = ([0; LONGEST], [0; LINE]);
            Judge::frame(n, false, &mut long);
            frame[..FRAME].copy_from_slice(&long[..FRAME]);
            frame
        };
        Self(order.into_iter().map(frame).collect())
    }
}

impl Source {
    /// Opens all flows, or sees that a packet of each is forwarded as it must be.
    fn exchange_all(&mut self, opens: bool) -> Result<(), PortsError> {
        for first in (0..self.flows).step_by(AT_ONCE as usize) {
            self.exchange(first, AT_ONCE.min(self.flows - first), opens)?;
        }
        Ok(())
    }

    fn exchange(&mut self, first: u32, count: u32, opens: bool) -> Result<(), PortsError> {
        let mut done = [false; AT_ONCE as usize];
        let mut left = count as usize;
        for _ in 0..TRIES {
            for n in (0..count).filter(|&n| !done[n as usize]) {
                let mut frame = [0; LONGEST];
                let len = Judge::frame(first + n, opens, &mut frame);
                self.wire.put(&frame[..len])?;
            }
            let began = Instant::now();
            while began.elapsed() < UNDER_WAY {
                self.judge.tick(&mut self.wire)?;
                let flushed = self.wire.flush();
                if left == 0 && flushed {
                    return Ok(());
                }
                for frame in self.wire.take() {
                    let n = match self.judge.hear(frame.bytes(), &mut self.wire)? {
                        Heard::Forwarded(n) => {
                            self.verified += 1;
                            n
                        }
                        Heard::Opened(n) if opens => n,
                        Heard::Opened(_) | Heard::Other => continue,
                    };
                    let done = done[..count as usize].get_mut(n.wrapping_sub(first) as usize);
                    if let Some(done) = done.filter(|done| !**done) {
                        *done = true;
                        left -= 1;
                    }
                }
            }
        }
        Err(PortsError::Lost { sent: count as usize, lost: left })
    }

    fn measure(&mut self, frames: &Frames, lasts: Duration) -> Result<Report, PortsError> {
        let (mut sent, mut refused, mut received) = (0u64, 0u64, 0u64);
        let mut next = frames.0.iter().cycle();
        let mut out = ArrayVec::<Mbuf, { wire::AT_ONCE }>::new();
        let mut back = ArrayVec::<Mbuf, { wire::AT_ONCE }>::new();
        let began = Instant::now();
        // When the count began, and what there was then.
        let mut counted: Option<(Instant, [u64; 3])> = None;
        let mut turn = 0u32;
        loop {
            turn = turn.wrapping_add(1);
            if self.wire.flush() {
                let fresh = out.is_empty();
                if fresh {
                    self.wire.pool.alloc_bulk(&mut out);
                    for (b, frame) in out.iter_mut().zip(&mut next) {
                        let room = b.append(FRAME).map_err(|_| PortsError::NoBuffer)?;
                        room.copy_from_slice(&frame[..FRAME]);
                    }
                }
                sent += self.wire.tx.burst(&mut out) as u64;
                refused += if fresh { out.len() as u64 } else { 0 };
            }
            self.wire.rx.burst(&mut back);
            for frame in &back {
                let frame = frame.bytes();
                if self.judge.is_forwarded(frame) {
                    received += 1;
                    if received.is_multiple_of(COMPARED) {
                        self.judge.check(frame).map_err(PortsError::Wrong)?;
                        self.verified += 1;
                    }
                } else {
                    self.judge.hear(frame, &mut self.wire)?;
                }
            }
            Mbuf::free_bulk(&mut back);
            if !turn.is_multiple_of(LOOK) {
                continue;
            }
            self.judge.tick(&mut self.wire)?;
            let now = Instant::now();
            let all = [sent, refused, received];
            match counted {
                None if now - began >= WARM_UP => counted = Some((now, all)),
                Some((since, before)) if now - since >= lasts => {
                    let [sent, refused, received] = [0, 1, 2].map(|n| all[n] - before[n]);
                    let seconds = (now - since).as_secs_f64();
                    let verified = self.verified;
                    return Ok(Report { seconds, sent, received, refused, verified });
                }
                None | Some(_) => (),
            }
        }
    }
}
