//! Whether the services of this host work: what is configured as `[[health]]`, each check in a task of its own.

mod exec;
mod http;
mod probe;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::SocketAddr;

use jlb_config::{HealthCheck, HealthProbe};
use jlb_map::Snapshot;
use jlb_role::{Metric, MetricKind, MetricSink};
use jlb_wire::{MemberId, Protocol, RejectReason, ServiceLoad};
use jlb_yann_core::willing::{Application, Health, refusal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use exec::Turn;
use probe::Failure;

static UP: Metric = Metric {
    name: "jlb_health_up",
    help: "1: no health check of the service on this host is down.",
    kind: MetricKind::Gauge,
};
static CHECKS: Metric = Metric {
    name: "jlb_health_checks_total",
    help: "Tries of the health checks of a service on this host, by result.",
    kind: MetricKind::Counter,
};
static AGENT_CHECKS: Metric = Metric {
    name: "jlb_agent_checks_total",
    help: "Questions to the application of a service, by result.",
    kind: MetricKind::Counter,
};

static SHARE: Metric = Metric {
    name: "jlb_service_share",
    help: "Per cent of its weight that this host wants in a service, as the application says.",
    kind: MetricKind::Gauge,
};

/// Results that wait for the daemon at most; the tasks wait then.
const WAITING: usize = 64;

/// All checks of this host.
#[derive(Debug)]
pub(crate) struct Checks {
    watched: Vec<Watched>,
    tell: mpsc::Sender<(usize, Tried)>,
    told: mpsc::Receiver<(usize, Tried)>,
    /// Ended when dropped.
    tasks: JoinSet<()>,
}

/// A check and what it has found.
#[derive(Debug)]
struct Watched {
    check: HealthCheck,
    /// Where, or why nowhere.
    target: Result<SocketAddr, Rest>,
    turn: Turn,
    health: Health,
    application: Application,
    /// The application's last answer was understood.
    heard: bool,
    counts: Counts,
    agent_counts: Counts,
}

/// Why a check tries nothing. A list may say so at any time, so it is no mistake that ends the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Rest {
    #[error("no list was seen yet")]
    NotAimed,
    #[error("the cluster has no service of that name")]
    NoService,
    #[error("this host is no backend of it")]
    NoBackend,
    #[error("it is UDP now, and the check makes a TCP connection to it")]
    Udp,
}

/// By result.
type Counts = BTreeMap<&'static str, u64>;

/// What came of a try.
#[derive(Debug)]
enum Tried {
    Probe(Result<(), Failure>),
    Agent(Result<Vec<u8>, Failure>),
}

