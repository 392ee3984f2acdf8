//! What the kernel knows about a link: its address, routes and neighbours. The one place that speaks netlink.
//!
//! The workers send Ethernet frames themselves, but ARP, neighbour discovery and routing stay the kernel's: it owns the
//! same interface. [`Watch`] follows it and gives a new [`Neighbours`](jlb_neighbours::Neighbours) whenever something
//! changed.

mod announce;
mod table;
mod watch;

use core::net::IpAddr;

use futures_util::TryStreamExt as _;
use jlb_neighbours::{MacAddr, Prefix};
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};

pub use table::{Entry, Hop, Route, Table};
pub use watch::Watch;

/// Routes that are read; a table of the whole Internet is no business of ours.
pub const MAX_ROUTES: usize = 65_536;

/// Why the kernel could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// It answered with an error.
    #[error("netlink: {0}")]
    Kernel(#[from] rtnetlink::Error),
    /// It has no such interface.
    #[error("there is no interface `{0}`")]
    NoInterface(String),
    /// The interface is not Ethernet.
    #[error("interface `{0}` has no Ethernet address")]
    NoEthernet(String),
    /// There are more routes than [`MAX_ROUTES`].
    #[error("there are more than {MAX_ROUTES} routes")]
    TooManyRoutes,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// Whether it is set up and has a carrier.
    pub is_up: bool,
    /// Its IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// A connection to the kernel, served by a task of the tokio runtime that it was opened in.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens a netlink socket. Must be called inside of a tokio runtime.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// An interface by name.
    ///
    /// # Errors
    /// When there is none, or it is not Ethernet.
    pub async fn link(&self, name: &str) -> Result<Link, NetlinkError> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let Some(link) = links.try_next().await.ok().flatten() else {
            return Err(NetlinkError::NoInterface(name.to_owned()));
        };
        let index = link.header.index;
        let is_up = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        let (mut mac, mut mtu) = (None, 0);
        for attribute in link.attributes {
            if let LinkAttribute::Address(bytes) = &attribute {
                mac = ethernet(bytes);
            } else if let LinkAttribute::Mtu(n) = attribute {
                mtu = n;
            }
        }
        let mac = mac.ok_or_else(|| NetlinkError::NoEthernet(name.to_owned()))?;
        let mut found = self.handle.address().get().set_link_index_filter(index).execute();
        let mut addresses = Vec::new();
        while let Some(message) = found.try_next().await? {
            // IPv4 on a point-to-point link has the peer in `Address` and its own in `Local`.
            let local = message.attributes.iter().find_map(match_local);
            let any = message.attributes.iter().find_map(match_address);
            addresses.extend(local.or(any));
        }
        Ok(Link { index, mac, mtu, is_up, addresses })
    }

    /// The unicast routes of the main table as they matter for one interface, and those to nowhere.
    ///
    /// # Errors
    /// When the kernel does not answer, or there are more than [`MAX_ROUTES`].
    pub async fn routes(&self, index: u32) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = RouteHeader::RT_TABLE_MAIN;
            let mut found = self.handle.route().get(request).execute();
            while let Some(message) = found.try_next().await? {
                routes.extend(routes_of(&message, index));
                if routes.len() > MAX_ROUTES {
                    return Err(NetlinkError::TooManyRoutes);
                }
            }
        }
        Ok(routes)
    }

    /// The neighbours of one interface.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn entries(&self, index: u32) -> Result<Vec<Entry>, NetlinkError> {
        let mut entries = Vec::new();
        let mut found = self.handle.neighbours().get().execute();
        while let Some(message) = found.try_next().await? {
            if message.header.ifindex == index {
                entries.extend(entry(&message));
            }
        }
        Ok(entries)
    }

    /// Asks the kernel to find out, or to check again, who has an address (`NTF_USE`: as if it had a packet for it).
    /// The answer shows in [`Self::entries`] later.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn resolve(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let request = self.handle.neighbours().add(index, address).replace();
        Ok(request.state(NeighbourState::None).flags(NeighbourFlags::Use).execute().await?)
    }
}

