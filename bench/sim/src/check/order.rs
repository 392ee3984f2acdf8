use std::collections::VecDeque;

use jlb_role::Nanos;
use jlb_wire::FiveTuple;

use super::{Found, Invariant};
use crate::map::Map;

/// Packets of one flow remembered: more than can wait at an ingress.
const REMEMBERED: usize = 64;

/// What an ingress sends on of one flow keeps the order in which it came in. Packets are known by the hash of their
/// bytes; a repeated one may stand for its later copy.
#[derive(Debug, Default)]
pub(crate) struct Order {
    flows: Map<(u16, FiveTuple), Passed>,
}

#[derive(Debug, Default)]
struct Passed {
    /// What came in and was not yet passed by a later one that went out.
    waiting: VecDeque<u64>,
}

impl Order {
    /// An ingress died with all that waited there.
    pub(crate) fn died(&mut self, ingress: u16) {
        self.flows.retain(|&(host, _), _| host != ingress);
    }

    /// A client's packet came in.
    pub(crate) fn came(&mut self, ingress: u16, tuple: FiveTuple, hash: u64) {
        let waiting = &mut self.flows.entry((ingress, tuple)).or_default().waiting;
        if waiting.len() == REMEMBERED {
            waiting.pop_front();
        }
        waiting.push_back(hash);
    }

    /// It went on, as `Data`.
    pub(crate) fn went(
        &mut self,
        now: Nanos,
        ingress: u16,
        tuple: FiveTuple,
        hash: u64,
        found: &mut Found,
    ) {
        let waiting = &mut self.flows.entry((ingress, tuple)).or_default().waiting;
        match waiting.iter().position(|&h| h == hash) {
            Some(place) => {
                waiting.drain(..=place);
            }
            None => found.add(Invariant::Order, now, || {
                format!(
                    "ingress {ingress} sent a packet of {tuple:?} after a later one, or changed it"
                )
            }),
        }
    }
}
