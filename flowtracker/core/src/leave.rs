//! Leaving in order: others head in our place, and what waits here is answered.

use jlb_map::MemberRole;
use jlb_role::{Io, Nanos, PacketBuf, Report, Rules};
use jlb_wire::MemberId;

use crate::tracker::Tracker;

/// So long all others have to hear that we leave: Probe tells them within 20 ms, and one may be lost.
const NOTICE: Nanos = Nanos::from_millis(100);

/// How far the leaving is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Leave {
    /// We stay.
    #[default]
    Stays,
    /// We have said so, since then.
    Since(Nanos),
    /// We have nothing left to do, and reported it.
    Done,
}

impl<R: Rules> Tracker<R> {
    pub(crate) const fn set_leaving(&mut self, now: Nanos, leaving: bool) {
        self.peers.set_leaving(leaving);
        self.leave = if leaving { Leave::Since(now) } else { Leave::Stays };
    }

    /// Reports once that nothing is lost with us: no vote of ours waits for its backend, and the others of our trios know
    /// all flows.
    pub(crate) fn report_leave<B: PacketBuf>(&mut self, now: Nanos, io: &mut impl Io<B>) {
        let Leave::Since(since) = self.leave else { return };
        let pending: usize = self.store.counts().pending.iter().sum();
        if now.since(since) >= NOTICE && pending == 0 && self.is_dispensable() {
            self.leave = Leave::Done;
            io.report(Report::MayLeave);
        }
    }

    fn is_dispensable(&self) -> bool {
        let me = self.peers.me();
        let trackers = self.snapshot.with_role(MemberRole::FlowTracker);
        // The cluster stops: there is nobody to wait for.
        if trackers.iter().all(|&id| id == me || self.peers.leaving(id)) {
            return true;
        }
        let is_warm = |id: MemberId| self.peers.alive(id) && !self.peers.cold(id);
        self.ours()
            .of(&self.snapshot)
            .all(|p| self.snapshot.trio(p).iter().all(|id| id == me || is_warm(id)))
    }
}
