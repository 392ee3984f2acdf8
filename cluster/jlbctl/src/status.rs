use jlb_etcd::Presence;
use jlb_map::{Member, Snapshot};
use jlb_node::serde_json::{Value, json};

use crate::Output;
use crate::error::CtlError;
use crate::session::Session;

/// A member as the list and its presence show it.
struct Row<'a> {
    name: &'a str,
    /// `None`: it says that it is there, and the list does not have it.
    member: Option<&'a Member>,
    presence: Option<&'a Presence>,
    /// Whether it has the stored list in force.
    is_current: bool,
}

pub(crate) async fn status(session: &Session, out: &mut Output) -> Result<(), CtlError> {
    let content = session.store.read().await?;
    let stored = session.stored(&content)?;
    let list = stored.as_ref().map(|s| &*s.list.snapshot);
    let digest = list.map(|l| l.digest().to_string());
    let row = |name, member| {
        let presence = content.present.get(name);
        let is_current = presence.is_some_and(|p| Some(&p.digest) == digest.as_ref());
        Row { name, member, presence, is_current }
    };
    let members = list.map(Snapshot::members).unwrap_or_default();
    let listed = members.iter().map(|m| row(&m.name, Some(m)));
    let unlisted = content.present.keys().filter(|n| !members.iter().any(|m| m.name == **n));
    let rows: Vec<_> = listed.chain(unlisted.map(|n| row(n, None))).collect();
    if out.is_json {
        return out.json(&json!({
            "list": list.map(|l| json!({
                "generation": l.generation(),
                "epoch": l.epoch().0,
                "protocol": l.protocol().as_u8(),
                "digest": digest,
                "forced_generation": stored.as_ref().and_then(|s| s.list.forced_generation),
                "revision": content.list.as_ref().map(|s| s.revision),
            })),
            "members": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        }));
    }
    let head = list.map_or_else(
        || "list: none; the first one comes with `jlbctl apply FILE`".to_owned(),
        |l| format!("list: generation {}, epoch {}", l.generation(), l.epoch().0),
    );
    out.line(&head)?;
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(4);
    out.line(&format!(
        "{:width$}  {:11}  {:8}  {:>10}  {:>5}",
        "NAME", "ROLE", "STATE", "GENERATION", "EPOCH"
    ))?;
    rows.iter().try_for_each(|r| out.line(r.to_line(width).trim_end()))
}

impl Row<'_> {
    fn role(&self) -> &str {
        let said = self.presence.map_or("", |p| p.role.as_str());
        self.member.map_or(said, |m| m.role.label())
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "id": self.member.map(|m| m.id.as_u16()),
            "role": self.role(),
            "listed": self.member.is_some(),
            "drain": self.member.map(|m| m.drain),
            "present": self.presence.is_some(),
            "generation": self.presence.map(|p| p.generation),
            "epoch": self.presence.map(|p| p.epoch),
            "newest_protocol": self.presence.map(|p| p.newest_protocol),
            "digest": self.presence.map(|p| p.digest.as_str()),
            "current": self.is_current,
        })
    }

    fn to_line(&self, width: usize) -> String {
        let state = if self.presence.is_some() { "present" } else { "absent" };
        let (generation, epoch) = self.presence.map_or_else(
            || ("-".to_owned(), "-".to_owned()),
            |p| (p.generation.to_string(), p.epoch.to_string()),
        );
        let mut notes = Vec::new();
        if self.member.is_none() {
            notes.push("not in the list");
        } else if self.presence.is_some() && !self.is_current {
            notes.push("has another list in force");
        }
        if self.member.is_some_and(|m| m.drain) {
            notes.push("drained");
        }
        let (name, role, notes) = (self.name, self.role(), notes.join(", "));
        format!("{name:width$}  {role:11}  {state:8}  {generation:>10}  {epoch:>5}  {notes}")
    }
}
