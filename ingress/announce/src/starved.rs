//! Whether a process is held up: it wants to run, and the kernel gives it no CPU. Then it does not hang, and moving its
//! flows would cost more than waiting. proc_pid_stat(5) has a thread's state, proc_pid_schedstat(5) its time on a CPU.

use core::time::Duration;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;
use std::{fs, io};

/// Looks closer to each other than this say nothing: a thread that has just woken has had no CPU yet.
const APART: Duration = Duration::from_millis(10);

/// The threads of a process, looked at again and again.
#[derive(Debug)]
pub(crate) struct Threads {
    tasks: PathBuf,
    former: Option<Look>,
    were_starved: bool,
}

/// The threads that wanted to run at a moment, with the time that each has had on a CPU since it began.
#[derive(Debug)]
struct Look {
    at: Instant,
    runnable: BTreeMap<u32, Duration>,
}

impl Threads {
    pub(crate) fn of(pid: u32) -> Self {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        Self { tasks, former: None, were_starved: true }
    }

    /// Whether a thread has wanted to run since the last look, and got the CPU for less than half of that time. Says yes
    /// where the last look was no more than `lately` ago no longer: who does not know does not blame.
    pub(crate) fn are_starved(&mut self, now: Instant, lately: Duration) -> bool {
        let age = self.former.as_ref().map(|former| now.duration_since(former.at));
        if age.is_some_and(|age| age < APART) {
            return self.were_starved;
        }
        let look = Look { at: now, runnable: self.runnable().unwrap_or_default() };
        let former = self.former.as_ref().filter(|_| age.is_some_and(|age| age <= lately));
        self.were_starved = former.is_none_or(|former| starved(former, &look));
        self.former = Some(look);
        self.were_starved
    }

    fn runnable(&self) -> io::Result<BTreeMap<u32, Duration>> {
        let mut runnable = BTreeMap::new();
        for task in fs::read_dir(&self.tasks)? {
            let task = task?;
            // One that has ended meanwhile wants nothing.
            let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
            let Ok(times) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            if let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok())
                && state(&stat) == Some("R")
                && let Some(on_cpu) = on_cpu(&times)
            {
                runnable.insert(id, on_cpu);
            }
        }
        Ok(runnable)
    }
}

fn starved(former: &Look, look: &Look) -> bool {
    let passed = look.at.duration_since(former.at);
    look.runnable.iter().any(|(id, on_cpu)| {
        former.runnable.get(id).is_some_and(|before| on_cpu.saturating_sub(*before) * 2 < passed)
    })
}

/// `4711 (a name (with brackets)) R …`
fn state(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ")?.1.split(' ').next()
}

/// Nanoseconds on a CPU, nanoseconds of waiting for one, how often.
fn on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn looks(first: &[(u32, u32)], second: &[(u32, u32)]) -> (Look, Look) {
        let at = Instant::now();
        let runnable = |all: &[(u32, u32)]| all.iter().map(|&(id, ms)| (id, MS * ms)).collect();
        (
            Look { at, runnable: runnable(first) },
            Look { at: at + 25 * MS, runnable: runnable(second) },
        )
    }

    #[test]
    fn a_thread_that_waits_for_the_cpu_is_starved_and_one_that_has_it_or_sleeps_is_not() {
        let is_starved = |(former, look): (Look, Look)| starved(&former, &look);
        assert!(is_starved(looks(&[(7, 100)], &[(7, 100)])));
        assert!(is_starved(looks(&[(7, 100), (8, 5)], &[(7, 112), (8, 30)])), "7 got 12 of 25 ms");
        assert!(!is_starved(looks(&[(7, 100)], &[(7, 113)])), "it loops");
        assert!(!is_starved(looks(&[(7, 100)], &[])), "it sleeps or is stopped");
        assert!(!is_starved(looks(&[], &[(7, 100)])), "it has just woken");
    }

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(state("12 (a) R (b) S) T 1 12"), Some("T"));
        assert_eq!(on_cpu("25000000 3 9\n"), Some(25 * MS));
        assert_eq!((state(""), on_cpu("")), (None, None));
    }

    /// A process, ended with this.
    struct Process(Child);

    impl Process {
        /// Loops on the first CPU that we may use.
        fn looping(prefix: &[&str]) -> Self {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let allowed =
                status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
            let cpu: String = allowed.trim().chars().take_while(char::is_ascii_digit).collect();
            let mut command = Command::new("taskset");
            command.args(["-c", &cpu]).args(prefix).args(["sh", "-c", "while :; do :; done"]);
            Self(command.spawn().unwrap())
        }

        fn until_starved(threads: &mut Threads, wanted: bool) {
            let begin = Instant::now();
            while threads.are_starved(Instant::now(), Duration::MAX) != wanted {
                assert!(begin.elapsed() < Duration::from_secs(10), "not {wanted} for long");
                std::thread::sleep(50 * MS);
            }
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_kernel_tells_who_is_kept_from_the_cpu_from_who_is_stopped() {
        let _hog = Process::looping(&[]);
        // Runs when nobody else wants to.
        let idle = Process::looping(&["chrt", "--idle", "0"]);
        let mut threads = Threads::of(idle.0.id());
        assert!(threads.are_starved(Instant::now(), Duration::MAX), "unknown yet");
        std::thread::sleep(50 * MS);
        Process::until_starved(&mut threads, true);
        let pid = idle.0.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
        // It must run once more to stop.
        Process::until_starved(&mut threads, false);
    }
}
