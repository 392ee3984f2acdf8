use core::cell::LazyCell;
use core::num::NonZeroU32;

use jlb_map::{Backend, Service};
use jlb_peers::Random;
use jlb_role::Nanos;
use jlb_wire::{Bar, MemberId, RejectReason, ServiceLoad};

use super::News;
use super::offers::Offers;
use super::pace::Pace;

/// What a backend said longer ago than this is not known any more: ten times as long as agents are silent at most.
const FRESH: Nanos = Nanos::from_secs(1);
/// How long a backend that is unwilling comes last; then a flow finds out whether it still is.
const SHUN: Nanos = Nanos::from_millis(200);
/// What that adds to its score: more than the load of any other can be.
const SHUNNED: f64 = 1e10;
/// Draws by weight before all are looked at: with half of the backends out of question, one flow in 65,536 needs it.
const DRAWS: usize = 16;
/// The share of a backend that wants all of its weight.
const ALL: u8 = ServiceLoad::ALL;

/// A service's backends, and what is known of them.
#[derive(Debug)]
pub(super) struct Table {
    backends: Box<[Known]>,
    /// Sum of the weights up to each one, itself included.
    cumulative: Box<[u32]>,
    /// Position by member, in order of members.
    positions: Box<[(MemberId, u16)]>,
    /// Of all together.
    pace: Pace,
    /// Somebody may be unwilling.
    unwilling: bool,
    /// Most are unwell.
    panic: bool,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) member: MemberId,
    weight: u16,
    /// Per cent of its weight that it wants, 1 to 100.
    share: u8,
    /// What that makes.
    weighs: f64,
    limit: Option<NonZeroU32>,
    /// What it said, and when.
    live: u32,
    heard: Option<Nanos>,
    pace: Pace,
    /// From [`Pace::slowness`], as of then.
    slowness: f64,
    /// What the others' turns have earned it.
    credit: i64,
    /// Until then those who look at load ask everybody else first.
    shunned_until: Nanos,
    /// Why it wants no new flows, and when it said so last.
    word: Option<(RejectReason, Nanos)>,
}

impl Table {
    pub(super) fn new(service: &Service) -> Self {
        let backends: Box<[Known]> = service.backends.iter().map(Known::new).collect();
        let sums = backends.iter().scan(0, |sum, b| {
            *sum += u32::from(b.weight);
            Some(*sum)
        });
        let cumulative = sums.collect();
        let mut positions: Box<[_]> =
            (0..).zip(&backends).map(|(at, b): (u16, _)| (b.member, at)).collect();
        positions.sort_unstable();
        let pace = Pace::default();
        Self { backends, cumulative, positions, pace, unwilling: false, panic: false }
    }

    /// Takes over what was known.
    pub(super) fn inherit(&mut self, former: &Self) {
        (self.pace, self.panic, self.unwilling) = (former.pace, former.panic, former.unwilling);
        for known in &mut self.backends {
            let Some(at) = former.position(known.member) else { continue };
            let Known { live, heard, pace, slowness, credit, word, share, .. } =
                former.backends[at];
            *known = Known { live, heard, pace, slowness, credit, word, ..*known };
            known.set_share(share);
        }
    }

    pub(super) fn position(&self, member: MemberId) -> Option<usize> {
        let found = self.positions.binary_search_by_key(&member, |&(m, _)| m).ok()?;
        Some(usize::from(self.positions[found].1))
    }

    pub(super) fn len(&self) -> usize {
        self.backends.len()
    }

    pub(super) fn known(&self, at: usize) -> &Known {
        &self.backends[at]
    }

    /// Whether somebody may be unwilling.
    pub(super) const fn has_unwilling(&self) -> bool {
        self.unwilling
    }

    /// Whether most are unwell, as of the last look.
    pub(super) const fn panics(&self) -> bool {
        self.panic
    }

    /// Looks who is unwilling, and whether more than half of those that are wanted do not answer or say that they are
    /// unwell. Who drains itself can take nothing, so it is not counted.
    pub(super) fn watch(
        &mut self,
        now: Nanos,
        wanted: impl Fn(MemberId) -> bool,
        answers: impl Fn(MemberId) -> bool,
    ) {
        let (mut all, mut unwell) = (0, 0);
        self.unwilling = false;
        for known in &self.backends {
            self.unwilling |= !known.is_willing(now, false);
            if wanted(known.member) && known.word(now) != Some(RejectReason::Drain) {
                all += 1;
                unwell += usize::from(known.is_unwell(now) || !answers(known.member));
            }
        }
        self.panic = unwell * 2 > all;
    }

