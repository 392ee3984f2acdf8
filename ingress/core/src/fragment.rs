use arrayvec::ArrayVec;
use jlb_role::{Io, PacketBuf, Reason};
use jlb_wire::checksum;

/// Fragments of one packet at most: a 9000-byte frame onto the smallest underlay MTU.
pub(crate) const MAX_FRAGMENTS: usize = 8;
const MORE_FRAGMENTS: u8 = 0x20;

/// Cuts an IPv4 packet without DF, not a fragment itself, into fragments of at most `max` bytes (RFC 791, section
/// 3.2). Nothing is sent in part: when a buffer is missing, the whole packet is given back with the reason.
pub(crate) fn fragment<B: PacketBuf>(
    mut b: B,
    max: usize,
    io: &mut impl Io<B>,
) -> Result<ArrayVec<B, MAX_FRAGMENTS>, (B, Reason)> {
    let header_len = usize::from(b.bytes()[0] & 0x0f) * 4;
    // All but the last hold a multiple of 8 bytes: the unit of the offset.
    let step = max.saturating_sub(header_len) & !7;
    if step == 0 {
        return Err((b, Reason::TooBig));
    }
    let mut later = ArrayVec::<B, MAX_FRAGMENTS>::new();
    let (header, rest) = later_header(&b.bytes()[..header_len]);
    let mut at = header_len + step;
    while at < b.len() {
        let end = b.len().min(at + step);
        if later.len() + 1 == MAX_FRAGMENTS {
            return Err((b, Reason::TooBig));
        }
        let Some(mut piece) = io.alloc() else { return Err((b, Reason::NoBuffer)) };
        let Ok(out) = piece.append(rest + end - at) else { return Err((b, Reason::TooBig)) };
        out[..rest].copy_from_slice(&header[..rest]);
        out[rest..].copy_from_slice(&b.bytes()[at..end]);
        finish(out, at - header_len, end < b.len());
        later.push(piece);
        at = end;
    }
    b.truncate(header_len + step);
    finish(b.bytes_mut(), 0, true);
    let mut all = ArrayVec::new();
    all.push(b);
    all.extend(later);
    Ok(all)
}

/// The header of all fragments but the first: only options that say "copied" are in it.
fn later_header(header: &[u8]) -> ([u8; 60], usize) {
    let mut out = [0; 60];
    out[..20].copy_from_slice(&header[..20]);
    let (mut at, mut len) = (20, 20);
    // Option kinds 0 (end) and 1 (nothing) have no length; each other one has at least 2 bytes.
    while at < header.len() && header[at] != 0 {
        let option = match header[at] {
            1 => 1,
            _ => usize::from(header.get(at + 1).copied().unwrap_or(0)),
        };
        let Some(bytes) = header.get(at..at + option).filter(|_| option > 0) else { break };
        if header[at] & 0x80 != 0 {
            out[len..len + option].copy_from_slice(bytes);
            len += option;
        }
        at += option;
    }
    let padded = len.next_multiple_of(4);
    out[0] = 0x40 | (padded / 4) as u8;
    (out, padded)
}

/// Mends length, offset, flags and checksum.
fn finish(packet: &mut [u8], offset: usize, more: bool) {
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let len = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&len);
    packet[6..8].copy_from_slice(&((offset / 8) as u16).to_be_bytes());
    packet[6] |= if more { MORE_FRAGMENTS } else { 0 };
    packet[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&packet[..header_len]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use jlb_role::{FakeBuf, FakeIo};

    use super::*;

    /// A packet with these options and so many payload bytes.
    fn packet(options: &[u8], payload: usize) -> Vec<u8> {
        let mut p = vec![0; 20];
        p[0] = 0x40 | (5 + options.len() / 4) as u8;
        p[4..6].copy_from_slice(&[0xab, 0xcd]);
        p[8] = 64;
        p[9] = 17;
        p.extend_from_slice(options);
        p.extend((0..payload).map(|i| (i % 251) as u8));
        p
    }

    /// Puts the payload together again as a receiver does, and checks every header.
    fn reassemble(pieces: &[FakeBuf], max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            let p = piece.bytes();
            let header_len = usize::from(p[0] & 0x0f) * 4;
            assert!(p.len() <= max);
            assert_eq!(checksum::finish(checksum::sum(&p[..header_len])), 0);
            assert_eq!(usize::from(u16::from_be_bytes([p[2], p[3]])), p.len());
            assert_eq!(p[4..6], [0xab, 0xcd]);
            let offset = usize::from(u16::from_be_bytes([p[6] & 0x1f, p[7]])) * 8;
            assert_eq!(offset, out.len());
            assert_eq!(p[6] & MORE_FRAGMENTS != 0, n + 1 < pieces.len());
            out.extend_from_slice(&p[header_len..]);
        }
        out
    }

    #[test]
    fn pieces_fit_and_make_the_whole() {
        // Record route (7, not copied), nothing, router alert (148, copied), end.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0];
        for options in [&options[..], &[]] {
            for payload in [1201, 1250, 1800] {
                let mut io = FakeIo::default();
                let whole = packet(options, payload);
                let pieces = fragment(FakeBuf::holding(&whole), 1224, &mut io).unwrap();
                assert!(pieces.len() >= 2 || payload < 1205);
                assert_eq!(reassemble(&pieces, 1224), whole[20 + options.len()..]);
                let Some(second) = pieces.get(1) else { continue };
                if options.is_empty() {
                    assert_eq!(second.bytes()[0], 0x45);
                } else {
                    assert_eq!(second.bytes()[0], 0x46, "one option of 4 bytes was copied");
                    assert_eq!(second.bytes()[20..24], [148, 4, 0, 0]);
                }
            }
        }
    }

    #[test]
    fn without_buffers_the_packet_comes_back_whole() {
        let mut io = FakeIo { exhausted: true, ..FakeIo::default() };
        let whole = packet(&[], 1500);
        let (b, why) = fragment(FakeBuf::holding(&whole), 1224, &mut io).unwrap_err();
        assert_eq!((b.bytes(), why), (&whole[..], Reason::NoBuffer));
        let mut io = FakeIo::default();
        let (_, why) = fragment(FakeBuf::holding(&whole), 60, &mut io).unwrap_err();
        assert_eq!(why, Reason::TooBig, "more than {MAX_FRAGMENTS} fragments");
        let (_, why) = fragment(FakeBuf::holding(&whole), 20, &mut io).unwrap_err();
        assert_eq!(why, Reason::TooBig);
    }

    #[test]
    fn broken_options_end_the_list() {
        for options in [[148, 0, 0, 0], [148, 200, 0, 0], [1, 1, 1, 148]] {
            let whole = packet(&options, 1500);
            let mut io = FakeIo::default();
            let pieces = fragment(FakeBuf::holding(&whole), 1224, &mut io).unwrap();
            assert_eq!(pieces[1].bytes()[0], 0x45);
            assert_eq!(reassemble(&pieces, 1224), whole[24..]);
        }
    }
}
