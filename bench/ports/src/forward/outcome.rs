use std::fmt;

use jlb_speed::{Figures, Spread};
use serde::Serialize;

use super::{Farewell, Report};

/// A system that refuses less could have forwarded more.
const SATURATED: f64 = 0.01;

/// One system in one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Side {
    /// Million packets per second that came back to the source.
    pub mpps: f64,
    /// Packets that the source had sent in that time.
    pub sent: u64,
    /// Packets that came back in that time.
    pub received: u64,
    /// Part of the packets offered that the full ring refused at the first try. Near 0 the system was not saturated.
    pub refused: f64,
    /// Packets that the system received and dropped, from its start to its end.
    pub dropped: u64,
    /// Nanoseconds that the system itself was busy with a packet, as it counts them; polls that brought nothing left out.
    pub busy_ns: Option<f64>,
    /// Packets that were compared byte by byte.
    pub verified: u64,
}

impl Side {
    pub(crate) fn of(report: Report, Farewell { dropped, busy_ns }: Farewell) -> Self {
        let Report { seconds, sent, received, refused, verified } = report;
        let mpps = received as f64 / seconds / 1e6;
        let refused = refused as f64 / (sent + refused).max(1) as f64;
        Self { mpps, sent, received, refused, dropped, busy_ns, verified }
    }

    fn is_saturated(&self) -> bool {
        self.refused >= SATURATED
    }

    /// Nanoseconds from one packet to the next.
    fn ns(&self) -> f64 {
        1e3 / self.mpps
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} Mpps ({:.1} ns; busy {:.1}), {:.0} % refused at its ring, {} dropped",
            self.mpps,
            self.ns(),
            self.busy_ns.unwrap_or(f64::NAN),
            100.0 * self.refused,
            self.dropped
        )
    }
}

/// What came of all runs. Of two systems, those of one run are compared.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Established flows.
    pub flows: u32,
    /// How often each system was measured.
    pub times: usize,
    /// Our packets per second over testpmd's: the median.
    pub ratio: f64,
    /// Nanoseconds that a packet takes longer with us: the median.
    pub added_ns: f64,
    /// Million packets per second through testpmd: the median.
    pub testpmd_mpps: f64,
    /// Million packets per second through our ingress: the median.
    pub jlb_mpps: f64,
    /// Nanoseconds that testpmd was busy with a packet: the median. Unlike packets per second it does not depend on how much the
    /// source can send.
    pub testpmd_busy_ns: f64,
    /// Nanoseconds that our ingress was busy with a packet: the median.
    pub jlb_busy_ns: f64,
    /// The difference of the two: the median.
    pub added_busy_ns: f64,
    /// testpmd's busy time over ours, the median: what [`Outcome::ratio`] would be if the source could saturate both.
    pub busy_ratio: f64,
    /// Both systems refused a part of what the source offered in all runs: the source was not what bounds them.
    pub saturated: bool,
    /// What a packet costs without ports, in the fastest round.
    pub hot_path_ns: f64,
    /// The same in the median round.
    pub hot_path_median_ns: f64,
    /// Packets that testpmd received and dropped, of all runs.
    pub testpmd_dropped: u64,
    /// Packets that our ingress received and dropped, of all runs.
    pub jlb_dropped: u64,
    /// Part of its packets that testpmd's full ring refused: the median.
    pub testpmd_refused: f64,
    /// Part of its packets that our full ring refused: the median.
    pub jlb_refused: f64,
    /// Packets of ours that were compared byte by byte, of all runs.
    pub verified: u64,
    /// How far runs lie apart.
    pub spread: Spreads,
    /// All runs: testpmd, ours.
    pub runs: Vec<(Side, Side)>,
}

/// How far runs lie apart.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spreads {
    /// Of [`Outcome::ratio`].
    pub ratio: Spread,
    /// Of [`Outcome::added_ns`].
    pub added_ns: Spread,
    /// Of [`Outcome::testpmd_mpps`].
    pub testpmd_mpps: Spread,
    /// Of [`Outcome::jlb_mpps`].
    pub jlb_mpps: Spread,
}

