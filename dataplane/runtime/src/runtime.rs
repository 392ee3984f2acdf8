use core::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use jlb_dpdk::{
    Eal, JoinError, LaunchError, Mbuf, Mempool, OpenPort, PoolError, Port, PortError, ROOM, Running,
};
use jlb_neighbours::{MacAddr, Neighbours};
use jlb_role::{Report, Role, Samples, WorkerId};
use rtrb::{Consumer, Producer, RingBuffer};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time;

use crate::exception::Exception;
use crate::link::Link;
use crate::worker::{Command, Shared, Worker};
use crate::{Clock, Options, metrics};

/// Packets on their way from one worker to another: 16 bursts, more than a worker receives while the other one is
/// not scheduled for a fraction of a millisecond.
const HAND_OVER_RING: usize = 512;
/// Commands that wait for a worker.
pub(crate) const COMMANDS: usize = 64;
/// Reports that wait for the control thread: a whole cluster may change at once, 4095 members are too many to hope.
pub(crate) const REPORTS: usize = 1024;

/// Reports of all workers, in the order in which each made them.
pub type Reports = mpsc::Receiver<(WorkerId, Report)>;

/// The workers did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Zero, or more than the EAL has lcores for.
    #[error("{wanted} workers: at least 1 is needed, and DPDK was started for {at_most}")]
    Workers {
        /// Asked for.
        wanted: u8,
        /// What the EAL has.
        at_most: usize,
    },
    /// No packet memory.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// No port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No thread.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

/// An event did not reach a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// There is no such worker.
    #[error("there is no worker {}", .0.0)]
    NoSuchWorker(WorkerId),
    /// 64 commands wait for it already: it hangs, or is sent too many.
    #[error("worker {} does not take its events", .0.0)]
    Full(WorkerId),
    /// It has stopped.
    #[error("worker {} has stopped", .0.0)]
    Stopped(WorkerId),
}

/// Runs a role on workers. [`Runtime::stop`] ends it in order.
#[derive(Debug)]
pub struct Runtime<E> {
    handle: Handle<E>,
    running: Vec<Running<()>>,
}

/// What the control thread does with running workers. Clones are the same workers.
#[derive(Debug)]
pub struct Handle<E>(Arc<Inner<E>>);

#[derive(Debug)]
struct Inner<E> {
    commands: Vec<Sender<Command<E>>>,
    shared: Arc<Shared>,
    mac: MacAddr,
    mtu: u16,
    /// Taken when it stops: a forgotten handle must not keep the port open.
    port: Mutex<Option<(Port, Mempool)>>,
}

impl<E: Send + 'static> Runtime<E> {
    /// Opens the port and starts one worker per lcore, each with the role that `make` gives for it. `neighbours` is
    /// looked at once per burst: store a new snapshot in it whenever something changes.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then, and the port is closed.
    pub fn start<R>(
        eal: &Eal,
        options: &Options,
        neighbours: &Arc<ArcSwap<Neighbours>>,
        mut make: impl FnMut(WorkerId) -> R,
    ) -> Result<(Self, Reports), StartError>
    where
        R: Role<Mbuf, Event = E> + Send + 'static,
    {
        let workers = options.workers;
        if workers == 0 || usize::from(workers) > eal.workers() {
            return Err(StartError::Workers { wanted: workers, at_most: eal.workers() });
        }
        let pool = Mempool::new(eal, options.buffers, room(options.port.mtu))?;
        let mut port_options = options.port;
        (port_options.rx_queues, port_options.tx_queues) = (workers.into(), workers.into());
        let exceptions = match &options.exception {
            Some(device) => exceptions(Port::open(eal, device, &port_options, &pool)?),
            None => Vec::new(),
        };
        port_options.all_multicast = options.exception.is_some();
        let OpenPort { port, rx, tx } = Port::open(eal, &options.device, &port_options, &pool)?;

        let shared = Arc::new(Shared::new(workers, Clock::start()));
        let (report, reports) = mpsc::channel(REPORTS);
        let (commands, orders): (Vec<_>, Vec<Receiver<_>>) =
            (0..workers).map(|_| bounded(COMMANDS)).unzip();
        let link = (port.mac(), port.mtu());
        let handle = Handle(Arc::new(Inner {
            commands,
            shared: Arc::clone(&shared),
            mac: link.0,
            mtu: link.1,
            port: Mutex::new(Some((port, pool.clone()))),
        }));
        let mut runtime = Self { handle, running: Vec::with_capacity(workers.into()) };

        let parts =
            rx.into_iter().zip(tx).zip(rings(workers)).zip(orders).zip((0..workers).map(WorkerId));
        let mut exceptions = exceptions.into_iter();
        for ((((rx, tx), (to_others, from_others)), orders), me) in parts {
            let mut link = Link::new(link, tx, pool.clone(), (me, to_others), report.clone());
            link.exception = exceptions.next().map(Box::new);
            let queues = (rx, from_others, link);
            let (neighbours, shared) = (Arc::clone(neighbours), Arc::clone(&shared));
            let worker = Worker::new(make(me), queues, neighbours, orders, shared, options.idle);
            // On failure `runtime` is dropped, which stops those before.
            runtime.running.push(eal.launch(usize::from(me.0), move || worker.run())?);
        }
        Ok((runtime, reports))
    }
}

