//! Announces VIPs: each is a route in a kernel table, which a routing daemon passes on.
//!
//! ```text
//! jlb-ingress                                        jlb-vip-watchdog
//!   workers ──heartbeats──▶ Announcer ──vips, beats──▶ Judge ──routes──▶ table 177 ──▶ BIRD ──▶ routers
//!                           (a thread) ◀──what it did──
//! ```
//!
//! The table has one writer, a small process of its own ([`watch`]): it takes the routes away when the daemon is gone (its
//! end of the socket closes, whatever ended it), and when *any* worker has missed three beats. A beat says which workers'
//! loops have turned since the one before; it comes from the workers' own marks and not from the daemon's control thread,
//! which may be late without harm. A daemon that wants to run and gets no CPU does not hang: half a second is waited for it,
//! since whoever starves it may starve its neighbours too, and with all of them gone nobody would be left. The daemon only says which VIPs it wants, so it cannot announce anything once it has
//! been withdrawn.
#![forbid(unsafe_code)]

mod announcer;
mod judge;
mod message;
mod starved;
mod watch;

pub use announcer::{AnnounceError, Announcer, Beats};
pub use judge::{BEAT, MISSED_LIMIT};
pub use message::{MAX_WORKERS, News};
pub use watch::{WatchError, clear, watch};
