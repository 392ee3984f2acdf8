//! What a lab has made, written down in /run/jlb-lab/NAME *before* it is made.
//!
//! - `journal`: one JSON object a line, see [`Entry`].
//! - `processes`: one line `PID START NODE WHAT` for each process, appended by the process itself before it becomes the
//!   server; START (clock ticks after boot) tells it from a later process that got the same id.
//! - `lock`: held by whoever raises the lab or takes it down; the kernel frees it when that process dies.
//! - `nodes/NODE/`: the host's configuration, logs and data.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::AtPath;
use crate::process::{self, Running};
use crate::{Error, LabConfig};

/// The folder of all labs.
pub const ROOT: &str = "/run/jlb-lab";

/// Raising a lab takes a second or two; one that holds its lock longer than this hangs.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// The lab goes away with this process, even if that is killed: the next `jlb-lab` takes it down.
    Owner {
        /// Process id.
        pid: i32,
        /// Clock ticks after boot at which it started.
        start: u64,
    },
    /// It has no owner any more, and stays until it is taken down.
    Kept,
    /// A network namespace, by its name.
    Namespace(String),
    /// A mount point.
    Mount(PathBuf),
    /// Everything of this configuration is there. The last one counts: a reload writes another.
    Ready(LabConfig),
}

/// The folder of one lab.
#[derive(Clone, Debug)]
pub struct LabDir {
    name: String,
    path: PathBuf,
}

/// Proof that nobody else raises this lab or takes it down.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl LabDir {
    /// Makes the folder of a new lab.
    pub(crate) fn claim(name: &str) -> Result<(Self, Lock), Error> {
        let dir = Self::named(name)?;
        fs::create_dir_all(ROOT).at(ROOT)?;
        match fs::create_dir(&dir.path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let ready = dir.journal()?.iter().any(|entry| matches!(entry, Entry::Ready(_)));
                let name = dir.name;
                return Err(if ready { Error::Exists(name) } else { Error::Unfinished(name) });
            }
            Err(error) => return Err(Error::File { path: dir.path, source: error }),
        }
        let lock = dir.lock()?;
        Ok((dir, lock))
    }

    /// The folder of a lab that is there, raised to the end or not.
    pub(crate) fn find(name: &str) -> Result<Option<Self>, Error> {
        let dir = Self::named(name)?;
        Ok(dir.path.is_dir().then_some(dir))
    }

    /// Names of all labs, sorted.
    pub(crate) fn all() -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(ROOT) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::File { path: ROOT.into(), source: error }),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.at(ROOT)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn named(name: &str) -> Result<Self, Error> {
        let fits = (1..=20).contains(&name.len())
            && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !fits {
            return Err(Error::BadName(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), path: Path::new(ROOT).join(name) })
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of a host's network namespace: the dots keep labs `a-b` and `a` apart.
    pub(crate) fn namespace(&self, node: &str) -> String {
        format!("jlb.{}.{node}", self.name)
    }

    /// Waits until nobody else raises this lab or takes it down.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        let path = self.path.join("lock");
        let file = OpenOptions::new().create(true).append(true).open(&path).at(&path)?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(TryLockError::WouldBlock) => return Err(Error::Busy(self.name.clone())),
                Err(TryLockError::Error(source)) => return Err(Error::File { path, source }),
            }
        }
    }

    /// Whether somebody is at work on it right now.
    pub(crate) fn is_locked(&self) -> bool {
        File::open(self.path.join("lock"))
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Writes down what is going to be made next.
    pub(crate) fn note(&self, entry: &Entry) -> Result<(), Error> {
        let path = self.path.join("journal");
        let mut line = serde_json::to_string(entry)
            .map_err(|error| Error::Damaged { path: path.clone(), why: error.to_string() })?;
        line.push('\n');
        let mut file = OpenOptions::new().create(true).append(true).open(&path).at(&path)?;
        file.write_all(line.as_bytes()).at(&path)
    }

    /// Everything noted, oldest first.
    pub(crate) fn journal(&self) -> Result<Vec<Entry>, Error> {
        let path = self.path.join("journal");
        let text = read_or_empty(&path)?;
        // A line without its end was being written when its writer was killed: what it names was not made yet.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| {
                serde_json::from_str(line)
                    .map_err(|error| Error::Damaged { path: path.clone(), why: error.to_string() })
            })
            .collect()
    }

    /// The configuration, if the lab was raised to the end.
    pub(crate) fn ready(&self) -> Result<Option<LabConfig>, Error> {
        Ok(self.journal()?.into_iter().rev().find_map(|entry| match entry {
            Entry::Ready(config) => Some(config),
            Entry::Owner { .. } | Entry::Kept | Entry::Namespace(_) | Entry::Mount(_) => None,
        }))
    }

    /// Whether the process that the lab should go away with is gone.
    pub(crate) fn is_orphaned(&self) -> Result<bool, Error> {
        let mut orphaned = false;
        for entry in self.journal()? {
            match entry {
                Entry::Owner { pid, start } => orphaned = !process::is_alive(pid, start),
                Entry::Kept => orphaned = false,
                Entry::Namespace(_) | Entry::Mount(_) | Entry::Ready(_) => {}
            }
        }
        Ok(orphaned)
    }

    /// Where processes write themselves down.
    pub(crate) fn process_list(&self) -> PathBuf {
        self.path.join("processes")
    }

    /// Every process that the lab has started, ended ones too, oldest first.
    pub(crate) fn processes(&self) -> Result<Vec<Running>, Error> {
        let path = self.process_list();
        let text = read_or_empty(&path)?;
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| {
                Running::parse(line.trim_end()).ok_or_else(|| Error::Damaged {
                    path: path.clone(),
                    why: format!("{line:?} is no process"),
                })
            })
            .collect()
    }
}

fn read_or_empty(path: &Path) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for name in ["", "..", "a/b", "A", "a.b", "a b", "123456789012345678901"] {
            assert!(matches!(LabDir::named(name), Err(Error::BadName(_))), "{name:?}");
        }
        assert!(LabDir::named("demo-2").is_ok());
    }

    #[test]
    fn a_journal_entry_reads_back_as_it_was() {
        for entry in [
            Entry::Owner { pid: 7, start: 99 },
            Entry::Kept,
            Entry::Namespace("jlb.a.client".to_owned()),
            Entry::Mount("/run/jlb-lab/a/bpf".into()),
            Entry::Ready(LabConfig::default()),
        ] {
            let line = serde_json::to_string(&entry).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
        }
    }
}
