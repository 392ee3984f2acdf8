use core::net::SocketAddr;

use jlb_wire::FiveTuple;

/// What a look-up of a TCP five-tuple finds (`bpf_skc_lookup_tcp`): the connection's own socket, else the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpSocket {
    /// Only somebody who listens on VIP:port.
    Listening,
    /// The connection is over; its last packets may still come.
    TimeWait,
    /// Any other state, a request socket included.
    Open,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Connections that nobody has accepted yet, those in their handshake (young requests) included.
    pub depth: u32,
    /// The queue's limit (`sk_max_ack_backlog`).
    pub limit: u32,
}

/// What the host's TCP/IP stack says. Wildcard and dual-stack sockets count.
pub trait Sockets {
    /// The socket for this flow (client → VIP).
    fn tcp(&self, flow: &FiveTuple) -> Option<TcpSocket>;
    /// Who listens on VIP:port; with SO_REUSEPORT the one that this flow would get.
    fn listener(&self, flow: &FiveTuple) -> Option<Listener>;
    /// Whether a UDP socket would get this flow's datagrams.
    fn udp(&self, flow: &FiveTuple) -> bool;
    /// Whether the listener on VIP:port sends SYN cookies now, so that a flow may have no socket until its handshake
    /// is complete.
    fn syn_cookies(&self, vip: SocketAddr) -> bool;
}
