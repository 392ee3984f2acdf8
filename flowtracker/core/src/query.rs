//! Query: where does this flow live? And what comes to a tracker that does not own the flow any more.

use jlb_map::Trio;
use jlb_role::{Io, Nanos, PacketBuf, Reason, Rule, Rules};
use jlb_wire::{Flags, Incarnation, MemberId, Protocol, proves_over};

use crate::entry::{Entry, Tombstone};
use crate::tracker::{Message, Tracker};

/// A pending entry that somebody asks for is driven again, but not more often than this.
const DRIVE_AGAIN: Nanos = Nanos::from_millis(25);

/// What a State says of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whereabouts {
    /// On that backend, with that incarnation.
    At(MemberId, Incarnation),
    /// Not yet to be said.
    NotYet,
    /// Nobody told us, and whoever knows would have.
    Unknown,
}

impl Whereabouts {
    /// The backend, incarnation and flags of a State.
    pub(crate) fn words(self) -> (Option<MemberId>, Incarnation, Flags) {
        match self {
            Self::At(backend, incarnation) => (Some(backend), incarnation, Flags::default()),
            Self::NotYet => (None, Incarnation(0), Flags::PENDING),
            Self::Unknown => (None, Incarnation(0), Flags::UNKNOWN),
        }
    }
}

impl<R: Rules> Tracker<R> {
    pub(crate) fn on_query<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: Message<B>,
        io: &mut impl Io<B>,
    ) {
        if message.control.ingress != Some(message.control.sender) {
            return io.drop(message.buf, Reason::Malformed);
        }
        let trio = self.snapshot.trio(message.flow.partition());
        if !trio.contains(self.peers.me()) {
            return self.pass_on(message, trio, io);
        }
        if let Some(over) = self.disproved(&message) {
            let protocol = message.tuple.protocol();
            // As its Close would: what is still under way of that incarnation must not begin it anew elsewhere. Without
            // room for that the entry stays, and the ingress asks again. (A datagram flow's tombstone would lead the next
            // datagram to where it is not.)
            let leaves_tombstone = protocol == Protocol::Tcp && self.rules.on(Rule::Tombstones);
            if !leaves_tombstone || self.store.bury(now, &message.flow, protocol, over).is_ok() {
                self.store.remove(&message.flow);
            }
        }
        let whereabouts = self.whereabouts(now, &message, io);
        self.send_state(message, whereabouts, io);
    }

    /// Passes what an ingress asks to an owner of the partition: the ingress has an older list. If it has a newer one,
    /// we cannot know who owns it (rule 11).
    pub(crate) fn pass_on<B: PacketBuf>(
        &mut self,
        message: Message<B>,
        trio: Trio,
        io: &mut impl Io<B>,
    ) {
        if message.control.epoch > self.snapshot.epoch() {
            return io.drop(message.buf, Reason::WrongEpoch);
        }
        let owner = self.peers.in_order(trio.iter()).next();
        match owner {
            Some(owner) => {
                let flow = message.flow;
                self.peers.forward(message.buf, &message.envelope, owner, &flow, io);
            }
            None => io.drop(message.buf, Reason::NotInTrio),
        }
    }

    /// What is over: the backend of the flow's entry says that it has no such flow, later than it said that it had.
    fn disproved<B>(&self, message: &Message<B>) -> Option<Tombstone> {
        match self.store.entry(&message.flow) {
            Some(Entry::Established { backend, boot, counter, incarnation, .. })
                if message.control.backend == Some(backend)
                    && self.peers.boot(backend) == Some(boot)
                    && proves_over(message.control.word_b, boot, counter) =>
            {
                Some(Tombstone { backend, boot, incarnation })
            }
            Some(Entry::Established { .. } | Entry::Pending(_) | Entry::Closing { .. }) | None => {
                None
            }
        }
    }

    fn whereabouts<B: PacketBuf>(
        &mut self,
        now: Nanos,
        message: &Message<B>,
        io: &mut impl Io<B>,
    ) -> Whereabouts {
        let protocol = message.tuple.protocol();
        match self.store.entry(&message.flow) {
            Some(Entry::Established { backend, boot, incarnation, .. })
                if self.holds(now, (backend, boot)) =>
            {
                return Whereabouts::At(backend, incarnation);
            }
            Some(Entry::Pending(cookie)) => {
                self.hurry(now, cookie, io);
                return Whereabouts::NotYet;
            }
            // Its last packets still go there.
            Some(Entry::Closing { backend, incarnation, .. })
                if self.snapshot.member(backend).is_some() =>
            {
                return Whereabouts::At(backend, incarnation);
            }
            Some(Entry::Established { .. } | Entry::Closing { .. }) | None => {}
        }
        // Of a TCP flow a tombstone cannot be found without the incarnation.
        if protocol == Protocol::Udp {
            let tombstone =
                self.store.tombstone(now, &message.flow, protocol, Incarnation(0)).copied();
            if let Some(t) = tombstone.filter(|t| self.holds(now, (t.backend, t.boot))) {
                return Whereabouts::At(t.backend, t.incarnation);
            }
        }
        // One tracker cannot say that nobody knows, nor can those who vote no more.
        let partition = message.flow.partition();
        let alone = self.sole.owns(partition) || !self.lease.holds(now);
        if self.is_cold(partition) || alone { Whereabouts::NotYet } else { Whereabouts::Unknown }
    }

    /// Somebody waits for a pending flow whose chain may be broken: its backend is asked to decide now.
    fn hurry<B: PacketBuf>(&mut self, now: Nanos, cookie: jlb_flow::Cookie, io: &mut impl Io<B>) {
        let Some(pending) = self.store.pending_mut(cookie) else { return };
        let due = now.since(pending.asked_at) >= DRIVE_AGAIN;
        if !due || self.snapshot.member(pending.backend).is_none() {
            return;
        }
        pending.asked_at = now;
        let pending = *pending;
        self.send_cancel(&pending, io);
    }
}
