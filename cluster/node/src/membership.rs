//! Where the member list comes from: `cluster.toml`, or etcd if `[etcd]` is there. Both are read and judged the same way.

use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jlb_config::{ClusterFile, ClusterList, Etcd, Host, Mistakes, read_cluster};
use jlb_etcd::{
    Copy, CopyError, Follower, List, Presence, Refused, Seen, Start, Store, StoreError, Why,
    decide_start, offered,
};
use jlb_map::{MemberRole, Snapshot};
use jlb_role::{Metric, MetricKind, MetricSink as _, Samples};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::files::{LoadError, load_list, read_key};
use crate::{Paths, Setup};

static CONNECTED: Metric =
    Metric { name: "jlb_etcd_connected", help: "Whether etcd answers.", kind: MetricKind::Gauge };
static COPIED: Metric = Metric {
    name: "jlb_membership_from_copy",
    help: "Whether the list in force is this host's copy, since etcd has not confirmed it.",
    kind: MetricKind::Gauge,
};
static SAVED: Metric = Metric {
    name: "jlb_membership_copy_saved",
    help: "Whether this host has a copy of the list in force on its disk.",
    kind: MetricKind::Gauge,
};
static PRESENT: Metric = Metric {
    name: "jlb_member_present",
    help: "Whether etcd has heard of the member's daemon lately.",
    kind: MetricKind::Gauge,
};

/// etcd's patience at a start that has a copy, and at one that cannot do without it.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// The list from which a daemon starts.
#[derive(Clone, Debug)]
pub(crate) struct Begin {
    pub(crate) list: ClusterList,
    /// Its text, if it came from etcd.
    text: Option<String>,
    /// Why it is only this host's copy.
    trouble: Option<Trouble>,
}

#[derive(Clone, Debug)]
struct Trouble {
    text: String,
    /// etcd answered, and its list is not taken.
    is_refused: bool,
}

/// Why there is no list to start from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    /// The files of this host.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// etcd's, and there is no copy. It may be there at the next try.
    #[error("error: no member list: {why}, and there is no copy of an earlier one in {copy}")]
    Nothing { why: String, copy: String },
    /// No runtime to ask etcd with.
    #[error("error: cannot ask etcd: {0}")]
    Runtime(#[from] std::io::Error),
}

impl Begin {
    /// Whether etcd holds a list that was not taken.
    pub(crate) fn is_refused(&self) -> bool {
        self.trouble.as_ref().is_some_and(|t| t.is_refused)
    }

    /// From the file, or from etcd or the copy of what it said last.
    pub(crate) fn find(host: &Host, paths: &Paths) -> Result<Self, BeginError> {
        let Some(etcd) = &host.etcd else {
            return Ok(Self { list: load_list(&paths.cluster)?, text: None, trouble: None });
        };
        let secrets = host.etcd_secrets(&mut read_key).map_err(LoadError::from)?;
        let copy = Copy::at(&etcd.state_dir, &host.node.name);
        let (copied, copy_trouble) = match read_copy(&copy, paths.directory()) {
            Ok(found) => (found, None),
            Err(e) => (None, Some(e)),
        };
        let patience = if copied.is_some() { PATIENCE.0 } else { PATIENCE.1 };
        let store = Store::new(etcd.clone(), secrets, patience);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let content = runtime.block_on(store.read());
        let stored_text = content.as_ref().ok().and_then(|c| c.list.clone()).map(|s| s.text);
        let answer = content.map(|c| {
            offered(c.list.as_ref(), |text| parse(&store.list_name(), text, paths.directory()))
        });
        let (copied, copied_text) = copied.unzip();
        match decide_start(answer, copied) {
            Start::Stored(list) => Ok(Self { list, text: stored_text, trouble: None }),
            Start::Copied(list, why) => {
                let is_refused = matches!(why, Why::Refused(_));
                let trouble = Trouble { text: reason(&why), is_refused };
                Ok(Self { list, text: copied_text, trouble: Some(trouble) })
            }
            Start::Nothing(why) => Err(BeginError::Nothing {
                why: reason(&why),
                copy: copy_trouble.unwrap_or_else(|| copy.path().display().to_string()),
            }),
        }
    }
}

fn reason(why: &Why<StoreError>) -> String {
    match why {
        Why::Silent(e) => e.to_string(),
        Why::Refused(refused) => refused.to_string(),
    }
}

fn parse(name: &str, text: &str, directory: &Path) -> Result<ClusterList, Mistakes> {
    read_cluster(ClusterFile { name, text }, directory, &mut read_key)
}

