use std::collections::BTreeSet;

use jlb_wire::MemberId;
use thiserror::Error;

use crate::{Digest, Member, MemberRole, Snapshot};

/// How a new list relates to the one in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    /// The same list and keys: nothing to do.
    Same,
    /// The same list with other MAC keys.
    KeysOnly,
    /// A later list.
    Newer,
}

/// Why a list may not replace the one in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// An older list.
    #[error("generation {new} is lower than {old}, which is in force")]
    LowerGeneration {
        /// In force.
        old: u64,
        /// In the new list.
        new: u64,
    },
    /// A change that was not announced.
    #[error(
        "the list was changed (digest {old} before, {new} now), but its generation is still {generation}; raise it"
    )]
    SameGeneration {
        /// Of both.
        generation: u64,
        /// Digest of the list in force.
        old: Digest,
        /// Digest of the new list.
        new: Digest,
    },
    /// The set of trackers changed and the epoch did not rise.
    #[error("the set of flow trackers changed, so the epoch must rise above {old}; it is {new}")]
    EpochMustRise {
        /// In force.
        old: u32,
        /// In the new list.
        new: u32,
    },
    /// The epoch changed and the set of trackers did not: from one generation to the next, it stays.
    #[error("the set of flow trackers is the same, so the epoch must stay {old}; it is {new}")]
    EpochMustStay {
        /// In force.
        old: u32,
        /// In the new list.
        new: u32,
    },
    /// Another cluster's list.
    #[error("hash_key is another one; it places flows and stays the same for the cluster's life")]
    HashKey,
    /// An id given to another host.
    #[error(
        "member id {id} was `{old}` at {addresses} and is now at another address; a new host needs a new id"
    )]
    IdMoved {
        /// The id.
        id: MemberId,
        /// The name that it had.
        old: String,
        /// The addresses that it had.
        addresses: String,
    },
    /// An id with another role.
    #[error("member id {id} (`{name}`) was {old} and is now {new}; another role needs a new id")]
    RoleChanged {
        /// The id.
        id: MemberId,
        /// Its name.
        name: String,
        /// The role that it had.
        old: MemberRole,
        /// The role that it would have.
        new: MemberRole,
    },
    /// Too much would go at once. Only this one can be forced.
    #[error(
        "it loses {lost} of {of} members with role {role}, more than a third; if that is meant, force it"
    )]
    Shrinks {
        /// Which role.
        role: MemberRole,
        /// How many of the old members are gone.
        lost: usize,
        /// How many there were.
        of: usize,
    },
}

/// Whether `new` may replace `old`. `force` allows [`Refusal::Shrinks`], nothing else.
///
/// # Errors
/// Every reason against it.
pub fn check_successor(
    old: &Snapshot,
    new: &Snapshot,
    force: bool,
) -> Result<Succession, Vec<Refusal>> {
    if old.keys().hash_key != new.keys().hash_key {
        return Err(vec![Refusal::HashKey]);
    }
    if new.generation() < old.generation() {
        return Err(vec![Refusal::LowerGeneration {
            old: old.generation(),
            new: new.generation(),
        }]);
    }
    if new.spec().members == old.spec().members
        && new.spec().services == old.spec().services
        && new.spec().underlay == old.spec().underlay
        && new.generation() == old.generation()
        && new.epoch() == old.epoch()
        && new.protocol() == old.protocol()
    {
        return Ok(if old.keys() == new.keys() { Succession::Same } else { Succession::KeysOnly });
    }
    let mut refusals = Vec::new();
    if new.generation() == old.generation() {
        let generation = old.generation();
        refusals.push(Refusal::SameGeneration { generation, old: old.digest(), new: new.digest() });
    }
    epoch(old, new, &mut refusals);
    for before in old.members() {
        if let Some(after) = new.member(before.id) {
            identity(before, after, &mut refusals);
        }
    }
    if !force {
        shrinks(old, new, &mut refusals);
    }
    if refusals.is_empty() { Ok(Succession::Newer) } else { Err(refusals) }
}

fn epoch(old: &Snapshot, new: &Snapshot, refusals: &mut Vec<Refusal>) {
    let trackers = |s: &Snapshot| {
        s.with_role(MemberRole::FlowTracker).iter().copied().collect::<BTreeSet<_>>()
    };
    let (before, after) = (old.epoch().0, new.epoch().0);
    if trackers(old) == trackers(new) {
        // A tracker may have come and gone in the lists between, which a host that was cut off from etcd has missed.
        let missed_some = new.generation() > old.generation() + 1;
        if after < before || (after > before && !missed_some) {
            refusals.push(Refusal::EpochMustStay { old: before, new: after });
        }
    } else if after <= before {
        refusals.push(Refusal::EpochMustRise { old: before, new: after });
    }
}

/// A member may gain or lose one of two families, but never change an address.
fn identity(before: &Member, after: &Member, refusals: &mut Vec<Refusal>) {
    let (a, b) = (before.addresses, after.addresses);
    let kept = |same: bool, both: bool| same || !both;
    let common = (a.v4.is_some() && a.v4 == b.v4) || (a.v6.is_some() && a.v6 == b.v6);
    if !common
        || !kept(a.v4 == b.v4, a.v4.is_some() && b.v4.is_some())
        || !kept(a.v6 == b.v6, a.v6.is_some() && b.v6.is_some())
    {
        let addresses = a.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(" and ");
        refusals.push(Refusal::IdMoved { id: before.id, old: before.name.clone(), addresses });
    }
    if before.role != after.role {
        let (id, name) = (before.id, after.name.clone());
        refusals.push(Refusal::RoleChanged { id, name, old: before.role, new: after.role });
    }
}

fn shrinks(old: &Snapshot, new: &Snapshot, refusals: &mut Vec<Refusal>) {
    for role in MemberRole::ALL {
        let before = old.with_role(role);
        let lost = before.iter().filter(|&&id| new.member(id).is_none()).count();
        if lost * 3 > before.len() {
            refusals.push(Refusal::Shrinks { role, lost, of: before.len() });
        }
    }
}
