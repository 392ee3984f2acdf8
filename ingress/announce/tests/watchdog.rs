//! The watchdog and the kernel's table, in a network namespace. Needs root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jlb_announce::BEAT;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const WATCHDOG: &str = env!("CARGO_BIN_EXE_jlb-vip-watchdog");
const VIPS: &str = "203.0.113.10 2001:db8:beef::10";
/// What the design allows for.
const WITHDRAWN: Duration = Duration::from_millis(100);

struct Host(String);

impl Host {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("jlbt-announce-{}-{number}", std::process::id());
        assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
        Self(name)
    }

    fn watchdog(&self) -> (Daemon, Child) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.0, WATCHDOG, "watch", "177"])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let beats = Arc::new(AtomicU16::new(0));
        let (mut heart, turned) = (ours.try_clone().unwrap(), Arc::clone(&beats));
        thread::spawn(move || {
            while writeln!(heart, "beat {}", turned.load(Ordering::Relaxed)).is_ok() {
                thread::sleep(BEAT);
            }
        });
        let news = BufReader::new(ours.try_clone().unwrap());
        (Daemon { socket: ours, news, beats }, child)
    }

    /// Addresses in the table, of both families.
    fn table(&self) -> Vec<String> {
        let mut all = Vec::new();
        for family in ["-4", "-6"] {
            let output = Command::new("ip")
                .args(["-n", &self.0, family, "route", "show", "table", "177"])
                .output()
                .unwrap();
            // Without any route there is no such table, which `ip` complains about.
            let text = String::from_utf8(output.stdout).unwrap();
            let address = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
            all.extend(text.lines().map(address));
        }
        all
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// What a daemon does.
struct Daemon {
    socket: UnixStream,
    news: BufReader<UnixStream>,
    /// Which workers turn.
    beats: Arc<AtomicU16>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Daemon {
    fn say(&mut self, what: &str) {
        self.socket.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.news.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Two workers that work.
    fn announce(&mut self) {
        self.beats.store(3, Ordering::Relaxed);
        self.say(&format!("workers 2\nvips {VIPS}"));
        while self.hear() != "announced 2" {}
    }
}

fn announced() -> Vec<String> {
    VIPS.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_daemon_that_is_gone_is_withdrawn_at_once_and_its_watchdog_ends() {
    let host = Host::new();
    let (mut daemon, mut watchdog) = host.watchdog();
    daemon.announce();
    assert_eq!(host.table(), announced());
    drop(daemon);
    let begin = Instant::now();
    assert!(watchdog.wait().unwrap().success());
    assert!(begin.elapsed() < WITHDRAWN, "{:?}", begin.elapsed());
    assert!(host.table().is_empty());
}

#[test]
fn one_worker_that_hangs_is_enough() {
    let host = Host::new();
    let (mut daemon, mut watchdog) = host.watchdog();
    daemon.announce();
    let begin = Instant::now();
    daemon.beats.store(1, Ordering::Relaxed);
    assert_eq!(daemon.hear(), "hangs 1");
    assert!(begin.elapsed() < WITHDRAWN, "announced for {:?}", begin.elapsed());
    // Its last beat was no longer ago than one.
    assert!(begin.elapsed() >= BEAT * 2, "too early: {:?}", begin.elapsed());
    assert!(host.table().is_empty());

    // It comes back, and must be well for a second.
    let begin = Instant::now();
    daemon.beats.store(3, Ordering::Relaxed);
    while daemon.hear() != "announced 2" {}
    assert_eq!(host.table(), announced());
    assert!((900..2000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    drop(daemon);
    watchdog.wait().unwrap();
}

#[test]
fn what_a_killed_watchdog_left_is_cleared_and_what_others_left_is_not() {
    let host = Host::new();
    let (mut daemon, mut watchdog) = host.watchdog();
    daemon.announce();
    watchdog.kill().unwrap();
    watchdog.wait().unwrap();
    assert_eq!(host.table(), announced());
    let foreign = ["-n", &host.0, "route", "add", "blackhole", "192.0.2.1", "table", "177"];
    assert!(Command::new("ip").args(foreign).status().unwrap().success());

    let (daemon, mut watchdog) = host.watchdog();
    let begin = Instant::now();
    while host.table() != ["192.0.2.1"] {
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", host.table());
        thread::sleep(BEAT);
    }
    drop(daemon);
    assert!(watchdog.wait().unwrap().success());
    assert_eq!(host.table(), ["192.0.2.1"]);
}

#[test]
fn it_outlives_a_signal_that_ends_its_unit() {
    let host = Host::new();
    let (mut daemon, mut watchdog) = host.watchdog();
    daemon.announce();
    let pid = Pid::from_raw(watchdog.id().cast_signed());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(pid, signal).unwrap();
    }
    daemon.say("vips 203.0.113.10");
    assert_eq!(daemon.hear(), "announced 1");
    assert_eq!(host.table(), ["203.0.113.10"]);
    drop(daemon);
    assert!(watchdog.wait().unwrap().success());
}

#[test]
fn a_table_can_be_cleared_by_hand() {
    let host = Host::new();
    let (mut daemon, mut watchdog) = host.watchdog();
    daemon.announce();
    watchdog.kill().unwrap();
    watchdog.wait().unwrap();
    let clear = ["netns", "exec", &host.0, WATCHDOG, "clear", "177"];
    assert!(Command::new("ip").args(clear).status().unwrap().success());
    assert!(host.table().is_empty());
}
