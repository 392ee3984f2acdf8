//! The member list in etcd. This is the one place that talks to it.
//!
//! | key, below the prefix | holds | written by |
//! |---|---|---|
//! | `cluster` | the text of the cluster file, without the keys themselves | [`Store::replace`], if nobody wrote meanwhile |
//! | `alive/NAME` | a [`Presence`] under a lease of [`PRESENCE_TTL`] | the daemon of that member, by its [`Follower`] |
//!
//! etcd is slow and shared: it says what the operator wants, and is on no path of a packet or of a failover. A
//! [`Follower`] goes on for ever without it, and the [`Copy`] of the last good list lets a daemon start without it. What
//! it says is judged like a file ([`ClusterList::follows`](jlb_config::ClusterList::follows)): numbers only rise, whatever
//! the store's own revision does. A missing [`Presence`] marks a member absent and changes nothing else.
//!
//! The decisions are pure and apart: [`decide_start`] for a daemon, [`decide_numbers`] for `jlbctl apply`.
#![forbid(unsafe_code)]

mod connection;
mod copy;
mod decide;
mod error;
mod follower;
mod numbers;
mod presence;
mod store;

pub use copy::{Copy, CopyError};
pub use decide::{Refused, Start, Why, decide_start, offered};
pub use error::StoreError;
pub use follower::{Follower, List, PRESENCE_TTL, Seen};
pub use numbers::{Numbers, Unfit, decide_numbers};
pub use presence::{Presence, Present};
pub use store::{Content, ReplaceError, Store, Stored};
