use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jlb_role::Nanos;
use jlb_wire::FiveTuple;

use super::{Found, Invariant};
use crate::map::Map;
use crate::seen::{FORCE, INCUMBENT, PacketKind, REFUSED, Seen, Word};

/// An ingress sends so many Opens for one pending entry (rule 8).
const OPENS_PER_ENTRY: u32 = 4;
/// And so many Queries: six by time, and two more in each of the at most nine rounds of questions.
const QUERIES_PER_ENTRY: u32 = 6 + 2 * 9;
/// A pending entry lives 1 s; its timer has a granule of 1 ms, and the driver may come a moment later.
const ENTRY_LIFE: Nanos = Nanos::from_millis(1_003);
/// Control messages inside for one packet of a client's, on the average over a five-tuple's life: four Opens, each of
/// which drives a chain of four candidates (and a force) through three hops and back, with Cancels of two votes and
/// Closes to seven hosts, eight times each; all of it doubled by a network that repeats every fifth packet.
const MESSAGES_PER_PACKET: u64 = 200;

/// One pending entry of an ingress, as the wire shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    ingress: u16,
    cookie: u32,
    tuple: FiveTuple,
    incarnation: u32,
}

#[derive(Debug, Default)]
struct Life {
    opens: u32,
    queries: u32,
    /// Backends asked for it, by host and force.
    asked: BTreeSet<(u16, bool)>,
    heads: BTreeSet<u16>,
}

/// A candidate that a Cancel withdrew from its head.
type Withdrawn = (u16, u16, bool);

#[derive(Debug, Default)]
struct Traffic {
    /// Packets of clients that reached an ingress.
    outside: u64,
    /// Control messages that members sent.
    inside: u64,
    data: u64,
}

/// Invariants 3 (tries, time) and 5.
#[derive(Debug, Default)]
pub(crate) struct Opens {
    entries: Map<Entry, Life>,
    /// First Opens of the last second, by ingress and worker.
    young: BTreeMap<(u16, u8), VecDeque<Nanos>>,
    /// By incarnation: what Rejects that answer a Cancel took back.
    withdrawn: Map<(FiveTuple, u32), BTreeSet<Withdrawn>>,
    /// Pending entries that began, by ingress.
    begun: BTreeMap<u16, u64>,
    traffic: Map<FiveTuple, Traffic>,
}

impl Opens {
    /// A client's packet was taken from the wire by an ingress.
    pub(crate) fn client_packet(&mut self, tuple: FiveTuple) {
        self.traffic.entry(tuple).or_default().outside += 1;
    }

    /// An ingress died with all that it had under way.
    pub(crate) fn died(&mut self, ingress: u16) {
        self.young.retain(|&(host, _), _| host != ingress);
        self.begun.remove(&ingress);
        self.entries.retain(|entry, _| entry.ingress != ingress);
    }

