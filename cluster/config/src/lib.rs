//! The two files that configure JLB.
//!
//! | file | says | read by | becomes |
//! |---|---|---|---|
//! | `jlb.toml` | what this host does, and with which resources | [`Host::parse`] | [`Host`] |
//! | `cluster.toml` | who is in the cluster and what it serves; byte-identical everywhere | [`read_cluster`] | [`ClusterList`], [`jlb_map::Snapshot`] |
//!
//! Every mistake is told with file, line, column, key, what is wrong and how to mend it, and all of them at once:
//! that is why the TOML is walked by a [reader](crate) of our own instead of being deserialized, which would stop at
//! the first. Whatever leaves this crate has been checked.
//!
//! Pure: texts come in, the caller reads files ([`KeyFile`] included).
#![forbid(unsafe_code)]

mod cluster;
mod contradiction;
mod etcd;
mod health;
mod host;
mod keys;
mod kind;
mod mistake;
mod reader;
mod value;

pub use cluster::{ClusterFile, ClusterList, parse_cluster, read_cluster};
pub use etcd::{Etcd, EtcdSecrets};
pub use health::{HealthCheck, HealthProbe, HostLimits, HttpProbe};
pub use host::{
    Admin, Announce, Dpdk, FlowTracker, Host, Idle, Ingress, LogFormat, LogLevel, Node, Yann,
};
pub use keys::{KeyFile, KeyFileError};
pub use kind::FileKind;
pub use mistake::{Mistake, Mistakes};
