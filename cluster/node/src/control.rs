use core::time::Duration;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use jlb_config::{ClusterList, Dpdk};
use jlb_map::{MemberRole, Refusal, Snapshot, Succession};
use jlb_neighbours::Neighbours;
use jlb_role::{Metric, MetricKind, MetricSink as _, Samples};
use jlb_wire::Version;
use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::admin::{self, Answer, Question, Topic};
use crate::membership::Membership;
use crate::netlink::Watch;
use crate::{Daemon, Setup, link_check, load_host, logging, metrics};

static BUILD: Metric =
    Metric { name: "jlb_build_info", help: "What runs here; always 1.", kind: MetricKind::Gauge };
static STARTED: Metric = Metric {
    name: "process_start_time_seconds",
    help: "When the process started, in seconds since 1970.",
    kind: MetricKind::Gauge,
};
static GENERATION: Metric = Metric {
    name: "jlb_membership_generation",
    help: "Generation of the member list in force.",
    kind: MetricKind::Gauge,
};
static EPOCH: Metric = Metric {
    name: "jlb_membership_epoch",
    help: "Epoch of the set of flow trackers.",
    kind: MetricKind::Gauge,
};
static PROTOCOL: Metric = Metric {
    name: "jlb_protocol_version",
    help: "Version of the protocol that the member list in force names.",
    kind: MetricKind::Gauge,
};
static NEWEST_PROTOCOL: Metric = Metric {
    name: "jlb_protocol_newest_version",
    help: "Newest version of the protocol that this build speaks.",
    kind: MetricKind::Gauge,
};
static RELOADED: Metric = Metric {
    name: "jlb_config_last_reload_successful",
    help: "Whether the last reload of the configuration was taken.",
    kind: MetricKind::Gauge,
};
static RELOADED_AT: Metric = Metric {
    name: "jlb_config_last_reload_success_timestamp_seconds",
    help: "When a configuration was last taken, in seconds since 1970.",
    kind: MetricKind::Gauge,
};

/// Runs a daemon until it is told to stop or cannot go on. `start` is called on the control thread, inside of its
/// tokio runtime.
pub fn run<D: Daemon>(
    setup: &Setup,
    start: impl FnOnce(&Setup) -> Result<D, D::Error>,
) -> ExitCode {
    logging::start(&setup.host.node);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            error!("cannot start the control thread: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(control(setup, start)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("{}: {e}", setup.program.name);
            ExitCode::FAILURE
        }
    }
}

/// What ends a daemon before it was told to stop.
#[derive(Debug, thiserror::Error)]
enum Fatal<E: core::error::Error> {
    #[error("cannot listen at node.admin = \"{at}\": {}", admin_trouble(.source))]
    Admin { at: jlb_config::Admin, source: std::io::Error },
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot ask the kernel for neighbours: {0}")]
    Netlink(#[from] crate::netlink::NetlinkError),
    #[error(
        "interface `{0}` was made anew, or has another Ethernet address: the port is of no use any more"
    )]
    Replaced(String),
    #[error("{}", chain(.0))]
    Daemon(E),
}

/// What is in the way of the admin endpoint, and what to do about it.
fn admin_trouble(e: &std::io::Error) -> String {
    let kind = e.kind();
    if kind == std::io::ErrorKind::AddrInUse {
        "in use: does this daemon run already? Two daemons on one host need two addresses".into()
    } else if kind == std::io::ErrorKind::NotFound {
        format!("{e}: its directory must exist")
    } else {
        e.to_string()
    }
}

/// An error with what caused it.
fn chain(e: &impl core::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    text
}

