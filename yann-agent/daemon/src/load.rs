//! How busy the host's CPUs are.

use std::fs;

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
}
