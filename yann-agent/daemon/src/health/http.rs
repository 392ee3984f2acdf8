//! A GET by HTTP/1.1 on a connection of its own, with or without TLS. The one place that knows hyper.

use std::net::SocketAddr;
use std::pin::pin;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jlb_config::HttpProbe;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::probe::Failure;
use super::tls;

/// Bytes of an answer in which the text is looked for.
const SEARCHED: usize = 64 * 1024;

pub(crate) async fn get(asked: &HttpProbe, target: SocketAddr) -> Result<(), Failure> {
    let stream = TcpStream::connect(target).await?;
    if asked.tls {
        let stream = tls::connect(stream, asked.host.as_deref(), target).await?;
        exchange(asked, target, stream).await
    } else {
        exchange(asked, target, stream).await
    }
}

async fn exchange(
    asked: &HttpProbe,
    target: SocketAddr,
    stream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<(), Failure> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
    let host = asked.host.clone().unwrap_or_else(|| target.to_string());
    let request = Request::get(&asked.path)
        .header(HOST, host)
        .header(USER_AGENT, "jlb-yann")
        .header(CONNECTION, "close")
        .body(Empty::new())?;
    let mut exchange = pin!(async {
        let response = sender.send_request(request).await?;
        judge(asked, response).await
    });
    // The connection is what moves the bytes. It may end before what it has brought is read.
    tokio::select! {
        biased;
        judged = &mut exchange => return judged,
        _ = connection => {}
    }
    exchange.await
}

async fn judge(asked: &HttpProbe, response: Response<Incoming>) -> Result<(), Failure> {
    let status = response.status().as_u16();
    if !asked.status.iter().any(|range| range.contains(&status)) {
        return Err(Failure::Status(status));
    }
    let Some(text) = asked.body.as_deref().map(str::as_bytes) else { return Ok(()) };
    let (mut body, mut read) = (response.into_body(), Vec::new());
    while read.len() < SEARCHED {
        let Some(frame) = body.frame().await else { break };
        if let Some(data) = frame?.data_ref() {
            // It may have begun in what came before.
            let begin = read.len().saturating_sub(text.len() - 1);
            read.extend_from_slice(&data[..data.len().min(SEARCHED - read.len())]);
            // More may never come: the answer to a check need not end.
            if read[begin..].windows(text.len()).any(|window| window == text) {
                return Ok(());
            }
        }
    }
    Err(Failure::Body)
}
