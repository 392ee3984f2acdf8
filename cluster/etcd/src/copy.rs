use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why the copy cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}")]
pub struct CopyError {
    what: &'static str,
    path: String,
    source: io::Error,
}

/// The copy of the last good list on this host's disk, for a start without etcd. One for each member, since two on one
/// host need not be at the same list.
#[derive(Clone, Debug)]
pub struct Copy {
    path: PathBuf,
}

impl Copy {
    /// The copy of the member `name`, whether it is there or not.
    #[must_use]
    pub fn at(state_dir: &Path, name: &str) -> Self {
        Self { path: state_dir.join(format!("{name}.cluster.toml")) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it; `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self) -> Result<Option<String>, CopyError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error("read")(e)),
        }
    }

    /// Replaces it at once and as a whole; after a crash it is the old one or the new one. For its owner only, like the
    /// directory if that has to be made.
    ///
    /// # Errors
    /// When the directory or the file cannot be written; the old copy stays then.
    pub fn write(&self, text: &str) -> Result<(), CopyError> {
        if let Some(directory) = self.path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(self.error("make the directory of"))?;
        }
        let new = self.path.with_extension("toml.new");
        let write = || -> io::Result<()> {
            // What a daemon left that was killed here; made anew, so that its mode is ours.
            match fs::remove_file(&new) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            // The rename itself must outlive a loss of power.
            self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        };
        write().map_err(self.error("write"))
    }

    fn error(&self, what: &'static str) -> impl Fn(io::Error) -> CopyError {
        let path = self.path.display().to_string();
        move |source| CopyError { what, path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_replaced_as_a_whole_and_the_owners_alone() {
        let base = std::env::temp_dir().join(format!("jlbt-copy-{}", std::process::id()));
        let directory = base.join("state");
        let copy = Copy::at(&directory, "ingress-1");
        assert_eq!(copy.read().unwrap(), None);
        copy.write("one").unwrap();
        // What a killed daemon may have left.
        fs::write(directory.join("ingress-1.cluster.toml.new"), "half").unwrap();
        copy.write("two").unwrap();
        assert_eq!(copy.read().unwrap().as_deref(), Some("two"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(copy.path()), mode(&directory)), (0o600, 0o700));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert_eq!(Copy::at(&directory, "other").read().unwrap(), None);
        fs::remove_dir_all(&base).unwrap();
        fs::write(&base, "").unwrap();
        let error = copy.write("three").unwrap_err().to_string();
        assert!(error.contains("ingress-1.cluster.toml"), "{error}");
        fs::remove_file(&base).unwrap();
    }
}
