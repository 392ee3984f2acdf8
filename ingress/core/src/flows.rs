use std::collections::VecDeque;

use jlb_flow::{Cookie, Cursor, FlowId, FlowTable, Full, Inserted, Slot, Verdict};
use jlb_role::Nanos;
use jlb_wire::{Incarnation, MemberId, Protocol};

/// How long a closed flow still leads its late packets to its backend (design, section 4).
pub(crate) const CLOSING_TIME: Nanos = Nanos::from_secs(2);

/// An established flow of which nothing was seen between two looks goes: so at the latest after twice as long. An entry is
/// only a cache, and a later packet asks (design, section 4).
const IDLE: Nanos = Nanos::from_secs(300);

/// What is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Waits for an answer; the rest is in the pool of pending entries.
    Pending { protocol: Protocol, cookie: Cookie },
    /// Belongs to a backend.
    Established { protocol: Protocol, backend: MemberId, incarnation: Incarnation },
    /// Belonged to a backend until just now.
    Closing { protocol: Protocol, backend: MemberId, incarnation: Incarnation },
}

/// What the table holds of a flow: 8 bytes, so that a bucket is one cache line. (An enum around [`Flow`] would take 12.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Pending {
        protocol: Protocol,
        cookie: Cookie,
    },
    Established {
        protocol: Protocol,
        backend: MemberId,
        incarnation: Incarnation,
    },
    /// Established, and nothing of it was seen since the last look.
    Quiet {
        protocol: Protocol,
        backend: MemberId,
        incarnation: Incarnation,
    },
    Closing {
        protocol: Protocol,
        backend: MemberId,
        incarnation: Incarnation,
    },
}

const _: () = assert!(size_of::<Stored>() == 8);

impl Stored {
    #[inline]
    const fn of(flow: Flow) -> Self {
        match flow {
            Flow::Pending { protocol, cookie } => Self::Pending { protocol, cookie },
            Flow::Established { protocol, backend, incarnation } => {
                Self::Established { protocol, backend, incarnation }
            }
            Flow::Closing { protocol, backend, incarnation } => {
                Self::Closing { protocol, backend, incarnation }
            }
        }
    }

    #[inline]
    const fn flow(self) -> Flow {
        match self {
            Self::Pending { protocol, cookie } => Flow::Pending { protocol, cookie },
            Self::Established { protocol, backend, incarnation }
            | Self::Quiet { protocol, backend, incarnation } => {
                Flow::Established { protocol, backend, incarnation }
            }
            Self::Closing { protocol, backend, incarnation } => {
                Flow::Closing { protocol, backend, incarnation }
            }
        }
    }
}

/// Index of the counts of established flows.
const ESTABLISHED: usize = 1;

/// A flow's state, for status and checkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// An Open is under way.
    Pending {
        /// That it names: 0 for UDP.
        incarnation: Incarnation,
        /// Packets that wait, the one inside Open included.
        packets: usize,
    },
    /// A Query is under way.
    Asked {
        /// Packets that wait.
        packets: usize,
    },
    /// Packets go to a backend.
    Established {
        /// Which.
        backend: MemberId,
        /// Of the flow there.
        incarnation: Incarnation,
    },
    /// Packets still go to the backend where it was.
    Closing {
        /// Which.
        backend: MemberId,
        /// Of the flow there.
        incarnation: Incarnation,
    },
}

impl Flow {
    const fn state(self) -> usize {
        match self {
            Self::Pending { .. } => 0,
            Self::Established { .. } => ESTABLISHED,
            Self::Closing { .. } => 2,
        }
    }

    const fn protocol(self) -> Protocol {
        match self {
            Self::Pending { protocol, .. }
            | Self::Established { protocol, .. }
            | Self::Closing { protocol, .. } => protocol,
        }
    }
}

/// The flow table, with what keeps it in order: closing entries and their time, and counts by state.
#[derive(Debug)]
pub(crate) struct Flows {
    table: FlowTable<Stored>,
    /// When closing entries go. All live equally long, so the oldest is in front. An entry that a new incarnation
    /// replaced meanwhile is told by its own.
    closing: VecDeque<Closing>,
    /// By state and protocol.
    counts: [[u64; 2]; 3],
    /// Where the search for flows of vanished backends stands.
    sweep: Option<Cursor>,
    /// Where the search for flows that have fallen silent stands, and when the next one begins.
    aging: Option<Cursor>,
    next_aging: Nanos,
    /// Backends that began anew: datagram flows of theirs that the search meets are from before.
    renewed: Vec<MemberId>,
}

#[derive(Clone, Copy, Debug)]
struct Closing {
    until: Nanos,
    id: FlowId,
    incarnation: Incarnation,
}

