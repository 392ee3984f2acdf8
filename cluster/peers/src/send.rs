use jlb_flow::FlowId;
use jlb_map::Snapshot;
use jlb_role::{Io, PacketBuf, Reason, UnderlayDst};
use jlb_wire::{
    CONTROL_OPTION_LEN, Control, Encapsulation, FiveTuple, Flags, Incarnation, Kind, Load,
    MAX_FLOW_HEADERS, MemberId, OVERHEAD_V6, Payload, RejectReason, Seal, Tried, entropy_port,
    flow_headers,
};

use crate::{Carried, Envelope, Peers};

/// Bytes of the longest outer header: IPv6 and the control option.
pub const OUTER_ROOM: usize = OVERHEAD_V6 + CONTROL_OPTION_LEN;

/// A new buffer that holds `packet` and has [`OUTER_ROOM`] in front of it. `None` when the pool is empty or the packet
/// too long for a buffer.
pub fn buffer_with<B: PacketBuf>(io: &mut impl Io<B>, packet: &[u8]) -> Option<B> {
    let mut buf = buffer_for(io, packet.len())?;
    buf.bytes_mut().copy_from_slice(packet);
    Some(buf)
}

/// The same with `len` bytes that are still to be written.
pub(crate) fn buffer_for<B: PacketBuf>(io: &mut impl Io<B>, len: usize) -> Option<B> {
    let mut buf = io.alloc()?;
    buf.append(OUTER_ROOM + len).ok()?;
    buf.trim_front(OUTER_ROOM).ok()?;
    Some(buf)
}

impl Peers {
    /// A control message of ours with everything that does not depend on the flow; [`Self::send_control`] fills in
    /// receiver, boot id and sequence number.
    #[must_use]
    pub fn control(&self, kind: Kind, incarnation: Incarnation) -> Control {
        Control {
            kind,
            version: self.snapshot().protocol(),
            hop_budget: jlb_wire::HOP_BUDGET,
            reject_ttl: 0,
            epoch: self.snapshot().epoch(),
            incarnation,
            cookie: 0,
            ingress: None,
            head: None,
            second: None,
            backend: None,
            sender: self.me(),
            receiver: self.me(),
            flags: Flags::default(),
            reason: RejectReason::None,
            load: Load::default(),
            tried: Tried::default(),
            boot: self.own_boot(),
            sequence: 0,
            word_a: 0,
            word_b: 0,
        }
    }

    /// Sends a control message about the inner packet that `buf` holds (client → VIP) to a member, signed by us.
    /// What cannot be sent is dropped and counted.
    pub fn send_control<B: PacketBuf>(
        &mut self,
        buf: B,
        to: MemberId,
        control: Control,
        flow: (&FiveTuple, &FlowId),
        io: &mut impl Io<B>,
    ) {
        self.send_control_by(buf, (to, to), control, flow, io);
    }

    /// As [`Self::send_control`], for `receiver`, along a chain that begins with `via`: the backend's word.
    pub fn send_control_by<B: PacketBuf>(
        &mut self,
        mut buf: B,
        (via, receiver): (MemberId, MemberId),
        mut control: Control,
        flow: (&FiveTuple, &FlowId),
        io: &mut impl Io<B>,
    ) {
        control.sender = self.me();
        control.receiver = receiver;
        control.version = self.snapshot().protocol();
        control.epoch = self.snapshot().epoch();
        control.boot = self.own_boot();
        control.sequence = self.next_sequence();
        let option = control.emit_unsigned();
        let payload = Payload::Control { option: &option, v6: flow.0.is_v6() };
        let inner_len = buf.len();
        match wrap(&mut buf, self.snapshot(), (self.me(), via), payload, flow.1.bucket_hash(), 0) {
            Ok(()) => {
                self.messages.sent(control.kind);
                // The option is the last of the header.
                let option = buf.len() - inner_len - Control::LEN;
                let key = self.snapshot().keys().mac_keys.current;
                io.send_sealed(buf, UnderlayDst::Member(via), &Seal::new(key, *flow.0, option));
            }
            Err(why) => io.drop(buf, why),
        }
    }

