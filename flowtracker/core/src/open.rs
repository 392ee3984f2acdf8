//! Open: from an ingress, for a new flow; from a tracker, for our vote.

use jlb_flow::{Cookie, FlowId};
use jlb_map::{MAX_REJECT_TTL, MemberRole, ServiceId, Trio};
use jlb_role::{Io, Nanos, PacketBuf, Reason, Rule, Rules};
use jlb_wire::{Bar, Flags, Incarnation, MemberId, Protocol};

use crate::entry::{Candidate, Entry, Pending, Refusal};
use crate::pick::{Ask, Picked};
use crate::query::Whereabouts;
use crate::send::Offer;
use crate::tracker::{Message, Tracker};

/// What is known of the five-tuple that an Open is about.
#[derive(Clone, Copy, Debug)]
enum Standing {
    /// Nothing that stands in the way. `heir`: the backend that had the former incarnation of a UDP flow, which gives
    /// the next number.
    Free { heir: Option<MemberId> },
    /// We voted for this incarnation.
    Pending(Cookie),
    /// It is on a backend.
    Established { backend: MemberId, incarnation: Incarnation },
    /// Another incarnation has the five-tuple: pending or established on that backend.
    Incumbent { backend: MemberId, established: Option<Incarnation> },
    /// We voted to refuse this incarnation.
    Refused(Refusal),
    /// It has ended: this Open is an old duplicate.
    Over,
}

