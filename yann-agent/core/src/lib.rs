//! The agent of a backend host (YANN), in two halves.
//!
//! | half | decides | runs as |
//! |---|---|---|
//! | [`Kernel`] | what becomes of every packet: admission, delivery, refusal, the way out | eBPF; this is its reference model, which the simulator runs and the eBPF programs are compared with, byte for byte |
//! | [`Agent`] | nothing: it publishes Accept, Close, NotMine and Refresh, and learns boot ids | the daemon |
//!
//! What the two share lies in the eBPF maps, whose layouts are in [`maps`]: the model holds the very same values, so
//! that a test can load a model's state into the kernel and read it back. The kernel half tells the user half what
//! happened by [`KernelEvent`]s (a ring buffer); the host's TCP/IP stack is behind [`Sockets`].
//!
//! Pure: no I/O, no clock, no randomness.
#![forbid(unsafe_code)]

pub mod admission;
mod agent;
mod event;
mod kernel;
pub mod maps;
mod sockets;
pub mod willing;
mod word;

pub use agent::{
    Agent, AgentConfig, AgentEvent, CLOSE_REPEATS, FIRST_REPEAT, LOAD_EVERY, Owners, REFRESH_IDLE,
    REFRESH_SESSIONS, SOLE_SILENT, SOLE_WORKERS,
};
pub use event::{EventKind, KernelEvent};
pub use kernel::{
    COOKIE_LIMIT, Configuration, DEFAULT_UDP_IDLE, Kernel, KernelCounters, KernelLimits,
    NO_SERVICE, NO_SOCKET_LIMIT, SWEEP_INTERVAL, Swept, Verdict,
};
pub use sockets::{Listener, Sockets, TcpSocket};
pub use word::{BackendWord, USER_WORKER, Word, first_sequence};
