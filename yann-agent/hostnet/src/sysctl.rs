//! The few keys under `/proc/sys` that the agent needs otherwise. `/proc/sys/net` shows the calling thread's namespace.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use crate::Error;

const ROOT: &str = "/proc/sys";

/// The keys, per interface and for all, and which value an interface needs.
pub(crate) const KEYS: [&str; 3] = ["arp_ignore", "arp_announce", "rp_filter"];

/// Path below `/proc/sys`.
pub(crate) fn key(interface: &str, name: &str) -> String {
    format!("net/ipv4/conf/{interface}/{name}")
}

/// As sysctl(8) writes it: dots and slashes change places (an interface's name may have a dot).
pub(crate) fn dotted(key: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    key.chars().map(swap).collect()
}

/// The value that an interface needs instead of its `own`; `None` when it is fine. Of each key the larger one of the
/// interface's and `all`'s counts (Documentation/networking/ip-sysctl.rst).
pub(crate) fn needed(name: &str, all: &str, own: &str) -> Option<&'static str> {
    let number = |s: &str| s.parse::<u32>().unwrap_or(0);
    let counts = number(all).max(number(own));
    match name {
        // 2 is stricter, and 8 answers nothing at all; 3 answers for a VIP that is not `scope host`.
        "arp_ignore" => (!matches!(counts, 1 | 2 | 8)).then_some("1"),
        "arp_announce" => (counts < 2).then_some("2"),
        // Loose still refuses sources that no route leads to; those could not be answered anyway.
        "rp_filter" => (counts == 1).then_some("2"),
        _ => None,
    }
}

/// `None` when there is no such key: its interface is gone.
pub(crate) fn read(key: &str) -> Result<Option<String>, Error> {
    match fs::read_to_string(Path::new(ROOT).join(key)) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Sysctl { doing: "read", key: key.to_owned(), source }),
    }
}

/// Nothing when there is no such key.
pub(crate) fn write(key: &str, value: &str) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).open(Path::new(ROOT).join(key));
    match file.and_then(|mut f| f.write_all(value.as_bytes())) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(Error::Permission { doing: format!("write /proc/sys/{key}") })
        }
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Err(Error::ReadOnly { key: key.to_owned() })
        }
        Err(source) => Err(Error::Sysctl { doing: "write", key: key.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_good_enough_is_changed() {
        for (name, all, own, expected) in [
            ("arp_ignore", "0", "0", Some("1")),
            ("arp_ignore", "1", "0", None),
            ("arp_ignore", "0", "2", None),
            ("arp_ignore", "0", "3", Some("1")),
            ("arp_ignore", "0", "8", None),
            ("arp_announce", "0", "1", Some("2")),
            ("arp_announce", "2", "0", None),
            ("rp_filter", "0", "0", None),
            ("rp_filter", "0", "1", Some("2")),
            ("rp_filter", "1", "0", Some("2")),
            ("rp_filter", "2", "1", None),
            ("rp_filter", "1", "2", None),
        ] {
            assert_eq!(needed(name, all, own), expected, "{name}: all {all}, own {own}");
        }
    }

    #[test]
    fn keys_are_shown_as_sysctl_writes_them() {
        assert_eq!(dotted(&key("eth0", "rp_filter")), "net.ipv4.conf.eth0.rp_filter");
        assert_eq!(dotted(&key("eth0.100", "rp_filter")), "net.ipv4.conf.eth0/100.rp_filter");
    }
}
