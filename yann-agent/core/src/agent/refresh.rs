//! Which flows this host has, for trackers that pull them (Refresh).
//!
//! ```text
//! PULL of a new nonce ─► session ─► Report::Collect ─► AgentEvent::Flows ─► scanned: the tracker's own ─► BATCH … END
//! ```
//!
//! The tracker alone repeats: a PULL is answered when it comes, as often as it comes, and a session that nobody pulls from
//! any more is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use jlb_flow::FlowHasher;
use jlb_map::{MemberRole, Snapshot};
use jlb_peers::{Peers, ReceivedBody};
use jlb_role::{Collect, Io, Metric, MetricKind, MetricSink, Nanos, PacketBuf, Reason, Report};
use jlb_wire::{
    Body, BodyKind, BootId, MAX_BODY_PAYLOAD, MemberId, Refresh, RefreshRecord, body_flags,
};

use super::sole::Sole;

/// Sessions at once: of 16 trackers with 4 workers each. Further pulls are dropped; trackers repeat them.
pub const REFRESH_SESSIONS: usize = 64;
/// A session that nobody pulled from for so long is forgotten.
pub const REFRESH_IDLE: Nanos = Nanos::from_secs(5);

/// A tracker that begins anew gets what its former pull ordered, if that was not longer ago: before a backend can have
/// been declared dead in between, which takes 3 s of silence.
const ORDER_LASTS: Nanos = Nanos::from_secs(2);
/// Workers that a tracker can have.
const WORKERS: u8 = 16;
/// Records looked at per tick, about 60 ns each: a tick holds up nothing else for long.
const SCANNED_PER_TICK: usize = 8192;

static SESSIONS: Metric = Metric {
    name: "jlb_refresh_sessions",
    help: "Workers of trackers that pull this host's flows, or lately did.",
    kind: MetricKind::Gauge,
};
static SENT: Metric = Metric {
    name: "jlb_refresh_flows_total",
    help: "Flows sent to trackers that pulled them, repetitions included.",
    kind: MetricKind::Counter,
};

/// What was collected for a session.
#[derive(Clone, Debug)]
pub(super) struct Flows {
    pub(super) tracker: MemberId,
    pub(super) nonce: u64,
    pub(super) counter: u64,
    pub(super) records: Arc<[RefreshRecord]>,
}

#[derive(Debug)]
struct Session {
    /// Of the tracker.
    boot: BootId,
    /// Of its pulls.
    nonce: u64,
    /// Of what was ordered, and when. The nonce differs when the tracker lost patience: what is under way is as good for
    /// its new nonce, since its boot and our epoch are the same.
    ordered: Option<(u64, Nanos)>,
    /// Who decided alone for this worker's partitions when it was ordered; whenever that changes, sessions begin anew.
    sole: u16,
    workers: u8,
    idle_at: Nanos,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Nothing yet.
    Ordered,
    /// It is looked for records that are meant for this worker.
    Scanned { flows: Flows, looked_at: usize, mine: Vec<u32> },
    /// All is known; `mine` are indices.
    Ready { flows: Flows, mine: Vec<u32> },
}

/// All sessions. Bounded.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// By tracker and worker.
    by_worker: BTreeMap<(MemberId, u8), Session>,
    /// Something is to be scanned, since then.
    scan_at: Option<Nanos>,
    sent: u64,
    /// How often all began anew.
    renewals: u64,
}

impl Sessions {
    /// Takes a body of a tracker's worker.
    pub(super) fn receive<B: PacketBuf>(
        &mut self,
        now: Nanos,
        received: ReceivedBody<B>,
        from: MemberRole,
        (peers, sole): (&mut Peers, &mut Sole),
        io: &mut impl Io<B>,
    ) {
        let ends = (peers, sole);
        if let Err(why) = self.pull(now, &received.body, received.payload(), from, ends, io) {
            io.drop(received.buf, why);
        }
    }

    fn pull<B: PacketBuf>(
        &mut self,
        now: Nanos,
        body: &Body,
        payload: &[u8],
        from: MemberRole,
        (peers, sole): (&mut Peers, &mut Sole),
        io: &mut impl Io<B>,
    ) -> Result<(), Reason> {
        if body.kind != BodyKind::Refresh || body.flags != body_flags::PULL {
            return Err(Reason::WrongKind);
        }
        if from != MemberRole::FlowTracker {
            return Err(Reason::NotAMember);
        }
        // Our answer names our epoch, in which the kernel half then takes Opens (rule 11).
        if body.epoch != peers.snapshot().epoch() {
            return Err(Reason::WrongEpoch);
        }
        let (asked, records) = Refresh::parse(payload).ok_or(Reason::Malformed)?;
        let workers = 1..=WORKERS;
        if !workers.contains(&asked.workers)
            || asked.worker >= asked.workers
            || records.iter().next().is_some()
        {
            return Err(Reason::Malformed);
        }
        // The kernel half may still obey somebody else than we think.
        if sole.is_unwritten() {
            return Err(Reason::NotReady);
        }
        sole.pulled(body, &asked, peers.snapshot(), io)?;
        let key = (body.sender, asked.worker);
        let order = body.nonce.wrapping_add(self.renewals);
        let session = self.session(now, key, body, asked.workers)?;
        session.idle_at = now + REFRESH_IDLE;
        match &session.content {
            Content::Ordered if session.ordered.is_none() => {
                session.ordered = Some((order, now));
                let workers = (asked.worker, asked.workers);
                session.sole = sole.seen_by(peers.snapshot(), body.sender, workers);
                let (tracker, boot) = (body.sender, body.boot);
                io.report(Report::Collect(Collect { tracker, boot, nonce: order }));
                Ok(())
            }
            Content::Ordered | Content::Scanned { .. } => Ok(()),
            Content::Ready { flows, mine } => {
                let said = answer(asked, flows, mine, session.sole).ok_or(Reason::Malformed)?;
                self.sent += said.records.len() as u64;
                let mut payload = [0; MAX_BODY_PAYLOAD];
                let len = said.head.emit(&said.records, &mut payload);
                let kind = (BodyKind::Refresh, said.flags, body.nonce);
                // With no buffer the tracker pulls again.
                peers.send_body(body.sender, kind, &payload[..len], io);
                Ok(())
            }
        }
    }

