//! VIPs as routes in a kernel table that nothing looks packets up in: a routing daemon reads it and tells the routers.

use core::net::IpAddr;
use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};

use super::{Netlink, NetlinkError};

/// Who made the route (`rtm_protocol`): none of iproute2's names, so what an operator adds to the table is left alone.
const OURS: RouteProtocol = RouteProtocol::Other(177);

impl Netlink {
    /// The addresses that are announced in a table.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn announced(&self, table: u32) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let mut all = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = RouteHeader::RT_TABLE_UNSPEC;
            request.attributes.push(RouteAttribute::Table(table));
            let mut found = self.handle.route().get(request).execute();
            while let Some(message) = found.try_next().await? {
                all.extend(announced(&message, table));
            }
        }
        Ok(all)
    }

    /// Announces an address, if it is not yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn announce(&self, table: u32, vip: IpAddr) -> Result<(), NetlinkError> {
        // "Replace": a route that is there is no error.
        Ok(self.handle.route().add(message(table, vip)).replace().execute().await?)
    }

    /// Announces an address no longer.
    ///
    /// # Errors
    /// When the kernel refuses; it does when the address is not announced.
    pub async fn withdraw(&self, table: u32, vip: IpAddr) -> Result<(), NetlinkError> {
        Ok(self.handle.route().del(message(table, vip)).execute().await?)
    }
}

/// A blackhole, which needs no interface and stays when one goes.
fn message(table: u32, vip: IpAddr) -> RouteMessage {
    match vip {
        IpAddr::V4(vip) => RouteMessageBuilder::<core::net::Ipv4Addr>::new()
            .destination_prefix(vip, 32)
            .table_id(table)
            .protocol(OURS)
            .kind(RouteType::BlackHole)
            .build(),
        IpAddr::V6(vip) => RouteMessageBuilder::<core::net::Ipv6Addr>::new()
            .destination_prefix(vip, 128)
            .table_id(table)
            .protocol(OURS)
            .kind(RouteType::BlackHole)
            .build(),
    }
}

fn announced(message: &RouteMessage, table: u32) -> Option<IpAddr> {
    let header = &message.header;
    let mut its_table = u32::from(header.table);
    let mut address = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Table(n) = attribute {
            its_table = *n;
        } else if let RouteAttribute::Destination(a) = attribute {
            address = super::ip(a);
        }
    }
    let address = address?;
    let is_host = header.destination_prefix_length == if address.is_ipv4() { 32 } else { 128 };
    (is_host && its_table == table && header.protocol == OURS).then_some(address)
}
