//! A command, without a shell, in a process group of its own: what it has started ends with it.
//!
//! It is started and waited for in a thread of its own. Until the new program is loaded the starting thread stands still, which
//! a slow disk or a lost NFS server may make minutes: that must not be the thread that says that the daemon is there. It
//! is none of the runtime's either, whose end would wait for it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::{Mutex as Lock, oneshot};
use tokio::time::timeout;

use super::probe::Failure;

/// Of a check: held until its command was started, has ended and was waited for. So a check has one thread and one command at most.
pub(crate) type Turn = Arc<Lock<()>>;

/// Runs a command for so long at most, after it has waited as long for the one before.
pub(crate) async fn run(command: &[String], turn: &Turn, at_most: Duration) -> Result<(), Failure> {
    let turn = Arc::clone(turn).lock_owned();
    let turn = timeout(at_most, turn).await.map_err(|_| Failure::Unended(at_most))?;
    let program = command.first().cloned().unwrap_or_default();
    let failed = |source| Failure::Run { command: program.clone(), source };
    // Kills when dropped: when the time is up, and when the check ends meanwhile.
    let group = Abandon(Arc::default());
    let (tell, told) = oneshot::channel();
    let (words, theirs) = (command.to_vec(), Arc::clone(&group.0));
    thread::Builder::new()
        .name("health-exec".to_owned())
        .spawn(move || {
            let ended = execute(&words, &theirs);
            drop(turn);
            // Nobody may be waiting any more.
            let _ = tell.send(ended);
        })
        .map_err(failed)?;
    match timeout(at_most, told).await {
        Ok(Ok(Ok(status))) if status.success() => Ok(()),
        Ok(Ok(Ok(status))) => Err(Failure::Exit(status)),
        Ok(Ok(Err(source))) => Err(failed(source)),
        Ok(Err(_)) => Err(failed(io::Error::other("its thread has ended"))),
        Err(_) => Err(Failure::Timeout(at_most)),
    }
}

/// A command's process group, for those who may have to kill it.
#[derive(Clone, Copy, Debug, Default)]
enum Group {
    /// Its number is not known yet.
    #[default]
    Starting,
    /// Not wanted any more when it is known.
    Unwanted,
    Running(Pid),
    /// Its number may be another's.
    Over,
}

fn with<T>(group: &Mutex<Group>, change: impl FnOnce(&mut Group) -> T) -> T {
    change(&mut group.lock().unwrap_or_else(PoisonError::into_inner))
}

fn kill(group: Pid) {
    // Nobody may be in it any more.
    let _ = killpg(group, Signal::SIGKILL);
}

struct Abandon(Arc<Mutex<Group>>);

impl Drop for Abandon {
    fn drop(&mut self) {
        with(&self.0, |group| match *group {
            Group::Starting => *group = Group::Unwanted,
            Group::Running(pid) => kill(pid),
            Group::Unwanted | Group::Over => {}
        });
    }
}

/// Starts it and waits for it, however long that takes.
fn execute(command: &[String], group: &Mutex<Group>) -> io::Result<ExitStatus> {
    let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let pid = Pid::from_raw(child.id() as i32);
    with(group, |group| match *group {
        Group::Unwanted => kill(pid),
        Group::Starting | Group::Running(_) | Group::Over => *group = Group::Running(pid),
    });
    // It stays a zombie, so that its number is its own while it may be killed.
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    let waited = loop {
        match waitid(Id::Pid(pid), ended) {
            Err(Errno::EINTR) => {}
            waited => break waited,
        }
    };
    with(group, |group| {
        if waited.is_ok() {
            kill(pid);
        }
        *group = Group::Over;
    });
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unwanted_before_its_number_is_known_is_killed() {
        use std::os::unix::process::ExitStatusExt as _;

        let group = Arc::default();
        drop(Abandon(Arc::clone(&group)));
        let status = execute(&["sleep".to_owned(), "1000".to_owned()], &group).unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    }
}
