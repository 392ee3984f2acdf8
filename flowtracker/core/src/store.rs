use arrayvec::ArrayVec;
use jlb_flow::{
    Cookie, Cursor, FlowId, FlowTable, Inserted, Partition, Remembered, Slab, SlabError, Verdict,
    Wheel,
};
use jlb_role::{Nanos, Reason, WorkerId};
use jlb_wire::{BootId, Incarnation, Kind, MemberId, Protocol};

use crate::TrackerConfig;
use crate::entry::{Entry, FlowState, FlowView, Pending, Refusal, Tombstone};
use crate::pick::Offers;

/// How long a closing entry stays.
const CLOSING: Nanos = Nanos::from_secs(2);
/// How long a tombstone stands: longer than anything of that flow can still be under way.
pub(crate) const REPLAY_WINDOW: Nanos = Nanos::from_secs(4);
/// How long a refusal stands: as long, and 100 ms longer, by which no two clocks differ. Agents remember that they refused a
/// datagram flow for the replay window since they last said so: asked again before, they would say so again, for ever.
const REFUSED: Nanos = Nanos(REPLAY_WINDOW.0 + 100_000_000);
/// Closing entries that end together.
const TOGETHER: usize = 16;
/// Timers go in steps of this.
const GRANULE: Nanos = Nanos::from_millis(1);

/// What a message that is not believed yet is likely to be.
pub(crate) type Hint = (Kind, Incarnation);

/// Everything that a tracker's worker knows of flows. Each part is bounded, and says so when it is full.
#[derive(Debug)]
pub(crate) struct Store {
    table: FlowTable<Entry>,
    pending: Slab<Pending>,
    wheel: Wheel<Timer>,
    /// By flow and incarnation; of a UDP flow the last one only, under incarnation 0.
    tombstones: Remembered<(FlowId, Incarnation), Tombstone>,
    refusals: Remembered<(FlowId, Incarnation), Refusal>,
    /// What of `pending` is with each backend.
    offers: Offers,
    /// Entries by state (pending, established, closing) and protocol (TCP, UDP).
    counts: [[usize; 2]; 3],
    /// Where the search for flows that are no longer to be held stands, and whether it must begin again.
    sweep: Option<Cursor>,
    sweep_again: bool,
}

/// An established entry, as a sweep judges it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) backend: MemberId,
    pub(crate) boot: BootId,
    pub(crate) counter: u64,
    pub(crate) listed: u8,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    Cancel(Cookie),
    Closing(FlowId),
}

/// How much a tracker's worker holds, for status and checkers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries that wait for a backend, by protocol: TCP, UDP.
    pub pending: [usize; 2],
    /// Flows on a backend.
    pub established: [usize; 2],
    /// Flows that ended a moment ago.
    pub closing: [usize; 2],
    /// Remembered ends.
    pub tombstones: usize,
    /// Remembered refusals.
    pub refusals: usize,
    /// Timers that run.
    pub timers: usize,
}

impl Store {
    pub(crate) fn new(config: &TrackerConfig) -> Result<Self, SlabError> {
        let remembered = config.remembered_capacity;
        // No cookie of ours goes on the wire, so the pool needs no worker's number.
        let pending = Slab::new(WorkerId(0), config.pending_capacity)?;
        let filler = Entry::Established {
            boot: BootId(0),
            counter: 0,
            incarnation: Incarnation(0),
            backend: config.id,
            protocol: Protocol::Tcp,
            listed: 0,
        };
        Ok(Self {
            // A pending entry has its place in the table too.
            table: FlowTable::new(config.flow_capacity, filler),
            pending,
            // Every entry has at most one timer.
            wheel: Wheel::new(config.flow_capacity, GRANULE),
            tombstones: Remembered::new(remembered, REPLAY_WINDOW, config.seed ^ 1),
            refusals: Remembered::new(remembered, REFUSED, config.seed ^ 2),
            offers: Offers::default(),
            counts: [[0; 2]; 3],
            sweep: None,
            sweep_again: false,
        })
    }

    pub(crate) fn prefetch(&self, flow: &FlowId) {
        self.table.prefetch(flow);
    }

