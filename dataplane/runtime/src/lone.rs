use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::{Sender, bounded};
use jlb_dpdk::{Mbuf, Mempool, RxQueue, TxQueue};
use jlb_neighbours::{MacAddr, Neighbours};
use jlb_role::{Role, WorkerId};
use tokio::sync::mpsc;

use crate::link::Link;
use crate::runtime::{COMMANDS, REPORTS};
use crate::worker::{Command, Shared, Worker};
use crate::{Clock, Idle, Reports};

/// One worker without a thread: whoever holds it turns its loop, on a thread of DPDK. For benches, which put packets
/// in and take packets out between two turns and measure the turns.
#[derive(Debug)]
pub struct Lone<R: Role<Mbuf>> {
    worker: Worker<R>,
    reports: Reports,
    /// The worker would see a closed channel, and spin faster than in life.
    _commands: Sender<Command<R::Event>>,
}

impl<R: Role<Mbuf>> Lone<R> {
    /// A worker of these queues, of a port with that address and MTU, that takes its buffers from `pool`. The role is
    /// given the time of `clock`.
    pub fn new(
        role: R,
        (rx, tx): (RxQueue, TxQueue),
        link: (MacAddr, u16),
        pool: Mempool,
        neighbours: &Arc<ArcSwap<Neighbours>>,
        clock: Clock,
    ) -> Self {
        let (report, reports) = mpsc::channel(REPORTS);
        let (commands, orders) = bounded(COMMANDS);
        let shared = Arc::new(Shared::new(1, clock));
        let link = Link::new(link, tx, pool, (WorkerId(0), vec![None]), report);
        let queues = (rx, Vec::new(), link);
        let neighbours = Arc::clone(neighbours);
        let worker = Worker::new(role, queues, neighbours, orders, shared, Idle::Spin);
        Self { worker, reports, _commands: commands }
    }

    /// Turns the worker's loop once: at most one burst is received, and all is sent that comes of it.
    pub fn turn(&mut self) {
        self.worker.once();
    }

    /// The role.
    pub const fn role(&self) -> &R {
        self.worker.role()
    }

    /// What the role reported.
    pub const fn reports(&mut self) -> &mut Reports {
        &mut self.reports
    }
}
