use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jlb_map::{MemberRole, Snapshot};
use jlb_node::serde_json::{Value, json};
use jlb_role::{Report, WorkerId};
use jlb_wire::{BootId, MemberId};

/// The other members as the first worker sees them: for readiness, status and the log.
#[derive(Debug)]
pub struct Members {
    cluster: Arc<Snapshot>,
    me: MemberId,
    seen: BTreeMap<MemberId, Seen>,
    /// Workers of a tracker that do not yet know what all backends have, and whom they wait for.
    cold: BTreeSet<WorkerId>,
    waited_for: BTreeMap<WorkerId, Vec<MemberId>>,
    /// Workers of a tracker that decide alone for some partitions.
    sole: BTreeSet<WorkerId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    alive: bool,
    boot: Option<BootId>,
}

impl Members {
    pub(crate) fn new(cluster: Arc<Snapshot>, me: MemberId) -> Self {
        Self {
            cluster,
            me,
            seen: BTreeMap::new(),
            cold: BTreeSet::new(),
            waited_for: BTreeMap::new(),
            sole: BTreeSet::new(),
        }
    }

    pub(crate) fn replace(&mut self, cluster: Arc<Snapshot>) {
        self.seen.retain(|&id, _| cluster.member(id).is_some());
        self.cluster = cluster;
    }

    /// Every worker probes on its own; one of them is enough for people. What they know of flows each says for itself.
    pub(crate) fn take(&mut self, worker: WorkerId, report: Report) {
        match report {
            Report::Warm(true) => {
                self.cold.remove(&worker);
                self.waited_for.remove(&worker);
            }
            Report::Warm(false) => {
                self.cold.insert(worker);
            }
            Report::Sole(sole) => {
                let was = self.is_sole();
                if sole {
                    self.sole.insert(worker);
                } else {
                    self.sole.remove(&worker);
                }
                if self.is_sole() != was {
                    crate::tell("", report);
                }
            }
            Report::WaitsFor { member } => {
                // A round goes through the list by id: what comes behind the last one begins another.
                let waits_for = self.waited_for.entry(worker).or_default();
                if waits_for.last().is_some_and(|&last| last >= member) {
                    waits_for.clear();
                }
                waits_for.push(member);
            }
            Report::PeerBoot { .. }
            | Report::PeerAlive { .. }
            | Report::PeerSuspect { .. }
            | Report::ListMismatch { .. }
            | Report::BackendDead { .. }
                if worker == WorkerId(0) =>
            {
                self.learn(report);
            }
            Report::PeerBoot { .. }
            | Report::PeerAlive { .. }
            | Report::PeerSuspect { .. }
            | Report::ListMismatch { .. }
            | Report::BackendDead { .. }
            | Report::MayLeave
            | Report::Collect(_)
            | Report::Pulled { .. }
            | Report::SoleChanged { .. } => {}
        }
    }

    fn learn(&mut self, report: Report) {
        let (member, change): (_, fn(&mut Seen)) = match report {
            Report::PeerBoot { member, boot, .. } => {
                self.seen.entry(member).or_default().boot = Some(boot);
                (member, |_| {})
            }
            Report::PeerAlive { member } => (member, |seen| seen.alive = true),
            Report::PeerSuspect { member } => (member, |seen| seen.alive = false),
            Report::ListMismatch { member } | Report::BackendDead { member } => (member, |_| {}),
            Report::Warm(_)
            | Report::WaitsFor { .. }
            | Report::MayLeave
            | Report::Collect(_)
            | Report::Sole(_)
            | Report::Pulled { .. }
            | Report::SoleChanged { .. } => {
                return;
            }
        };
        // What was reported before the list changed is of no use any more.
        let Some(known) = self.cluster.member(member) else { return };
        change(self.seen.entry(member).or_default());
        crate::tell(&known.name, report);
    }

    /// How many others of a role answer, and how many there are.
    #[must_use]
    pub fn alive(&self, role: MemberRole) -> (usize, usize) {
        let others = self.cluster.with_role(role).iter().filter(|&&id| id != self.me);
        let alive = others.clone().filter(|id| self.seen.get(id).is_some_and(|s| s.alive)).count();
        (alive, others.count())
    }

    /// Whether a worker does not yet know what all backends have, and the names of those whose word it waits for.
    #[must_use]
    pub fn cold(&self) -> Option<Vec<&str>> {
        let name = |id: &MemberId| self.cluster.member(*id).map(|m| m.name.as_str());
        let waited_for: BTreeSet<_> = self.waited_for.values().flatten().collect();
        (!self.cold.is_empty()).then(|| waited_for.into_iter().filter_map(name).collect())
    }

    /// Whether a worker decides alone for some partitions.
    #[must_use]
    pub fn is_sole(&self) -> bool {
        !self.sole.is_empty()
    }

    pub(crate) fn status(&self) -> Value {
        // Ingress hosts do not ask each other, so they cannot say who of them answers.
        let ingress = self.cluster.member(self.me).is_some_and(|m| m.role == MemberRole::Ingress);
        let asked = |role| !(ingress && role == MemberRole::Ingress);
        let others = self.cluster.members().iter().filter(|m| m.id != self.me && asked(m.role));
        others
            .map(|m| {
                let seen = self.seen.get(&m.id).copied().unwrap_or_default();
                json!({
                    "id": m.id.as_u16(),
                    "name": m.name.clone(),
                    "role": m.role.to_string(),
                    "alive": seen.alive,
                    "boot": seen.boot.map(|b| format!("{b:?}")),
                })
            })
            .collect()
    }
}
