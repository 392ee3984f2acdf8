//! The reference model of the eBPF programs. Given the same maps, packet and time, program and model do the same:
//! the same verdict, the same bytes, the same maps afterwards. (What the model lacks is the try-lock on a five-tuple,
//! [`Reason::Busy`]: it has one thread; and the limit on [`crate::EventKind::NotMine`]: its events are few.)

mod close;
mod configure;
mod control;
mod data;
mod open;
mod outgoing;
mod probe;
mod reply;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jlb_flow::{FlowHasher, PARTITIONS};
use jlb_map::Snapshot;
use jlb_role::{Nanos, Reason, Rules};
use jlb_wire::{
    BootId, Content, FiveTuple, MacKeys, MemberId, Outer, RefreshRecord, RejectReason,
    decapsulated_traffic_class,
};

use crate::maps::{
    AddressKey, Answer, AnswerKey, DROP_COUNTERS, Egress, EventRecord, Flow, Host, Member,
    MemberAt, Service, ServiceKey, Standing, Vip, WindowKey, host_flags,
};
use crate::{EventKind, KernelEvent, Sockets, Word};

pub use close::{COOKIE_LIMIT, DEFAULT_UDP_IDLE, NO_SOCKET_LIMIT, SWEEP_INTERVAL, Swept};
pub use configure::{Configuration, NO_SERVICE};

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The stack gets this packet, which was inside.
    Deliver(Vec<u8>),
    /// It goes on as it is: on the way in, to the stack (so to the daemon's UDP socket, if it is one of ours); on the
    /// way out, to the client.
    Pass,
    /// This packet leaves instead: an answer, or the encapsulated reply.
    Send {
        /// From its outer IP header.
        packet: Vec<u8>,
        /// Whose underlay address it carries.
        to: MemberId,
    },
    /// It was understood, and that is all.
    Done,
    /// It goes no further, and is counted.
    Drop(Reason),
}

/// Bounds of the model's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLimits {
    /// Live flows.
    pub flows: usize,
    /// Remembered answers.
    pub answers: usize,
    /// Events that the user half has not taken yet: the ring buffer.
    pub events: usize,
}

/// What the kernel half has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCounters {
    /// Dropped packets: index = [`Reason`] as a number.
    pub drops: [u64; DROP_COUNTERS],
    /// Flows admitted, by slot of the service.
    pub admitted: BTreeMap<u16, u64>,
    /// Flows refused (repetitions not counted), by slot of the service and reason as on the wire.
    pub rejected: BTreeMap<(u16, u8), u64>,
    /// Events lost since the ring buffer was full.
    pub events_lost: u64,
}

impl KernelCounters {
    /// Packets dropped for that reason.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.drops[reason as usize]
    }
}

/// The kernel half of an agent. See the module's page.
#[derive(Debug)]
pub struct Kernel<R: Rules> {
    rules: R,
    limits: KernelLimits,
    me: MemberId,
    word: Arc<Word>,
    keys: MacKeys,
    hasher: FlowHasher,
    host: Host,
    heartbeat: Nanos,
    flows: BTreeMap<FiveTuple, Flow>,
    answers: BTreeMap<AnswerKey, Answer>,
    services: BTreeMap<ServiceKey, Service>,
    live: Vec<u32>,
    vips: BTreeMap<AddressKey, Vip>,
    members: BTreeMap<MemberId, Member>,
    addresses: BTreeMap<AddressKey, MemberAt>,
    boots: BTreeMap<MemberId, BootId>,
    /// By partition: the member id of the tracker that alone decides there, or 0.
    sole: Box<[u16; PARTITIONS]>,
    /// Which trackers that shuts out, and which are obeyed.
    standings: BTreeMap<MemberId, Standing>,
    /// What [`jlb_role::Rule::MarkerFence`] switched off lets in. Never more than one per restart of a member; the eBPF programs
    /// have no such thing.
    former_boots: BTreeSet<(MemberId, BootId)>,
    windows: BTreeMap<WindowKey, crate::maps::Window>,
    egress_hosts: Vec<Egress>,
    events: VecDeque<EventRecord>,
    counters: KernelCounters,
}

/// A received packet that is for the agent, as far as all its kinds are alike.
#[derive(Clone, Copy, Debug)]
struct Arrived<'a> {
    /// To the end of the outer IP packet.
    bytes: &'a [u8],
    outer: Outer,
    /// Who has the outer source address.
    from: MemberAt,
}

