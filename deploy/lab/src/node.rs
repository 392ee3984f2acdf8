//! One host of a lab.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::error::AtPath;
use crate::process::Running;
use crate::state::LabDir;
use crate::tools;
use crate::topology::NodeId;
use crate::{Error, topology};

/// A host: a network namespace, and a folder for its files.
#[derive(Clone, Debug)]
pub struct Node {
    id: NodeId,
    lab: LabDir,
}

/// Writes itself down, then becomes the server: `sh -c … sh LIST NODE WHAT NAMESPACE PROGRAM ARGUMENTS…`.
/// setsid: it survives the terminal that `jlb-lab up` was typed in.
const STARTER: &str = r#"list=$1 node=$2 what=$3 net=$4
shift 4
printf '%s %s %s %s\n' $$ "$(cut -d' ' -f22 /proc/$$/stat)" "$node" "$what" >>"$list"
exec setsid nsenter --net="$net" -- "$@""#;

/// How long a server may take until it listens.
const READY_PATIENCE: Duration = Duration::from_secs(10);

/// How much of a log an error shows.
const LOG_TAIL: u64 = 2000;

impl Node {
    pub(crate) fn new(id: NodeId, lab: LabDir) -> Self {
        Self { id, lab }
    }

    /// Which host it is.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// `client`, `ingress-2`.
    pub fn name(&self) -> String {
        self.id.to_string()
    }

    /// Its own addresses, v4 and v6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.id.addresses()
    }

    /// Its network namespace, as `ip netns` names it.
    pub fn namespace(&self) -> String {
        self.lab.namespace(&self.name())
    }

    /// The folder of its files; made when it is first asked for.
    pub fn dir(&self) -> Result<PathBuf, Error> {
        let path = self.lab.path().join("nodes").join(self.name());
        fs::create_dir_all(&path).at(&path)?;
        Ok(path)
    }

    /// A command that will run on this host, as far as the network goes. Files are those of the machine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = tools::enter(&self.namespace());
        command.arg(program);
        command
    }

    /// Runs a program to its end; its standard output. An error if it does not succeed.
    pub fn run<S: AsRef<str>>(&self, program: &str, arguments: &[S]) -> Result<String, Error> {
        let mut command = self.command(program);
        command.args(arguments.iter().map(AsRef::as_ref));
        tools::run(&mut command, "")
    }

    /// Runs a shell script, which stops at the first command that fails; its standard output.
    pub fn shell(&self, script: &str) -> Result<String, Error> {
        tools::shell(&self.namespace(), script)
    }

    /// Calls a function whose sockets are this host's: they stay so wherever they are used afterwards.
    pub fn within<T: Send>(&self, call: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let namespace = self.namespace();
        let path = Path::new(tools::NETNS_DIR).join(&namespace);
        let file = File::open(&path).at(&path)?;
        // A thread of its own, which ends in that namespace: the caller's stays where it is.
        let inside = std::thread::scope(|scope| {
            let thread = scope.spawn(|| setns(&file, CloneFlags::CLONE_NEWNET).map(|()| call()));
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        inside.map_err(|errno| Error::NotEntered { namespace, why: errno.to_string() })
    }

    /// Starts a server that lives until the lab ends or it is told to. Its output goes to [`Node::log_path`].
    ///
    /// `what` names it: a word without blanks.
    pub fn start<S: AsRef<str>>(
        &self,
        what: &str,
        program: &str,
        arguments: &[S],
    ) -> Result<Running, Error> {
        let log_path = self.log_path(what)?;
        let log = OpenOptions::new().create(true).append(true).open(&log_path).at(&log_path)?;
        let errors = log.try_clone().at(&log_path)?;
        let list = self.lab.process_list();
        let net = Path::new(tools::NETNS_DIR).join(self.namespace());
        let child = Command::new("sh")
            .args(["-eu", "-c", STARTER, "sh"])
            .arg(&list)
            .args([self.name().as_str(), what])
            .arg(net)
            .arg(program)
            .args(arguments.iter().map(AsRef::as_ref))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .at("sh")?;
        // A child is at least a zombie until its parent has waited for it, so it is there.
        Running::with_pid(child.id().cast_signed(), &self.name(), what)
            .ok_or_else(|| self.not_ready(what, "ended at once"))
    }

    /// Waits until a server on this host answers `true` to `probe`.
    pub fn wait_ready(&self, server: &Running, probe: impl Fn() -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            if !server.is_alive() {
                return Err(self.not_ready(&server.what, "has ended"));
            }
            if probe() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.not_ready(&server.what, "is not ready after 10 s"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn not_ready(&self, what: &str, why: &'static str) -> Error {
        Error::NotReady { what: what.to_owned(), node: self.name(), why, log: self.log_tail(what) }
    }

    /// Where a server's output goes.
    pub fn log_path(&self, what: &str) -> Result<PathBuf, Error> {
        Ok(self.dir()?.join(format!("{what}.log")))
    }

    /// The end of a server's output, as far as there is any.
    pub fn log_tail(&self, what: &str) -> String {
        let read = || -> Result<String, Error> {
            let path = self.log_path(what)?;
            let mut file = File::open(&path).at(&path)?;
            let length = file.metadata().at(&path)?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL))).at(&path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).at(&path)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| error.to_string())
    }

    /// The processes which the lab has started on this host and which have not ended.
    pub fn processes(&self) -> Result<Vec<Running>, Error> {
        let name = self.name();
        let mut processes = self.lab.processes()?;
        processes.retain(|process| process.node == name && process.is_alive());
        Ok(processes)
    }

    /// Where this host's cable ends: the host, and the interface there. The client's ends at the router, too.
    pub(crate) fn port(&self) -> Option<(Node, String)> {
        let at = match self.id.kind {
            topology::NodeKind::Client
            | topology::NodeKind::Ingress
            | topology::NodeKind::Tracker => topology::NodeKind::Router,
            topology::NodeKind::Backend | topology::NodeKind::Etcd => topology::NodeKind::Fabric,
            topology::NodeKind::Router | topology::NodeKind::Fabric => return None,
        };
        Some((Node::new(NodeId { kind: at, index: 0 }, self.lab.clone()), self.name()))
    }
}
