//! Open: a new flow's question to the trackers.

use arrayvec::ArrayVec;
use jlb_flow::{Cookie, FlowId};
use jlb_peers::{OUTER_ROOM, buffer_with};
use jlb_role::{Io, Nanos, PacketBuf, Reason, Rule, Rules};
use jlb_wire::{
    FiveTuple, Flags, Incarnation, Kind, OpenCut, Packet, mend, transport_checksum_fits,
};

use crate::Ingress;
use crate::metrics::Opened;
use crate::pending::{Pending, Question};

/// A pending entry is freed so long after its first Open (rule 8).
pub const OPEN_TIMEOUT: Nanos = Nanos::from_secs(1);

/// When Opens go out, counted from the first, and to which of the trackers (rule 8).
const OPEN_AT: [(Nanos, usize); 4] = [
    (Nanos::ZERO, 0),
    (Nanos::from_millis(25), 0),
    (Nanos::from_millis(75), 1),
    (Nanos::from_millis(125), 2),
];

/// A new flow that waits.
#[derive(Debug)]
pub(crate) struct Opening<B> {
    /// The ISN; 0 for UDP.
    pub(crate) incarnation: Incarnation,
    /// The packet inside Open, whole.
    pub(crate) first: B,
    reject_ttl: u8,
}

/// When the next Open goes out, or the entry goes.
fn due<B>(pending: &Pending<B>, one_retransmitter: bool) -> Nanos {
    let after = match OPEN_AT.get(pending.sent) {
        Some(&(after, _)) if one_retransmitter => after,
        None if one_retransmitter => OPEN_TIMEOUT,
        Some(_) | None => Nanos(pending.sent as u64 * OPEN_AT[1].0.0).min(OPEN_TIMEOUT),
    };
    pending.since + after
}

impl<B: PacketBuf, R: Rules> Ingress<B, R> {
    /// Opens a flow with its first packet (without padding); takes the place of what the table has of that five-tuple.
    pub(crate) fn open(
        &mut self,
        now: Nanos,
        b: B,
        packet: &Packet,
        id: &FlowId,
        io: &mut impl Io<B>,
    ) {
        let service = self.view.service(&packet.tuple);
        let Some(service) = service.and_then(|s| self.view.snapshot.service_by_id(s)) else {
            return io.drop(b, Reason::NoService);
        };
        if self.view.snapshot.trio(id.partition()).is_empty() {
            return io.drop(b, Reason::NoTracker);
        }
        // Nobody behind us would answer it: a client on this machine leaves checksums to a card that is not there.
        if !transport_checksum_fits(b.bytes(), packet) {
            return io.drop(b, Reason::BadChecksum);
        }
        // Only with kilobytes of IPv6 extension headers.
        if OpenCut::of(packet).len + OUTER_ROOM > usize::from(self.view.snapshot.mtu()) {
            return io.drop(b, Reason::TooBig);
        }
        if !self.may_wait(1) {
            return io.drop(b, Reason::PendingFull);
        }
        let incarnation = packet.incarnation();
        let opening = Opening { incarnation, first: b, reject_ttl: service.reject_ttl };
        self.wait(now, (&packet.tuple, id), Question::Open(opening), ArrayVec::new(), io);
    }

    pub(crate) fn open_due(&mut self, now: Nanos, cookie: Cookie, io: &mut impl Io<B>) {
        let once = self.rules.on(Rule::OneRetransmitter);
        let Some(pending) = self.pending.get(cookie) else { return };
        if now >= pending.since + OPEN_TIMEOUT {
            let (tuple, waited) = (pending.tuple, now.since(pending.since));
            self.count_open(&tuple, Opened::Timeout, waited);
            return self.abandon(cookie, Reason::OpenTimeout, io);
        }
        self.send_open(cookie, io);
        let Some(pending) = self.pending.get_mut(cookie) else { return };
        pending.sent += 1;
        // There are as many timers as entries.
        pending.timer = self.timers.schedule(due(pending, once), cookie).ok();
    }

    /// What cannot be sent now is sent at the next turn.
    fn send_open(&mut self, cookie: Cookie, io: &mut impl Io<B>) {
        let Some(pending) = self.pending.get(cookie) else { return };
        let Question::Open(opening) = &pending.question else { return };
        let rank = match OPEN_AT.get(pending.sent) {
            Some(&(_, rank)) if self.rules.on(Rule::OneRetransmitter) => rank,
            Some(_) | None => pending.sent,
        };
        let Some(at) = rank.checked_rem(pending.trackers.len()) else { return };
        let tracker = pending.trackers[at];
        let bytes = opening.first.bytes();
        let Ok(packet) = Packet::parse(bytes) else { return };
        let OpenCut { len, cut } = OpenCut::of(&packet);
        let Some(mut b) = buffer_with(io, &bytes[..len]) else { return };
        if cut && mend(b.bytes_mut(), &packet).is_err() {
            return;
        }
        let mut open = self.peers.control(Kind::Open, opening.incarnation);
        open.reject_ttl = opening.reject_ttl;
        open.cookie = cookie.to_wire();
        open.ingress = Some(self.peers.me());
        open.flags = Flags::default().set(Flags::CUT, cut);
        let flow: (&FiveTuple, &FlowId) = (&pending.tuple, &pending.id);
        self.peers.send_control(b, tracker, open, flow, io);
    }

    /// Counts what became of an Open.
    pub(crate) fn count_open(&mut self, tuple: &FiveTuple, how: Opened, waited: Nanos) {
        self.counters.opened(self.view.service(tuple), how, waited.as_secs_f64());
    }
}
