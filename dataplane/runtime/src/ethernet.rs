use jlb_neighbours::MacAddr;
use jlb_role::{NoRoom, PacketBuf, Reason};

pub(crate) const HEADER: usize = 14;
/// A tag in front of the EtherType (IEEE 802.1Q): these two bytes, then two of priority and VLAN.
const TAG: usize = 4;
const VLAN: [u8; 2] = [0x81, 0x00];
const SERVICE_VLAN: [u8; 2] = [0x88, 0xa8];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// A frame that is nobody's loss: traffic of the kernel, which shares the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ignored {
    /// Sent from our own Ethernet address: `net_af_packet` also shows what the kernel sends.
    OwnSource,
    /// To another Ethernet address, or to many.
    OtherDestination,
    /// Of a VLAN, which is another link than ours.
    Tagged,
    /// Neither IPv4 nor IPv6: ARP, for instance.
    NotIp,
}

impl Ignored {
    pub(crate) const ALL: [Self; 4] =
        [Self::OwnSource, Self::OtherDestination, Self::Tagged, Self::NotIp];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::OwnSource => "own_source",
            Self::OtherDestination => "other_destination",
            Self::Tagged => "tagged",
            Self::NotIp => "not_ip",
        }
    }
}

/// Why a frame does not reach the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    Ignored(Ignored),
    Dropped(Reason),
}

/// Whether a frame has this source.
pub(crate) fn is_from(frame: &[u8], source: MacAddr) -> bool {
    frame.get(6..12) == Some(&source.0)
}

/// Bytes of a frame like this that carries a packet of `mtu` bytes: a tag has room of its own.
pub(crate) fn longest(frame: &[u8], mtu: usize) -> usize {
    let is_tagged = frame.get(12..14).is_some_and(|t| t == VLAN || t == SERVICE_VLAN);
    HEADER + mtu + if is_tagged { TAG } else { 0 }
}

/// Whether what the role has no use for is the kernel's: frames to us or to many.
pub(crate) fn is_for_kernel(frame: &[u8], why: Ignored) -> bool {
    match why {
        Ignored::OwnSource => false,
        // The lowest bit of the first byte: to a group (IEEE 802.3).
        Ignored::OtherDestination => frame.first().is_some_and(|byte| byte & 1 == 1),
        Ignored::Tagged | Ignored::NotIp => true,
    }
}

/// Makes an IP packet of a frame: takes the Ethernet header and any padding away. A packet longer than `mtu` was
/// merged on its way (GRO) and could not be sent on.
pub(crate) fn strip<B: PacketBuf>(frame: &mut B, us: MacAddr, mtu: usize) -> Result<(), Skip> {
    let bytes = frame.bytes();
    let Some((header, packet)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(Skip::Dropped(Reason::Truncated));
    };
    // Before the destination: with both ends of a test on one host they may be the same.
    if header[6..12] == us.0 {
        return Err(Skip::Ignored(Ignored::OwnSource));
    }
    if header[..6] != us.0 {
        return Err(Skip::Ignored(Ignored::OtherDestination));
    }
    let mut ether_type = [header[12], header[13]];
    let (mut header_len, mut packet) = (HEADER, packet);
    // VLAN 0 is no VLAN: such a tag only gives a priority, and some switches put it on everything.
    if let (VLAN, [priority, 0, t0, t1, rest @ ..]) = (ether_type, packet)
        && priority & 0x0f == 0
    {
        (ether_type, packet, header_len) = ([*t0, *t1], rest, HEADER + TAG);
    }
    let len = match (ether_type, packet) {
        // RFC 791: total length in bytes 2 and 3, at least 20.
        (IPV4, [0x40..=0x4f, _, l0, l1, rest @ ..]) if rest.len() >= 16 => {
            Some(usize::from(u16::from_be_bytes([*l0, *l1]))).filter(|&len| len >= 20)
        }
        // RFC 8200: payload length in bytes 4 and 5.
        (IPV6, [0x60..=0x6f, _, _, _, l0, l1, rest @ ..]) if rest.len() >= 34 => {
            Some(usize::from(u16::from_be_bytes([*l0, *l1])) + 40)
        }
        (IPV4, p) if p.len() < 20 => return Err(Skip::Dropped(Reason::Truncated)),
        (IPV6, p) if p.len() < 40 => return Err(Skip::Dropped(Reason::Truncated)),
        (IPV4 | IPV6, _) => None,
        (VLAN | SERVICE_VLAN, _) => return Err(Skip::Ignored(Ignored::Tagged)),
        _ => return Err(Skip::Ignored(Ignored::NotIp)),
    };
    let len = len.ok_or(Skip::Dropped(Reason::Malformed))?;
    if len > mtu {
        return Err(Skip::Dropped(Reason::Oversized));
    }
    if len > packet.len() {
        return Err(Skip::Dropped(Reason::Truncated));
    }
    // It is longer than its header: checked above.
    frame.trim_front(header_len).map_err(|NoRoom| Skip::Dropped(Reason::Truncated))?;
    frame.truncate(len);
    Ok(())
}

