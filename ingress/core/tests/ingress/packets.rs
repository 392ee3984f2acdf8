//! Clients' packets, and the check that what the ingress emits is well-formed (both by etherparse, not by our code).

use core::net::{IpAddr, SocketAddr};

use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header,
    PacketBuilder, PacketHeaders, TcpHeader, TransportHeader,
};
use jlb_flow::{FlowHasher, FlowId};
use jlb_wire::{FiveTuple, Protocol};

use crate::world::KEY;

/// One flow of a client to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) v6: bool,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) vip_port: u16,
}

/// The odd fields of an IP header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    pub(crate) traffic_class: u8,
    pub(crate) dont_fragment: bool,
}

impl Default for Ip {
    fn default() -> Self {
        Self { traffic_class: 0, dont_fragment: true }
    }
}

pub(crate) const fn tcp(v6: bool) -> Client {
    Client { v6, protocol: Protocol::Tcp, port: 40001, vip_port: 80 }
}

pub(crate) const fn udp(v6: bool) -> Client {
    Client { v6, protocol: Protocol::Udp, port: 40001, vip_port: 53 }
}

pub(crate) fn vip(v6: bool) -> IpAddr {
    if v6 { "2001:db8:ffff::10".parse().unwrap() } else { "203.0.113.10".parse().unwrap() }
}

pub(crate) fn client_address(v6: bool) -> IpAddr {
    if v6 { "2001:db8:1::9".parse().unwrap() } else { "198.51.100.9".parse().unwrap() }
}

impl Client {
    pub(crate) fn tuple(&self) -> FiveTuple {
        let client = SocketAddr::new(client_address(self.v6), self.port);
        let vip = SocketAddr::new(vip(self.v6), self.vip_port);
        FiveTuple::new(client, vip, self.protocol).unwrap()
    }

    pub(crate) fn id(&self) -> FlowId {
        FlowHasher::new(KEY).id(&self.tuple())
    }

    pub(crate) fn syn(&self, isn: u32) -> Vec<u8> {
        self.segment(isn, |h| h.syn = true, &[], Ip::default())
    }

    /// A segment in the middle of a connection.
    pub(crate) fn data(&self, seq: u32, payload: &[u8]) -> Vec<u8> {
        self.segment(seq, |h| h.ack = true, payload, Ip::default())
    }

    pub(crate) fn segment(
        &self,
        seq: u32,
        flags: impl FnOnce(&mut TcpHeader),
        payload: &[u8],
        ip: Ip,
    ) -> Vec<u8> {
        let mut header = TcpHeader::new(self.port, self.vip_port, seq, 64240);
        flags(&mut header);
        let mut out = Vec::new();
        let builder = PacketBuilder::ip(self.ip(ip)).tcp_header(header);
        builder.write(&mut out, payload).unwrap();
        out
    }

    pub(crate) fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        self.datagram_with(payload, Ip::default())
    }

    pub(crate) fn datagram_with(&self, payload: &[u8], ip: Ip) -> Vec<u8> {
        let mut out = Vec::new();
        let builder = PacketBuilder::ip(self.ip(ip)).udp(self.port, self.vip_port);
        builder.write(&mut out, payload).unwrap();
        out
    }

    /// A packet that can open the flow: SYN with that ISN, or a datagram with that number in it.
    pub(crate) fn opener(&self, n: u32) -> Vec<u8> {
        match self.protocol {
            Protocol::Tcp => self.syn(n),
            Protocol::Udp => self.datagram(&n.to_be_bytes()),
        }
    }

    /// Another packet with that number in it.
    pub(crate) fn later(&self, n: u32) -> Vec<u8> {
        match self.protocol {
            Protocol::Tcp => self.data(n, &n.to_be_bytes()),
            Protocol::Udp => self.datagram(&n.to_be_bytes()),
        }
    }

    fn ip(&self, ip: Ip) -> IpHeaders {
        ip_headers((client_address(self.v6), vip(self.v6)), self.protocol as u8, ip)
    }
}

/// Headers between any two addresses of one family; the builder fills in lengths and protocol.
pub(crate) fn ip_headers(ends: (IpAddr, IpAddr), protocol: u8, ip: Ip) -> IpHeaders {
    match ends {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut h =
                Ipv4Header::new(0, 61, IpNumber(protocol), src.octets(), dst.octets()).unwrap();
            h.dont_fragment = ip.dont_fragment;
            h.identification = 0x1234;
            h.dscp = (ip.traffic_class >> 2).try_into().unwrap();
            h.ecn = (ip.traffic_class & 3).try_into().unwrap();
            IpHeaders::Ipv4(h, Ipv4Extensions::default())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let h = Ipv6Header {
                traffic_class: ip.traffic_class,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: IpNumber(protocol),
                hop_limit: 61,
                source: src.octets(),
                destination: dst.octets(),
            };
            IpHeaders::Ipv6(h, Ipv6Extensions::default())
        }
        _ => panic!("mixed families"),
    }
}

/// A reply of a backend's server, from the VIP to the client of that flow.
pub(crate) fn server_packet(flow: &Client, payload: &[u8], ip: Ip) -> Vec<u8> {
    let ends = (vip(flow.v6), client_address(flow.v6));
    let builder = PacketBuilder::ip(ip_headers(ends, flow.protocol as u8, ip));
    let mut out = Vec::new();
    match flow.protocol {
        Protocol::Tcp => {
            let mut h = TcpHeader::new(flow.vip_port, flow.port, 1, 64240);
            h.ack = true;
            builder.tcp_header(h).write(&mut out, payload).unwrap();
        }
        Protocol::Udp => {
            builder.udp(flow.vip_port, flow.port).write(&mut out, payload).unwrap();
        }
    }
    out
}

/// Lengths and every checksum of a whole packet; gives its headers and payload.
#[track_caller]
pub(crate) fn well_formed(packet: &[u8]) -> PacketHeaders<'_> {
    let headers = PacketHeaders::from_ip_slice(packet).unwrap();
    let payload = headers.payload.slice();
    let net = headers.net.as_ref().unwrap();
    let mut again = headers.transport.clone();
    if let Some(v4) = net.ipv4_ref() {
        let (h, _) = v4;
        assert_eq!(usize::from(h.total_len), packet.len());
        assert_eq!(h.header_checksum, h.calc_header_checksum());
        let fragment = h.is_fragmenting_payload();
        assert!(headers.transport.is_some() || fragment);
        if let Some(t) = again.as_mut() {
            t.update_checksum_ipv4(h, payload).unwrap();
        }
    } else {
        let (h, _) = net.ipv6_ref().unwrap();
        assert_eq!(usize::from(h.payload_length) + 40, packet.len());
        if let Some(t) = again.as_mut() {
            t.update_checksum_ipv6(h, payload).unwrap();
        }
    }
    // Outer headers have no UDP checksum (RFC 6935, RFC 6936).
    let none = matches!(&headers.transport, Some(TransportHeader::Udp(u)) if u.checksum == 0);
    if !none {
        assert_eq!(headers.transport, again, "transport checksum");
    }
    headers
}
