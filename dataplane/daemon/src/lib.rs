//! A role as a daemon: what `jlb-ingress` and `jlb-flowtracker` have in common. It starts DPDK and the workers as
//! `[dpdk]` says, and is the [`Daemon`] that the control thread of `jlb-node` drives.
#![forbid(unsafe_code)]

mod members;
mod options;
mod preflight;

use core::time::Duration;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jlb_dpdk::{CleanupError, Device, Eal, EalError, Mbuf, NotADevice};
use jlb_map::Snapshot;
use jlb_node::serde_json::{Value, json};
use jlb_node::{Daemon, Setup, random_u64};
use jlb_role::{Report, Role, Samples, WorkerId};
use jlb_runtime::{Handle, Neighbours, Reports, Runtime, SendError, StartError};
use tracing::{info, warn};

pub use members::Members;
pub use preflight::PreflightError;

/// A worker that has not gone round for so long hangs: it sleeps 1 ms at most, and a loaded host has kept pollers
/// from running for 35 ms.
const HANGS: Duration = Duration::from_secs(1);
/// A scrape waits so long for a worker: its loop takes less than 2 ms.
const SCRAPE: Duration = Duration::from_millis(200);
/// How long a daemon waits until nothing is lost with it.
const LEAVE: Duration = Duration::from_secs(5);
/// How long the workers may take to end.
const STOP: Duration = Duration::from_secs(2);

/// What a daemon of this kind says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Kind<E> {
    /// Makes the event that carries a new snapshot.
    pub snapshot: fn(Arc<Snapshot>) -> E,
    /// Why it may not take traffic, by who is there.
    pub not_ready: fn(&Members) -> Vec<String>,
}

/// What one worker's role is made from.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// Which worker.
    pub id: WorkerId,
    /// Of how many.
    pub of: u8,
    /// Fresh randomness.
    pub seed: u64,
}

impl Worker {
    /// This worker's share of something that the configuration gives for the whole host.
    #[must_use]
    pub fn share(&self, whole: u32) -> usize {
        (whole as usize).div_ceil(usize::from(self.of))
    }
}

