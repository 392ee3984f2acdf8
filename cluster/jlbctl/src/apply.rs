use core::time::Duration;
use std::path::Path;

use jlb_etcd::{Numbers, Present, decide_numbers};
use jlb_map::Snapshot;
use jlb_node::serde_json::json;

use crate::Output;
use crate::changes::changes;
use crate::error::CtlError;
use crate::renumber::renumber;
use crate::session::{Session, Text};

/// Between two looks at who has taken the list.
const LOOK: Duration = Duration::from_millis(100);

/// How to apply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) force: bool,
    pub(crate) dry_run: bool,
    /// Seconds to wait until every member that is present has taken it.
    pub(crate) wait: u64,
}

pub(crate) async fn apply(
    session: &Session,
    path: &Path,
    options: Options,
    out: &mut Output,
) -> Result<(), CtlError> {
    let file = session.file(path)?;
    let content = session.store.read().await?;
    let stored = match session.stored(&content) {
        // There is no way to compare with it.
        Err(CtlError::StoredMistakes(_)) if options.force => None,
        stored => stored?,
    };
    let before = stored.as_ref().map(|s| &*s.list.snapshot);
    if let Some(stored) = &stored
        && is_same(&file, stored)?
    {
        out.note("nothing to do: this list is in etcd already")?;
        return told(out, false, &stored.list.snapshot, before);
    }
    let stored_list = stored.as_ref().map(|s| &s.list);
    let numbers = decide_numbers(&file.list, stored_list, &content.present, options.force)?;
    let text = renumber(&file.text, numbers)?;
    // As the daemons will do it, with the very text that they get.
    let list = session.parse(&path.display().to_string(), &text)?;
    if let Some(stored) = &stored {
        list.follows(&stored.list.snapshot).map_err(CtlError::Refused)?;
    }
    if !options.force {
        spoken(list.snapshot.protocol().as_u8(), &content.present)?;
    }
    if options.dry_run {
        out.note("not applied: this is a dry run")?;
        return told(out, false, &list.snapshot, before);
    }
    let revision = content.list.as_ref().map_or(0, |s| s.revision);
    session.store.replace(revision, &text).await?;
    told(out, true, &list.snapshot, before)?;
    if numbers.generation != file.list.snapshot.generation() && path != Path::new("-") {
        let path = path.display();
        out.note(&format!(
            "{path} still has the earlier numbers; before the next change: jlbctl get > {path}"
        ))?;
    }
    if options.wait > 0 { taken(session, &list.snapshot, options.wait).await } else { Ok(()) }
}

/// Whether all members that are there speak the list's version of the protocol.
fn spoken(protocol: u8, present: &Present) -> Result<(), CtlError> {
    let names: Vec<_> = (present.iter())
        .filter(|(_, presence)| presence.newest_protocol < protocol)
        .map(|(name, _)| name.clone())
        .collect();
    if names.is_empty() { Ok(()) } else { Err(CtlError::NotSpoken { protocol, names }) }
}

/// Whether it says the same, comments included.
fn is_same(file: &Text, stored: &Text) -> Result<bool, CtlError> {
    let numbers = |t: &Text| (t.list.snapshot.generation(), t.list.snapshot.epoch());
    if numbers(file) != numbers(stored) {
        return Ok(false);
    }
    let (generation, epoch) = (file.list.snapshot.generation(), file.list.snapshot.epoch().0);
    let unmarked = Numbers { generation, epoch, forced_generation: None };
    Ok(renumber(&file.text, unmarked)? == renumber(&stored.text, unmarked)?)
}

fn told(
    out: &mut Output,
    is_applied: bool,
    new: &Snapshot,
    before: Option<&Snapshot>,
) -> Result<(), CtlError> {
    let (generation, epoch) = (new.generation(), new.epoch().0);
    let changes = changes(before, new);
    if out.is_json {
        return out.json(&json!({
            "applied": is_applied,
            "generation": generation,
            "epoch": epoch,
            "digest": new.digest().to_string(),
            "before": before.map(|b| json!({ "generation": b.generation(), "epoch": b.epoch().0 })),
            "changes": changes.iter().map(crate::changes::Change::to_json).collect::<Vec<_>>(),
        }));
    }
    let was = before.map_or_else(
        || "there was none".to_owned(),
        |b| format!("was generation {}, epoch {}", b.generation(), b.epoch().0),
    );
    let state = if is_applied { "applied" } else { "list" };
    out.line(&format!("{state}: generation {generation}, epoch {epoch} ({was})"))?;
    changes.iter().try_for_each(|c| out.line(&c.to_string()))
}

/// Waits until all who are present have it in force. Who is absent takes it when it comes back.
async fn taken(session: &Session, list: &Snapshot, seconds: u64) -> Result<(), CtlError> {
    let digest = list.digest().to_string();
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    loop {
        let present = session.store.read().await?.present;
        // A host that was taken out of the list keeps the old one until it is stopped.
        let late = present.into_iter().filter(|(name, presence)| {
            presence.digest != digest && list.member_by_name(name).is_some()
        });
        let names: Vec<_> = late.map(|(name, _)| name).collect();
        if names.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() >= end {
            return Err(CtlError::NotTaken { seconds, names });
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use jlb_etcd::Presence;

    use super::*;

    #[test]
    fn who_does_not_speak_the_version_is_named() {
        let speaks = |newest_protocol| Presence { newest_protocol, ..Presence::default() };
        let present = Present::from([("old".to_owned(), speaks(1)), ("new".to_owned(), speaks(2))]);
        assert!(spoken(1, &present).is_ok());
        let refused = spoken(2, &present).unwrap_err().to_string();
        assert!(
            refused.contains("old would be shut out, since it does not speak version 2"),
            "{refused}"
        );
    }
}
