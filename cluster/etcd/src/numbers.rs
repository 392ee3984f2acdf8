//! Which numbers a list gets when it is applied.

use jlb_config::ClusterList;
use jlb_map::{MemberRole, Snapshot};

use crate::{Presence, Present};

/// The numbers of a list that is about to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Its generation.
    pub generation: u64,
    /// Its epoch.
    pub epoch: u32,
    /// The last generation that was forced.
    pub forced_generation: Option<u64>,
}

/// Why a file gets no numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It was made from an older list.
    #[error(
        "the file has {what} {file}, and etcd already has {stored}: get the list with `jlbctl get`, and make your change in that"
    )]
    Lower {
        /// `generation` or `epoch`.
        what: &'static str,
        /// In the file.
        file: u64,
        /// In etcd.
        stored: u64,
    },
    /// No number is left.
    #[error("there is no higher {0}")]
    Exhausted(&'static str),
    /// A member runs a list that etcd does not know: it was restored from a backup, or wiped.
    #[error(
        "etcd was restored or wiped: `{name}` has a list in force that is not there, generation {} and epoch {}. \
         Apply that list as it is, from {name}.cluster.toml in the state_dir of that host; \
         or write generation = {} and epoch = {} into the file",
        has.0, has.1, write.0, write.1
    )]
    Foreign {
        /// The member.
        name: String,
        /// Generation and epoch that it has in force.
        has: (u64, u32),
        /// Generation and epoch that every member takes.
        write: (u64, u32),
    },
}

/// Decides the numbers of `file`, which is to replace `stored`. The file's own numbers are kept if they are higher than
/// the stored ones, so that an operator can raise them after a restore; otherwise the generation rises by one, and the
/// epoch if the set of trackers changed. `force` marks the result as meant.
///
/// # Errors
/// [`Unfit`], if the file is older than what is stored, or the result older than what a member has in force.
pub fn decide_numbers(
    file: &ClusterList,
    stored: Option<&ClusterList>,
    present: &Present,
    force: bool,
) -> Result<Numbers, Unfit> {
    let own = (file.snapshot.generation(), file.snapshot.epoch().0);
    let (generation, epoch) = match stored {
        None => own,
        Some(stored) => raised(&file.snapshot, &stored.snapshot)?,
    };
    check_present(file, stored, present, (generation, epoch))?;
    let earlier = stored.unwrap_or(file).forced_generation;
    let forced_generation = if force { Some(generation) } else { earlier };
    Ok(Numbers { generation, epoch, forced_generation })
}

/// Two generations and one epoch above a list that nobody can compare with, every member takes the result: the set of
/// trackers may have changed or not.
fn check_present(
    file: &ClusterList,
    stored: Option<&ClusterList>,
    present: &Present,
    (generation, epoch): (u64, u32),
) -> Result<(), Unfit> {
    let of = |list: &ClusterList| {
        let s = &list.snapshot;
        (s.generation(), s.epoch().0, s.digest().to_string())
    };
    let own = of(file);
    // The latest list that this history knows: the file itself, if it goes back to where a member has it from.
    let is_put_back =
        own.0 == generation && present.values().any(|m| m.generation == own.0 && m.digest == own.2);
    let known = if is_put_back { Some(own) } else { stored.map(of) };
    let is_known = |m: &Presence| {
        let known = known.as_ref().filter(|k| m.epoch <= k.1);
        known.is_some_and(|k| m.generation < k.0 || (m.generation == k.0 && m.digest == k.2))
    };
    let foreign = present.iter().filter(|(_, m)| !is_known(m));
    let too_low = |m: &Presence| generation < m.generation.saturating_add(2) || epoch <= m.epoch;
    let Some((name, m)) = foreign.clone().find(|(_, m)| too_low(m)) else { return Ok(()) };
    let all = foreign.map(|(_, m)| (m.generation, m.epoch)).chain(stored.map(|s| {
        let (generation, epoch, _) = of(s);
        (generation, epoch)
    }));
    let highest = all.fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
    Err(Unfit::Foreign {
        name: name.clone(),
        has: (m.generation, m.epoch),
        write: (highest.0.saturating_add(2), highest.1.saturating_add(1)),
    })
}

fn raised(file: &Snapshot, stored: &Snapshot) -> Result<(u64, u32), Unfit> {
    let (generation, before) = (file.generation(), stored.generation());
    let (epoch, epoch_before) = (file.epoch().0, stored.epoch().0);
    if generation < before {
        return Err(Unfit::Lower { what: "generation", file: generation, stored: before });
    }
    if epoch < epoch_before {
        let (file, stored) = (epoch.into(), epoch_before.into());
        return Err(Unfit::Lower { what: "epoch", file, stored });
    }
    let generation = if generation > before { Some(generation) } else { before.checked_add(1) };
    // As the configuration bounds it.
    let generation = generation.filter(|&g| g <= u64::MAX >> 1);
    let trackers = |s: &Snapshot| s.with_role(MemberRole::FlowTracker).to_vec();
    let epoch = if epoch > epoch_before || trackers(file) == trackers(stored) {
        Some(epoch)
    } else {
        epoch_before.checked_add(1)
    };
    Ok((generation.ok_or(Unfit::Exhausted("generation"))?, epoch.ok_or(Unfit::Exhausted("epoch"))?))
}
