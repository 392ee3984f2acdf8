//! The choice of a backend for a new flow, by the service's policy.
//!
//! What a tracker knows of a backend's load is what the backend said last (every Accept, Reject, Close and Load says how
//! many live flows the service has there) and the offers of its own that are not answered yet. So no tracker knows what
//! the others do in the same moment, and what it picks may be busier than it thinks. Therefore it also gives a [`Bar`]:
//! how busy the next best is. The backend, who knows its own load, leaves the flow to others when it has more than that.
//!
//! Pure: no clock and no chance of its own; the bench drives it as the tracker does.

mod offers;
mod pace;
mod table;
#[cfg(test)]
mod tests;

use jlb_flow::FlowId;
use jlb_map::{Maglev, Policy, Service, ServiceId, Snapshot};
use jlb_peers::Random;
use jlb_role::Nanos;
use jlb_wire::{Bar, Incarnation, MemberId, RejectReason, Tried};

pub use offers::Offers;
use table::{Known, Table};

/// A flow that needs a backend.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whose.
    pub service: ServiceId,
    /// A hash of the five-tuple that clients cannot choose.
    pub hash: u64,
    /// What tells its incarnations apart. Trackers that know the same pick the same for the same flow.
    pub salt: u64,
    /// Who refused it already.
    pub tried: &'a Tried,
    /// Further candidates that may be asked after this one.
    pub reject_ttl: u8,
}

impl<'a> Ask<'a> {
    /// For a flow, of which only this incarnation is meant.
    #[must_use]
    pub fn new(
        service: ServiceId,
        (flow, incarnation): (&FlowId, Incarnation),
        tried: &'a Tried,
        reject_ttl: u8,
    ) -> Self {
        let salt = u64::from(incarnation.0) << 32;
        Self { service, hash: flow.bucket_hash(), salt, tried, reject_ttl }
    }
}

/// Why a backend says how busy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It took a flow or not, or just says so.
    Load,
    /// A flow has ended.
    End,
    /// It refused a flow, and will refuse the next one ([`jlb_wire::RejectReason::lasts`]). It would else be asked first for
    /// every flow, since it has none.
    Unwilling,
    /// It refused a flow for a reason that it tells unasked, too ([`jlb_wire::RejectReason::is_told`]).
    Refuses(RejectReason),
    /// It says unasked why it wants no new flows, if it wants none, and how much of its weight it wants, in per cent.
    Told(Option<RejectReason>, u8),
}

/// Who is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The backend.
    pub backend: MemberId,
    /// From how many live flows on it is to leave the flow to others.
    pub bar: Bar,
    /// That it is unwell is no reason to refuse: most are.
    pub panic: bool,
}

/// What one worker of a tracker knows of the backends' load, and the policies' own state. 130 bytes for each backend of
/// each service.
#[derive(Debug, Default)]
pub struct Picker {
    services: Vec<Table>,
    /// The service whose panic was looked at last.
    watched: usize,
    watch_due: Nanos,
}