impl<E> Runtime<E> {
    /// For the control thread.
    #[must_use]
    pub fn handle(&self) -> Handle<E> {
        self.handle.clone()
    }

    /// Ends all workers, then closes the port. Afterwards [`Eal::cleanup`] can end DPDK.
    ///
    /// # Errors
    /// Of the first worker that panicked, or that did not end in time: then the port stays open, since that worker
    /// may still use it.
    pub fn stop(mut self, at_most: Duration) -> Result<(), JoinError> {
        self.halt(at_most)
    }

    fn halt(&mut self, at_most: Duration) -> Result<(), JoinError> {
        let inner = &self.handle.0;
        inner.shared.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + at_most;
        let left = || deadline.saturating_duration_since(Instant::now());
        let ends: Vec<_> = self.running.drain(..).map(|worker| worker.join(left())).collect();
        let result = ends.into_iter().collect();
        // Closes it, since the workers' queues are gone; else when the last of these goes.
        inner.port.lock().unwrap_or_else(PoisonError::into_inner).take();
        result
    }
}

impl<E> Drop for Runtime<E> {
    fn drop(&mut self) {
        if !self.running.is_empty() {
            // Nobody asked how it ends; a worker that hangs is left alone.
            let _ = self.halt(Duration::from_secs(1));
        }
    }
}

impl<E> Clone for Handle<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E> Handle<E> {
    /// The workers.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + use<E> {
        // There were at most 255 to begin with.
        (0..self.0.commands.len() as u8).map(WorkerId)
    }

    /// The clock that the workers' roles see.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.shared.clock
    }

    /// The port's Ethernet address.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.0.mac
    }

    /// The port's MTU: longer packets are dropped as `too_big`.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.0.mtu
    }

    /// Whether the port's cable is in, as far as it is known.
    #[must_use]
    pub fn has_link(&self) -> Option<bool> {
        let port = self.0.port.lock().unwrap_or_else(PoisonError::into_inner);
        port.as_ref().and_then(|(port, _)| port.has_link().ok())
    }

    /// Sends an event to one worker; it takes it within about a millisecond.
    ///
    /// # Errors
    /// When it cannot be queued; see [`SendError`].
    pub fn send(&self, to: WorkerId, event: E) -> Result<(), SendError> {
        self.command(to, Command::Event(event))
    }

    /// Sends an event to all workers.
    ///
    /// # Errors
    /// Of the first worker that it could not be queued for; the others have got it all the same.
    pub fn send_to_all(&self, event: &E) -> Result<(), SendError>
    where
        E: Clone,
    {
        let sent: Vec<_> = self.workers().map(|w| self.send(w, event.clone())).collect();
        sent.into_iter().collect()
    }

    /// Asks all workers and the port for their numbers. A worker that does not answer within `at_most` is absent, as
    /// is all after [`Runtime::stop`]. Runs under tokio with time enabled.
    pub async fn collect(&self, at_most: Duration) -> Samples {
        let mut samples = Samples::default();
        let replies: Vec<_> = self
            .workers()
            .filter_map(|w| {
                let (reply, answer) = oneshot::channel();
                self.command(w, Command::Collect(reply)).ok().map(|()| answer)
            })
            .collect();
        let deadline = time::Instant::now() + at_most;
        for reply in replies {
            if let Ok(Ok(of_worker)) = time::timeout_at(deadline, reply).await {
                samples.0.extend(of_worker.0);
            }
        }
        if let Some((port, pool)) = &*self.0.port.lock().unwrap_or_else(PoisonError::into_inner) {
            metrics::port(port, pool, &mut samples);
        }
        samples
    }

    /// How long ago each worker's loop last turned: above a few milliseconds it was not scheduled, or hangs.
    pub fn heartbeat_ages(&self) -> impl Iterator<Item = (WorkerId, Duration)> + '_ {
        let now = self.0.shared.clock.now().0;
        let beats = self.0.shared.heartbeats.iter().map(|b| b.load(Ordering::Relaxed));
        self.workers().zip(beats.map(move |beat| Duration::from_nanos(now.saturating_sub(beat))))
    }

    /// How many packets of clients and flows all workers have handled; all packets, where the role does not tell them
    /// apart. While it stands still, nobody sends.
    #[must_use]
    pub fn flow_packets(&self) -> u64 {
        self.0.shared.flow_packets.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    fn command(&self, to: WorkerId, command: Command<E>) -> Result<(), SendError> {
        let queue = self.0.commands.get(usize::from(to.0)).ok_or(SendError::NoSuchWorker(to))?;
        queue
            .try_send(command)
            .map_err(|e| if e.is_full() { SendError::Full(to) } else { SendError::Stopped(to) })
    }
}

