//! Runs a [`Role`](jlb_role::Role) on DPDK workers, with a control thread beside them.
//!
//! A worker is an lcore with one receive and one transmit queue of the port and one instance of the role. Its loop:
//! receive a burst, take the Ethernet headers away, give the packets to the role; take what other workers handed
//! over; take commands; call `tick` when it is due; find Ethernet addresses for what the role sent, and send it.
//! No lock, no system call, no allocation; all that is shared is a stop flag, a heartbeat, the snapshot of
//! [`Neighbours`] and bounded rings.
//!
//! The control thread is the one that started DPDK (the main lcore; it is not pinned). It has a [`Handle`] to send
//! events, to collect the metrics and to watch the heartbeats, and it receives [`Reports`].
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use arc_swap::ArcSwap;
//! use jlb_dpdk::{Cores, Eal, EalOptions, LogLevel, Mbuf, Memory};
//! use jlb_role::{Burst, Io, MetricSink, Nanos, PacketBuf, Reason, Role};
//! use jlb_runtime::{Neighbours, Options, Runtime};
//!
//! /// Drops everything.
//! struct Sink;
//!
//! impl<B: PacketBuf> Role<B> for Sink {
//!     type Event = ();
//!     fn rx(&mut self, _: Nanos, burst: &mut Burst<B>, io: &mut impl Io<B>) {
//!         burst.drain(..).for_each(|packet| io.drop(packet, Reason::NotReady));
//!     }
//!     fn event(&mut self, _: Nanos, (): (), _: &mut impl Io<B>) {}
//!     fn tick(&mut self, _: Nanos, _: &mut impl Io<B>) {}
//!     fn next_deadline(&self) -> Option<Nanos> {
//!         None
//!     }
//!     fn collect(&self, _: &mut dyn MetricSink) {}
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let device = "net_af_packet0,iface=eth0,qdisc_bypass=1,blocksz=65536,framesz=2048,framecnt=4096".parse()?;
//!     let options = Options::new(device, 1);
//!     let eal = Eal::start(&EalOptions {
//!         workers: 1,
//!         cores: Cores::Floating,
//!         memory: Memory::Ordinary(128),
//!         devices: vec![options.device.clone()],
//!         log: LogLevel::Warning,
//!     })?;
//!     // Whoever follows the kernel's routes stores new snapshots in it.
//!     let neighbours = Arc::new(ArcSwap::from_pointee(Neighbours::none()));
//!     let (runtime, mut reports) = Runtime::start(&eal, &options, &neighbours, |_worker| Sink)?;
//!
//!     tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//!         let handle = runtime.handle();
//!         handle.send_to_all(&())?;
//!         let samples = handle.collect(Duration::from_millis(100)).await;
//!         assert!(handle.heartbeat_ages().all(|(_, age)| age < Duration::from_secs(1)));
//!         while let Some((_worker, _report)) = reports.recv().await {}
//!         Ok::<(), jlb_runtime::SendError>(())
//!     })?;
//!
//!     runtime.stop(Duration::from_secs(1))?;
//!     eal.cleanup()?;
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

mod clock;
mod ethernet;
mod exception;
mod idle;
mod link;
mod lone;
mod metrics;
mod options;
mod runtime;
mod worker;

pub use clock::Clock;
pub use jlb_neighbours::{MacAddr, Neighbours, NotAMacAddr, NotAPrefix, Prefix};
pub use lone::Lone;
pub use options::{Idle, Options};
pub use runtime::{Handle, Reports, Runtime, SendError, StartError};