impl Picker {
    /// Knows nothing of any load yet.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        Self { services: snapshot.services().iter().map(Table::new).collect(), ..Self::default() }
    }

    /// Another member list is in force. What is known of those who stay is kept.
    pub fn update(&mut self, old: &Snapshot, new: &Snapshot) {
        let mut former = core::mem::take(&mut self.services);
        for service in new.services() {
            let mut table = Table::new(service);
            let was = old.services().iter().position(|s| s.name == service.name);
            if let Some(was) = was.and_then(|at| former.get_mut(at)) {
                table.inherit(was);
            }
            self.services.push(table);
        }
    }

    /// A backend says how many live flows a service has there, and why it says so.
    pub fn heard(
        &mut self,
        now: Nanos,
        (service, backend): (ServiceId, MemberId),
        live: u32,
        news: News,
    ) {
        if let Some(table) = self.services.get_mut(service.index()) {
            table.heard(now, backend, live, news);
        }
    }

    /// Looks whether most backends of a service are unwell; of so many services at a time that they have 2048 backends
    /// together, every 20 ms. `answers`: whether a backend answers, so that it could be offered flows.
    pub fn watch(&mut self, now: Nanos, snapshot: &Snapshot, answers: impl Fn(MemberId) -> bool) {
        if now < self.watch_due || self.services.is_empty() {
            return;
        }
        self.watch_due = now + WATCH_EVERY;
        let mut budget = WATCHED_AT_ONCE;
        for _ in 0..self.services.len() {
            self.watched = (self.watched + 1) % self.services.len();
            let (at, table) = (self.watched, &mut self.services[self.watched]);
            let Some(service) = snapshot.services().get(at) else { continue };
            let drained = |member| snapshot.member(member).is_none_or(|m| m.drain);
            let wanted = |member| service.admits(member) && !drained(member);
            table.watch(now, wanted, &answers);
            budget = budget.saturating_sub(table.len());
            if budget == 0 {
                break;
            }
        }
    }

    /// Whether most backends of a service are unwell, so that their health is ignored.
    #[must_use]
    pub fn panics(&self, service: ServiceId) -> bool {
        self.services.get(service.index()).is_some_and(Table::panics)
    }

    /// What is known of a backend's load, in live flows, our unanswered offers included. `None`: nothing fresh.
    #[must_use]
    pub fn load(
        &self,
        now: Nanos,
        (service, backend): (ServiceId, MemberId),
        offers: &Offers,
    ) -> Option<u32> {
        let table = self.services.get(service.index())?;
        table.load(now, table.position(backend)?, offers)
    }

    /// Who is asked next: one that was not tried and of which `may_have` says that it can be offered flows. `None`:
    /// nobody is left.
    ///
    /// Those that say that they want none are asked when all others were tried. When most of a service's backends are
    /// unwell, that they are unwell does not count.
    ///
    /// At most one walk over the service's backends for each of the flow's tries, two where few can be offered flows; twice
    /// that where all that are left are unwilling.
    pub fn pick(
        &mut self,
        now: Nanos,
        snapshot: &Snapshot,
        ask: &Ask<'_>,
        offers: &Offers,
        may_have: impl Fn(MemberId) -> bool,
    ) -> Option<Picked> {
        let service = snapshot.service_by_id(ask.service)?;
        let table = self.services.get_mut(ask.service.index())?;
        let left = |known: &Known| !ask.tried.contains(known.member) && may_have(known.member);
        let place = Place { now, service, maglev: snapshot.maglev(ask.service), ask, offers };
        let chosen = if table.has_unwilling() {
            let panic = table.panics();
            let willing = |known: &Known| known.is_willing(now, panic) && left(known);
            place.choose(table, willing).or_else(|| place.choose(table, left))
        } else {
            place.choose(table, left)
        };
        let (at, bar) = chosen?;
        let known = table.known(at);
        let backend = known.member;
        let last =
            ask.reject_ttl == 0 || !table.any(|other| other.member != backend && left(other));
        let bar = if last { Bar::LAST } else { bar.unwrap_or(Bar::UNKNOWN) };
        let panic = table.panics() && known.is_unwell(now);
        Some(Picked { backend, bar, panic })
    }
}

/// What a choice depends on, but for who is eligible.
struct Place<'a> {
    now: Nanos,
    service: &'a Service,
    maglev: Option<&'a Maglev>,
    ask: &'a Ask<'a>,
    offers: &'a Offers,
}

impl Place<'_> {
    /// By the service's policy, one of those that are eligible, and how busy the next one is.
    fn choose(
        &self,
        table: &mut Table,
        eligible: impl Fn(&Known) -> bool,
    ) -> Option<(usize, Option<Bar>)> {
        let Self { now, service, maglev, ask, offers } = *self;
        // Each try draws anew.
        let seed = ask.hash ^ ask.salt ^ ask.tried.len() as u64;
        let mut random = Random::new(seed);
        Some(match service.policy {
            Policy::LeastConnections => table.least(now, offers, &mut random, eligible)?,
            Policy::PowerOfTwo => table.better_of_two(now, offers, &mut random, eligible)?,
            Policy::Random => (table.draw(&mut random, eligible)?, None),
            Policy::RoundRobin => (table.turn(eligible)?, None),
            Policy::MaxConnections => {
                let has_room = |known: &Known| known.has_room(now, offers);
                (table.draw(&mut random, |known| eligible(known) && has_room(known))?, None)
            }
            Policy::ConsistentHash => {
                let maglev = maglev?;
                // The flow's own place, then places that are drawn from it; when most are out of question, any other.
                let at = core::iter::once(ask.hash)
                    .chain(core::iter::repeat_with(|| random.next()).take(REHASHED))
                    .map(|hash| maglev.position(hash))
                    .find(|&at| at < table.len() && eligible(table.known(at)));
                let at = at.or_else(|| table.draw(&mut Random::new(seed), eligible))?;
                (at, None)
            }
        })
    }
}

/// How often it is looked whether most backends are unwell.
const WATCH_EVERY: Nanos = Nanos::from_millis(20);
/// Backends that are looked at each time.
const WATCHED_AT_ONCE: usize = 2048;
/// Places of the Maglev table that are tried after the flow's own: with half of the backends out of question, one flow
/// in 65,536 is then placed by weight alone.
const REHASHED: usize = 16;
