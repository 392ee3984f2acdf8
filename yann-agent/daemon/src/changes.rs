//! What attaching needs to be there, besides what `jlb_hostnet` changes: a bpffs, a clsact qdisc. Written down before it is
//! made, in a pinned map, so that a daemon killed at any point leaves nothing that is not on the list.

use std::io;
use std::path::PathBuf;
use std::process::Command;

use aya::maps::MapError;
use serde::{Deserialize, Serialize};

use crate::bpffs;
use crate::maps::ArrayOf;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What was changed to what.
    pub change: String,
    /// The value that it replaced.
    pub was: String,
    /// How it is undone.
    pub undo: Undo,
}

/// How a change is undone. Undoing twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// By unmounting, last of all.
    Unmount(PathBuf),
    /// By deleting the clsact qdisc of this interface.
    Clsact(String),
}

/// Why something could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The list is full, or the entry too long for it.
    #[error("the list of changes has no room for `{0}`")]
    NoRoom(String),
    /// The map did not work.
    #[error("the list of changes: {0}")]
    Map(#[from] MapError),
    /// A command could not be run.
    #[error("cannot run `{command}`: {source}")]
    Run {
        /// Which.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bpffs.
    #[error(transparent)]
    Bpffs(#[from] bpffs::BpffsError),
}

/// The list, as it is in its map.
#[derive(Debug)]
pub struct Changes {
    map: ArrayOf<[u8; 512], 512>,
    list: Vec<(u32, Change)>,
}

impl Changes {
    /// Reads it.
    pub fn load(map: ArrayOf<[u8; 512], 512>) -> Self {
        let list = (0..map.len())
            .filter_map(|index| {
                let bytes = map.get(index).ok()?;
                let text = bytes.split(|&b| b == 0).next()?;
                Some((index, serde_json::from_slice(text).ok()?))
            })
            .collect();
        Self { map, list }
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.list.iter().map(|(_, change)| change)
    }

    /// Whether this was changed already.
    pub fn has(&self, change: &str) -> bool {
        self.iter().any(|c| c.change == change)
    }

    /// Writes down what is about to be done.
    ///
    /// # Errors
    /// When there is no room.
    pub fn record(&mut self, change: Change) -> Result<(), ChangeError> {
        let text = serde_json::to_string(&change).unwrap_or_default();
        let index = self.list.last().map_or(0, |(index, _)| index + 1);
        // One 0 at the end.
        if text.len() >= 512 || index >= self.map.len() {
            return Err(ChangeError::NoRoom(change.change));
        }
        let mut bytes = [0; 512];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        self.map.set(index, &bytes)?;
        self.list.push((index, change));
        Ok(())
    }

    /// Undoes those that `keep` does not want, newest first. What cannot be undone stays on the list.
    pub fn undo(&mut self, mut keep: impl FnMut(&Change) -> bool) -> Vec<ChangeError> {
        let mut errors = Vec::new();
        let mut left = Vec::new();
        for (index, change) in core::mem::take(&mut self.list).into_iter().rev() {
            if keep(&change) {
                left.push((index, change));
                continue;
            }
            let forgotten = undo(&change.undo)
                .and_then(|()| self.map.set(index, &[0; 512]).map_err(ChangeError::from));
            if let Err(e) = forgotten {
                errors.push(e);
                left.push((index, change));
            }
        }
        left.reverse();
        self.list = left;
        errors
    }

    /// Forgets everything without undoing it: what the list describes is gone (another network namespace).
    ///
    /// # Errors
    /// When the map does not work.
    pub fn forget(&mut self) -> Result<(), ChangeError> {
        for (index, _) in core::mem::take(&mut self.list) {
            self.map.set(index, &[0; 512])?;
        }
        Ok(())
    }
}

/// Undoes a change. That there is nothing left to undo is no error.
///
/// # Errors
/// [`ChangeError`].
fn undo(undo: &Undo) -> Result<(), ChangeError> {
    match undo {
        Undo::Unmount(path) => Ok(bpffs::unmount(path)?),
        Undo::Clsact(interface) => {
            let arguments = ["qdisc", "del", "dev", interface.as_str(), "clsact"];
            // What it says when the qdisc or the interface is gone is no matter.
            Command::new("tc").args(arguments).output().map(drop).map_err(|source| {
                ChangeError::Run { command: format!("tc {}", arguments.join(" ")), source }
            })
        }
    }
}
