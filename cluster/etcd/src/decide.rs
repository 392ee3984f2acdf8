//! From which list a daemon starts.

use core::fmt;

use jlb_config::{ClusterList, Mistakes};
use jlb_map::Refusal;

use crate::Stored;

/// Why what etcd holds is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no list, or an empty one.
    Nothing,
    /// It is wrong in itself.
    Mistakes(Mistakes),
    /// It may not follow the list in force.
    Refusals(Vec<Refusal>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("etcd has no member list: write one with `jlbctl apply`"),
            Self::Mistakes(mistakes) => write!(f, "the member list in etcd is wrong:\n{mistakes}"),
            Self::Refusals(refusals) => {
                for (i, refusal) in refusals.iter().enumerate() {
                    let hint = match refusal {
                        Refusal::Shrinks { .. } => ": `jlbctl apply --force`",
                        Refusal::LowerGeneration { .. } | Refusal::SameGeneration { .. } => {
                            "; if the store was restored, apply a list with higher numbers"
                        }
                        Refusal::EpochMustRise { .. }
                        | Refusal::EpochMustStay { .. }
                        | Refusal::HashKey
                        | Refusal::IdMoved { .. }
                        | Refusal::RoleChanged { .. } => "",
                    };
                    write!(f, "{}{refusal}{hint}", if i == 0 { "" } else { "\n" })?;
                }
                Ok(())
            }
        }
    }
}

/// Reads what etcd holds.
///
/// # Errors
/// When it is nothing, or wrong in itself.
pub fn offered(
    stored: Option<&Stored>,
    parse: impl FnOnce(&str) -> Result<ClusterList, Mistakes>,
) -> Result<ClusterList, Refused> {
    match stored.filter(|s| !s.text.trim().is_empty()) {
        Some(stored) => parse(&stored.text).map_err(Refused::Mistakes),
        None => Err(Refused::Nothing),
    }
}

/// Why the list does not come from etcd.
#[derive(Debug)]
pub enum Why<E> {
    /// etcd does not answer.
    Silent(E),
    /// What it holds is not taken.
    Refused(Refused),
}

/// What a daemon starts from.
#[derive(Debug)]
pub enum Start<E> {
    /// The list that etcd holds.
    Stored(ClusterList),
    /// The copy of the last good one.
    Copied(ClusterList, Why<E>),
    /// There is neither.
    Nothing(Why<E>),
}

/// Decides from which list a daemon starts: that of etcd, unless the copy of what was last in force knows better. A
/// store that was wiped, or restored from an old backup, is so refused by hosts that restart, too.
pub fn decide_start<E>(
    answer: Result<Result<ClusterList, Refused>, E>,
    copy: Option<ClusterList>,
) -> Start<E> {
    let why = match (answer, &copy) {
        (Err(e), _) => Why::Silent(e),
        (Ok(Err(refused)), _) => Why::Refused(refused),
        (Ok(Ok(list)), None) => return Start::Stored(list),
        (Ok(Ok(list)), Some(copy)) => match list.follows(&copy.snapshot) {
            Ok(_) => return Start::Stored(list),
            Err(refusals) => Why::Refused(Refused::Refusals(refusals)),
        },
    };
    match copy {
        Some(copy) => Start::Copied(copy, why),
        None => Start::Nothing(why),
    }
}
