use core::future::Future;
use core::time::Duration;

use etcd_client::{
    Channel, Client, Compare, CompareOp, ConnectOptions, GetOptions, KeyValue,
    LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
    WatchStream,
};
use jlb_config::{Etcd, EtcdSecrets};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::error::chain;
use crate::{Content, Presence, Present, StoreError, Stored};

/// How long one server may take for one thing. A write in flight when the leader dies is never answered, and another
/// server is asked instead. On a healthy network etcd answers within 10 ms, so only an overloaded host is given up too
/// early, and tried again.
const ATTEMPT: Duration = Duration::from_millis(250);
/// With a user a server computes a bcrypt hash, which takes it 0.1 s and more.
const LOGIN: Duration = Duration::from_secs(1);
/// More than there can be members.
const MAX_PRESENT: i64 = 8192;

/// Where our keys are.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) prefix: String,
    pub(crate) list: String,
    alive: String,
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            list: format!("{prefix}cluster"),
            alive: format!("{prefix}alive/"),
        }
    }

    pub(crate) fn alive(&self, member: &str) -> String {
        format!("{}{member}", self.alive)
    }

    /// The member that a key below `alive/` is of.
    pub(crate) fn member<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.alive)
    }
}

/// A connection to one server. Every call ends in time.
pub(crate) struct Connection {
    client: Client,
    endpoint: String,
    names: Names,
}

/// Our presence on one connection.
pub(crate) struct Beat {
    pub(crate) keeper: LeaseKeeper,
    pub(crate) answers: LeaseKeepAliveStream,
}

/// What became of a write.
pub(crate) enum Written {
    /// It is done; the revision.
    Done(i64),
    /// Something else is there.
    Other(Option<Stored>),
}

impl Connection {
    pub(crate) async fn open(
        endpoint: &str,
        config: &Etcd,
        secrets: &EtcdSecrets,
    ) -> Result<Self, StoreError> {
        let tls = |e: tonic::transport::Error| StoreError::Tls(chain(&e));
        let mut address =
            Endpoint::from_shared(endpoint.to_owned()).map_err(tls)?.connect_timeout(ATTEMPT);
        if let Some(config) = tls_config(secrets) {
            address = address.tls_config(config).map_err(tls)?;
        }
        let failed = |e| StoreError::Failed { endpoint: endpoint.to_owned(), reason: chain(&e) };
        let channel = in_time(endpoint, ATTEMPT, address.connect()).await?.map_err(failed)?;
        // A server that has lost its cluster must say so, instead of leaving a watch silent.
        let mut options = ConnectOptions::new().with_require_leader(true);
        let mut patience = ATTEMPT;
        if let (Some((user, _)), Some(password)) = (&config.user, &secrets.password) {
            options = options.with_user(user, password).with_auto_token_refresh(true);
            patience = LOGIN;
        }
        let client = Client::from_channel(Channel::Tonic(channel), Some(options));
        let client = in_time(endpoint, patience, client).await?;
        let client = client.map_err(|e| StoreError::of(endpoint, &e))?;
        Ok(Self { client, endpoint: endpoint.to_owned(), names: Names::new(&config.prefix) })
    }

    /// The list and who is there, and the revision at which that was so.
    pub(crate) async fn read(&mut self) -> Result<(Content, i64), StoreError> {
        let (list, alive) = (self.names.list.clone(), self.names.alive.clone());
        let options = GetOptions::new().with_prefix().with_limit(MAX_PRESENT);
        let both = [TxnOp::get(list, None), TxnOp::get(alive, Some(options))];
        let mut kv = self.client.kv_client();
        // One transaction, so that both are of one moment.
        let answer = self.ask(ATTEMPT, kv.txn(Txn::new().and_then(both))).await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut content = Content { list: None, present: Present::new() };
        for response in answer.op_responses() {
            let TxnOpResponse::Get(found) = response else { continue };
            for kv in found.kvs() {
                match core::str::from_utf8(kv.key()).ok() {
                    Some(key) if key == self.names.list => content.list = Some(self.stored(kv)?),
                    Some(key) => {
                        if let Some(member) = self.names.member(key) {
                            let presence = Presence::from_json(kv.value());
                            content.present.insert(member.to_owned(), presence);
                        }
                    }
                    None => {}
                }
            }
        }
        Ok((content, revision))
    }

