//! The user half's way to the network.
//!
//! The eBPF half lets the messages that are not its own pass to the host's stack. Over IPv4 a UDP socket takes them; over
//! IPv6 a raw one, since Linux gives UDP without checksum, as ours is, only to sockets that ask for it by an option which no
//! safe API has. (A UDP socket stands beside it, so that the port is taken and nobody answers "unreachable".) Messages
//! leave through raw sockets, with the outer header that the role wrote.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use jlb_role::{Io, NoRoom, PacketBuf as _, Reason, Report, UnderlayDst, WorkerId};
use jlb_wire::checksum;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind,
    sendto, setsockopt, socket, sockopt,
};
use tokio::net::UdpSocket;

use crate::buffer::Buffer;

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}, port {port}: {source}")]
pub struct SocketError {
    address: IpAddr,
    port: u16,
    source: io::Error,
}

/// The sockets of one host.
#[derive(Debug)]
pub struct Sockets {
    v4: Option<(UdpSocket, SocketAddrV4)>,
    v6: Option<Raw6>,
    port: u16,
}

#[derive(Debug)]
struct Raw6 {
    raw: UdpSocket,
    /// Never read; the smallest queue that there is.
    _taken: UdpSocket,
    local: Ipv6Addr,
}

/// What the role asked for.
#[derive(Debug)]
pub struct Out {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    /// Dropped packets by [`Reason`].
    pub drops: [u64; Reason::ALL.len()],
    /// News of other members, to be taken by the daemon after each call of the role. Few: bounded by the members.
    pub reports: Vec<Report>,
}

/// Refresh batches that trackers ask for at once: 64 workers, 8 each, 2304 bytes of the kernel's memory for one.
const SEND_BUFFER: usize = 64 * 8 * 2304;
const NONBLOCKING: SockFlag = SockFlag::SOCK_NONBLOCK.union(SockFlag::SOCK_CLOEXEC);

/// Opens the sockets at these underlay addresses. Must be called inside of a tokio runtime.
///
/// # Errors
/// When an address is not there, or the port is taken.
pub fn open(
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    port: u16,
) -> Result<(Sockets, Out), SocketError> {
    let failed = |address: IpAddr| move |source| SocketError { address, port, source };
    let mut sockets = Sockets { v4: None, v6: None, port };
    let mut out = Out { v4: None, v6: None, drops: [0; Reason::ALL.len()], reports: Vec::new() };
    if let Some(address) = v4 {
        let failed = failed(address.into());
        let local = SocketAddrV4::new(address, port);
        let socket = udp(local.into()).map_err(failed)?;
        sockets.v4 = Some((socket, local));
        out.v4 = Some(raw(AddressFamily::Inet, SockProtocol::Raw).map_err(failed)?);
    }
    if let Some(address) = v6 {
        let failed = failed(address.into());
        let local = SocketAddrV6::new(address, port, 0, 0);
        let taken = udp(local.into()).map_err(failed)?;
        let socket = raw(AddressFamily::Inet6, SockProtocol::Udp).map_err(failed)?;
        let address_only = SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, 0));
        bind(socket.as_raw_fd(), &address_only).map_err(|e| failed(e.into()))?;
        // For tokio it is like any other datagram socket.
        let datagrams = UdpSocket::from_std(std::net::UdpSocket::from(socket)).map_err(failed)?;
        sockets.v6 = Some(Raw6 { raw: datagrams, _taken: taken, local: address });
        out.v6 = Some(raw(AddressFamily::Inet6, SockProtocol::Raw).map_err(failed)?);
    }
    Ok((sockets, out))
}

fn udp(local: core::net::SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(local)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn raw(family: AddressFamily, protocol: SockProtocol) -> io::Result<OwnedFd> {
    let socket = socket(family, SockType::Raw, NONBLOCKING, protocol)?;
    // Beyond what the system lets everybody have: who may attach programs to interfaces may do that, too.
    setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER)?;
    Ok(socket)
}

impl Sockets {
    /// Waits until something may be there to receive. Loses nothing when dropped.
    ///
    /// # Errors
    /// When a socket fails.
    pub async fn readable(&self) -> io::Result<()> {
        let v4 = async {
            match &self.v4 {
                Some((socket, _)) => socket.readable().await,
                None => core::future::pending().await,
            }
        };
        let v6 = async {
            match &self.v6 {
                Some(raw6) => raw6.raw.readable().await,
                None => core::future::pending().await,
            }
        };
        tokio::select! {
            result = v4 => result,
            result = v6 => result,
        }
    }

    /// The next packet, with an outer header as it came; `None` when there is none now.
    pub fn receive(&self) -> Option<Buffer> {
        self.receive_v4().or_else(|| self.receive_v6())
    }

    fn receive_v4(&self) -> Option<Buffer> {
        let (socket, local) = self.v4.as_ref()?;
        let mut payload = [0; 1600];
        let (len, from) = socket.try_recv_from(&mut payload).ok()?;
        let IpAddr::V4(source) = from.ip() else { return None };
        // An error means that it is longer than a buffer: none of ours.
        wrapped_v4((source, from.port()), *local, &payload[..len]).ok()
    }

