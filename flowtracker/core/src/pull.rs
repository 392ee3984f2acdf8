//! Refresh: we pull from each backend the flows that it has, since it is the one who knows (rules 4, 5, 10, 11).

use arrayvec::ArrayVec;
use jlb_flow::FlowId;
use jlb_map::MemberRole;
use jlb_peers::ReceivedBody;
use jlb_role::{Io, Nanos, PacketBuf, Reason, Report, Rule, Rules};
use jlb_wire::{
    Body, BodyKind, BootId, MAX_BODY_PAYLOAD, MemberId, Refresh, RefreshRecord, body_flags,
};

use crate::answer::Word;
use crate::entry::Tombstone;
use crate::sources::Pull;
use crate::tracker::Tracker;

/// Canary ([`Rule::MarkersByWord`] off): a backend that we do not hear for so long is written off.
const WRITTEN_OFF: Nanos = Nanos::from_millis(500);
/// Between two reports on whom we wait for.
const TELL_EVERY: Nanos = Nanos::from_secs(1);
/// Backends that such a report names at most.
const NAMED: usize = 16;

impl<R: Rules> Tracker<R> {
    /// A backend answers a question of ours.
    pub(crate) fn on_refresh<B: PacketBuf>(
        &mut self,
        now: Nanos,
        received: ReceivedBody<B>,
        io: &mut impl Io<B>,
    ) {
        let body = received.body;
        match self.take_batch(now, &body, received.payload()) {
            Ok(()) => {}
            // The rest of it was used.
            Err(why) => io.drop(received.buf, why),
        }
        if let Some(owner) = self.sources.end(now, body.sender, self.snapshot.epoch()) {
            self.store.start_sweep();
            self.on_listed_owner(now, body.sender, owner);
            if self.lease.shut_out.is_some() {
                // It may say now that we are not shut out any more.
                self.peers.ask(now, body.sender);
            }
        }
        for pull in self.sources.questions_to(now, body.sender) {
            self.send_pull(pull, io);
        }
    }

    fn take_batch(&mut self, now: Nanos, body: &Body, payload: &[u8]) -> Result<(), Reason> {
        let backend = body.sender;
        if self.snapshot.member(backend).is_none_or(|m| m.role != MemberRole::Backend) {
            return Err(Reason::NotAMember);
        }
        // Its kernel half may still take votes of that epoch, or takes none of ours yet (rule 11).
        if body.epoch != self.snapshot.epoch() && self.rules.on(Rule::OneEpoch) {
            return Err(Reason::WrongEpoch);
        }
        let (refresh, records) = Refresh::parse(payload).ok_or(Reason::Malformed)?;
        if refresh.workers != self.peers.workers() {
            return Err(Reason::Malformed);
        }
        let listed = self.sources.take(now, body, &refresh)?;
        // First all places in the table are fetched, then they are worked on.
        let mut ours: ArrayVec<(FlowId, RefreshRecord), { Refresh::MAX_RECORDS }> = ArrayVec::new();
        let mut result = Ok(());
        for record in records.iter().take(Refresh::MAX_RECORDS) {
            let Some(record) = record else {
                result = Err(Reason::Malformed);
                continue;
            };
            let flow = self.hasher.id(&record.tuple);
            if self.owns(&flow) {
                self.store.prefetch(&flow);
                ours.push((flow, record));
            }
        }
        for (flow, record) in ours.drain(..) {
            let word = Word {
                flow,
                protocol: record.tuple.protocol(),
                incarnation: record.incarnation,
                backend,
                boot: body.boot,
                counter: record.counter,
            };
            match self.take_record(now, &word, record.live, listed) {
                Err(why @ Reason::FlowTableFull) => {
                    self.sources.lacks_room(backend);
                    result = Err(why);
                }
                Err(why @ Reason::AnswersFull) => result = Err(why),
                Err(Reason::Unexpected) if record.live => self.sources.is_in_the_way(backend),
                // Others hold it, or it is over: so it is with every record that is not news.
                Ok(()) | Err(_) => {}
            }
        }
        result
    }

    fn take_record(
        &mut self,
        now: Nanos,
        word: &Word,
        live: bool,
        listed: u8,
    ) -> Result<(), Reason> {
        if live {
            return self.store_word(now, word, listed, true);
        }
        if self.rules.on(Rule::Tombstones) {
            let Word { backend, boot, incarnation, .. } = *word;
            let tombstone = Tombstone { backend, boot, incarnation };
            self.store.bury(now, &word.flow, word.protocol, tombstone)?;
        }
        self.close_by(now, word);
        Ok(())
    }

    /// Whether a flow is one of this worker's.
    fn owns(&self, flow: &FlowId) -> bool {
        crate::tracker::owner(flow, self.peers.workers()) == self.peers.worker()
            && self.snapshot.trio(flow.partition()).contains(self.peers.me())
    }

