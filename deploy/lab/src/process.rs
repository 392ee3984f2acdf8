//! Processes that a lab has started, known by their id *and* start time, so that no other is ever signalled.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

/// After SIGTERM an ingress forwards for 5 s at most, and its workers take 2 s at most to end. What takes longer is killed.
const TERM_PATIENCE: Duration = Duration::from_secs(8);
/// Longest that a killed process may still be seen.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A process of a lab; it may have ended since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Its host.
    pub node: String,
    /// Its name in the lab: `nginx`, `udp-echo`, …
    pub what: String,
    /// Process id.
    pub pid: i32,
    /// Clock ticks after boot at which it started.
    #[serde(skip)]
    pub start: u64,
}

impl Running {
    /// A line `PID START NODE WHAT`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let pid = words.next()?.parse().ok().filter(|&pid| pid > 1)?;
        let start = words.next()?.parse().ok()?;
        let node = words.next()?.to_owned();
        let what = words.next()?.to_owned();
        words.next().is_none().then_some(Self { node, what, pid, start })
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        is_alive(self.pid, self.start)
    }

    /// Whether SIGSTOP holds it.
    pub fn is_stopped(&self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start && state == 'T')
    }

    /// CPU time that it has had, in ticks of 10 ms (USER_HZ is 100 on every Linux that Debian builds).
    pub fn cpu_ticks(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // utime and stime, proc_pid_stat(5) fields 14 and 15.
        let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(11);
        let (user, system): (u64, u64) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        self.is_alive().then_some(user + system)
    }

    /// Sends a signal, unless the process has ended; whether it was there.
    pub fn signal(&self, signal: Signal) -> bool {
        self.is_alive() && kill(Pid::from_raw(self.pid), signal) != Err(Errno::ESRCH)
    }

    /// Waits until it has ended, at most so long; whether it has.
    pub fn wait(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// The process with this id, whoever started it.
    pub(crate) fn with_pid(pid: i32, node: &str, what: &str) -> Option<Self> {
        let (_, start) = stat(pid)?;
        Some(Self { node: node.to_owned(), what: what.to_owned(), pid, start })
    }
}

/// Ends processes: SIGTERM, and SIGKILL for those that do not go in time. Returns those which are still there.
pub(crate) fn end(processes: &[Running]) -> Vec<Running> {
    for process in processes {
        if process.signal(Signal::SIGTERM) {
            // A stopped process takes its SIGTERM when it goes on.
            process.signal(Signal::SIGCONT);
        }
    }
    wait_all(processes, TERM_PATIENCE);
    for process in processes {
        process.signal(Signal::SIGKILL);
    }
    wait_all(processes, KILL_PATIENCE);
    processes.iter().filter(|process| process.is_alive()).cloned().collect()
}

fn wait_all(processes: &[Running], at_most: Duration) {
    let deadline = Instant::now() + at_most;
    for process in processes {
        process.wait(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Whether the process that started then is still there. One that has ended and waits for its parent (a zombie) is not.
pub(crate) fn is_alive(pid: i32, start: u64) -> bool {
    stat(pid).is_some_and(|(state, started)| started == start && !matches!(state, 'Z' | 'X'))
}

/// This process and its start time.
pub(crate) fn myself() -> Option<(i32, u64)> {
    let pid = Pid::this().as_raw();
    stat(pid).map(|(_, start)| (pid, start))
}

/// State and start time, proc_pid_stat(5) fields 3 and 22.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold blanks and brackets.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_by_id_and_start_time() {
        let (pid, start) = myself().unwrap();
        assert!(is_alive(pid, start));
        assert!(!is_alive(pid, start + 1));
    }

    #[test]
    fn a_line_reads_back_and_a_broken_one_does_not() {
        let running = Running::parse("41 77 backend-1 nginx").unwrap();
        assert_eq!(
            (running.pid, running.start, running.node.as_str(), running.what.as_str()),
            (41, 77, "backend-1", "nginx")
        );
        for line in [
            "",
            "41",
            "41 77 backend-1",
            "41 77 backend-1 nginx more",
            "0 77 a b",
            "1 77 a b",
            "-5 77 a b",
            "x 77 a b",
        ] {
            assert_eq!(Running::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_stopped_process_and_one_that_ignores_term_are_ended() {
        let mut stopped = Command::new("sleep").arg("60").spawn().unwrap();
        let mut deaf = Command::new("sh")
            .args(["-c", "trap '' TERM; while :; do sleep 0.1; done"])
            .spawn()
            .unwrap();
        let running: Vec<_> = [&stopped, &deaf]
            .map(|child| Running::with_pid(child.id().cast_signed(), "here", "sleep").unwrap())
            .to_vec();
        assert!(running[0].signal(Signal::SIGSTOP));
        // Let the shell set its trap.
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(end(&running), []);
        assert!(!running[0].signal(Signal::SIGTERM));
        stopped.wait().unwrap();
        deaf.wait().unwrap();
    }
}
