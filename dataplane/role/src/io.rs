use core::net::IpAddr;

use arrayvec::ArrayVec;
use jlb_wire::{BootId, MemberId, Seal};

use crate::{MetricSink, Nanos, PacketBuf, Reason};

/// Packets handled together: enough to hide memory latency behind prefetches, few enough to stay in L1.
pub const BURST: usize = 32;

/// At most [`BURST`] packets. `rx` empties it.
pub type Burst<B> = ArrayVec<B, BURST>;

/// A worker of this process: an index from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

/// Where the driver is to send a packet. The packet already carries its outermost IP header with that address;
/// this says how to find the neighbour without parsing it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderlayDst {
    /// The underlay address of a member.
    Member(MemberId),
    /// Anybody else: a client.
    Ip(IpAddr),
}

/// What a role tells its daemon. Rare things only: never one per packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A member answered our Probe with this boot id (first time, or changed).
    PeerBoot {
        /// Who.
        member: MemberId,
        /// The boot id that it answered with.
        boot: BootId,
        /// The sequence number of that answer: nothing older of this boot is accepted.
        sequence: u64,
    },
    /// A member answers Probe again.
    PeerAlive {
        /// Who.
        member: MemberId,
    },
    /// A member has missed its Probes: it gets no new flows.
    PeerSuspect {
        /// Who.
        member: MemberId,
    },
    /// A member carries another list under the same generation number: an alarm.
    ListMismatch {
        /// Who.
        member: MemberId,
    },
    /// A backend is dead: we and another member have not heard it for `dead_after`.
    BackendDead {
        /// Who.
        member: MemberId,
    },
    /// A tracker's worker knows what all backends have (again), or does not yet.
    Warm(bool),
    /// A tracker's worker that is not warm waits for the marker of this backend.
    WaitsFor {
        /// Who.
        member: MemberId,
    },
    /// A worker that was told that its daemon leaves has nothing left to do: with it nothing is lost.
    MayLeave,
    /// A tracker's worker pulls the flows of its partitions: an agent's daemon is to collect them from the kernel half.
    Collect(Collect),
    /// A tracker's worker decides alone for some partitions, since no other member of their trios answers; or not any more.
    Sole(bool),
    /// A tracker's worker that was shut out pulls: an agent's daemon is to see to it that the kernel half takes no message
    /// of that worker up to this one any more, before it writes what [`Self::SoleChanged`] asks for next.
    Pulled {
        /// Which tracker.
        member: MemberId,
        /// Its boot id.
        boot: BootId,
        /// Sequence number of its pull.
        sequence: u64,
    },
    /// An agent's sole owners have changed, or whom they shut out, for the so-manieth time: its daemon is to write them into the kernel half's map,
    /// and to say when that is done.
    SoleChanged {
        /// Which change.
        change: u64,
    },
}

/// Whose flows an agent's daemon is to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collect {
    /// The tracker that pulls.
    pub tracker: MemberId,
    /// Its boot, which the kernel half must hold for current before it is asked: then whatever was admitted by the vote of
    /// another boot is there already, and nothing will be (rule 5).
    pub boot: BootId,
    /// The nonce of this pull, to tell its answer from that of another.
    pub nonce: u64,
}

/// What a state machine may ask of the world.
pub trait Io<B: PacketBuf> {
    /// An empty buffer with [`crate::BUFFER_HEADROOM`] and [`crate::BUFFER_ROOM`], or `None` when the pool is empty.
    fn alloc(&mut self) -> Option<B>;
    /// Sends a packet (outermost IP header first).
    fn send(&mut self, b: B, to: UnderlayDst);
    /// Sends a control message that is complete but for its MAC. A driver may write those of many at once, before any of
    /// them leaves.
    fn send_sealed(&mut self, mut b: B, to: UnderlayDst, seal: &Seal) {
        seal.write(b.bytes_mut());
        self.send(b, to);
    }
    /// Frees a packet and counts it under that reason.
    fn drop(&mut self, b: B, why: Reason);
    /// Gives a received packet, unchanged, to the worker that owns its flow; it arrives there through `rx`.
    fn hand_over(&mut self, b: B, to: WorkerId);
    /// Tells the daemon.
    fn report(&mut self, r: Report);
}

/// A pure state machine. See the crate's page for the rule that its driver keeps.
pub trait Role<B: PacketBuf> {
    /// What can happen to it besides packets and time (a new snapshot, a socket that closed).
    type Event;

    /// Takes a burst of received packets, each from its outermost IP header; leaves it empty.
    fn rx(&mut self, now: Nanos, burst: &mut Burst<B>, io: &mut impl Io<B>);
    /// Takes an event.
    fn event(&mut self, now: Nanos, event: Self::Event, io: &mut impl Io<B>);
    /// Does what is due. Bounded work: what is left over shows in [`Self::next_deadline`].
    fn tick(&mut self, now: Nanos, io: &mut impl Io<B>);
    /// When `tick` wants to be called, at the latest. `None`: nothing is pending.
    fn next_deadline(&self) -> Option<Nanos>;
    /// How many packets of clients and flows it has handled so far (not Probe, not Load): while this number stands
    /// still, a driver told to save power lets its worker sleep. `None`: the role does not tell them apart, and
    /// every received packet counts.
    fn flow_packets(&self) -> Option<u64> {
        None
    }
    /// Gives every counter and gauge of this instance. Called at a scrape, on the worker's own thread.
    fn collect(&self, out: &mut dyn MetricSink);
}
