//! What the agent changes on a backend host outside of eBPF, with a record of what it replaced.
//!
//! | change | why |
//! |---|---|
//! | each VIP on `lo`: `/32 scope host`, `/128 nodad` and deprecated | the host's stack must take packets for it; no other link should hear of it, and the host's own connections should not come from it |
//! | `arp_ignore = 1`, `arp_announce = 2` on the underlay's interfaces | else the host would answer ARP for the VIP, and take it away from the ingress hosts. IPv6 needs no such thing: neighbour discovery answers for a link's own addresses only |
//! | `rp_filter = 2` there, where it is strict (IPv6 has no such key) | clients' packets arrive decapsulated on the underlay, whatever the route to the client |
//! | a route table of its own with a smaller `mtu` or `advmss`, selected by `ip rule from VIP` | else TCP agrees on segments that do not fit the encapsulated path |
//!
//! | replies of a VIP | its table |
//! |---|---|
//! | all through an egress server | a default route with `mtu` to *nobody*, a permanent neighbour on the first underlay interface: eBPF writes the real destination outside. So they need no route to the client and no neighbour that answers, and none of them leaves bare should eBPF be gone |
//! | all direct | a copy of the main table, with `advmss` |
//! | some and some | a copy of the main table, with `mtu` |
//!
//! What is as it should be already is left alone: a VIP that some interface has, a sysctl that is strict or loose enough.
//! Everything else is written to a state file *before* it is changed, so that a run that is killed at any point can be
//! continued ([`HostNet::apply`]) or undone ([`HostNet::undo`]) by the next one. Rules and routes also carry a mark
//! ([`ROUTE_PROTOCOL`]), and what does not carry it is never touched.
//!
//! # Uplinks
//! A copy has *all* unicast, blackhole, unreachable, prohibit and throw routes of the main table, with their metrics
//! and all their next hops, so a VIP's reply takes the way that any packet of the host would take:
//! - *several uplinks* (several next hops, or default routes of several metrics) stay as they are;
//! - *no default route*: there is none in the copy either, and what the main table does not reach has no reply
//!   ([`Warning::NoDefaultRoute`]);
//! - *the default route does not leave by an underlay interface*: copied as it is; where there are both kinds of replies,
//!   those that should be encapsulated are not ([`Warning::DefaultElsewhere`]);
//! - *policy routing*: our rules have a low number and so come before the host's own; those with a lower number win.
//!
//! Namespaces: everything happens in the network namespace of the calling thread, so call from one thread
//! (a tokio `current_thread` runtime).
#![forbid(unsafe_code)]

mod changes;
mod desired;
mod error;
mod host;
mod kernel;
mod plan;
mod report;
mod route;
mod state;
mod sysctl;

#[cfg(test)]
#[cfg(feature = "root-tests")]
mod tests;

pub use changes::Changes;
pub use desired::{DEFAULT_TABLE, Desired, MAX_VIPS, Replies, Tables};
pub use error::Error;
pub use host::{HostNet, status};
pub use kernel::{MAX_ROUTES, ROUTE_PROTOCOL};
pub use report::{Change, Report, Warning};
