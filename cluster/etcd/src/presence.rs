use std::collections::BTreeMap;

use jlb_map::Snapshot;
use jlb_wire::Version;
use serde::{Deserialize, Serialize};

/// What a daemon says of itself while it runs: that it is there, and which list it has in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Its role.
    pub role: String,
    /// Generation of its list.
    pub generation: u64,
    /// Epoch of its list.
    pub epoch: u32,
    /// Digest of its list, as it is shown elsewhere.
    pub digest: String,
    /// Newest version of the protocol that it speaks.
    pub newest_protocol: u8,
}

/// Who is there, by name.
pub type Present = BTreeMap<String, Presence>;

impl Presence {
    /// Of a member with this list in force.
    #[must_use]
    pub fn of(role: &str, list: &Snapshot) -> Self {
        Self {
            role: role.to_owned(),
            generation: list.generation(),
            epoch: list.epoch().0,
            digest: list.digest().to_string(),
            newest_protocol: Version::NEWEST.as_u8(),
        }
    }

    pub(crate) fn to_json(&self) -> String {
        // A struct of numbers and strings always has one.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A member that says what a later version understands is there all the same.
    pub(crate) fn from_json(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }
}
