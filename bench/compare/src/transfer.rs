//! A server that sends as much as it is asked for, and its client.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

/// Bytes of one read or write.
const CHUNK: usize = 256 << 10;
/// How long a balancer may take until it listens, and a transfer may stand still.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers each connection with as many bytes as it asks for, one after the other. It ends with the process.
pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    loop {
        let (mut connection, _) = listener.accept()?;
        // One that ends early is its client's loss, who says so.
        let _ = answer(&mut connection, &chunk);
    }
}

fn answer(connection: &mut TcpStream, chunk: &[u8]) -> io::Result<()> {
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut asked = [0; 8];
    connection.read_exact(&mut asked)?;
    let mut left = u64::from_be_bytes(asked);
    while left > 0 {
        let now = left.min(chunk.len() as u64);
        connection.write_all(&chunk[..now as usize])?;
        left -= now;
    }
    Ok(())
}

/// Fetches so many bytes.
pub(crate) fn fetch(from: SocketAddr, bytes: u64, interrupted: &AtomicBool) -> io::Result<()> {
    let mut connection = connect(from)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(&bytes.to_be_bytes())?;
    let mut chunk = vec![0; CHUNK];
    let mut got = 0;
    loop {
        let n = connection.read(&mut chunk)?;
        got += n as u64;
        if n == 0 {
            break;
        }
        if interrupted.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    if got == bytes {
        Ok(())
    } else {
        Err(io::Error::other(format!("{got} bytes came of {bytes}")))
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bytes_come_as_were_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener));
        for bytes in [0, 1, 1_000_001] {
            fetch(address, bytes, &AtomicBool::new(false)).unwrap();
        }
        assert!(fetch(address, 1, &AtomicBool::new(true)).is_err());
    }
}
