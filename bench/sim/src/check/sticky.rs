use std::collections::BTreeSet;

use jlb_role::Nanos;
use jlb_wire::{FiveTuple, Packet, Protocol};

use super::{Found, Invariant, Life, Silence};
use crate::map::Map;
use crate::stack::Met;

/// Sequence numbers of one connection: more than any script sends.
const SPAN: u32 = 100_000;

/// Invariant 1. Which incarnation a packet belongs to is known from the ISNs that the clients (and whoever spoofed
/// them) chose.
#[derive(Debug, Default)]
pub(crate) struct Sticky {
    /// ISNs by five-tuple, newest last.
    isns: Map<FiveTuple, Vec<u32>>,
    /// Where an incarnation was delivered first, and when.
    homes: Map<Life, (u16, Nanos)>,
    /// Incarnations whose backend has said that they are over.
    over: BTreeSet<Life>,
}

impl Sticky {
    /// Somebody is about to send this SYN (UDP: first datagram).
    pub(crate) fn begins(&mut self, tuple: FiveTuple, isn: u32) {
        let isns = self.isns.entry(tuple).or_default();
        match tuple.protocol() {
            Protocol::Tcp => isns.push(isn),
            // Datagrams do not say which incarnation they are of: the backend's Close parts them.
            Protocol::Udp => *isns = vec![0],
        }
    }

    /// A backend published the Close of an incarnation.
    pub(crate) fn closed(&mut self, backend: u16, tuple: FiveTuple, isn: u32) {
        let life = Life { tuple, isn };
        match tuple.protocol() {
            Protocol::Tcp => {
                self.over.insert(life);
            }
            // The next datagram begins another incarnation, wherever.
            Protocol::Udp => {
                if self.home(Life { isn: 0, ..life }) == Some(backend) {
                    self.homes.remove(&Life { isn: 0, ..life });
                }
            }
        }
    }

    /// A host died, and with it all incarnations that were at home there.
    pub(crate) fn died(&mut self, backend: u16) {
        self.homes.retain(|_, (home, _)| *home != backend);
    }

    /// The backend where an incarnation was delivered first.
    pub(crate) fn home(&self, life: Life) -> Option<u16> {
        self.homes.get(&life).map(|&(home, _)| home)
    }

    /// The incarnation of a TCP five-tuple with this very ISN.
    pub(crate) fn life_at(&self, tuple: FiveTuple, isn: u32) -> Option<Life> {
        self.isns.get(&tuple)?.contains(&isn).then_some(Life { tuple, isn })
    }

    /// Whose packet this is.
    pub(crate) fn life_of(&self, packet: &Packet) -> Option<Life> {
        let tuple = packet.tuple;
        let isns = self.isns.get(&tuple)?;
        let isn = match packet.tcp {
            Some(tcp) => isns.iter().rev().find(|isn| tcp.seq.wrapping_sub(**isn) < SPAN),
            None => isns.last(),
        };
        isn.map(|&isn| Life { tuple, isn })
    }

    /// Whether a later incarnation of the five-tuple is at home there.
    fn has_successor(&self, life: Life, backend: u16) -> bool {
        let isns = self.isns.get(&life.tuple).map_or(&[][..], Vec::as_slice);
        let later = isns.iter().skip_while(|isn| **isn != life.isn).skip(1);
        let mut homes = later.filter_map(|&isn| self.home(Life { isn, ..life }));
        homes.any(|home| home == backend)
    }

    /// A host delivered a packet to its stack. `lives` tells whether a backend still has a flow of this five-tuple.
    pub(crate) fn delivered(
        &mut self,
        now: Nanos,
        backend: u16,
        (packet, met): (&Packet, Met),
        (silence, lives): (&Silence, impl Fn(u16) -> bool),
        found: &mut Found,
    ) {
        let Some(life) = self.life_of(packet) else {
            return found.add(Invariant::Bytes, now, || {
                format!("backend {backend} delivered a packet that no client sent: {packet:?}")
            });
        };
        // A SYN that meets another connection's socket asks that one a question (RFC 5961); it begins nothing here.
        let asks = packet.tcp.is_some_and(jlb_wire::Tcp::is_open);
        if asks && matches!(met, Met::Socket { isn } if isn != life.isn) {
            return;
        }
        // Nor does another packet that meets what is left of another connection.
        if !asks && matches!(met, Met::Remains { isn } if isn != life.isn) {
            return;
        }
        let (home, at) = *self.homes.entry(life).or_insert((backend, now));
        if home == backend {
            return;
        }
        // A datagram flow that its host has let go of may begin anew elsewhere before the Close is on its way.
        if packet.tcp.is_none() && !lives(home) {
            self.homes.insert(life, (backend, now));
            return;
        }
        if silence.since(home, at) {
            self.homes.insert(life, (backend, now));
            return;
        }
        // Once it is over, a late segment goes wherever its five-tuple belongs now, as on any host. A SYN does not:
        // it would begin again.
        let over = self.over.contains(&life) || !lives(home);
        let late = !asks && over && self.has_successor(life, backend);
        if !late {
            found.add(Invariant::Stickiness, now, || {
                let Life { tuple, isn } = life;
                format!("{tuple:?} i={isn:08x} was delivered on backends {home} and {backend}")
            });
        }
    }
}
