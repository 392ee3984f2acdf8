//! CPU quotas by cgroups, version 2 or 1, as the host has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

const ROOT: &str = "/sys/fs/cgroup";
/// So long a quota is for: short, since a process that has used it up waits for the next one.
const PERIOD_US: f64 = 10_000.0;
/// The least that the kernel takes for a quota.
const LEAST_US: f64 = 1000.0;

/// A group with a quota, which goes when it is dropped; its processes must have ended by then.
#[derive(Debug)]
pub(crate) struct Quota {
    group: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Quota {
    /// A group of that name.
    pub(crate) fn new(name: &str) -> Result<Self, Error> {
        let root = Path::new(ROOT);
        let (parent, version) = if root.join("cgroup.controllers").exists() {
            write(&root.join("cgroup.subtree_control"), "+cpu")?;
            (root.to_owned(), Version::Two)
        } else {
            let parent =
                ["cpu", "cpu,cpuacct"].map(|c| root.join(c)).into_iter().find(|p| p.exists());
            (parent.ok_or(Error::NoQuotas)?, Version::One)
        };
        let group = parent.join(name);
        match fs::create_dir(&group) {
            // Of a run that was killed.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|source| Error::Cgroup { path: group.clone(), source })?,
        }
        Ok(Self { group, version })
    }

    /// So much of one CPU, for all in the group together.
    pub(crate) fn limit(&self, share: f64) -> Result<(), Error> {
        let (quota, period) = quota_and_period(share);
        match self.version {
            Version::Two => write(&self.group.join("cpu.max"), &format!("{quota} {period}")),
            Version::One => {
                write(&self.group.join("cpu.cfs_period_us"), &period.to_string())?;
                write(&self.group.join("cpu.cfs_quota_us"), &quota.to_string())
            }
        }
    }

    /// Takes a process in, with all its threads.
    pub(crate) fn take(&self, pid: i32) -> Result<(), Error> {
        write(&self.group.join("cgroup.procs"), &pid.to_string())
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // A process that has ended is in its group for a moment more.
        for _ in 0..100 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// In microseconds.
fn quota_and_period(share: f64) -> (u64, u64) {
    let quota = (share * PERIOD_US).max(LEAST_US);
    (quota.round() as u64, (quota / share).round() as u64)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::Cgroup { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_share_has_a_longer_period() {
        assert_eq!(quota_and_period(0.2), (2000, 10_000));
        assert_eq!(quota_and_period(0.05), (1000, 20_000));
        assert_eq!(quota_and_period(1.0), (10_000, 10_000));
    }
}
