//! The server behind the connections: answers every request with its own name. One thread; a connection costs a task and
//! a few hundred bytes.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::frame::{self, REQUEST};

/// The port that it has in a lab.
pub const PORT: u16 = 9000;

/// Connections that the kernel keeps for us; as nginx in a lab.
const BACKLOG: i32 = 4096;

/// After an accept that failed.
const RETRY: Duration = Duration::from_millis(10);

/// Serves on all addresses, both families, until the process ends. `name` is what its answers say, 16 bytes at most.
///
/// # Errors
/// When the port cannot be had.
pub fn serve(port: u16, name: &str) -> std::io::Result<()> {
    allow_many_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(listen(port)?.into())?
    };
    runtime.block_on(async {
        let name: std::sync::Arc<str> = name.into();
        loop {
            // One that is gone before we took it is no reason to end; too many open files pass, too.
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let name = name.clone();
            // A connection ends when its client does.
            tokio::spawn(async move { answer(stream, &name).await });
        }
    })
}

/// As many open files as this process may have: a shell's usual 1024 are too few for its connections. Where not even that
/// is enough, accept and connect say so.
pub(crate) fn allow_many_files() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Up to the hard limit everybody may.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn listen(port: u16) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

async fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    let mut counted = 0;
    loop {
        stream.read_exact(&mut request).await?;
        if !frame::is_request(&request) {
            // A stray client; dropping the stream closes it.
            return Ok(());
        }
        counted += 1;
        stream.write_all(&frame::answer(&request, counted, name)).await?;
    }
}
