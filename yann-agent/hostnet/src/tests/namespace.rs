use core::time::Duration;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The backend host: the calling thread's namespace, with a veth `eth0` to [`Far`].
///
/// | | near | far |
/// |---|---|---|
/// | IPv4 | 10.77.0.1/24 | 10.77.0.2, .3 |
/// | IPv6 | fd77::1/64 | fd77::2, ::3 |
pub(super) struct Near {
    pub(super) far: Far,
    folder: PathBuf,
    pub(super) state: PathBuf,
}

/// The router on the other end, in a namespace of its thread's.
pub(super) struct Far {
    jobs: Option<Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct Picture(String);

impl Picture {
    /// But for the order: of tables in the order in which they were first used, say.
    pub(super) fn assert_alike(&self, other: &Self, when: &str) {
        let sorted = |p: &Self| {
            let mut lines: Vec<_> = p.0.lines().collect();
            lines.sort_unstable();
            Self(lines.join("\n"))
        };
        sorted(self).assert_same(&sorted(other), when);
    }

    /// To the byte.
    pub(super) fn assert_same(&self, before: &Self, when: &str) {
        let only = |a: &Self, b: &Self| {
            let lines = a.0.lines().filter(|line| !b.0.contains(line)).map(str::to_owned);
            lines.collect::<Vec<_>>()
        };
        assert!(
            self.0 == before.0,
            "{when}: new {:#?}, gone {:#?}",
            only(self, before),
            only(before, self)
        );
    }
}

/// Runs a test's body in such a pair.
pub(super) fn inside<F: Future<Output = ()>>(body: impl FnOnce(Near) -> F + Send + 'static) {
    let thread = thread::spawn(move || {
        let near = Near::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body(near));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A command in the calling thread's namespace; what it prints.
pub(super) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn sysctl(key: &str) -> String {
    fs::read_to_string(Path::new("/proc/sys").join(key)).unwrap().trim().to_owned()
}

pub(super) fn set_sysctl(key: &str, value: &str) {
    fs::write(Path::new("/proc/sys").join(key), value).unwrap();
}

impl Near {
    fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("jlbt-hostnet-{}-{number}-root", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let far = Far::new();
        let far_id = far.run(|| gettid().as_raw());
        own_namespace();
        run(&format!("ip link add eth0 type veth peer name eth0 netns {far_id}"));
        far.run(|| {
            // It hears what is sent to nobody, in eBPF's place.
            run("ip link set eth0 address 02:4a:4c:42:00:01");
            bring_up(&["10.77.0.2/24", "10.77.0.3/24", "fd77::2/64", "fd77::3/64"]);
        });
        bring_up(&["10.77.0.1/24", "fd77::1/64"]);
        settle();
        run("ip route add default via 10.77.0.2");
        run("ip -6 route add default via fd77::2");
        // Replies must not depend on what we set.
        for vips in ["192.0.2.0/24 via 10.77.0.1", "2001:db8:5::/64 via fd77::1"] {
            far.run(move || run(&format!("ip route add {vips}")));
        }
        Self { far, state: folder.join("state.json"), folder }
    }

    /// Everything that could be restored or not, as `ip` and `/proc/sys` show it.
    pub(super) fn picture(&self) -> Picture {
        settle();
        let mut picture = String::new();
        for what in [
            "-d addr",
            "neigh show nud permanent",
            "rule",
            "-6 rule",
            "route show table all",
            "-6 route show table all",
        ] {
            writeln!(picture, "{what}\n{}", run(&format!("ip -j -p {what}"))).unwrap();
        }
        for family in ["ipv4", "ipv6"] {
            read_all(&mut picture, &Path::new("/proc/sys/net").join(family).join("conf"));
        }
        Picture(picture)
    }

    /// Whether nothing of the state is left.
    pub(super) fn is_clean(&self) -> bool {
        fs::read_dir(&self.folder).unwrap().count() == 0
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Far {
    fn new() -> Self {
        let (jobs, queue) = channel::<Box<dyn FnOnce() + Send>>();
        let thread = thread::spawn(move || {
            own_namespace();
            for job in queue {
                job();
            }
        });
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs something there and waits for it.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = channel();
        let job = Box::new(move || answer.send(job()).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().unwrap()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // One that panicked has said so already.
        let _ = self.thread.take().unwrap().join();
    }
}

fn own_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    // A new namespace may inherit the machine's settings.
    for (key, value) in
        [("rp_filter", "0"), ("arp_ignore", "0"), ("arp_announce", "0"), ("forwarding", "0")]
    {
        for scope in ["all", "default"] {
            set_sysctl(&format!("net/ipv4/conf/{scope}/{key}"), value);
        }
    }
    for scope in ["all", "default"] {
        for key in ["disable_ipv6", "accept_dad", "accept_ra"] {
            set_sysctl(&format!("net/ipv6/conf/{scope}/{key}"), "0");
        }
    }
}

fn bring_up(addresses: &[&str]) {
    run("ip link set lo up");
    for address in addresses {
        run(&format!("ip addr add {address} dev eth0 nodad"));
    }
    run("ip link set eth0 up");
}

/// Waits until the kernel is done with what bringing up a link starts.
fn settle() {
    for _ in 0..200 {
        let [all, eth0] = ["ip addr", "ip addr show dev eth0"].map(run);
        let local = run("ip -6 route show table local");
        let is_up =
            !eth0.contains(",UP") || eth0.contains("state UP") && local.contains("local fe80:");
        if is_up && !all.contains("tentative") {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("eth0 does not come up: {}", run("ip addr"));
}

fn read_all(picture: &mut String, folder: &Path) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            read_all(picture, &entry);
        } else if let Ok(value) = fs::read_to_string(&entry) {
            writeln!(picture, "{} = {}", entry.display(), value.trim()).unwrap();
        }
    }
}
