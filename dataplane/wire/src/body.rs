//! Messages without an inner packet: a body behind the Geneve header, all of it under the MAC.
//!
//! ```text
//!  0      1          2           4                       8
//! +------+----------+-----------+-----------------------+
//! | kind | version  | flags     | epoch                 |  0
//! +------+----------+-----------+-----------+-----------+
//! | sender          | receiver  | length    | 0         |  8
//! +-----------------+-----------+-----------+-----------+
//! | boot id of the sender                               | 16
//! | sequence number of the sender                       | 24
//! | nonce                                               | 32
//! +-----------------------------------------------------+
//! | payload: `length` bytes                             | 40
//! +-----------------------------------------------------+
//! | MAC of everything before it                         | 40 + length
//! +-----------------------------------------------------+
//! ```

use thiserror::Error;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::control::wire_enum;
use crate::{BootId, Epoch, FiveTuple, Incarnation, MacKeys, MemberId, Version};

/// Payload bytes that a body may have: what fits 1500 bytes with the IPv6 overhead.
pub const MAX_BODY_PAYLOAD: usize = 1392;

wire_enum! {
    /// What a body says.
    BodyKind {
        /// Are you there? Who are you now?
        Probe = 1 => "probe",
        /// How loaded a backend is.
        Load = 2 => "load",
        /// Which flows a backend has.
        Refresh = 3 => "refresh",
        /// Steps into the sole owner's mode, and out of it.
        Epoch = 4 => "epoch",
    }
}

/// Flags of a body; their meaning depends on the kind.
pub mod body_flags {
    /// Probe: this is the answer.
    pub const ANSWER: u16 = 1;
    /// Probe: the sender is about to leave: choose somebody else.
    pub const LEAVING: u16 = 1 << 1;
    /// Probe: the sender is a tracker that does not yet know what all backends have: ask somebody else.
    pub const COLD: u16 = 1 << 2;
    /// Probe: an agent obeys the asking worker of a tracker alone (rule 14).
    pub const OBEYS: u16 = 1 << 3;
    /// Refresh: a tracker asks for a batch of flows; so it acknowledges all batches before.
    pub const PULL: u16 = 1;
    /// Refresh: some of them.
    pub const BATCH: u16 = 1 << 1;
    /// Refresh: the end marker: all flows were sent, and Opens that name an older boot are void from here on.
    pub const END: u16 = 1 << 3;
    /// Epoch: a tracker owns partitions alone from here on.
    pub const SOLE_OWNER: u16 = 1;
    /// Epoch: two votes are needed again.
    pub const TWO_VOTES: u16 = 1 << 1;
    /// Epoch: an acknowledgement of the one or the other.
    pub const ACK: u16 = 1 << 2;
}

/// A body without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// What it says.
    pub kind: BodyKind,
    /// Protocol version.
    pub version: Version,
    /// See [`body_flags`].
    pub flags: u16,
    /// Epoch of the sender's member list.
    pub epoch: Epoch,
    /// Who signed it.
    pub sender: MemberId,
    /// For whom.
    pub receiver: MemberId,
    /// Boot id of the sender.
    pub boot: BootId,
    /// Sequence number of the sender; its top 8 bits name the worker.
    pub sequence: u64,
    /// Of the question, echoed in the answer.
    pub nonce: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Header {
    kind: u8,
    version: u8,
    flags: U16,
    epoch: U32,
    sender: U16,
    receiver: U16,
    length: U16,
    reserved: U16,
    boot: U64,
    sequence: U64,
    nonce: U64,
}

const _: () = assert!(size_of::<Header>() == Body::HEADER_LEN);

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// Shorter than it says.
    #[error("body is too short")]
    Truncated,
    /// A version that we do not speak.
    #[error("body of version {0}")]
    Version(u8),
    /// A kind that we do not know.
    #[error("body of unknown kind {0}")]
    Kind(u8),
    /// A member id or length that cannot be.
    #[error("body with an impossible field")]
    Malformed,
    /// The MAC does not fit.
    #[error("wrong message authentication code")]
    Mac,
}

impl Body {
    /// Bytes before the payload.
    pub const HEADER_LEN: usize = 40;
    /// Bytes behind the payload.
    pub const MAC_LEN: usize = 8;

    /// Length of a body with so much payload.
    #[must_use]
    pub const fn len_with(payload: usize) -> usize {
        Self::HEADER_LEN + payload + Self::MAC_LEN
    }

