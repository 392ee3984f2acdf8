//! What the wire shows of a packet between members, read from its bytes by the offsets of `docs/protocol.md` and by
//! nothing else: the checkers must not believe what the roles believe.

use core::fmt;
use core::net::IpAddr;

use jlb_map::Snapshot;
use jlb_wire::{FiveTuple, MemberId, Packet};

/// Kinds of packets, for faults and checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum PacketKind {
    /// Between a client and the VIP, not encapsulated.
    Client = 0,
    Open = 1,
    Accept = 2,
    Reject = 3,
    Cancel = 4,
    Query = 5,
    State = 6,
    NotMine = 7,
    Close = 8,
    /// Encapsulated without option: `Data` or `Egress`.
    Plain = 9,
    /// Probe.
    Body = 10,
    /// Refresh and Epoch.
    Refresh = 11,
}

pub(crate) const PACKET_KINDS: usize = 12;

/// The body kind of Epoch.
const EPOCH: u8 = 4;
/// The body kind of Probe, and the flag of its answer.
const PROBE: u8 = 1;
const ANSWER: u16 = 1;

pub(crate) const FORCE: u16 = 1;
pub(crate) const INCUMBENT: u16 = 1 << 1;
pub(crate) const ACK: u16 = 1 << 4;
pub(crate) const REFUSED: u16 = 1 << 5;

/// The fields of a control message that checkers look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) incarnation: u32,
    pub(crate) cookie: u32,
    pub(crate) ingress: u16,
    pub(crate) head: u16,
    pub(crate) second: u16,
    pub(crate) backend: u16,
    pub(crate) sender: u16,
    pub(crate) receiver: u16,
    pub(crate) flags: u16,
    pub(crate) reason: u8,
    pub(crate) reject_ttl: u8,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) dst: IpAddr,
    /// The member whose address that is.
    pub(crate) to: Option<MemberId>,
    pub(crate) kind: PacketKind,
    pub(crate) word: Option<Word>,
    /// Flags and epoch of a body, and the first two numbers of its payload.
    body: Option<(u16, u32, u32, u32)>,
    /// An answer to the Probe of this worker.
    pub(crate) answers: Option<u8>,
    /// An order of a sole owner, or an answer to one.
    pub(crate) is_order: bool,
    /// The client's or server's packet: the whole, or what is inside.
    pub(crate) packet: Option<Packet>,
}

impl Seen {
    /// `None` when the bytes are no IP packet, or to a member and none of ours: then nobody can carry it.
    pub(crate) fn parse(bytes: &[u8], snapshot: &Snapshot) -> Option<Self> {
        let (dst, l4, udp) = match bytes.first()? >> 4 {
            4 => (IpAddr::from(array::<4>(bytes, 16)?), 20, *bytes.get(9)? == 17),
            6 => (IpAddr::from(array::<16>(bytes, 24)?), 40, *bytes.get(6)? == 17),
            _ => return None,
        };
        let to = snapshot.member_by_address(dst).map(|member| member.id);
        let mut seen = Self {
            dst,
            to,
            kind: PacketKind::Client,
            word: None,
            body: None,
            answers: None,
            is_order: false,
            packet: None,
        };
        let geneve = l4 + 8;
        if to.is_none() || !udp || be16(bytes, l4 + 2) != Some(snapshot.geneve_port()) {
            seen.packet = Packet::parse(bytes).ok();
            return Some(seen);
        }
        let inner = match (be16(bytes, geneve + 2)?, bytes.get(geneve)? & 0x3f) {
            (0x88b5, _) => {
                let body = bytes.get(geneve + 8..)?;
                let probe = *body.first()? == PROBE;
                seen.is_order = *body.first()? == EPOCH;
                seen.kind = if probe { PacketKind::Body } else { PacketKind::Refresh };
                seen.body =
                    Some((be16(body, 2)?, be32(body, 4)?, be32(body, 40)?, be32(body, 44)?));
                if probe && be16(body, 2)? & ANSWER != 0 {
                    seen.answers = body.get(60).copied();
                }
                return Some(seen);
            }
            (_, 0) => {
                seen.kind = PacketKind::Plain;
                geneve + 8
            }
            (_, words) => {
                let option = geneve + 12;
                seen.kind = control_kind(*bytes.get(option)?)?;
                seen.word = Word::parse(bytes, option);
                geneve + 8 + usize::from(words) * 4
            }
        };
        seen.packet = Packet::parse(bytes.get(inner..)?).ok();
        Some(seen)
    }

