//! A command, without a shell, in a process group of its own: what it has started ends with it when it takes too long.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::timeout;

use super::probe::Failure;

pub(crate) async fn run(command: &[String], at_most: Duration) -> Result<(), Failure> {
    let program = command.first().map_or("", String::as_str);
    let failed = |source| Failure::Run { command: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(command.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let group = child.id().map(|id| Pid::from_raw(id as i32));
    if let Ok(status) = timeout(at_most, child.wait()).await {
        let status = status.map_err(failed)?;
        return if status.success() { Ok(()) } else { Err(Failure::Exit(status)) };
    }
    if let Some(group) = group {
        // It has not been waited for, so the number is still its own.
        let _ = killpg(group, Signal::SIGKILL);
    }
    child.wait().await.map_err(failed)?;
    Err(Failure::Timeout(at_most))
}
