//! What the backends have told of their flows: their end markers, and the pulls that are under way.

use arrayvec::ArrayVec;
use jlb_map::{MemberRole, Snapshot};
use jlb_peers::{HEARTBEAT_LIMIT, Peers, Random};
use jlb_role::{Nanos, Reason};
use jlb_wire::{Body, BootId, Epoch, MemberId, Refresh};

use crate::refresh::{Session, WINDOW};
use crate::store::REPLAY_WINDOW;

/// Pulls at the same time: enough to keep a port busy; others wait their turn.
const SESSIONS: usize = 16;
/// Questions in one round at most.
pub(crate) const QUESTIONS: usize = SESSIONS * WINDOW;
/// Backends looked at in one round, to see whether they are to be pulled.
const SCANNED: usize = 256;
/// From one round to the next.
const SCAN_EVERY: Nanos = Nanos::from_millis(10);
/// Who gave its marker is pulled again after this: it sweeps what lost Closes have left behind.
pub(crate) const REFRESH_EVERY: Nanos = Nanos::from_secs(60);
/// After a pull that took longer than tombstones stand: what closed meanwhile may have been listed, and forgotten.
const REFRESH_SOON: Nanos = Nanos::from_secs(10);
/// A pull that failed is tried again after this, one that found no room after the second time.
const RETRY: Nanos = Nanos::from_millis(50);
const RETRY_FULL: Nanos = Nanos::from_secs(1);
/// One that met other entries after the third, so often at most: by then those backends were pulled, too.
const RETRY_DISPUTE: Nanos = Nanos::from_millis(200);
const DISPUTES: u8 = 5;
/// One from a backend that obeys another tracker after the fourth.
const RETRY_SOLE: Nanos = Nanos::from_millis(200);

/// The backends as sources of what is known of flows.
#[derive(Debug)]
pub(crate) struct Sources {
    /// By member id.
    sources: Box<[Source]>,
    sessions: ArrayVec<Session, SESSIONS>,
    /// Where the next round goes on, among the backends of the list.
    cursor: usize,
    scan_at: Nanos,
    /// How often all markers became void.
    fence: u32,
    /// Whom backends may obey alone if their markers are to count for us: us, or nobody.
    owners: Owners,
    nonces: Random,
    /// Batches that came and were used.
    pub(crate) batches: u64,
}

#[derive(Clone, Copy, Debug)]
struct Owners {
    me: u16,
    /// Some of our partitions are ours alone: who does not obey us tells us nothing that counts.
    alone: bool,
}

impl Owners {
    const fn admit(self, owner: u16) -> bool {
        owner == self.me || owner == 0 && !self.alone
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// [`Sources::fence`] of that marker.
    fence: u32,
    /// Boot and epoch of the last end marker.
    marker: Option<(BootId, Epoch)>,
    /// When to pull, if it has a marker that counts; else not before `retry`.
    again: Nanos,
    retry: Nanos,
    /// Pulls in a row that met other entries.
    disputes: u8,
    /// Of its last pull.
    number: u8,
    /// Under which boot it said last that we are shut out, and its number of that: a marker of before does not count.
    shut_out: Option<(BootId, u8)>,
    /// What that pull listed, once it is over and until the next one begins.
    listed: Option<Listed>,
}

#[derive(Clone, Copy, Debug)]
struct Listed {
    boot: BootId,
    counter: u64,
}

/// A question to a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pull {
    pub(crate) to: MemberId,
    pub(crate) nonce: u64,
    /// The number of our being shut out that we know of.
    pub(crate) shut_out: u8,
    pub(crate) batch: u32,
}

