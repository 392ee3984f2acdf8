use jlb_map::Policy;
use jlb_role::Nanos;

use crate::Law;

/// Who says which server gets a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// Any server.
    Random,
    /// Two servers at random; the first takes the job if it has fewer jobs than this, else the second must (SRc of
    /// Desmouceaux and others, "SRLB", ICDCS 2017).
    Hunt2(u32),
    /// Four at random, in the same way.
    Hunt4(u32),
    /// Of two at random, the one that has fewer jobs in this very moment.
    PowerOfTwoOracle,
    /// Of all, the one that has the fewest in this very moment.
    ShortestOracle,
    /// JLB.
    Jlb(Policy),
}

impl Balancer {
    /// By name: `random`, `sr4`, `hunt4`, `p2c-oracle`, `jsq-oracle`, `default`, `jlb-…` with a policy.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "random" => Self::Random,
            "sr4" => Self::Hunt2(4),
            "hunt4" => Self::Hunt4(3),
            "p2c-oracle" => Self::PowerOfTwoOracle,
            "jsq-oracle" => Self::ShortestOracle,
            "default" => Self::Jlb(Policy::default()),
            other => {
                let policy = other.strip_prefix("jlb-")?;
                Self::Jlb(Policy::ALL.into_iter().find(|p| p.label() == policy)?)
            }
        })
    }

    /// The names, for help texts.
    #[must_use]
    pub fn names() -> Vec<String> {
        let fixed = ["random", "sr4", "hunt4", "p2c-oracle", "jsq-oracle", "default"];
        let policies = Policy::ALL.into_iter().map(|p| format!("jlb-{}", p.label()));
        fixed.into_iter().map(str::to_owned).chain(policies).collect()
    }
}

/// Cores of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// All have so many.
    Each(u32),
    /// 1, 2, 4, 8, 1, 2, and so on; JLB is told nothing.
    Mixed,
    /// The same; JLB's weights are the cores.
    MixedWeighted,
}

impl Cores {
    pub(crate) const fn of(self, server: usize) -> u32 {
        match self {
            Self::Each(cores) => cores,
            Self::Mixed | Self::MixedWeighted => 1 << (server % 4),
        }
    }

    pub(crate) fn weight(self, server: usize) -> u16 {
        match self {
            Self::Each(_) | Self::Mixed => jlb_map::DEFAULT_WEIGHT,
            Self::MixedWeighted => self.of(server) as u16 * 100,
        }
    }
}

/// The first server becomes slower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowDown {
    /// When, in seconds.
    pub at: f64,
    /// To this share of its speed.
    pub speed: f64,
}

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    /// Who says which server gets a job.
    pub balancer: Balancer,
    /// Work that comes, over what all servers can do: ρ.
    pub load: f64,
    /// Servers, 1 to 1024.
    pub servers: usize,
    /// Their cores.
    pub cores: Cores,
    /// Jobs that a server works on at a time; others wait in its accept queue.
    pub workers: usize,
    /// Places of that queue; who finds none is refused.
    pub backlog: u32,
    /// How long jobs are.
    pub law: Law,
    /// Mean length of a job on one core, in seconds.
    pub job: f64,
    /// Trackers, from 1.
    pub trackers: usize,
    /// Time of one hop between hosts.
    pub hop: Nanos,
    /// Between two Loads of a server to each tracker; `None`: never.
    pub report: Option<Nanos>,
    /// Further servers that are asked after one refused.
    pub reject_ttl: u8,
    /// Seconds that are simulated, and how many of them are not counted.
    pub seconds: f64,
    /// Seconds at the start that are not counted.
    pub warm_up: f64,
    /// Of all chance.
    pub seed: u64,
    /// A server that becomes slower.
    pub slow: Option<SlowDown>,
}

impl Scenario {
    /// The reference: 12 servers with 2 cores and 32 workers, jobs of 100 ms, three trackers, hops of 50 µs.
    #[must_use]
    pub const fn reference(balancer: Balancer, load: f64) -> Self {
        Self {
            balancer,
            load,
            servers: 12,
            cores: Cores::Each(2),
            workers: 32,
            backlog: 128,
            law: Law::Exponential,
            job: 0.1,
            trackers: 3,
            hop: Nanos(50_000),
            report: Some(jlb_yann_core::LOAD_EVERY),
            reject_ttl: jlb_map::DEFAULT_REJECT_TTL,
            seconds: 1000.0,
            warm_up: 20.0,
            seed: 1,
            slow: None,
        }
    }

    pub(crate) fn all_cores(&self) -> f64 {
        (0..self.servers).map(|n| f64::from(self.cores.of(n))).sum()
    }

    /// Jobs a second that come.
    pub(crate) fn rate(&self) -> f64 {
        self.load * self.all_cores() / self.job
    }
}
