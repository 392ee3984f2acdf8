//! One try of one check.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use jlb_config::HealthProbe;
use jlb_yann_core::willing::MAX_WORDS;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exec::{self, Turn};
use super::http;

/// Why a try failed, in words for the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The command of an earlier try takes much too long, even to be killed.
    #[error("an earlier try has not ended after {0:?} more")]
    Unended(Duration),
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(#[from] io::Error),
    /// Not HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// A header that cannot be sent.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    /// Another status code than wanted.
    #[error("status {0}")]
    Status(u16),
    /// The text is not in the answer.
    #[error("the answer does not have the text in it")]
    Body,
    /// A command that cannot be run.
    #[error("cannot run `{command}`: {source}")]
    Run {
        /// Which.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// It says that something is wrong.
    #[error("{0}")]
    Exit(std::process::ExitStatus),
}

impl Failure {
    /// The label `result` of `jlb_health_checks_total`.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Timeout(_) | Self::Unended(_) => "timeout",
            Self::Connection(_)
            | Self::Http(_)
            | Self::Request(_)
            | Self::Status(_)
            | Self::Body
            | Self::Run { .. }
            | Self::Exit(_) => "failed",
        }
    }
}

/// Tries once, for so long at most. The turn is the check's own.
pub(crate) async fn probe(
    probe: &HealthProbe,
    target: SocketAddr,
    turn: &Turn,
    at_most: Duration,
) -> Result<(), Failure> {
    let connected = async {
        match probe {
            HealthProbe::Tcp => Ok(TcpStream::connect(target).await.map(drop)?),
            HealthProbe::Http(asked) => http::get(asked, target).await,
            HealthProbe::Exec { command } => exec::run(command, turn, at_most).await,
        }
    };
    // A command looks at the time itself, and has waited for the one before.
    let waited = if matches!(probe, HealthProbe::Exec { .. }) { at_most } else { Duration::ZERO };
    timeout(at_most + waited, connected).await.unwrap_or(Err(Failure::Timeout(at_most)))
}

/// Reads what an application says: up to a newline, the end, or as much as is looked at.
pub(crate) async fn listen(address: SocketAddr, at_most: Duration) -> Result<Vec<u8>, Failure> {
    let heard = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut said = Vec::with_capacity(MAX_WORDS);
        while said.len() < MAX_WORDS && !said.contains(&b'\n') {
            let mut some = [0; 256];
            let room = some.len().min(MAX_WORDS - said.len());
            match stream.read(&mut some[..room]).await? {
                0 => break,
                n => said.extend_from_slice(&some[..n]),
            }
        }
        Ok(said)
    };
    timeout(at_most, heard).await.unwrap_or(Err(Failure::Timeout(at_most)))
}