    pub(crate) fn stored(&self, kv: &KeyValue) -> Result<Stored, StoreError> {
        let text = core::str::from_utf8(kv.value()).map_err(|_| StoreError::NotText {
            endpoint: self.endpoint.clone(),
            key: self.names.list.clone(),
        })?;
        Ok(Stored { text: text.to_owned(), revision: kv.mod_revision() })
    }

    /// Writes the list if it is still that of `before`; 0: if there is none.
    pub(crate) async fn replace(&mut self, before: i64, text: &str) -> Result<Written, StoreError> {
        let list = self.names.list.as_str();
        let txn = Txn::new()
            .when([Compare::mod_revision(list, CompareOp::Equal, before)])
            .and_then([TxnOp::put(list, text, None)])
            .or_else([TxnOp::get(list, None)]);
        let mut kv = self.client.kv_client();
        let answer = self.ask(ATTEMPT, kv.txn(txn)).await?;
        if answer.succeeded() {
            return Ok(Written::Done(
                answer.header().map_or(0, etcd_client::ResponseHeader::revision),
            ));
        }
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(found) = response
                && let Some(kv) = found.kvs().first()
            {
                return self.stored(kv).map(|s| Written::Other(Some(s)));
            }
        }
        Ok(Written::Other(None))
    }

    /// Everything of ours that changes from a revision on.
    pub(crate) async fn watch(&mut self, from: i64) -> Result<WatchStream, StoreError> {
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let mut watch = self.client.watch_client();
        let prefix = self.names.prefix.clone();
        self.ask(ATTEMPT, watch.watch(prefix, Some(options))).await
    }

    /// Begins to say that we are there, under the lease of before if that still lives.
    pub(crate) async fn begin_beat(
        &mut self,
        lease: Option<i64>,
        ttl: Duration,
    ) -> Result<Beat, StoreError> {
        let mut client = self.client.lease_client();
        if let Some(id) = lease {
            match self.ask(ATTEMPT, client.keep_alive(id)).await {
                Ok((keeper, answers)) => return Ok(Beat { keeper, answers }),
                Err(e @ StoreError::Silent { .. }) => return Err(e),
                // It has run out, or is of another store.
                Err(_) => {}
            }
        }
        let granted = self.ask(ATTEMPT, client.grant(ttl.as_secs() as i64, None)).await?;
        let (keeper, answers) = self.ask(ATTEMPT, client.keep_alive(granted.id())).await?;
        Ok(Beat { keeper, answers })
    }

    pub(crate) async fn say(
        &mut self,
        member: &str,
        presence: &Presence,
        lease: i64,
    ) -> Result<(), StoreError> {
        let (key, value) = (self.names.alive(member), presence.to_json());
        let options = PutOptions::new().with_lease(lease);
        let mut kv = self.client.kv_client();
        self.ask(ATTEMPT, kv.put(key, value, Some(options))).await.map(|_| ())
    }

    /// Says that we are gone.
    pub(crate) async fn revoke(&mut self, lease: i64) -> Result<(), StoreError> {
        let mut client = self.client.lease_client();
        self.ask(ATTEMPT, client.revoke(lease)).await.map(|_| ())
    }

    pub(crate) fn error(&self, e: &etcd_client::Error) -> StoreError {
        StoreError::of(&self.endpoint, e)
    }

    pub(crate) fn failed(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Failed { endpoint: self.endpoint.clone(), reason: reason.into() }
    }

    async fn ask<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        in_time(&self.endpoint, patience, call).await?.map_err(|e| self.error(&e))
    }
}

async fn in_time<T>(
    endpoint: &str,
    patience: Duration,
    call: impl Future<Output = T>,
) -> Result<T, StoreError> {
    tokio::time::timeout(patience, call)
        .await
        .map_err(|_| StoreError::Silent { endpoint: endpoint.to_owned(), after: patience })
}

fn tls_config(secrets: &EtcdSecrets) -> Option<ClientTlsConfig> {
    let ca = secrets.ca.as_ref()?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    if let Some((cert, key)) = &secrets.identity {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Some(tls)
}