    /// Sends a control message that carries only the flow's headers. `false` when the mempool is empty: the sender of
    /// such a message repeats it, or the question that it answers is repeated.
    pub fn send_headers<B: PacketBuf>(
        &mut self,
        to: MemberId,
        control: Control,
        flow: (&FiveTuple, &FlowId),
        io: &mut impl Io<B>,
    ) -> bool {
        let mut headers = [0; MAX_FLOW_HEADERS];
        let len = flow_headers(flow.0, control.incarnation, &mut headers);
        let Some(buf) = buffer_with(io, &headers[..len]) else { return false };
        self.send_control(buf, to, control, flow, io);
        true
    }

    /// Sends a received control message on as it is: its signer's MAC and all else stay, one hop less.
    pub fn forward<B: PacketBuf>(
        &mut self,
        mut buf: B,
        envelope: &Envelope,
        to: MemberId,
        flow: &FlowId,
        io: &mut impl Io<B>,
    ) {
        match self.forwarded(&mut buf, envelope, to, flow) {
            Ok(()) => io.send(buf, UnderlayDst::Member(to)),
            Err(why) => io.drop(buf, why),
        }
    }

    fn forwarded<B: PacketBuf>(
        &mut self,
        buf: &mut B,
        envelope: &Envelope,
        to: MemberId,
        flow: &FlowId,
    ) -> Result<(), Reason> {
        let Carried::Control { option, packet, .. } = &envelope.carried else {
            return Err(Reason::WrongKind);
        };
        let option: &[u8; Control::LEN] = buf
            .bytes()
            .get(*option..)
            .and_then(|rest| rest.first_chunk())
            .ok_or(Reason::Truncated)?;
        let kind = Kind::from_wire(option[0]).ok_or(Reason::WrongKind)?;
        let option = Control::forwarded(option).ok_or(Reason::HopBudget)?;
        let payload = Payload::Control { option: &option, v6: packet.tuple.is_v6() };
        envelope.strip(buf)?;
        wrap(buf, self.snapshot(), (self.me(), to), payload, flow.bucket_hash(), 0)?;
        self.messages.sent(kind);
        Ok(())
    }

    /// Encapsulates the packet that `buf` holds for a member, without option: `Data` or `Egress`. DSCP and ECN are
    /// copied outside (RFC 6040, normal mode). Whether it fits the MTU is the caller's business.
    ///
    /// # Errors
    /// Under which reason to drop the packet, which is unchanged.
    pub fn encapsulate<B: PacketBuf>(
        &self,
        buf: &mut B,
        to: MemberId,
        packet: &jlb_wire::Packet,
        flow: &FlowId,
    ) -> Result<(), Reason> {
        let payload = Payload::Plain { v6: packet.tuple.is_v6() };
        let ends = (self.me(), to);
        wrap(buf, self.snapshot(), ends, payload, flow.bucket_hash(), packet.traffic_class)
    }
}

/// Puts the outer header in front of what `buf` holds.
pub(crate) fn wrap<B: PacketBuf>(
    buf: &mut B,
    snapshot: &Snapshot,
    (from, to): (MemberId, MemberId),
    payload: Payload<'_>,
    entropy: u64,
    traffic_class: u8,
) -> Result<(), Reason> {
    let (src, dst) = snapshot.underlay_pair(from, to).ok_or(Reason::NotAMember)?;
    let (source_port, port) = (entropy_port(entropy), snapshot.geneve_port());
    let outer = Encapsulation { src, dst, source_port, port, traffic_class };
    let inner_len = buf.len();
    let header_len = outer.header_len(payload);
    let header = buf.prepend(header_len).map_err(|_| Reason::Oversized)?;
    if outer.emit(payload, inner_len, header).is_err() {
        // Give the packet back as it was; as much was just prepended.
        return match buf.trim_front(header_len) {
            Ok(()) | Err(jlb_role::NoRoom) => Err(Reason::Oversized),
        };
    }
    Ok(())
}
