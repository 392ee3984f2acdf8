use toml::de::DeTable;

/// Which of the two files one is, for a command that takes both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// `jlb.toml`.
    Host,
    /// `cluster.toml`.
    Cluster,
}

impl FileKind {
    /// By what is in it; by its name if that says nothing.
    #[must_use]
    pub fn of(name: &str, text: &str) -> Self {
        let (table, _) = DeTable::parse_recoverable(text);
        let has = |keys: &[&str]| keys.iter().any(|&key| table.get_ref().contains_key(key));
        let of_host = has(&["node", "etcd", "dpdk", "ingress", "flowtracker", "yann"]);
        let of_cluster = has(&["generation", "epoch", "keys", "underlay", "member", "service"]);
        if of_cluster || (!of_host && name.contains("cluster")) {
            Self::Cluster
        } else {
            Self::Host
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_says_it_and_then_the_name() {
        assert_eq!(FileKind::of("a", "epoch = 1"), FileKind::Cluster);
        assert_eq!(FileKind::of("cluster.toml", "[node]\nname = \"a\""), FileKind::Host);
        assert_eq!(FileKind::of("cluster.toml", ""), FileKind::Cluster);
        assert_eq!(FileKind::of("jlb.toml", "= ="), FileKind::Host);
    }
}