async fn control<D: Daemon>(
    setup: &Setup,
    start: impl FnOnce(&Setup) -> Result<D, D::Error>,
) -> Result<(), Fatal<D::Error>> {
    let catch = |kind| signal(kind).map_err(Fatal::Signals);
    let (mut terminate, mut interrupt, mut hangup) = (
        catch(SignalKind::terminate())?,
        catch(SignalKind::interrupt())?,
        catch(SignalKind::hangup())?,
    );
    let at = &setup.host.node.admin;
    // First, so that a second daemon of this host ends before it touches anything.
    let questions =
        admin::start(at).await.map_err(|source| Fatal::Admin { at: at.clone(), source })?;
    let daemon = start(setup).map_err(Fatal::Daemon)?;
    let watch = match &setup.host.dpdk {
        Some(dpdk) if setup.program.role != MemberRole::Backend => {
            Some(Watch::start(&dpdk.interface, targets(setup, &setup.cluster)).await?)
        }
        Some(_) | None => None,
    };
    let mut control = Control {
        setup,
        daemon,
        cluster: Arc::clone(&setup.cluster),
        started: SystemTime::now(),
        reloaded: SystemTime::now(),
        reload_worked: !setup.begin.is_refused(),
        membership: Membership::start(setup),
        watch,
        has_neighbours: false,
    };
    info!(
        version = setup.program.version,
        generation = setup.cluster.generation(),
        epoch = setup.cluster.epoch().0,
        "{} runs as `{}`, {}",
        setup.program.name,
        setup.host.node.name,
        setup.program.role,
    );
    for reason in control.link_trouble().await {
        warn!("{reason}");
    }
    notify(&[NotifyState::Ready]);
    let replaced = replaced(setup, control.watch.as_ref());
    let stopped = tokio::select! {
        result = control.serve(questions, &mut hangup) => result.map_err(Fatal::Daemon),
        interface = replaced => Err(Fatal::Replaced(interface)),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    notify(&[NotifyState::Stopping]);
    info!("{} stops", setup.program.name);
    control.daemon.stop().await;
    control.membership.leave().await;
    if let jlb_config::Admin::Unix(path) = at {
        // It is in nobody's way if it stays.
        let _ = std::fs::remove_file(path);
    }
    stopped
}

/// Waits until a port on a kernel interface is on none any more, since another one took its place, and gives its name.
fn replaced(setup: &Setup, watch: Option<&Watch>) -> impl Future<Output = String> + use<> {
    let port = setup.host.dpdk.as_ref().filter(|dpdk| is_on_interface(dpdk));
    let port = port.zip(watch).map(|(dpdk, watch)| (dpdk.interface.clone(), watch.replaced()));
    async {
        let Some((interface, replaced)) = port else { return core::future::pending().await };
        replaced.await;
        interface
    }
}

/// Whether the port is the kernel's interface itself, not a card of its own on the same wire.
fn is_on_interface(dpdk: &Dpdk) -> bool {
    dpdk.port.split(',').any(|a| a.strip_prefix("iface=") == Some(&dpdk.interface))
}

/// Tells systemd, if it listens.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        warn!("cannot notify systemd: {e}");
    }
}

/// Where the other members are, as this one reaches them.
fn targets(setup: &Setup, cluster: &Snapshot) -> Vec<(jlb_wire::MemberId, core::net::IpAddr)> {
    let others = cluster.members().iter().filter(|m| m.id != setup.me);
    others.filter_map(|m| Some((m.id, cluster.underlay_pair(setup.me, m.id)?.1))).collect()
}

struct Control<'a, D> {
    setup: &'a Setup,
    daemon: D,
    cluster: Arc<Snapshot>,
    started: SystemTime,
    reloaded: SystemTime,
    reload_worked: bool,
    membership: Membership,
    watch: Option<Watch>,
    has_neighbours: bool,
}