    /// Member `from` sent this. `candidates` is the service's TTL + 1.
    pub(crate) fn sent(
        &mut self,
        now: Nanos,
        (from, seen): (u16, &Seen),
        tuple: FiveTuple,
        candidates: usize,
        found: &mut Found,
    ) {
        let Some(word) = seen.word else { return };
        let traffic = self.traffic.entry(tuple).or_default();
        traffic.inside += 1;
        if traffic.inside > MESSAGES_PER_PACKET * (traffic.outside + 1) {
            let Traffic { inside, outside, .. } = *traffic;
            found.add(Invariant::NoAmplification, now, || {
                format!("{tuple:?}: {inside} messages for {outside} packets of the client")
            });
        }
        let Word { ingress, cookie, incarnation, .. } = word;
        if seen.kind == PacketKind::Query && word.sender == ingress && from == ingress {
            // Its entry is a pending one, too.
            let life =
                self.entries.entry(Entry { ingress, cookie, tuple, incarnation }).or_default();
            life.queries += 1;
            if life.queries == 1 {
                self.young.entry((ingress, (cookie >> 28) as u8)).or_default().push_back(now);
            }
            if life.queries > QUERIES_PER_ENTRY {
                let queries = life.queries;
                found.add(Invariant::NoAmplification, now, || {
                    format!("ingress {ingress} sent Query {queries} times for one entry: {tuple:?}")
                });
            }
            return;
        }
        if seen.kind == PacketKind::Reject && from == word.backend && word.second == 0 {
            let withdrawn = (word.head, word.backend, word.has(FORCE));
            self.withdrawn.entry((tuple, incarnation)).or_default().insert(withdrawn);
            return;
        }
        if seen.kind != PacketKind::Open || word.has(INCUMBENT) {
            return;
        }
        let life = self.entries.entry(Entry { ingress, cookie, tuple, incarnation }).or_default();
        if word.sender == ingress {
            // A tracker may pass it on.
            if from != ingress {
                return;
            }
            life.opens += 1;
            if life.opens == 1 {
                self.young.entry((ingress, (cookie >> 28) as u8)).or_default().push_back(now);
                *self.begun.entry(ingress).or_default() += 1;
            }
            if life.opens > OPENS_PER_ENTRY {
                let opens = life.opens;
                found.add(Invariant::NoAmplification, now, || {
                    format!("ingress {ingress} sent Open {opens} times for one entry: {tuple:?}")
                });
            }
            return;
        }
        life.heads.insert(word.head);
        if word.receiver == word.backend && !word.has(REFUSED) {
            life.asked.insert((word.backend, word.has(FORCE)));
        }
        // Each head counts its own tries; force asks one of them once more. A Cancel's Reject frees the vote: who was
        // not answered in time heads another chain for the ingress's next Open (rule 7), of which there are four (rule 8).
        let withdrawn = self.withdrawn.get(&(tuple, incarnation)).into_iter().flatten();
        let withdrawn = withdrawn.filter(|(head, ..)| life.heads.contains(head)).count();
        let chains = (life.heads.len() + withdrawn).min(OPENS_PER_ENTRY as usize);
        let limit = (candidates + 1) * chains;
        if life.asked.len() > limit {
            let asked = life.asked.clone();
            found.add(Invariant::Termination, now, || {
                format!("{tuple:?} i={incarnation:08x}: {limit} tries at most, asked {asked:?}")
            });
        }
    }

    /// An ingress sent a client's packet on to a backend.
    pub(crate) fn data(&mut self, now: Nanos, tuple: FiveTuple, found: &mut Found) {
        let traffic = self.traffic.entry(tuple).or_default();
        traffic.data += 1;
        if traffic.data > traffic.outside {
            found.add(Invariant::NoAmplification, now, || {
                format!("{tuple:?}: more Data than packets of the client")
            });
        }
    }

    /// An ingress worker holds so many pending entries: no more than began within an entry's life.
    pub(crate) fn holds(
        &mut self,
        now: Nanos,
        (ingress, worker): (u16, u8),
        entries: usize,
        found: &mut Found,
    ) {
        let young = self.young.entry((ingress, worker)).or_default();
        while young.front().is_some_and(|&at| now.since(at) > ENTRY_LIFE) {
            young.pop_front();
        }
        if entries > young.len() {
            let young = young.len();
            found.add(Invariant::Termination, now, || {
                format!("ingress {ingress} worker {worker} holds {entries} pending entries, {young} of them younger than 1 s")
            });
        }
    }

    /// Pending entries that began at an ingress.
    pub(crate) fn begun(&self, ingress: u16) -> u64 {
        self.begun.get(&ingress).copied().unwrap_or(0)
    }

    /// The highest ratio of messages to client packets, for the bound's own sake.
    pub(crate) fn worst_ratio(&self) -> u64 {
        self.traffic.values().map(|t| t.inside / (t.outside + 1)).max().unwrap_or(0)
    }
}
