//! Compares what came out with what must come out. The outer headers are read by etherparse, not by our own code.

use core::net::IpAddr;

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use jlb_map::Snapshot;
use jlb_runtime::MacAddr;
use jlb_wire::{FiveTuple, GENEVE_PORT, MemberId};

use crate::site;
use crate::traffic::ETHERNET;

const GENEVE: usize = 8;

/// What a frame to a member is wrapped in.
pub struct Expected<'a> {
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// Who sent it, and by which Ethernet address.
    pub from: (MemberId, MacAddr),
    /// Whom it is for.
    pub to: MemberId,
    /// The outer UDP header's.
    pub source_port: u16,
}

/// Checks Ethernet, outer IP and UDP; gives what is behind: Geneve with its content.
///
/// # Errors
/// What is wrong with it.
pub fn outer<'a>(frame: &'a [u8], expected: &Expected<'_>) -> Result<&'a [u8], String> {
    let headers = PacketHeaders::from_ethernet_slice(frame).map_err(|e| e.to_string())?;
    let link =
        headers.link.and_then(etherparse::LinkHeader::ethernet2).ok_or("no Ethernet header")?;
    same("destination address", link.destination, site::mac_of(expected.to).0)?;
    same("source address", link.source, expected.from.1.0)?;
    let ends = expected.snapshot.underlay_pair(expected.from.0, expected.to);
    let (src, dst) = ends.ok_or("no such member")?;
    let behind = match &headers.net {
        Some(NetHeaders::Ipv4(h, _)) => {
            same("outer IPv4 checksum", h.header_checksum, h.calc_header_checksum())?;
            same("outer source", IpAddr::from(h.source), src)?;
            same("outer destination", IpAddr::from(h.destination), dst)?;
            same("don't fragment", h.dont_fragment, true)?;
            same("outer length", usize::from(h.total_len), frame.len() - ETHERNET)?;
            20
        }
        Some(NetHeaders::Ipv6(h, _)) => {
            same("outer source", IpAddr::from(h.source), src)?;
            same("outer destination", IpAddr::from(h.destination), dst)?;
            same("outer length", usize::from(h.payload_length) + 40, frame.len() - ETHERNET)?;
            40
        }
        Some(NetHeaders::Arp(_)) | None => return Err("no outer IP header".into()),
    };
    let Some(TransportHeader::Udp(udp)) = headers.transport else {
        return Err("no outer UDP header".into());
    };
    same("outer UDP destination port", udp.destination_port, GENEVE_PORT)?;
    same("outer UDP source port", udp.source_port, expected.source_port)?;
    same("outer UDP checksum", udp.checksum, 0)?;
    same("outer UDP length", usize::from(udp.length), frame.len() - ETHERNET - behind)?;
    Ok(&frame[ETHERNET + behind + 8..])
}

/// `Data`: a Geneve header without options, and the client's packet as it was.
///
/// # Errors
/// What is wrong with it.
pub fn data(geneve: &[u8], inner: &[u8], tuple: &FiveTuple) -> Result<(), String> {
    let ether_type = if tuple.is_v6() { [0x86, 0xdd] } else { [0x08, 0] };
    let header = [0, 0, ether_type[0], ether_type[1], 0, 0, 0, 0];
    let (got, rest) = geneve.split_at_checked(GENEVE).ok_or("no Geneve header")?;
    same("Geneve header", got, &header)?;
    same("inner packet", rest, inner)
}

/// A control message: a Geneve header with one option, and the inner packet as it must be.
///
/// # Errors
/// What is wrong with it.
pub fn control(geneve: &[u8], inner: &[u8]) -> Result<(), String> {
    let options = geneve.first().map(|b| usize::from(b & 0x3f) * 4).ok_or("no Geneve header")?;
    let rest = geneve.get(GENEVE + options..).ok_or("no room for the options")?;
    same("inner packet", rest, inner)
}

/// A packet as it was, in a frame to these ends: a reply out of its capsule.
///
/// # Errors
/// What is wrong with it.
pub fn bare(
    frame: &[u8],
    (to, from): ([u8; 6], [u8; 6]),
    packet: &[u8],
    v6: bool,
) -> Result<(), String> {
    let ether_type: [u8; 2] = if v6 { [0x86, 0xdd] } else { [0x08, 0] };
    same("frame", frame, &[&to[..], &from, &ether_type, packet].concat())
}

fn same<T: Copy + PartialEq + core::fmt::Debug>(
    what: &str,
    got: T,
    expected: T,
) -> Result<(), String> {
    if got == expected {
        Ok(())
    } else {
        Err(format!("{what} is {got:02x?} instead of {expected:02x?}"))
    }
}

#[cfg(test)]
mod tests {
    use jlb_wire::{Encapsulation, Payload};

    use super::*;
    use crate::traffic::{LONGEST, Traffic};

    #[test]
    fn every_flipped_bit_of_a_packet_is_seen() {
        for v6 in [false, true] {
            let snapshot = site::snapshot(v6, jlb_map::Policy::default()).unwrap();
            let traffic = Traffic { v6 };
            let mut client = [0; LONGEST];
            traffic.write(5, false, ([1; 6], [2; 6]), &mut client);
            let tuple = traffic.tuple(5);
            let inner = &client[ETHERNET..ETHERNET + if v6 { 60 } else { 40 }];
            let to = site::backend_of(5);
            let (src, dst) = snapshot.underlay_pair(site::ingress(), to).unwrap();
            let outer_header =
                Encapsulation { src, dst, source_port: 50000, port: GENEVE_PORT, traffic_class: 0 };
            let payload = Payload::Plain { v6 };
            let mut wrapped = vec![0; outer_header.header_len(payload)];
            outer_header.emit(payload, inner.len(), &mut wrapped).unwrap();
            let ether_type: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
            let from = MacAddr([2; 6]);
            let mut frame =
                [&site::mac_of(to).0[..], &from.0, &ether_type, &wrapped, inner].concat();
            let check = |frame: &[u8]| {
                let from = (site::ingress(), from);
                let expected = Expected { snapshot: &snapshot, from, to, source_port: 50000 };
                outer(frame, &expected).and_then(|rest| data(rest, inner, &tuple))
            };
            assert_eq!(check(&frame), Ok(()));
            // Of IPv6, traffic class, flow label and hop limit are anybody's; of IPv4, the checksum covers all.
            let free = |at: usize| v6 && matches!(at - ETHERNET.min(at), 0..=3 | 7);
            for at in (0..frame.len()).filter(|&at| at < ETHERNET || !free(at)) {
                frame[at] ^= 0x10;
                assert!(check(&frame).is_err(), "byte {at}");
                frame[at] ^= 0x10;
            }
        }
    }
}
