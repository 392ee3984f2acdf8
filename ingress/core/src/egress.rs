use jlb_peers::packet_reason;
use jlb_role::{Io, PacketBuf, Reason, UnderlayDst};
use jlb_wire::{IpHeader, Outer, decapsulated_traffic_class};

use crate::view::View;

/// Takes an `Egress` packet, whose inner IP header begins at `inner`, out of its capsule and sends it to the client.
/// Gives it back with a reason when it is no such packet.
///
/// Whatever a backend's kernel sends from a VIP is passed on: fragments and ICMP too.
pub(crate) fn pass<B: PacketBuf>(
    mut b: B,
    outer: &Outer,
    inner: usize,
    view: &View,
    io: &mut impl Io<B>,
) -> Result<(), (B, Reason)> {
    if !view.directory.is_backend(outer.src) {
        return Err((b, Reason::NotAMember));
    }
    let header = match IpHeader::parse(&b.bytes()[inner..outer.len]) {
        Ok(header) => header,
        Err(error) => return Err((b, packet_reason(error))),
    };
    if !view.directory.is_vip(header.src) {
        return Err((b, Reason::InnerNotVip));
    }
    if !view.is_client(header.dst) {
        return Err((b, Reason::InnerToUnderlay));
    }
    let traffic_class = decapsulated_traffic_class(outer.traffic_class, header.traffic_class);
    let Some(traffic_class) = traffic_class else { return Err((b, Reason::Congestion)) };
    if b.trim_front(inner).is_err() {
        return Err((b, Reason::Truncated));
    }
    b.truncate(header.len);
    if traffic_class != header.traffic_class {
        IpHeader::set_traffic_class(b.bytes_mut(), traffic_class);
    }
    io.send(b, UnderlayDst::Ip(header.dst));
    Ok(())
}