fn match_local(a: &AddressAttribute) -> Option<IpAddr> {
    if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None }
}

fn match_address(a: &AddressAttribute) -> Option<IpAddr> {
    if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }
}

fn ethernet(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(a) = address {
        Some(IpAddr::V4(*a))
    } else if let RouteAddress::Inet6(a) = address {
        Some(IpAddr::V6(*a))
    } else {
        None
    }
}

fn via(address: &RouteVia) -> Option<IpAddr> {
    if let RouteVia::Inet(a) = address {
        Some(IpAddr::V4(*a))
    } else if let RouteVia::Inet6(a) = address {
        Some(IpAddr::V6(*a))
    } else {
        None
    }
}

/// A route as it matters for the interface `index`: several when it has several paths, none when it is none of its
/// business.
fn routes_of(message: &RouteMessage, index: u32) -> Vec<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    // The default route has no destination.
    let mut address = if header.address_family == AddressFamily::Inet {
        Some(IpAddr::from([0; 4]))
    } else {
        Some(IpAddr::from([0; 16]))
    };
    let (mut metric, mut interface, mut gateway, mut paths) = (0, None, None, &[][..]);
    for attribute in &message.attributes {
        if let RouteAttribute::Table(n) = attribute {
            table = *n;
        } else if let RouteAttribute::Destination(a) = attribute {
            address = ip(a);
        } else if let RouteAttribute::Priority(n) = attribute {
            metric = *n;
        } else if let RouteAttribute::Oif(n) = attribute {
            interface = Some(*n);
        } else if let RouteAttribute::Gateway(a) = attribute {
            gateway = ip(a);
        } else if let RouteAttribute::Via(a) = attribute {
            gateway = via(a);
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            paths = hops;
        }
    }
    let prefix = address.and_then(|a| Prefix::new(a, header.destination_prefix_length).ok());
    let (Some(prefix), true) =
        (prefix, table == u32::from(RouteHeader::RT_TABLE_MAIN) && header.tos == 0)
    else {
        return Vec::new();
    };
    let nowhere = |metric| vec![Route { prefix, metric, hop: Hop::Nowhere }];
    if [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit].contains(&header.kind) {
        return nowhere(metric);
    }
    if header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let here = |gateway: Option<IpAddr>| {
        let hop = gateway.map_or(Hop::OnLink, Hop::Gateway);
        Route { prefix, metric, hop }
    };
    if interface == Some(index) {
        return vec![here(gateway)];
    }
    let alive = |p: &&RouteNextHop| {
        p.interface_index == index
            && !p.flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown)
    };
    let found: Vec<_> = paths.iter().filter(alive).map(|p| here(path_gateway(p))).collect();
    if found.is_empty() {
        // It leads out of another interface, which the port cannot reach. Any route of ours to the same prefix counts
        // before it: a host may have one default route for its management and one for the port.
        return nowhere(u32::MAX);
    }
    found
}

fn path_gateway(path: &RouteNextHop) -> Option<IpAddr> {
    path.attributes.iter().find_map(|a| {
        if let RouteAttribute::Gateway(a) = a {
            ip(a)
        } else if let RouteAttribute::Via(a) = a {
            via(a)
        } else {
            None
        }
    })
}

fn entry(message: &NeighbourMessage) -> Option<Entry> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) = attribute {
            address = Some(IpAddr::V4(*a));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) = attribute {
            address = Some(IpAddr::V6(*a));
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = ethernet(bytes);
        }
    }
    let state = message.header.state;
    let known = [
        NeighbourState::Reachable,
        NeighbourState::Stale,
        NeighbourState::Delay,
        NeighbourState::Probe,
        NeighbourState::Permanent,
        NeighbourState::Noarp,
    ];
    let mac = if known.contains(&state) { mac } else { None };
    Some(Entry { address: address?, mac, is_stale: state == NeighbourState::Stale })
}
