//! Seeds on several threads, and a word on how far they are.

use core::time::Duration;
use std::error::Error;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Instant, SystemTime};

use jlb_role::Rule;

use super::SHOWN;
use super::seeds::Seeds;
use super::sum::Sum;

/// How often it is looked what the threads have found.
const LOOK: Duration = Duration::from_millis(50);
/// From one progress line to the next.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs `count` seeds from `first` on, so many at once, until all are done or it is interrupted: then those are told of that were
/// done. Says every ten seconds how far it is, and shows a violation as soon as it is seen.
pub(super) fn run(
    (first, count): (u64, u64),
    without: Option<Rule>,
    jobs: usize,
    interrupted: &AtomicBool,
) -> Result<Sum, Box<dyn Error>> {
    let seeds = Seeds::new(first, count, without);
    let mut err = io::stderr().lock();
    if count == u64::MAX {
        writeln!(err, "soak: from seed {first} on, {jobs} at once; an interrupt ends it")?;
    }
    seeds.run(jobs, || {
        let watched = watch(&seeds, (count, without), interrupted, &mut err);
        seeds.stop();
        watched
    })?;
    Ok(seeds.into_sum()?)
}

fn watch(
    seeds: &Seeds,
    (count, without): (u64, Option<Rule>),
    interrupted: &AtomicBool,
    err: &mut impl io::Write,
) -> io::Result<()> {
    let began = Instant::now();
    let (mut shown, mut told) = (0, began);
    loop {
        thread::sleep(LOOK);
        let over = interrupted.load(Ordering::Relaxed) || seeds.are_over();
        // Whoever looks for seeds that a canary is caught by wants more of them than can be read.
        let failed = seeds.look(|sum| {
            let new = sum.failed.iter().take(SHOWN).skip(shown);
            let failed = new.map(|r| format!("{r}\n  replay: {}", r.replay(without)));
            failed.collect::<Vec<_>>()
        });
        shown += failed.len();
        for report in failed {
            writeln!(err, "{report}")?;
        }
        if over {
            return Ok(());
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let line = seeds.look(|sum| sum.progress(began.elapsed()));
            let of = if count == u64::MAX { String::new() } else { format!("of {count}: ") };
            writeln!(err, "{of}{line}")?;
        }
    }
}

/// Another one each second, so that each soak finds its own.
pub(super) fn seed_of_today() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |t| t.as_secs() * 1_000_000)
}
