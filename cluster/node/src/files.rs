use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use jlb_config::{ClusterFile, ClusterList, Host, KeyFile, Mistakes, read_cluster};
use jlb_map::Snapshot;

/// Why a configuration file is no use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not there, or not to be read.
    #[error("error: cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Wrong in itself or with others.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

pub(crate) fn read(path: &Path) -> Result<String, LoadError> {
    fs::read_to_string(path)
        .map_err(|source| LoadError::Read { path: path.display().to_string(), source })
}

/// Reads a `jlb.toml`.
///
/// # Errors
/// When it cannot be read, or has mistakes.
pub fn load_host(path: &Path) -> Result<Host, LoadError> {
    Ok(Host::parse(&path.display().to_string(), &read(path)?)?)
}

/// Reads a `cluster.toml` and the key files that it names.
///
/// # Errors
/// When it cannot be read, or has mistakes; key files that cannot be read are mistakes.
pub fn load_cluster(path: &Path) -> Result<Arc<Snapshot>, LoadError> {
    load_list(path).map(|list| list.snapshot)
}

pub(crate) fn load_list(path: &Path) -> Result<ClusterList, LoadError> {
    let (name, text) = (path.display().to_string(), read(path)?);
    let directory = path.parent().unwrap_or(Path::new(""));
    Ok(read_cluster(ClusterFile { name: &name, text: &text }, directory, &mut read_key)?)
}

/// Reads a file that only its owner should read, with its permission bits, for those who check that.
///
/// # Errors
/// When it cannot be read.
pub fn read_key(path: &Path) -> io::Result<KeyFile> {
    let mode = fs::metadata(path)?.permissions().mode();
    Ok(KeyFile { text: fs::read_to_string(path)?, mode })
}
