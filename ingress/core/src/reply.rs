//! What the ingress itself says to a client: RST and ICMP, always from the VIP.

use core::net::SocketAddr;

use jlb_role::{Io, MetricSink, Nanos, NoRoom, PacketBuf, UnderlayDst};
use jlb_wire::{FiveTuple, Packet, Tcp, checksum, tcp_flags};

use crate::limit::TokenBucket;
use crate::metrics::{REPLIES, REPLIES_WITHHELD};
use crate::view::View;

const TTL: u8 = 64;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const TCP: u8 = 6;
/// An ICMP error is no longer than 576 bytes (RFC 1812, section 4.3.2.3).
const MAX_ERROR_V4: usize = 576;
/// And over IPv6 no longer than its least MTU (RFC 4443, section 2.4).
const MAX_ERROR_V6: usize = 1280;
const ICMP_HEADER: usize = 8;

/// What is said about a client's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Nobody takes this flow: RST for TCP, ICMP port unreachable for UDP.
    Refused,
    /// Nobody has this connection (any more): RST.
    Unknown,
    /// ICMP: packets to the VIP may have so many bytes (RFC 1191, RFC 8201).
    TooBig(u16),
}

/// Says it, within limits.
#[derive(Debug)]
pub(crate) struct Replies {
    /// Each answers an Open of its own, so this only keeps a flood of refused clients from taking the line.
    refused: TokenBucket,
    /// One teaches the client.
    too_big: TokenBucket,
    sent: [u64; KINDS.len()],
    withheld: [u64; KINDS.len()],
}

/// As in the label `kind`.
const KINDS: [&str; 3] = ["reset", "port_unreachable", "too_big"];

impl Replies {
    pub(crate) const fn new() -> Self {
        Self {
            refused: TokenBucket::new(10_000, 1_000),
            too_big: TokenBucket::new(1_000, 100),
            sent: [0; KINDS.len()],
            withheld: [0; KINDS.len()],
        }
    }

    /// Sends a reply about a client's packet of those bytes.
    pub(crate) fn say<B: PacketBuf>(
        &mut self,
        now: Nanos,
        what: Reply,
        (original, packet): (&[u8], &Packet),
        view: &View,
        io: &mut impl Io<B>,
    ) {
        let client = packet.tuple.client().ip();
        let (kind, bucket) = match what {
            Reply::Unknown => (0, &mut self.refused),
            Reply::Refused if packet.tcp.is_some() => (0, &mut self.refused),
            Reply::Refused => (1, &mut self.refused),
            Reply::TooBig(_) => (2, &mut self.too_big),
        };
        let may = view.may_answer(client) && bucket.take(now);
        let written = may
            .then(|| io.alloc())
            .flatten()
            .and_then(|mut b| write(&mut b, what, original, packet).ok().map(|()| b));
        match written {
            Some(b) => {
                self.sent[kind] += 1;
                io.send(b, UnderlayDst::Ip(client));
            }
            None => self.withheld[kind] += 1,
        }
    }

    pub(crate) fn collect(&self, out: &mut dyn MetricSink) {
        for ((kind, sent), withheld) in KINDS.into_iter().zip(self.sent).zip(self.withheld) {
            out.value(&REPLIES, &[("kind", kind)], sent as f64);
            out.value(&REPLIES_WITHHELD, &[("kind", kind)], withheld as f64);
        }
    }
}

fn write<B: PacketBuf>(
    b: &mut B,
    what: Reply,
    original: &[u8],
    packet: &Packet,
) -> Result<(), NoRoom> {
    match (what, packet.tcp, packet.tuple.is_v6()) {
        (Reply::Refused | Reply::Unknown, Some(tcp), _) => reset(b, packet, tcp),
        // Not said of datagrams.
        (Reply::Unknown, None, _) => Err(NoRoom),
        (Reply::Refused, None, false) => icmp(b, [3, 3], 0, original, packet),
        (Reply::Refused, None, true) => icmp(b, [1, 4], 0, original, packet),
        (Reply::TooBig(mtu), _, false) => icmp(b, [3, 4], mtu, original, packet),
        (Reply::TooBig(mtu), _, true) => icmp(b, [2, 0], mtu, original, packet),
    }
}

impl Reply {
    /// A RST is never answered with one (RFC 9293, section 3.5.2).
    pub(crate) fn may_reset(packet: &Packet) -> bool {
        packet.tcp.is_some_and(|tcp| tcp.flags & tcp_flags::RST == 0)
    }
}

