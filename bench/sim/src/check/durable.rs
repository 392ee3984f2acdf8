use core::ops::RangeInclusive;
use std::collections::{BTreeMap, BTreeSet};

use jlb_role::Nanos;
use jlb_wire::tcp_flags::{ACK, FIN, RST, SYN};
use jlb_wire::{FiveTuple, Tcp};

use super::{Life, Silence, Sticky};

/// Sequence numbers of one connection: more than any script sends.
const SPAN: u32 = 100_000;

/// A SYN-ACK that left its backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) backend: u16,
    /// The server's initial sequence number.
    pub(crate) iss: u32,
    /// Sequence numbers that the server has used: no client expects one behind them.
    used: u32,
    at: Nanos,
}

/// Invariant 2: once a client can have seen a SYN-ACK, nobody but its server ends the connection, as long as the
/// backend's host lives.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    promises: BTreeMap<Life, Promise>,
    /// RSTs that servers sent, by five-tuple and sequence number.
    resets: BTreeSet<(FiveTuple, u32)>,
}

impl Durable {
    /// A backend's stack sent this to a client.
    pub(crate) fn server_sent(
        &mut self,
        now: Nanos,
        backend: u16,
        (tuple, tcp, payload): (FiveTuple, Tcp, usize),
        sticky: &Sticky,
    ) {
        let behind = tcp.seq.wrapping_add(payload as u32 + u32::from(tcp.flags & (SYN | FIN) != 0));
        if tcp.flags & RST != 0 {
            self.resets.insert((tuple, tcp.seq));
        } else if tcp.flags & (SYN | ACK) == SYN | ACK
            && let Some(life) = sticky.life_at(tuple, tcp.ack.wrapping_sub(1))
        {
            let promise = Promise { backend, iss: tcp.seq, used: 1, at: now };
            self.promises.entry(life).or_insert(promise);
        } else {
            for (_, promise) in self.promises.range_mut(lives(tuple)) {
                let used = behind.wrapping_sub(promise.iss);
                if promise.backend == backend && used < SPAN {
                    promise.used = promise.used.max(used);
                }
            }
        }
    }

    /// The host of a backend died, and with it what it promised.
    pub(crate) fn died(&mut self, backend: u16) {
        self.promises.retain(|_, promise| promise.backend != backend);
    }

    /// The server itself let go of a connection.
    pub(crate) fn gave_up(&mut self, life: Life) {
        self.promises.remove(&life);
    }

    /// What was promised and still holds.
    pub(crate) fn promise(&self, life: Life, silence: &Silence) -> Option<Promise> {
        let promise = self.promises.get(&life)?;
        (!silence.since(promise.backend, promise.at)).then_some(*promise)
    }

    /// The promised connection that this packet for a client would end, if it is a RST that no server sent.
    pub(crate) fn broken_by(
        &self,
        (tuple, tcp): (FiveTuple, Tcp),
        silence: &Silence,
    ) -> Option<(Life, Promise)> {
        if tcp.flags & RST == 0 || self.resets.contains(&(tuple, tcp.seq)) {
            return None;
        }
        let mut lives = self.promises.range(lives(tuple)).map(|(&life, _)| life);
        let ends = |life: &Life| {
            let Some(promise) = self.promise(*life, silence) else { return false };
            let acknowledges = tcp.flags & ACK != 0 && tcp.ack.wrapping_sub(life.isn) < SPAN;
            acknowledges || tcp.seq.wrapping_sub(promise.iss) <= promise.used
        };
        let life = lives.find(ends)?;
        Some((life, self.promise(life, silence)?))
    }
}

/// All incarnations of a five-tuple.
fn lives(tuple: FiveTuple) -> RangeInclusive<Life> {
    Life { tuple, isn: 0 }..=Life { tuple, isn: u32::MAX }
}