fn read_copy(copy: &Copy, directory: &Path) -> Result<Option<(ClusterList, String)>, String> {
    let Some(text) = copy.read().map_err(|e| e.to_string())? else { return Ok(None) };
    let list = parse(&copy.path().display().to_string(), &text, directory);
    list.map(|list| Some((list, text))).map_err(|e| format!("a usable state:\n{e}"))
}

/// The list that this host knows, without asking anybody: for commands that want the members' names.
#[must_use]
pub fn known_cluster(host: &Host, paths: &Paths) -> Option<Arc<Snapshot>> {
    let list = match &host.etcd {
        None => load_list(&paths.cluster).ok(),
        Some(etcd) => {
            let copy = Copy::at(&etcd.state_dir, &host.node.name);
            read_copy(&copy, paths.directory()).ok().flatten().map(|(list, _)| list)
        }
    };
    list.map(|list| list.snapshot)
}

/// Where a running daemon's list comes from.
pub(crate) enum Membership {
    /// `cluster.toml`, read again on SIGHUP.
    File(PathBuf),
    /// etcd, which says itself when something changed.
    Etcd(Box<InEtcd>),
}

/// The list in etcd, as a running daemon follows it.
pub(crate) struct InEtcd {
    follower: Follower,
    seen: Seen,
    copy: Copy,
    /// What a mistake in the list is told to be in.
    name: String,
    /// Where relative key paths start.
    directory: PathBuf,
    /// The text of the list in force.
    text: String,
    /// What etcd held when it was looked at last was taken.
    is_settled: bool,
    is_from_copy: bool,
    /// The text that the copy has, or was to get and could not.
    saved: (String, bool),
    saving: Option<(String, JoinHandle<Result<(), CopyError>>)>,
}

impl Membership {
    /// On the current runtime.
    pub(crate) fn start(setup: &Setup) -> Self {
        let (Some(etcd), Some(text)) = (&setup.host.etcd, &setup.begin.text) else {
            return Self::File(setup.paths.cluster.clone());
        };
        Self::Etcd(Box::new(InEtcd::start(setup, etcd, text)))
    }

    /// Waits until there is another list to judge.
    pub(crate) async fn changed(&mut self) {
        match self {
            Self::File(_) => core::future::pending().await,
            Self::Etcd(etcd) => etcd.changed().await,
        }
    }

    /// The list as it is there now. `None`: etcd has not been seen yet.
    pub(crate) fn offer(&mut self) -> Option<Result<ClusterList, String>> {
        match self {
            Self::File(path) => Some(load_list(path).map_err(|e| e.to_string())),
            Self::Etcd(etcd) => etcd.offer().map(|o| o.map_err(|e| e.to_string())),
        }
    }

    /// The offered list is in force now.
    pub(crate) fn taken(&mut self, role: MemberRole, list: &Snapshot) {
        if let Self::Etcd(etcd) = self {
            etcd.taken(role, list);
        }
    }

    /// How to insist on a list that loses too much.
    pub(crate) fn how_to_force(&self, generation: u64) -> String {
        match self {
            Self::File(_) => format!("write forced_generation = {generation} into cluster.toml"),
            Self::Etcd(_) => "jlbctl apply --force".to_owned(),
        }
    }

    pub(crate) fn collect(&self, cluster: &Snapshot, out: &mut Samples) {
        let Self::Etcd(etcd) = self else { return };
        out.value(&CONNECTED, &[], u8::from(etcd.seen.is_connected).into());
        out.value(&COPIED, &[], u8::from(etcd.is_from_copy).into());
        out.value(&SAVED, &[], u8::from(etcd.is_saved()).into());
        // Without a connection nobody knows.
        if etcd.seen.is_connected {
            for member in cluster.members() {
                let present = etcd.seen.present.contains_key(&member.name);
                out.value(&PRESENT, &[("member", &member.name)], u8::from(present).into());
            }
        }
    }

    pub(crate) fn status(&self, cluster: &Snapshot) -> Value {
        match self {
            Self::File(path) => json!({ "source": path.display().to_string() }),
            Self::Etcd(etcd) => {
                let absent = cluster.members().iter().map(|m| &m.name);
                let absent: Vec<_> =
                    absent.filter(|name| !etcd.seen.present.contains_key(*name)).collect();
                json!({
                    "source": etcd.name,
                    "connected": etcd.seen.is_connected,
                    "from_copy": etcd.is_from_copy,
                    "absent": if etcd.seen.is_connected { json!(absent) } else { Value::Null },
                })
            }
        }
    }

