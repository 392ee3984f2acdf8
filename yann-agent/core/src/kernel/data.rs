//! Data: packets of flows that were decided long ago, straight from an ingress.

use jlb_map::MemberRole;
use jlb_role::{Nanos, Reason, Rule, Rules};
use jlb_wire::{IpHeader, Packet, PacketError, Protocol, tcp_flags};

use super::open::{came_from, closed_record};
use super::reply::with_class;
use super::{Arrived, Kernel, Verdict, mended_class};
use crate::maps::{AddressKey, Answer, AnswerKey, EventRecord, ServiceKey, answer_kind};
use crate::{BackendWord, EventKind, Sockets, TcpSocket};

impl<R: Rules> Kernel<R> {
    pub(super) fn data(
        &mut self,
        now: Nanos,
        arrived: &Arrived<'_>,
        inner: usize,
        sockets: &impl Sockets,
    ) -> Result<Verdict, Reason> {
        if arrived.from.role != MemberRole::Ingress as u8 {
            return Err(Reason::NotAMember);
        }
        let inner = &arrived.bytes[inner..];
        let packet = match Packet::parse(inner) {
            Ok(packet) => packet,
            Err(PacketError::Fragment) => return self.fragment(arrived, inner),
            Err(error) => return Err(jlb_peers::packet_reason(error)),
        };
        if !self.services.contains_key(&ServiceKey::of(&packet.tuple)) {
            return Err(Reason::InnerNotVip);
        }
        let class = mended_class(arrived.outer.traffic_class, packet.traffic_class)?;
        self.belongs(now, arrived.from.id, &packet, sockets)?;
        Ok(Verdict::Deliver(with_class(inner, packet.traffic_class, class)))
    }

    /// Whether the packet's flow is here.
    fn belongs(
        &mut self,
        now: Nanos,
        ingress: u16,
        packet: &Packet,
        sockets: &impl Sockets,
    ) -> Result<(), Reason> {
        let opens = packet.tcp.is_some_and(jlb_wire::Tcp::is_open);
        let live = self.flows.get_mut(&packet.tuple);
        if let Some(flow) = live.filter(|f| !opens || f.incarnation == packet.incarnation().0) {
            flow.last_packet = now.0;
            came_from(flow, ingress);
            return Ok(());
        }
        let here = match packet.tuple.protocol() {
            Protocol::Udp => false,
            Protocol::Tcp => match sockets.tcp(&packet.tuple) {
                Some(TcpSocket::Open) => true,
                Some(TcpSocket::TimeWait) => !opens,
                Some(TcpSocket::Listening) | None => false,
            },
        };
        if here || !self.rules.on(Rule::NotMine) {
            return Ok(());
        }
        if opens {
            self.say_closed(now, ingress, packet);
        } else if packet.tcp.is_none_or(|tcp| tcp.flags & tcp_flags::RST == 0) {
            self.say_not_mine(ingress, packet);
        }
        Err(Reason::NoFlow)
    }

    /// An ingress holds on to a flow that is over: a new connection's SYN came as Data.
    fn say_closed(&mut self, now: Nanos, ingress: u16, packet: &Packet) {
        let (tuple, incarnation) = (packet.tuple, packet.incarnation().0);
        let answer = self.answer(now, &AnswerKey::new(&tuple, incarnation, false));
        let event = match answer.filter(|a| a.kind == answer_kind::CLOSED) {
            Some(closed) => closed_record(&tuple, incarnation, &closed),
            None => {
                let event = closed_record(&tuple, 0, &Answer::default());
                EventRecord { counter: self.not_mine(packet).unwrap_or(0), ..event }
            }
        };
        self.emit(EventRecord { peer: ingress, ..event });
    }

    /// An ingress believes that this flow is here.
    fn say_not_mine(&mut self, ingress: u16, packet: &Packet) {
        let Some(counter) = self.not_mine(packet) else { return };
        let kind = EventKind::NotMine as u8;
        let tuple = *packet.tuple.padded();
        self.emit(EventRecord { kind, peer: ingress, counter, tuple, ..EventRecord::default() });
    }

    /// The counter with which it may be said that a five-tuple has no flow here: never while one is in the map, even if
    /// its socket is gone.
    fn not_mine(&self, packet: &Packet) -> Option<u64> {
        (!self.flows.contains_key(&packet.tuple)).then(|| self.word.next_counter())
    }

    /// A fragment (of an IPv4 datagram that was too big for the underlay, or one that came so): the stack puts it
    /// together, and knows the flow only then.
    fn fragment(&self, arrived: &Arrived<'_>, inner: &[u8]) -> Result<Verdict, Reason> {
        let ip = IpHeader::parse(inner).map_err(jlb_peers::packet_reason)?;
        if !self.vips.contains_key(&AddressKey::new(ip.dst)) {
            return Err(Reason::InnerNotVip);
        }
        let class = mended_class(arrived.outer.traffic_class, ip.traffic_class)?;
        Ok(Verdict::Deliver(with_class(inner, ip.traffic_class, class)))
    }
}
