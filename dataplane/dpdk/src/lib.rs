//! The part of DPDK that JLB uses, made safe.
//!
//! [`Eal`] is the running library; [`Mempool`]s and [`Port`]s live in it; a port is opened from a [`Device`] argument
//! and comes with one [`RxQueue`] and [`TxQueue`] per worker, which fill and empty bursts of [`Mbuf`]s. Functions run on
//! lcores by [`Eal::launch`].
//!
//! How this is safe:
//! - A queue handle is not `Clone` and needs `&mut`: one thread at a time polls a queue, as DPDK demands.
//! - Queue handles keep their port, and ports their EAL: a port stops and closes when the last of them is gone.
//! - An [`Mbuf`] owns its packet alone (one segment, no second reference) and gives it back when dropped. Pools live
//!   until [`Eal::cleanup`], which refuses while a packet is out; without it, the end of the process cleans up.

mod device;
mod eal;
mod errno;
mod interrupt;
mod lcore;
mod mbuf;
mod pool;
mod port;
mod queue;

pub use device::{Device, NotADevice};
pub use eal::{CleanupError, Cores, Eal, EalError, EalOptions, LogLevel, MAX_WORKERS, Memory};
pub use lcore::{JoinError, LaunchError, Running, lcore_id};
pub use mbuf::Mbuf;
pub use nix::errno::Errno;
pub use pool::{Mempool, PoolError, ROOM};
pub use port::{OpenPort, Port, PortError, PortOptions, PortStats};
pub use queue::{Received, RxQueue, TxQueue};
