//! Why a run came to no result.

/// Each variant says what was attempted and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No fault of that name.
    #[error("there is no fault {0:?}; see jlb-bench disrupt --list")]
    NoFault(String),
    /// A number out of bounds.
    #[error("{what} = {value} is out of bounds: {min} to {max}")]
    OutOfBounds {
        /// Which.
        what: &'static str,
        /// What was asked.
        value: u32,
        /// Least.
        min: u32,
        /// Most.
        max: u32,
    },
    /// The lab.
    #[error(transparent)]
    Lab(#[from] jlb_lab::Error),
    /// Not all connections could be opened, before there was any fault.
    #[error("connection {connection} to {vip} could not be opened: {why}")]
    NotOpened {
        /// Its number.
        connection: u32,
        /// Where to.
        vip: std::net::SocketAddr,
        /// Why.
        why: String,
    },
    /// They take too long to open, before there was any fault.
    #[error(
        "only {open} of {wanted} connections were open after {seconds} s; is the machine overloaded?"
    )]
    OpeningSlow {
        /// So many were.
        open: u32,
        /// So many were wanted.
        wanted: u32,
        /// Then.
        seconds: u64,
    },
    /// What the daemons said is not what is read here.
    #[error("{what}: {why}")]
    Unreadable {
        /// Of what.
        what: String,
        /// Why.
        why: String,
    },
    /// A file or a socket.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The load engine ended before it was told to.
    #[error("the load ended before it was told to: report it")]
    LoadEnded,
    /// Ctrl-C.
    #[error("interrupted; the lab is taken down")]
    Interrupted,
}

/// Puts what was attempted into an I/O error.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what: what.into(), source })
    }
}