    /// Parses a body, verifies its MAC, and gives it with its payload.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn parse<'a>(bytes: &'a [u8], keys: &MacKeys) -> Result<(Self, &'a [u8]), BodyError> {
        let (h, rest) = Header::read_from_prefix(bytes).map_err(|_| BodyError::Truncated)?;
        let version = Version::new(h.version).ok_or(BodyError::Version(h.version))?;
        let length = usize::from(h.length.get());
        let payload = rest.get(..length).ok_or(BodyError::Truncated)?;
        let mac: [u8; 8] = crate::bytes::take(rest, length).ok_or(BodyError::Truncated)?;
        if !keys.verify(&bytes[..Self::HEADER_LEN + length], u64::from_be_bytes(mac)) {
            return Err(BodyError::Mac);
        }
        let id = |id: U16| MemberId::new(id.get()).ok_or(BodyError::Malformed);
        let body = Self {
            kind: BodyKind::from_wire(h.kind).ok_or(BodyError::Kind(h.kind))?,
            version,
            flags: h.flags.get(),
            epoch: Epoch(h.epoch.get()),
            sender: id(h.sender)?,
            receiver: id(h.receiver)?,
            boot: BootId(h.boot.get()),
            sequence: h.sequence.get(),
            nonce: h.nonce.get(),
        };
        Ok((body, payload))
    }

    /// Writes header, payload and MAC into `out`, which is exactly [`Self::len_with`] long.
    ///
    /// # Errors
    /// [`crate::EmitError`] when `out` has another length or the payload exceeds [`MAX_BODY_PAYLOAD`].
    pub fn emit(
        &self,
        payload: &[u8],
        keys: &MacKeys,
        out: &mut [u8],
    ) -> Result<(), crate::EmitError> {
        if out.len() != Self::len_with(payload.len()) || payload.len() > MAX_BODY_PAYLOAD {
            return Err(crate::EmitError);
        }
        let header = Header {
            kind: self.kind as u8,
            version: self.version.as_u8(),
            flags: self.flags.into(),
            epoch: self.epoch.0.into(),
            sender: self.sender.as_u16().into(),
            receiver: self.receiver.as_u16().into(),
            length: u16::try_from(payload.len()).map_err(|_| crate::EmitError)?.into(),
            reserved: 0.into(),
            boot: self.boot.0.into(),
            sequence: self.sequence.into(),
            nonce: self.nonce.into(),
        };
        let (signed, mac) = out.split_at_mut(Self::HEADER_LEN + payload.len());
        signed[..Self::HEADER_LEN].copy_from_slice(header.as_bytes());
        signed[Self::HEADER_LEN..].copy_from_slice(payload);
        mac.copy_from_slice(&keys.sign(signed).to_be_bytes());
        Ok(())
    }
}

/// Payload of a Probe: 24 bytes, then (a tracker's answer only) the backends that it has not heard for `dead_after`,
/// two bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Generation of the sender's member list.
    pub generation: u64,
    /// Digest of that list.
    pub digest: u64,
    /// Age of the daemon's heartbeat in milliseconds, where eBPF answers for it; else 0.
    pub heartbeat_age_ms: u32,
    /// The asking worker, echoed: the answer is for it.
    pub worker: u8,
    /// An agent's answer to a tracker: not 0 while that worker's votes do not count there, since another tracker decides
    /// alone, or did so and that worker has not pulled since. The number goes up with each time (rule 14).
    pub shut_out: u8,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct ProbeLayout {
    generation: U64,
    digest: U64,
    heartbeat_age_ms: U32,
    worker: u8,
    shut_out: u8,
    silent: U16,
}

const _: () = assert!(size_of::<ProbeLayout>() == Probe::LEN);

impl Probe {
    /// Bytes without the list of silent backends.
    pub const LEN: usize = 24;
    /// Backends that one answer can name.
    pub const MAX_SILENT: usize = (MAX_BODY_PAYLOAD - Self::LEN) / 2;

