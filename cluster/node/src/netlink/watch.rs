use core::net::IpAddr;
use core::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::Stream;
use jlb_neighbours::{MacAddr, Neighbours};
use jlb_wire::MemberId;
use rtnetlink::MulticastGroup;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::{Link, Netlink, NetlinkError, Table};

/// The kernel is asked again this long after its last word, so that a burst of changes is one change for the workers.
const SETTLE: Duration = Duration::from_millis(20);
/// How often it is asked without a word from it: netlink may lose messages.
const SWEEP: Duration = Duration::from_secs(10);
/// How often unresolved neighbours are asked for.
const RETRY: Duration = Duration::from_secs(1);

type Targets = Vec<(MemberId, IpAddr)>;

/// Follows the kernel's routes and neighbours of one interface.
#[derive(Debug)]
pub struct Watch {
    /// Not the task's: the kernel refuses a second question on a socket (EBUSY) while it still answers the first.
    netlink: Netlink,
    interface: String,
    tables: watch::Receiver<Option<Table>>,
    targets: watch::Sender<Targets>,
    replaced: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts in a task of the current tokio runtime. `targets` are the members and their addresses, which the kernel is
    /// made to resolve.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or there is no such interface.
    pub async fn start(interface: &str, targets: Targets) -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Neigh,
            MulticastGroup::Link,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, _handle, changes) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let netlink = Netlink::open()?;
        let link = netlink.link(interface).await?;
        let (targets, wanted) = watch::channel(targets);
        let (sender, tables) = watch::channel(None);
        let (now_replaced, replaced) = watch::channel(false);
        let interface = interface.to_owned();
        let mut follower = Follower {
            netlink,
            interface: interface.clone(),
            first: (link.index, link.mac),
            wanted,
            sender,
            replaced: now_replaced,
        };
        let task = tokio::spawn(async move {
            follower.follow(changes.map(|_| ())).await;
        });
        Ok(Self { netlink: Netlink::open()?, interface, tables, targets, replaced, task })
    }

    /// The interface that it follows.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The interface as it is now.
    ///
    /// # Errors
    /// When it is gone, or the kernel does not answer.
    pub async fn link(&self) -> Result<Link, NetlinkError> {
        self.netlink.link(&self.interface).await
    }

    /// Waits until the interface is another one of the same name, or has another Ethernet address, than at the start.
    pub fn replaced(&self) -> impl Future<Output = ()> + use<> {
        let mut replaced = self.replaced.clone();
        async move {
            if replaced.wait_for(|is| *is).await.is_err() {
                // The runtime's end, as in `next`.
                core::future::pending::<()>().await;
            }
        }
    }

    /// Takes other members to resolve.
    pub fn set_targets(&mut self, targets: Targets) {
        self.targets.send_replace(targets);
    }

    /// Waits until what it knows changes, and gives that. Loses nothing when dropped half way.
    pub async fn next(&mut self) -> Neighbours {
        loop {
            if self.tables.changed().await.is_err() {
                // The task lives as long as this, so this is the runtime's end.
                core::future::pending::<()>().await;
            }
            if let Some(table) = self.tables.borrow_and_update().as_ref() {
                return table.neighbours();
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Follower {
    netlink: Netlink,
    interface: String,
    /// Index and Ethernet address at the start.
    first: (u32, MacAddr),
    wanted: watch::Receiver<Targets>,
    sender: watch::Sender<Option<Table>>,
    replaced: watch::Sender<bool>,
}

impl Follower {
    async fn follow(&mut self, mut changes: impl Stream<Item = ()> + Unpin) {
        let mut checked = Instant::now();
        // What was said last, so that it is said once.
        let mut told = None;
        loop {
            let mut pause = SWEEP;
            match self.read(&mut checked).await {
                Ok(complete) => {
                    if told.take().is_some() {
                        info!("the neighbours of {} can be read again", self.interface);
                    }
                    if !complete {
                        pause = RETRY;
                    }
                }
                Err(e) => {
                    let trouble = e.to_string();
                    if told.as_ref() != Some(&trouble) {
                        warn!("cannot read the neighbours of {}: {trouble}", self.interface);
                        told = Some(trouble);
                    }
                    pause = RETRY;
                }
            }
            tokio::select! {
                Some(()) = changes.next() => settle(&mut changes).await,
                Ok(()) = self.wanted.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Reads everything once, passes it on if it changed, and has the kernel look for what is missing. Whether nothing
    /// is missing.
    async fn read(&mut self, checked: &mut Instant) -> Result<bool, NetlinkError> {
        // By name each time: an interface that was made anew has another index.
        let link = self.netlink.link(&self.interface).await?;
        if (link.index, link.mac) != self.first {
            self.replaced.send_replace(true);
        }
        let routes = self.netlink.routes(link.index).await?;
        let entries = self.netlink.entries(link.index).await?;
        let table = Table::new(routes, entries, &self.wanted.borrow_and_update());
        let (unresolved, stale) = (table.unresolved.clone(), table.stale.clone());
        self.sender.send_if_modified(|old| {
            let same = old.as_ref().is_some_and(|old| old.sends_like(&table));
            if !same {
                *old = Some(table);
            }
            !same
        });
        for &address in &unresolved {
            debug!("asking for {address}");
            self.ask(link.index, address).await;
        }
        if checked.elapsed() >= SWEEP {
            *checked = Instant::now();
            for address in stale {
                self.ask(link.index, address).await;
            }
        }
        Ok(unresolved.is_empty())
    }

    /// One that cannot be asked for (its route may just have gone) must not keep the others waiting.
    async fn ask(&self, index: u32, address: IpAddr) {
        if let Err(e) = self.netlink.resolve(index, address).await {
            debug!("cannot ask for {address}: {e}");
        }
    }
}

/// Takes further changes until none comes for a moment, but waits for ten moments at most.
async fn settle(changes: &mut (impl Stream<Item = ()> + Unpin)) {
    for _ in 0..10 {
        sleep(SETTLE).await;
        let mut more = false;
        while let Ok(Some(())) = timeout(Duration::ZERO, changes.next()).await {
            more = true;
        }
        if !more {
            return;
        }
    }
}