/// Writes the RST that a host without that connection answers with (RFC 9293, section 3.5.2): at the sequence number that
/// the client expects, by its own ACK (only that one is taken at once, RFC 5961, section 3.2); without one, as to a SYN, at 0
/// and with an ACK of all that the packet holds.
fn reset<B: PacketBuf>(b: &mut B, packet: &Packet, got: Tcp) -> Result<(), NoRoom> {
    let tuple = &packet.tuple;
    let ip_len = ip_len(tuple);
    let sequence_space = |flag: u8| u32::from(got.flags & flag != 0);
    let length = (packet.len - packet.payload) as u32
        + sequence_space(tcp_flags::SYN)
        + sequence_space(tcp_flags::FIN);
    let (seq, ack, flags) = if got.flags & tcp_flags::ACK == 0 {
        (0, got.seq.wrapping_add(length), tcp_flags::RST | tcp_flags::ACK)
    } else {
        (got.ack, 0, tcp_flags::RST)
    };
    let out = b.append(ip_len + 20)?;
    ip_header(out, tuple, TCP);
    let tcp = &mut out[ip_len..];
    tcp.fill(0);
    tcp[0..2].copy_from_slice(&tuple.vip().port().to_be_bytes());
    tcp[2..4].copy_from_slice(&tuple.client().port().to_be_bytes());
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = flags;
    put_checksum(out, ip_len, ip_len + 16, Some(TCP));
    Ok(())
}

/// Writes an ICMP error of that type and code. The MTU is in the last 16 of its 32 bits in both families, or 0.
fn icmp<B: PacketBuf>(
    b: &mut B,
    [kind, code]: [u8; 2],
    mtu: u16,
    original: &[u8],
    packet: &Packet,
) -> Result<(), NoRoom> {
    let v6 = packet.tuple.is_v6();
    let ip_len = ip_len(&packet.tuple);
    let max_quote = if v6 { MAX_ERROR_V6 } else { MAX_ERROR_V4 } - ip_len - ICMP_HEADER;
    let quote = &original[..packet.len.min(max_quote)];
    let out = b.append(ip_len + ICMP_HEADER + quote.len())?;
    ip_header(out, &packet.tuple, if v6 { ICMP_V6 } else { ICMP });
    let message = &mut out[ip_len..];
    let [high, low] = mtu.to_be_bytes();
    message[..ICMP_HEADER].copy_from_slice(&[kind, code, 0, 0, 0, 0, high, low]);
    message[ICMP_HEADER..].copy_from_slice(quote);
    put_checksum(out, ip_len, ip_len + 2, v6.then_some(ICMP_V6));
    Ok(())
}

const fn ip_len(tuple: &FiveTuple) -> usize {
    if tuple.is_v6() { 40 } else { 20 }
}

/// From the VIP to the client, for all of `out`.
fn ip_header(out: &mut [u8], tuple: &FiveTuple, protocol: u8) {
    let len = out.len() as u16;
    match (tuple.vip(), tuple.client()) {
        (SocketAddr::V6(vip), SocketAddr::V6(client)) => {
            out[..40].fill(0);
            out[0] = 0x60;
            out[4..6].copy_from_slice(&(len - 40).to_be_bytes());
            out[6] = protocol;
            out[7] = TTL;
            out[8..24].copy_from_slice(&vip.ip().octets());
            out[24..40].copy_from_slice(&client.ip().octets());
        }
        (SocketAddr::V4(vip), SocketAddr::V4(client)) => {
            out[..20].fill(0);
            out[0] = 0x45;
            out[2..4].copy_from_slice(&len.to_be_bytes());
            out[6] = 0x40; // DF, so the identification may be 0 (RFC 6864)
            out[8] = TTL;
            out[9] = protocol;
            out[12..16].copy_from_slice(&vip.ip().octets());
            out[16..20].copy_from_slice(&client.ip().octets());
            let sum = checksum::finish(checksum::sum(&out[..20]));
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        // A five-tuple has one family.
        (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => {}
    }
}

/// The transport checksum at `at`, with the pseudo header of that protocol where there is one.
fn put_checksum(out: &mut [u8], ip_len: usize, at: usize, pseudo: Option<u8>) {
    let addresses = if ip_len == 40 { 8..40 } else { 12..20 };
    let pseudo = pseudo.map_or(0, |protocol| {
        checksum::pseudo_header(&out[addresses], out.len() - ip_len, protocol)
    });
    let sum = checksum::finish(pseudo + checksum::sum(&out[ip_len..]));
    out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
