//! How busy the host is: for whoever asks, and against the limits of `[admission]`.

use std::fs;
use std::time::Duration;

use jlb_config::HostLimits;
use jlb_role::{Metric, MetricKind, MetricSink, Nanos};
use jlb_yann_core::willing::Overload;
use tracing::{info, warn};

/// How often what has a limit is measured. `/proc/stat` counts in steps of 10 ms for each CPU.
pub(crate) const MEASURED_EVERY: Duration = Duration::from_millis(50);
/// What a new measurement of the CPUs counts: those of the last quarter of a second make most of the average.
const NEWEST: f64 = 0.2;

static LOAD: Metric = Metric {
    name: "jlb_host_load",
    help: "What has a limit in [admission], as measured: shares of 1, pressure in per cent.",
    kind: MetricKind::Gauge,
};

/// What of the host has a limit.
#[derive(Debug)]
pub(crate) struct HostLoad {
    cpu: Cpu,
    limited: Vec<Limited>,
}

#[derive(Debug)]
struct Limited {
    measure: Measure,
    value: f64,
    overload: Overload,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Cpu,
    Memory,
    Pressure,
}

impl Measure {
    const fn label(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pressure => "pressure",
        }
    }
}

impl HostLoad {
    /// By `[admission]`.
    pub(crate) fn new(limits: &HostLimits) -> Self {
        let limits = [
            (Measure::Cpu, limits.cpu),
            (Measure::Memory, limits.memory),
            (Measure::Pressure, limits.pressure),
        ];
        let limited = limits.into_iter().filter_map(|(measure, limit)| {
            Some(Limited { measure, value: 0.0, overload: Overload::new(limit?) })
        });
        let mut this = Self { cpu: Cpu::default(), limited: limited.collect() };
        // From now on, not from the host's start.
        this.cpu.measure();
        for Limited { measure, .. } in &this.limited {
            if *measure != Measure::Cpu && read(*measure).is_none() {
                warn!("admission.{} has no effect: this kernel does not say it", measure.label());
            }
        }
        this
    }

    /// Whether anything has a limit.
    pub(crate) fn is_limited(&self) -> bool {
        !self.limited.is_empty()
    }

    /// Whether anything is over its limit.
    pub(crate) fn is_over(&self) -> bool {
        self.limited.iter().any(|limited| limited.overload.is_over())
    }

    /// Looks at all that has a limit, and gives whether that changed [`Self::is_over`]. What cannot be read is not over.
    pub(crate) fn measure(&mut self, now: Nanos) -> bool {
        let was = self.is_over();
        for Limited { measure, value, overload } in &mut self.limited {
            *value = match measure {
                Measure::Cpu => {
                    let newest = f64::from(self.cpu.measure()) / f64::from(u16::MAX);
                    *value + (newest - *value) * NEWEST
                }
                Measure::Memory | Measure::Pressure => read(*measure).unwrap_or(0.0),
            };
            if overload.take(now, *value) {
                let over = if overload.is_over() { "over its limit" } else { "below its limit" };
                info!("{} is {over}: {value:.2}", measure.label());
            }
        }
        self.is_over() != was
    }

    /// Gives `jlb_host_load`.
    pub(crate) fn collect(&self, out: &mut dyn MetricSink) {
        for Limited { measure, value, .. } in &self.limited {
            out.value(&LOAD, &[("measure", measure.label())], *value);
        }
    }
}

fn read(measure: Measure) -> Option<f64> {
    match measure {
        Measure::Cpu => None,
        Measure::Memory => memory(&fs::read_to_string("/proc/meminfo").ok()?),
        Measure::Pressure => pressure(&fs::read_to_string("/proc/pressure/cpu").ok()?),
    }
}

/// The share of memory that programs cannot have any more (proc_meminfo(5)).
fn memory(text: &str) -> Option<f64> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let (all, available) = (field("MemTotal:")?, field("MemAvailable:")?);
    (all > 0.0).then(|| 1.0 - available / all)
}

/// `some avg10=1.53 avg60=0.87 avg300=0.73 total=26131` (the kernel's accounting/psi.rst).
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

/// Differences between readings of `/proc/stat`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    busy: u64,
    all: u64,
}

impl Cpu {
    /// The load since the last call (at the first: since the host's start), 0 ..= 65535 for 0 ..= 1. 0 when it cannot be
    /// read.
    pub(crate) fn measure(&mut self) -> u16 {
        let Some(now) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(parse) else {
            return 0;
        };
        let (busy, all) = (now.busy.saturating_sub(self.busy), now.all.saturating_sub(self.all));
        *self = now;
        (busy.min(all) * u64::from(u16::MAX)).checked_div(all).unwrap_or(0) as u16
    }
}

/// `cpu  user nice system idle iowait irq softirq steal …` (proc(5)); guests are counted in user.
fn parse(text: &str) -> Option<Cpu> {
    let mut fields = text.lines().next()?.split_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let times: Vec<u64> = fields.take(8).filter_map(|f| f.parse().ok()).collect();
    let all = times.iter().sum();
    let idle: u64 = times.get(3..5)?.iter().sum();
    Some(Cpu { busy: all - idle, all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_for_disks_is_not_busy() {
        let cpu = parse("cpu  10 20 30 100 40 1 2 3 50 60\ncpu0 1 1 1 1\n").unwrap();
        assert_eq!((cpu.busy, cpu.all), (66, 206));
        assert!(parse("").is_none());
        assert!(parse("cpu0 1 2 3 4 5").is_none());
    }

    #[test]
    fn memory_and_pressure_are_read_as_the_kernel_writes_them() {
        let text = "MemTotal:        8000 kB\nMemFree:          100 kB\nMemAvailable:    2000 kB\n";
        assert_eq!(memory(text), Some(0.75));
        assert_eq!(memory("MemTotal: 8000 kB\n"), None);
        assert_eq!(memory("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        let text =
            "some avg10=61.53 avg60=0.87 avg300=0.73 total=26131\nfull avg10=0.00 avg60=0.00\n";
        assert_eq!(pressure(text), Some(61.53));
        assert_eq!(pressure("full avg10=1.00\n"), None);
    }

    #[test]
    fn a_host_without_limits_is_never_over_them_and_one_with_a_low_one_is() {
        let mut load = HostLoad::new(&HostLimits::default());
        assert!(!load.is_limited() && !load.measure(Nanos::from_secs(1)));
        let limits = HostLimits { memory: Some(0.0), ..HostLimits::default() };
        let mut load = HostLoad::new(&limits);
        assert!(load.is_limited() && load.measure(Nanos::from_secs(1)) && load.is_over());
        assert!(!load.measure(Nanos::from_secs(2)), "that is no change");
    }
}
