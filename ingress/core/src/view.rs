use core::net::IpAddr;
use std::sync::Arc;

use jlb_flow::{FlowHasher, FlowId};
use jlb_map::{Addresses, ServiceId, Snapshot};
use jlb_wire::{FiveTuple, Glance, MemberId, words_of};

use crate::directory::Directory;
use crate::encap::Templates;

/// One snapshot, prepared for the packet path.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) directory: Directory,
    pub(crate) templates: Templates,
    hasher: FlowHasher,
    /// Our underlay addresses; none while the list does not name us.
    own: Addresses,
}

impl View {
    pub(crate) fn new(snapshot: Arc<Snapshot>, me: MemberId) -> Self {
        Self {
            directory: Directory::new(&snapshot),
            templates: Templates::new(&snapshot, me),
            hasher: FlowHasher::new(snapshot.keys().hash_key),
            own: snapshot.member(me).map(|m| m.addresses).unwrap_or_default(),
            snapshot,
        }
    }

    #[inline]
    pub(crate) fn id(&self, tuple: &FiveTuple) -> FlowId {
        self.hasher.id(tuple)
    }

    /// The ids of all these packets' flows, in order.
    #[inline]
    pub(crate) fn ids(&self, glances: &[Glance], mut each: impl FnMut(FlowId)) {
        for same in glances.chunk_by(|a, b| a.v6 == b.v6) {
            if same[0].v6 {
                self.hasher.ids_of_words(same.len(), |n| *same[n].words(), &mut each);
            } else {
                let two = |n: usize| [same[n].words()[0], same[n].words()[1]];
                self.hasher.ids_of_words(same.len(), two, &mut each);
            }
        }
    }

    /// Whether a packet goes to our underlay address, whatever else it is.
    #[inline]
    pub(crate) fn is_ours(&self, bytes: &[u8]) -> bool {
        match (bytes.first().map(|b| b >> 4), self.own.v4, self.own.v6) {
            (Some(4), Some(own), _) => bytes.get(16..20) == Some(&own.octets()),
            (Some(6), _, Some(own)) => bytes.get(24..40) == Some(&own.octets()),
            _ => false,
        }
    }

    #[inline]
    pub(crate) fn service(&self, tuple: &FiveTuple) -> Option<ServiceId> {
        self.directory.service(tuple.is_v6(), &words_of(tuple))
    }

    #[inline(always)]
    pub(crate) fn serves(&self, glance: &Glance) -> bool {
        self.directory.service(glance.v6, glance.words()).is_some()
    }

    /// Whether a packet from a VIP may go there: to a client, never back into the system.
    #[inline]
    pub(crate) fn is_client(&self, ip: IpAddr) -> bool {
        !self.directory.is_vip(ip) && !self.snapshot.in_underlay(ip)
    }

    /// Whether an answer of our own may go there: besides, one host's address (RFC 1122, section 3.2.2).
    pub(crate) fn may_answer(&self, ip: IpAddr) -> bool {
        let one_host = match ip {
            IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast(),
            IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
        };
        one_host && !ip.is_loopback() && self.is_client(ip)
    }
}