    /// Says that this member is gone.
    pub(crate) async fn leave(self) {
        if let Self::Etcd(etcd) = self {
            etcd.follower.leave().await;
        }
    }
}

impl InEtcd {
    fn start(setup: &Setup, etcd: &Etcd, text: &str) -> Self {
        let (role, host) = (setup.program.role, setup.host.clone());
        let presence = Presence::of(role.label(), &setup.cluster);
        let name = host.node.name.clone();
        let copy = Copy::at(&etcd.state_dir, &name);
        let secrets = move || host.etcd_secrets(&mut read_key);
        let mut in_etcd = Self {
            follower: Follower::start(etcd.clone(), secrets, &name, presence),
            seen: Seen::default(),
            copy,
            name: format!("{}cluster", etcd.prefix),
            directory: setup.paths.directory().to_owned(),
            text: text.to_owned(),
            is_settled: !setup.begin.is_refused(),
            is_from_copy: setup.begin.trouble.is_some(),
            saved: (String::new(), false),
            saving: None,
        };
        if let Some(trouble) = &setup.begin.trouble {
            in_etcd.saved = (in_etcd.text.clone(), true);
            let copy = in_etcd.copy.path().display();
            warn!("starting with the copy of the last member list, {copy}: {}", trouble.text);
        }
        in_etcd
    }

    /// Not when only the presence of members changed.
    async fn changed(&mut self) {
        loop {
            self.save();
            let seen = tokio::select! {
                seen = self.follower.changed() => seen,
                result = finished(&mut self.saving) => {
                    self.end_save(result);
                    continue;
                }
            };
            self.tell_presence(&seen);
            let is_news = seen.list != self.seen.list;
            self.seen = seen;
            match &self.seen.list {
                List::Stored(stored) if stored.text == self.text && self.is_settled => {
                    if core::mem::take(&mut self.is_from_copy) {
                        info!("etcd confirms the list in force");
                    }
                }
                List::Stored(_) | List::Nothing if is_news => return,
                List::Unknown | List::Nothing | List::Stored(_) => {}
            }
        }
    }

    fn tell_presence(&self, seen: &Seen) {
        // After a pause everybody comes back one by one, which is no news.
        if !(seen.is_connected && self.seen.is_connected) {
            return;
        }
        for name in self.seen.present.keys().filter(|name| !seen.present.contains_key(*name)) {
            warn!("etcd has not heard of `{name}` lately");
        }
        for name in seen.present.keys().filter(|name| !self.seen.present.contains_key(*name)) {
            info!("etcd hears of `{name}`");
        }
    }

    fn offer(&mut self) -> Option<Result<ClusterList, Refused>> {
        self.is_settled = false;
        let stored = match &self.seen.list {
            List::Unknown => return None,
            List::Nothing => None,
            List::Stored(stored) => Some(&**stored),
        };
        Some(offered(stored, |text| parse(&self.name, text, &self.directory)))
    }

    fn taken(&mut self, role: MemberRole, list: &Snapshot) {
        let List::Stored(stored) = &self.seen.list else { return };
        self.is_settled = true;
        self.is_from_copy = false;
        self.text.clone_from(&stored.text);
        if !self.saved.1 {
            // Another try.
            self.saved.0.clear();
        }
        self.follower.say(Presence::of(role.label(), list));
    }

    fn is_saved(&self) -> bool {
        self.saved.1 && self.saved.0 == self.text
    }

    /// Writes the list in force to the disk, which may take its time: not on this thread, and one after another.
    fn save(&mut self) {
        if self.saving.is_none() && self.saved.0 != self.text {
            let (copy, text) = (self.copy.clone(), self.text.clone());
            let written = tokio::task::spawn_blocking(move || copy.write(&text));
            self.saving = Some((self.text.clone(), written));
        }
    }

    fn end_save(&mut self, result: Result<(), String>) {
        let Some((text, _)) = self.saving.take() else { return };
        self.saved = (text, result.is_ok());
        if let Err(e) = result {
            warn!("{e}; without etcd this host could only start with an older list");
        }
    }
}

async fn finished(
    saving: &mut Option<(String, JoinHandle<Result<(), CopyError>>)>,
) -> Result<(), String> {
    match saving {
        Some((_, written)) => written.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string()),
        None => core::future::pending().await,
    }
}
