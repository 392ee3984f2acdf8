//! The way between a card that DPDK has for itself and the kernel (the *exception path*): ARP, neighbour discovery, BGP, a
//! login. One end of a veth pair, say, is a port of DPDK; the other is the kernel's interface with the host's addresses and
//! the card's Ethernet address.

use arrayvec::ArrayVec;
use jlb_dpdk::{Mbuf, RxQueue, TxQueue};
use jlb_neighbours::MacAddr;
use jlb_role::{BURST, PacketBuf as _};

use crate::ethernet;

/// A worker's queues of the kernel's port.
#[derive(Debug)]
pub(crate) struct Exception {
    rx: RxQueue,
    tx: TxQueue,
    unsent: ArrayVec<Mbuf, BURST>,
    /// Frames given to the kernel.
    pub(crate) given: u64,
    /// Frames taken from it.
    pub(crate) taken: u64,
}

impl Exception {
    pub(crate) fn new(rx: RxQueue, tx: TxQueue) -> Self {
        Self { rx, tx, unsent: ArrayVec::new(), given: 0, taken: 0 }
    }

    /// Takes a frame for the kernel. Gives how many were lost, since the kernel is too slow.
    pub(crate) fn push(&mut self, frame: Mbuf) -> usize {
        let lost = if self.unsent.is_full() { self.flush() } else { 0 };
        self.unsent.push(frame);
        lost
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

    /// At most a burst of what the kernel sends from the card's address. Its own end of the pair has another one, and
    /// speaks too (IPv6 housekeeping); that must not leave.
    pub(crate) fn receive(&mut self, us: MacAddr, mtu: usize) -> ArrayVec<Mbuf, BURST> {
        let mut frames = ArrayVec::new();
        self.rx.burst(&mut frames);
        frames.retain(|frame: &mut Mbuf| {
            ethernet::is_from(frame.bytes(), us) && frame.len() <= ethernet::HEADER + mtu
        });
        self.taken += frames.len() as u64;
        frames
    }
}
