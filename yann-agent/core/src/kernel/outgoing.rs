//! The way out: replies to clients, from a VIP.

use jlb_map::ReturnPath;
use jlb_role::{Nanos, Reason, Rules};
use jlb_wire::{
    Encapsulation, FiveTuple, IpHeader, MemberId, Packet, PacketError, Payload, entropy_port,
};

use super::open::flow_record;
use super::reply::encapsulated;
use super::{Kernel, Verdict};
use crate::EventKind;
use crate::maps::{AddressKey, EGRESS_LIMIT, ServiceKey, flow_state};

impl<R: Rules> Kernel<R> {
    pub(super) fn outgoing(&mut self, now: Nanos, bytes: &[u8]) -> Result<Verdict, Reason> {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(PacketError::Fragment) => return self.outgoing_fragment(now, bytes),
            Err(_) => return Ok(Verdict::Pass),
        };
        // The packet's own direction is VIP → client.
        let (vip, client) = (packet.tuple.client(), packet.tuple.vip());
        let Ok(tuple) = FiveTuple::new(client, vip, packet.tuple.protocol()) else {
            return Ok(Verdict::Pass);
        };
        let Some(&service) = self.services.get(&ServiceKey::of(&tuple)) else {
            return Ok(Verdict::Pass);
        };
        let syn_ack = packet.tcp.filter(|tcp| tcp.is_syn_ack());
        let mut hash = None;
        let mut event = None;
        match self.flows.get_mut(&tuple) {
            Some(flow) => {
                if syn_ack.is_some_and(|tcp| tcp.ack != flow.incarnation.wrapping_add(1)) {
                    return Err(Reason::NotAdmitted);
                }
                flow.last_packet = now.0;
                hash = Some(flow.hash);
                if syn_ack.is_some() && flow.state == flow_state::ADMITTED {
                    flow.state = flow_state::ACCEPTED;
                    event = Some(flow_record(EventKind::SynAckSeen, &tuple, flow));
                }
            }
            None if syn_ack.is_some() => return Err(Reason::NotAdmitted),
            None => {}
        }
        if let Some(event) = event {
            self.emit(event);
        }
        if service.return_path != ReturnPath::Egress as u8 {
            return Ok(Verdict::Pass);
        }
        let hash = hash.unwrap_or_else(|| self.hasher.id(&tuple).bucket_hash());
        self.through_egress(now, hash, packet.traffic_class, tuple.is_v6(), &bytes[..packet.len])
    }

    /// Only its addresses are known: all fragments of one client go the same way.
    fn outgoing_fragment(&mut self, now: Nanos, bytes: &[u8]) -> Result<Verdict, Reason> {
        let Ok(ip) = IpHeader::parse(bytes) else { return Ok(Verdict::Pass) };
        let vip = self.vips.get(&AddressKey::new(ip.src));
        if vip.is_none_or(|vip| vip.return_path != ReturnPath::Egress as u8) {
            return Ok(Verdict::Pass);
        }
        let v6 = ip.src.is_ipv6();
        let ports_unknown = |ip| core::net::SocketAddr::new(ip, 0);
        let tuple =
            FiveTuple::new(ports_unknown(ip.dst), ports_unknown(ip.src), jlb_wire::Protocol::Udp);
        let Ok(tuple) = tuple else { return Ok(Verdict::Pass) };
        let hash = self.hasher.id(&tuple).bucket_hash();
        self.through_egress(now, hash, ip.traffic_class, v6, &bytes[..ip.len])
    }

    fn through_egress(
        &self,
        now: Nanos,
        hash: u64,
        traffic_class: u8,
        v6: bool,
        inner: &[u8],
    ) -> Result<Verdict, Reason> {
        let to = self.egress_host(now, hash).ok_or(Reason::NoNeighbour)?;
        let (src, dst) = self.pair(to).ok_or(Reason::NoNeighbour)?;
        let outer = Encapsulation {
            src,
            dst,
            source_port: entropy_port(hash),
            port: self.host.port,
            traffic_class,
        };
        encapsulated(&outer, Payload::Plain { v6 }, inner, to)
    }

    /// The egress host of the highest score among those heard lately; if none was, of the highest score of all.
    fn egress_host(&self, now: Nanos, hash: u64) -> Option<MemberId> {
        let heard =
            |e: &crate::maps::Egress| e.heard != 0 && now.since(Nanos(e.heard)) <= EGRESS_LIMIT;
        let best = self.egress_hosts.iter().max_by_key(|e| (heard(e), score(hash, e.member)))?;
        MemberId::new(best.member)
    }
}

/// Rendezvous hashing: depends on nothing but the flow and the host. The mix is SplitMix64's.
fn score(hash: u64, member: u16) -> u64 {
    let mut z = hash ^ u64::from(member).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
