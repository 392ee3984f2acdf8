use std::io;

use thiserror::Error;

/// Why a comparison came to no result.
#[derive(Debug, Error)]
pub enum CompareError {
    /// A number out of bounds.
    #[error("{what} = {value} is out of bounds: {min} to {max}")]
    OutOfBounds {
        /// Which.
        what: &'static str,
        /// What was asked.
        value: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A tool failed, or is missing.
    #[error(transparent)]
    Tool(#[from] jlb_lab::Error),
    /// A process that stands for a host or a balancer.
    #[error("{what}: {why} (this bench needs root, and what make setup installs)")]
    Process {
        /// Which.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A file.
    #[error("{what}: {source}")]
    File {
        /// Which, and what for.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A transfer broke.
    #[error("a transfer by way of {by}: {source}")]
    Transfer {
        /// Which way.
        by: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The bench without ports.
    #[error(transparent)]
    HotPath(#[from] jlb_speed::SpeedError),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}