    /// Parses a payload; the second part is the list of silent backends.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<(Self, Members<'_>)> {
        let (l, rest) = ProbeLayout::read_from_prefix(payload).ok()?;
        let silent = rest.get(..usize::from(l.silent.get()) * 2)?;
        let probe = Self {
            generation: l.generation.get(),
            digest: l.digest.get(),
            heartbeat_age_ms: l.heartbeat_age_ms.get(),
            worker: l.worker,
            shut_out: l.shut_out,
        };
        Some((probe, Members(silent)))
    }

    /// Writes the payload without a list.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LEN] {
        self.layout(0)
    }

    /// Writes the payload with a list into `out` and gives its length. What does not fit is left out.
    pub fn emit_with(&self, silent: &[MemberId], out: &mut [u8; MAX_BODY_PAYLOAD]) -> usize {
        let silent = &silent[..silent.len().min(Self::MAX_SILENT)];
        let head = self.layout(silent.len() as u16);
        out[..Self::LEN].copy_from_slice(&head);
        for (slot, id) in out[Self::LEN..].chunks_exact_mut(2).zip(silent) {
            slot.copy_from_slice(&id.as_u16().to_be_bytes());
        }
        Self::LEN + silent.len() * 2
    }

    fn layout(&self, silent: u16) -> [u8; Self::LEN] {
        zerocopy::transmute!(ProbeLayout {
            generation: self.generation.into(),
            digest: self.digest.into(),
            heartbeat_age_ms: self.heartbeat_age_ms.into(),
            worker: self.worker,
            shut_out: self.shut_out,
            silent: silent.into(),
        })
    }
}

/// Members that a message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members<'a>(&'a [u8]);

impl Members<'_> {
    /// Who.
    pub fn iter(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.0.chunks_exact(2).filter_map(|b| MemberId::new(u16::from_be_bytes([b[0], b[1]])))
    }
}

/// Payload of an Epoch body: the sole owner, and which partitions are meant. 8 bytes, then the ids of the absent members, two
/// bytes each.
///
/// The partitions are those of the owner's worker (partition modulo `workers`) whose trio has the owner and else only
/// members that are absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoleOwner {
    /// The owner; `None` (in an agent's word): nobody.
    pub owner: Option<MemberId>,
    /// Its worker.
    pub worker: u8,
    /// Its workers, 1 to 16.
    pub workers: u8,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct SoleOwnerLayout {
    owner: U16,
    worker: u8,
    workers: u8,
    count: U16,
    reserved: U16,
}

const _: () = assert!(size_of::<SoleOwnerLayout>() == SoleOwner::LEN);

impl SoleOwner {
    /// Bytes before the ids.
    pub const LEN: usize = 8;
    /// Members that one message can name.
    pub const MAX_ABSENT: usize = 64;
    /// Bytes of the longest payload.
    pub const MAX_LEN: usize = Self::LEN + 2 * Self::MAX_ABSENT;

    /// Parses a payload; the second part is the absent members.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<(Self, Members<'_>)> {
        let (l, rest) = SoleOwnerLayout::read_from_prefix(payload).ok()?;
        let count = usize::from(l.count.get());
        if count > Self::MAX_ABSENT || rest.len() != count * 2 {
            return None;
        }
        let owner = match l.owner.get() {
            0 => None,
            id => Some(MemberId::new(id)?),
        };
        Some((Self { owner, worker: l.worker, workers: l.workers }, Members(rest)))
    }

    /// Writes a payload with at most [`Self::MAX_ABSENT`] members (more are left out) into `out`, and gives its length.
    pub fn emit(&self, absent: &[MemberId], out: &mut [u8; Self::MAX_LEN]) -> usize {
        let absent = &absent[..absent.len().min(Self::MAX_ABSENT)];
        let head: [u8; Self::LEN] = zerocopy::transmute!(SoleOwnerLayout {
            owner: MemberId::to_wire(self.owner).into(),
            worker: self.worker,
            workers: self.workers,
            count: (absent.len() as u16).into(),
            reserved: 0.into(),
        });
        out[..Self::LEN].copy_from_slice(&head);
        for (slot, id) in out[Self::LEN..].chunks_exact_mut(2).zip(absent) {
            slot.copy_from_slice(&id.as_u16().to_be_bytes());
        }
        Self::LEN + absent.len() * 2
    }
}