impl Checks {
    /// None has begun: [`Self::aim`] does that.
    pub(crate) fn new(checks: &[HealthCheck]) -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        let watched = checks.iter().cloned().map(Watched::new).collect();
        Self { watched, tell, told, tasks: JoinSet::new() }
    }

    /// Checks the services that this list gives this host, on their VIPs. What was found stays. Inside of a tokio runtime.
    pub(crate) fn aim(&mut self, cluster: &Snapshot, me: MemberId) {
        let targets: Vec<_> = self.watched.iter().map(|w| target(&w.check, cluster, me)).collect();
        if self.watched.iter().map(|w| w.target).eq(targets.iter().copied()) {
            return;
        }
        self.tasks = JoinSet::new();
        for (index, (watched, target)) in self.watched.iter_mut().zip(targets).enumerate() {
            let was = core::mem::replace(&mut watched.target, target);
            let target = match target {
                Ok(target) => target,
                Err(why) => {
                    if was != target {
                        warn!("the check of `{}` rests: {why}", watched.check.service);
                    }
                    continue;
                }
            };
            let (check, turn) = (watched.check.clone(), Turn::clone(&watched.turn));
            self.tasks.spawn(watch(check, target, turn, index, self.tell.clone()));
        }
    }

    /// Waits until a try changes whether some service is wanted. Loses nothing when dropped.
    pub(crate) async fn changed(&mut self) {
        if self.watched.is_empty() {
            return pending().await;
        }
        loop {
            // It has a sender of its own, so that never ends.
            let Some((index, tried)) = self.told.recv().await else { return pending().await };
            if self.take(index, tried) {
                return;
            }
        }
    }

    /// Gives whether it changed anything.
    fn take(&mut self, index: usize, tried: Tried) -> bool {
        let Some(service) = self.watched.get(index).map(|w| &w.check.service) else { return false };
        let ours = self.watched.iter().enumerate().filter(|(_, w)| w.check.service == *service);
        let mut others = ours.filter(|&(n, w)| n != index && w.target.is_ok());
        let others_up = others.all(|(_, w)| w.health.is_up());
        self.watched.get_mut(index).is_some_and(|watched| watched.take(tried, others_up))
    }

    /// Those that do not rest: what the others found before is of no meaning now.
    fn at_work(&self) -> impl Iterator<Item = &Watched> {
        self.watched.iter().filter(|w| w.target.is_ok())
    }

    /// Why this host wants no new flows of a service, if it wants none.
    pub(crate) fn refusal(&self, service: &str, overloaded: bool) -> Option<RejectReason> {
        let ours = || self.at_work().filter(|w| w.check.service == service);
        let healthy = ours().all(|w| w.health.is_up());
        let words = ours().filter_map(|w| w.application.refusal());
        // No panic overrides that one of them drains.
        let application = words.min_by_key(|reason| reason.is_of_health());
        refusal(healthy, application, overloaded)
    }

    /// Per cent of its weight that this host wants to have in a service, 1 to 100.
    pub(crate) fn share(&self, service: &str) -> u8 {
        let ours = self.at_work().filter(|w| w.check.service == service);
        ours.map(|w| w.application.share()).min().unwrap_or(ServiceLoad::ALL)
    }

    /// Gives `jlb_health_…`, `jlb_service_share` and `jlb_agent_checks_total`.
    pub(crate) fn collect(&self, out: &mut dyn MetricSink) {
        let mut up = BTreeMap::new();
        for w in self.at_work().filter(|w| w.check.probe.is_some()) {
            *up.entry(w.check.service.as_str()).or_insert(true) &= w.health.is_up();
        }
        for (service, up) in up {
            out.value(&UP, &[("service", service)], u8::from(up).into());
        }
        let asked = self.at_work().filter(|w| w.check.agent_check.is_some());
        for service in asked.map(|w| w.check.service.as_str()).collect::<BTreeSet<_>>() {
            out.value(&SHARE, &[("service", service)], self.share(service).into());
        }
        self.collect_results(&CHECKS, |w| &w.counts, out);
        self.collect_results(&AGENT_CHECKS, |w| &w.agent_counts, out);
    }

    fn collect_results(
        &self,
        metric: &'static Metric,
        counts: impl Fn(&Watched) -> &Counts,
        out: &mut dyn MetricSink,
    ) {
        let mut sums = BTreeMap::new();
        for w in &self.watched {
            for (&result, n) in counts(w) {
                *sums.entry((w.check.service.as_str(), result)).or_insert(0) += n;
            }
        }
        for ((service, result), n) in sums {
            out.value(metric, &[("service", service), ("result", result)], n as f64);
        }
    }
}

impl Watched {
    fn new(check: HealthCheck) -> Self {
        let health = Health::new(check.rise, check.fall);
        let (turn, application, counts, agent_counts) = Default::default();
        let target = Err(Rest::NotAimed);
        Self { check, target, turn, health, application, heard: true, counts, agent_counts }
    }

    /// Gives whether it changed anything.
    fn take(&mut self, tried: Tried, others_up: bool) -> bool {
        // A last result of before it rested.
        let Ok(target) = self.target else { return false };
        match tried {
            Tried::Probe(result) => self.take_result(&result, target, others_up),
            Tried::Agent(result) => self.take_words(&result),
        }
    }

