//! Another process, which ends when its standard input does: also when we are killed.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use crate::PortsError;

/// Lines that wait to be read; the process waits when there are more.
const LINES: usize = 256;
/// Lines that an error shows.
const SHOWN: usize = 8;
/// How often it is looked whether somebody interrupts.
const LOOK: Duration = Duration::from_millis(100);
/// How long a process may take to end.
const ENDS: Duration = Duration::from_secs(10);

pub(crate) struct Program<'a> {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What it has said on either of its outputs.
    said: Vec<String>,
    interrupted: &'a AtomicBool,
}

impl<'a> Program<'a> {
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        interrupted: &'a AtomicBool,
    ) -> Result<Self, PortsError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| PortsError::Program {
            program: name,
            why: format!("cannot start {}: {error}", command.get_program().to_string_lossy()),
            said: String::new(),
        })?;
        let (tell, lines) = sync_channel(LINES);
        let stdin = child.stdin.take();
        if let Some(out) = child.stdout.take() {
            read(out, tell.clone());
        }
        if let Some(out) = child.stderr.take() {
            read(out, tell);
        }
        Ok(Self { name, child, stdin, lines, said: Vec::new(), interrupted })
    }

    /// Waits until it says a line that begins so, and gives that.
    pub(crate) fn wait_for(
        &mut self,
        beginning: &str,
        patience: Duration,
    ) -> Result<String, PortsError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.starts_with(beginning) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.failed("ended early")),
                Err(RecvTimeoutError::Timeout) => {
                    if self.interrupted.load(Ordering::Relaxed) {
                        return Err(PortsError::Interrupted);
                    }
                    if Instant::now() >= deadline {
                        return Err(self.failed("takes too long"));
                    }
                }
            }
        }
    }

    /// Tells it an empty line.
    pub(crate) fn tell(&mut self) -> Result<(), PortsError> {
        match &mut self.stdin {
            Some(stdin) => Ok(stdin.write_all(b"\n")?),
            None => Ok(()),
        }
    }

    /// Ends it, and gives all that it has said.
    pub(crate) fn stop(mut self) -> Result<Vec<String>, PortsError> {
        drop(self.stdin.take());
        let deadline = Instant::now() + ENDS;
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    return Err(self.failed("does not end"));
                }
                Err(RecvTimeoutError::Timeout) => (),
            }
        }
        let status = self.child.wait()?;
        if status.success() {
            Ok(core::mem::take(&mut self.said))
        } else {
            Err(self.failed(&status.to_string()))
        }
    }

    fn failed(&mut self, why: &str) -> PortsError {
        if self.interrupted.load(Ordering::Relaxed) {
            // Ctrl-C reaches all processes of the terminal.
            return PortsError::Interrupted;
        }
        self.said.extend(self.lines.try_iter());
        let shown = self.said.len().saturating_sub(SHOWN);
        let said = self.said[shown..].iter().map(|line| format!("\n  {line}")).collect();
        PortsError::Program { program: self.name, why: why.to_owned(), said }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines until the other end closes. The thread ends then, or when nobody listens any more.
fn read(out: impl Read + Send + 'static, tell: SyncSender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_is_waited_for_and_ends_with_its_input() {
        let interrupted = AtomicBool::new(false);
        let script = "echo ready; cat >/dev/null; echo done >&2";
        let mut program = Program::start("test", shell(script), &interrupted).unwrap();
        assert_eq!(program.wait_for("rea", ENDS).unwrap(), "ready");
        assert_eq!(program.stop().unwrap(), ["ready", "done"]);
    }

    #[test]
    fn one_that_fails_says_why() {
        let interrupted = AtomicBool::new(false);
        let mut program = Program::start("test", shell("echo no luck"), &interrupted).unwrap();
        let error = program.wait_for("ready", ENDS).unwrap_err().to_string();
        assert!(error.contains("ended early") && error.contains("no luck"), "{error}");
    }

    #[test]
    fn an_interruption_ends_the_wait() {
        let interrupted = AtomicBool::new(true);
        let mut program = Program::start("test", shell("sleep 60"), &interrupted).unwrap();
        assert!(matches!(program.wait_for("ready", ENDS), Err(PortsError::Interrupted)));
    }
}
