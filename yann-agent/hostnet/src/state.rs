//! The record of what was changed: one JSON file, replaced as a whole, on disk before the change that it tells of.

use core::net::IpAddr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

const VERSION: u32 = 1;

/// Everything that is ours, or may be: what was killed between the record and the change is recorded and not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Sysctls that we wrote.
    pub(crate) sysctls: Vec<Sysctl>,
    /// Interfaces and neighbours there that replies are sent to.
    pub(crate) neighbours: Vec<Neighbour>,
    /// Route tables that nobody but us fills.
    pub(crate) tables: Vec<u32>,
    /// Rules that we added.
    pub(crate) rules: Vec<Rule>,
    /// VIPs that we added to `lo`. Those that were somewhere before are not here.
    pub(crate) vips: Vec<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    home: Home,
    changes: State,
}

/// Where the changes are: they are gone with the boot or the network namespace that they were made in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Home {
    boot: String,
    namespace: u64,
}

/// A sysctl that we wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sysctl {
    /// Path below `/proc/sys`.
    pub(crate) key: String,
    pub(crate) old: String,
    pub(crate) new: String,
}

/// A neighbour that we made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Neighbour {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
}

/// `from VIP lookup TABLE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) vip: IpAddr,
    pub(crate) table: u32,
    pub(crate) priority: u32,
    /// For TCP only.
    pub(crate) tcp: bool,
}

impl State {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the file says about this boot and network namespace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This. Empty when there is no file, or it is from before the boot, which took all changes with it.
    Here(State),
    /// It tells of another namespace of this boot.
    Elsewhere,
}

/// The file.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    home: Home,
}

impl StateFile {
    /// In the calling thread's network namespace.
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        let read = |path: &str, what: io::Result<String>| {
            what.map_err(|source| Error::StateFile { doing: "read", path: path.into(), source })
        };
        let boot_id = "/proc/sys/kernel/random/boot_id";
        let boot = read(boot_id, fs::read_to_string(boot_id))?.trim_end().to_owned();
        let own = "/proc/thread-self/ns/net";
        let namespace = fs::metadata(own)
            .map_err(|source| Error::StateFile { doing: "read", path: own.into(), source })?
            .ino();
        Ok(Self { path: path.to_owned(), home: Home { boot, namespace } })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn load(&self) -> Result<Found, Error> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Found::Here(State::default()));
            }
            Err(source) => return Err(self.error("read", source)),
        };
        let content = |what: String| Error::StateContent { path: self.path.clone(), what };
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| content(e.to_string()))?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        if version != Some(VERSION.into()) {
            let shown = version.map_or("no version".to_owned(), |v| format!("version {v}"));
            return Err(content(format!("it has {shown}, not {VERSION}")));
        }
        let Content { home, changes, .. } =
            serde_json::from_value(value).map_err(|e| content(e.to_string()))?;
        Ok(if home == self.home {
            Found::Here(changes)
        } else if home.boot == self.home.boot && !changes.is_empty() {
            Found::Elsewhere
        } else {
            Found::Here(State::default())
        })
    }

    /// Replaces the file, or removes it when nothing is recorded. On disk when this returns.
    pub(crate) fn save(&self, state: &State) -> Result<(), Error> {
        if state.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.error("remove", e)),
                Ok(()) | Err(_) => self.sync_folder(),
            };
        }
        let content = Content { version: VERSION, home: self.home.clone(), changes: state.clone() };
        let new = with_suffix(&self.path, ".new");
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            serde_json::to_writer_pretty(&mut file, &content)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|e| self.error("write", e))?;
        self.sync_folder()
    }

    /// Keeps other processes from the file as long as the lock lives.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        let folder = folder(&self.path);
        fs::create_dir_all(folder).map_err(|source| Error::StateFile {
            doing: "make",
            path: folder.into(),
            source,
        })?;
        let path = with_suffix(&self.path, ".lock");
        // Its last holder may have removed it between our two steps; that takes one more try, not more.
        for _ in 0..3 {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(|e| self.error("lock", e))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(Error::InUse(self.path.clone())),
                Err(TryLockError::Error(source)) => return Err(self.error("lock", source)),
            }
            let ours = file.metadata().map_err(|e| self.error("lock", e))?;
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours.ino()) {
                return Ok(Lock { _file: file, path });
            }
        }
        Err(Error::InUse(self.path.clone()))
    }

    fn sync_folder(&self) -> Result<(), Error> {
        let folder = folder(&self.path);
        match File::open(folder).and_then(|f| f.sync_all()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.error("write", e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn error(&self, doing: &'static str, source: io::Error) -> Error {
        Error::StateFile { doing, path: self.path.clone(), source }
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Held by one process at a time; gone with it, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked here, so nobody else has this file. An empty one left behind would do no harm.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test's, gone at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("jlbt-hostnet-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> StateFile {
            StateFile::new(&self.0.join("state.json")).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn state() -> State {
        State {
            sysctls: vec![Sysctl { key: "net/x".into(), old: "0".into(), new: "1".into() }],
            neighbours: vec![Neighbour { interface: "eth0".into(), ip: [169, 254, 0, 1].into() }],
            tables: vec![6081],
            rules: vec![Rule {
                vip: [192, 0, 2, 1].into(),
                table: 6081,
                priority: 6081,
                tcp: false,
            }],
            vips: vec![[192, 0, 2, 1].into()],
        }
    }

    #[test]
    fn what_was_saved_is_found_again_and_nothing_leaves_no_file() {
        let folder = Folder::new("round");
        let file = folder.file();
        assert_eq!(file.load().unwrap(), Found::Here(State::default()));
        file.save(&state()).unwrap();
        assert_eq!(file.load().unwrap(), Found::Here(state()));
        file.save(&State::default()).unwrap();
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
        file.save(&State::default()).unwrap();
    }

    #[test]
    fn another_boot_is_forgotten_and_another_namespace_is_told() {
        let folder = Folder::new("home");
        let mut file = folder.file();
        file.save(&state()).unwrap();
        file.home.namespace += 1;
        assert_eq!(file.load().unwrap(), Found::Elsewhere);
        file.home.boot.push('x');
        assert_eq!(file.load().unwrap(), Found::Here(State::default()));
    }

    #[test]
    fn what_is_no_state_file_is_refused_and_kept() {
        let folder = Folder::new("bad");
        let file = folder.file();
        for (text, part) in [
            ("", "EOF"),
            ("{\"version\": 2}", "it has version 2, not 1"),
            ("{}", "it has no version, not 1"),
            ("{\"version\": 1, \"surprise\": 0}", "surprise"),
        ] {
            fs::write(&file.path, text).unwrap();
            let error = file.load().unwrap_err();
            assert!(
                matches!(&error, Error::StateContent { what, .. } if what.contains(part)),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&file.path).unwrap(), text);
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = Folder::new("lock");
        let lock = folder.file().lock().unwrap();
        assert!(matches!(folder.file().lock(), Err(Error::InUse(_))));
        drop(lock);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
        folder.file().lock().unwrap();
    }
}
