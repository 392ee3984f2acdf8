//! Hosts: network namespaces without a name. Each lives as long as a process that does nothing, and that ends with ours, also
//! when we are killed.

use core::time::Duration;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use jlb_lab::tools;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::CompareError;

/// How long a process may take to become what it is to be.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process that is killed when this goes, and when our process ends.
#[derive(Debug)]
pub(crate) struct Mortal {
    what: &'static str,
    child: Child,
}

impl Mortal {
    pub(crate) fn start(what: &'static str, words: &[&str]) -> Result<Self, CompareError> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = command.spawn();
        let child = spawned.map_err(|e| CompareError::Process { what, why: e.to_string() })?;
        Ok(Self { what, child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error when it has ended.
    pub(crate) fn check(&mut self) -> Result<(), CompareError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(status.to_string())),
            Err(error) => Err(self.failed(error.to_string())),
        }
    }

    fn failed(&self, why: String) -> CompareError {
        CompareError::Process { what: self.what, why }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
pub(crate) struct Host(Mortal);

impl Host {
    pub(crate) fn new(what: &'static str) -> Result<Self, CompareError> {
        let mut host = Self(Mortal::start(what, &["unshare", "--net", "sleep", "infinity"])?);
        let ours = fs::read_link("/proc/self/ns/net").ok();
        let deadline = Instant::now() + PATIENCE;
        // Until then it is in our namespace.
        while fs::read_link(host.namespace()).ok() == ours {
            host.0.check()?;
            if Instant::now() > deadline {
                return Err(host.0.failed("no namespace after 5 s".to_owned()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        host.0.check()?;
        Ok(host)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// The words before a command that runs there.
    pub(crate) fn enter(&self) -> [String; 3] {
        ["nsenter".to_owned(), format!("--net={}", self.namespace()), "--".to_owned()]
    }

    /// Runs a tool there, with that on its standard input. Gives what it said.
    pub(crate) fn run(&self, words: &[&str], input: &str) -> Result<String, CompareError> {
        let [nsenter, net, end] = self.enter();
        Ok(tools::run(Command::new(nsenter).args([net, end]).args(words), input)?)
    }

    /// Calls a function on a thread of its own whose sockets are this host's.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<thread::JoinHandle<std::io::Result<T>>, CompareError> {
        let path = self.namespace();
        let failed = |source| CompareError::File { what: path.clone(), source };
        let namespace = File::open(&path).map_err(failed)?;
        let inside = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            call()
        };
        thread::Builder::new().spawn(inside).map_err(failed)
    }

    /// Packets that came in by an interface.
    pub(crate) fn received(&self, interface: &str) -> Result<u64, CompareError> {
        let said = self.run(&["ip", "-json", "-stats", "link", "show", interface], "")?;
        let said: Value = serde_json::from_str(&said).unwrap_or_default();
        said[0]["stats64"]["rx"]["packets"].as_u64().ok_or(CompareError::Process {
            what: "ip",
            why: format!("says nothing of packets of {interface}"),
        })
    }
}
