//! A loop that touches no memory: how far two cores of this machine really are two.

use core::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use crate::hotpath::median;

const STEPS: u64 = 2_000_000;
const ROUNDS: usize = 21;

/// The median of both workers' speed together relative to the first one's alone, as the first one sees it: it assumes
/// that both are equally fast.
pub(crate) fn scaling(barrier: &Barrier, worker: u8, workers: u8) -> f64 {
    let ratios = (0..ROUNDS).map(|_| {
        barrier.wait();
        let alone = if worker == 0 { seconds() } else { 0.0 };
        barrier.wait();
        let together = seconds();
        alone / together * f64::from(workers)
    });
    median(ratios)
}

fn seconds() -> f64 {
    let began = Instant::now();
    let mut x = black_box(1u64);
    for _ in 0..STEPS {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    black_box(x);
    began.elapsed().as_secs_f64()
}
