use arrayvec::ArrayVec;
use jlb_dpdk::{Mbuf, Mempool, TxQueue};
use jlb_neighbours::{MacAddr, Neighbours};
use jlb_role::{BURST, Io, Nanos, PacketBuf, Reason, Report, UnderlayDst, WorkerId};
use jlb_wire::{Seal, Signed, TOGETHER};
use rtrb::{Producer, PushError};
use tokio::sync::mpsc;

use crate::ethernet;
use crate::exception::Exception;

/// Frames sent in one call: a received burst may make twice as many (an answer to each, and an Open).
const TX_BURST: usize = 2 * BURST;

/// Source of frames whose own one was taken off: the kernel learns nothing from it.
const NOBODY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);

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

    /// To the kernel, where the port does not share an interface with it.
    pub(crate) exception: Option<Box<Exception>>,
    unsent: ArrayVec<Mbuf, TX_BURST>,
    /// Which of `unsent` lack their MAC, in order.
    unsealed: ArrayVec<(usize, Seal), TX_BURST>,
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
            exception: None,
            unsent: ArrayVec::new(),
            unsealed: ArrayVec::new(),
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
        if let Some(exception) = &mut self.exception {
            let lost = exception.flush();
            self.count(lost, Reason::TxFull);
        }
        self.seal();
        while !self.unsent.is_empty() {
            let sent = self.tx.burst(&mut self.unsent);
            self.counters.sent += sent as u64;
            if sent == 0 {
                self.count(self.unsent.len(), Reason::TxFull);
                Mbuf::free_bulk(&mut self.unsent);
            }
        }
    }

    /// What the role has no use for may be the kernel's. Apart, since drops are everywhere in the role's code.
    #[cold]
    fn not_for_us(&mut self, mut b: Mbuf) {
        if self.exception.is_some() && ethernet::prepend(&mut b, NOBODY, self.mac).is_ok() {
            match self.give_kernel(b) {
                Ok(()) => return,
                Err(back) => b = back,
            }
        }
        self.count(1, Reason::NotForUs);
        drop(b);
    }

    /// Gives a frame to the kernel, if there is a way, and it is not overrun; else it comes back.
    pub(crate) fn give_kernel(&mut self, frame: Mbuf) -> Result<(), Mbuf> {
        let Some(exception) = &mut self.exception else { return Err(frame) };
        let lost = exception.push(frame)?;
        self.count(lost, Reason::TxFull);
        Ok(())
    }

    /// Sends what the kernel has to send; whether there was anything.
    pub(crate) fn take_kernels(&mut self, now: Nanos) -> bool {
        let Some(exception) = &mut self.exception else { return false };
        let (frames, too_long) = exception.receive(now, self.mac, self.mtu);
        self.count(too_long, Reason::Oversized);
        let any = !frames.is_empty();
        for frame in frames {
            if self.unsent.is_full() {
                self.flush();
            }
            self.unsent.push(frame);
        }
        any
    }

    /// Writes all MACs that are lacking, side by side.
    fn seal(&mut self) {
        for seals in self.unsealed.chunks(TOGETHER) {
            // All keys are the same, but just after they have changed.
            for seals in seals.chunk_by(|(_, a), (_, b)| a.key() == b.key()) {
                let signed = seals.iter().map(|(n, seal)| seal.signed(self.unsent[*n].bytes()));
                // None is without: each was written with room for its MAC.
                let signed: ArrayVec<Signed, TOGETHER> =
                    signed.map(Option::unwrap_or_default).collect();
                let macs = Signed::macs(&signed, seals[0].1.key());
                for ((n, seal), mac) in seals.iter().zip(macs) {
                    seal.put(self.unsent[*n].bytes_mut(), mac);
                }
            }
        }
        self.unsealed.clear();
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

impl WorkerIo<'_> {
    /// Puts a packet, as a frame, to those that will be sent. Gives its number among them.
    #[inline]
    fn collect(&mut self, mut b: Mbuf, to: UnderlayDst) -> Option<usize> {
        let to = match to {
            UnderlayDst::Member(id) => self.neighbours.member(id),
            UnderlayDst::Ip(address) => self.neighbours.route(address),
        };
        if let Err(why) = self.link.frame(&mut b, to) {
            self.drop(b, why);
            return None;
        }
        if self.link.unsent.is_full() {
            self.link.flush();
        }
        self.link.unsent.push(b);
        Some(self.link.unsent.len() - 1)
    }
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

    fn send(&mut self, b: Mbuf, to: UnderlayDst) {
        self.collect(b, to);
    }

    fn send_sealed(&mut self, b: Mbuf, to: UnderlayDst, seal: &Seal) {
        if let Some(n) = self.collect(b, to) {
            self.link.unsealed.push((n, seal.behind(ethernet::HEADER)));
        }
    }

    fn drop(&mut self, b: Mbuf, why: Reason) {
        if why == Reason::NotForUs {
            return self.link.not_for_us(b);
        }
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
