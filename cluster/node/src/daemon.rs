use core::error::Error;
use core::future::Future;
use std::sync::Arc;

use jlb_config::Host;
use jlb_map::Snapshot;
use jlb_neighbours::Neighbours;
use jlb_role::Samples;
use jlb_wire::{BootId, MemberId};
use serde_json::Value;

use crate::membership::Begin;
use crate::{Paths, Program};

/// What a daemon starts from.
#[derive(Debug)]
pub struct Setup {
    /// Which daemon it is.
    pub program: Program,
    /// Where the configuration came from.
    pub paths: Paths,
    /// This host's configuration; the section of the daemon's role is there.
    pub host: Host,
    /// The cluster as it is at the start.
    pub cluster: Arc<Snapshot>,
    /// Where that came from.
    pub(crate) begin: Begin,
    /// This host in it.
    pub me: MemberId,
    /// This process' boot id. (A backend's is in its pinned state instead.)
    pub boot: BootId,
}

/// A daemon as the control thread drives it. Everything is called on that one thread, so nothing here may block it
/// for long: 100 ms at most.
pub trait Daemon {
    /// What makes it impossible to go on.
    type Error: Error + 'static;

    /// Does the daemon's own work on the control thread, such as waiting for reports of its workers: returns when
    /// something was done, and is called again. Must lose nothing when dropped half way.
    fn work(&mut self) -> impl Future<Output = Result<(), Self::Error>>;

    /// Takes a newer snapshot, after a reload or from etcd.
    ///
    /// # Errors
    /// When it cannot be taken; then the daemon ends.
    fn apply(&mut self, cluster: &Arc<Snapshot>) -> Result<(), Self::Error>;

    /// Takes what the kernel knows about the links. Only called for roles with a DPDK port.
    fn neighbours(&mut self, neighbours: Neighbours) {
        drop(neighbours);
    }

    /// Gives all counters and gauges, for a scrape.
    fn collect(&mut self, out: &mut Samples) -> impl Future<Output = ()>;

    /// Whether the daemon does its work: `/healthz`, and systemd's watchdog.
    fn is_alive(&mut self) -> bool;

    /// Why it may not take traffic; empty when it may: `/readyz`.
    fn not_ready(&mut self) -> Vec<String>;

    /// Its part of `/status`.
    fn status(&mut self) -> Value;

    /// Ends its work in an orderly way, after SIGTERM.
    fn stop(&mut self) -> impl Future<Output = ()>;
}
