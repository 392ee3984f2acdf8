use core::hash::{Hash as _, Hasher as _};
use core::time::Duration;
use std::hash::DefaultHasher;
use std::sync::Arc;

use etcd_client::{Event, EventType, WatchResponse};
use jlb_config::{Etcd, EtcdSecrets, Mistakes};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use crate::connection::{Beat, Connection, Names};
use crate::{Content, Presence, Present, StoreError, Stored};

/// A member that says nothing for so long is marked absent. etcd's least is 2 s.
pub const PRESENCE_TTL: Duration = Duration::from_secs(4);
/// How often a member says that it is there.
const BEAT: Duration = Duration::from_millis(500);
/// A server that has not answered the beat for so long hangs. Another one is found before the lease runs out.
const HANGS: Duration = Duration::from_millis(1250);
/// After a round over all servers in vain; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No longer than this, so that etcd is found again soon after it is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A session that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(1);
/// How long the end of a daemon may wait for etcd.
const LEAVE: Duration = Duration::from_millis(300);

/// What is known of the stored list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum List {
    /// Not yet asked.
    #[default]
    Unknown,
    /// There is none.
    Nothing,
    /// This one.
    Stored(Arc<Stored>),
}

impl From<Option<Stored>> for List {
    fn from(stored: Option<Stored>) -> Self {
        stored.map_or(Self::Nothing, |s| Self::Stored(Arc::new(s)))
    }
}

/// What a follower has seen last. Without a connection it is what it was before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether etcd answers.
    pub is_connected: bool,
    /// The stored list.
    pub list: List,
    /// Who is there.
    pub present: Arc<Present>,
}

/// Follows etcd from a task of its own, over all losses of connection, and says there that this member is present.
#[derive(Debug)]
pub struct Follower {
    seen: watch::Receiver<Seen>,
    presence: watch::Sender<Option<Presence>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts it on the current runtime. `secrets` is asked before each connection, since certificates and passwords
    /// are renewed while a daemon runs.
    pub fn start(
        config: Etcd,
        secrets: impl FnMut() -> Result<EtcdSecrets, Mistakes> + Send + 'static,
        name: &str,
        presence: Presence,
    ) -> Self {
        let (seen, seen_rx) = watch::channel(Seen::default());
        let (presence, presence_rx) = watch::channel(Some(presence));
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let following = Following {
            names: Names::new(&config.prefix),
            config,
            name: name.to_owned(),
            seen,
            presence: presence_rx,
            lease: None,
            spread: hasher.finish(),
            told: Told::default(),
        };
        let task = tokio::spawn(following.run(secrets));
        Self { seen: seen_rx, presence, task }
    }

    /// Waits until something else is seen, and gives it. Loses nothing when dropped half way.
    pub async fn changed(&mut self) -> Seen {
        if self.seen.changed().await.is_err() {
            // The task never ends before `leave`.
            core::future::pending::<()>().await;
        }
        self.seen.borrow_and_update().clone()
    }

    /// What was seen last.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// From now on this is what others see of this member.
    pub fn say(&self, presence: Presence) {
        self.presence.send_if_modified(|old| {
            let is_new = old.as_ref() != Some(&presence);
            *old = Some(presence);
            is_new
        });
    }

