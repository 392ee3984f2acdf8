use core::time::Duration;

use jlb_config::{Etcd, EtcdSecrets};
use tokio::time::{Instant, sleep};

use crate::connection::{Connection, Names, Written};
use crate::{Present, StoreError};

/// Between two rounds over all servers.
const PAUSE: Duration = Duration::from_millis(100);
/// What etcd takes in one request is 1.5 MB, unless its operator changed that.
const MAX_LIST: usize = 1 << 20;

/// The member list as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The text of the cluster file.
    pub text: String,
    /// etcd's revision of it. Says nothing about which list is later, since it goes back when a store is restored.
    pub revision: i64,
}

/// All of ours that is in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The list, if there is one.
    pub list: Option<Stored>,
    /// Who is there.
    pub present: Present,
}

/// Why a list was not written.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// Somebody else wrote one meanwhile. It is still there.
    #[error(
        "somebody else changed the list meanwhile: look at it with `jlbctl get`, and make your change in that"
    )]
    Conflict,
    /// etcd would not take it.
    #[error("the list has {0} bytes; etcd takes {MAX_LIST} at most")]
    TooLong(usize),
    /// etcd does not answer, or refuses. After a silence the list may have been written or not: `jlbctl get` tells.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// etcd for who asks now and then. Each call makes its own connection.
#[derive(Clone, Debug)]
pub struct Store {
    config: Etcd,
    secrets: EtcdSecrets,
    patience: Duration,
}

impl Store {
    /// The servers of `[etcd]`. They are asked in turn for `patience`, which should outlast the choice of a new leader:
    /// 2 s with etcd's defaults.
    #[must_use]
    pub fn new(config: Etcd, secrets: EtcdSecrets, patience: Duration) -> Self {
        Self { config, secrets, patience }
    }

    /// What the list is called, for people.
    #[must_use]
    pub fn list_name(&self) -> String {
        Names::new(&self.config.prefix).list
    }

    /// What is there now.
    ///
    /// # Errors
    /// When no server gives it in time.
    pub async fn read(&self) -> Result<Content, StoreError> {
        self.anywhere(async |c| c.read().await.map(|(content, _)| content)).await
    }

    /// Writes the list, if that of revision `before` is still there (0: if there is none). Gives the new revision.
    ///
    /// # Errors
    /// [`ReplaceError`].
    pub async fn replace(&self, before: i64, text: &str) -> Result<i64, ReplaceError> {
        if text.len() > MAX_LIST {
            return Err(ReplaceError::TooLong(text.len()));
        }
        match self.anywhere(async |c| c.replace(before, text).await).await? {
            Written::Done(revision) => Ok(revision),
            // An attempt that was not answered went through all the same.
            Written::Other(Some(stored)) if stored.text == text => Ok(stored.revision),
            Written::Other(_) => Err(ReplaceError::Conflict),
        }
    }

    async fn anywhere<T>(
        &self,
        mut call: impl AsyncFnMut(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let begin = Instant::now();
        loop {
            let mut last = None;
            for endpoint in &self.config.endpoints {
                let connection = Connection::open(endpoint, &self.config, &self.secrets).await;
                let done = match connection {
                    Ok(mut c) => call(&mut c).await,
                    Err(e) => Err(e),
                };
                match done {
                    Err(e) if !e.is_final() => last = Some(e),
                    done => return done,
                }
            }
            match last {
                Some(e) if begin.elapsed() >= self.patience => return Err(e),
                // There is at least one endpoint.
                Some(_) | None => sleep(PAUSE).await,
            }
        }
    }
}
