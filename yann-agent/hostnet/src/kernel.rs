//! Links, addresses, rules and routes of the calling thread's network namespace, over netlink.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::io;

use futures_util::TryStreamExt as _;
use jlb_map::Family;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};
use rtnetlink::{Handle, IpVersion};

use crate::Error;
use crate::route::Key;
use crate::state::Rule;

/// The mark of our routes and rules (`proto 181` in `ip route` and `ip rule`): a number that nobody is known to use.
pub const ROUTE_PROTOCOL: u8 = 181;
/// The neighbour that replies are addressed to until eBPF readdresses them: nobody, so that they wait for no resolution, no
/// other host's death matters, and without eBPF none of them leaves bare.
pub(crate) const NOBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 74, 76));
/// The same over IPv6.
pub(crate) const NOBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x4a, 0x4c42));
/// A locally administered address.
const NOBODYS_MAC: [u8; 6] = [0x02, 0x4a, 0x4c, 0x42, 0x00, 0x01];
/// Routes of one table and family that are read; a table of the whole Internet is no business of ours.
pub const MAX_ROUTES: usize = 16_384;

pub(crate) const LOOPBACK: &str = "lo";

// errno values, the same on all architectures that we build for.
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const EADDRNOTAVAIL: i32 = 99;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// It has Ethernet addresses, and so neighbours.
    pub(crate) is_ethernet: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) link: u32,
}

/// Netlink, served by a task of the tokio runtime that it was opened in.
#[derive(Debug)]
pub(crate) struct Kernel {
    handle: Handle,
}

