use core::error::Error;
use core::time::Duration;

use jlb_config::Mistakes;
use tonic::Code;

/// Why etcd is of no use just now.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The files that `[etcd]` names.
    #[error(transparent)]
    Files(#[from] Mistakes),
    /// Certificates or keys that TLS does not take.
    #[error("the TLS files of [etcd] are of no use: {0}")]
    Tls(String),
    /// No answer in time.
    #[error("{endpoint} does not answer within {} ms", .after.as_millis())]
    Silent {
        /// Which server.
        endpoint: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It cannot be reached, or cannot do it now.
    #[error("{endpoint}: {reason}")]
    Failed {
        /// Which server.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// It does not let us, or never will. Another try gives the same.
    #[error("{endpoint} refuses: {reason}{}", hint(.reason))]
    Refuses {
        /// Which server.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// What it holds is not ours.
    #[error("{endpoint}: the value of {key} is no text")]
    NotText {
        /// Which server.
        endpoint: String,
        /// Of which key.
        key: String,
    },
}

impl StoreError {
    /// Whether asking again, or asking another server, is of no use.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Files(_) | Self::Tls(_) | Self::Refuses { .. } | Self::NotText { .. } => true,
            Self::Silent { .. } | Self::Failed { .. } => false,
        }
    }

    pub(crate) fn of(endpoint: &str, e: &etcd_client::Error) -> Self {
        let endpoint = endpoint.to_owned();
        let etcd_client::Error::GRpcStatus(status) = e else {
            return Self::Failed { endpoint, reason: e.to_string() };
        };
        let mut reason = status.message().to_owned();
        if let Some(cause) = status.source() {
            reason = format!("{reason}: {}", chain(cause));
        }
        // What a server says that has lost its leader or its connection; everything else is meant.
        let passing = [
            Code::Cancelled,
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::Internal,
            Code::Unavailable,
        ];
        if passing.contains(&status.code()) {
            Self::Failed { endpoint, reason }
        } else {
            Self::Refuses { endpoint, reason }
        }
    }
}

/// What to do about etcd's own words.
fn hint(reason: &str) -> &'static str {
    if reason.contains("user name is empty") || reason.contains("invalid auth token") {
        " (it has authentication: add user and password_file to [etcd])"
    } else if reason.contains("permission denied") {
        " (grant the user's role readwrite on the prefix: etcdctl role grant-permission ROLE --prefix=true readwrite PREFIX)"
    } else if reason.contains("authentication is not enabled") {
        " (delete user and password_file from [etcd], or enable it: etcdctl auth enable)"
    } else if reason.contains("space exceeded") {
        " (compact and defragment it, then: etcdctl alarm disarm)"
    } else {
        ""
    }
}

/// An error with what caused it; a cause that says the same again is left out.
pub(crate) fn chain(e: &dyn Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let said = c.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = c.source();
    }
    text
}
