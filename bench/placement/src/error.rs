use std::path::PathBuf;

/// Why a run came to no result. Each variant says what was attempted and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number out of bounds.
    #[error("{what} = {value} is out of bounds: {min} to {max}")]
    OutOfBounds {
        /// Which.
        what: &'static str,
        /// What was asked.
        value: f64,
        /// Least.
        min: f64,
        /// Most.
        max: f64,
    },
    /// The lab.
    #[error(transparent)]
    Lab(#[from] jlb_lab::Error),
    /// Without quotas all servers are equally fast.
    #[error(
        "no CPU quotas here: neither cgroup v2 nor the cpu controller of v1 is mounted below /sys/fs/cgroup"
    )]
    NoQuotas,
    /// A file of a cgroup.
    #[error("{}: {source}", path.display())]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The load could not be made.
    #[error("the load on the client's host: {0}")]
    Load(#[source] std::io::Error),
    /// Nothing was answered.
    #[error("with policy {0} not one of the requests was answered")]
    NoAnswers(String),
    /// Ctrl-C.
    #[error("interrupted; the lab is taken down")]
    Interrupted,
}
