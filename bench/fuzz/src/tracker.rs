use jlb_flowtracker_core::{Tracker, TrackerConfig, TrackerEvent};
use jlb_role::{AllRules, FakeBuf, Nanos, Role, WorkerId};
use jlb_wire::{BootId, MemberId};

use crate::play::Play;
use crate::script::Script;
use crate::site::{TRACKERS, id, snapshot};

const FLOWS: usize = 6;
const PENDING: usize = 3;
const REMEMBERED: usize = 4;

/// Bytes as a script for a tracker.
pub fn tracker(bytes: &[u8]) {
    let mut s = Script::new(bytes);
    let mut play = begin(id(s.pick(&TRACKERS[..3])), Nanos::from_secs(1));
    while !s.is_over() {
        match s.below(16) {
            0 => play.raw(&mut s),
            1 => {
                let list = play.site.publish(play.now);
                event(&mut play, TrackerEvent::Snapshot(list));
            }
            2 => event(&mut play, TrackerEvent::Leaving(s.flip())),
            _ => play.step(&mut s),
        }
        bounded(&play.role);
    }
    play.settle();
    bounded(&play.role);
}

fn begin(me: MemberId, now: Nanos) -> Play<Tracker> {
    let config = TrackerConfig {
        id: me,
        worker: WorkerId(0),
        workers: 1,
        boot: BootId(u64::from(me.as_u16())),
        seed: 7,
        flow_capacity: FLOWS,
        pending_capacity: PENDING,
        remembered_capacity: REMEMBERED,
    };
    let role = Tracker::new(config, snapshot(0), AllRules, now).expect("sizes that it takes");
    Play::new(role, me, now)
}

fn event(play: &mut Play<Tracker>, event: TrackerEvent) {
    Role::<FakeBuf>::event(&mut play.role, play.now, event, &mut play.io);
}

fn bounded(tracker: &Tracker) {
    let counts = tracker.counts();
    let entries = [counts.pending, counts.established, counts.closing];
    let entries: usize = entries.iter().flatten().sum();
    assert!(entries <= FLOWS && counts.pending.iter().sum::<usize>() <= PENDING, "{counts:?}");
    assert!(counts.tombstones <= REMEMBERED && counts.refusals <= REMEMBERED, "{counts:?}");
    let timers = counts.pending.iter().chain(&counts.closing).sum();
    assert_eq!(
        counts.timers, timers,
        "each pending and each closing entry has its timer: {counts:?}"
    );
}

#[cfg(test)]
mod tests {
    use jlb_role::Samples;

    use super::*;
    use crate::site::BACKENDS;

    #[test]
    fn a_script_begins_with_a_tracker_that_is_warm_and_knows_everybody() {
        for tracker in &TRACKERS[..3] {
            let play = begin(id(*tracker), Nanos::from_secs(1));
            let mut samples = Samples::default();
            Role::<FakeBuf>::collect(&play.role, &mut samples);
            assert_eq!(samples.sum("jlb_cold_partitions", &[]), 0.0);
            assert!(BACKENDS.iter().all(|&b| play.role.peers().alive(id(b))));
        }
    }
}
