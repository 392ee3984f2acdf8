//! Flows that nobody opened.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use jlb_flow::FlowHasher;
use jlb_lab::Node;
use jlb_lab::topology::{CLIENT, ECHO_PORT, NodeKind, VIP};
use jlb_map::Snapshot;
use jlb_wire::{FiveTuple, MemberId, Protocol};
use jlb_yann::config::service_name;
use jlb_yann::maps::Maps;
use jlb_yann_core::maps::{Flow, flow_state};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};

use crate::error::{Doing as _, Error};
use crate::site::Site;

/// Their clients, of RFC 2544 and RFC 3849: with [`PORTS`] ports each.
const CLIENTS: [&str; 2] = ["198.18.0.0/15", "2001:db8:18::/64"];
/// Ports of each client, from [`FIRST_PORT`].
const PORTS: u32 = 1024;
const FIRST_PORT: u16 = 20_000;
/// The service that they are of, which answers whatever it is sent.
const SERVICE: &str = "echo";
/// Longest wait for an answer: the second packet of each flow may have to wait for the trackers' answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Sent at the same time.
const AT_ONCE: usize = 50;

/// Which there are, and which backend has which.
pub(super) struct MadeUp {
    count: u32,
    backends: Vec<String>,
    snapshot: Arc<Snapshot>,
    hasher: FlowHasher,
}

/// What came of asking for them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) asked: u32,
    pub(super) answered: u32,
    pub(super) misdelivered: u32,
}

impl MadeUp {
    pub(super) fn new(site: &Site, count: u32) -> Result<Self, Error> {
        let snapshot = site.snapshot()?;
        let hasher = FlowHasher::new(snapshot.keys().hash_key);
        Ok(Self { count, backends: site.names_of(NodeKind::Backend), snapshot, hasher })
    }

    /// Half of them IPv6.
    fn client(n: u32) -> SocketAddr {
        let (host, port) = ((n / 2) / PORTS, FIRST_PORT + ((n / 2) % PORTS) as u16);
        match n % 2 {
            0 => (Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + host), port).into(),
            _ => {
                let first = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 1);
                (Ipv6Addr::from_bits(first.to_bits() + u128::from(host)), port).into()
            }
        }
    }

    fn tuple(n: u32) -> Option<FiveTuple> {
        let vip = SocketAddr::new(VIP[(n % 2) as usize], ECHO_PORT);
        FiveTuple::new(Self::client(n), vip, Protocol::Udp).ok()
    }

    /// Of a flow.
    fn backend(&self, n: u32) -> &str {
        &self.backends[(n / 2) as usize % self.backends.len()]
    }

    fn maps(site: &Site, backend: &str) -> Result<Maps, Error> {
        Maps::pinned(&site.lab.pins(backend)).map_err(|error| unreadable(backend, error))
    }

    /// Gives a backend its flows; how many.
    pub(super) fn fill(&self, site: &Site, backend: &Node) -> Result<u32, Error> {
        let name = backend.name();
        let broken = |error: &dyn std::fmt::Display| unreadable(&name, error);
        let mut maps = Self::maps(site, &name)?;
        let now = monotonic()?;
        let word = maps.word.get(0).map_err(|e| broken(&e))?;
        let slot = (0..maps.slots.len())
            .find(|&slot| service_name(&maps, slot as u16).is_some_and(|name| name == SERVICE))
            .ok_or_else(|| broken(&"it does not serve `echo`"))?;
        let ingress = self.snapshot.with_role(jlb_map::MemberRole::Ingress).first();
        let ingress = ingress.map_or(0, |id: &MemberId| id.as_u16());
        let mut count = 0;
        for n in (0..self.count).filter(|&n| self.backend(n) == name) {
            let Some(tuple) = Self::tuple(n) else { continue };
            let id = self.hasher.id(&tuple);
            let trio = self.snapshot.trio(id.partition());
            let member = |rank| trio.at(rank).map_or(0, MemberId::as_u16);
            let flow = Flow {
                // Agents number UDP flows; a number of its own makes it another flow than whatever comes later.
                incarnation: n.wrapping_add(1),
                counter: word.counter,
                admitted: now,
                last_packet: now,
                socket_seen: now,
                hash: id.bucket_hash(),
                head: member(0),
                second: member(1),
                asker: ingress,
                service: slot as u16,
                ingress: [ingress, 0, 0, 0],
                state: flow_state::ACCEPTED,
                tries: 1,
                ..Flow::default()
            };
            maps.flows.set(tuple.padded(), &flow).map_err(|e| broken(&e))?;
            count += 1;
        }
        for (live, at) in [(&mut maps.live, slot), (&mut maps.live_all, 0)] {
            let before = live.get(at).map_err(|e| broken(&e))?;
            live.set(at, &(before + count)).map_err(|e| broken(&e))?;
        }
        Ok(count)
    }

    /// Sends a packet of some of them, as many as `asked`, and looks who got it.
    pub(super) fn ask(&self, site: &Site, asked: u32) -> Result<Asked, Error> {
        let router = site.lab.node("router")?;
        for ((clients, family), via) in CLIENTS.into_iter().zip(["-4", "-6"]).zip(CLIENT) {
            router.run("ip", &[family, "route", "replace", clients, "via", &via.to_string()])?;
            let here = [family, "route", "replace", "local", clients, "dev", "lo"];
            site.client.run("ip", &here)?;
        }
        let step = (self.count / asked).max(1);
        let sample: Vec<u32> = (0..asked).map(|k| (k * step + k % 2).min(self.count - 1)).collect();
        let mut result = Asked { asked, ..Asked::default() };
        for some in sample.chunks(AT_ONCE) {
            let answers = site.client.within(|| echo(some))?.doing("asking for flows")?;
            for (n, answer) in answers {
                result.answered += 1;
                let own = format!("{} ", self.backend(n)).into_bytes();
                result.misdelivered += u32::from(answer != [&own[..], &n.to_be_bytes()].concat());
            }
        }
        Ok(result)
    }
}

/// Sends a packet of each of these flows; what comes back, which begins with the name of the backend.
fn echo(flows: &[u32]) -> std::io::Result<Vec<(u32, Vec<u8>)>> {
    let mut sockets = Vec::new();
    for &n in flows {
        let client = MadeUp::client(n);
        let socket = Socket::new(Domain::for_address(client), Type::DGRAM, None)?;
        match client {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        socket.bind(&client.into())?;
        let socket = UdpSocket::from(socket);
        socket.connect((VIP[(n % 2) as usize], ECHO_PORT))?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.send(&n.to_be_bytes())?;
        sockets.push((n, socket));
    }
    let mut answers = Vec::new();
    for (n, socket) in sockets {
        let mut answer = [0; 64];
        // What does not come in time is no answer.
        if let Ok(len) = socket.recv(&mut answer) {
            answers.push((n, answer[..len].to_vec()));
        }
    }
    Ok(answers)
}

/// The clock of eBPF programs.
fn monotonic() -> Result<u64, Error> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(std::io::Error::from);
    let now = now.doing("the clock")?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

fn unreadable(backend: &str, why: impl std::fmt::Display) -> Error {
    Error::Unreadable { what: format!("the eBPF maps of {backend}"), why: why.to_string() }
}
