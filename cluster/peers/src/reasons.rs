//! Under which reason a packet is counted that the wire format refuses.

use jlb_role::Reason;
use jlb_wire::{BodyError, ControlError, GeneveError, PacketError};

/// For an outer header.
#[must_use]
pub const fn geneve_reason(error: GeneveError) -> Reason {
    match error {
        GeneveError::Truncated => Reason::Truncated,
        GeneveError::Malformed => Reason::Malformed,
        GeneveError::BadChecksum => Reason::BadChecksum,
        GeneveError::Fragment => Reason::Fragment,
        GeneveError::NotGeneve => Reason::NotForUs,
        GeneveError::Geneve => Reason::BadGeneve,
        GeneveError::UnknownCriticalOption => Reason::UnknownCriticalOption,
    }
}

/// For a client's or server's packet.
#[must_use]
pub const fn packet_reason(error: PacketError) -> Reason {
    match error {
        PacketError::Truncated => Reason::Truncated,
        PacketError::Malformed => Reason::Malformed,
        PacketError::BadChecksum => Reason::BadChecksum,
        PacketError::Fragment => Reason::Fragment,
        PacketError::Protocol(_) => Reason::UnsupportedProtocol,
    }
}

/// For a control message.
#[must_use]
pub const fn control_reason(error: ControlError) -> Reason {
    match error {
        ControlError::Truncated => Reason::Truncated,
        ControlError::Version(_) => Reason::WrongVersion,
        ControlError::Kind(_) => Reason::WrongKind,
        ControlError::Malformed => Reason::Malformed,
        ControlError::Mac => Reason::BadMac,
    }
}

/// For a body.
#[must_use]
pub const fn body_reason(error: BodyError) -> Reason {
    match error {
        BodyError::Truncated => Reason::Truncated,
        BodyError::Version(_) => Reason::WrongVersion,
        BodyError::Kind(_) => Reason::WrongKind,
        BodyError::Malformed => Reason::Malformed,
        BodyError::Mac => Reason::BadMac,
    }
}
