//! iperf3: its server, and one transfer.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::host::{Host, output};
use crate::{Error, list};

/// How long its server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs until it is dropped; for one transfer, so that it ends by itself where nobody is left to drop it.
#[derive(Debug)]
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(on: &Host) -> Result<Self, Error> {
        on.within(|| {
            let child = Command::new("iperf3")
                .args(["-s", "-1", "-p", &list::PORT.to_string()])
                // Ctrl-C is for whoever waits for the transfer.
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|source| Error::NotRun { program: "iperf3".to_owned(), source })?;
            let server = Self(child);
            let deadline = Instant::now() + PATIENCE;
            while !listens()? {
                if Instant::now() >= deadline {
                    let why = format!("the server does not listen after {PATIENCE:?}");
                    return Err(Error::Failed { program: "iperf3".to_owned(), why });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(server)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether somebody in this thread's namespace listens on the port: state 0A, in hexadecimal.
fn listens() -> Result<bool, Error> {
    let wanted = format!(":{:04X} ", list::PORT);
    let table = fs::read_to_string("/proc/thread-self/net/tcp6").map_err(Error::System)?;
    Ok(table.lines().any(|line| line.contains(&wanted) && line.contains(" 0A ")))
}

/// One transfer from this host's `address` to the server at `to`, or with `reverse` from there. Gives bits per second, as
/// received.
pub(crate) fn transfer(
    on: &Host,
    address: &str,
    to: &str,
    seconds: u32,
    reverse: bool,
) -> Result<f64, Error> {
    let mut command = Command::new("iperf3");
    command
        .args(["-J", "-c", to, "-B", address, "-p", &list::PORT.to_string()])
        .args(["-t", &seconds.to_string()])
        .args(reverse.then_some("-R"));
    let said = match on.within(|| output(&mut command)) {
        // Ctrl-C reaches it as it reaches us.
        Err(Error::Failed { why, .. }) if why.contains("the client has terminated") => {
            return Err(Error::Interrupted);
        }
        said => said?,
    };
    let failed = || Error::Failed { program: "iperf3".to_owned(), why: said.clone() };
    let said: serde_json::Value = serde_json::from_str(&said).map_err(|_| failed())?;
    said["end"]["sum_received"]["bits_per_second"].as_f64().filter(|b| *b > 0.0).ok_or_else(failed)
}