impl Kernel {
    pub(crate) fn open() -> Result<Self, Error> {
        // Strict: the kernel then gives the routes of one table only.
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(Error::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(crate) async fn links(&self) -> Result<Vec<Link>, Error> {
        let failed = |e| kernel("list the interfaces", e);
        let mut found = self.handle.link().get().execute();
        let mut links = Vec::new();
        while let Some(message) = found.try_next().await.map_err(failed)? {
            let (mut name, mut mtu, mut is_ethernet) = (None, 0, false);
            for attribute in message.attributes {
                if let LinkAttribute::IfName(n) = attribute {
                    name = Some(n);
                } else if let LinkAttribute::Mtu(n) = attribute {
                    mtu = n;
                } else if let LinkAttribute::Address(mac) = attribute {
                    is_ethernet = mac.len() == NOBODYS_MAC.len();
                }
            }
            let up = message.header.flags.contains(LinkFlags::Up);
            links.extend(name.map(|name| Link {
                index: message.header.index,
                name,
                mtu,
                up,
                is_ethernet,
            }));
        }
        Ok(links)
    }

    pub(crate) async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let failed = |e| kernel("list the addresses", e);
        let mut found = self.handle.address().get().execute();
        let mut addresses = Vec::new();
        while let Some(message) = found.try_next().await.map_err(failed)? {
            let link = message.header.index;
            addresses.extend(address_of(&message).map(|ip| Address { ip, link }));
        }
        Ok(addresses)
    }

    pub(crate) async fn add_vip(&self, vip: IpAddr, lo: u32) -> Result<(), Error> {
        let mut request = self.handle.address().add(lo, vip, host_bits(vip));
        let message = request.message_mut();
        message.header.scope = AddressScope::Host;
        if vip.is_ipv6() {
            // The kernel works the scope of an IPv6 address out itself.
            message.header.scope = AddressScope::Universe;
            // Without a route of its own in the main table, where IPv6 would put one.
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
            // Valid for ever, preferred never: no source for the host's own connections while there is another.
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        match request.execute().await.map_err(errno) {
            Err(e) if e.raw_os_error() == Some(EEXIST) => Ok(()),
            // The kernel's word for `disable_ipv6`; a lack of rights is EPERM.
            Err(e) if e.raw_os_error() == Some(EACCES) && vip.is_ipv6() => Err(Error::Ipv6Off(vip)),
            result => result.map_err(|e| refused(format!("put {vip} on lo"), e)),
        }
    }

    /// Nothing when it is not there.
    pub(crate) async fn drop_vip(&self, vip: IpAddr, lo: u32) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(vip);
        message.header.prefix_len = host_bits(vip);
        message.header.index = lo;
        message.attributes = vec![AddressAttribute::Local(vip), AddressAttribute::Address(vip)];
        let result = self.handle.address().del(message).execute().await.map_err(errno);
        gone_or(result, || format!("take {vip} off lo"))
    }

    /// The interfaces where nobody is a neighbour.
    pub(crate) async fn neighbours(&self) -> Result<Vec<Address>, Error> {
        let failed = |e| kernel("list the neighbours", e);
        let mut found = self.handle.neighbours().get().execute();
        let mut neighbours = Vec::new();
        while let Some(message) = found.try_next().await.map_err(failed)? {
            let link = message.header.ifindex;
            neighbours.extend(nobody_of(&message).map(|ip| Address { ip, link }));
        }
        Ok(neighbours)
    }

    pub(crate) async fn put_neighbour(&self, ip: IpAddr, link: u32) -> Result<(), Error> {
        let request = self.handle.neighbours().add(link, ip).link_layer_address(&NOBODYS_MAC);
        let result = request.replace().execute().await.map_err(errno);
        result.map_err(|e| refused(format!("make {ip} a neighbour"), e))
    }

    /// Nothing when it is not there.
    pub(crate) async fn drop_neighbour(&self, ip: IpAddr, link: u32) -> Result<(), Error> {
        let mut request = self.handle.neighbours().add(link, ip);
        let message = core::mem::take(request.message_mut());
        let result = self.handle.neighbours().del(message).execute().await.map_err(errno);
        gone_or(result, || format!("remove the neighbour {ip}"))
    }

    /// Those with our mark.
    pub(crate) async fn rules(&self, family: Family) -> Result<Vec<Rule>, Error> {
        let failed = |e| kernel("list the routing rules", e);
        let version = if family == Family::V4 { IpVersion::V4 } else { IpVersion::V6 };
        let mut found = self.handle.rule().get(version).execute();
        let mut rules = Vec::new();
        while let Some(message) = found.try_next().await.map_err(failed)? {
            // A kernel without IPv6 lists IPv4 instead.
            let rule = rule_of(&message);
            rules.extend(rule.filter(|r| family_of(r.vip) == address_family(family)));
        }
        Ok(rules)
    }

    pub(crate) async fn add_rule(&self, rule: &Rule) -> Result<(), Error> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule_message(rule);
        match request.execute().await.map_err(errno) {
            Err(e) if e.raw_os_error() == Some(EEXIST) => Ok(()),
            result => result.map_err(|e| refused(format!("add the {rule}"), e)),
        }
    }

    /// Nothing when it is not there.
    pub(crate) async fn drop_rule(&self, rule: &Rule) -> Result<(), Error> {
        let result = self.handle.rule().del(rule_message(rule)).execute().await.map_err(errno);
        gone_or(result, || format!("remove the {rule}"))
    }