    pub(super) fn heard(&mut self, now: Nanos, member: MemberId, live: u32, news: News) {
        let Some(at) = self.position(member) else { return };
        let known = &mut self.backends[at];
        let spent = known.pace.pass(now, known.live);
        self.pace.add(now, spent);
        match news {
            News::Load => {}
            News::End => {
                self.pace.end();
                known.pace.end();
            }
            News::Unwilling => known.shunned_until = now + SHUN,
            News::Refuses(reason) => {
                known.word = Some((reason, now));
                self.unwilling = true;
            }
            News::Told(word, share) => {
                known.word = word.map(|reason| (reason, now));
                known.set_share(share);
                self.unwilling |= word.is_some();
            }
        }
        (known.live, known.heard) = (live, Some(now));
        known.slowness = known.pace.slowness(&self.pace);
    }

    pub(super) fn any(&self, eligible: impl Fn(&Known) -> bool) -> bool {
        self.backends.iter().any(eligible)
    }

    /// Live flows and offers; `None` when nothing fresh is known.
    pub(super) fn load(&self, now: Nanos, at: usize, offers: &Offers) -> Option<u32> {
        self.backends[at].load(now, offers)
    }

    /// At random, by weight.
    pub(super) fn draw(
        &self,
        random: &mut Random,
        eligible: impl Fn(&Known) -> bool,
    ) -> Option<usize> {
        let total = u64::from(*self.cumulative.last()?);
        for _ in 0..DRAWS {
            let drawn = random.below(total) as u32;
            let at = self.cumulative.partition_point(|&sum| sum <= drawn);
            let known = &self.backends[at];
            // Drawn by weight, it is taken as often as its share says.
            let wants = |random: &mut Random| random.below(u64::from(ALL)) < u64::from(known.share);
            if eligible(known) && (known.share == ALL || wants(random)) {
                return Some(at);
            }
        }
        let all = || (0..self.backends.len()).filter(|&at| eligible(&self.backends[at]));
        let weight = |at: usize| u64::from(self.backends[at].shared_weight());
        let mut left = random.below(all().map(weight).sum());
        all().find(|&at| {
            let here = left < weight(at);
            left = left.saturating_sub(weight(at));
            here
        })
    }

    /// The next in turn: who has waited longest for its weight (the smooth weighted round-robin of nginx).
    pub(super) fn turn(&mut self, eligible: impl Fn(&Known) -> bool) -> Option<usize> {
        let (mut best, mut total): (Option<usize>, i64) = (None, 0);
        for at in 0..self.backends.len() {
            let known = &mut self.backends[at];
            if !eligible(known) {
                continue;
            }
            let weight = i64::from(known.shared_weight());
            known.credit += weight;
            total += weight;
            let credit = known.credit;
            if best.is_none_or(|best| credit > self.backends[best].credit) {
                best = Some(at);
            }
        }
        self.backends[best?].credit -= total;
        best
    }

    /// Who has the fewest flows for its weight. Of several, one at random by weight.
    pub(super) fn least(
        &self,
        now: Nanos,
        offers: &Offers,
        random: &mut Random,
        eligible: impl Fn(&Known) -> bool,
    ) -> Option<(usize, Option<Bar>)> {
        let average = LazyCell::new(|| self.average(now));
        let mut ranking = Ranking::default();
        for at in 0..self.backends.len() {
            let score = self.score(now, at, offers, &average);
            // Who cannot be among the first two need not be looked at: mostly that is the longer check.
            if ranking.has_place_for(score) && eligible(&self.backends[at]) {
                ranking.add(at, score, self.backends[at].shared_weight(), random);
            }
        }
        self.decide(&ranking)
    }

    /// Of two that are drawn by weight, who has fewer flows for its weight.
    pub(super) fn better_of_two(
        &self,
        now: Nanos,
        offers: &Offers,
        random: &mut Random,
        eligible: impl Fn(&Known) -> bool,
    ) -> Option<(usize, Option<Bar>)> {
        let average = LazyCell::new(|| self.average(now));
        let mut ranking = Ranking::default();
        let one = self.draw(random, &eligible)?;
        let first = self.backends[one].member;
        let other = self.draw(random, |known| known.member != first && eligible(known));
        for at in core::iter::once(one).chain(other) {
            ranking.add(at, self.score(now, at, offers, &average), 1, random);
        }
        self.decide(&ranking)
    }

    fn decide(&self, ranking: &Ranking) -> Option<(usize, Option<Bar>)> {
        let (at, _) = ranking.best?;
        Some((at, ranking.next.map(|score| self.backends[at].bar(score))))
    }

