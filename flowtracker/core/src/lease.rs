//! Whether our votes count (rule 14): another tracker may decide alone without our having heard of it.
//!
//! It does so only after all agents obey it, and 300 ms later. An agent that obeys it *shuts us out*: says so in its answers to
//! Probe until we have pulled what was decided without us. So while one of them told us within 300 ms that we are not
//! shut out, nobody decides alone (`SoleLease` in docs/guarantees.md). One that says that we are makes us cold, and we are
//! warm again only when all of them say that we are not (`WarmIsAdmitted`).

use jlb_map::MemberRole;
use jlb_peers::PROBE_AGENTS;
use jlb_role::{Io, Nanos, PacketBuf, Rule, Rules};
use jlb_wire::MemberId;

use crate::tracker::Tracker;

/// So long an agent's word counts from the moment at which it was asked: three Probes. The sole owner waits as long.
pub(crate) const LEASE: Nanos = Nanos::from_millis(300);
/// A lease that ends within this is looked at again: by then the next answers are here.
const RENEWS: Nanos = Nanos::from_millis(200);

/// A lease that ends within this is in danger: agents are asked out of turn, so many at each look (every 10 ms). In a flood most
/// answers may be lost, and without a lease nothing is opened.
const IN_DANGER: Nanos = Nanos::from_millis(150);
const ASKED_AT_ONCE: usize = 64;

/// What the agents say of our votes.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Until then nobody decides alone.
    until: Nanos,
    /// Since when we are shut out somewhere, or do not know that we are not.
    pub(crate) shut_out: Option<Nanos>,
    /// Who was asked out of turn last.
    cursor: usize,
}

impl Lease {
    /// Whether nobody decides alone.
    pub(crate) fn holds(&self, now: Nanos) -> bool {
        now < self.until
    }
}

impl<R: Rules> Tracker<R> {
    /// Looks what the agents have said of our votes.
    pub(crate) fn mind_the_lease<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        for &backend in self.snapshot.with_role(MemberRole::Backend) {
            let Some(said) = self.peers.standing(backend) else { continue };
            let shut_out = said.shut_out != 0 && Some(said.boot) == self.peers.boot(backend);
            if shut_out && self.sources.shut_out(backend, (said.boot, said.shut_out)) {
                self.lease.shut_out.get_or_insert(now);
            }
        }
        self.renew_lease(now);
        // One that has just started has to be known to the agents first.
        if self.told_warm == Some(true) && self.lease.until < now + IN_DANGER {
            self.ask_for_lease(now);
        }
        self.tell_warmth(now, io);
    }

    /// At least half of those who are not dead must have said so. (One would do, were everybody's member list the same:
    /// the owner needs all of them.)
    fn renew_lease(&mut self, now: Nanos) {
        if now + RENEWS < self.lease.until {
            return;
        }
        let two = self.rules.on(Rule::TwoWitnesses);
        let backends = self.snapshot.with_role(MemberRole::Backend);
        let there = backends.iter().filter(|&&id| !self.peers.dead(now, id, two));
        let needed = there.count().div_ceil(2);
        let mut said: Vec<Nanos> = backends.iter().filter_map(|&id| self.admitted_at(id)).collect();
        if needed == 0 {
            self.lease.until = now + LEASE;
        } else if said.len() >= needed {
            let at = said.len() - needed;
            let (_, &mut oldest, _) = said.select_nth_unstable(at);
            self.lease.until = self.lease.until.max(oldest + LEASE);
        }
    }

    fn ask_for_lease(&mut self, now: Nanos) {
        let backends = self.snapshot.with_role(MemberRole::Backend);
        for _ in 0..backends.len().min(ASKED_AT_ONCE) {
            self.lease.cursor = (self.lease.cursor + 1) % backends.len();
            let backend = backends[self.lease.cursor];
            if self.admitted_at(backend).is_none_or(|asked| now.since(asked) > PROBE_AGENTS) {
                self.peers.ask(now, backend);
            }
        }
    }

    /// When a backend was asked that said last that we are not shut out there.
    fn admitted_at(&self, backend: MemberId) -> Option<Nanos> {
        let said = self.peers.standing(backend)?;
        (said.shut_out == 0 && Some(said.boot) == self.peers.boot(backend)).then_some(said.asked)
    }

    /// Whether a backend has said lately that we are not shut out there.
    pub(crate) fn is_admitted(&self, now: Nanos, backend: MemberId) -> bool {
        self.admitted_at(backend).is_some_and(|asked| now.since(asked) < LEASE)
    }
}
