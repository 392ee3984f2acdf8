use arrayvec::ArrayVec;
use jlb_map::{MemberRole, Snapshot};
use jlb_role::{Nanos, PacketBuf, Reason};
use jlb_wire::{Content, Control, Flags, Kind, Outer, Packet, Signed, TOGETHER};

use crate::{Peers, control_reason, geneve_reason, packet_reason};
use jlb_wire::MemberId;

/// A packet from another member, parsed but not yet believed: only its outer source address was looked at.
///
/// ```text
/// rx → Envelope::open → (owner is another worker: Io::hand_over) → Envelope::control | Peers::receive_body → use
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// Who sent this packet, by its outer source address: for a forwarded message not who signed it.
    pub from: MemberId,
    /// What that member does.
    pub from_role: MemberRole,
    /// The outer header.
    pub outer: Outer,
    /// What is inside.
    pub carried: Carried,
}

/// The content of an [`Envelope`]. Offsets are into the received packet.
#[derive(Clone, Copy, Debug)]
pub enum Carried {
    /// `Data` or `Egress`: not authenticated at all.
    Plain {
        /// Where the inner IP header begins.
        inner: usize,
        /// The inner packet, with offsets from there.
        packet: Packet,
    },
    /// A control message, not yet authenticated.
    Control {
        /// Where the option's body begins.
        option: usize,
        /// Where the inner IP header begins.
        inner: usize,
        /// The inner packet, with offsets from there; its tuple is the flow's, client → VIP.
        packet: Packet,
    },
    /// A body, not yet authenticated: for [`Peers::receive_body`].
    Body {
        /// Where it begins.
        body: usize,
    },
}

impl Envelope {
    /// Parses a received packet whose outer destination should be member `me`.
    ///
    /// # Errors
    /// Under which reason to drop it.
    pub fn open(bytes: &[u8], me: MemberId, snapshot: &Snapshot) -> Result<Self, Reason> {
        let outer = Outer::parse(bytes, snapshot.geneve_port()).map_err(geneve_reason)?;
        Self::within(outer, bytes, me, snapshot)
    }

    /// As [`Self::open`], of a packet whose outer header was parsed.
    ///
    /// # Errors
    /// As there.
    pub fn within(
        outer: Outer,
        bytes: &[u8],
        me: MemberId,
        snapshot: &Snapshot,
    ) -> Result<Self, Reason> {
        let ours = snapshot.member(me).ok_or(Reason::NotReady)?;
        if !ours.addresses.iter().any(|a| a == outer.dst) {
            return Err(Reason::NotForUs);
        }
        let from = snapshot.member_by_address(outer.src).ok_or(Reason::NotAMember)?;
        let inner_packet =
            |inner: usize| Packet::parse(&bytes[inner..outer.len]).map_err(packet_reason);
        let carried = match outer.content {
            Content::Plain { inner } => Carried::Plain { inner, packet: inner_packet(inner)? },
            Content::Control { option, inner } => {
                Carried::Control { option, inner, packet: inner_packet(inner)? }
            }
            Content::Body { body } => Carried::Body { body },
        };
        Ok(Self { from: from.id, from_role: from.role, outer, carried })
    }

    /// Whether a control message may be believed: its MAC, that its signer may say such a thing and is who sent the
    /// packet (or a tracker forwards it), its receiver, boot id and sequence number. Its epoch is the role's to judge: it
    /// matters for votes only. To be called by the worker that owns the flow, once per packet: the sequence number counts as
    /// seen afterwards, the signer as heard.
    ///
    /// # Errors
    /// Under which reason to drop it: [`Reason::WrongKind`] when it is no control message.
    pub fn control(&self, now: Nanos, bytes: &[u8], peers: &mut Peers) -> Result<Control, Reason> {
        let [fits, ..] = Self::verify(&[(self, bytes)], peers.snapshot());
        self.control_verified(now, bytes, peers, fits)
    }

    /// Which of up to [`TOGETHER`] control messages, each in its packet, have the MAC that belongs to them: for
    /// [`Self::control_verified`].
    #[must_use]
    pub fn verify(messages: &[(&Self, &[u8])], snapshot: &Snapshot) -> [bool; TOGETHER] {
        let mut signed = ArrayVec::<Signed, TOGETHER>::new();
        let mut macs = ArrayVec::<u64, TOGETHER>::new();
        let mut places = ArrayVec::<usize, TOGETHER>::new();
        for (place, (envelope, bytes)) in messages.iter().take(TOGETHER).enumerate() {
            let Carried::Control { option, packet, .. } = &envelope.carried else { continue };
            let option = bytes.get(*option..).unwrap_or_default();
            if let (Some(s), Some(mac)) =
                (Signed::of(option, &packet.tuple), Control::mac_of(option))
            {
                signed.push(s);
                macs.push(mac);
                places.push(place);
            }
        }
        let fit = snapshot.keys().mac_keys.fit(&signed, &macs);
        let mut all = [false; TOGETHER];
        places.into_iter().zip(fit).for_each(|(place, fits)| all[place] = fits);
        all
    }

