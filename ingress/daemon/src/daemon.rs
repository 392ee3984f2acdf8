use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

use jlb_announce::{AnnounceError, Announcer, News};
use jlb_dpdk_daemon::{DaemonError, DpdkDaemon, Kind, Members, Worker};
use jlb_flow::SlabError;
use jlb_ingress_core::{Ingress, IngressConfig, IngressEvent};
use jlb_map::{MemberRole, Snapshot};
use jlb_node::serde_json::{Value, json};
use jlb_node::{Daemon, Setup};
use jlb_role::{AllRules, Metric, MetricKind, MetricSink as _, Nanos, Samples};
use jlb_runtime::Neighbours;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

/// Buffers that a card holds in each receive and each transmit queue.
const QUEUE: u32 = 1024;
/// Packets that may wait for answers even with the fewest buffers.
const LEAST_WAITING: u32 = 512;

/// The watchdog takes a few milliseconds; one that hangs is killed after a second.
const WITHDRAW: Duration = Duration::from_secs(2);
/// Silence after which nobody sends here any more. Taking a route away reaches the routers' tables within 20 ms, and
/// agents hear of our leaving within 100 ms.
const QUIET: Duration = Duration::from_millis(200);
/// Longest that a leaving host goes on: whoever still sends here then has not heard, and would not.
const LEAVING: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody still sends.
const LOOK: Duration = Duration::from_millis(10);

static ANNOUNCED: Metric = Metric {
    name: "jlb_announced_vips",
    help: "VIPs that are routes in the announced table.",
    kind: MetricKind::Gauge,
};
static WITHDRAWALS: Metric = Metric {
    name: "jlb_withdrawals_total",
    help: "How often all VIPs were withdrawn since a worker hung, or the watchdog had ended.",
    kind: MetricKind::Counter,
};