impl<R: Rules> Tracker<R> {
    pub(crate) fn on_open<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        io: &mut impl Io<B>,
    ) {
        self.free_from_the_dead(now, &message.flow);
        let (tuple, control) = (&message.tuple, &message.control);
        let vip = tuple.vip();
        let Some(service) = self.snapshot.service(vip.ip(), vip.port(), tuple.protocol()) else {
            return io.drop(message.buf, Reason::NoService);
        };
        let trio = self.snapshot.trio(message.flow.partition());
        if !trio.contains(self.peers.me()) {
            if control.ingress == Some(control.sender) {
                return self.pass_on(message, trio, io);
            }
            return io.drop(message.buf, Reason::NotInTrio);
        }
        let role = |id: Option<MemberId>| Some(self.snapshot.member(id?)?.role);
        if role(control.ingress) != Some(MemberRole::Ingress)
            || (tuple.protocol() == Protocol::Udp && control.incarnation != Incarnation(0))
        {
            return io.drop(message.buf, Reason::Malformed);
        }
        // Both votes in one epoch (rule 11). Who asks need not know the trio.
        let vote = control.ingress != Some(control.sender);
        if vote && control.epoch != self.snapshot.epoch() && self.rules.on(Rule::OneEpoch) {
            return io.drop(message.buf, Reason::WrongEpoch);
        }
        if self.is_cold(message.flow.partition()) {
            self.open_unless_new(now, message, Reason::Cold, io);
        } else if (vote && self.sole.owns(message.flow.partition()))
            || !self.may_vote(now, message.flow.partition())
        {
            self.open_unless_new(now, message, Reason::SoleOwner, io);
        } else if control.ingress == Some(control.sender) {
            self.open_from_ingress(now, message, (service, trio), io);
        } else if trio.contains(control.sender) {
            self.open_from_tracker(now, message, (service, trio), io);
        } else {
            io.drop(message.buf, Reason::NotInTrio);
        }
    }

    /// What we know of is known, and there is no vote that it could be at odds with; else others are to be asked (rule 4).
    fn open_unless_new<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        why: Reason,
        io: &mut impl Io<B>,
    ) {
        if let Standing::Established { backend, incarnation } = self.standing(now, &message) {
            self.send_state(message, Whereabouts::At(backend, incarnation), io);
        } else {
            io.drop(message.buf, why);
        }
    }

    /// A vote for a dead backend is free: at once when somebody asks, without its Cancel's being due, which may be a second away.
    fn free_from_the_dead(&mut self, now: Nanos, flow: &FlowId) {
        let Some(Entry::Pending(cookie)) = self.store.entry(flow) else { return };
        let backend = self.store.pending(cookie).map(|pending| pending.backend);
        let two = self.rules.on(Rule::TwoWitnesses);
        if backend.is_some_and(|backend| self.peers.dead(now, backend, two)) {
            self.store.remove(flow);
        }
    }

    fn standing<B>(&self, now: Nanos, message: &Message<B>) -> Standing {
        let (flow, incarnation) = (&message.flow, message.control.incarnation);
        let protocol = message.tuple.protocol();
        let udp = protocol == Protocol::Udp;
        let displaced = !self.rules.on(Rule::Incumbent);
        let mut heir = None;
        match self.store.entry(flow) {
            Some(Entry::Pending(cookie)) => {
                if let Some(pending) = self.store.pending(cookie) {
                    if pending.incarnation == incarnation {
                        return Standing::Pending(cookie);
                    }
                    if !displaced {
                        return Standing::Incumbent { backend: pending.backend, established: None };
                    }
                }
            }
            Some(Entry::Established { backend, boot, incarnation: its, .. })
                if self.holds(now, (backend, boot)) =>
            {
                if udp || its == incarnation {
                    return Standing::Established { backend, incarnation: its };
                }
                if !displaced {
                    return Standing::Incumbent { backend, established: Some(its) };
                }
            }
            Some(Entry::Closing { incarnation: its, backend, .. }) => {
                if !udp && its == incarnation && self.rules.on(Rule::Tombstones) {
                    return Standing::Over;
                }
                heir = udp.then_some(backend);
            }
            Some(Entry::Established { .. }) | None => {}
        }
        if let Some(refusal) = self.store.refusal(now, flow, incarnation) {
            return Standing::Refused(*refusal);
        }
        match self.store.tombstone(now, flow, protocol, incarnation) {
            Some(_) if !udp => Standing::Over,
            Some(tombstone) => Standing::Free { heir: Some(tombstone.backend) },
            None => Standing::Free { heir },
        }
    }

    /// We are asked to head a chain. Any member of the trio that is asked may.
    fn open_from_ingress<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        (service_id, trio): (ServiceId, Trio),
        io: &mut impl Io<B>,
    ) {
        let ingress = (message.control.sender, message.control.cookie);
        match self.standing(now, &message) {
            Standing::Pending(cookie) => {
                let (me, boot) = (self.peers.me(), self.peers.own_boot());
                if let Some(pending) = self.store.pending_mut(cookie) {
                    (pending.ingress, pending.cookie) = ingress;
                    (pending.head, pending.head_boot) = (me, boot);
                }
                self.drive(now, message, cookie, trio, io);
            }
            Standing::Established { backend, incarnation } => {
                self.send_state(message, Whereabouts::At(backend, incarnation), io);
            }
            Standing::Incumbent { backend, established } => {
                self.send_incumbent(message, backend, established, io);
            }
            Standing::Over => io.drop(message.buf, Reason::Unexpected),
            Standing::Refused(refusal) if refusal.voted => {
                self.send_final_reject(message, ingress, refusal.tried, io);
            }
            Standing::Refused(refusal) => {
                let offer = self.offer_of(&message, Candidate::Refused, refusal.tried);
                if self.votes_alone(message.flow.partition()) {
                    return self.refuse(now, message, &offer, trio, io);
                }
                self.ask_second(message, &offer, trio, io);
            }
            Standing::Free { heir } => {
                self.begin(now, message, (service_id, trio), heir, io);
            }
        }
    }

    /// A flow that nobody knows: we choose.
    fn begin<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        (service_id, trio): (ServiceId, Trio),
        heir: Option<MemberId>,
        io: &mut impl Io<B>,
    ) {
        let tried = jlb_wire::Tried::default();
        let serves = |h| self.snapshot.service_by_id(service_id)?.backend(h).map(|b| b.member);
        let heir = heir.and_then(serves).filter(|&h| self.choice().may_have(h));
        let panic = self.picker.panics(service_id);
        let picked = match heir {
            Some(backend) => Ok(Some(Picked { backend, bar: Bar::UNKNOWN, panic })),
            None => {
                let flow = (&message.flow, message.control.incarnation);
                let reject_ttl = message.control.reject_ttl.min(MAX_REJECT_TTL);
                self.pick(now, &Ask::new(service_id, flow, &tried, reject_ttl))
            }
        };
        let Picked { backend, bar, panic } = match picked {
            Ok(Some(picked)) => picked,
            Ok(None) => {
                let offer = self.offer_of(&message, Candidate::Refused, tried);
                return self.refuse(now, message, &offer, trio, io);
            }
            Err(why) => return io.drop(message.buf, why),
        };
        let offer = self.offer_of(&message, Candidate::Backend(backend), tried);
        let offer = Offer { bar, panic, ..offer };
        match self.store.put_pending(now, vote(&message, &offer, (backend, false))) {
            Ok(cookie) => self.drive(now, message, cookie, trio, io),
            Err(why) => io.drop(message.buf, why),
        }
    }

    /// An Open of ours as head, with the packet of a received message.
    fn offer_of<B>(
        &self,
        message: &Message<B>,
        candidate: Candidate,
        tried: jlb_wire::Tried,
    ) -> Offer {
        let control = &message.control;
        Offer {
            candidate,
            incarnation: control.incarnation,
            head: self.peers.me(),
            head_boot: self.peers.own_boot(),
            ingress: control.ingress.unwrap_or(control.sender),
            cookie: control.cookie,
            reject_ttl: control.reject_ttl.min(MAX_REJECT_TTL),
            tried,
            hop_budget: control.hop_budget.saturating_sub(1),
            cut: control.flags.has(Flags::CUT),
            bar: Bar::LAST,
            panic: false,
        }
    }

    /// Sends what is stored on its way: to the second.
    pub(crate) fn drive<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        cookie: Cookie,
        trio: Trio,
        io: &mut impl Io<B>,
    ) {
        self.store.restart(now, cookie);
        let Some(pending) = self.store.pending(cookie) else {
            return io.drop(message.buf, Reason::Unexpected);
        };
        let offer = Offer::of(pending, &message.control);
        self.ask_second(message, &offer, trio, io);
    }

    fn ask_second<B: PacketBuf>(
        &mut self,
        message: Message<B>,
        offer: &Offer,
        trio: Trio,
        io: &mut impl Io<B>,
    ) {
        if self.votes_alone(message.flow.partition()) {
            let us = (self.peers.me(), self.peers.own_boot());
            return self.send_to_backend(message, offer, us, io);
        }
        let Some(second) = self.second_for(trio) else {
            return io.drop(message.buf, Reason::NoTracker);
        };
        if !self.rules.on(Rule::TwoVotes) {
            // Broken on purpose: the backend is told of a vote that nobody gave.
            let boot = self.peers.boot(second).unwrap_or_default();
            return self.send_to_backend(message, offer, (second, boot), io);
        }
        self.send_to_second(message, offer, second, io);
    }

    /// Nobody takes the flow: our vote to refuse it, and the question for another one (rule 13), if there is another one. A pending entry goes;
    /// it stays when the refusal cannot be remembered.
    pub(crate) fn refuse<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        offer: &Offer,
        trio: Trio,
        io: &mut impl Io<B>,
    ) {
        let alone = self.votes_alone(message.flow.partition());
        let voted = alone || !self.rules.on(Rule::RefusalIsVoted);
        let refusal = Refusal { voted, head: self.peers.me(), tried: offer.tried };
        if let Err(why) = self.store.refuse(now, &message.flow, offer.incarnation, refusal) {
            return io.drop(message.buf, why);
        }
        if let Some(Entry::Pending(_)) = self.store.entry(&message.flow) {
            self.store.remove(&message.flow);
        }
        if voted {
            self.send_final_reject(message, (offer.ingress, offer.cookie), offer.tried, io);
        } else {
            let offer = Offer { candidate: Candidate::Refused, ..*offer };
            self.ask_second(message, &offer, trio, io);
        }
    }

    /// We are asked to stand second.
    fn open_from_tracker<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        (service_id, trio): (ServiceId, Trio),
        io: &mut impl Io<B>,
    ) {
        let control = message.control;
        let Some((head, head_rank)) = control.head.and_then(|h| Some((h, trio.rank_of(h)?))) else {
            return io.drop(message.buf, Reason::NotInTrio);
        };
        if control.second != Some(self.peers.me()) || head == self.peers.me() {
            return io.drop(message.buf, Reason::Unexpected);
        }
        let Some(candidate) = Candidate::of(&control).filter(|c| self.can_be(*c)) else {
            return io.drop(message.buf, Reason::Malformed);
        };
        let ingress = (control.ingress.unwrap_or(control.sender), control.cookie);
        match self.standing(now, &message) {
            Standing::Established { backend, incarnation } => {
                self.send_state(message, Whereabouts::At(backend, incarnation), io);
            }
            Standing::Incumbent { backend, established } => {
                self.send_incumbent(message, backend, established, io);
            }
            Standing::Over => io.drop(message.buf, Reason::Unexpected),
            Standing::Free { .. } => self.adopt(now, message, candidate, io),
            Standing::Refused(refusal) => {
                if candidate == Candidate::Refused {
                    return self.adopt(now, message, candidate, io);
                }
                let outranks = trio.rank_of(refusal.head).is_some_and(|r| r < head_rank);
                if refusal.voted {
                    self.send_final_reject(message, ingress, refusal.tried, io);
                } else if outranks {
                    let offer = self.offer_of(&message, Candidate::Refused, refusal.tried);
                    self.send_to_second(message, &offer, control.sender, io);
                } else {
                    io.drop(message.buf, Reason::Unexpected);
                }
            }
            Standing::Pending(cookie) => {
                let Some(pending) = self.store.pending(cookie).copied() else { return };
                let last_word = self.last_word(service_id, candidate);
                if pending.candidate() == candidate {
                    self.second(now, message, cookie, ingress, io);
                } else if pending.refused
                    || refused_by_list(&pending, &control.tried, last_word)
                    || !self.rules.on(Rule::FirstWriterWins)
                {
                    self.adopt(now, message, candidate, io);
                } else {
                    self.split(now, message, (cookie, candidate), (trio, head_rank), io);
                }
            }
        }
    }

    /// Two heads: the higher-ranked one's candidate stays, the other is cancelled (rule 7).
    fn split<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        (cookie, candidate): (Cookie, Candidate),
        (trio, head_rank): (Trio, usize),
        io: &mut impl Io<B>,
    ) {
        let Some(pending) = self.store.pending(cookie).copied() else { return };
        // A head that is not of the trio any more ranks last.
        let our_rank = trio.rank_of(pending.head).unwrap_or(usize::MAX);
        let sender = message.control.sender;
        if our_rank < head_rank && pending.head != sender {
            // Driven, and so not cancelled yet.
            self.store.restart(now, cookie);
            let offer = Offer {
                ingress: message.control.ingress.unwrap_or(pending.ingress),
                cookie: message.control.cookie,
                ..Offer::of(&pending, &message.control)
            };
            self.send_to_second(message, &offer, sender, io);
        } else if our_rank <= head_rank {
            // Another try of the same head, which does not say that ours was refused: one of the two is old.
            io.drop(message.buf, Reason::Unexpected);
        } else if self.rules.on(Rule::SplitVotes) {
            if let Some(pending) = self.store.pending_mut(cookie) {
                pending.yields = true;
            }
            self.send_cancel(&pending, io);
        } else {
            self.adopt(now, message, candidate, io);
        }
    }

    /// Stores a vote as second, in place of what may go, and passes it on.
    fn adopt<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        candidate: Candidate,
        io: &mut impl Io<B>,
    ) {
        let control = message.control;
        let head = control.head.unwrap_or(control.sender);
        let ingress = control.ingress.unwrap_or(control.sender);
        let vote_for = match candidate {
            Candidate::Backend(backend) => (backend, false),
            Candidate::Force(backend) => (backend, true),
            Candidate::Refused => {
                let refusal = Refusal { voted: true, head, tried: control.tried };
                let kept = self.store.refuse(now, &message.flow, control.incarnation, refusal);
                if let Err(why) = kept {
                    return io.drop(message.buf, why);
                }
                if let Some(Entry::Pending(_)) = self.store.entry(&message.flow) {
                    self.store.remove(&message.flow);
                }
                let to = (ingress, control.cookie);
                return self.send_final_reject(message, to, control.tried, io);
            }
        };
        let head_boot = jlb_wire::BootId(control.word_a);
        let (bar, panic) = (Bar(control.load.live), control.flags.has(Flags::PANIC));
        let offer = self.offer_of(&message, candidate, control.tried);
        let offer = Offer { head, head_boot, bar, panic, ..offer };
        match self.store.put_pending(now, vote(&message, &offer, vote_for)) {
            Ok(cookie) => self.second(now, message, cookie, (ingress, control.cookie), io),
            Err(why) => io.drop(message.buf, why),
        }
    }

    /// Passes an Open on to the backend, for which we voted too.
    fn second<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        cookie: Cookie,
        ingress: (MemberId, u32),
        io: &mut impl Io<B>,
    ) {
        self.store.restart(now, cookie);
        let Some(pending) = self.store.pending_mut(cookie) else { return };
        (pending.ingress, pending.cookie) = ingress;
        // This chain's head, which need not be the one that we stored.
        let control = &message.control;
        let offer = Offer {
            head: control.head.unwrap_or(control.sender),
            head_boot: jlb_wire::BootId(control.word_a),
            reject_ttl: control.reject_ttl,
            tried: control.tried,
            bar: Bar(control.load.live),
            panic: control.flags.has(Flags::PANIC),
            ..Offer::of(pending, control)
        };
        let us = (self.peers.me(), self.peers.own_boot());
        self.send_to_backend(message, &offer, us, io);
    }

    /// Whether a candidate can be voted on: refusal, or a backend of the list.
    fn can_be(&self, candidate: Candidate) -> bool {
        candidate.backend().is_none_or(|id| {
            self.snapshot.member(id).is_some_and(|m| m.role == MemberRole::Backend)
        })
    }

    /// Whether a candidate "refused" means that the last backend refused to be forced, too.
    fn last_word(&self, service: ServiceId, candidate: Candidate) -> bool {
        candidate == Candidate::Refused
            && self
                .snapshot
                .service_by_id(service)
                .is_some_and(|s| s.on_exhausted == jlb_map::OnExhausted::Force)
    }
}

/// A vote for the backend of an offer.
fn vote<B>(message: &Message<B>, offer: &Offer, (backend, force): (MemberId, bool)) -> Pending {
    Pending {
        tuple: message.tuple,
        flow: message.flow,
        incarnation: offer.incarnation,
        backend,
        force,
        refused: false,
        yields: false,
        head: offer.head,
        head_boot: offer.head_boot,
        ingress: offer.ingress,
        cookie: offer.cookie,
        reject_ttl: offer.reject_ttl,
        tried: offer.tried,
        bar: offer.bar,
        able: None,
        panic: offer.panic,
        timer: None,
        cancels: 0,
        asked_at: Nanos::ZERO,
    }
}

/// Whether another tracker's list says that our candidate refused: a backend's no is for good, so it needs not to
/// have come by us.
fn refused_by_list(pending: &Pending, tried: &jlb_wire::Tried, last_word: bool) -> bool {
    if pending.force {
        last_word && tried.iter().last() == Some(pending.backend)
    } else {
        tried.contains(pending.backend)
    }
}