/// Why a daemon does not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError<R: core::error::Error + 'static> {
    /// A section that the check of the configuration requires for this role.
    #[error("jlb.toml has no {0} section")]
    NoSection(&'static str),
    /// `dpdk.port` or `dpdk.exception_port` is not a device argument.
    #[error("{key} = \"{port}\" is not a DPDK device")]
    Device {
        /// Which of the two.
        key: &'static str,
        /// As configured.
        port: String,
        /// What is wrong with it.
        source: NotADevice,
    },
    /// The host is not fit for the port.
    #[error("cannot open dpdk.port = \"{port}\"")]
    Preflight {
        /// As configured.
        port: String,
        /// Why.
        source: PreflightError,
    },
    /// DPDK does not start.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// The port or a worker does not start.
    #[error("cannot run workers on dpdk.port = \"{port}\"")]
    Start {
        /// As configured.
        port: String,
        /// Why.
        source: StartError,
    },
    /// The kernel gives no randomness.
    #[error("no randomness for the workers")]
    Random(#[source] io::Error),
    /// The role cannot be made with these sizes.
    #[error("the configured sizes do not fit")]
    Role(#[source] R),
    /// A worker does not take what it is told.
    #[error("a worker does not take the new member list")]
    Send(#[from] SendError),
    /// All workers have ended on their own.
    #[error("the workers have ended")]
    WorkersEnded,
}

fn device<R: core::error::Error>(key: &'static str, port: &str) -> Result<Device, DaemonError<R>> {
    port.parse().map_err(|source| DaemonError::Device { key, port: port.to_owned(), source })
}

/// A running role.
#[derive(Debug)]
pub struct DpdkDaemon<E, R> {
    kind: Kind<E>,
    eal: Option<Eal>,
    runtime: Option<Runtime<E>>,
    handle: Handle<E>,
    reports: Reports,
    neighbours: Arc<ArcSwap<Neighbours>>,
    members: Members,
    /// What the workers are told before they end.
    leaving: Option<E>,
    /// Kept until the end.
    _only_one: preflight::OnlyOne,
    why: core::marker::PhantomData<R>,
}

impl<E, R> DpdkDaemon<E, R>
where
    E: Clone + Send + 'static,
    R: core::error::Error + 'static,
{
    /// Starts DPDK, the port and the workers. `make` gives the role of each worker.
    ///
    /// # Errors
    /// [`DaemonError`]; nothing runs then.
    pub fn start<T>(
        setup: &Setup,
        kind: Kind<E>,
        mut make: impl FnMut(Worker) -> Result<T, R>,
    ) -> Result<Self, DaemonError<R>>
    where
        T: Role<Mbuf, Event = E> + Send + 'static,
    {
        let dpdk = setup.host.dpdk.as_ref().ok_or(DaemonError::NoSection("[dpdk]"))?;
        let device = device("dpdk.port", &dpdk.port)?;
        let exception = dpdk.exception_port.as_deref();
        let exception =
            exception.map(|port| self::device("dpdk.exception_port", port)).transpose()?;
        let devices: Vec<Device> = [device.clone()].into_iter().chain(exception.clone()).collect();
        let unfit = |source| DaemonError::Preflight { port: dpdk.port.clone(), source };
        let only_one = preflight::check(&devices, &dpdk.interface, setup.me).map_err(unfit)?;
        let has_exception = exception.is_some();
        let options = options::runtime(dpdk, device, exception);
        let mut roles = Vec::with_capacity(dpdk.workers.into());
        // The last worker first, since `pop` takes them from the end.
        for id in (0..dpdk.workers).rev() {
            let seed = random_u64().map_err(DaemonError::Random)?;
            let worker = Worker { id: WorkerId(id), of: dpdk.workers, seed };
            roles.push(make(worker).map_err(DaemonError::Role)?);
        }
        let eal = Eal::start(&options::eal(dpdk, devices))?;
        let neighbours = Arc::new(ArcSwap::from_pointee(Neighbours::none()));
        let mut roles = roles.into_iter().rev();
        let (runtime, reports) = Runtime::start(&eal, &options, &neighbours, |_| {
            #[expect(clippy::expect_used, reason = "one role was made for each worker, just above")]
            roles.next().expect("as many roles as workers")
        })
        .map_err(|source| DaemonError::Start { port: dpdk.port.clone(), source })?;
        let handle = runtime.handle();
        if has_exception {
            preflight::same_address(&dpdk.interface, handle.mac()).map_err(unfit)?;
        }
        info!(port = dpdk.port, mac = %handle.mac(), workers = dpdk.workers, "workers run");
        Ok(Self {
            kind,
            eal: Some(eal),
            runtime: Some(runtime),
            handle,
            reports,
            neighbours,
            members: Members::new(Arc::clone(&setup.cluster), setup.me),
            leaving: None,
            _only_one: only_one,
            why: core::marker::PhantomData,
        })
    }
}

impl<E, R> DpdkDaemon<E, R>
where
    E: Clone + Send + 'static,
    R: core::error::Error + 'static,
{
    /// Tells the workers so when the daemon is to stop, and lets them end when all say [`Report::MayLeave`], or
    /// after 5 s.
    #[must_use]
    pub fn leaves_by(mut self, leaving: E) -> Self {
        self.leaving = Some(leaving);
        self
    }

    async fn leave(&mut self) {
        let Some(leaving) = self.leaving.take() else { return };
        if let Err(e) = self.handle.send_to_all(&leaving) {
            return warn!("leaves at once, unannounced: {e}");
        }
        let mut busy: BTreeSet<WorkerId> = self.handle.workers().collect();
        let done = async {
            while !busy.is_empty() {
                match self.reports.recv().await {
                    Some((worker, Report::MayLeave)) => {
                        busy.remove(&worker);
                    }
                    Some((worker, report)) => self.members.take(worker, report),
                    None => return,
                }
            }
        };
        if tokio::time::timeout(LEAVE, done).await.is_err() {
            warn!(
                "leaves after {LEAVE:?} with work undone: new connections wait for an answer here, or another member that is to take over does not answer or is not ready"
            );
        }
    }

    /// Its workers.
    #[must_use]
    pub fn workers(&self) -> Handle<E> {
        self.handle.clone()
    }

    /// The other members, as the first worker sees them.
    #[must_use]
    pub const fn members(&self) -> &Members {
        &self.members
    }
}

impl<E, R> Daemon for DpdkDaemon<E, R>
where
    E: Clone + Send + 'static,
    R: core::error::Error + 'static,
{
    type Error = DaemonError<R>;

    async fn work(&mut self) -> Result<(), Self::Error> {
        let (worker, report) = self.reports.recv().await.ok_or(DaemonError::WorkersEnded)?;
        self.members.take(worker, report);
        Ok(())
    }

    fn apply(&mut self, cluster: &Arc<Snapshot>) -> Result<(), Self::Error> {
        self.handle.send_to_all(&(self.kind.snapshot)(Arc::clone(cluster)))?;
        self.members.replace(Arc::clone(cluster));
        Ok(())
    }

    fn neighbours(&mut self, neighbours: Neighbours) {
        self.neighbours.store(Arc::new(neighbours));
    }

    async fn collect(&mut self, out: &mut Samples) {
        out.0.extend(self.handle.collect(SCRAPE).await.0);
    }

    fn is_alive(&mut self) -> bool {
        self.handle.heartbeat_ages().all(|(_, age)| age < HANGS)
    }

    fn not_ready(&mut self) -> Vec<String> {
        let mut reasons = (self.kind.not_ready)(&self.members);
        if self.handle.has_link() == Some(false) {
            reasons.push("the port has no link: is its cable in?".to_owned());
        }
        let hang = self.handle.heartbeat_ages().filter(|(_, age)| *age >= HANGS);
        reasons
            .extend(hang.map(|(worker, age)| format!("worker {} hangs since {age:.1?}", worker.0)));
        reasons
    }

    fn status(&mut self) -> Value {
        json!({
            "port": { "mac": self.handle.mac().to_string(), "mtu": self.handle.mtu() },
            "workers": self.handle.workers().count(),
            "members": self.members.status(),
        })
    }

    async fn stop(&mut self) {
        self.leave().await;
        if let Some(runtime) = self.runtime.take()
            && let Err(e) = runtime.stop(STOP)
        {
            warn!("the workers did not end in order: {e}");
            return;
        }
        match self.eal.take().map(Eal::cleanup) {
            None | Some(Ok(())) => {}
            Some(Err(
                e
                @ (CleanupError::InUse | CleanupError::BuffersInUse(_) | CleanupError::Cleanup(_)),
            )) => {
                warn!("{e}");
            }
        }
    }
}

/// Says what a report means, for the log.
pub(crate) fn tell(name: &str, report: Report) {
    match report {
        Report::PeerBoot { boot, .. } => info!("{name} runs with boot id {boot:?}"),
        Report::PeerAlive { .. } => info!("{name} answers"),
        Report::PeerSuspect { .. } => warn!("{name} does not answer: it gets no new flows"),
        Report::ListMismatch { .. } => warn!(
            "{name} has another member list under the same generation number: make cluster.toml the same on all hosts"
        ),
        Report::BackendDead { .. } => {
            warn!(
                "{name} is dead: neither we nor another member hears it, so its clients are told to connect again"
            );
        }
        Report::Sole(true) => warn!(
            "no other tracker of some partitions answers: we decide alone there, and what is known of their flows is known to us only"
        ),
        Report::Sole(false) => info!("two trackers decide again"),
        Report::Warm(_)
        | Report::WaitsFor { .. }
        | Report::MayLeave
        | Report::Collect(_)
        | Report::Pulled { .. }
        | Report::SoleChanged { .. } => {}
    }
}