    fn take_result(
        &mut self,
        result: &Result<(), Failure>,
        target: SocketAddr,
        others_up: bool,
    ) -> bool {
        let label = result.as_ref().map_or_else(Failure::label, |()| "passed");
        *self.counts.entry(label).or_default() += 1;
        let changed = self.health.take(result.is_ok());
        if changed {
            let (service, check) = (&self.check.service, name(&self.check, target));
            match result {
                Ok(()) if others_up => info!("`{service}` is up: the check `{check}` passes"),
                Ok(()) => info!("`{service}`: the check `{check}` passes, another one fails"),
                Err(e) => warn!("`{service}` is down: the check `{check}` failed: {e}"),
            }
        }
        changed
    }

    /// Whether the application can be reached is the health check's matter: its last word stands.
    fn take_words(&mut self, result: &Result<Vec<u8>, Failure>) -> bool {
        let was = (self.application.refusal(), self.application.share());
        let known = result.as_ref().is_ok_and(|said| self.application.take(said));
        let said = match result {
            Ok(said) => String::from_utf8_lossy(said).trim_end().escape_debug().to_string(),
            Err(e) => e.to_string(),
        };
        let label = match result {
            Ok(_) if known => "understood",
            Ok(_) => "not_understood",
            Err(e) => e.label(),
        };
        *self.agent_counts.entry(label).or_default() += 1;
        let service = &self.check.service;
        let at = self.check.agent_check.map_or_else(String::new, |address| address.to_string());
        if core::mem::replace(&mut self.heard, known) != known {
            if known {
                info!("`{service}`: the application at {at} is heard again");
            } else {
                let last = "its last word stands";
                warn!("`{service}`: the application at {at} is not heard: \"{said}\"; {last}");
            }
        }
        let (refusal, share) = (self.application.refusal(), self.application.share());
        let changed = was != (refusal, share);
        if changed {
            let wants = refusal.map_or("new flows", RejectReason::label);
            info!("`{service}`: the application says \"{said}\": {wants}, {share} % of the weight");
        }
        changed
    }
}

/// What a check is called in the log.
fn name(check: &HealthCheck, target: SocketAddr) -> String {
    match &check.probe {
        Some(HealthProbe::Tcp) => format!("tcp {target}"),
        Some(HealthProbe::Http(asked)) => {
            let scheme = if asked.tls { "https" } else { "http" };
            format!("{scheme} {target}{}", asked.path)
        }
        Some(HealthProbe::Exec { command }) => format!("exec {}", command.join(" ")),
        None => "agent_check".to_owned(),
    }
}

/// Where a check goes, or why it rests.
fn target(check: &HealthCheck, cluster: &Snapshot, me: MemberId) -> Result<SocketAddr, Rest> {
    let services = cluster.services();
    let service = services.iter().find(|s| s.name == check.service).ok_or(Rest::NoService)?;
    service.backend(me).ok_or(Rest::NoBackend)?;
    if let Some(target) = check.target {
        return Ok(target);
    }
    let connects = matches!(check.probe, Some(HealthProbe::Tcp | HealthProbe::Http(_)));
    if service.protocol == Protocol::Udp && connects {
        return Err(Rest::Udp);
    }
    let vip = service.vips.first().ok_or(Rest::NoService)?;
    Ok(SocketAddr::new(*vip, service.port))
}

/// Tries for ever.
async fn watch(
    check: HealthCheck,
    target: SocketAddr,
    turn: Turn,
    index: usize,
    tell: mpsc::Sender<(usize, Tried)>,
) {
    loop {
        if let Some(probe) = &check.probe {
            let result = probe::probe(probe, target, &turn, check.timeout).await;
            if tell.send((index, Tried::Probe(result))).await.is_err() {
                return;
            }
        }
        if let Some(address) = check.agent_check {
            let said = probe::listen(address, check.timeout).await;
            if tell.send((index, Tried::Agent(said))).await.is_err() {
                return;
            }
        }
        sleep(check.interval).await;
    }
}