    /// The session that this pull is of, perhaps a new one.
    fn session(
        &mut self,
        now: Nanos,
        key: (MemberId, u8),
        body: &Body,
        workers: u8,
    ) -> Result<&mut Session, Reason> {
        let is_full = self.by_worker.len() >= REFRESH_SESSIONS;
        let new = || Session {
            boot: body.boot,
            nonce: body.nonce,
            ordered: None,
            sole: 0,
            workers,
            idle_at: Nanos::ZERO,
            content: Content::Ordered,
        };
        if is_full && !self.by_worker.contains_key(&key) {
            return Err(Reason::NotReady);
        }
        let session = self.by_worker.entry(key).or_insert_with(new);
        let same = session.boot == body.boot && session.workers == workers;
        let is_ready = matches!(session.content, Content::Ready { .. });
        let is_late = session.ordered.is_some_and(|(_, at)| now.since(at) > ORDER_LASTS);
        if !same || session.nonce != body.nonce && (is_ready || is_late) {
            *session = new();
        }
        session.nonce = body.nonce;
        Ok(session)
    }

    /// What a session ordered.
    pub(super) fn collected(&mut self, now: Nanos, flows: &Flows) {
        for (&(tracker, _), session) in &mut self.by_worker {
            let waits = matches!(session.content, Content::Ordered)
                && session.ordered.is_some_and(|(nonce, _)| nonce == flows.nonce);
            if tracker == flows.tracker && waits {
                let flows = flows.clone();
                session.content = Content::Scanned { flows, looked_at: 0, mine: Vec::new() };
                self.scan_at = Some(now);
            }
        }
    }

    /// A list of another epoch: what was collected before says nothing of it (rule 11), and trios have changed. Or another
    /// sole owner: what was collected may lack what was admitted by the vote of the one before (rule 14).
    pub(super) fn clear(&mut self) {
        self.by_worker.clear();
        // What is under way under the same nonce is not taken for what will be ordered.
        self.renewals = self.renewals.wrapping_add(1);
        self.scan_at = None;
    }

    /// Looks at some more records, and forgets sessions that are idle.
    pub(super) fn tick(&mut self, now: Nanos, snapshot: &Snapshot, hasher: &FlowHasher) {
        self.by_worker.retain(|_, session| session.idle_at > now);
        let mut budget = SCANNED_PER_TICK;
        for (&(tracker, worker), session) in &mut self.by_worker {
            session.scan(&mut budget, |record, workers| {
                let partition = hasher.id(&record.tuple).partition();
                partition.index() % usize::from(workers) == usize::from(worker)
                    && snapshot.trio(partition).contains(tracker)
            });
        }
        let more = |s: &Session| matches!(s.content, Content::Scanned { .. });
        self.scan_at = self.by_worker.values().any(more).then_some(now);
    }

    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        self.by_worker.values().map(|s| s.idle_at).chain(self.scan_at).min()
    }

    pub(super) fn collect(&self, out: &mut dyn MetricSink) {
        out.value(&SESSIONS, &[], self.by_worker.len() as f64);
        out.value(&SENT, &[], self.sent as f64);
    }
}

impl Session {
    fn scan(&mut self, budget: &mut usize, is_mine: impl Fn(&RefreshRecord, u8) -> bool) {
        let Content::Scanned { flows, looked_at, mine } = &mut self.content else { return };
        let ends = flows.records.len().min(*looked_at + *budget);
        for (index, record) in flows.records.iter().enumerate().take(ends).skip(*looked_at) {
            if is_mine(record, self.workers) {
                mine.push(index as u32);
            }
        }
        *budget -= ends - *looked_at;
        *looked_at = ends;
        if ends == flows.records.len() {
            let (flows, mine) = (flows.clone(), core::mem::take(mine));
            self.content = Content::Ready { flows, mine };
        }
    }
}

struct Said {
    flags: u16,
    head: Refresh,
    records: Vec<RefreshRecord>,
}

/// The batch that was asked for, or behind the last one the end marker. `None` for a number that there is not.
fn answer(asked: Refresh, flows: &Flows, mine: &[u32], sole: u16) -> Option<Said> {
    let batches = mine.len().div_ceil(Refresh::MAX_RECORDS) as u32;
    let head = Refresh { batches, counter: flows.counter, sole, ..asked };
    if asked.batch == batches {
        return Some(Said { flags: body_flags::END, head, records: Vec::new() });
    }
    let batch = mine.chunks(Refresh::MAX_RECORDS).nth(asked.batch as usize)?;
    let records = batch.iter().filter_map(|&index| flows.records.get(index as usize)).copied();
    Some(Said { flags: body_flags::BATCH, head, records: records.collect() })
}
