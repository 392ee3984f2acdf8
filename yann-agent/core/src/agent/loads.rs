//! How busy this host is, told to the trackers that place flows: by itself, so that those know who hear of few flows here.

use std::collections::BTreeMap;

use jlb_map::Snapshot;
use jlb_peers::Peers;
use jlb_role::{Io, Nanos, PacketBuf};
use jlb_wire::{BodyKind, LoadReport, MAX_BODY_PAYLOAD, MemberId, RejectReason, ServiceLoad};

use super::refresh::REFRESH_SESSIONS;

/// From one look to the next. A tracker that knew better than 20 ms ago places as well as one that knows all
/// (docs/load-balancing.md); 20 trackers then cost an agent 1000 small packets a second.
pub const LOAD_EVERY: Nanos = Nanos::from_millis(20);
/// Who was told the same the last time is told again after this: a tenth of the second after which it is forgotten.
const SAME_EVERY: Nanos = Nanos::from_millis(100);

/// What a service has, and who was told of it.
#[derive(Debug, Default)]
pub(super) struct Loads {
    /// Live flows by the service's number in the list. At most one for each service.
    live: BTreeMap<u16, u32>,
    /// Services of which the host wants no new flows, and why.
    words: BTreeMap<u16, RejectReason>,
    /// Services of which it wants less than all of its weight.
    shares: BTreeMap<u16, u8>,
    /// Of the host, 0 ..= 65535 for 0 ..= 1.
    pub(super) cpu: u16,
    /// Workers of trackers, which have pulled. As many as there are sessions at most.
    listeners: Vec<(MemberId, u8)>,
    due: Nanos,
    /// Something has changed since everybody was told; and when that was.
    changed: bool,
    told: Nanos,
    pub(super) sent: u64,
}

impl Loads {
    /// The kernel half says how many live flows a service has.
    pub(super) fn set(&mut self, service: u16, live: u32) {
        self.changed |= self.live.insert(service, live) != Some(live);
    }

    /// The host wants no new flows of a service, or wants them again.
    pub(super) fn set_word(&mut self, service: u16, word: Option<RejectReason>) {
        let former = match word {
            Some(reason) => self.words.insert(service, reason),
            None => self.words.remove(&service),
        };
        self.changed |= former != word;
    }

    /// How much of its weight the host wants to have, in per cent.
    pub(super) fn set_share(&mut self, service: u16, share: u8) {
        let former = if share < ServiceLoad::ALL {
            self.shares.insert(service, share)
        } else {
            self.shares.remove(&service)
        };
        self.changed |= former.unwrap_or(ServiceLoad::ALL) != share;
    }

    pub(super) fn of(&self, service: u16) -> Option<u32> {
        self.live.get(&service).copied()
    }

    /// A tracker's worker pulls: it places flows.
    pub(super) fn listens(&mut self, tracker: MemberId, worker: u8) {
        let listener = (tracker, worker);
        if !self.listeners.contains(&listener) && self.listeners.len() < REFRESH_SESSIONS {
            self.listeners.push(listener);
            self.changed = true;
        }
    }

    /// Another list: its services have other numbers.
    pub(super) fn renumber(&mut self, snapshot: &Snapshot) {
        self.live.clear();
        self.words.clear();
        self.shares.clear();
        self.listeners.retain(|(tracker, _)| snapshot.member(*tracker).is_some());
    }

    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        (!self.listeners.is_empty()).then_some(self.due)
    }

    /// Tells everybody who answers, if it is time.
    pub(super) fn tell<B: PacketBuf>(
        &mut self,
        now: Nanos,
        peers: &mut Peers,
        io: &mut impl Io<B>,
    ) {
        if self.listeners.is_empty() || now < self.due {
            return;
        }
        self.due = now + LOAD_EVERY;
        if !self.changed && now.since(self.told) < SAME_EVERY {
            return;
        }
        (self.changed, self.told) = (false, now);
        let load = |(&service, &live)| {
            let unwilling = self.words.get(&service).copied();
            let share = self.shares.get(&service).copied().unwrap_or(ServiceLoad::ALL);
            ServiceLoad { service, live, unwilling, share }
        };
        let services: Vec<_> = self.live.iter().map(load).collect();
        let generation = peers.snapshot().generation();
        let live = services.iter().fold(0, |sum: u32, s| sum.saturating_add(s.live));
        for &(tracker, worker) in &self.listeners {
            if !peers.alive(tracker) {
                continue;
            }
            let report = LoadReport { generation, live, cpu: self.cpu, worker };
            for some in services.chunks(LoadReport::MAX_SERVICES) {
                let mut payload = [0; MAX_BODY_PAYLOAD];
                let len = report.emit(some, &mut payload);
                peers.send_body(tracker, (BodyKind::Load, 0, 0), &payload[..len], io);
                self.sent += 1;
            }
        }
    }
}