/// Which batch of which tracker worker's flows a Refresh is about: the first 24 bytes of its payload.
///
/// A tracker's worker pulls batch after batch, under a nonce of its own; the agent answers with BATCH, and behind the last
/// one with END. A batch that did not come is pulled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Number of the batch, from 0; that of END is `batches`.
    pub batch: u32,
    /// How many batches there are (0 in PULL).
    pub batches: u32,
    /// The tracker's worker that pulls: only flows of its partitions (partition modulo `workers`) are meant.
    pub worker: u8,
    /// Workers of that tracker, 1 to 16.
    pub workers: u8,
    /// END: member id of the sole owner that the agent obeys, 0 for none.
    pub sole: u16,
    /// PULL: the [`Probe::shut_out`] that the tracker knows of: it counts no marker from before.
    pub shut_out: u8,
    /// BATCH, END: the backend's counter when the flows were collected: whatever it admitted before is in the list.
    pub counter: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RefreshLayout {
    batch: U32,
    batches: U32,
    count: U16,
    worker: u8,
    workers: u8,
    sole: U16,
    shut_out: u8,
    reserved: u8,
    counter: U64,
}

const _: () = assert!(size_of::<RefreshLayout>() == Refresh::LEN);

impl Refresh {
    /// Bytes before the first record.
    pub const LEN: usize = 24;
    /// Records that one message can carry.
    pub const MAX_RECORDS: usize = (MAX_BODY_PAYLOAD - Self::LEN) / RefreshRecord::LEN;

    /// Parses a payload; the second part is its records, each of which may still be malformed.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<(Self, RefreshRecords<'_>)> {
        let (l, rest) = RefreshLayout::read_from_prefix(payload).ok()?;
        if rest.len() != usize::from(l.count.get()) * RefreshRecord::LEN {
            return None;
        }
        let refresh = Self {
            batch: l.batch.get(),
            batches: l.batches.get(),
            worker: l.worker,
            workers: l.workers,
            sole: l.sole.get(),
            shut_out: l.shut_out,
            counter: l.counter.get(),
        };
        Some((refresh, RefreshRecords(rest)))
    }

    /// Writes a payload of at most [`Self::MAX_RECORDS`] records (more are left out) into `out`, and gives its length.
    pub fn emit(&self, records: &[RefreshRecord], out: &mut [u8; MAX_BODY_PAYLOAD]) -> usize {
        let records = &records[..records.len().min(Self::MAX_RECORDS)];
        let head: [u8; Self::LEN] = zerocopy::transmute!(RefreshLayout {
            batch: self.batch.into(),
            batches: self.batches.into(),
            count: (records.len() as u16).into(),
            worker: self.worker,
            workers: self.workers,
            sole: self.sole.into(),
            shut_out: self.shut_out,
            reserved: 0,
            counter: self.counter.into(),
        });
        out[..Self::LEN].copy_from_slice(&head);
        for (slot, record) in out[Self::LEN..].chunks_exact_mut(RefreshRecord::LEN).zip(records) {
            slot.copy_from_slice(&record.emit());
        }
        Self::LEN + records.len() * RefreshRecord::LEN
    }
}

/// The records of a received Refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshRecords<'a>(&'a [u8]);

impl RefreshRecords<'_> {
    /// Each of them; `None` for one that is not well-formed.
    pub fn iter(&self) -> impl Iterator<Item = Option<RefreshRecord>> + '_ {
        self.0.chunks_exact(RefreshRecord::LEN).map(RefreshRecord::parse)
    }
}

/// One flow in a Refresh batch: 56 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshRecord {
    /// Which flow.
    pub tuple: FiveTuple,
    /// Which of its incarnations.
    pub incarnation: Incarnation,
    /// Live, or closed lately.
    pub live: bool,
    /// The backend's counter when it admitted the flow, or closed it.
    pub counter: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RecordLayout {
    tuple: [u8; FiveTuple::LEN],
    incarnation: U32,
    live: u8,
    reserved: [u8; 3],
    counter: U64,
}

const _: () = assert!(size_of::<RecordLayout>() == RefreshRecord::LEN);

impl RefreshRecord {
    /// Bytes.
    pub const LEN: usize = 56;
    /// Parses one record.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (l, _) = RecordLayout::read_from_prefix(bytes).ok()?;
        Some(Self {
            tuple: FiveTuple::from_padded(l.tuple)?,
            incarnation: Incarnation(l.incarnation.get()),
            live: match l.live {
                0 => false,
                1 => true,
                _ => return None,
            },
            counter: l.counter.get(),
        })
    }

    /// Writes one record.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LEN] {
        zerocopy::transmute!(RecordLayout {
            tuple: *self.tuple.padded(),
            incarnation: self.incarnation.0.into(),
            live: u8::from(self.live),
            reserved: [0; 3],
            counter: self.counter.into(),
        })
    }
}
