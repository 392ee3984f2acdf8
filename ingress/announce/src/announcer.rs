//! The daemon's side: starts the watchdog, and sends it beats and the VIPs that are wanted.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc as tasks;
use tokio::time::timeout;
use tracing::warn;

use crate::judge::BEAT;
use crate::message::{News, Order};

/// The program, beside that of the daemon.
const WATCHDOG: &str = "jlb-vip-watchdog";
/// One that cannot be started, or ends at once, is started again no sooner.
const RESTART: Duration = Duration::from_secs(1);
/// A watchdog that takes nothing for so long hangs itself.
const DEAF: Duration = Duration::from_secs(1);
/// Orders and news that wait.
const QUEUE: usize = 16;

/// Says which workers have turned within the time since the last call: bit by bit, worker 0 first.
pub type Beats = Box<dyn FnMut(Duration) -> u16 + Send>;

/// Why nothing can be announced.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The program does not start.
    #[error("cannot start {}", .program.display())]
    Watchdog {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread, or the way to it.
    #[error("cannot announce VIPs")]
    System(#[source] io::Error),
}

/// Announces VIPs through a watchdog, which it starts, and starts again when it ends. The watchdog withdraws when this
/// value is dropped, or its process ends.
#[derive(Debug)]
pub struct Announcer {
    orders: SyncSender<Wish>,
    news: tasks::Receiver<News>,
    announced: usize,
}

enum Wish {
    Watch(u8, Beats),
    Vips(BTreeSet<IpAddr>),
}

impl Announcer {
    /// Starts the watchdog, which empties the table. To be called before DPDK opens sockets, which a child inherits.
    ///
    /// # Errors
    /// [`AnnounceError`]
    pub fn start(table: u32) -> Result<Self, AnnounceError> {
        let this = std::env::current_exe().map_err(AnnounceError::System)?;
        let program = this.with_file_name(WATCHDOG);
        let (orders, wishes) = mpsc::sync_channel(QUEUE);
        let (tell, news) = tasks::channel(QUEUE);
        let line = Line::open(&program, table, tell.clone())
            .map_err(|source| AnnounceError::Watchdog { program: program.clone(), source })?;
        let mut speaker = Speaker {
            program,
            table,
            tell,
            line: Some(line),
            opened: Instant::now(),
            vips: BTreeSet::new(),
            watched: None,
        };
        thread::Builder::new()
            .name("announcer".to_owned())
            .spawn(move || speaker.speak(&wishes))
            .map_err(AnnounceError::System)?;
        Ok(Self { orders, news, announced: 0 })
    }

    /// From now on so many workers are watched. Before, nothing is announced.
    pub fn watch(&self, workers: u8, beats: Beats) {
        // The other end lives as long as this one.
        let _ = self.orders.send(Wish::Watch(workers, beats));
    }

    /// Announces these VIPs and no others.
    pub fn announce(&self, vips: BTreeSet<IpAddr>) {
        let _ = self.orders.send(Wish::Vips(vips));
    }

    /// Waits for what the watchdog has done. Loses nothing when dropped half way.
    pub async fn news(&mut self) -> News {
        let Some(news) = self.news.recv().await else {
            // The thread lives as long as this, so this is the runtime's end.
            return core::future::pending().await;
        };
        match &news {
            News::Announced(n) => self.announced = *n,
            News::Hangs(_) | News::Gone => self.announced = 0,
            News::Failed(_) => {}
        }
        news
    }

    /// How many VIPs are announced, as far as the watchdog has said.
    #[must_use]
    pub const fn announced(&self) -> usize {
        self.announced
    }

    /// Withdraws everything, and waits until it is done, at most so long; whether it is.
    pub async fn withdraw(&mut self, at_most: Duration) -> bool {
        self.announce(BTreeSet::new());
        let withdrawn = async {
            while self.announced > 0 {
                self.news().await;
            }
        };
        timeout(at_most, withdrawn).await.is_ok()
    }
}

/// The thread. Not the daemon's control thread, whose delays are not the workers'.
struct Speaker {
    program: PathBuf,
    table: u32,
    tell: tasks::Sender<News>,
    /// `None`: the watchdog has ended, and is not started again yet.
    line: Option<Line>,
    opened: Instant,
    vips: BTreeSet<IpAddr>,
    watched: Option<(u8, Beats)>,
}

impl Speaker {
    /// Until the [`Announcer`] is dropped.
    fn speak(&mut self, wishes: &Receiver<Wish>) {
        let mut last = Instant::now();
        let mut next = last + BEAT;
        loop {
            match wishes.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Wish::Watch(workers, beats)) => {
                    self.watched = Some((workers, beats));
                    self.say(&Order::Workers(workers));
                }
                Ok(Wish::Vips(vips)) => {
                    self.vips = vips;
                    self.say(&Order::Vips(self.vips.clone()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    self.beat(now.duration_since(last));
                    // From now: after a stall no beats are made up for.
                    (last, next) = (now, now + BEAT);
                    self.look_after_line(now);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn beat(&mut self, since_last: Duration) {
        if let Some((_, beats)) = &mut self.watched {
            let turned = beats(since_last);
            self.say(&Order::Beat(turned));
        }
    }

    fn say(&mut self, what: &impl Display) {
        let Some(line) = &mut self.line else { return };
        if let Err(e) = line.socket.write_all(format!("{what}\n").as_bytes()) {
            warn!("the watchdog of the VIPs does not listen: {e}");
            self.hang_up();
        }
    }

    /// Ends the watchdog. Killed rather than asked: its successor begins with an empty table.
    fn hang_up(&mut self) {
        if let Some(mut line) = self.line.take() {
            // Both fail only where it has ended already.
            let _ = line.child.kill();
            let _ = line.child.wait();
        }
    }

    fn look_after_line(&mut self, now: Instant) {
        if let Some(line) = &mut self.line {
            if !matches!(line.child.try_wait(), Ok(None)) {
                warn!("the watchdog of the VIPs has ended; another one is started");
                self.line = None;
            }
        } else if now.duration_since(self.opened) >= RESTART {
            self.opened = now;
            match Line::open(&self.program, self.table, self.tell.clone()) {
                Ok(line) => {
                    self.line = Some(line);
                    let workers = self.watched.as_ref().map(|(workers, _)| *workers);
                    workers.into_iter().for_each(|n| self.say(&Order::Workers(n)));
                    self.say(&Order::Vips(self.vips.clone()));
                }
                Err(e) => warn!("cannot start {}: {e}", self.program.display()),
            }
        }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        // The socket's end tells the watchdog, which withdraws and ends. Shut, since the listener has a copy of it.
        if let Some(mut line) = self.line.take()
            && line.socket.shutdown(Shutdown::Write).is_ok()
        {
            let _ = line.child.wait();
        }
    }
}

/// A watchdog that runs, and the way to it.
struct Line {
    socket: UnixStream,
    child: Child,
}

impl Line {
    fn open(program: &PathBuf, table: u32, tell: tasks::Sender<News>) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_write_timeout(Some(DEAF))?;
        let mut command = Command::new(program);
        command.args(["watch", &table.to_string()]).stdin(OwnedFd::from(theirs));
        let child = command.stdout(Stdio::null()).spawn()?;
        let listener = BufReader::new(socket.try_clone()?);
        thread::Builder::new().name("announcer-news".to_owned()).spawn(move || {
            for line in listener.lines().map_while(Result::ok) {
                let Some(news) = News::parse(&line) else { continue };
                if tell.blocking_send(news).is_err() {
                    return;
                }
            }
            let _ = tell.blocking_send(News::Gone);
        })?;
        Ok(Self { socket, child })
    }
}
