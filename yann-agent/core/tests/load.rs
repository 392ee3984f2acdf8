//! How busy a host is, as it tells trackers unasked.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::pair::{KEYS, Pair, signed};
use common::*;
use jlb_role::{FakeBuf, PacketBuf as _, Role, UnderlayDst};
use jlb_wire::{
    Body, BodyKind, Content, LoadReport, MAX_BODY_PAYLOAD, MemberId, Outer, Refresh, RejectReason,
    ServiceLoad,
};
use jlb_yann_core::AgentEvent;

/// To whom, for which worker, and what of each service.
type Told = (MemberId, u8, Vec<ServiceLoad>);

fn live(services: &[(u16, u32)]) -> Vec<ServiceLoad> {
    let load = |&(service, live)| ServiceLoad { service, live, unwilling: None, share: 100 };
    services.iter().map(load).collect()
}

impl Pair {
    /// A tracker's worker pulls for the first time.
    fn pulls(&mut self, from: MemberId, worker: u8) {
        let body = self.pull(from, 5);
        let first =
            Refresh { batch: 0, batches: 0, worker, workers: 2, sole: 0, shut_out: 0, counter: 0 };
        let mut payload = [0; MAX_BODY_PAYLOAD];
        let len = first.emit(&[], &mut payload);
        assert_eq!(self.take(&signed(&body, &payload[..len])), []);
    }

    /// The Loads since the last time.
    fn loads(&mut self) -> Vec<Told> {
        let sent: Vec<_> = self.io.sent.drain(..).collect();
        let loads = sent.iter().filter_map(|(buf, to)| {
            let outer = Outer::parse(buf.bytes(), 6081).unwrap();
            let Content::Body { body: at } = outer.content else { return None };
            let (body, payload) = Body::parse(&buf.bytes()[at..outer.len], &KEYS).unwrap();
            if body.kind != BodyKind::Load {
                return None;
            }
            assert_eq!(*to, UnderlayDst::Member(body.receiver));
            let (report, services) = LoadReport::parse(payload).unwrap();
            assert_eq!((report.generation, report.cpu), (snapshot(|_| {}).generation(), 9));
            let services: Vec<_> = services.iter().collect();
            assert_eq!(report.live, services.iter().map(|s| s.live).sum::<u32>());
            Some((body.receiver, report.worker, services))
        });
        loads.collect()
    }

    fn event(&mut self, event: AgentEvent) {
        self.agent.event(self.host.now, event, &mut self.io);
    }
}

#[test]
fn every_worker_that_pulls_is_told_when_something_changes_and_now_and_then() {
    let mut pair = Pair::new();
    pair.event(AgentEvent::Cpu(9));
    pair.event(AgentEvent::Live { service: 0, live: 4 });
    pair.pass(100);
    assert_eq!(pair.loads(), [], "nobody has pulled");
    assert!(Role::<FakeBuf>::next_deadline(&pair.agent).is_some());
    for (tracker, worker) in [(HEAD, 0), (HEAD, 1), (SECOND, 0), (HEAD, 1)] {
        pair.pulls(tracker, worker);
    }
    pair.pass(20);
    let told = |services: &[(u16, u32)]| {
        [(HEAD, 0), (HEAD, 1), (SECOND, 0)].map(|(to, worker)| (to, worker, live(services)))
    };
    assert_eq!(pair.loads(), told(&[(0, 4)]));
    // Nothing new: after 100 ms again.
    for ms in [20, 20, 20, 20] {
        pair.pass(ms);
        assert_eq!(pair.loads(), []);
    }
    pair.pass(20);
    assert_eq!(pair.loads(), told(&[(0, 4)]));
    // What the kernel half admits and ends counts, 20 ms later at the latest.
    pair.host.establish(&tcp(1), 700);
    pair.host.admit(&udp(1), 0);
    pair.tell();
    pair.pass(19);
    assert_eq!(pair.loads(), []);
    pair.pass(1);
    let slots: Vec<_> = pair.loads()[0].2.clone();
    assert!(slots.len() == 2 && slots.iter().all(|s| s.live <= 4), "{slots:?}");
    // Another list has other numbers: nothing is said before they are known.
    pair.event(AgentEvent::Snapshot(snapshot(|_| {})));
    pair.pass(200);
    assert_eq!(pair.loads(), []);
}

#[test]
fn that_the_host_wants_no_flows_is_told_within_20_ms_and_so_is_the_end_of_it() {
    let mut pair = Pair::new();
    pair.event(AgentEvent::Cpu(9));
    pair.event(AgentEvent::Live { service: 0, live: 4 });
    pair.event(AgentEvent::Live { service: 1, live: 5 });
    pair.pulls(HEAD, 0);
    pair.pass(20);
    assert_eq!(pair.loads(), [(HEAD, 0, live(&[(0, 4), (1, 5)]))]);
    let words = [Some(RejectReason::Unhealthy), Some(RejectReason::Drain), None, None];
    for (word, share) in words.into_iter().zip([100, 30, 30, 100]) {
        pair.event(AgentEvent::Word { service: 1, word, share });
        pair.pass(20);
        let mut services = live(&[(0, 4), (1, 5)]);
        (services[1].unwilling, services[1].share) = (word, share);
        assert_eq!(pair.loads(), [(HEAD, 0, services)], "{word:?}");
        // The same again is no news.
        pair.event(AgentEvent::Word { service: 1, word, share });
        pair.pass(20);
        assert_eq!(pair.loads(), []);
    }
}