impl Sources {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            sources: vec![Source::default(); usize::from(MemberId::MAX) + 1].into_boxed_slice(),
            sessions: ArrayVec::new(),
            cursor: 0,
            scan_at: Nanos::ZERO,
            fence: 0,
            owners: Owners { me: 0, alone: false },
            nonces: Random::new(seed),
            batches: 0,
        }
    }

    /// Whether all that a backend had under its current boot was told once.
    pub(crate) fn knows(&self, backend: MemberId, boot: Option<BootId>) -> bool {
        let marker = self.sources[backend.index()].marker;
        marker.is_some_and(|(of, _)| Some(of) == boot)
    }

    /// The same in this epoch: its end marker counts.
    pub(crate) fn marked(&self, backend: MemberId, boot: Option<BootId>, epoch: Epoch) -> bool {
        let source = &self.sources[backend.index()];
        source.fence == self.fence
            && source.marker.is_some_and(|(of, in_epoch)| Some(of) == boot && in_epoch == epoch)
    }

    /// What marks an entry of that backend that is heard of now.
    pub(crate) fn number(&self, backend: MemberId) -> u8 {
        self.sources[backend.index()].number
    }

    /// Whether a backend's entry was missing in its last complete list though it is older: it is over.
    pub(crate) fn misses(
        &self,
        backend: MemberId,
        (boot, counter): (BootId, u64),
        number: u8,
    ) -> bool {
        let source = &self.sources[backend.index()];
        source.listed.is_some_and(|listed| {
            listed.boot == boot && counter <= listed.counter && number != source.number
        })
    }

    /// Another member list is in force: with another epoch all are pulled again; who is gone is forgotten.
    pub(crate) fn update(&mut self, old: &Snapshot, new: &Snapshot) {
        let other_epoch = old.epoch() != new.epoch();
        let gone = |id| new.member(id).is_none_or(|m| m.role != MemberRole::Backend);
        self.sessions.retain(|s| !other_epoch && !gone(s.backend));
        for &id in old.with_role(MemberRole::Backend).iter().filter(|&&id| gone(id)) {
            let source = &mut self.sources[id.index()];
            // The number goes on, so that no old mark fits a new pull.
            *source = Source { number: source.number, ..Source::default() };
        }
        // What was listed were flows of the partitions that were ours then.
        for &id in new.with_role(MemberRole::Backend).iter().filter(|_| other_epoch) {
            self.sources[id.index()].listed = None;
        }
        self.scan_at = Nanos::ZERO;
    }

    /// All are asked again, though what they told stands: others may have decided something since (rule 14).
    pub(crate) fn renew(&mut self, me: MemberId, alone: bool) {
        self.fence = self.fence.wrapping_add(1);
        self.sessions.clear();
        self.set_alone(me, alone);
    }

    /// Whether some partitions are ours alone.
    pub(crate) const fn set_alone(&mut self, me: MemberId, alone: bool) {
        self.owners = Owners { me: me.as_u16(), alone };
    }

    /// A backend says that our votes do not count there: what it told us lacks what was decided without us. Gives whether
    /// that is news, so that it must tell us again.
    pub(crate) fn shut_out(&mut self, backend: MemberId, by: (BootId, u8)) -> bool {
        let source = &mut self.sources[backend.index()];
        let news = source.shut_out != Some(by);
        if news {
            source.shut_out = Some(by);
            source.retry = Nanos::ZERO;
            self.forget(backend);
            self.scan_at = Nanos::ZERO;
        }
        news
    }

    /// A backend is dead: what it says next must be all that it has.
    pub(crate) fn forget(&mut self, backend: MemberId) {
        self.sources[backend.index()].marker = None;
        self.sessions.retain(|s| s.backend != backend);
    }

    /// Whether a round is due; the next one is set.
    pub(crate) fn scan_is_due(&mut self, now: Nanos) -> bool {
        let due = now >= self.scan_at;
        if due {
            self.scan_at = now + SCAN_EVERY;
        }
        due
    }

    /// Begins pulls, as many as there is room for: of those without a marker that counts first, then one that was not
    /// pulled for long.
    pub(crate) fn begin(
        &mut self,
        now: Nanos,
        snapshot: &Snapshot,
        peers: &Peers,
        dead: impl Fn(MemberId) -> bool,
    ) {
        let backends = snapshot.with_role(MemberRole::Backend);
        for _ in 0..backends.len().min(SCANNED) {
            if self.sessions.is_full() {
                // The next round goes on here: everybody has a turn.
                break;
            }
            self.cursor = (self.cursor + 1) % backends.len();
            let backend = backends[self.cursor];
            if dead(backend) {
                self.forget(backend);
                continue;
            }
            let there = peers.alive(backend)
                && peers.heartbeat_age(backend).is_some_and(|age| age <= HEARTBEAT_LIMIT);
            let Some(boot) = peers.boot(backend).filter(|_| there) else { continue };
            let counts = self.marked(backend, Some(boot), snapshot.epoch());
            let source = &self.sources[backend.index()];
            let due = if counts { source.again.max(source.retry) } else { source.retry };
            // A routine pull keeps nobody waiting who is needed.
            let room = !counts || self.sessions.is_empty();
            if now >= due && room && !self.sessions.iter().any(|s| s.backend == backend) {
                self.start(now, backend, boot);
                if counts {
                    break;
                }
            }
        }
    }

    fn start(&mut self, now: Nanos, backend: MemberId, boot: BootId) {
        let source = &mut self.sources[backend.index()];
        source.number = source.number % u8::MAX + 1;
        source.listed = None;
        let nonce = self.nonces.next();
        let shut_out = source.shut_out.filter(|&(of, _)| of == boot).map_or(0, |(_, n)| n);
        self.sessions.push(Session::new(now, (backend, boot), (nonce, shut_out), source.number));
    }

    /// Ends what gets no answer or was answered by another boot, and gives the next questions of all others.
    pub(crate) fn questions(&mut self, now: Nanos, peers: &Peers, mut ask: impl FnMut(Pull)) {
        for at in (0..self.sessions.len()).rev() {
            let session = &mut self.sessions[at];
            if session.fails(now) || peers.boot(session.backend) != Some(session.boot) {
                self.sources[session.backend.index()].retry = now + RETRY;
                self.sessions.swap_remove(at);
                continue;
            }
            let Session { backend: to, nonce, shut_out, .. } = *session;
            let due = session.due(now).into_iter();
            due.for_each(|batch| ask(Pull { to, nonce, shut_out, batch }));
        }
    }

    /// Takes note of an answer; gives the mark for the entries that it lists.
    pub(crate) fn take(
        &mut self,
        now: Nanos,
        body: &Body,
        refresh: &Refresh,
    ) -> Result<u8, Reason> {
        let ours = |s: &&mut Session| (s.backend, s.nonce) == (body.sender, body.nonce);
        let session = self.sessions.iter_mut().find(ours).ok_or(Reason::Unexpected)?;
        session.take(now, body, refresh)?;
        self.batches += 1;
        Ok(session.number)
    }

    /// Something that was listed found no room.
    pub(crate) fn lacks_room(&mut self, backend: MemberId) {
        if let Some(session) = self.sessions.iter_mut().find(|s| s.backend == backend) {
            session.incomplete = true;
        }
    }

    /// Something that was listed as live met an entry of another backend or incarnation.
    pub(crate) fn is_in_the_way(&mut self, backend: MemberId) {
        if let Some(session) = self.sessions.iter_mut().find(|s| s.backend == backend) {
            session.in_the_way = true;
        }
    }

    /// Ends the pull of a backend if all of it is here: its marker counts from now on, unless something found no room.
    /// What it did not list can be swept then. Gives whom it obeys alone.
    pub(crate) fn end(&mut self, now: Nanos, backend: MemberId, epoch: Epoch) -> Option<u16> {
        let at = self.sessions.iter().position(|s| s.backend == backend);
        let (at, (counter, owner)) = at.and_then(|at| Some((at, self.sessions[at].over()?)))?;
        let session = self.sessions.swap_remove(at);
        let boot = session.boot;
        let long = now.since(session.started) > REPLAY_WINDOW;
        let source = &mut self.sources[backend.index()];
        source.again = now + if long { REFRESH_SOON } else { REFRESH_EVERY };
        source.listed = Some(Listed { boot, counter });
        let counts = source.marker == Some((boot, epoch)) && source.fence == self.fence;
        if !self.owners.admit(owner) {
            // Another one decides there, and what it decided may not be in this list.
            source.marker = None;
            source.retry = now + RETRY_SOLE;
        } else if session.incomplete {
            source.retry = now + RETRY_FULL;
        } else if session.in_the_way && !counts && source.disputes < DISPUTES {
            // What is in the way may be over, as a late Accept is, and goes with its own backend's list; a marker that
            // counted now would make us forget a live flow. When both backends insist, whoever we hold wins.
            source.disputes += 1;
            source.retry = now + RETRY_DISPUTE;
        } else {
            source.disputes = 0;
            source.marker = Some((boot, epoch));
            source.fence = self.fence;
        }
        self.scan_at = Nanos::ZERO;
        Some(owner)
    }

    /// The next questions of one backend's pull.
    pub(crate) fn questions_to(&mut self, now: Nanos, backend: MemberId) -> ArrayVec<Pull, WINDOW> {
        let session = self.sessions.iter_mut().find(|s| s.backend == backend);
        session.map_or_else(ArrayVec::new, |session| {
            let (nonce, shut_out) = (session.nonce, session.shut_out);
            let pull = |batch| Pull { to: backend, nonce, shut_out, batch };
            session.due(now).into_iter().map(pull).collect()
        })
    }

    pub(crate) fn next_deadline(&self) -> Nanos {
        self.sessions.iter().map(Session::deadline).fold(self.scan_at, Nanos::min)
    }
}
