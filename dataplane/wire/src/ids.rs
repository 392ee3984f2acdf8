use core::fmt;
use core::num::NonZeroU16;

/// A member of the cluster: a number that the operator gives in the member list and that is never given again to
/// another host. It stands for the host everywhere on the wire, so that IPv4 and IPv6 underlays look alike and an
/// address that is reused does not inherit flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(NonZeroU16);

impl MemberId {
    /// The largest id: tables indexed by it stay small (template, liveness and eBPF arrays).
    pub const MAX: u16 = 4095;

    /// `None` for 0 and for numbers above [`Self::MAX`].
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        if id > Self::MAX {
            return None;
        }
        match NonZeroU16::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self.0.get()
    }

    /// The number as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0.get() as usize
    }

    /// As on the wire: 0 for nobody.
    #[must_use]
    pub const fn to_wire(id: Option<Self>) -> u16 {
        match id {
            Some(id) => id.as_u16(),
            None => 0,
        }
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 64 random bits, drawn when a process (for a backend: its pinned state) starts. Compared for equality only.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u64);

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Number of the set of trackers; raised when that set changes, and only then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// What tells two flows of one five-tuple apart: the client's initial sequence number for TCP, a number given by
/// the agent for UDP (0 in an Open: "the current one").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u32);
