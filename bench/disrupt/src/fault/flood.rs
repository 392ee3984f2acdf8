//! ACKs of connections that never were, from the client's host.

use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use jlb_lab::Node;
use jlb_lab::topology::{CLIENT, VIP};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::error::Doing as _;
use crate::server::PORT;

/// Packets per second: as many again as the long connections send.
const RATE: u32 = 3000;
/// Sent at once.
const BURST: u32 = 30;
/// Source ports below those that the client's kernel gives away, so that no connection of ours is hit.
const PORTS: std::ops::Range<u16> = 1024..10_000;
/// IPPROTO_RAW: we write the IP header ourselves (raw(7)).
const RAW: i32 = 255;

/// A flood under way.
pub(super) struct Flood {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<u64>>,
}

impl Flood {
    pub(super) fn start(client: &Node) -> Result<Self, Error> {
        let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)));
        let socket = client.within(open)?.doing("a raw socket")?;
        let ends = Arc::new(AtomicBool::new(false));
        let seen = ends.clone();
        let thread = std::thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || send(&socket, &seen))
            .doing("a thread for the flood")?;
        Ok(Self { ends, thread })
    }

    /// Ends it; how many packets were sent.
    pub(super) fn stop(self) -> Result<u64, Error> {
        self.ends.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(sent) => sent.doing("the flood"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn send(socket: &Socket, ends: &AtomicBool) -> std::io::Result<u64> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (CLIENT[0], VIP[0]) else { return Ok(0) };
    let to = SocketAddrV4::new(to, PORT);
    let mut sent = 0_u64;
    let mut next = Instant::now();
    let mut ports = PORTS.cycle();
    while !ends.load(Ordering::Relaxed) {
        for port in ports.by_ref().take(BURST as usize) {
            let sequence = (sent as u32).wrapping_mul(0x9e37_79b9);
            let packet = PacketBuilder::ipv4(from.octets(), to.ip().octets(), 64)
                .tcp(port, PORT, sequence, 1024)
                .ack(!sequence);
            let mut bytes = Vec::with_capacity(packet.size(0));
            packet.write(&mut bytes, &[]).map_err(std::io::Error::other)?;
            // A queue that is full loses a packet of the flood: those that were sent are counted.
            if socket.send_to(&bytes, &to.into()).is_ok() {
                sent += 1;
            }
        }
        next += Duration::from_secs(1) * BURST / RATE;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(sent)
}