impl Flows {
    pub(crate) fn new(capacity: usize, anybody: MemberId, now: Nanos) -> Self {
        let filler = Stored::Quiet {
            protocol: Protocol::Tcp,
            backend: anybody,
            incarnation: Incarnation(0),
        };
        Self {
            table: FlowTable::new(capacity, filler),
            closing: VecDeque::with_capacity(capacity),
            counts: [[0; 2]; 3],
            sweep: None,
            aging: None,
            next_aging: now + IDLE,
            renewed: Vec::new(),
        }
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Flows of a state (as in [`Flow::state`]) and protocol.
    pub(crate) const fn count(&self, state: usize, protocol: Protocol) -> u64 {
        self.counts[state][protocol_index(protocol)]
    }

    /// Asks for the memory where a flow would be, so that it is there when [`Self::seen`] wants it.
    #[inline]
    pub(crate) fn prefetch(&self, id: &FlowId) {
        self.table.prefetch(id);
    }

    /// The same for a flow that is probably not there yet.
    #[inline]
    pub(crate) fn prefetch_new(&self, id: &FlowId) {
        self.table.prefetch_new(id);
    }

    /// The flow. A packet of it is here.
    #[inline]
    pub(crate) fn seen(&mut self, id: &FlowId) -> Option<Flow> {
        let (slot, &stored) = self.table.find_value(id)?;
        if let Stored::Quiet { .. } = stored {
            self.put_at(slot, stored.flow());
        }
        Some(stored.flow())
    }

    /// Written once in a long while, so that the packets of a flow only read its line.
    #[cold]
    fn put_at(&mut self, slot: Slot, flow: Flow) {
        if let Some(stored) = self.table.at_mut(slot) {
            *stored = Stored::of(flow);
        }
    }

    pub(crate) fn get(&self, id: &FlowId) -> Option<Flow> {
        self.table.at(self.table.find(id)?).map(|stored| stored.flow())
    }

    /// Stores a flow, in place of what the table had of it.
    pub(crate) fn put(&mut self, id: &FlowId, flow: Flow) -> Result<(), Full> {
        match self.table.insert(id, Stored::of(flow))? {
            Inserted::New(_) => {}
            Inserted::Existing(slot) => {
                if let Some(stored) = self.table.at_mut(slot) {
                    let old = core::mem::replace(stored, Stored::of(flow)).flow();
                    self.counts[old.state()][protocol_index(old.protocol())] -= 1;
                }
            }
        }
        self.counts[flow.state()][protocol_index(flow.protocol())] += 1;
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: &FlowId) {
        if let Some(old) = self.table.remove(id).map(Stored::flow) {
            self.counts[old.state()][protocol_index(old.protocol())] -= 1;
        }
    }

    /// Notes when a flow that was just put as closing is to go.
    pub(crate) fn close_at(&mut self, until: Nanos, id: &FlowId, incarnation: Incarnation) {
        // More closes in 2 s than the table has places: the oldest goes before its time.
        if self.closing.len() >= self.capacity().max(1)
            && let Some(oldest) = self.closing.pop_front()
        {
            self.end(&oldest);
        }
        self.closing.push_back(Closing { until, id: *id, incarnation });
    }

    /// Removes at most `budget` closing entries whose time is over.
    pub(crate) fn expire(&mut self, now: Nanos, budget: usize) {
        for _ in 0..budget {
            let Some(oldest) = self.closing.front().copied().filter(|c| c.until <= now) else {
                return;
            };
            self.closing.pop_front();
            self.end(&oldest);
        }
    }

    fn end(&mut self, closing: &Closing) {
        if let Some(Flow::Closing { incarnation, .. }) = self.get(&closing.id)
            && incarnation == closing.incarnation
        {
            self.remove(&closing.id);
        }
    }

    /// Begins to look for flows whose backend is gone.
    pub(crate) const fn start_sweep(&mut self) {
        self.sweep = Some(Cursor::START);
    }

    /// A backend has a new boot id: it has forgotten its datagram flows, so they go. (A connection's socket may still
    /// be there.)
    pub(crate) fn renew(&mut self, backend: MemberId) {
        if !self.renewed.contains(&backend) {
            self.renewed.push(backend);
        }
        self.start_sweep();
    }

    /// To be called before a flow of that backend is stored: a search for flows from before its new boot must be over,
    /// or it would take this one for such a flow.
    pub(crate) fn settle(&mut self, backend: MemberId, known: impl Fn(MemberId) -> bool) {
        if self.renewed.contains(&backend) {
            self.sweep(usize::MAX, known);
        }
    }

    /// Goes on with the search, for so many places.
    pub(crate) fn sweep(&mut self, places: usize, known: impl Fn(MemberId) -> bool) {
        let Some(from) = self.sweep else { return };
        let (counts, renewed) = (&mut self.counts, &self.renewed);
        let next = self.table.sweep(from, places, |_, _, stored| match stored.flow() {
            Flow::Established { protocol, backend, .. }
            | Flow::Closing { protocol, backend, .. }
                if !known(backend) || (protocol == Protocol::Udp && renewed.contains(&backend)) =>
            {
                let flow = stored.flow();
                counts[flow.state()][protocol_index(flow.protocol())] -= 1;
                Verdict::Remove
            }
            Flow::Pending { .. } | Flow::Established { .. } | Flow::Closing { .. } => Verdict::Keep,
        });
        self.sweep = (next != Cursor::START).then_some(next);
        if self.sweep.is_none() {
            self.renewed.clear();
        }
    }

    /// Goes on with the search for flows that have fallen silent, for so many places; begins one when it is time.
    pub(crate) fn age(&mut self, now: Nanos, places: usize) {
        if self.aging.is_none() && now >= self.next_aging {
            self.next_aging = now + IDLE;
            self.aging = Some(Cursor::START);
        }
        let Some(from) = self.aging else { return };
        let counts = &mut self.counts;
        let next = self.table.sweep(from, places, |_, _, stored| match *stored {
            Stored::Quiet { protocol, .. } => {
                counts[ESTABLISHED][protocol_index(protocol)] -= 1;
                Verdict::Remove
            }
            Stored::Established { protocol, backend, incarnation } => {
                *stored = Stored::Quiet { protocol, backend, incarnation };
                Verdict::Keep
            }
            Stored::Pending { .. } | Stored::Closing { .. } => Verdict::Keep,
        });
        self.aging = (next != Cursor::START).then_some(next);
    }

    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        if self.sweep.is_some() || self.aging.is_some() {
            return Some(Nanos::ZERO);
        }
        self.closing.front().map(|c| c.until).into_iter().chain([self.next_aging]).min()
    }
}

