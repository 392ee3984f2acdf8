//! The server under load: `GET /N` costs it N microseconds of CPU. Eight threads, and a short queue in the kernel before them.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};

/// The port that it has in a lab.
pub const PORT: u16 = 9100;
/// Requests worked on at once.
const WORKERS: usize = 8;
/// Connections that wait for a worker; more are refused by the host's agent.
const BACKLOG: i32 = 64;
/// The longest request head.
const HEAD: usize = 1024;
/// No request may cost more.
const MOST: Duration = Duration::from_secs(10);
/// Who sends nothing for so long holds no worker any more.
const PATIENCE: Duration = Duration::from_secs(5);
/// After an accept that failed.
const RETRY: Duration = Duration::from_millis(10);

/// Serves on all addresses, both families, until the process ends. Answers say `name`.
///
/// # Errors
/// When the port cannot be had.
pub fn serve(port: u16, name: &str) -> io::Result<()> {
    let listener = listen(port)?;
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| work(&listener, name));
        }
    });
    Ok(())
}

fn work(listener: &TcpListener, name: &str) {
    loop {
        match listener.accept() {
            // A client that goes away is its own affair.
            Ok((stream, _)) => drop(answer(stream, name)),
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn answer(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = [0; HEAD];
    let mut len = 0;
    while !head[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut head[len..])? {
            0 => return Ok(()),
            n => len += n,
        }
    }
    let Some(cost) = cost(&head[..len]) else {
        return stream
            .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nask for /N: N microseconds of CPU\n");
    };
    burn(cost)?;
    stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{name}\n").as_bytes())
}

/// Of a request's first line, `GET /N HTTP/1.x`.
fn cost(head: &[u8]) -> Option<Duration> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let micros = line.strip_prefix("GET /")?.split(' ').next()?.parse().ok()?;
    Some(Duration::from_micros(micros)).filter(|&cost| cost <= MOST)
}

/// Uses so much CPU time of this thread.
fn burn(time: Duration) -> io::Result<()> {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let end = now()? + time;
    while now()? < end {
        // Some microseconds between two looks at the clock.
        (0..1000).for_each(|_| std::hint::spin_loop());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_cost() {
        assert_eq!(cost(b"GET /250 HTTP/1.1\r\nHost: x\r\n\r\n"), Some(Duration::from_micros(250)));
        for bad in
            ["GET / HTTP/1.0", "POST /1 HTTP/1.0", "GET /x HTTP/1.0", "GET /10000001 HTTP/1.0", ""]
        {
            assert_eq!(cost(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_burnt_millisecond_is_one_of_cpu() {
        let before = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap();
        burn(Duration::from_millis(1)).unwrap();
        let after = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap();
        assert!(after - before >= Duration::from_millis(1));
    }
}