    /// Asks for the memory that a message of that kind will need first, if it is the so-manieth of a burst: nothing waits
    /// for it.
    pub(crate) fn prefetch_for(&self, flow: &FlowId, protocol: Protocol, hint: Hint, nth: usize) {
        let (kind, incarnation) = hint;
        if kind == Kind::Open {
            self.table.prefetch_new(flow);
            self.pending.prefetch_free(nth);
            self.refusals.prefetch(&(*flow, incarnation));
        } else {
            self.table.prefetch(flow);
        }
        self.tombstones.prefetch(&key(flow, protocol, incarnation));
    }

    /// Goes on with that, when the first is there: asks for what it leads to.
    pub(crate) fn prefetch_behind(&self, flow: &FlowId, protocol: Protocol, (_, i): Hint) {
        self.tombstones.prefetch_entry(&key(flow, protocol, i));
        match self.table.get(flow) {
            Some(Entry::Pending(cookie)) => self.pending.prefetch(*cookie),
            Some(Entry::Closing { timer, .. }) => self.wheel.prefetch(*timer),
            Some(Entry::Established { .. }) | None => {}
        }
    }

    /// And for the timer of what waits, which is known last.
    pub(crate) fn prefetch_timer(&self, flow: &FlowId) {
        if let Some(Entry::Pending(cookie)) = self.table.get(flow)
            && let Some(timer) = self.pending.get(*cookie).and_then(|pending| pending.timer)
        {
            self.wheel.prefetch(timer);
        }
    }

    pub(crate) fn entry(&self, flow: &FlowId) -> Option<Entry> {
        self.table.get(flow).copied()
    }

    pub(crate) fn pending(&self, cookie: Cookie) -> Option<&Pending> {
        self.pending.get(cookie)
    }

    pub(crate) fn pending_mut(&mut self, cookie: Cookie) -> Option<&mut Pending> {
        self.pending.get_mut(cookie)
    }

    /// A pending flow is offered to another backend.
    pub(crate) fn reoffer(&mut self, cookie: Cookie, to: MemberId) -> Option<&mut Pending> {
        let pending = self.pending.get_mut(cookie)?;
        self.offers.remove(pending.backend);
        self.offers.add(to);
        pending.backend = to;
        Some(pending)
    }

    pub(crate) const fn offers(&self) -> &Offers {
        &self.offers
    }

    /// Stores a vote, in place of whatever the flow had, and starts its timer.
    pub(crate) fn put_pending(&mut self, now: Nanos, pending: Pending) -> Result<Cookie, Reason> {
        let flow = pending.flow;
        let old = self.entry(&flow);
        let replaces_pending = matches!(old, Some(Entry::Pending(_)));
        if self.pending.is_full() && !replaces_pending {
            return Err(Reason::PendingFull);
        }
        if old.is_none() && self.table.len() == self.table.capacity() {
            return Err(Reason::FlowTableFull);
        }
        self.release(old);
        let (protocol, backend) = (pending.tuple.protocol(), pending.backend);
        let cookie = self.pending.insert(pending).map_err(|_| Reason::PendingFull)?;
        if let Err(why) = self.set(&flow, Entry::Pending(cookie), protocol) {
            self.pending.remove(cookie);
            return Err(why);
        }
        self.offers.add(backend);
        self.restart(now, cookie);
        Ok(cookie)
    }

    /// An entry was driven: the time to its Cancel begins anew.
    pub(crate) fn restart(&mut self, now: Nanos, cookie: Cookie) {
        if let Some(pending) = self.pending.get_mut(cookie) {
            pending.cancels = 0;
            pending.asked_at = now;
        }
        self.schedule_cancel(now, cookie);
    }

    /// Sets the timer to the next Cancel.
    pub(crate) fn schedule_cancel(&mut self, now: Nanos, cookie: Cookie) {
        let Some(pending) = self.pending.get_mut(cookie) else { return };
        let (at, timer) = (now + pending.cancel_after(), Timer::Cancel(cookie));
        // The wheel has a place for every entry of the table.
        pending.timer = match pending.timer {
            Some(running) => self.wheel.reschedule(running, at, timer).ok(),
            None => self.wheel.schedule(at, timer).ok(),
        };
    }