    fn receive_v6(&self) -> Option<Buffer> {
        let raw6 = self.v6.as_ref()?;
        // Other programs' datagrams come too; as many are skipped in one go.
        for _ in 0..64 {
            let mut datagram = [0; 1600];
            let (len, from) = raw6.raw.try_recv_from(&mut datagram).ok()?;
            let IpAddr::V6(from) = from.ip() else { continue };
            let datagram = &datagram[..len];
            if datagram.get(2..4) == Some(&self.port.to_be_bytes())
                && let Ok(buffer) = wrapped_v6(from, raw6.local, datagram)
            {
                return Some(buffer);
            }
        }
        None
    }
}

/// An outer header as it must have been: the stack took it away.
fn wrapped_v4(
    (source, port): (Ipv4Addr, u16),
    local: SocketAddrV4,
    payload: &[u8],
) -> Result<Buffer, NoRoom> {
    let mut buffer = Buffer::new();
    buffer.append(payload.len())?.copy_from_slice(payload);
    let udp_len = payload.len() + 8;
    let h = buffer.prepend(28)?;
    h.fill(0);
    h[0] = 0x45;
    h[2..4].copy_from_slice(&length(udp_len + 20));
    h[8] = 64;
    h[9] = 17;
    h[12..16].copy_from_slice(&source.octets());
    h[16..20].copy_from_slice(&local.ip().octets());
    let sum = checksum::finish(checksum::sum(&h[..20]));
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    h[20..22].copy_from_slice(&port.to_be_bytes());
    h[22..24].copy_from_slice(&local.port().to_be_bytes());
    h[24..26].copy_from_slice(&length(udp_len));
    Ok(buffer)
}

/// The same before a datagram that still has its UDP header.
fn wrapped_v6(source: Ipv6Addr, local: Ipv6Addr, datagram: &[u8]) -> Result<Buffer, NoRoom> {
    let mut buffer = Buffer::new();
    buffer.append(datagram.len())?.copy_from_slice(datagram);
    let h = buffer.prepend(40)?;
    h.fill(0);
    h[0] = 0x60;
    h[4..6].copy_from_slice(&length(datagram.len()));
    h[6] = 17;
    h[7] = 64;
    h[8..24].copy_from_slice(&source.octets());
    h[24..40].copy_from_slice(&local.octets());
    Ok(buffer)
}

/// Buffers are shorter than 64 KiB.
fn length(n: usize) -> [u8; 2] {
    (n as u16).to_be_bytes()
}

impl Out {
    fn send_bytes(&self, bytes: &[u8]) -> Result<(), Reason> {
        let flags = MsgFlags::MSG_DONTWAIT;
        let sent = match (bytes.first().map(|b| b >> 4), &self.v4, &self.v6) {
            (Some(4), Some(socket), _) => {
                let to: [u8; 4] = address(bytes, 16).ok_or(Reason::Truncated)?;
                let to = SockaddrIn::from(SocketAddrV4::new(to.into(), 0));
                sendto(socket.as_raw_fd(), bytes, &to, flags)
            }
            (Some(6), _, Some(socket)) => {
                let to: [u8; 16] = address(bytes, 24).ok_or(Reason::Truncated)?;
                let to = SockaddrIn6::from(SocketAddrV6::new(to.into(), 0, 0, 0));
                sendto(socket.as_raw_fd(), bytes, &to, flags)
            }
            _ => return Err(Reason::NoNeighbour),
        };
        match sent {
            Ok(_) => Ok(()),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Err(Reason::TxFull),
            Err(Errno::EMSGSIZE) => Err(Reason::TooBig),
            Err(_) => Err(Reason::NoNeighbour),
        }
    }
}

fn address<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl Io<Buffer> for Out {
    fn alloc(&mut self) -> Option<Buffer> {
        Some(Buffer::new())
    }
    fn send(&mut self, b: Buffer, _: UnderlayDst) {
        // The outer header says where to.
        if let Err(why) = self.send_bytes(b.bytes()) {
            self.drops[why as usize] += 1;
        }
    }
    fn drop(&mut self, _: Buffer, why: Reason) {
        self.drops[why as usize] += 1;
    }
    fn hand_over(&mut self, b: Buffer, _: WorkerId) {
        // There is one worker in the user half: a packet for another one is none of ours.
        self.drop(b, Reason::WrongKind);
    }
    fn report(&mut self, r: Report) {
        self.reports.push(r);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_gets_back_the_outer_header_that_the_stack_took() {
        // Geneve with an IPv4 packet that is not looked at.
        let mut payload = vec![0, 0, 0x08, 0, 0, 0, 0, 0];
        payload.extend([0x45; 20]);
        let local = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 6081);
        let b = wrapped_v4((Ipv4Addr::new(10, 0, 0, 1), 50_000), local, &payload).unwrap();
        let outer = jlb_wire::Outer::parse(b.bytes(), 6081).unwrap();
        assert_eq!((outer.src, outer.source_port), ("10.0.0.1".parse().unwrap(), 50_000));
        assert_eq!(outer.dst, IpAddr::V4(*local.ip()));
        assert_eq!(outer.content, jlb_wire::Content::Plain { inner: 36 });

        let mut datagram = vec![0xc3, 0x50, 0x17, 0xc1, 0, 36, 0, 0];
        datagram.extend(&payload);
        let (from, to) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let b = wrapped_v6(from, to, &datagram).unwrap();
        let outer = jlb_wire::Outer::parse(b.bytes(), 6081).unwrap();
        assert_eq!((outer.src, outer.dst), (from.into(), to.into()));
        assert_eq!(outer.source_port, 50_000);
    }
}