/// Makes a frame of an IP packet.
pub(crate) fn prepend<B: PacketBuf>(
    packet: &mut B,
    from: MacAddr,
    to: MacAddr,
) -> Result<(), Reason> {
    let ether_type = match packet.bytes().first() {
        Some(0x40..=0x4f) => IPV4,
        Some(0x60..=0x6f) => IPV6,
        _ => return Err(Reason::Malformed),
    };
    let header = packet.prepend(HEADER).map_err(|NoRoom| Reason::Oversized)?;
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..].copy_from_slice(&ether_type);
    Ok(())
}

#[cfg(test)]
mod tests {
    use jlb_role::FakeBuf;

    use super::*;

    const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn frame(to: MacAddr, from: MacAddr, ether_type: [u8; 2], packet: &[u8]) -> FakeBuf {
        FakeBuf::holding(&[&to.0, &from.0, &ether_type[..], packet].concat())
    }

    fn v4(len: u16, room: usize) -> Vec<u8> {
        let mut p = vec![0; room];
        p[0] = 0x45;
        p[2..4].copy_from_slice(&len.to_be_bytes());
        p
    }

    fn v6(payload: u16, room: usize) -> Vec<u8> {
        let mut p = vec![0; room];
        p[0] = 0x60;
        p[4..6].copy_from_slice(&payload.to_be_bytes());
        p
    }

    fn stripped(ether_type: [u8; 2], packet: &[u8]) -> Result<Vec<u8>, Skip> {
        let mut b = frame(US, PEER, ether_type, packet);
        strip(&mut b, US, 1500).map(|()| b.bytes().to_vec())
    }

    #[test]
    fn what_is_prepended_is_stripped_again() {
        for packet in [v4(20, 20), v4(1500, 1500), v6(0, 40), v6(1460, 1500)] {
            let mut b = FakeBuf::holding(&packet);
            prepend(&mut b, PEER, US).unwrap();
            assert_eq!(strip(&mut b, US, 1500), Ok(()));
            assert_eq!(b.bytes(), packet);
        }
    }

    #[test]
    fn padding_goes() {
        assert_eq!(stripped(IPV4, &v4(20, 46)).unwrap(), v4(20, 20));
        assert_eq!(stripped(IPV6, &v6(2, 46)).unwrap(), v6(2, 42));
    }

    #[test]
    fn a_tag_that_only_gives_a_priority_goes_too() {
        let tagged = |inner: [u8; 2], p: &[u8]| [&[0xe0, 0x00], &inner[..], p].concat();
        let p = v6(2, 42);
        assert_eq!(stripped(VLAN, &tagged(IPV6, &[&p[..], &[0; 4]].concat())).unwrap(), p);
        let twice = tagged(VLAN, &tagged(IPV4, &v4(20, 20)));
        assert_eq!(stripped(VLAN, &twice), Err(Skip::Ignored(Ignored::Tagged)));
        let short = tagged(IPV4, &v4(20, 19));
        assert_eq!(stripped(VLAN, &short), Err(Skip::Dropped(Reason::Truncated)));
    }

