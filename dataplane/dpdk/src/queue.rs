use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::Mbuf;
use crate::port::OpenedPort;

/// A port's receive queue. One thread at a time polls it: it takes `&mut`, and there is one handle per queue.
#[derive(Debug)]
pub struct RxQueue {
    pub(crate) port: Arc<OpenedPort>,
    pub(crate) queue: u16,
}

/// What one [`RxQueue::burst`] brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets added to the burst.
    pub packets: usize,
    /// Packets freed because they did not fit one buffer.
    pub oversized: usize,
}

impl RxQueue {
    /// Adds packets, each from its Ethernet header, to `packets` while there is room and there are any.
    pub fn burst<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>) -> Received {
        const { assert!(N <= u16::MAX as usize) };
        let old = packets.len();
        let room = packets.remaining_capacity() as u16;
        // SAFETY: `old` is at most the capacity.
        let free = unsafe { packets.as_mut_ptr().add(old) };
        // SAFETY: the port is started while this handle lives, this queue was set up, and nobody else polls it; an
        // Mbuf is a pointer to an mbuf (`repr(transparent)`), and there is room for `room` of them.
        let received =
            unsafe { jlb_dpdk_sys::jlb_rx_burst(self.port.id(), self.queue, free.cast(), room) };
        let received = usize::from(received);
        // SAFETY: the driver has written that many. They are ours alone, with their data inside their buffer;
        // those of several segments, which an Mbuf must not be, go before anybody sees them.
        unsafe { packets.set_len(old + received) };

        fetch(packets.get(old..).unwrap_or_default());
        if packets.iter().skip(old).all(Mbuf::is_single) {
            return Received { packets: received, oversized: 0 };
        }
        packets.retain(|p| p.is_single());
        let kept = packets.len() - old;
        Received { packets: kept, oversized: received - kept }
    }
}

/// Asks for all that the packets' way through needs, so that it comes at once instead of one after the other: each
/// head, then the packet's first bytes and the bytes in front of them, where another header will be.
#[inline]
fn fetch(packets: &[Mbuf]) {
    packets.iter().for_each(Mbuf::fetch_head);
    packets.iter().for_each(Mbuf::fetch_data);
}

/// A port's transmit queue. One thread at a time: see [`RxQueue`].
#[derive(Debug)]
pub struct TxQueue {
    pub(crate) port: Arc<OpenedPort>,
    pub(crate) queue: u16,
}

impl TxQueue {
    /// Sends packets, each from its Ethernet header, in order; those that the driver did not take stay in `packets`.
    /// Gives the number sent.
    pub fn burst<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>) -> usize {
        const { assert!(N <= u16::MAX as usize) };
        let first = packets.as_mut_ptr();
        let offered = packets.len();
        // SAFETY: the port is started while this handle lives, this queue was set up, and nobody else uses it; an
        // Mbuf is a pointer to an mbuf (`repr(transparent)`), and there are `offered` of them.
        let sent = unsafe {
            jlb_dpdk_sys::jlb_tx_burst(self.port.id(), self.queue, first.cast(), offered as u16)
        };
        let sent = usize::from(sent);
        // SAFETY: `sent` is at most `offered`.
        let rest = unsafe { first.add(sent) };
        // SAFETY: moves the rest to the front; the first `sent` belong to the driver now and are overwritten without
        // being dropped.
        unsafe { core::ptr::copy(rest, first, offered - sent) };
        // SAFETY: so many are left, at the front.
        unsafe { packets.set_len(offered - sent) };
        sent
    }
}
