//! The way between a card that DPDK has for itself and the kernel (the *exception path*): ARP, neighbour discovery, BGP, a
//! login. One end of a veth pair, say, is a port of DPDK; the other is the kernel's interface with the host's addresses and
//! the card's Ethernet address.

use arrayvec::ArrayVec;
use jlb_dpdk::{Mbuf, RxQueue, TxQueue};
use jlb_neighbours::MacAddr;
use jlb_role::{BURST, Nanos, PacketBuf as _};

use crate::ethernet;

/// Frames that a worker gives the kernel in a millisecond at most: each costs it a microsecond or so, which a flood of what is not
/// ours would take from the clients. 700 Mbit/s of full frames.
const FRAMES: u32 = 64;
const REFILLED: Nanos = Nanos::from_millis(1);

/// A worker's queues of the kernel's port.
#[derive(Debug)]
pub(crate) struct Exception {
    rx: RxQueue,
    tx: TxQueue,
    unsent: ArrayVec<Mbuf, BURST>,
    /// Frames that the kernel may still get, and since when.
    allowed: (u32, Nanos),
    /// Frames given to the kernel.
    pub(crate) given: u64,
    /// Frames taken from it.
    pub(crate) taken: u64,
}

impl Exception {
    pub(crate) fn new(rx: RxQueue, tx: TxQueue) -> Self {
        let allowed = (FRAMES, Nanos::ZERO);
        Self { rx, tx, unsent: ArrayVec::new(), allowed, given: 0, taken: 0 }
    }

    /// Takes a frame for the kernel, unless it has got too many of late. Gives how many were lost, since the kernel is too slow.
    pub(crate) fn push(&mut self, frame: Mbuf) -> Result<usize, Mbuf> {
        let Some(left) = self.allowed.0.checked_sub(1) else { return Err(frame) };
        self.allowed.0 = left;
        let lost = if self.unsent.is_full() { self.flush() } else { 0 };
        self.unsent.push(frame);
        Ok(lost)
    }

    /// Gives the kernel what was collected. Gives how many were lost.
    pub(crate) fn flush(&mut self) -> usize {
        if self.unsent.is_empty() {
            return 0;
        }
        self.given += self.tx.burst(&mut self.unsent) as u64;
        let lost = self.unsent.len();
        Mbuf::free_bulk(&mut self.unsent);
        lost
    }

    /// At most a burst of what the kernel sends from the card's address, and how many frames were too long for the card. The
    /// port's own end of the pair has another address, and speaks too (IPv6 housekeeping); that must not leave.
    pub(crate) fn receive(
        &mut self,
        now: Nanos,
        us: MacAddr,
        mtu: usize,
    ) -> (ArrayVec<Mbuf, BURST>, usize) {
        if now.since(self.allowed.1) >= REFILLED {
            self.allowed = (FRAMES, now);
        }
        let mut frames = ArrayVec::new();
        let mut too_long = self.rx.burst(&mut frames).oversized;
        frames.retain(|frame: &mut Mbuf| {
            let fits = frame.len() <= ethernet::longest(frame.bytes(), mtu);
            let is_ours = ethernet::is_from(frame.bytes(), us);
            too_long += usize::from(is_ours && !fits);
            is_ours && fits
        });
        self.taken += frames.len() as u64;
        (frames, too_long)
    }
}