/// The queues of the kernel's port, by worker.
fn exceptions(port: OpenPort) -> Vec<Exception> {
    port.rx.into_iter().zip(port.tx).map(|(rx, tx)| Exception::new(rx, tx)).collect()
}

/// The room of a buffer that carries packets of this MTU: with Ethernet, whole KiB, since NICs round down to that.
fn room(mtu: Option<u16>) -> u16 {
    /// An Ethernet header with two VLAN tags, and its checksum.
    const ETHERNET: u16 = 14 + 2 * 4 + 4;
    mtu.map_or(ROOM, |mtu| {
        mtu.saturating_add(ETHERNET).checked_next_multiple_of(1024).unwrap_or(u16::MAX).max(ROOM)
    })
}

/// A worker's ends of the rings to and from all others.
type Ends = (Vec<Option<Producer<Mbuf>>>, Vec<Consumer<Mbuf>>);

/// One ring from each worker to each other one.
fn rings(workers: u8) -> Vec<Ends> {
    let mut ends: Vec<Ends> = (0..workers).map(|_| (Vec::new(), Vec::new())).collect();
    for from in 0..usize::from(workers) {
        for to in 0..usize::from(workers) {
            if from == to {
                ends[from].0.push(None);
            } else {
                let (producer, consumer) = RingBuffer::new(HAND_OVER_RING);
                ends[from].0.push(Some(producer));
                ends[to].1.push(consumer);
            }
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_a_ring_to_and_from_every_other() {
        for (i, (to, from)) in rings(3).into_iter().enumerate() {
            let whom: Vec<_> = to.iter().map(Option::is_some).collect();
            assert_eq!(whom, (0..3).map(|w| w != i).collect::<Vec<_>>());
            assert_eq!(from.len(), 2);
        }
        assert!(rings(1)[0].1.is_empty());
    }

    #[test]
    fn an_http_server_may_hold_a_handle_and_wait_for_samples() {
        fn is_send_and_sync<T: Send + Sync>(_: &T) {}
        fn is_send<T: Send>(_: T) {}
        let _compiles = |handle: Handle<Vec<u8>>| {
            is_send_and_sync(&handle);
            is_send(handle.collect(Duration::ZERO));
        };
    }

    #[test]
    fn buffers_grow_with_the_mtu_in_whole_kib() {
        assert_eq!((room(None), room(Some(1280)), room(Some(1500))), (2048, 2048, 2048));
        assert_eq!((room(Some(2048)), room(Some(9000))), (3072, 9216));
    }
}