impl<R: Rules> Kernel<R> {
    /// With empty maps; the daemon's heartbeat counts from now.
    #[must_use]
    pub fn new(
        me: MemberId,
        snapshot: &Snapshot,
        limits: KernelLimits,
        rules: R,
        word: Arc<Word>,
        now: Nanos,
    ) -> Self {
        let keys = snapshot.keys();
        let mut kernel = Self {
            rules,
            limits,
            me,
            word,
            keys: keys.mac_keys,
            hasher: FlowHasher::new(keys.hash_key),
            host: Host::default(),
            heartbeat: now,
            flows: BTreeMap::new(),
            answers: BTreeMap::new(),
            services: BTreeMap::new(),
            live: Vec::new(),
            vips: BTreeMap::new(),
            members: BTreeMap::new(),
            addresses: BTreeMap::new(),
            boots: BTreeMap::new(),
            sole: Box::new([0; PARTITIONS]),
            standings: BTreeMap::new(),
            former_boots: BTreeSet::new(),
            windows: BTreeMap::new(),
            egress_hosts: Vec::new(),
            events: VecDeque::new(),
            counters: KernelCounters {
                drops: [0; DROP_COUNTERS],
                admitted: BTreeMap::new(),
                rejected: BTreeMap::new(),
                events_lost: 0,
            },
        };
        kernel.configure(snapshot);
        kernel
    }

    /// A packet that came in on the underlay, from its IP header. Never panics, whatever the bytes.
    pub fn ingress(&mut self, now: Nanos, packet: &[u8], sockets: &impl Sockets) -> Verdict {
        if !self.is_for_us(packet) {
            return Verdict::Pass;
        }
        let verdict = self.receive(now, packet, sockets);
        self.counted(verdict)
    }

    /// A packet that the host sends, from its IP header. Never panics, whatever the bytes.
    pub fn egress(&mut self, now: Nanos, packet: &[u8]) -> Verdict {
        let verdict = self.outgoing(now, packet);
        self.counted(verdict)
    }

    /// The daemon is there.
    pub fn heartbeat(&mut self, now: Nanos) {
        self.heartbeat = now;
    }

    /// The oldest event.
    pub fn pop_event(&mut self) -> Option<KernelEvent> {
        // What is in there was made by this half, so it can be read.
        self.events.pop_front().and_then(|record| KernelEvent::from_record(&record))
    }

    /// What [`crate::AgentEvent::Flows`] is to say: the counter, and every flow that is live or closed lately. A boot that
    /// [`Self::peer_boot`] gave before it is the only one whose votes admit flows from here on.
    #[must_use]
    pub fn refresh_records(&self, now: Nanos) -> (u64, Vec<RefreshRecord>) {
        let live = self.flows.iter().map(|(&tuple, flow)| flow.record(tuple));
        let closed = self.answers.iter().filter_map(|(key, answer)| answer.record(now, key));
        (self.word.used().0, live.chain(closed).collect())
    }

    fn counted(&mut self, verdict: Result<Verdict, Reason>) -> Verdict {
        verdict.unwrap_or_else(|reason| {
            self.counters.drops[reason as usize] += 1;
            Verdict::Drop(reason)
        })
    }

    /// Unfragmented UDP to our underlay address and port. All else is none of our business: it passes.
    fn is_for_us(&self, packet: &[u8]) -> bool {
        let udp = match packet.first().map(|b| b >> 4) {
            Some(4) if self.host.flags & host_flags::V4 != 0 => {
                let (Some(h), header_len) = (packet.get(..20), usize::from(packet[0] & 0xf) * 4)
                else {
                    return false;
                };
                let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0;
                if header_len < 20 || h[9] != 17 || fragment || h[16..20] != self.host.v4 {
                    return false;
                }
                header_len
            }
            Some(6) if self.host.flags & host_flags::V6 != 0 => {
                let Some(h) = packet.get(..40) else { return false };
                if h[6] != 17 || h[24..40] != self.host.v6 {
                    return false;
                }
                40
            }
            _ => return false,
        };
        packet.get(udp + 2..udp + 4).is_some_and(|port| port == self.host.port.to_be_bytes())
    }

