//! The choice of a backend for a new flow.

use jlb_flow::FlowId;
use jlb_map::{Policy, Service, Snapshot};
use jlb_peers::{Peers, Random};
use jlb_role::Reason;
use jlb_wire::{Incarnation, MemberId, Tried};

use crate::sources::Sources;

/// Whom new flows may be offered to.
#[derive(Clone, Copy)]
pub(crate) struct Choice<'a> {
    pub(crate) service: &'a Service,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) peers: &'a Peers,
    pub(crate) sources: &'a Sources,
    /// Whom we do not know all flows of yet may be offered some all the same (canary).
    pub(crate) careless: bool,
    pub(crate) salt: u64,
}

impl Choice<'_> {
    /// A backend of the service by its policy: one that lives, is not drained, and was not tried yet. Whether it takes
    /// the flow is its own decision. `None`: nobody is left.
    ///
    /// Trackers that see the same backends pick the same one for a flow. So when a lost message or a dead head makes two
    /// of them lead a chain, they do not split the vote.
    ///
    /// # Errors
    /// [`Reason::NotReady`] when nobody is left but those of whom we, just started, know nothing yet, or who have not yet
    /// told us what flows they have.
    pub(crate) fn pick(
        self,
        tried: &Tried,
        (flow, incarnation): (&FlowId, Incarnation),
    ) -> Result<Option<MemberId>, Reason> {
        // The id is a keyed hash: nobody outside chooses by choosing a port. Each try draws anew.
        let try_number = tried.len() as u64;
        let seed = flow.bucket_hash() ^ u64::from(incarnation.0) << 32 ^ try_number ^ self.salt;
        let eligible = |member| !tried.contains(member) && self.may_have(member);
        let picked = match self.service.policy {
            Policy::Random => weighted(self.service, eligible, &mut Random::new(seed)),
        };
        let hopeful = |member| {
            !tried.contains(member)
                && !self.is_drained(member)
                && (self.peers.undecided(member)
                    || self.peers.offerable(member) && !self.may_have(member))
        };
        if picked.is_none() && self.service.backends.iter().any(|b| hopeful(b.member)) {
            return Err(Reason::NotReady);
        }
        Ok(picked)
    }

    /// Whether a backend can be offered new flows: not before we know those that it has, lest the two be at odds.
    pub(crate) fn may_have(&self, member: MemberId) -> bool {
        self.peers.offerable(member)
            && !self.is_drained(member)
            && (self.careless || self.sources.knows(member, self.peers.boot(member)))
    }

    fn is_drained(&self, member: MemberId) -> bool {
        self.snapshot.member(member).is_none_or(|m| m.drain)
    }
}

/// At random, by weight. Two walks over at most 1024 backends.
fn weighted(
    service: &Service,
    eligible: impl Fn(MemberId) -> bool,
    random: &mut Random,
) -> Option<MemberId> {
    let candidates = || service.backends.iter().filter(|b| eligible(b.member));
    let total: u64 = candidates().map(|b| u64::from(b.weight)).sum();
    let mut at = random.below(total);
    candidates()
        .find(|b| {
            let weight = u64::from(b.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
        .map(|b| b.member)
}

#[cfg(test)]
mod tests {
    use jlb_map::{Admission, Backend, OnExhausted, ReturnPath};
    use jlb_wire::Protocol;

    use super::*;

    #[test]
    fn random_honours_weights_and_exclusions() {
        let id = |n| MemberId::new(n).unwrap();
        let service = Service {
            name: "web".into(),
            vips: vec![],
            port: 80,
            protocol: Protocol::Tcp,
            backends: [(1, 100), (2, 300), (3, 1000), (4, 600)]
                .map(|(n, weight)| Backend { weight, ..Backend::new(id(n)) })
                .to_vec(),
            policy: Policy::Random,
            reject_ttl: 3,
            on_exhausted: OnExhausted::Reset,
            return_path: ReturnPath::Egress,
            admission: Admission::Accept,
        };
        let mut random = Random::new(1);
        let mut counts = [0u32; 5];
        for _ in 0..10_000 {
            let m = weighted(&service, |m| m != id(3), &mut random).unwrap();
            counts[m.index()] += 1;
        }
        // Of 10,000 by 100 : 300 : 600; standard deviations 30, 46, 49.
        assert!(counts[1].abs_diff(1000) < 200, "{counts:?}");
        assert!(counts[2].abs_diff(3000) < 300, "{counts:?}");
        assert!(counts[4].abs_diff(6000) < 300, "{counts:?}");
        assert_eq!(counts[3], 0);
        assert_eq!(weighted(&service, |_| false, &mut random), None);
    }
}
