use core::fmt;
use core::time::Duration;

use jlb_role::Nanos;
use jlb_sim::Report;

/// What all runs came to.
#[derive(Default)]
pub(super) struct Sum {
    pub(super) seeds: u64,
    pub(super) failed: Vec<Report>,
    pub(super) virtual_time: Nanos,
    pub(super) events: u64,
    pub(super) faults: u64,
    pub(super) hash: u64,
    written_off: u64,
    amplification: u64,
    outcomes: [u64; Report::OUTCOMES.len()],
}

impl Sum {
    pub(super) fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.virtual_time = self.virtual_time + report.virtual_time;
        self.events += report.events;
        self.written_off += report.written_off;
        self.faults += report.faults;
        self.amplification = self.amplification.max(report.amplification);
        for (sum, n) in self.outcomes.iter_mut().zip(report.outcomes) {
            *sum += n;
        }
        // The seeds end in any order.
        self.hash ^= report.event_hash.rotate_left((report.seed % 64) as u32);
        if !report.violations.is_empty() {
            self.failed.push(report);
        }
    }

    pub(super) fn virtual_seconds(&self) -> f64 {
        self.virtual_time.as_secs_f64()
    }

    /// One line on how far it is.
    pub(super) fn progress(&self, wall: Duration) -> String {
        let wall = wall.as_secs_f64();
        format!(
            "{} seeds ({:.1}/s), {:.2} M events/s, {:.1} virtual hours ({:.0} x real time), {} faults injected, \
             {} seeds with violations",
            self.seeds,
            self.seeds as f64 / wall,
            self.events as f64 / wall / 1e6,
            self.virtual_seconds() / 3600.0,
            self.virtual_seconds() / wall,
            self.faults,
            self.failed.len(),
        )
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds, {} with violations, {} events, {} faults, {:.0} s of virtual time; ",
            self.seeds,
            self.failed.len(),
            self.events,
            self.faults,
            self.virtual_seconds(),
        )?;
        for (name, n) in Report::OUTCOMES.iter().zip(self.outcomes) {
            write!(f, "{n} {name}, ")?;
        }
        write!(
            f,
            "{} backends written off, at most {} messages per packet, hash {:016x}",
            self.written_off, self.amplification, self.hash
        )
    }
}
