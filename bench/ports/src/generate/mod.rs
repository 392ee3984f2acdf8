//! `jlb-bench generate`: clients' packets, out of any port of DPDK.
//!
//! [`Traffic`] says which packets: a [`Profile`], where from, where to, how long. [`run`] sends them at a rate, and counts what
//! comes back.

mod frames;
mod traffic;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use arrayvec::ArrayVec;
use jlb_dpdk::{Device, Eal, Mbuf, Mempool, OpenPort, Port, PortOptions, ROOM};
use jlb_role::{BURST, Burst, PacketBuf};
use serde::Serialize;

use crate::{PortsError, dpdk};
pub use frames::Frames;
pub use traffic::{Profile, Traffic};

/// As many as queues and bursts take, and as many again.
const BUFFERS: u32 = 8191;
/// How often the rate is told.
const TOLD: Duration = Duration::from_secs(1);
/// How long a port may take none of the packets: a memif, until the other end is there.
const NOBODY: Duration = Duration::from_secs(10);
/// The other end reads what it has before the port closes.
const LINGERS: Duration = Duration::from_millis(200);
/// How often it is looked whether somebody interrupts.
const LOOK: Duration = Duration::from_millis(20);

/// What to send, where and how fast.
#[derive(Clone, Debug)]
pub struct Generate {
    /// The port.
    pub device: Device,
    /// Which packets.
    pub traffic: Traffic,
    /// Packets per second; as fast as the port takes them.
    pub rate: Option<f64>,
    /// How long, from the first packet that the port took.
    pub lasts: Duration,
    /// And at most so many packets.
    pub packets: u64,
    /// The CPU that sends, or any.
    pub cpu: Option<u16>,
}

/// What was sent and what came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sent {
    /// Packets that the port took.
    pub sent: u64,
    /// Packets that the port did not take at the first try.
    pub refused: u64,
    /// Packets that came in by the port.
    pub received: u64,
    /// Seconds since the first packet was taken.
    pub seconds: f64,
    /// Packets sent per second.
    pub pps: f64,
    /// Bits sent per second, frame checksums included, gaps between frames not.
    pub bits_per_second: f64,
}

/// Sends. Takes the process's DPDK. `say` is told the rate, once a second.
///
/// # Errors
/// [`PortsError`]. When `interrupted` is set, what was sent until then is no error.
pub fn run(
    options: &Generate,
    hugepages: bool,
    say: &mut dyn FnMut(&Sent),
    interrupted: &AtomicBool,
) -> Result<Sent, PortsError> {
    let eal = dpdk::start(&options.device, options.cpu, hugepages)?;
    let pool = Mempool::new(&eal, BUFFERS, ROOM)?;
    run_on(&eal, &pool, options, say, interrupted)
}

/// As [`run`], on the first worker of a DPDK that runs, with buffers of that pool.
///
/// # Errors
/// [`PortsError`]
pub fn run_on(
    eal: &Eal,
    pool: &Mempool,
    options: &Generate,
    say: &mut dyn FnMut(&Sent),
    interrupted: &AtomicBool,
) -> Result<Sent, PortsError> {
    let frames = Frames::new(&options.traffic)?;
    let open = Port::open(eal, &options.device, &PortOptions::default(), pool)?;
    let counts = Arc::new(Counts::default());
    let (shared, plan, pool) = (Arc::clone(&counts), options.clone(), pool.clone());
    let running = eal.launch(0, move || send(open, &pool, frames, &plan, &shared))?;
    let (mut told, began) = (Instant::now(), Instant::now());
    let outcome = loop {
        thread::sleep(LOOK);
        if interrupted.load(Ordering::Relaxed) {
            counts.stop.store(true, Ordering::Relaxed);
        }
        match running.join(Duration::ZERO) {
            Ok(outcome) => break outcome?,
            Err(jlb_dpdk::JoinError::Timeout(_)) => (),
            Err(error) => return Err(error.into()),
        }
        if told.elapsed() >= TOLD {
            told = Instant::now();
            say(&counts.sum(began.elapsed(), options.traffic.size));
        }
    };
    Ok(counts.sum(outcome, options.traffic.size))
}

/// What the worker tells while it works.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    refused: AtomicU64,
    received: AtomicU64,
    stop: AtomicBool,
}

impl Counts {
    fn sum(&self, lasted: Duration, size: u16) -> Sent {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (sent, seconds) = (read(&self.sent), lasted.as_secs_f64());
        let pps = if seconds > 0.0 { sent as f64 / seconds } else { 0.0 };
        let bits_per_second = pps * f64::from(size) * 8.0;
        let (refused, received) = (read(&self.refused), read(&self.received));
        Sent { sent, refused, received, seconds, pps, bits_per_second }
    }
}

/// The worker: how long it sent.
fn send(
    open: OpenPort,
    pool: &Mempool,
    mut frames: Frames,
    plan: &Generate,
    counts: &Counts,
) -> Result<Duration, PortsError> {
    let OpenPort { port: _port, mut rx, mut tx } = open;
    let (Some(mut rx), Some(mut tx)) = (rx.pop(), tx.pop()) else {
        return Err(PortsError::NoBuffer);
    };
    let (mut sent, mut refused, mut received) = (0u64, 0u64, 0u64);
    let mut out = Burst::<Mbuf>::new();
    let mut began = Instant::now();
    let mut lasted = Duration::ZERO;
    while !counts.stop.load(Ordering::Relaxed) && lasted < plan.lasts && sent < plan.packets {
        // Whatever was made is sent before more is.
        let fresh = out.is_empty();
        if fresh {
            let due = plan.rate.map_or(u64::MAX, |rate| {
                // The first burst at once.
                ((lasted.as_secs_f64() * rate) as u64 + 1).saturating_sub(sent)
            });
            let wanted = due.min(plan.packets - sent).min(BURST as u64);
            for _ in 0..wanted {
                let mut b = pool.alloc().ok_or(PortsError::NoBuffer)?;
                let room = b.append(frames.len()).map_err(|_| PortsError::NoBuffer)?;
                frames.write(room);
                out.push(b);
            }
        }
        let taken = tx.burst(&mut out) as u64;
        sent += taken;
        refused += if fresh { out.len() as u64 } else { 0 };
        let mut back = ArrayVec::<Mbuf, BURST>::new();
        received += rx.burst(&mut back).packets as u64;
        Mbuf::free_bulk(&mut back);
        if sent == taken && taken > 0 {
            // Until then nobody was there.
            (began, refused) = (Instant::now(), 0);
        }
        lasted = if sent > 0 { began.elapsed() } else { Duration::ZERO };
        if sent == 0 && began.elapsed() > NOBODY {
            return Err(PortsError::Nobody(plan.device.clone()));
        }
        counts.sent.store(sent, Ordering::Relaxed);
        counts.refused.store(refused, Ordering::Relaxed);
        counts.received.store(received, Ordering::Relaxed);
    }
    Mbuf::free_bulk(&mut out);
    thread::sleep(LINGERS);
    Ok(lasted)
}
