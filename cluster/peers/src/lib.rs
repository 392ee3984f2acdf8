//! What every role does with the other members, whatever it is for the flows.
//!
//! | type | does |
//! |---|---|
//! | [`Envelope`] | checks a received packet in two steps: whose it is (then the role may hand it to the owning worker), and whether it may be believed (there, since only the owner has the sequence windows) |
//! | [`Peers`] | asks and answers Probe, so knows boot ids and who is alive; keeps the sequence windows; stamps, signs and sends |
//! | [`Messages`] | counts messages by kind and direction |
//!
//! Suspicion only steers: who is not [`Peers::alive`] gets no new flows, and nothing else follows from it.
//!
//! Pure: no I/O, no clock; nonces come from a seed.
#![forbid(unsafe_code)]

mod envelope;
mod messages;
mod peer;
mod peers;
mod random;
mod reasons;
mod send;
mod window;

#[cfg(test)]
mod fixture;

pub use envelope::{Carried, Envelope};
pub use messages::Messages;
pub use peer::Standing;
pub use peers::{
    ASK_AGAIN, DEAD_AFTER, HEARTBEAT_LIMIT, MISSED_LIMIT, PROBE_AGENTS, PROBE_BY_AGENT,
    PROBE_DATAPLANE, Peers, PeersConfig, ReceivedBody,
};
pub use random::Random;
pub use reasons::{body_reason, control_reason, geneve_reason, packet_reason};
pub use send::{OUTER_ROOM, buffer_with};
pub use window::clear_bits;
