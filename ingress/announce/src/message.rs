//! What the daemon and the watchdog say to each other: lines of words, so that `strace` shows what goes on.

use core::fmt;
use core::net::IpAddr;
use std::collections::BTreeSet;

/// Most workers of one daemon, those of `dpdk.workers`.
pub const MAX_WORKERS: u8 = 16;

/// From the daemon to the watchdog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// So many workers beat from now on.
    Workers(u8),
    /// Announce these and no others, while all workers beat.
    Vips(BTreeSet<IpAddr>),
    /// The workers whose bit is set have turned since the beat before.
    Beat(u16),
}

/// From the watchdog to the daemon: what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// So many VIPs are announced now.
    Announced(usize),
    /// Nothing is announced any more, since this worker hangs.
    Hangs(u8),
    /// The kernel did not take a change of the table; it will be tried again.
    Failed(String),
    /// The watchdog has ended; another one is started.
    Gone,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workers(n) => write!(f, "workers {n}"),
            Self::Vips(vips) => {
                f.write_str("vips")?;
                vips.iter().try_for_each(|vip| write!(f, " {vip}"))
            }
            Self::Beat(turned) => write!(f, "beat {turned}"),
        }
    }
}

impl Order {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        match words.next()? {
            "workers" => {
                let n = words.next()?.parse().ok()?;
                (1..=MAX_WORKERS).contains(&n).then_some(Self::Workers(n))
            }
            "vips" => words.map(|word| word.parse().ok()).collect::<Option<_>>().map(Self::Vips),
            "beat" => words.next()?.parse().ok().map(Self::Beat),
            _ => None,
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announced(n) => write!(f, "announced {n}"),
            Self::Hangs(worker) => write!(f, "hangs {worker}"),
            Self::Failed(why) => write!(f, "failed {}", why.replace('\n', " ")),
            Self::Gone => f.write_str("gone"),
        }
    }
}

impl News {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        match what {
            "announced" => rest.parse().ok().map(Self::Announced),
            "hangs" => rest.parse().ok().map(Self::Hangs),
            "failed" => Some(Self::Failed(rest.to_owned())),
            "gone" => Some(Self::Gone),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let vips = ["203.0.113.10", "2001:db8::10"].map(|vip| vip.parse().unwrap());
        for order in [
            Order::Workers(16),
            Order::Beat(0),
            Order::Beat(u16::MAX),
            Order::Vips(BTreeSet::new()),
            Order::Vips(vips.into()),
        ] {
            assert_eq!(Order::parse(&order.to_string()), Some(order));
        }
        for news in [
            News::Announced(0),
            News::Hangs(3),
            News::Failed("netlink: no such device".to_owned()),
            News::Gone,
        ] {
            assert_eq!(News::parse(&news.to_string()), Some(news));
        }
        assert_eq!(News::Failed("a\nb".to_owned()).to_string(), "failed a b");
    }

    #[test]
    fn garbage_is_not() {
        for line in ["", "beat", "beat 65536", "workers 0", "workers 17", "vips 1.2.3", "go"] {
            assert_eq!(Order::parse(line), None, "{line:?}");
        }
    }
}