    /// The flow, client → VIP; `from_vip` tells which way the packet goes.
    pub(crate) fn flow(&self, from_vip: bool) -> Option<FiveTuple> {
        let tuple = self.packet?.tuple;
        if from_vip {
            FiveTuple::new(tuple.vip(), tuple.client(), tuple.protocol()).ok()
        } else {
            Some(tuple)
        }
    }
}

impl Word {
    fn parse(b: &[u8], at: usize) -> Option<Self> {
        let short = |offset| be16(b, at + offset);
        let long = |offset| array::<4>(b, at + offset).map(u32::from_be_bytes);
        Some(Self {
            incarnation: long(8)?,
            cookie: long(12)?,
            ingress: short(16)?,
            head: short(18)?,
            second: short(20)?,
            backend: short(22)?,
            sender: short(24)?,
            receiver: short(26)?,
            flags: short(28)?,
            reason: *b.get(at + 30)?,
            reject_ttl: *b.get(at + 3)?,
        })
    }

    pub(crate) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        if let Some((flags, epoch, batch, batches)) = self.body {
            write!(f, " flags={flags:x} epoch={epoch}")?;
            if self.kind == PacketKind::Refresh {
                write!(f, " batch={batch}/{batches}")?;
            }
        }
        if let Some(w) = self.word {
            write!(
                f,
                " i={:08x} chain={}>{}>{} b={} {}>{} cookie={:x}",
                w.incarnation,
                w.ingress,
                w.head,
                w.second,
                w.backend,
                w.sender,
                w.receiver,
                w.cookie
            )?;
            let names =
                ["force", "incumbent", "final", "cut", "ack", "refused", "unknown", "pending"];
            for (bit, name) in names.into_iter().enumerate() {
                if w.flags & (1 << bit) != 0 {
                    write!(f, " {name}")?;
                }
            }
            if w.reason != 0 {
                write!(f, " reason={}", w.reason)?;
            }
            if self.kind == PacketKind::Open || self.kind == PacketKind::Reject {
                write!(f, " ttl={}", w.reject_ttl)?;
            }
        }
        if let Some(p) = self.packet {
            write!(f, " [{:?}", p.tuple)?;
            if let Some(tcp) = p.tcp {
                write!(f, " seq={:08x} ack={:08x} ", tcp.seq, tcp.ack)?;
                let names = ["F", "S", "R", "P", "A"];
                for (bit, name) in names.into_iter().enumerate() {
                    if tcp.flags & (1 << bit) != 0 {
                        f.write_str(name)?;
                    }
                }
            }
            write!(f, " {}B]", p.len - p.payload)?;
        }
        Ok(())
    }
}

const fn control_kind(n: u8) -> Option<PacketKind> {
    Some(match n {
        1 => PacketKind::Open,
        2 => PacketKind::Accept,
        3 => PacketKind::Reject,
        4 => PacketKind::Cancel,
        5 => PacketKind::Query,
        6 => PacketKind::State,
        7 => PacketKind::NotMine,
        8 => PacketKind::Close,
        _ => return None,
    })
}

fn array<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..at + N)?.try_into().ok()
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    array::<2>(b, at).map(u16::from_be_bytes)
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    array::<4>(b, at).map(u32::from_be_bytes)
}
