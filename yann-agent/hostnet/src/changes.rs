use core::time::Duration;
use std::sync::Arc;

use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::Error;

/// A burst of changes is one: it ends when nothing came for this long…
const SETTLE: Duration = Duration::from_millis(50);
/// …or after as many of these.
const SETTLE_ROUNDS: usize = 10;

/// Tells when routes, rules, addresses or links of the host changed, and so [`crate::HostNet::refresh`] may have work.
///
/// Netlink may lose messages, so refresh every few seconds too. Our own changes are told as well; the refresh that
/// follows finds nothing to do.
#[derive(Debug)]
pub struct Changes {
    heard: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Changes {
    /// Starts to listen. Must be called inside of a tokio runtime.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn open() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(Error::Socket)?;
        let heard = Arc::new(Notify::new());
        let notify = Arc::clone(&heard);
        let listener = tokio::spawn(async move {
            while messages.next().await.is_some() {
                notify.notify_one();
            }
        });
        Ok(Self { heard, tasks: [tokio::spawn(connection), listener] })
    }

    /// Waits for a change, and until the burst that it belongs to is over.
    pub async fn next(&mut self) {
        self.heard.notified().await;
        for _ in 0..SETTLE_ROUNDS {
            sleep(SETTLE).await;
            if timeout(Duration::ZERO, self.heard.notified()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