    /// Marks this member absent at once, and ends.
    pub async fn leave(mut self) {
        self.presence.send_replace(None);
        // Without etcd the lease runs out by itself.
        let _ = timeout(LEAVE, &mut self.task).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a session ended.
enum End {
    /// As the daemon wanted.
    Left,
    /// Otherwise.
    Lost(StoreError),
}

impl From<StoreError> for End {
    fn from(e: StoreError) -> Self {
        Self::Lost(e)
    }
}

struct Following {
    config: Etcd,
    names: Names,
    name: String,
    seen: watch::Sender<Seen>,
    presence: watch::Receiver<Option<Presence>>,
    lease: Option<i64>,
    /// The members' own: they begin with different servers, and do not come back all at once.
    spread: u64,
    told: Told,
}

/// What was logged since etcd answered last, so that it is not said again every 2 s.
#[derive(Default)]
struct Told {
    is_passing: bool,
    is_final: bool,
}

impl Following {
    async fn run(mut self, mut secrets: impl FnMut() -> Result<EtcdSecrets, Mistakes>) {
        let servers = self.config.endpoints.clone();
        let mut pause = FIRST_PAUSE;
        let mut next = (self.spread % servers.len().max(1) as u64) as usize;
        loop {
            for _ in 0..servers.len() {
                let Some(endpoint) = servers.get(next) else { break };
                next = (next + 1) % servers.len();
                let begin = Instant::now();
                let files = secrets().map_err(StoreError::from);
                match self.session(endpoint, files).await {
                    Err(End::Left) => return,
                    Err(End::Lost(e)) => self.tell_loss(&e),
                    Ok(never) => match never {},
                }
                if begin.elapsed() >= GOOD {
                    pause = FIRST_PAUSE;
                }
            }
            let jitter = pause.mul_f64((self.spread >> 8 & 0xff) as f64 / 512.0);
            tokio::select! {
                () = sleep(pause + jitter) => {}
                () = self.wants_to_leave() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection, for as long as it lasts.
    async fn session(
        &mut self,
        endpoint: &str,
        files: Result<EtcdSecrets, StoreError>,
    ) -> Result<core::convert::Infallible, End> {
        let mut c = Connection::open(endpoint, &self.config, &files?).await?;
        let (Content { list, present }, revision) = c.read().await?;
        let mut watch = c.watch(revision + 1).await?;
        // The list counts even if we may not write that we are there.
        let (list, present) = (list.into(), Arc::new(present));
        self.seen.send_modify(|seen| *seen = Seen { list, present, ..seen.clone() });

        let mut beat = c.begin_beat(self.lease, PRESENCE_TTL).await?;
        self.lease = Some(beat.keeper.id());
        self.say(&mut c, &beat).await?;
        self.seen.send_modify(|seen| seen.is_connected = true);
        self.told = Told::default();
        info!("etcd answers at {endpoint}");
        let mut ticks = interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answered = Instant::now();
        loop {
            tokio::select! {
                // Answers first: whoever was not scheduled for a while has not been left without one.
                biased;
                message = watch.message() => {
                    let message = message.map_err(|e| c.error(&e))?;
                    let message = message.ok_or_else(|| c.failed("the watch ended"))?;
                    if message.canceled() {
                        return Err(c.failed(format!("the watch ended: {}", message.cancel_reason())).into());
                    }
                    if self.take(&c, &message)? {
                        // Somebody deleted it, or an older process of ours left.
                        self.say(&mut c, &beat).await?;
                    }
                }
                answer = beat.answers.message() => {
                    let answer = answer.map_err(|e| c.error(&e))?;
                    match answer {
                        Some(answer) if answer.ttl() > 0 => answered = Instant::now(),
                        Some(_) => {
                            beat = c.begin_beat(None, PRESENCE_TTL).await?;
                            self.lease = Some(beat.keeper.id());
                            self.say(&mut c, &beat).await?;
                        }
                        None => return Err(c.failed("the lease's stream ended").into()),
                    }
                }
                changed = self.presence.changed() => {
                    // A follower that was dropped is aborted, too.
                    if changed.is_err() {
                        return Err(End::Left);
                    }
                    self.say(&mut c, &beat).await?;
                }
                _ = ticks.tick() => {
                    if answered.elapsed() > HANGS {
                        let endpoint = endpoint.to_owned();
                        return Err(StoreError::Silent { endpoint, after: HANGS }.into());
                    }
                    beat.keeper.keep_alive().await.map_err(|e| c.error(&e))?;
                }
            }
        }
    }

    /// Says what the daemon wants said, or that it is gone.
    async fn say(&mut self, c: &mut Connection, beat: &Beat) -> Result<(), End> {
        let presence = self.presence.borrow_and_update().clone();
        let lease = beat.keeper.id();
        match presence {
            Some(presence) => Ok(c.say(&self.name, &presence, lease).await?),
            None => {
                c.revoke(lease).await?;
                Err(End::Left)
            }
        }
    }

    /// Takes what changed. True: this member itself is missing.
    fn take(&self, c: &Connection, message: &WatchResponse) -> Result<bool, StoreError> {
        let mut list = None;
        let mut present: Option<Present> = None;
        let mut is_missing = false;
        for event in message.events() {
            let Some((kv, key)) = keyed(event) else { continue };
            let is_there = event.event_type() == EventType::Put;
            if key == self.names.list {
                let stored = if is_there { Some(c.stored(kv)?) } else { None };
                list = Some(List::from(stored));
            } else if let Some(name) = self.names.member(key) {
                let present = present.get_or_insert_with(|| (*self.seen.borrow().present).clone());
                if is_there {
                    present.insert(name.to_owned(), Presence::from_json(kv.value()));
                } else {
                    present.remove(name);
                }
                if name == self.name {
                    is_missing = !is_there;
                }
            }
        }
        self.seen.send_if_modified(|seen| {
            let before = seen.clone();
            seen.list = list.unwrap_or_else(|| seen.list.clone());
            seen.present = present.map_or_else(|| Arc::clone(&seen.present), Arc::new);
            *seen != before
        });
        Ok(is_missing)
    }

    fn tell_loss(&mut self, e: &StoreError) {
        let was_connected =
            self.seen.send_if_modified(|seen| core::mem::take(&mut seen.is_connected));
        let told = if e.is_final() { &mut self.told.is_final } else { &mut self.told.is_passing };
        if was_connected {
            warn!("lost etcd: {e}; the list in force stays");
        } else if !*told {
            warn!("no etcd: {e}; the list in force stays");
        }
        *told = true;
    }

    /// Waits until the daemon ends.
    async fn wants_to_leave(&mut self) {
        let _ = self.presence.wait_for(Option::is_none).await;
    }
}

fn keyed(event: &Event) -> Option<(&etcd_client::KeyValue, &str)> {
    let kv = event.kv()?;
    Some((kv, core::str::from_utf8(kv.key()).ok()?))
}
