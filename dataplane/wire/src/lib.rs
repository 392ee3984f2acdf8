//! JLB's wire format, bit by bit as in `docs/protocol.md`.
//!
//! All JLB traffic is Geneve (RFC 8926) over UDP. A packet is one of three:
//!
//! | content | what | module |
//! |---|---|---|
//! | an inner packet, no option | `Data` (ingress → backend), `Egress` (backend → egress) | [`Outer`], [`Packet`] |
//! | an inner packet behind one control option | Open, Accept, Reject, Cancel, Query, State, NotMine, Close | [`Control`] |
//! | a body | Probe, Load, Refresh, Epoch | [`Body`] |
//!
//! Parsers never panic, whatever the bytes; nothing here does I/O.
#![forbid(unsafe_code)]

mod body;
mod bytes;
pub mod checksum;
mod control;
mod geneve;
mod glance;
mod ids;
mod inner;
mod ip;
mod load;
mod mac;
mod seal;
mod synth;
mod tuple;
mod version;

pub use body::{
    Body, BodyError, BodyKind, MAX_BODY_PAYLOAD, Members, Probe, Refresh, RefreshRecord,
    RefreshRecords, SoleOwner, body_flags,
};
pub use control::{
    Bar, CONTROL_OPTION_LEN, Control, ControlError, Flags, HOP_BUDGET, Kind, Load, MAX_TRIED,
    RejectReason, Tried, not_mine_proof, proves_over,
};
pub use geneve::{
    Content, ETHERTYPE_BODY, ETHERTYPE_V4, ETHERTYPE_V6, EmitError, Encapsulation, GENEVE_PORT,
    GeneveError, OPTION_CLASS, OPTION_TYPE, OVERHEAD_V4, OVERHEAD_V6, Outer, Payload,
    decapsulated_traffic_class, entropy_port,
};
pub use glance::{Glance, words_of};
pub use ids::{BootId, Epoch, Incarnation, MemberId};
pub use inner::{Packet, PacketError, Tcp, tcp_flags};
pub use ip::IpHeader;
pub use jlb_siphash::TOGETHER;
pub use load::{LoadReport, ServiceLoad, ServiceLoads};
pub use mac::{MacKey, MacKeys};
pub use seal::{Seal, Signed};
pub use synth::{
    MAX_FLOW_HEADERS, OPEN_PAYLOAD, OpenCut, flow_headers, mend, transport_checksum_fits,
};
pub use tuple::{FiveTuple, MixedFamilies, Protocol};
pub use version::Version;
