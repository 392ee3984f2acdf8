use core::time::Duration;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use jlb_config::{ClusterFile, ClusterList, Mistakes, read_cluster};
use jlb_etcd::{Content, Store};
use jlb_node::{load_host, read_key};

use crate::error::CtlError;

/// Outlasts the choice of a new leader with etcd's defaults.
const PATIENCE: Duration = Duration::from_secs(5);

/// This host's way to etcd, and to the keys that a list needs.
pub(crate) struct Session {
    pub(crate) store: Store,
    /// Where relative key paths start, as for the daemons.
    directory: PathBuf,
}

/// A list with its text.
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) list: ClusterList,
}

impl Session {
    pub(crate) fn open(config: &Path) -> Result<Self, CtlError> {
        let host = load_host(config)?;
        let Some(etcd) = &host.etcd else {
            return Err(CtlError::NoEtcd(config.display().to_string()));
        };
        let secrets = host.etcd_secrets(&mut read_key)?;
        let directory = config.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { store: Store::new(etcd.clone(), secrets, PATIENCE), directory })
    }

    /// A file as the daemons would read it; `-` is stdin.
    pub(crate) fn file(&self, path: &Path) -> Result<Text, CtlError> {
        let name = path.display().to_string();
        let read = if name == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            fs::read_to_string(path)
        };
        let text = read.map_err(|source| CtlError::Read { path: name.clone(), source })?;
        let list = self.parse(&name, &text)?;
        Ok(Text { text, list })
    }

    /// The list in etcd, if there is one.
    pub(crate) fn stored(&self, content: &Content) -> Result<Option<Text>, CtlError> {
        let stored = content.list.as_ref().filter(|s| !s.text.trim().is_empty());
        let Some(stored) = stored else { return Ok(None) };
        let list = self.parse(&self.store.list_name(), &stored.text);
        let list = list.map_err(CtlError::StoredMistakes)?;
        Ok(Some(Text { text: stored.text.clone(), list }))
    }

    pub(crate) fn parse(&self, name: &str, text: &str) -> Result<ClusterList, Mistakes> {
        read_cluster(ClusterFile { name, text }, &self.directory, &mut read_key)
    }
}
