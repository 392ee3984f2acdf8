use core::fmt;
use core::net::IpAddr;

use jlb_wire::{MemberId, Protocol};
use thiserror::Error;

use crate::{Family, MemberRole};

/// Where in a [`crate::Spec`] a problem is. Indices count from 0 in the order of the spec, so that whoever read it
/// from a file can name line and column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `generation`.
    Generation,
    /// `epoch`.
    Epoch,
    /// The keys.
    Keys,
    /// `underlay.prefixes` as a whole.
    Prefixes,
    /// `underlay.port`.
    Port,
    /// `underlay.mtu`.
    Mtu,
    /// The members as a whole.
    Members,
    /// A field of one member.
    Member(usize, MemberField),
    /// The services as a whole.
    Services,
    /// A field of one service.
    Service(usize, ServiceField),
}

/// A field of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberField {
    /// Its id.
    Id,
    /// Its name.
    Name,
    /// Its addresses.
    Addresses,
}

/// A field of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceField {
    /// Its name.
    Name,
    /// Its VIPs as a whole.
    Vips,
    /// One of its VIPs.
    Vip(usize),
    /// Its port.
    Port,
    /// Its reject TTL.
    RejectTtl,
    /// Its backends as a whole.
    Backends,
    /// One of its backends.
    Backend(usize),
    /// The weight of one of its backends.
    Weight(usize),
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Numbers start at 1, so that 0 can mean "none yet".
    #[error("it starts at 1")]
    ZeroNumber,
    /// All bits zero: surely a placeholder.
    #[error("a key of zeros is no secret")]
    ZeroKey,
    /// A value outside its bounds.
    #[error("{value} is not between {min} and {max}")]
    OutOfRange {
        /// The value.
        value: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// Nothing in a list that needs something.
    #[error("there must be at least one")]
    Empty,
    /// More than a list may hold.
    #[error("{count} are too many; {max} at most")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many may be.
        max: usize,
    },
    /// Not usable as a name.
    #[error("`{0}` is no name: 1 to 63 letters, digits, `.`, `_` or `-`")]
    BadName(String),
    /// Two of the same name.
    #[error("`{0}` is already the name of another")]
    DuplicateName(String),
    /// Two members of the same id.
    #[error("{id} is already the id of `{other}`; every member has its own, for life")]
    DuplicateId {
        /// The id.
        id: MemberId,
        /// The member that has it.
        other: String,
    },
    /// Two members of the same address.
    #[error("{address} is already the address of `{other}`")]
    DuplicateAddress {
        /// The address.
        address: IpAddr,
        /// The member that has it.
        other: String,
    },
    /// A member without any.
    #[error("a member needs an address")]
    NoAddress,
    /// Not an address that a host or a service can have.
    #[error(
        "{0} is no unicast address that hosts can reach: not loopback, link-local, multicast or unspecified"
    )]
    UnusableAddress(IpAddr),
    /// A member outside of the underlay.
    #[error("{0} lies in none of the underlay's prefixes")]
    OutsideUnderlay(IpAddr),
    /// Two members that must talk and cannot.
    #[error(
        "it has only an {own} address and `{other}` ({role}) has none of that family: they could not talk"
    )]
    NoCommonFamily {
        /// The family that this member has.
        own: Family,
        /// A member that has only the other family.
        other: String,
        /// Its role.
        role: MemberRole,
    },
    /// A VIP inside of the underlay.
    #[error("{0} lies in the underlay's prefixes; VIPs and members are apart")]
    VipInUnderlay(IpAddr),
    /// Two services on the same VIP, port and protocol, or one VIP twice.
    #[error("{vip} port {port}/{} already belongs to service `{other}`", protocol.label())]
    DuplicateVip {
        /// The VIP.
        vip: IpAddr,
        /// Its port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The service that has it.
        other: String,
    },
    /// A backend that is no member.
    #[error("no member has the id {0}")]
    NoSuchMember(MemberId),
    /// A backend that is a member of another role.
    #[error("`{name}` is no backend, its role is {role}")]
    NotABackend {
        /// The member's name.
        name: String,
        /// The member's role.
        role: MemberRole,
    },
    /// A backend twice in one service.
    #[error("`{0}` is already a backend of this service")]
    DuplicateBackend(String),
}

/// One thing that is wrong with a [`crate::Spec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What.
    pub fault: Fault,
}

/// Everything that is wrong with a [`crate::Spec`]; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { place, fault }) in self.0.iter().enumerate() {
            write!(f, "{}{place:?}: {fault}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}
