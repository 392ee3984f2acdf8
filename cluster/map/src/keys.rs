use jlb_flow::HashKey;
use jlb_wire::MacKeys;

/// The cluster's secrets. `Debug` shows none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Places flows: the cluster's identity for life.
    pub hash_key: HashKey,
    /// Authenticate messages.
    pub mac_keys: MacKeys,
}

#[cfg(test)]
mod tests {
    use jlb_wire::MacKey;

    use super::*;

    #[test]
    fn debug_shows_no_key() {
        let mac_keys = MacKeys { current: MacKey([0x42; 16]), other: Some(MacKey([0x43; 16])) };
        let shown = format!("{:?}", Keys { hash_key: HashKey([0x41; 16]), mac_keys });
        assert!(!["65", "66", "67", "41", "42", "43"].iter().any(|n| shown.contains(n)), "{shown}");
    }
}
