//! The ring between the bench and the worker, which stands for the network card and the wire.

use std::time::Instant;

use arrayvec::ArrayVec;
use jlb_dpdk::{Eal, Mbuf, Mempool, OpenPort, Port, PortOptions, ROOM, RxQueue, TxQueue};
use jlb_role::{BURST, Burst, PacketBuf};
use jlb_runtime::MacAddr;

use crate::SpeedError;

/// Frames taken out at once: more than one turn sends.
const OUT: usize = 4 * BURST;

/// The bench's end: what it sends the worker receives, and the other way round.
#[derive(Debug)]
pub(crate) struct Cable {
    tx: TxQueue,
    rx: RxQueue,
    pool: Mempool,
    port: Port,
}

impl Cable {
    /// Cable number `n`, and the worker's queues at its other end. `buffers` can be under way.
    pub(crate) fn new(
        eal: &Eal,
        n: u8,
        buffers: u32,
    ) -> Result<(Self, (RxQueue, TxQueue)), SpeedError> {
        let pool = Mempool::new(eal, buffers, ROOM)?;
        // What goes into transmit queue i of this device comes out of its receive queue i.
        let options = PortOptions { rx_queues: 2, tx_queues: 2, ..PortOptions::default() };
        let device = format!("net_ring{n}").parse()?;
        let OpenPort { port, rx, tx } = Port::open(eal, &device, &options, &pool)?;
        let ([to_worker, ours], [to_us, from_worker]) = (two(rx)?, two(tx)?);
        Ok((Self { tx: to_us, rx: ours, pool, port }, (to_worker, from_worker)))
    }

    /// The worker's Ethernet address and MTU.
    pub(crate) fn link(&self) -> (MacAddr, u16) {
        (self.port.mac(), self.port.mtu())
    }

    /// A buffer with that frame.
    pub(crate) fn frame(&self, bytes: &[u8]) -> Option<Mbuf> {
        let mut b = self.pool.alloc()?;
        b.append(bytes.len()).ok()?.copy_from_slice(bytes);
        Some(b)
    }

    /// Puts a burst in. The ring holds many bursts, so all of it goes.
    #[inline]
    pub(crate) fn put(&mut self, burst: &mut Burst<Mbuf>) {
        self.tx.burst(burst);
    }

    /// Takes everything out.
    #[inline]
    pub(crate) fn take(&mut self, out: &mut Vec<Mbuf>) {
        take(&mut self.rx, out);
    }

    /// What [`Self::put`] and [`Self::take`] cost, in nanoseconds per packet: everything goes straight from one into the
    /// other, by way of the worker's receive queue. The best of many tries, all in L1.
    pub(crate) fn cost(&mut self, worker: &mut RxQueue) -> Result<f64, SpeedError> {
        const BURSTS: usize = 512;
        let frame = |_| self.frame(&[0; 60]).ok_or(SpeedError::NoBuffer);
        let mut burst = (0..BURST).map(frame).collect::<Result<Burst<Mbuf>, _>>()?;
        let mut out = Vec::with_capacity(BURST);
        let mut best = f64::INFINITY;
        for _ in 0..200 {
            let began = Instant::now();
            for _ in 0..BURSTS {
                self.put(&mut burst);
                take(worker, &mut out);
                burst.extend(out.drain(..));
            }
            best = best.min(began.elapsed().as_secs_f64());
        }
        Ok(best * 1e9 / (BURSTS * BURST) as f64)
    }
}

#[inline]
fn take(rx: &mut RxQueue, out: &mut Vec<Mbuf>) {
    let mut frames = ArrayVec::<Mbuf, OUT>::new();
    loop {
        let got = rx.burst(&mut frames).packets;
        out.extend(frames.drain(..));
        if got < OUT {
            return;
        }
    }
}

fn two<T>(queues: Vec<T>) -> Result<[T; 2], SpeedError> {
    <[T; 2]>::try_from(queues).map_err(|queues| SpeedError::Queues(queues.len()))
}
