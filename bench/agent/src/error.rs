use jlb_yann::maps::MapsError;
use jlb_yann::programs::ProgramsError;

/// Why a run came to no result. Each variant says what was attempted and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number out of bounds.
    #[error("{what} = {value} is out of bounds: 1 to {max}")]
    OutOfBounds {
        /// Which.
        what: &'static str,
        /// What was asked.
        value: u32,
        /// Most.
        max: u32,
    },
    /// No namespace.
    #[error("cannot make a network namespace: {0} (needs root)")]
    Namespace(#[source] nix::errno::Errno),
    /// A program of the machine did not run.
    #[error("{program}: {source} (missing? make setup)")]
    NotRun {
        /// Which.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It ran, and failed.
    #[error("{program}: {why}")]
    Failed {
        /// Which.
        program: String,
        /// What it said.
        why: String,
    },
    /// The system.
    #[error("cannot look at this machine")]
    System(#[source] std::io::Error),
    /// The programs.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// Their maps.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// A map refuses a value.
    #[error("a map of the programs refuses a value: {0}")]
    Map(String),
    /// The bench's own cluster.
    #[error("the bench's member list is wrong: {0}")]
    List(String),
    /// A program did not do what is measured.
    #[error("{what} was not what happened: the program said {said}")]
    Unexpected {
        /// What should have.
        what: &'static str,
        /// Its return value.
        said: u32,
    },
    /// iperf3 ran, but not through the programs.
    #[error("the transfer did not go through the programs of the {0}")]
    NotThrough(&'static str),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}
