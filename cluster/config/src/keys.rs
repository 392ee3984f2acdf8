use core::fmt;
use std::io;

/// A key file as the caller found it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// What is in it: 32 hexadecimal digits, and white space.
    pub text: String,
    /// Its permission bits.
    pub mode: u32,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Why a key file is no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not there.
    #[error("there is no file `{path}`")]
    Missing {
        /// The file.
        path: String,
    },
    /// Not to be read.
    #[error("cannot read `{path}`: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// Readable for others than its owner.
    #[error("`{path}` has mode {mode:04o}: others than its owner may read or change it")]
    Open {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Not 16 bytes in hexadecimal.
    #[error("`{path}` does not hold 32 hexadecimal digits")]
    NotAKey {
        /// The file.
        path: String,
    },
}

impl KeyFileError {
    pub(crate) fn new(path: String, e: &io::Error) -> Self {
        if e.kind() == io::ErrorKind::NotFound {
            Self::Missing { path }
        } else {
            Self::Unreadable { path, reason: e.to_string() }
        }
    }

    /// Only for a file that is not there is it safe to say how to make one: a new key in the place of a cluster's own
    /// takes this host out of the cluster.
    pub(crate) fn mend(&self) -> String {
        match self {
            Self::Missing { path } => format!(
                "copy it from another host of the cluster; for a new cluster make one: \
                 (umask 077; od -An -N16 -tx1 /dev/urandom | tr -d ' ' > {path})"
            ),
            Self::Unreadable { path, .. } => {
                format!("let the user that the daemon runs as own {path} and the way to it")
            }
            Self::NotAKey { path } => {
                format!("copy {path} again from another host of the cluster")
            }
            Self::Open { path, .. } => format!("chmod 0600 {path}"),
        }
    }
}

/// The key in a file.
pub(crate) fn key(path: &str, file: &KeyFile) -> Result<[u8; 16], KeyFileError> {
    if file.mode & 0o077 != 0 {
        return Err(KeyFileError::Open { path: path.to_owned(), mode: file.mode & 0o7777 });
    }
    parse(file.text.trim()).ok_or_else(|| KeyFileError::NotAKey { path: path.to_owned() })
}

fn parse(hex: &str) -> Option<[u8; 16]> {
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(u128::from_str_radix(hex, 16).ok()?.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_digits_in_a_file_of_its_owner() {
        let file = |text: &str, mode| KeyFile { text: text.into(), mode };
        let digits = "000102030405060708090a0b0c0D0E0F";
        let bytes = core::array::from_fn(|i| i as u8);
        assert_eq!(key("k", &file(&format!("{digits}\n"), 0o100_600)), Ok(bytes));
        assert_eq!(key("k", &file(digits, 0o400)), Ok(bytes));
        assert!(matches!(
            key("k", &file(digits, 0o640)),
            Err(KeyFileError::Open { mode: 0o640, .. })
        ));
        for text in ["", "00", "+00102030405060708090a0b0c0d0e0f", &format!("{digits}00")] {
            assert!(
                matches!(key("k", &file(text, 0o600)), Err(KeyFileError::NotAKey { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_key_that_is_there_is_never_written_over() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let wrong = key("k", &KeyFile { text: "00".into(), mode: 0o600 }).unwrap_err();
        for e in [KeyFileError::new("k".into(), &denied), wrong] {
            assert!(!e.mend().contains('>'), "{}", e.mend());
        }
        let missing = KeyFileError::new("k".into(), &io::ErrorKind::NotFound.into());
        assert!(missing.mend().contains("> k)"), "{}", missing.mend());
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", KeyFile { text: "5ec4e7".into(), mode: 0 });
        assert!(!shown.contains("5ec4e7"));
    }
}
