use jlb_role::Nanos;
use jlb_wire::FiveTuple;

use crate::map::Map;

/// Who ends a TCP connection, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client sends FIN first.
    Client,
    /// The server sends FIN first, and keeps TIME_WAIT.
    Server,
    /// The client resets.
    Abort,
    /// The client forgets everything half way, as after a power cut, and never says a word of it.
    Vanish,
}

/// What the two applications of a TCP connection say to each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// Requests, one after the other's response.
    pub(crate) rounds: u32,
    /// Bytes of a request.
    pub(crate) request: u32,
    /// Bytes of a response.
    pub(crate) response: u32,
    /// How long the client thinks before the next request.
    pub(crate) pause: Nanos,
    pub(crate) ending: Ending,
}

/// What a server knows about its callers. The script is not carried in the bytes: client and server are fixtures.
pub(crate) type Scripts = Map<(FiveTuple, u32), Script>;