    /// Flows for each unit of weight, one more than now; the more for those that are slow. Of whom nothing is known, as
    /// of the average: else a tracker that was just started, or a host that nobody asks, would be thought idle or
    /// overrun.
    fn score(
        &self,
        now: Nanos,
        at: usize,
        offers: &Offers,
        average: &LazyCell<f64, impl FnOnce() -> f64>,
    ) -> f64 {
        let known = &self.backends[at];
        let offered = f64::from(offers.of(known.member));
        let live =
            if known.is_fresh(now) { f64::from(known.live) } else { **average * known.weighs };
        known.score(live + offered) + if now < known.shunned_until { SHUNNED } else { 0.0 }
    }

    /// Live flows for each unit of weight, of those of whom something is known.
    fn average(&self, now: Nanos) -> f64 {
        let fresh = self.backends.iter().filter(|b| b.is_fresh(now));
        let (flows, weights) = fresh.fold((0.0, 0.0), |(flows, weights), b| {
            (flows + f64::from(b.live), weights + b.weighs)
        });
        if weights > 0.0 { flows / weights } else { 0.0 }
    }
}

impl Known {
    fn new(backend: &Backend) -> Self {
        Self {
            member: backend.member,
            weight: backend.weight,
            share: ALL,
            weighs: backend.weight.into(),
            limit: backend.max_connections,
            live: 0,
            heard: None,
            pace: Pace::default(),
            slowness: 1.0,
            credit: 0,
            shunned_until: Nanos::ZERO,
            word: None,
        }
    }

    /// What it weighs by the list and its own word, in hundredths.
    const fn shared_weight(&self) -> u32 {
        self.weight as u32 * self.share as u32
    }

    fn set_share(&mut self, share: u8) {
        self.share = share;
        self.weighs = f64::from(self.shared_weight()) / f64::from(ALL);
    }

    /// What it said of itself, if that is not too long ago.
    fn word(&self, now: Nanos) -> Option<RejectReason> {
        self.word.filter(|&(_, at)| now.since(at) <= FRESH).map(|(reason, _)| reason)
    }

    /// Whether it said that it does not work.
    pub(super) fn is_unwell(&self, now: Nanos) -> bool {
        self.word(now).is_some_and(RejectReason::is_of_health)
    }

    /// Whether it wants new flows, as far as we know. In a panic, health does not count.
    pub(super) fn is_willing(&self, now: Nanos, panic: bool) -> bool {
        self.word(now).is_none_or(|reason| panic && reason.is_of_health())
    }

    /// Live flows and offers; `None` when nothing fresh is known.
    fn load(&self, now: Nanos, offers: &Offers) -> Option<u32> {
        self.is_fresh(now).then(|| self.live.saturating_add(offers.of(self.member)))
    }

    /// Whether it is below its limit, or may be for all we know.
    pub(super) fn has_room(&self, now: Nanos, offers: &Offers) -> bool {
        self.limit.is_none_or(|limit| self.load(now, offers).is_none_or(|n| n < limit.get()))
    }

    fn is_fresh(&self, now: Nanos) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) <= FRESH)
    }

    /// A host that needs `slowness` times as long for a flow is as bad as one with so many times as many.
    fn score(&self, live: f64) -> f64 {
        ((live + 1.0) * self.slowness - 1.0) / self.weighs
    }

    /// From how many live flows on it is worse than somebody with that score. An idle host is never too busy.
    fn bar(&self, score: f64) -> Bar {
        let live = (score * self.weighs + 1.0) / self.slowness - 1.0;
        // What is exact on paper may be a bit less here.
        let most = (live + 1e-6).floor().clamp(0.0, f64::from(u32::MAX - 2));
        Bar(most as u32 + 1)
    }
}

/// The first two of a walk.
#[derive(Debug, Default)]
struct Ranking {
    best: Option<(usize, f64)>,
    /// Weights of those that are as good as the best.
    tied: u64,
    /// The second score; the same as the first when there are several.
    next: Option<f64>,
}

impl Ranking {
    fn has_place_for(&self, score: f64) -> bool {
        self.best.is_none_or(|(_, best)| score <= best) || self.next.is_none_or(|next| score < next)
    }

    fn add(&mut self, at: usize, score: f64, weight: u32, random: &mut Random) {
        let weight = u64::from(weight);
        match self.best {
            Some((_, best)) if score > best => {
                self.next = Some(self.next.map_or(score, |next| next.min(score)));
            }
            // As good: which of them it is, is drawn, so that trackers do not all run to the first one.
            Some((_, best)) if score >= best => {
                self.tied += weight;
                self.next = Some(best);
                if random.below(self.tied) < weight {
                    self.best = Some((at, score));
                }
            }
            former => {
                self.next = former.map(|(_, best)| best);
                self.best = Some((at, score));
                self.tied = weight;
            }
        }
    }
}