    #[test]
    fn lengths_that_lie_are_dropped_with_a_reason() {
        let dropped = |r| Err::<Vec<u8>, _>(Skip::Dropped(r));
        assert_eq!(stripped(IPV4, &v4(101, 100)), dropped(Reason::Truncated));
        assert_eq!(stripped(IPV6, &v6(61, 100)), dropped(Reason::Truncated));
        assert_eq!(stripped(IPV4, &v4(1501, 1600)), dropped(Reason::Oversized));
        assert_eq!(stripped(IPV6, &v6(1461, 1600)), dropped(Reason::Oversized));
        assert_eq!(stripped(IPV4, &v4(19, 100)), dropped(Reason::Malformed));
        assert_eq!(stripped(IPV4, &v6(60, 100)), dropped(Reason::Malformed));
        assert_eq!(stripped(IPV6, &v4(100, 100)), dropped(Reason::Malformed));
        assert_eq!(stripped(IPV4, &v4(20, 19)), dropped(Reason::Truncated));
        assert_eq!(stripped(IPV6, &v6(0, 39)), dropped(Reason::Truncated));
        assert_eq!(stripped(IPV4, &[]), dropped(Reason::Truncated));
        let mut short = FakeBuf::holding(&[0; 13]);
        assert_eq!(strip(&mut short, US, 1500), Err(Skip::Dropped(Reason::Truncated)));
    }

    #[test]
    fn the_kernels_traffic_is_ignored() {
        let skip = |mut b: FakeBuf| strip(&mut b, US, 1500);
        let ignored = |i| Err::<(), _>(Skip::Ignored(i));
        let p = v4(20, 20);
        assert_eq!(skip(frame(PEER, US, IPV4, &p)), ignored(Ignored::OwnSource));
        assert_eq!(skip(frame(US, US, IPV4, &p)), ignored(Ignored::OwnSource));
        assert_eq!(
            skip(frame(MacAddr([0xff; 6]), PEER, IPV4, &p)),
            ignored(Ignored::OtherDestination)
        );
        assert_eq!(skip(frame(US, PEER, [0x08, 0x06], &p)), ignored(Ignored::NotIp));
        for tagged in [[0x81, 0x00, 0x00, 0x05], [0x81, 0x00, 0xe1, 0x00], [0x88, 0xa8, 0, 0]] {
            let p = [&tagged[2..], &IPV4[..], &p].concat();
            let tagged = [tagged[0], tagged[1]];
            assert_eq!(skip(frame(US, PEER, tagged, &p)), ignored(Ignored::Tagged));
        }
        assert_eq!(skip(frame(US, PEER, [0x81, 0x00], &[0])), ignored(Ignored::Tagged));
    }

    #[test]
    fn the_kernel_gets_what_is_for_it_or_for_many() {
        let p = v4(20, 20);
        let kernels = |to, from, ether_type, why| {
            let b = frame(to, from, ether_type, &p);
            is_for_kernel(b.bytes(), why)
        };
        let (broadcast, group) = (MacAddr([0xff; 6]), MacAddr([0x33, 0x33, 0xff, 0, 0, 1]));
        for many in [broadcast, group] {
            assert!(kernels(many, PEER, [0x08, 0x06], Ignored::OtherDestination));
        }
        assert!(!kernels(PEER, PEER, IPV4, Ignored::OtherDestination));
        assert!(kernels(US, PEER, [0x08, 0x06], Ignored::NotIp));
        assert!(!kernels(US, US, IPV4, Ignored::OwnSource));
        assert!(is_from(frame(PEER, US, IPV4, &p).bytes(), US));
        assert!(!is_from(frame(US, PEER, IPV4, &p).bytes(), US) && !is_from(&[0; 11], US));
    }

    #[test]
    fn a_tag_makes_a_frame_longer() {
        let packet = [0; 64];
        let longest = |ether_type| longest(frame(PEER, US, ether_type, &packet).bytes(), 1500);
        assert_eq!([IPV4, VLAN, SERVICE_VLAN].map(longest), [1514, 1518, 1518]);
    }

    #[test]
    fn what_is_no_ip_packet_is_not_sent() {
        for wrong in [&[][..], &[0x50], &[0x00, 0x45]] {
            assert_eq!(prepend(&mut FakeBuf::holding(wrong), US, PEER), Err(Reason::Malformed));
        }
    }
}
