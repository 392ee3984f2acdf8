//! The ingress: takes clients' packets for the VIPs and brings them to the backend that their flow belongs to. The same
//! role is the egress: takes the encapsulated replies of backends and sends them to the clients.
//!
//! ```text
//! client ──packet──▶ ┌─────────┐ ──Open──▶ tracker ─▶ tracker ─▶ backend     a flow's first packet
//!                    │ Ingress │ ◀─Accept─ tracker ◀─ tracker ◀────┘
//!                    │         │ ──Data────────────────────────▶ backend     every other packet
//! client ◀──reply─── │         │ ◀─Egress─────────────────────── backend
//!                    └─────────┘
//! ```
//!
//! [`Ingress`] is one worker's part, a pure state machine under the contract of `jlb-role`; it does what section 4 of
//! `docs/protocol.md` says, row by row. It owns the flows whose id falls to its worker; packets of others are handed
//! over.
#![forbid(unsafe_code)]

mod answers;
mod budget;
mod client;
mod directory;
mod egress;
mod encap;
mod flows;
mod fragment;
mod ingress;
mod limit;
mod metrics;
mod opening;
mod pending;
mod query;
mod reply;
mod view;

pub use flows::FlowState;
pub use ingress::{FlowCounts, Ingress, IngressConfig, IngressEvent};
pub use opening::OPEN_TIMEOUT;
pub use pending::PENDING_QUEUE;