const fn protocol_index(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
    }
}

#[cfg(test)]
mod tests {
    use jlb_flow::{FlowHasher, HashKey};
    use jlb_wire::FiveTuple;

    use super::*;

    #[test]
    fn a_flow_of_the_new_boot_is_not_taken_for_one_of_the_old() {
        let hasher = FlowHasher::new(HashKey([1; 16]));
        let [old, new, other] = [1, 2, 3].map(|port| {
            let client = format!("198.51.100.9:{port}").parse().unwrap();
            let vip = "203.0.113.10:53".parse().unwrap();
            hasher.id(&FiveTuple::new(client, vip, Protocol::Udp).unwrap())
        });
        let [a, b] = [21, 22].map(|n| MemberId::new(n).unwrap());
        let flow = |backend| Flow::Established {
            protocol: Protocol::Udp,
            backend,
            incarnation: Incarnation(7),
        };
        // Many times what one tick sweeps.
        let mut flows = Flows::new(100_000, a, Nanos::ZERO);
        flows.put(&old, flow(a)).unwrap();
        flows.put(&other, flow(b)).unwrap();
        flows.renew(a);
        flows.sweep(1, |_| true);
        assert_eq!(flows.next_deadline(), Some(Nanos::ZERO));
        flows.settle(b, |_| true);
        assert_eq!(flows.next_deadline(), Some(Nanos::ZERO), "none of its business");
        flows.settle(a, |_| true);
        flows.put(&new, flow(a)).unwrap();
        flows.sweep(usize::MAX, |_| true);
        assert_eq!(
            [old, new, other].map(|id| flows.get(&id)),
            [None, Some(flow(a)), Some(flow(b))]
        );
        assert_eq!((flows.count(1, Protocol::Udp), flows.next_deadline()), (2, Some(IDLE)));
    }

    #[test]
    fn a_flow_that_falls_silent_goes_and_one_with_packets_stays() {
        let hasher = FlowHasher::new(HashKey([1; 16]));
        let [talks, silent] = [1, 2].map(|port| {
            let tuple = FiveTuple::v4(
                [198, 51, 100, 9],
                [203, 0, 113, 10],
                [0, port, 0, 80],
                Protocol::Tcp,
            );
            hasher.id(&tuple)
        });
        let backend = MemberId::new(21).unwrap();
        let flow =
            Flow::Established { protocol: Protocol::Tcp, backend, incarnation: Incarnation(7) };
        let mut flows = Flows::new(10_000, backend, Nanos::ZERO);
        flows.put(&talks, flow).unwrap();
        flows.put(&silent, flow).unwrap();
        for round in 1..=3u64 {
            assert_eq!(flows.seen(&talks), Some(flow));
            let now = Nanos(IDLE.0 * round);
            while flows.next_deadline().is_some_and(|at| at <= now) {
                flows.age(now, 100);
            }
            let kept = (round == 1).then_some(flow);
            assert_eq!([flows.get(&talks), flows.get(&silent)], [Some(flow), kept], "{round}");
        }
        assert_eq!(flows.count(ESTABLISHED, Protocol::Tcp), 1);
    }
}
