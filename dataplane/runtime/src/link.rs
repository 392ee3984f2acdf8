use arrayvec::ArrayVec;
use jlb_dpdk::{Mbuf, Mempool, TxQueue};
use jlb_neighbours::{MacAddr, Neighbours};
use jlb_role::{BURST, Io, PacketBuf, Reason, Report, UnderlayDst, WorkerId};
use rtrb::{Producer, PushError};
use tokio::sync::mpsc;

use crate::ethernet;

/// Frames sent in one call: a received burst may make twice as many (an answer to each, and an Open).
const TX_BURST: usize = 2 * BURST;

/// What a worker sends with: its queue, its buffers, its rings to the others. Counts what it drops.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) mac: MacAddr,
    pub(crate) mtu: usize,
    pub(crate) tx: TxQueue,
    pub(crate) pool: Mempool,
    /// By worker; `None` for ourselves.
    pub(crate) others: Vec<Option<Producer<Mbuf>>>,
    pub(crate) me: WorkerId,
    pub(crate) reports: mpsc::Sender<(WorkerId, Report)>,

    unsent: ArrayVec<Mbuf, TX_BURST>,
    /// Empty buffers taken from the pool together.
    spare: ArrayVec<Mbuf, BURST>,
    pub(crate) counters: Counters,
}

/// What a worker counts beside what its role counts.
#[derive(Debug)]
pub(crate) struct Counters {
    /// By [`Reason`].
    pub(crate) dropped: [u64; Reason::ALL.len()],
    pub(crate) handed_over: u64,
    pub(crate) sent: u64,
    pub(crate) reports_lost: u64,
    /// Times that the role wanted a buffer and there was none.
    pub(crate) no_buffer: u64,
}

impl Link {
    pub(crate) fn new(
        (mac, mtu): (MacAddr, u16),
        tx: TxQueue,
        pool: Mempool,
        (me, others): (WorkerId, Vec<Option<Producer<Mbuf>>>),
        reports: mpsc::Sender<(WorkerId, Report)>,
    ) -> Self {
        let counters = Counters {
            dropped: [0; Reason::ALL.len()],
            handed_over: 0,
            sent: 0,
            reports_lost: 0,
            no_buffer: 0,
        };
        let mtu = usize::from(mtu);
        Self {
            mac,
            mtu,
            tx,
            pool,
            others,
            me,
            reports,
            unsent: ArrayVec::new(),
            spare: ArrayVec::new(),
            counters,
        }
    }

    pub(crate) fn count(&mut self, packets: usize, why: Reason) {
        self.counters.dropped[why as usize] += packets as u64;
    }

    /// Sends what was collected. What the driver does not take after it took nothing at all is dropped: to wait
    /// would stop receiving.
    pub(crate) fn flush(&mut self) {
        while !self.unsent.is_empty() {
            let sent = self.tx.burst(&mut self.unsent);
            self.counters.sent += sent as u64;
            if sent == 0 {
                self.count(self.unsent.len(), Reason::TxFull);
                Mbuf::free_bulk(&mut self.unsent);
            }
        }
    }

    /// At the end of a turn: gives back the buffers that nobody wanted, so that the pool shows what the role really
    /// holds. Costs nothing when packets are only forwarded.
    pub(crate) fn rest(&mut self) {
        if !self.spare.is_empty() {
            Mbuf::free_bulk(&mut self.spare);
        }
    }

    fn frame(&self, packet: &mut Mbuf, to: Option<MacAddr>) -> Result<(), Reason> {
        if packet.len() > self.mtu {
            return Err(Reason::TooBig);
        }
        ethernet::prepend(packet, self.mac, to.ok_or(Reason::NoNeighbour)?)
    }
}

/// The world as a role sees it during one burst.
#[derive(Debug)]
pub(crate) struct WorkerIo<'a> {
    pub(crate) link: &'a mut Link,
    pub(crate) neighbours: &'a Neighbours,
}

impl Io<Mbuf> for WorkerIo<'_> {
    fn alloc(&mut self) -> Option<Mbuf> {
        let link = &mut *self.link;
        if link.spare.is_empty() {
            link.pool.alloc_bulk(&mut link.spare);
        }
        // The pool may have a few left, though not a whole burst.
        let buffer = link.spare.pop().or_else(|| link.pool.alloc());
        link.counters.no_buffer += u64::from(buffer.is_none());
        buffer
    }

    fn send(&mut self, mut b: Mbuf, to: UnderlayDst) {
        let to = match to {
            UnderlayDst::Member(id) => self.neighbours.member(id),
            UnderlayDst::Ip(address) => self.neighbours.route(address),
        };
        if let Err(why) = self.link.frame(&mut b, to) {
            return self.drop(b, why);
        }
        if self.link.unsent.is_full() {
            self.link.flush();
        }
        self.link.unsent.push(b);
    }

    fn drop(&mut self, b: Mbuf, why: Reason) {
        self.link.count(1, why);
        drop(b);
    }

    fn hand_over(&mut self, b: Mbuf, to: WorkerId) {
        let link = &mut *self.link;
        // To itself or to nobody: a mistake of the role, which must not become a loop or a crash.
        let Some(ring) = link.others.get_mut(usize::from(to.0)).and_then(Option::as_mut) else {
            return self.drop(b, Reason::Unexpected);
        };
        match ring.push(b) {
            Ok(()) => link.counters.handed_over += 1,
            Err(PushError::Full(b)) => self.drop(b, Reason::HandOverFull),
        }
    }

    fn report(&mut self, r: Report) {
        if self.link.reports.try_send((self.link.me, r)).is_err() {
            self.link.counters.reports_lost += 1;
        }
    }
}