impl Outcome {
    pub(crate) fn of(runs: &[(Side, Side)], flows: u32, hot_path: &Figures) -> Self {
        let over = |what: &dyn Fn(&Side, &Side) -> f64| {
            Spread::of(runs.iter().map(|(testpmd, jlb)| what(testpmd, jlb)))
        };
        let spread = Spreads {
            ratio: over(&|testpmd, jlb| jlb.mpps / testpmd.mpps),
            added_ns: over(&|testpmd, jlb| jlb.ns() - testpmd.ns()),
            testpmd_mpps: over(&|testpmd, _| testpmd.mpps),
            jlb_mpps: over(&|_, jlb| jlb.mpps),
        };
        let busy = |side: &Side| side.busy_ns.unwrap_or(f64::NAN);
        Self {
            flows,
            times: runs.len(),
            ratio: spread.ratio.median,
            added_ns: spread.added_ns.median,
            testpmd_mpps: spread.testpmd_mpps.median,
            jlb_mpps: spread.jlb_mpps.median,
            testpmd_busy_ns: over(&|testpmd, _| busy(testpmd)).median,
            jlb_busy_ns: over(&|_, jlb| busy(jlb)).median,
            added_busy_ns: over(&|testpmd, jlb| busy(jlb) - busy(testpmd)).median,
            busy_ratio: over(&|testpmd, jlb| busy(testpmd) / busy(jlb)).median,
            saturated: runs
                .iter()
                .all(|(testpmd, jlb)| testpmd.is_saturated() && jlb.is_saturated()),
            hot_path_ns: hot_path.best_ns,
            hot_path_median_ns: hot_path.median_ns,
            testpmd_dropped: runs.iter().map(|(testpmd, _)| testpmd.dropped).sum(),
            jlb_dropped: runs.iter().map(|(_, jlb)| jlb.dropped).sum(),
            testpmd_refused: over(&|testpmd, _| testpmd.refused).median,
            jlb_refused: over(&|_, jlb| jlb.refused).median,
            verified: runs.iter().map(|(_, jlb)| jlb.verified).sum(),
            spread,
            runs: runs.to_vec(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spreads { ratio, added_ns, testpmd_mpps, jlb_mpps } = self.spread;
        writeln!(
            f,
            "testpmd {:.2} Mpps ({:.2} to {:.2}); ours {:.2} ({:.2} to {:.2}); medians of {} runs, {} flows",
            testpmd_mpps.median,
            testpmd_mpps.min,
            testpmd_mpps.max,
            jlb_mpps.median,
            jlb_mpps.min,
            jlb_mpps.max,
            self.times,
            self.flows
        )?;
        writeln!(f, "ratio {:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max)?;
        write!(
            f,
            "{:.1} ns more per packet ({:.1} to {:.1}); without ports a packet takes {:.1} ns",
            added_ns.median, added_ns.min, added_ns.max, self.hot_path_ns
        )?;
        if !self.saturated {
            write!(
                f,
                "\nnot always saturated: then packets per second are a lower bound, and the source's own figure"
            )?;
        }
        write!(
            f,
            "\nbusy with a packet, as each counts: testpmd {:.1} ns, ours {:.1} ns, {:.1} ns more, ratio {:.2}",
            self.testpmd_busy_ns, self.jlb_busy_ns, self.added_busy_ns, self.busy_ratio
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_what_came_back_per_second() {
        let report = Report { seconds: 2.0, sent: 30, received: 20, refused: 10, verified: 5 };
        let side = Side::of(report, Farewell { dropped: 7, busy_ns: None });
        assert_eq!((side.mpps, side.refused, side.dropped), (1e-5, 0.25, 7));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = Spread::of([3.0, 1.0, 2.0].into_iter());
        assert_eq!(spread, Spread { min: 1.0, median: 2.0, max: 3.0 });
    }
}
