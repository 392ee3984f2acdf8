//! The directory on a bpffs where programs and maps outlive the daemon.

use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::mount::{MsFlags, mount, umount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Why pins cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// A directory could not be made.
    #[error("cannot make {path} for the pins: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bpffs could not be mounted or unmounted.
    #[error("cannot mount or unmount a bpffs at {path}: {source}")]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: nix::Error,
    },
}

/// Whether a path is on a bpffs.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Makes the directory; mounts a bpffs for it when it is not on one, and gives where.
///
/// # Errors
/// [`BpffsError`].
pub fn ensure(pins: &Path) -> Result<Option<PathBuf>, BpffsError> {
    let mut mounted = None;
    // Its usual place is an empty directory of sysfs where nothing can be made.
    let usual = Path::new("/sys/fs/bpf");
    if pins.starts_with(usual) && !is_bpffs(usual) {
        mount_at(usual)?;
        mounted = Some(usual.to_owned());
    }
    fs::create_dir_all(pins)
        .map_err(|source| BpffsError::Directory { path: pins.to_owned(), source })?;
    if !is_bpffs(pins) {
        mount_at(pins)?;
        mounted = Some(pins.to_owned());
    }
    Ok(mounted)
}

fn mount_at(path: &Path) -> Result<(), BpffsError> {
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|source| BpffsError::Mount { path: path.to_owned(), source })
}

/// Unmounts it, if it is still mounted.
///
/// # Errors
/// When somebody uses it.
pub fn unmount(path: &Path) -> Result<(), BpffsError> {
    if !is_bpffs(path) {
        return Ok(());
    }
    umount(path).map_err(|source| BpffsError::Mount { path: path.to_owned(), source })
}

/// Where `jlb_hostnet` keeps its file: one per agent, gone with the boot as what it tells of. Beside the bpffs when that
/// is one of the operator's own, else in `/run/jlb`.
pub fn host_state_path(pins: &Path) -> PathBuf {
    let beside = pins.ancestors().skip(1).find(|dir| !is_bpffs(dir) && dir.exists());
    let dir = match beside {
        Some(dir) if dir.parent().is_some() && !dir.starts_with("/sys") => dir,
        Some(_) | None => Path::new("/run/jlb"),
    };
    let relative = pins.strip_prefix(dir).unwrap_or(pins).to_string_lossy();
    let name = relative.trim_matches('/').replace('/', "-");
    dir.join(format!("{name}.host.json"))
}