    /// All routes of one table.
    pub(crate) async fn routes(
        &self,
        family: Family,
        table: u32,
    ) -> Result<Vec<RouteMessage>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = address_family(family);
        set_table(&mut request, table);
        let mut found = self.handle.route().get(request).execute();
        let mut routes = Vec::new();
        loop {
            let message = match found.try_next().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(routes),
                Err(e) => {
                    let e = errno(e);
                    if e.raw_os_error() == Some(ENOENT) {
                        // There is no such table, which is an empty one.
                        return Ok(routes);
                    }
                    return Err(refused("list the routes".to_owned(), e));
                }
            };
            // A kernel without IPv6 lists IPv4 instead.
            if message.header.address_family == address_family(family)
                && table_of(&message) == table
            {
                routes.push(message);
            }
            if routes.len() > MAX_ROUTES {
                return Err(Error::TooManyRoutes(table));
            }
        }
    }

    /// Adds a route, or takes the place of the one with the same destination and metric.
    pub(crate) async fn put_route(&self, message: RouteMessage) -> io::Result<()> {
        self.handle.route().add(message).replace().execute().await.map_err(errno)
    }

    /// Nothing when it is not there.
    pub(crate) async fn drop_route(&self, message: RouteMessage, key: &Key) -> Result<(), Error> {
        let result = self.handle.route().del(message).execute().await.map_err(errno);
        gone_or(result, || format!("remove the copied route {key}"))
    }
}

pub(crate) const fn host_bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

pub(crate) const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

const fn family_of(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The header has room for small numbers only.
pub(crate) fn set_table(message: &mut RouteMessage, table: u32) {
    if let Ok(small) = u8::try_from(table) {
        message.header.table = small;
    } else {
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.attributes.push(RouteAttribute::Table(table));
    }
}

fn table_of(message: &RouteMessage) -> u32 {
    let long = message
        .attributes
        .iter()
        .find_map(|a| if let RouteAttribute::Table(table) = a { Some(*table) } else { None });
    long.unwrap_or(message.header.table.into())
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            // On a point-to-point link `Address` is the peer's.
            return Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        }
    }
    address
}

fn nobody_of(message: &NeighbourMessage) -> Option<IpAddr> {
    let (mut ip, mut is_nobody) = (None, message.header.state == NeighbourState::Permanent);
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) = attribute {
            ip = Some(IpAddr::V4(*a));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) = attribute {
            ip = Some(IpAddr::V6(*a));
        } else if let NeighbourAttribute::LinkLayerAddress(mac) = attribute {
            is_nobody &= mac[..] == NOBODYS_MAC;
        }
    }
    ip.filter(|ip| is_nobody && [NOBODY_V4, NOBODY_V6].contains(ip))
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family_of(rule.vip);
    message.header.src_len = host_bits(rule.vip);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(rule.vip),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    if rule.tcp {
        message.attributes.push(RuleAttribute::IpProtocol(IpProtocol::Tcp));
    }
    message
}

/// A rule with our mark.
fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        vip: IpAddr::from([0; 4]),
        table: message.header.table.into(),
        priority: 0,
        tcp: false,
    };
    let (mut ours, mut source) = (false, None);
    for attribute in &message.attributes {
        if let RuleAttribute::Protocol(protocol) = attribute {
            ours = u8::from(*protocol) == ROUTE_PROTOCOL;
        } else if let RuleAttribute::Source(ip) = attribute {
            source = Some(*ip);
        } else if let RuleAttribute::Table(n) = attribute {
            rule.table = *n;
        } else if let RuleAttribute::Priority(n) = attribute {
            rule.priority = *n;
        } else if let RuleAttribute::IpProtocol(protocol) = attribute {
            rule.tcp = *protocol == IpProtocol::Tcp;
        }
    }
    rule.vip = source.filter(|_| ours)?;
    Some(rule)
}

fn errno(e: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(message) = e {
        message.to_io()
    } else {
        io::Error::other(e.to_string())
    }
}

fn kernel(doing: &str, e: rtnetlink::Error) -> Error {
    refused(doing.to_owned(), errno(e))
}

pub(crate) fn refused(doing: String, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::PermissionDenied {
        Error::Permission { doing }
    } else {
        Error::Kernel { doing, source }
    }
}

fn gone_or(result: io::Result<()>, doing: impl Fn() -> String) -> Result<(), Error> {
    match result {
        Err(e) if [ENOENT, ESRCH, EADDRNOTAVAIL].map(Some).contains(&e.raw_os_error()) => Ok(()),
        result => result.map_err(|e| refused(doing(), e)),
    }
}
