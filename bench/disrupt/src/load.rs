//! The load: long connections, short ones and UDP flows, from one thread on the client's host.
//!
//! It runs beside what breaks things and is told by [`Phase`] what its measurements count for. Bounds: as many tasks as
//! connections, a thousand short ones and a hundred UDP flows; samples of the time before the fault only, some thousand each second.

mod connection;
mod fresh;
mod udp;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jlb_lab::Node;
use jlb_lab::topology::VIP;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

pub use connection::{Broken, Connection};
pub use fresh::Fresh;
pub use udp::UdpFlow;

use crate::Error;
use crate::error::Doing as _;
use crate::server;
use crate::stall::{Pause, Usual};

/// Requests per second on all long connections together: what ten daemons on two cores carry with ease.
const REQUEST_RATE: u32 = 3000;
/// Shortest time from one request of a connection to its next.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);
/// Connections opened at once.
const OPENING: usize = 32;
/// A tick that comes later than this was kept from us by the scheduler.
const LATE: Duration = Duration::from_millis(10);
const TICK: Duration = Duration::from_millis(5);
/// Longer than the fifth retransmission of TCP (12.6 s after the first packet): who has no answer by then will have none.
pub const SILENT: Duration = Duration::from_secs(16);

/// What the load is for, right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connections are opened; nothing counts yet.
    Opening = 0,
    /// Nothing is wrong: what waits are usual.
    Before = 1,
    /// From the fault on.
    Fault = 2,
    /// Nothing new is asked; what is on its way may still be answered.
    Drain = 3,
}

/// One long connection, as the others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's end.
    pub client: SocketAddr,
    /// The VIP's end.
    pub vip: SocketAddr,
    /// Who serves it.
    pub backend: String,
}

/// What the tasks and the thread outside share.
#[derive(Debug)]
struct Shared {
    begin: Instant,
    phase: AtomicU8,
    interval: Duration,
    /// Of each connection: when it began to wait, in µs after `begin`; [`NOT_WAITING`] while it does not.
    waiting: Box<[AtomicU64]>,
    open: AtomicU32,
    broken: AtomicU32,
    flows: Mutex<Vec<Flow>>,
    /// What it took answers before the fault.
    usual: Mutex<Vec<Duration>>,
    pauses: Mutex<Vec<Pause>>,
    /// So many open at once.
    opening: Semaphore,
}

const NOT_WAITING: u64 = u64::MAX;

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Opening,
            1 => Phase::Before,
            2 => Phase::Fault,
            _ => Phase::Drain,
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }
}

/// How the connections are, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Open, and not stalled.
    pub alive: u32,
    /// Open, and waiting for longer than usual.
    pub stalled: u32,
    /// Ended by anything but us.
    pub broken: u32,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The long connections.
    pub connections: Vec<Connection>,
    /// The short ones, from the fault on.
    pub fresh: Fresh,
    /// UDP.
    pub udp: Vec<UdpFlow>,
    /// Times in which the load was not scheduled.
    pub pauses: Vec<Pause>,
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Records, Error>>,
}

/// UDP flows beside so many connections.
fn udp_flows(connections: u32) -> u32 {
    (connections / 20).clamp(4, 100)
}

impl Load {
    /// Begins to open that many connections, half of them to each VIP.
    ///
    /// # Errors
    /// When there is no further thread.
    pub fn start(client: &Node, connections: u32) -> Result<Self, Error> {
        let interval = (Duration::from_secs(1) * connections / REQUEST_RATE).max(SHORTEST_INTERVAL);
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            phase: AtomicU8::new(Phase::Opening as u8),
            interval,
            waiting: (0..connections).map(|_| AtomicU64::new(NOT_WAITING)).collect(),
            open: AtomicU32::new(0),
            broken: AtomicU32::new(0),
            flows: Mutex::default(),
            usual: Mutex::default(),
            pauses: Mutex::default(),
            opening: Semaphore::new(OPENING),
        });
        let (client, ours) = (client.clone(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || client.within(|| drive(&ours))?)
            .doing("a thread for the load")?;
        Ok(Self { shared, thread })
    }

    /// Says what measurements count for from now on.
    pub fn enter(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Long connections that have had their first answer, and did not end since.
    pub fn open(&self) -> u32 {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Whether it has ended by itself, which only an error does before [`Phase::Drain`].
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// The long connections that were opened.
    pub fn flows(&self) -> Vec<Flow> {
        self.shared.flows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The waits so far that count as usual.
    pub fn usual(&self) -> Usual {
        let mut waits = self.shared.usual.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Usual::of(&mut waits)
    }

    /// How the connections are.
    pub fn live(&self, limit: Duration) -> Live {
        let now = self.shared.now();
        let is_stalled = |since: &&AtomicU64| {
            let since = since.load(Ordering::Relaxed);
            since != NOT_WAITING && now.saturating_sub(Duration::from_micros(since)) > limit
        };
        let stalled = self.shared.waiting.iter().filter(is_stalled).count() as u32;
        let broken = self.shared.broken.load(Ordering::Relaxed);
        Live { alive: self.open().saturating_sub(stalled), stalled, broken }
    }

    /// Waits for what is on its way, [`SILENT`] at most, and gives everything that was measured.
    ///
    /// # Errors
    /// Of the load itself.
    pub fn finish(self) -> Result<Records, Error> {
        self.enter(Phase::Drain);
        match self.thread.join() {
            Ok(records) => records,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn drive(shared: &Arc<Shared>) -> Result<Records, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("a runtime for the load")?;
    runtime.block_on(all(shared))
}

async fn all(shared: &Arc<Shared>) -> Result<Records, Error> {
    let watch = tokio::spawn(watch_the_scheduler(shared.clone()));
    let count = shared.waiting.len() as u32;
    let vip = |n: u32| VIP[n as usize % VIP.len()];
    let long: Vec<_> = (0..count)
        .map(|n| {
            let vip = SocketAddr::new(vip(n), server::PORT);
            tokio::spawn(connection::hold(n, vip, shared.clone()))
        })
        .collect();
    let short = tokio::spawn(fresh::open_and_close(vip, shared.clone()));
    let udp: Vec<_> =
        (0..udp_flows(count)).map(|n| tokio::spawn(udp::ask(n, vip(n), shared.clone()))).collect();

    let mut records = Records::default();
    for task in long {
        records.connections.push(task.await.map_err(|_| Error::LoadEnded)??);
    }
    records.fresh = short.await.map_err(|_| Error::LoadEnded)?;
    for task in udp {
        let flow = task.await.map_err(|_| Error::LoadEnded)?;
        records.udp.push(flow.doing("a UDP flow")?);
    }
    watch.abort();
    let pauses = shared.pauses.lock().unwrap_or_else(PoisonError::into_inner);
    records.pauses.clone_from(&pauses);
    Ok(records)
}

/// Notes when this thread was kept from running, or was too busy: who waited then may have waited for us.
async fn watch_the_scheduler(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = shared.now();
    loop {
        ticks.tick().await;
        let now = shared.now();
        if now.saturating_sub(before) > TICK + LATE {
            let pause = Pause { from: before + TICK, to: now };
            shared.pauses.lock().unwrap_or_else(PoisonError::into_inner).push(pause);
        }
        before = now;
    }
}
