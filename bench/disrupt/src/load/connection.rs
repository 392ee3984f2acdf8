//! One long connection.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Flow, NOT_WAITING, Phase, SILENT, Shared};
use crate::Error;
use crate::frame::{self, ANSWER, Wrong};

/// What became of a long connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client's end.
    pub client: SocketAddr,
    /// Who serves it.
    pub backend: String,
    /// Its longest wait from the fault on, or if it broke its last: from, to, after the beginning of the load.
    pub longest: Option<(Duration, Duration)>,
    /// How it ended, unless it was we who ended it.
    pub broken: Option<Broken>,
}

/// How a connection broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Closed or reset by the other side, or by a host between.
    Ended(std::io::ErrorKind),
    /// No answer for [`SILENT`].
    Silent,
    /// An answer that is wrong.
    Wrong(Wrong),
}

/// Opens it and keeps it busy until the drain.
pub(super) async fn hold(
    number: u32,
    vip: SocketAddr,
    shared: Arc<Shared>,
) -> Result<Connection, Error> {
    let not_opened = |why: String| Error::NotOpened { connection: number, vip, why };
    let (mut stream, client, backend) = {
        let _turn = shared.opening.acquire().await.map_err(|e| not_opened(e.to_string()))?;
        open(number, vip).await.map_err(not_opened)?
    };
    shared.open.fetch_add(1, Ordering::Relaxed);
    let flow = Flow { client, vip, backend: backend.clone() };
    shared.flows.lock().unwrap_or_else(PoisonError::into_inner).push(flow);

    let mut connection = Connection { client, backend, longest: None, broken: None };
    let mut request = 1;
    let mut next = Instant::now();
    loop {
        next = (next + shared.interval).max(Instant::now());
        sleep_until(next).await;
        if shared.phase() == Phase::Drain {
            return Ok(connection);
        }
        request += 1;
        let (phase, from) = (shared.phase(), shared.now());
        let waiting = &shared.waiting[number as usize];
        waiting.store(from.as_micros() as u64, Ordering::Relaxed);
        let asked = ask(&mut stream, number, request, Some(&connection.backend)).await;
        waiting.store(NOT_WAITING, Ordering::Relaxed);
        let to = shared.now();
        match asked {
            Ok(_) => note(&shared, &mut connection, phase, from, to),
            Err(broken) => {
                shared.open.fetch_sub(1, Ordering::Relaxed);
                shared.broken.fetch_add(1, Ordering::Relaxed);
                connection.longest = Some((from, to));
                connection.broken = Some(broken);
                return Ok(connection);
            }
        }
    }
}

fn note(shared: &Shared, connection: &mut Connection, asked: Phase, from: Duration, to: Duration) {
    let wait = to.saturating_sub(from);
    match (asked, shared.phase()) {
        (Phase::Before, Phase::Before) => {
            shared.usual.lock().unwrap_or_else(PoisonError::into_inner).push(wait);
        }
        (_, Phase::Fault | Phase::Drain) => {
            let longest = connection.longest.map_or(Duration::ZERO, |(from, to)| to - from);
            if wait > longest {
                connection.longest = Some((from, to));
            }
        }
        (_, Phase::Opening | Phase::Before) => {}
    }
}

async fn open(number: u32, vip: SocketAddr) -> Result<(TcpStream, SocketAddr, String), String> {
    let opened = async {
        let stream = TcpStream::connect(vip).await?;
        stream.set_nodelay(true)?;
        let client = stream.local_addr()?;
        Ok::<_, std::io::Error>((stream, client))
    };
    let opened = timeout(SILENT, opened).await.map_err(|_| "no answer".to_owned())?;
    let (mut stream, client) = opened.map_err(|error| error.to_string())?;
    let backend = ask(&mut stream, number, 1, None).await;
    Ok((stream, client, backend.map_err(|broken| broken.to_string())?))
}

/// One request and its answer. Gives the backend.
pub(super) async fn ask(
    stream: &mut TcpStream,
    connection: u32,
    number: u64,
    before: Option<&str>,
) -> Result<String, Broken> {
    let exchange = async {
        stream.write_all(&frame::request(connection, number)).await?;
        let mut answer = [0; ANSWER];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(SILENT, exchange).await.map_err(|_| Broken::Silent)?;
    let answer = answer.map_err(|error| Broken::Ended(error.kind()))?;
    frame::check(&answer, connection, number, before).map_err(Broken::Wrong)
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ended(kind) => write!(f, "{kind}"),
            Self::Silent => write!(f, "no answer for {} s", SILENT.as_secs()),
            Self::Wrong(wrong) => write!(f, "{wrong}"),
        }
    }
}
