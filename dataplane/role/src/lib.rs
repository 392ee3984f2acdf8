//! The contract between JLB's state machines and whatever drives them.
//!
//! A [`Role`] (ingress, tracker, agent) is a pure state machine: packets, events and the time go in by
//! [`Role::rx`], [`Role::event`] and [`Role::tick`]; packets and reports come out through an [`Io`]. It does no
//! I/O, reads no clock and draws no randomness: seeds and boot ids come in at construction. So the DPDK workers,
//! the simulator, the model checker, the tests and the benches drive the very same code.
//!
//! The rule of the contract, in one sentence: **a driver calls `rx` with every burst, `event` with every change of
//! configuration, `tick` not later than `next_deadline`, with a time that never goes back, and carries out what
//! the role asked of `Io` in order.**
#![forbid(unsafe_code)]

mod buffer;
mod fake;
mod io;
mod metrics;
mod reason;
mod rules;
mod time;

pub use buffer::{BUFFER_HEADROOM, BUFFER_ROOM, NoRoom, PacketBuf, conformance};
pub use fake::{FakeBuf, FakeIo};
pub use io::{BURST, Burst, Collect, Io, Report, Role, UnderlayDst, WorkerId};
pub use metrics::{Histogram, Metric, MetricKind, MetricSink, Sample, Samples, Value};
pub use reason::Reason;
pub use rules::{AllRules, Rule, Rules, Without};
pub use time::Nanos;