    /// Stores the backend's word, in place of whatever the flow had.
    pub(crate) fn establish(
        &mut self,
        flow: &FlowId,
        protocol: Protocol,
        (backend, incarnation): (MemberId, Incarnation),
        (boot, counter): (BootId, u64),
        listed: u8,
    ) -> Result<(), Reason> {
        let old = self.entry(flow);
        if old.is_none() && self.table.len() == self.table.capacity() {
            return Err(Reason::FlowTableFull);
        }
        self.release(old);
        self.set(
            flow,
            Entry::Established { boot, counter, incarnation, backend, protocol, listed },
            protocol,
        )
    }

    /// A pull knows of an established flow.
    pub(crate) fn mark(&mut self, flow: &FlowId, number: u8) {
        if let Some(Entry::Established { listed, .. }) = self.table.get_mut(flow) {
            *listed = number;
        }
    }

    /// Makes the flow's entry a closing one.
    pub(crate) fn close(
        &mut self,
        now: Nanos,
        flow: &FlowId,
        protocol: Protocol,
        (backend, incarnation): (MemberId, Incarnation),
    ) {
        self.release(self.entry(flow));
        let Ok(timer) = self.wheel.schedule(now + CLOSING, Timer::Closing(*flow)) else {
            // Cannot be: the wheel has a place for every entry. It would only end early.
            self.table.remove(flow);
            return;
        };
        let closing = Entry::Closing { timer, incarnation, backend, protocol };
        if self.set(flow, closing, protocol).is_err() {
            self.wheel.cancel(timer);
        }
    }

    /// Takes the flow's entry away.
    pub(crate) fn remove(&mut self, flow: &FlowId) {
        self.release(self.entry(flow));
        self.table.remove(flow);
    }

    /// Frees what an entry holds outside the table, and takes it out of the counts.
    fn release(&mut self, entry: Option<Entry>) {
        let (state, protocol) = match entry {
            None => return,
            Some(Entry::Pending(cookie)) => {
                let Some(pending) = self.pending.remove(cookie) else { return };
                self.offers.remove(pending.backend);
                if let Some(timer) = pending.timer {
                    self.wheel.cancel(timer);
                }
                (0, pending.tuple.protocol())
            }
            Some(Entry::Established { protocol, .. }) => (1, protocol),
            Some(Entry::Closing { timer, protocol, .. }) => {
                self.wheel.cancel(timer);
                (2, protocol)
            }
        };
        let count = &mut self.counts[state][of(protocol)];
        *count = count.saturating_sub(1);
    }

    /// Writes an entry whose predecessor was released.
    fn set(&mut self, flow: &FlowId, entry: Entry, protocol: Protocol) -> Result<(), Reason> {
        match self.table.insert(flow, entry) {
            Ok(Inserted::New(_)) => {}
            Ok(Inserted::Existing(slot)) => {
                if let Some(old) = self.table.at_mut(slot) {
                    *old = entry;
                }
            }
            Err(jlb_flow::Full) => return Err(Reason::FlowTableFull),
        }
        let state = match entry {
            Entry::Pending(_) => 0,
            Entry::Established { .. } => 1,
            Entry::Closing { .. } => 2,
        };
        self.counts[state][of(protocol)] += 1;
        Ok(())
    }

    pub(crate) fn tombstone(
        &self,
        now: Nanos,
        flow: &FlowId,
        protocol: Protocol,
        incarnation: Incarnation,
    ) -> Option<&Tombstone> {
        self.tombstones.get(now, &key(flow, protocol, incarnation))
    }

    /// Remembers the end of a flow, unless a later end of the same five-tuple is known.
    pub(crate) fn bury(
        &mut self,
        now: Nanos,
        flow: &FlowId,
        protocol: Protocol,
        tombstone: Tombstone,
    ) -> Result<(), Reason> {
        let of_word = (tombstone.boot, tombstone.incarnation);
        let later = self
            .tombstone(now, flow, protocol, tombstone.incarnation)
            .is_some_and(|t| t.covers(protocol, tombstone.backend, of_word));
        if later && protocol == Protocol::Udp {
            return Ok(());
        }
        let key = key(flow, protocol, tombstone.incarnation);
        self.tombstones.insert(now, key, tombstone).map_err(|_| Reason::AnswersFull)
    }

    pub(crate) fn refusal(
        &self,
        now: Nanos,
        flow: &FlowId,
        incarnation: Incarnation,
    ) -> Option<&Refusal> {
        self.refusals.get(now, &(*flow, incarnation))
    }

