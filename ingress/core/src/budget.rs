//! How many packets of unknown flows are asked about: a flood of them must neither load the trackers nor starve the flows
//! that just moved here.

use jlb_flow::FlowId;
use jlb_role::Nanos;

use crate::limit::TokenBucket;

/// Queries per second and worker, at most so many at once; and as many again for flows that are seen a second time.
const PER_SECOND: u64 = 20_000;
const BURST: u64 = 4_000;
/// Places of the memory of packets that were not asked about: 128 KiB. A client sends its packet again after 200 ms or
/// more; a flood of 100,000 five-tuples per second has overwritten a quarter of the places by then.
const SEEN: usize = 1 << 16;
/// Places of the memory of flows that nobody knew: 64 KiB.
const UNKNOWN: usize = 1 << 12;
/// So long a flow that nobody knew is not asked about again: a client that got its RST is silent, and one that did not
/// sends again after that.
const UNKNOWN_FOR: Nanos = Nanos::from_millis(200);

/// A worker's budget of Queries.
///
/// Of a flood of made-up packets hardly any five-tuple comes twice, while a client's packet that was dropped comes again:
/// so what comes a second time has a bucket of its own.
#[derive(Debug)]
pub(crate) struct QueryBudget {
    first: TokenBucket,
    again: TokenBucket,
    /// By hash: another part of the hash; 0 for none.
    seen: Box<[u16]>,
    /// By hash: another part of the hash, and until when.
    unknown: Box<[(u32, Nanos)]>,
}

/// What is to be done with a packet of an unknown flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The trackers may be asked.
    Ask,
    /// They were asked just now, and did not know.
    Unknown,
    /// Over the budget.
    Over,
}

impl QueryBudget {
    pub(crate) fn new() -> Self {
        Self {
            first: TokenBucket::new(PER_SECOND, BURST),
            again: TokenBucket::new(PER_SECOND, BURST),
            seen: vec![0; SEEN].into(),
            unknown: vec![(0, Nanos::ZERO); UNKNOWN].into(),
        }
    }

    /// A packet of an unknown flow is here.
    pub(crate) fn judge(&mut self, now: Nanos, id: &FlowId) -> Verdict {
        let (of, until) = self.unknown[place(id, UNKNOWN)];
        if of == tag(id) && now < until {
            return Verdict::Unknown;
        }
        if self.first.take(now) {
            return Verdict::Ask;
        }
        let seen = &mut self.seen[place(id, SEEN)];
        let of = (tag(id) >> 16) as u16 | 1;
        if *seen == of && self.again.take(now) {
            *seen = 0;
            return Verdict::Ask;
        }
        *seen = of;
        Verdict::Over
    }

    /// Two trackers did not know it.
    pub(crate) fn unknown(&mut self, now: Nanos, id: &FlowId) {
        self.unknown[place(id, UNKNOWN)] = (tag(id), now + UNKNOWN_FOR);
    }
}

/// The id is a keyed hash: nobody outside chooses its place.
const fn place(id: &FlowId, places: usize) -> usize {
    id.bucket_hash() as usize % places
}

/// Other bits of it than those that make the place.
const fn tag(id: &FlowId) -> u32 {
    (id.bucket_hash() >> 32) as u32
}

#[cfg(test)]
mod tests {
    use jlb_flow::{FlowHasher, HashKey};
    use jlb_wire::{FiveTuple, Protocol};

    use super::*;

    fn id(n: u32) -> FlowId {
        let [_, a, b, c] = n.to_be_bytes();
        let tuple = FiveTuple::v4([10, a, b, c], [203, 0, 113, 10], [1, 1, 0, 80], Protocol::Tcp);
        FlowHasher::new(HashKey([1; 16])).id(&tuple)
    }

    #[test]
    fn what_comes_again_is_asked_about_in_the_midst_of_a_flood() {
        let mut budget = QueryBudget::new();
        let mut moved_asked = 0;
        let mut flood_asked = 0;
        for ms in 0..1000 {
            let now = Nanos::from_millis(ms);
            // 100,000 made-up packets per second, and 1000 flows that come again every 200 ms.
            for n in 0..100 {
                let made_up = id(1_000_000 + ms as u32 * 100 + n);
                flood_asked += u64::from(budget.judge(now, &made_up) == Verdict::Ask);
            }
            for n in (0..1000).filter(|n| n % 200 == ms as u32 % 200) {
                moved_asked += u32::from(budget.judge(now, &id(n)) == Verdict::Ask);
            }
        }
        assert!(flood_asked <= PER_SECOND + BURST + 500, "{flood_asked}");
        // Five chances each; from the second on three of four.
        assert!(moved_asked > 2000, "{moved_asked}");
    }

    #[test]
    fn what_nobody_knew_is_not_asked_about_again_at_once() {
        let mut budget = QueryBudget::new();
        let now = Nanos::from_secs(1);
        budget.unknown(now, &id(1));
        assert_eq!(budget.judge(now, &id(1)), Verdict::Unknown);
        assert_eq!(budget.judge(now, &id(2)), Verdict::Ask);
        assert_eq!(budget.judge(now + UNKNOWN_FOR, &id(1)), Verdict::Ask);
    }
}
