//! Hosts: network namespaces without a name.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

use crate::Error;

/// A network namespace; it lasts as long as this value and what runs there.
#[derive(Debug)]
pub(crate) struct Host(File);

impl Host {
    pub(crate) fn new() -> Result<Self, Error> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(Error::Namespace)?;
            File::open("/proc/thread-self/ns/net").map_err(Error::System)
        });
        let host = Self(join(made)?);
        host.shell("ip link set lo up")?;
        Ok(host)
    }

    /// Calls a function in it: on a thread of its own, so that the caller stays where it is.
    pub(crate) fn within<T: Send>(
        &self,
        call: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(Error::Namespace)?;
                call()
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A shell script, which stops at the first command that fails.
    pub(crate) fn shell(&self, script: &str) -> Result<(), Error> {
        self.within(|| output(Command::new("sh").args(["-euc", script])).map(drop))
    }

    /// How others name it, as long as it is there.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

fn join<T>(thread: std::thread::JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs a program to its end; what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output();
    let done = done.map_err(|source| Error::NotRun { program: program.clone(), source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() {
        Ok(text(&done.stdout))
    } else {
        // Some say it on the one, some on the other.
        let why = [text(&done.stderr), text(&done.stdout)].join("\n");
        Err(Error::Failed { program, why })
    }
}
