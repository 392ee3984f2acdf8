//! Whom a tracker may offer new flows, and whom it offers one.

use jlb_map::{ServiceId, Snapshot};
use jlb_peers::Peers;
use jlb_role::{Nanos, Reason, Rule, Rules};
use jlb_wire::MemberId;

use crate::pick::{Ask, Picked};
use crate::sources::Sources;
use crate::tracker::Tracker;

/// Whom new flows may be offered to.
#[derive(Clone, Copy)]
pub(crate) struct Choice<'a> {
    snapshot: &'a Snapshot,
    peers: &'a Peers,
    sources: &'a Sources,
    /// Whom we do not know all flows of yet may be offered some all the same (canary).
    careless: bool,
}

impl<R: Rules> Tracker<R> {
    pub(crate) fn choice(&self) -> Choice<'_> {
        Choice {
            snapshot: &self.snapshot,
            peers: &self.peers,
            sources: &self.sources,
            careless: !self.rules.on(Rule::Cold),
        }
    }

    /// A backend of the service by its policy: one that lives, is not drained, and was not tried yet. Whether it takes
    /// the flow is its own decision. `None`: nobody is left.
    ///
    /// Trackers that know the same of the backends pick the same one for a flow. So when a lost message or a dead head
    /// makes two of them lead a chain, they seldom split the vote.
    ///
    /// # Errors
    /// [`Reason::NotReady`] when nobody is left but those of whom we, just started, know nothing yet, or who have not yet
    /// told us what flows they have.
    pub(crate) fn pick(&mut self, now: Nanos, ask: &Ask<'_>) -> Result<Option<Picked>, Reason> {
        // Field by field: the picker keeps the turns of round-robin.
        let choice = Choice {
            snapshot: &self.snapshot,
            peers: &self.peers,
            sources: &self.sources,
            careless: !self.rules.on(Rule::Cold),
        };
        let ask = &Ask { salt: ask.salt ^ self.salt, ..*ask };
        let may_have = |member| choice.may_have(member);
        let picked = self.picker.pick(now, &self.snapshot, ask, self.store.offers(), may_have);
        if picked.is_none() && choice.is_hopeful(ask) {
            return Err(Reason::NotReady);
        }
        Ok(picked)
    }
}

impl Choice<'_> {
    /// Whether a backend can be offered new flows: not before we know those that it has, lest the two be at odds.
    pub(crate) fn may_have(&self, member: MemberId) -> bool {
        self.peers.offerable(member)
            && !self.is_drained(member)
            && (self.careless || self.sources.knows(member, self.peers.boot(member)))
    }

    /// Whether somebody who was not tried may come to be one who can be offered the flow.
    fn is_hopeful(&self, ask: &Ask<'_>) -> bool {
        let Some(service) = self.service(ask.service) else { return false };
        service.backends.iter().map(|b| b.member).any(|member| {
            !ask.tried.contains(member)
                && !self.is_drained(member)
                && (self.peers.undecided(member)
                    || self.peers.offerable(member) && !self.may_have(member))
        })
    }

    fn service(&self, id: ServiceId) -> Option<&jlb_map::Service> {
        self.snapshot.service_by_id(id)
    }

    fn is_drained(&self, member: MemberId) -> bool {
        self.snapshot.member(member).is_none_or(|m| m.drain)
    }
}
