//! The source's end of the memif.

use arrayvec::ArrayVec;
use jlb_dpdk::{Eal, Mbuf, Mempool, OpenPort, Port, PortOptions, ROOM, RxQueue, TxQueue};
use jlb_role::{BURST, Burst, PacketBuf};
use jlb_runtime::MacAddr;

use super::End;
use crate::PortsError;
use crate::dpdk;

/// Of the system under test, whichever it is.
pub(crate) const SYSTEM_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0xfe, 1]);
pub(crate) const SOURCE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0xfe, 2]);
/// Packet buffers of each process: the default of our ingress.
pub(crate) const BUFFERS: u32 = 16_383;
/// Packets in a queue; a memif goes by its `rsize`.
pub(crate) const DESCRIPTORS: u16 = 1024;
/// Frames put in and taken out at once: the source must be faster than the systems, whose bursts are of 32.
pub(crate) const AT_ONCE: usize = 4 * BURST;
/// Frames of the members that may wait until the ring takes them.
const WAITING: usize = 4096;

/// The memif's name in DPDK at the end of that role, `server` or `client`: both systems have the same.
pub(crate) fn device(role: &str, socket: &str) -> String {
    let mac = if role == "server" { SYSTEM_MAC } else { SOURCE_MAC };
    // 2¹² packets in each direction.
    format!("net_memif0,role={role},id=0,socket={socket},rsize=12,mac={mac}")
}

/// A port with one queue, and buffers.
pub(crate) struct Wire {
    pub(crate) tx: TxQueue,
    pub(crate) rx: RxQueue,
    pub(crate) pool: Mempool,
    /// What goes before everything else.
    waiting: Vec<Mbuf>,
    _port: Port,
}

impl Wire {
    pub(crate) fn open(end: &End) -> Result<(Eal, Self), PortsError> {
        let device = device("client", &end.socket).parse()?;
        let eal = dpdk::start(&device, Some(end.cpu), !end.ordinary)?;
        let pool = Mempool::new(&eal, BUFFERS, ROOM)?;
        let OpenPort { port, mut rx, mut tx } =
            Port::open(&eal, &device, &PortOptions::default(), &pool)?;
        let (Some(rx), Some(tx)) = (rx.pop(), tx.pop()) else { return Err(PortsError::NoBuffer) };
        Ok((eal, Self { tx, rx, pool, waiting: Vec::new(), _port: port }))
    }

    /// Puts a frame to those that go next. When too many wait it is lost, as on a wire.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), PortsError> {
        if self.waiting.len() < WAITING {
            let mut b = self.pool.alloc().ok_or(PortsError::NoBuffer)?;
            b.append(bytes.len()).map_err(|_| PortsError::NoBuffer)?.copy_from_slice(bytes);
            self.waiting.push(b);
        }
        Ok(())
    }

    /// Sends of those that wait as many as the ring takes; whether it took all.
    #[inline]
    pub(crate) fn flush(&mut self) -> bool {
        while !self.waiting.is_empty() {
            let n = self.waiting.len().min(BURST);
            let mut burst: Burst<Mbuf> = self.waiting.drain(..n).collect();
            self.tx.burst(&mut burst);
            if !burst.is_empty() {
                self.waiting.splice(..0, burst);
                return false;
            }
        }
        true
    }

    /// Takes out what has come.
    #[inline]
    pub(crate) fn take(&mut self) -> ArrayVec<Mbuf, AT_ONCE> {
        let mut back = ArrayVec::new();
        self.rx.burst(&mut back);
        back
    }
}
