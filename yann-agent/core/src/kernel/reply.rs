//! Packets that the kernel half writes itself.

use core::net::IpAddr;

use jlb_role::{Reason, Rules};
use jlb_wire::{
    Control, Encapsulation, Epoch, FiveTuple, Flags, HOP_BUDGET, IpHeader, Kind, Load, MemberId,
    Payload, Protocol, RejectReason, entropy_port,
};

use super::control::Believed;
use super::{Kernel, Verdict};
use crate::maps::{Member, host_flags};
use crate::{BackendWord, Sockets};

/// What a Reject says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) reason: RejectReason,
    pub(super) counter: u64,
    /// Of the service, whose load is told.
    pub(super) slot: u16,
}

impl Believed<'_> {
    /// The inner packet as the stack gets it.
    pub(super) fn delivered(&self) -> Vec<u8> {
        with_class(self.inner, self.packet.traffic_class, self.traffic_class)
    }
}

/// A copy of a packet whose DSCP and ECN may have to be mended.
pub(super) fn with_class(packet: &[u8], old: u8, new: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if old != new {
        IpHeader::set_traffic_class(&mut packet, new);
    }
    packet
}

impl<R: Rules> Kernel<R> {
    /// A Reject back to the tracker that sent this Open (second, who passes it to head) or Cancel (who is all the
    /// chain then), by the way it came.
    pub(super) fn reject(
        &self,
        m: &Believed<'_>,
        refusal: Refusal,
        sockets: &impl Sockets,
    ) -> Result<Verdict, Reason> {
        let asked = &m.control;
        let (head, second) = match asked.kind {
            Kind::Cancel => (Some(asked.sender), None),
            Kind::Open
            | Kind::Accept
            | Kind::Reject
            | Kind::Query
            | Kind::State
            | Kind::NotMine
            | Kind::Close => (asked.head, asked.second),
        };
        let flags = asked.flags.0 & Flags::FORCE.with(Flags::CUT).0;
        let control = Control {
            kind: Kind::Reject,
            version: asked.version,
            hop_budget: HOP_BUDGET,
            reject_ttl: asked.reject_ttl,
            epoch: Epoch(self.host.epoch),
            incarnation: asked.incarnation,
            cookie: asked.cookie,
            ingress: asked.ingress,
            head,
            second,
            backend: Some(self.me),
            sender: self.me,
            receiver: head.unwrap_or(asked.sender),
            flags: Flags(flags),
            reason: refusal.reason,
            load: Load {
                queue: queue_depth(&m.tuple(), sockets),
                cpu: self.host.cpu,
                live: self.live(refusal.slot),
            },
            tried: asked.tried,
            boot: self.word.boot(),
            sequence: self.word.next_sequence(),
            word_a: refusal.counter,
            word_b: 0,
        };
        let tuple = m.tuple();
        let option = control.emit(&tuple, &self.keys);
        let outer = Encapsulation {
            src: m.arrived.outer.dst,
            dst: m.arrived.outer.src,
            source_port: entropy_port(self.hasher.id(&tuple).bucket_hash()),
            port: self.host.port,
            traffic_class: m.packet.traffic_class,
        };
        let payload = Payload::Control { option: &option, v6: tuple.is_v6() };
        encapsulated(&outer, payload, m.inner, asked.sender)
    }

    /// Our address and a member's, of the preferred family if both have it, else of the other.
    pub(super) fn pair(&self, member: MemberId) -> Option<(IpAddr, IpAddr)> {
        let to = self.members.get(&member)?;
        let ours = |flag| self.host.flags & flag != 0;
        let v4 = ours(host_flags::V4) && to.families & Member::V4 != 0;
        let v6 = ours(host_flags::V6) && to.families & Member::V6 != 0;
        if v4 && !(v6 && ours(host_flags::PREFER_V6)) {
            Some((self.host.v4.into(), to.v4.into()))
        } else if v6 {
            Some((self.host.v6.into(), to.v6.into()))
        } else {
            None
        }
    }
}

/// Depth of the queue that a TCP flow would stand in, as messages carry it.
pub(super) fn queue_depth(flow: &FiveTuple, sockets: &impl Sockets) -> u16 {
    let listener = match flow.protocol() {
        Protocol::Tcp => sockets.listener(flow),
        Protocol::Udp => None,
    };
    listener.map_or(0, |l| u16::try_from(l.depth).unwrap_or(u16::MAX))
}

/// A packet with its outside.
pub(super) fn encapsulated(
    outer: &Encapsulation,
    payload: Payload<'_>,
    inner: &[u8],
    to: MemberId,
) -> Result<Verdict, Reason> {
    let mut packet = vec![0; outer.header_len(payload)];
    // More than 65,535 bytes together.
    outer.emit(payload, inner.len(), &mut packet).map_err(|_| Reason::TooBig)?;
    packet.extend_from_slice(inner);
    Ok(Verdict::Send { packet, to })
}