impl<D: Daemon> Control<'_, D> {
    async fn serve(
        &mut self,
        mut questions: mpsc::Receiver<Question>,
        hangup: &mut tokio::signal::unix::Signal,
    ) -> Result<(), D::Error> {
        let mut watchdog = watchdog();
        loop {
            tokio::select! {
                result = self.daemon.work() => result?,
                Some(question) = questions.recv() => {
                    let answer = self.answer(question.topic).await;
                    // Whoever asked may have gone meanwhile.
                    let _ = question.reply.send(answer);
                }
                neighbours = next(&mut self.watch) => {
                    self.has_neighbours = true;
                    self.daemon.neighbours(neighbours);
                }
                () = tick(&mut watchdog) => {
                    if self.daemon.is_alive() {
                        notify(&[NotifyState::Watchdog]);
                    }
                }
                () = self.membership.changed() => self.take()?,
                _ = hangup.recv() => self.reload()?,
            }
        }
    }

    /// Reads the configuration again. What is wrong is logged, and what is in force stays.
    fn reload(&mut self) -> Result<(), D::Error> {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
        match load_host(&self.setup.paths.host) {
            Ok(host) if host == self.setup.host => {}
            Ok(_) => warn!("{} was changed; that takes a restart", self.setup.paths.host.display()),
            Err(e) => warn!("the reloaded {} is wrong:\n{e}", self.setup.paths.host.display()),
        }
        self.take()?;
        notify(&[NotifyState::Ready]);
        Ok(())
    }

    /// Takes the list as it is offered now, if it may follow the one in force.
    fn take(&mut self) -> Result<(), D::Error> {
        let Some(offer) = self.membership.offer() else {
            info!("etcd has not answered yet: the list in force stays");
            return Ok(());
        };
        self.reload_worked = false;
        match offer {
            Ok(list) => self.succeed(&list),
            Err(e) => {
                error!("the reload was refused:\n{e}");
                Ok(())
            }
        }
    }

    fn succeed(&mut self, list: &ClusterList) -> Result<(), D::Error> {
        let new = &list.snapshot;
        let succession = match list.follows(&self.cluster) {
            Ok(succession) => succession,
            Err(refusals) => {
                for refusal in refusals {
                    let hint = match refusal {
                        Refusal::Shrinks { .. } => {
                            format!(" ({})", self.membership.how_to_force(new.generation()))
                        }
                        Refusal::LowerGeneration { .. }
                        | Refusal::SameGeneration { .. }
                        | Refusal::EpochMustRise { .. }
                        | Refusal::EpochMustStay { .. }
                        | Refusal::HashKey
                        | Refusal::IdMoved { .. }
                        | Refusal::RoleChanged { .. } => String::new(),
                    };
                    error!("the reload was refused: {refusal}{hint}");
                }
                return Ok(());
            }
        };
        let me = new.member(self.setup.me);
        if me.is_none_or(|m| m.role != self.setup.program.role) {
            error!(
                "the reload was refused: this host is no longer in the list; stop its daemon first"
            );
            return Ok(());
        }
        self.reload_worked = true;
        self.reloaded = SystemTime::now();
        let what = match succession {
            Succession::Same => "nothing changed",
            Succession::KeysOnly => "other MAC keys are in force",
            Succession::Newer => "a newer list is in force",
        };
        info!(generation = new.generation(), epoch = new.epoch().0, "reloaded: {what}");
        if succession != Succession::Same {
            if let Some(watch) = &mut self.watch {
                watch.set_targets(targets(self.setup, new));
            }
            self.daemon.apply(new)?;
            self.cluster = Arc::clone(new);
        }
        self.membership.taken(self.setup.program.role, new);
        Ok(())
    }

    async fn answer(&mut self, topic: Topic) -> Answer {
        match topic {
            Topic::Metrics => self.metrics().await,
            Topic::Health if self.daemon.is_alive() => Answer::text(StatusCode::OK, "alive\n"),
            Topic::Health => {
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, "a worker does not respond\n")
            }
            Topic::Ready => {
                let reasons = self.not_ready().await;
                if reasons.is_empty() {
                    return Answer::text(StatusCode::OK, "ready\n");
                }
                let lines: String = reasons.iter().map(|r| format!("{r}\n")).collect();
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, lines)
            }
            Topic::Status => self.status().await,
        }
    }

    async fn not_ready(&mut self) -> Vec<String> {
        let mut reasons = self.daemon.not_ready();
        reasons.extend(self.link_trouble().await);
        if self.watch.is_some() && !self.has_neighbours {
            reasons.push("the kernel has not yet said who is on the link".to_owned());
        }
        reasons
    }

    /// What is wrong with the interface on the underlay, of a role that has a port.
    async fn link_trouble(&self) -> Vec<String> {
        let (Some(watch), Some(me)) = (&self.watch, self.cluster.member(self.setup.me)) else {
            return Vec::new();
        };
        let port = self.setup.host.dpdk.as_ref().filter(|dpdk| is_on_interface(dpdk));
        let mtu = port.map(|dpdk| dpdk.mtu);
        link_check::trouble(watch.interface(), &watch.link().await, me.addresses.iter(), mtu)
    }

    async fn metrics(&mut self) -> Answer {
        let mut samples = Samples::default();
        self.daemon.collect(&mut samples).await;
        let program = &self.setup.program;
        let labels = [("version", program.version), ("role", program.role.label())];
        samples.value(&BUILD, &labels, 1.0);
        samples.value(&STARTED, &[], unix_seconds(self.started));
        // Far below 2⁵³, beyond which a float is no longer exact.
        samples.value(&GENERATION, &[], self.cluster.generation() as f64);
        samples.value(&EPOCH, &[], self.cluster.epoch().0.into());
        samples.value(&PROTOCOL, &[], self.cluster.protocol().as_u8().into());
        samples.value(&NEWEST_PROTOCOL, &[], Version::NEWEST.as_u8().into());
        samples.value(&RELOADED, &[], u8::from(self.reload_worked).into());
        samples.value(&RELOADED_AT, &[], unix_seconds(self.reloaded));
        self.membership.collect(&self.cluster, &mut samples);
        match metrics::render(&samples) {
            Ok(body) => {
                Answer { status: StatusCode::OK, content_type: metrics::CONTENT_TYPE, body }
            }
            Err(e) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
        }
    }

    async fn status(&mut self) -> Answer {
        let reasons = self.not_ready().await;
        let status = json!({
            "name": self.setup.host.node.name,
            "role": self.setup.program.role.label(),
            "version": self.setup.program.version,
            "generation": self.cluster.generation(),
            "epoch": self.cluster.epoch().0,
            "digest": self.cluster.digest().to_string(),
            "protocol": self.cluster.protocol().as_u8(),
            "newest_protocol": Version::NEWEST.as_u8(),
            "membership": self.membership.status(&self.cluster),
            "ready": reasons.is_empty(),
            "not_ready": reasons,
            "daemon": self.daemon.status(),
        });
        Answer {
            status: StatusCode::OK,
            content_type: "application/json",
            body: format!("{status:#}\n"),
        }
    }
}

fn unix_seconds(t: SystemTime) -> f64 {
    t.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Ticks at a third of what systemd allows, if it watches.
fn watchdog() -> Option<Interval> {
    let allowed = sd_notify::watchdog_enabled()?;
    let mut ticks = interval((allowed / 3).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => core::future::pending().await,
    }
}

async fn next(watch: &mut Option<Watch>) -> Neighbours {
    match watch {
        Some(watch) => watch.next().await,
        None => core::future::pending().await,
    }
}