    fn receive(
        &mut self,
        now: Nanos,
        packet: &[u8],
        sockets: &impl Sockets,
    ) -> Result<Verdict, Reason> {
        let outer = Outer::parse(packet, self.host.port).map_err(jlb_peers::geneve_reason)?;
        let from = *self.addresses.get(&AddressKey::new(outer.src)).ok_or(Reason::NotAMember)?;
        let arrived = Arrived { bytes: &packet[..outer.len], outer, from };
        match outer.content {
            Content::Plain { inner } => self.data(now, &arrived, inner, sockets),
            Content::Control { option, inner } => {
                self.control(now, &arrived, option, inner, sockets)
            }
            Content::Body { body } => self.body(now, &arrived, body),
        }
    }

    fn emit(&mut self, mut event: EventRecord) {
        if EventKind::from_number(event.kind).is_some_and(EventKind::has_load) {
            event.live = self.live(event.service);
        }
        if self.events.len() < self.limits.events {
            self.events.push_back(event);
        } else {
            self.counters.events_lost += 1;
        }
    }

    fn answer(&self, now: Nanos, key: &AnswerKey) -> Option<Answer> {
        let answer = self.answers.get(key)?;
        (now.since(Nanos(answer.at)) < key.lifetime(answer)).then_some(*answer)
    }

    /// Remembers an answer. An entry of the same key, even one whose time is over, gives it its place.
    fn remember(&mut self, key: AnswerKey, answer: Answer) -> Result<(), Reason> {
        if self.answers.len() >= self.limits.answers && !self.answers.contains_key(&key) {
            return Err(Reason::AnswersFull);
        }
        self.answers.insert(key, answer);
        Ok(())
    }

    fn count_reject(&mut self, slot: u16, reason: RejectReason) {
        *self.counters.rejected.entry((slot, reason as u8)).or_default() += 1;
    }
}

/// For status, for checkers, and for comparing with the eBPF maps.
impl<R: Rules> Kernel<R> {
    /// Number of live flows.
    #[must_use]
    pub fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// The live flow of a five-tuple.
    #[must_use]
    pub fn flow(&self, tuple: &FiveTuple) -> Option<&Flow> {
        self.flows.get(tuple)
    }

    /// All live flows, ordered by five-tuple.
    pub fn flows(&self) -> impl Iterator<Item = (&FiveTuple, &Flow)> {
        self.flows.iter()
    }

    /// All remembered answers, also those whose time is over but which no sweep has met yet.
    pub fn answers(&self) -> impl Iterator<Item = (&AnswerKey, &Answer)> {
        self.answers.iter()
    }

    /// Live flows of a service.
    #[must_use]
    pub fn live(&self, slot: u16) -> u32 {
        self.live.get(usize::from(slot)).copied().unwrap_or(0)
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &KernelCounters {
        &self.counters
    }

    /// The host map.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The map of services.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Service)> {
        self.services.iter()
    }

    /// The map of VIPs.
    pub fn vips(&self) -> impl Iterator<Item = (&AddressKey, &Vip)> {
        self.vips.iter()
    }

    /// The map of members.
    pub fn members(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter()
    }

    /// The map of members by address.
    pub fn addresses(&self) -> impl Iterator<Item = (&AddressKey, &MemberAt)> {
        self.addresses.iter()
    }

    /// The boot ids that are known.
    pub fn boots(&self) -> impl Iterator<Item = (&MemberId, &BootId)> {
        self.boots.iter()
    }

    /// The map of sole owners.
    #[must_use]
    pub fn sole_owners(&self) -> &[u16; PARTITIONS] {
        &self.sole
    }

    /// The map of standings.
    pub fn standings(&self) -> impl Iterator<Item = (MemberId, Standing)> {
        self.standings.iter().map(|(&id, &standing)| (id, standing))
    }

    /// What a tracker's votes are worth.
    fn standing(&self, tracker: MemberId) -> Standing {
        self.standings.get(&tracker).copied().unwrap_or_default()
    }

    /// The windows.
    pub fn windows(&self) -> impl Iterator<Item = (&WindowKey, &crate::maps::Window)> {
        self.windows.iter()
    }

    /// The egress hosts, in the order of their array.
    #[must_use]
    pub fn egress_hosts(&self) -> &[Egress] {
        &self.egress_hosts
    }

    /// The events that nobody has taken, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &EventRecord> {
        self.events.iter()
    }
}

/// The inner DSCP and ECN after decapsulation (RFC 6040).
fn mended_class(outer: u8, inner: u8) -> Result<u8, Reason> {
    decapsulated_traffic_class(outer, inner).ok_or(Reason::Congestion)
}