/// Why there is no ingress.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngressError {
    #[error(transparent)]
    Daemon(#[from] DaemonError<SlabError>),
    #[error(transparent)]
    Announce(#[from] AnnounceError),
}

/// The workers, and who announces that they work.
pub(crate) struct IngressDaemon {
    workers: DpdkDaemon<IngressEvent, SlabError>,
    announcement: Option<Announcement>,
    /// What the workers' frames go to is known.
    has_neighbours: bool,
}

/// What is announced, and when.
struct Announcement {
    announcer: Announcer,
    vips: BTreeSet<IpAddr>,
    /// Once it began it goes on without trackers, too: established flows need none.
    began: bool,
    withdrawals: u64,
    trouble: Option<String>,
}

impl IngressDaemon {
    pub(crate) fn start(setup: &Setup) -> Result<Self, IngressError> {
        let Some(sizes) = setup.host.ingress else {
            return Err(DaemonError::NoSection("[ingress]").into());
        };
        let Some(dpdk) = &setup.host.dpdk else {
            return Err(DaemonError::NoSection("[dpdk]").into());
        };
        // Before DPDK: what a killed predecessor left announced goes first.
        let announcer =
            sizes.announce.map(|announce| Announcer::start(announce.table)).transpose()?;
        // Half of what a card's queues leave. The other half is for what is on its way: a flood of new flows must not
        // stop the established ones.
        let queues = 2 * QUEUE * u32::from(dpdk.workers);
        let waiting = (dpdk.buffers.saturating_sub(queues) / 2).max(LEAST_WAITING);
        let kind = Kind { snapshot: IngressEvent::Snapshot, not_ready };
        let workers = DpdkDaemon::start(setup, kind, |worker: Worker| {
            let config = IngressConfig {
                id: setup.me,
                worker: worker.id,
                workers: worker.of,
                boot: setup.boot,
                seed: worker.seed,
                flow_capacity: worker.share(sizes.flow_capacity),
                pending_capacity: worker.share(sizes.pending_capacity),
            };
            Ingress::new(config, Arc::clone(&setup.cluster), AllRules, Nanos::ZERO)
                .map(|ingress| ingress.hold_at_most(worker.share(waiting)))
        })?;
        if let Some(announcer) = &announcer {
            let handle = workers.workers();
            let beats = move |since_last: Duration| {
                let turned = handle.heartbeat_ages().filter(|(_, age)| *age <= since_last);
                turned.fold(0, |bits, (worker, _)| bits | 1 << worker.0)
            };
            announcer.watch(dpdk.workers, Box::new(beats));
        }
        let announcement = announcer.map(|announcer| Announcement {
            announcer,
            vips: vips(&setup.cluster),
            began: false,
            withdrawals: 0,
            trouble: None,
        });
        Ok(Self { workers, announcement, has_neighbours: false })
    }

    /// Announces, once packets that come here can go on: the workers know the ways out, and a tracker has answered.
    fn announce_if_fit(&mut self) {
        let Some(announcement) = &mut self.announcement else { return };
        let (trackers, _) = self.workers.members().alive(MemberRole::FlowTracker);
        if !announcement.began && self.has_neighbours && trackers > 0 {
            announcement.began = true;
            announcement.announcer.announce(announcement.vips.clone());
        }
    }
}

impl Announcement {
    fn take(&mut self, news: News) {
        self.trouble = None;
        match news {
            News::Announced(0) => info!("no VIP is announced"),
            News::Announced(n) => info!("{n} VIPs are announced"),
            News::Hangs(worker) => {
                error!("worker {worker} hangs: all VIPs are withdrawn");
                self.withdrawals += 1;
            }
            News::Failed(why) => {
                error!("the table of VIPs cannot be changed: {why}");
                self.trouble = Some(why);
            }
            // The next one begins with an empty table.
            News::Gone => self.withdrawals += 1,
        }
    }
}

impl Daemon for IngressDaemon {
    type Error = IngressError;

    async fn work(&mut self) -> Result<(), IngressError> {
        match &mut self.announcement {
            Some(announcement) => tokio::select! {
                done = self.workers.work() => done?,
                news = announcement.announcer.news() => announcement.take(news),
            },
            None => self.workers.work().await?,
        }
        self.announce_if_fit();
        Ok(())
    }

    fn apply(&mut self, cluster: &Arc<Snapshot>) -> Result<(), IngressError> {
        self.workers.apply(cluster)?;
        if let Some(announcement) = &mut self.announcement {
            announcement.vips = vips(cluster);
            if announcement.began {
                announcement.announcer.announce(announcement.vips.clone());
            }
        }
        Ok(())
    }

    fn neighbours(&mut self, neighbours: Neighbours) {
        self.workers.neighbours(neighbours);
        self.has_neighbours = true;
        self.announce_if_fit();
    }

    async fn collect(&mut self, out: &mut Samples) {
        self.workers.collect(out).await;
        if let Some(announcement) = &self.announcement {
            // Both far below 2⁵³, beyond which a float is no longer exact.
            out.value(&ANNOUNCED, &[], announcement.announcer.announced() as f64);
            out.value(&WITHDRAWALS, &[], announcement.withdrawals as f64);
        }
    }

    fn is_alive(&mut self) -> bool {
        self.workers.is_alive()
    }

    fn not_ready(&mut self) -> Vec<String> {
        let mut reasons = self.workers.not_ready();
        if let Some(announcement) = &self.announcement {
            let (there, wanted) = (announcement.announcer.announced(), announcement.vips.len());
            if let Some(why) = &announcement.trouble {
                reasons.push(format!("the table of VIPs cannot be changed: {why}"));
            } else if there < wanted {
                reasons.push(format!("{there} of {wanted} VIPs are announced"));
            }
        }
        reasons
    }

    fn status(&mut self) -> Value {
        let mut status = self.workers.status();
        if let (Some(announcement), Some(status)) = (&self.announcement, status.as_object_mut()) {
            let announced = announcement.announcer.announced();
            status.insert("announced_vips".to_owned(), json!(announced));
        }
        status
    }

    /// Packets go on as long as some come: routers hear that the way is gone, agents that another egress is to be taken.
    async fn stop(&mut self) {
        if let Some(announcement) = &mut self.announcement
            && !announcement.announcer.withdraw(WITHDRAW).await
        {
            warn!("the watchdog has not said that the VIPs are withdrawn");
        }
        let handle = self.workers.workers();
        if let Err(e) = handle.send_to_all(&IngressEvent::Leaving(true)) {
            warn!("agents are not told that this host leaves: {e}");
        }
        let begin = Instant::now();
        let (mut seen, mut seen_at) = (handle.flow_packets(), begin);
        while seen_at.elapsed() < QUIET && begin.elapsed() < LEAVING {
            sleep(LOOK).await;
            let now = handle.flow_packets();
            if now != seen {
                (seen, seen_at) = (now, Instant::now());
            }
        }
        if seen_at.elapsed() < QUIET {
            warn!("packets still come {LEAVING:?} after this host began to leave");
        }
        self.workers.stop().await;
    }
}

fn vips(cluster: &Snapshot) -> BTreeSet<IpAddr> {
    cluster.services().iter().flat_map(|service| service.vips.iter().copied()).collect()
}

/// Established flows need no tracker, so this says who should get *new* clients.
fn not_ready(members: &Members) -> Vec<String> {
    let mut reasons = Vec::new();
    let (alive, all) = members.alive(MemberRole::FlowTracker);
    // One is enough: it decides alone once all agents obey it.
    if alive == 0 {
        reasons.push(format!("none of {all} flow trackers answers: new flows wait"));
    }
    let (alive, all) = members.alive(MemberRole::Backend);
    if alive == 0 {
        reasons.push(format!("none of {all} backends answers"));
    }
    reasons
}