    /// As [`Self::control`], for a message of which is known whether its MAC fits.
    ///
    /// # Errors
    /// As [`Self::control`].
    pub fn control_verified(
        &self,
        now: Nanos,
        bytes: &[u8],
        peers: &mut Peers,
        fits: bool,
    ) -> Result<Control, Reason> {
        let Carried::Control { option, .. } = &self.carried else {
            return Err(Reason::WrongKind);
        };
        let option = bytes.get(*option..).ok_or(Reason::Truncated)?;
        let snapshot = peers.snapshot();
        let control = Control::parse_verified(option, fits).map_err(control_reason)?;
        let signer = snapshot.member(control.sender).ok_or(Reason::NotAMember)?.role;
        let forwarded = is_forwarded(signer, &control);
        if !may_say(signer, &control) || !self.may_bring(&control, forwarded) {
            return Err(Reason::NotAMember);
        }
        // The backend's word goes along the chain to its receiver with the backend's MAC; what an ingress asks goes from a
        // tracker that does not own the partition to one that does.
        let for_others = peers.role() == MemberRole::FlowTracker && forwarded;
        if control.receiver != peers.me() && !for_others {
            return Err(Reason::NotAddressee);
        }
        peers.accept(now, control.sender, control.boot, control.sequence)?;
        peers.messages.received(control.kind);
        Ok(control)
    }

    /// Leaves the inner packet in the buffer, without what stood around it and without padding.
    ///
    /// # Errors
    /// [`Reason::Truncated`], with the packet changed, for a body or for another packet's envelope.
    pub fn strip<B: PacketBuf>(&self, buf: &mut B) -> Result<(), Reason> {
        match &self.carried {
            Carried::Plain { inner, packet } | Carried::Control { inner, packet, .. } => {
                buf.trim_front(*inner).map_err(|_| Reason::Truncated)?;
                buf.truncate(packet.len);
                Ok(())
            }
            Carried::Body { .. } => Err(Reason::Truncated),
        }
    }

    fn may_bring(&self, control: &Control, forwarded: bool) -> bool {
        self.from == control.sender || (self.from_role == MemberRole::FlowTracker && forwarded)
    }
}

/// Accept, and Reject by a backend, pass through the trackers of the chain; Open and Query of an ingress through a tracker
/// that knows of a newer trio.
const fn is_forwarded(signer: MemberRole, control: &Control) -> bool {
    match control.kind {
        Kind::Accept | Kind::Query => true,
        Kind::Reject => !control.flags.has(Flags::FINAL),
        Kind::Open => matches!(signer, MemberRole::Ingress),
        Kind::Cancel | Kind::State | Kind::NotMine | Kind::Close => false,
    }
}

