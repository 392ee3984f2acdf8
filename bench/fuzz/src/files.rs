use std::path::Path;

use jlb_config::{ClusterFile, FileKind, Host, KeyFile, Mistakes, read_cluster};
use jlb_map::MemberRole;

/// A text as `jlb.toml`.
pub fn host_toml(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let _ = FileKind::of("jlb.toml", text);
    match Host::parse("jlb.toml", text) {
        Ok(host) => {
            for role in [MemberRole::Ingress, MemberRole::FlowTracker, MemberRole::Backend] {
                if let Err(mistakes) = host.require(role) {
                    told(&mistakes, text);
                }
            }
        }
        Err(mistakes) => told(&mistakes, text),
    }
}

/// A text as `cluster.toml`, or as the member list in etcd; and whether it may follow itself.
pub fn cluster_toml(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let _ = FileKind::of("cluster.toml", text);
    let source = ClusterFile { name: "cluster.toml", text };
    let mut read_key = |path: &Path| {
        let name = path.to_string_lossy();
        // Paths are the operator's: some lead nowhere, some to what is no key.
        match name.len() % 4 {
            0 => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
            1 => Ok(KeyFile { text: name.into_owned(), mode: 0o644 }),
            _ => Ok(KeyFile { text: "0123456789abcdef".repeat(2), mode: 0o600 }),
        }
    };
    match read_cluster(source, Path::new("/etc/jlb"), &mut read_key) {
        Ok(list) => {
            // The same numbers with the same digest: nothing changes.
            assert!(list.follows(&list.snapshot).is_ok());
        }
        Err(mistakes) => told(&mistakes, text),
    }
}

/// There is at least one, and each can be shown.
fn told(mistakes: &Mistakes, text: &str) {
    assert!(!mistakes.0.is_empty());
    let lines = text.lines().count() + 1;
    for mistake in &mistakes.0 {
        let shown = mistake.to_string();
        assert!(!shown.is_empty());
        assert!(mistake.line <= lines, "{shown}");
    }
}
