//! Seeds without end, until somebody has seen enough.

use core::time::Duration;
use std::error::Error;
use std::io::{self, Write as _};
use std::time::{Instant, SystemTime};

use super::SHOWN;
use super::seeds::Seeds;
use super::sum::Sum;

/// From one progress line to the next.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs seeds until it is interrupted, and says every ten seconds how far it is. A violation is shown as soon as it is
/// seen.
pub(super) fn soak(first: Option<u64>, jobs: usize) -> Result<Sum, Box<dyn Error>> {
    let first = first.unwrap_or_else(seed_of_today);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seeds = Seeds::new(first, u64::MAX, None);
    let began = Instant::now();
    let mut err = io::stderr().lock();
    writeln!(err, "soak: from seed {first} on, {jobs} at once; an interrupt ends it")?;
    seeds.run(jobs, || {
        let watched = runtime.block_on(watch(&seeds, began, &mut err));
        seeds.stop();
        watched
    })?;
    Ok(seeds.into_sum()?)
}

async fn watch(seeds: &Seeds, began: Instant, err: &mut impl io::Write) -> io::Result<()> {
    let mut interrupt = core::pin::pin!(tokio::signal::ctrl_c());
    let mut beat = tokio::time::interval(PROGRESS);
    beat.tick().await;
    let mut shown = 0;
    loop {
        let over = tokio::select! {
            interrupted = &mut interrupt => interrupted.map(|()| true)?,
            _ = beat.tick() => seeds.broken(),
        };
        let (line, failed) = seeds.look(|sum| {
            let new = sum.failed.iter().skip(shown).take(SHOWN);
            let failed = new.map(|r| format!("{r}\n  replay: {}", r.replay(None)));
            (sum.progress(began.elapsed()), failed.collect::<Vec<_>>())
        });
        shown += failed.len();
        for report in failed {
            writeln!(err, "{report}")?;
        }
        writeln!(err, "{line}")?;
        if over {
            return Ok(());
        }
    }
}

/// Another one each second, so that each soak finds its own.
fn seed_of_today() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |t| t.as_secs() * 1_000_000)
}