    fn send_pull<B: PacketBuf>(&mut self, pull: Pull, io: &mut impl Io<B>) {
        let refresh = Refresh {
            batch: pull.batch,
            batches: 0,
            worker: self.peers.worker().0,
            workers: self.peers.workers(),
            sole: 0,
            shut_out: pull.shut_out,
            counter: 0,
        };
        let mut payload = [0; MAX_BODY_PAYLOAD];
        let len = refresh.emit(&[], &mut payload);
        let words = (BodyKind::Refresh, body_flags::PULL, pull.nonce);
        self.peers.send_body(pull.to, words, &payload[..len], io);
    }

    /// Pulls what is to be pulled, and finds out whether we are warm.
    pub(crate) fn pull<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        let mut pulls: ArrayVec<Pull, { crate::sources::QUESTIONS }> = ArrayVec::new();
        if self.sources.scan_is_due(now) {
            self.mind_the_lease(now, io);
            self.mind_the_trio(now, io);
            self.warm_up(now, io);
            self.report_leave(now, io);
            let (peers, rules) = (&self.peers, self.rules);
            let dead = |id| peers.dead(now, id, rules.on(Rule::TwoWitnesses));
            self.sources.begin(now, &self.snapshot, peers, dead);
        }
        self.sources.questions(now, &self.peers, |pull| pulls.push(pull));
        // Not `into_iter`, which moves the whole array first.
        for pull in pulls.drain(..) {
            self.send_pull(pull, io);
        }
    }

    fn warm_up<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        if self.told_warm.is_none() {
            self.tell_warmth(now, io);
        }
        let since = match self.lease.shut_out {
            _ if self.sole.is_settling(now) => return,
            None if self.warmth.count() == 0 => return,
            None => self.warmth.since,
            Some(since) if self.warmth.count() == 0 => since,
            Some(since) => since.min(self.warmth.since),
        };
        let mut waits_for: ArrayVec<MemberId, NAMED> = ArrayVec::new();
        for &backend in self.snapshot.with_role(MemberRole::Backend) {
            if !self.has_told(now, backend) && waits_for.try_push(backend).is_err() {
                break;
            }
        }
        if waits_for.is_empty() {
            let any = !self.snapshot.with_role(MemberRole::Backend).is_empty();
            if any && self.rules.on(Rule::OneEpoch) {
                let (ours, peers) = (self.ours(), &self.peers);
                let two = self.rules.on(Rule::TwoWitnesses);
                let alone = |partition| self.sole.owns(partition);
                self.warmth.warm_up(now, ours, peers, alone, |id| peers.dead(now, id, two));
            } else {
                self.warmth.warm_all();
            }
            self.lease.shut_out = None;
            if self.warmth.count() == 0 {
                self.refresh_seconds.observe(now.since(since).as_secs_f64());
            }
            self.tell_warmth(now, io);
        } else if now.since(self.told_at.max(since)) >= TELL_EVERY {
            self.told_at = now;
            for member in waits_for {
                io.report(Report::WaitsFor { member });
            }
        }
    }

    /// Whether a backend has told us all that it has, and lets us vote; or never will.
    fn has_told(&self, now: Nanos, backend: MemberId) -> bool {
        let boot = self.peers.boot(backend);
        if self.sources.marked(backend, boot, self.snapshot.epoch())
            && self.is_admitted(now, backend)
        {
            return true;
        }
        if !self.rules.on(Rule::MarkersByWord) {
            // Broken on purpose: our own timer decides.
            let heard = self.peers.heard_at(backend).unwrap_or(self.warmth.since);
            return now.since(heard) > WRITTEN_OFF;
        }
        self.peers.dead(now, backend, self.rules.on(Rule::TwoWitnesses))
    }

    /// Says to all whether we can take part in new flows, and reports when we get warm or cold.
    pub(crate) fn tell_warmth<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        let warm = self.warmth.count() == 0 && self.lease.shut_out.is_none();
        // Whose vote does not count for a while is asked last, as is who does not know all.
        let votes = self.lease.holds(now) && !self.sole.is_giving_back();
        self.peers.set_cold(!(warm && votes));
        if self.told_warm != Some(warm) {
            self.told_warm = Some(warm);
            io.report(Report::Warm(warm));
        }
    }

    /// Whether what a backend said under that boot id still counts: neither did the operator take it out of the list nor
    /// did it begin anew (rule 12), nor is it dead.
    pub(crate) fn holds(&self, now: Nanos, (backend, boot): (MemberId, BootId)) -> bool {
        self.snapshot.member(backend).is_some()
            && self.peers.boot(backend).is_none_or(|current| current == boot)
            && !self.peers.dead(now, backend, self.rules.on(Rule::TwoWitnesses))
    }
}
