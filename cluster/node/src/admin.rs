//! The admin endpoint: HTTP in front of a bounded queue of questions that the control thread answers.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use jlb_config::Admin;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Connections at a time; more wait. Scrapers and people need a handful.
const MAX_CONNECTIONS: usize = 64;
/// Questions that wait for the control thread; more are told to come again.
const MAX_QUESTIONS: usize = 16;
/// A control thread that answers later than this is stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Metrics,
    Health,
    Ready,
    Status,
}

/// A question with the way to its asker.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) topic: Topic,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// What to tell a client.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Listens, and serves from a task of the current runtime for as long as that lives. Gives the questions.
pub(crate) async fn start(at: &Admin) -> io::Result<mpsc::Receiver<Question>> {
    let (sender, questions) = mpsc::channel(MAX_QUESTIONS);
    match at {
        Admin::Tcp(address) => serve(TcpListener::bind(address).await?, sender),
        Admin::Unix(path) => {
            // A socket that a dead process left would be in the way. One that answers is another daemon's.
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
            serve(listener, sender);
        }
    }
    Ok(questions)
}

fn serve<L: Listener>(listener: L, questions: mpsc::Sender<Question>)
where
    L::Addr: core::fmt::Debug,
{
    let ask = |topic| get(move |State(q): State<mpsc::Sender<Question>>| answer(q, topic));
    let router = Router::new()
        .route("/metrics", ask(Topic::Metrics))
        .route("/healthz", ask(Topic::Health))
        .route("/readyz", ask(Topic::Ready))
        .route("/status", ask(Topic::Status))
        .with_state(questions);
    let listener = Limited { listener, permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    // Serving never ends by itself: accept errors are retried.
    tokio::spawn(async move { axum::serve(listener, router).await });
}

async fn answer(questions: mpsc::Sender<Question>, topic: Topic) -> Response {
    let (reply, answer) = oneshot::channel();
    if questions.try_send(Question { topic, reply }).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many questions at once\n").into_response();
    }
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(Answer { status, content_type, body })) => {
            (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Ok(Err(_)) | Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "no answer from the control thread\n").into_response()
        }
    }
}

/// A listener that accepts only while there are permits.
struct Limited<L> {
    listener: L,
    permits: Arc<Semaphore>,
}

impl<L: Listener> Listener for Limited<L> {
    type Io = Permitted<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (io, address) = self.listener.accept().await;
        (Permitted { io, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its permit back when it ends.
struct Permitted<T> {
    io: T,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Permitted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Permitted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
