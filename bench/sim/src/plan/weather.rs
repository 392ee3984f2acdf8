//! What the network does to packets.

use jlb_role::Nanos;

use crate::fabric::Faults;
use crate::random::Random;
use crate::seen::{PACKET_KINDS, PacketKind};

/// The weather inside: each kind of trouble is there or not, and some of it hits one kind of packet only.
pub(super) fn draw_faults(r: &mut Random) -> Faults {
    let mut f = Faults::none();
    if r.once_in(5) {
        return f;
    }
    // 30 ms: a chain takes longer than the retransmitter waits for it, so two trackers lead one.
    f.delay = Nanos(r.pick([20_000, 200_000, 2_000_000, 30_000_000]));
    f.jitter = Nanos(r.pick([10_000, 300_000, 3_000_000, 30_000_000]));
    f.overtaking = r.once_in(2);
    f.late = Nanos::from_millis(r.pick([1, 20, 100, 300, 2000]));
    if r.once_in(2) {
        f.loss = r.pick([1_000, 20_000, 100_000, 200_000]);
    }
    if r.once_in(2) {
        f.duplicate = r.pick([1_000, 20_000, 200_000]);
    }
    if r.once_in(2) {
        f.reorder = r.pick([1_000, 30_000, 300_000]);
    }
    if r.once_in(2) {
        for _ in 0..r.between(1, 3) {
            let kind = r.between(1, PACKET_KINDS as u64 - 1) as usize;
            f.loss_of[kind] = r.pick([50_000, 200_000, 500_000]);
        }
    }
    if r.once_in(2) {
        for _ in 0..r.between(1, 3) {
            f.late_of[r.between(1, PACKET_KINDS as u64 - 1) as usize] = 400_000;
        }
    }
    // What wrong suspicions and two heads at once come from.
    if r.once_in(3) {
        f.loss_of[PacketKind::Body as usize] = r.pick([300_000, 600_000]);
    }
    if r.once_in(3) {
        f.late_of[PacketKind::Open as usize] = 400_000;
    }
    if r.once_in(8) {
        f.queue = r.pick([8, 32]);
    }
    f
}

/// The weather between clients and the cluster.
pub(super) fn draw_outside(r: &mut Random) -> Faults {
    let mut f = Faults::none();
    f.delay = Nanos(r.pick([50_000, 1_000_000, 20_000_000]));
    f.jitter = Nanos(r.pick([10_000, 1_000_000, 10_000_000]));
    f.overtaking = r.once_in(3);
    f.late = Nanos::from_millis(r.pick([1, 20, 200]));
    f.loss = r.pick([0, 10_000, 100_000]);
    f.duplicate = r.pick([0, 10_000, 200_000]);
    f.reorder = r.pick([0, 10_000, 200_000]);
    f
}