/// Whether a member of that role may sign such a message.
const fn may_say(signer: MemberRole, control: &Control) -> bool {
    let (flags, kind) = (control.flags, control.kind);
    match signer {
        MemberRole::Ingress => {
            matches!(kind, Kind::Open | Kind::Query)
                || (matches!(kind, Kind::Close) && flags.has(Flags::ACK))
        }
        MemberRole::FlowTracker => {
            matches!(kind, Kind::Open | Kind::Cancel | Kind::State)
                || (matches!(kind, Kind::Reject) && flags.has(Flags::FINAL))
                || (matches!(kind, Kind::Close) && flags.has(Flags::ACK))
        }
        MemberRole::Backend => {
            matches!(kind, Kind::Accept | Kind::NotMine)
                || (matches!(kind, Kind::Reject) && !flags.has(Flags::FINAL))
                || (matches!(kind, Kind::Close) && !flags.has(Flags::ACK))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jlb_flow::{FlowHasher, FlowId};
    use jlb_role::{FakeBuf, Nanos};
    use jlb_wire::{BootId, FiveTuple, Incarnation, Protocol};

    use super::*;
    use crate::fixture::*;

    const NOW: Nanos = Nanos::from_millis(1);

    fn flow() -> (FiveTuple, FlowId) {
        let (client, vip) =
            ("198.51.100.9:4111".parse().unwrap(), "203.0.113.10:80".parse().unwrap());
        let tuple = FiveTuple::new(client, vip, Protocol::Tcp).unwrap();
        (tuple, FlowHasher::new(snapshot().keys().hash_key).id(&tuple))
    }

    /// All four know each other's boot ids.
    fn acquainted() -> Net {
        let mut net = Net::new(vec![
            Host::new(INGRESS, 0, 100),
            Host::new(TRACKER, 0, 200),
            Host::new(TRACKER_2, 0, 300),
            Host::new(BACKEND, 0, 400),
        ]);
        net.run(1200);
        assert!(net.hosts[2].peers.alive(BACKEND) && net.hosts[0].peers.alive(BACKEND));
        net
    }

    fn sent(
        host: &mut Host,
        to: MemberId,
        change: impl FnOnce(&mut Control),
        kind: Kind,
    ) -> FakeBuf {
        let (tuple, flow) = flow();
        let mut control = host.peers.control(kind, Incarnation(7));
        change(&mut control);
        assert!(host.peers.send_headers(to, control, (&tuple, &flow), &mut host.io));
        host.io.sent.pop_back().unwrap().0
    }

    fn read(host: &mut Host, buf: &FakeBuf) -> Result<Control, Reason> {
        let snapshot = Arc::clone(host.peers.snapshot());
        let envelope = Envelope::open(buf.bytes(), host.peers.me(), &snapshot)?;
        envelope.control(NOW, buf.bytes(), &mut host.peers)
    }

    #[test]
    fn a_message_arrives_as_it_was_sent_and_once() {
        let mut net = acquainted();
        let buf = sent(net.host(0), TRACKER, |c| c.cookie = 5, Kind::Open);
        let got = read(net.host(1), &buf).unwrap();
        assert_eq!((got.sender, got.receiver, got.cookie), (INGRESS, TRACKER, 5));
        assert_eq!((got.boot, got.incarnation), (BootId(100), Incarnation(7)));
        assert_eq!(read(net.host(1), &buf), Err(Reason::Replayed));
        let envelope = Envelope::open(buf.bytes(), TRACKER, &snapshot()).unwrap();
        let mut inner = buf;
        envelope.strip(&mut inner).unwrap();
        assert_eq!(Packet::parse(inner.bytes()).unwrap().tuple, flow().0);
    }

    #[test]
    fn the_backends_word_keeps_its_mac_along_the_chain() {
        let mut net = acquainted();
        let (_, flow) = flow();
        let second = |n: &mut Net, buf: FakeBuf, from: usize, to: MemberId| {
            let host = n.host(from);
            let envelope = Envelope::open(buf.bytes(), host.peers.me(), &snapshot()).unwrap();
            envelope.control(NOW, buf.bytes(), &mut host.peers).unwrap();
            host.peers.forward(buf, &envelope, to, &flow, &mut host.io);
            host.io.sent.pop_back().unwrap().0
        };
        // Signed for the ingress, sent to the second: what the agent's core does by hand.
        let mut accept = sent(net.host(3), INGRESS, |_| {}, Kind::Accept);
        let redirect = |buf: &mut FakeBuf, to: u8| {
            let b = buf.bytes_mut();
            b[19] = to;
            b[10..12].fill(0);
            let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&b[..20]));
            b[10..12].copy_from_slice(&sum.to_be_bytes());
        };
        redirect(&mut accept, 12);
        let at_head = second(&mut net, accept, 2, TRACKER);
        let at_ingress = second(&mut net, at_head, 1, INGRESS);
        let got = read(net.host(0), &at_ingress).unwrap();
        assert_eq!((got.sender, got.hop_budget), (BACKEND, jlb_wire::HOP_BUDGET - 2));
    }

    #[test]
    fn only_who_may_say_it_is_believed() {
        let mut net = acquainted();
        let cases: [(usize, Kind, Flags, bool); 8] = [
            (0, Kind::Open, Flags::default(), true),
            (0, Kind::Accept, Flags::default(), false),
            (0, Kind::Cancel, Flags::default(), false),
            (3, Kind::Close, Flags::default(), true),
            (3, Kind::Close, Flags::ACK, false),
            (3, Kind::Reject, Flags::FINAL, false),
            (2, Kind::State, Flags::default(), true),
            (2, Kind::Accept, Flags::default(), false),
        ];
        for (from, kind, flags, believed) in cases {
            let buf = sent(net.host(from), TRACKER, |c| c.flags = flags, kind);
            let got = read(net.host(1), &buf).map(|c| c.kind);
            assert_eq!(got, if believed { Ok(kind) } else { Err(Reason::NotAMember) }, "{kind:?}");
        }
    }

    #[test]
    fn another_receiver_or_another_boot_is_refused() {
        let mut net = acquainted();
        let state = |net: &mut Net, to| sent(net.host(1), to, |_| {}, Kind::State);
        let mut for_other = state(&mut net, id(2));
        for_other.bytes_mut()[19] = 1;
        for_other.bytes_mut()[10..12].fill(0);
        let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&for_other.bytes()[..20]));
        for_other.bytes_mut()[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(read(net.host(0), &for_other), Err(Reason::NotAddressee));

        let mut net = acquainted();
        let mut reborn = Host::new(TRACKER, 0, 999);
        let buf = sent(&mut reborn, INGRESS, |_| {}, Kind::State);
        assert_eq!(read(net.host(0), &buf), Err(Reason::UnknownBoot));
    }

    #[test]
    fn a_used_up_hop_budget_ends_the_way() {
        let mut net = acquainted();
        let buf = sent(net.host(3), TRACKER, |c| c.hop_budget = 0, Kind::Reject);
        let host = net.host(1);
        let envelope = Envelope::open(buf.bytes(), TRACKER, &snapshot()).unwrap();
        host.drops();
        host.peers.forward(buf, &envelope, INGRESS, &flow().1, &mut host.io);
        assert_eq!(host.drops(), [Reason::HopBudget]);
    }
}
