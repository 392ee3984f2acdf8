//! Short connections: what a client sees that comes while something is broken.
//!
//! They begin at a steady rate, however long those before them take: else a fault would hide most of those that it hits.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{Phase, Shared, connection};
use crate::server;

/// One begins every 10 ms.
const INTERVAL: Duration = Duration::from_millis(10);
/// No more than this under way: ten seconds of them.
const MOST: usize = 1000;
/// Before a client tries again.
const PAUSE: Duration = Duration::from_millis(25);
/// A try that has no answer after this is given up. SYNs are sent again after 1 and 3 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of the short connections.
#[derive(Clone, Debug, Default)]
pub struct Fresh {
    /// From the first try to the answer, further tries included; of one that had none, until it was given up.
    pub times: Vec<Duration>,
    /// Tries that failed: refused, reset, silent.
    pub failed: u64,
}

/// Until the drain. Only those that begin from the fault on count.
pub(super) async fn open_and_close(vips: impl Fn(u32) -> IpAddr, shared: Arc<Shared>) -> Fresh {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fresh = Fresh::default();
    let mut under_way = JoinSet::new();
    let mut number = 0;
    while shared.phase() != Phase::Drain {
        ticks.tick().await;
        while let Some(ended) = under_way.try_join_next() {
            fresh.add(ended.ok().flatten());
        }
        if shared.phase() != Phase::Opening && under_way.len() < MOST {
            let vip = SocketAddr::new(vips(number), server::PORT);
            under_way.spawn(until_answered(number, vip, shared.clone()));
            number += 1;
        }
    }
    while let Some(ended) = under_way.join_next().await {
        fresh.add(ended.ok().flatten());
    }
    fresh
}

impl Fresh {
    fn add(&mut self, ended: Option<(Duration, u64)>) {
        if let Some((time, failed)) = ended {
            self.times.push(time);
            self.failed += failed;
        }
    }
}

/// Time and failed tries, if they count.
async fn until_answered(
    number: u32,
    vip: SocketAddr,
    shared: Arc<Shared>,
) -> Option<(Duration, u64)> {
    let (begin, phase) = (shared.now(), shared.phase());
    let mut failed = 0;
    // Numbers that no long connection has.
    while !timeout(PATIENCE, once(u32::MAX - number, vip)).await.unwrap_or(false) {
        failed += 1;
        if shared.phase() == Phase::Drain {
            break;
        }
        sleep(PAUSE).await;
    }
    (phase == Phase::Fault).then(|| (shared.now().saturating_sub(begin), failed))
}

async fn once(number: u32, vip: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(vip).await else { return false };
    connection::ask(&mut stream, number, 1, None).await.is_ok()
}
