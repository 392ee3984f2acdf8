//! The watchdog: keeps the table as the judge says, and empties it at its start and at its end.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use jlb_node::netlink::{Netlink, NetlinkError};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep_until, timeout};

use crate::judge::{BEAT, Judge, Verdict};
use crate::message::{News, Order};
use crate::starved::Threads;

/// After the kernel refused a change.
const RETRY: Duration = Duration::from_millis(100);

/// Why the watchdog cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Its own system calls.
    #[error("cannot start the watchdog")]
    Start(#[source] io::Error),
    /// The kernel's routes.
    #[error("cannot change routing table {table}")]
    Table {
        /// Its number.
        table: u32,
        /// Why.
        source: NetlinkError,
    },
}

/// Watches over the daemon at the other end of the socket, until it is gone. Then nothing is announced any more.
///
/// # Errors
/// [`WatchError`]; a table that could not be emptied is one.
pub fn watch(daemon: UnixStream, table: u32) -> Result<(), WatchError> {
    block_on(async {
        // It ends with its daemon and not with its terminal or its unit: whoever ends it first leaves nobody to withdraw.
        let _deaf = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .map(|kind| signal(kind).map_err(WatchError::Start));
        daemon.set_nonblocking(true).map_err(WatchError::Start)?;
        let daemon = tokio::net::UnixStream::from_std(daemon).map_err(WatchError::Start)?;
        let pid = daemon.peer_cred().map_err(WatchError::Start)?.pid();
        let threads = pid.and_then(|pid| u32::try_from(pid).ok()).map(Threads::of);
        let (orders, news) = daemon.into_split();
        let mut watchdog = Watchdog {
            table: Table::open(table)?,
            judge: Judge::new(),
            threads,
            news,
            told: None,
            retry_at: None,
        };
        watchdog.table.clear().await?;
        watchdog.follow(BufReader::new(orders).lines()).await;
        watchdog.table.clear().await
    })
}

/// Empties a table of what was announced in it.
///
/// # Errors
/// [`WatchError`]
pub fn clear(table: u32) -> Result<(), WatchError> {
    block_on(async { Table::open(table)?.clear().await })
}

fn block_on<T>(future: impl Future<Output = Result<T, WatchError>>) -> Result<T, WatchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(WatchError::Start)?.block_on(future)
}

struct Watchdog {
    table: Table,
    judge: Judge,
    threads: Option<Threads>,
    news: OwnedWriteHalf,
    /// So that each is said once.
    told: Option<News>,
    retry_at: Option<Instant>,
}

impl Watchdog {
    /// Until the daemon is gone.
    async fn follow(&mut self, mut orders: Lines<BufReader<OwnedReadHalf>>) {
        loop {
            let deadline = self.judge.deadline().into_iter().chain(self.retry_at).min();
            let order = match deadline {
                Some(at) => tokio::select! {
                    // First what was said: who was not running itself must not blame others.
                    biased;
                    line = orders.next_line() => Some(line),
                    () = sleep_until(at.into()) => None,
                },
                None => Some(orders.next_line().await),
            };
            let mut line = order;
            // All that is there, before anything is judged.
            while let Some(read) = line {
                let Ok(Some(text)) = read else { return };
                if let Some(order) = Order::parse(&text) {
                    self.judge.take(Instant::now(), order);
                }
                line = timeout(Duration::ZERO, orders.next_line()).await.ok();
            }
            self.act().await;
        }
    }

    async fn act(&mut self) {
        let nothing = BTreeSet::new();
        let now = Instant::now();
        let threads = &mut self.threads;
        let is_starved = || threads.as_mut().is_some_and(|t| t.are_starved(now, BEAT * 2));
        let (wanted, why) = match self.judge.judge(now, is_starved) {
            Verdict::Announce(vips) => (vips, News::Announced(vips.len())),
            Verdict::Wait => (&nothing, News::Announced(0)),
            Verdict::Hangs(worker) => (&nothing, News::Hangs(worker)),
        };
        let news = match self.table.set(wanted).await {
            Ok(()) => {
                self.retry_at = None;
                why
            }
            Err(e) => {
                self.retry_at = Some(Instant::now() + RETRY);
                News::Failed(e.to_string())
            }
        };
        if self.told.as_ref() != Some(&news) {
            // A daemon that does not listen is none of its business; one that is gone shows when it is read from.
            let _ = self.news.write_all(format!("{news}\n").as_bytes()).await;
            self.told = Some(news);
        }
    }
}

struct Table {
    netlink: Netlink,
    number: u32,
    there: BTreeSet<IpAddr>,
}

impl Table {
    fn open(number: u32) -> Result<Self, WatchError> {
        let netlink =
            Netlink::open().map_err(|source| WatchError::Table { table: number, source })?;
        Ok(Self { netlink, number, there: BTreeSet::new() })
    }

    /// Whoever has put it there: one that was killed, say.
    async fn clear(&mut self) -> Result<(), WatchError> {
        let all = self.netlink.announced(self.number).await;
        let cleared = match all {
            Ok(there) => {
                self.there = there;
                self.set(&BTreeSet::new()).await
            }
            Err(e) => Err(e),
        };
        cleared.map_err(|source| WatchError::Table { table: self.number, source })
    }

    /// Makes the table hold these. After an error it is read anew, since somebody else has changed it.
    async fn set(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), NetlinkError> {
        if self.there == *wanted {
            return Ok(());
        }
        let changed = self.change(wanted).await;
        if changed.is_err() {
            self.there = self.netlink.announced(self.number).await?;
            return self.change(wanted).await;
        }
        changed
    }

    async fn change(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), NetlinkError> {
        let surplus: Vec<_> = self.there.difference(wanted).copied().collect();
        for vip in surplus {
            self.netlink.withdraw(self.number, vip).await?;
            self.there.remove(&vip);
        }
        let missing: Vec<_> = wanted.difference(&self.there).copied().collect();
        for vip in missing {
            self.netlink.announce(self.number, vip).await?;
            self.there.insert(vip);
        }
        Ok(())
    }
}
