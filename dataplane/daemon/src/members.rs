use std::collections::BTreeMap;
use std::sync::Arc;

use jlb_map::{MemberRole, Snapshot};
use jlb_node::serde_json::{Value, json};
use jlb_role::Report;
use jlb_wire::{BootId, MemberId};

/// The other members as the first worker sees them: for readiness, status and the log.
#[derive(Debug)]
pub struct Members {
    cluster: Arc<Snapshot>,
    me: MemberId,
    seen: BTreeMap<MemberId, Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    alive: bool,
    boot: Option<BootId>,
}

impl Members {
    pub(crate) fn new(cluster: Arc<Snapshot>, me: MemberId) -> Self {
        Self { cluster, me, seen: BTreeMap::new() }
    }

    pub(crate) fn replace(&mut self, cluster: Arc<Snapshot>) {
        self.seen.retain(|&id, _| cluster.member(id).is_some());
        self.cluster = cluster;
    }

    pub(crate) fn take(&mut self, report: Report) {
        let (member, change): (_, fn(&mut Seen)) = match report {
            Report::PeerBoot { member, boot, .. } => {
                self.seen.entry(member).or_default().boot = Some(boot);
                (member, |_| {})
            }
            Report::PeerAlive { member } => (member, |seen| seen.alive = true),
            Report::PeerSuspect { member } => (member, |seen| seen.alive = false),
            Report::ListMismatch { member } => (member, |_| {}),
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