    pub(crate) fn refuse(
        &mut self,
        now: Nanos,
        flow: &FlowId,
        incarnation: Incarnation,
        refusal: Refusal,
    ) -> Result<(), Reason> {
        self.refusals.insert(now, (*flow, incarnation), refusal).map_err(|_| Reason::AnswersFull)
    }

    /// Does what time brings, with so much budget; gives the next pending entry whose Cancel is due, if there is one.
    pub(crate) fn expire(&mut self, now: Nanos, budget: &mut usize) -> Option<Cookie> {
        // Closing entries in groups, whose places in the table are fetched together.
        let mut over = ArrayVec::<FlowId, TOGETHER>::new();
        let mut next = None;
        while let Some(timer) = self.wheel.pop(now, budget) {
            match timer {
                Timer::Cancel(cookie) => {
                    if let Some(pending) = self.pending.get_mut(cookie) {
                        pending.timer = None;
                        next = Some(cookie);
                        break;
                    }
                }
                Timer::Closing(flow) => {
                    self.table.prefetch(&flow);
                    over.push(flow);
                    if over.is_full() {
                        over.drain(..).for_each(|flow| self.remove(&flow));
                    }
                }
            }
        }
        over.drain(..).for_each(|flow| self.remove(&flow));
        if next.is_some() {
            return next;
        }
        for remembered in [self.tombstones.expire(now, *budget), self.refusals.expire(now, *budget)]
        {
            *budget = budget.saturating_sub(remembered);
        }
        None
    }

    /// Begins to look for flows that are no longer to be held; once more, when it is under way.
    pub(crate) const fn start_sweep(&mut self) {
        if self.sweep.is_some() {
            self.sweep_again = true;
        } else {
            self.sweep = Some(Cursor::START);
        }
    }

    /// Goes on with that, for so many places. (Pending entries have their Cancel, closing ones their end.)
    pub(crate) fn sweep(&mut self, places: usize, keeps: impl Fn(Partition, Placed) -> bool) {
        let Some(from) = self.sweep else { return };
        let established = &mut self.counts[1];
        let next = self.table.sweep(from, places, |_, flow, entry| match *entry {
            Entry::Established { backend, boot, counter, protocol, listed, .. }
                if !keeps(flow.partition(), Placed { backend, boot, counter, listed }) =>
            {
                established[of(protocol)] = established[of(protocol)].saturating_sub(1);
                Verdict::Remove
            }
            Entry::Pending(_) | Entry::Established { .. } | Entry::Closing { .. } => Verdict::Keep,
        });
        let again = next == Cursor::START && core::mem::take(&mut self.sweep_again);
        self.sweep = (again || next != Cursor::START).then_some(next);
    }

    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        if self.sweep.is_some() {
            return Some(Nanos::ZERO);
        }
        let deadlines = [
            self.wheel.next_deadline(),
            self.tombstones.next_deadline(),
            self.refusals.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.table.capacity()
    }

    pub(crate) fn pending_capacity(&self) -> usize {
        self.pending.capacity()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            pending: self.counts[0],
            established: self.counts[1],
            closing: self.counts[2],
            tombstones: self.tombstones.len(),
            refusals: self.refusals.len(),
            timers: self.wheel.len(),
        }
    }

    pub(crate) fn view(&self, flow: &FlowId) -> Option<FlowView> {
        Some(match self.entry(flow)? {
            Entry::Pending(cookie) => {
                let p = self.pending.get(cookie)?;
                let state = FlowState::Pending { force: p.force, refused: p.refused };
                FlowView { incarnation: p.incarnation, backend: p.backend, state }
            }
            Entry::Established { incarnation, backend, .. } => {
                FlowView { incarnation, backend, state: FlowState::Established }
            }
            Entry::Closing { incarnation, backend, .. } => {
                FlowView { incarnation, backend, state: FlowState::Closing }
            }
        })
    }
}

const fn of(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
    }
}

const fn key(flow: &FlowId, protocol: Protocol, incarnation: Incarnation) -> (FlowId, Incarnation) {
    match protocol {
        Protocol::Tcp => (*flow, incarnation),
        Protocol::Udp => (*flow, Incarnation(0)),
    }
}
