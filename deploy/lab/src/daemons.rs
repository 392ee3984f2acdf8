//! JLB's own processes in a lab: their files, start, reload, what they say of themselves.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::config::{self, ADMIN, Jlb, daemon_and_role};
use crate::error::AtPath;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::process::Running;
use crate::state::{Entry, LabDir};
use crate::{Error, LabConfig, etcd, tools};

/// A daemon answers its admin endpoint from memory.
const ADMIN_PATIENCE: Duration = Duration::from_secs(2);

/// How often an agent is asked.
const AGENT_PROBE: Duration = Duration::from_millis(100);

/// The bpffs of a lab, which all of its hosts share.
pub(crate) fn bpf(dir: &LabDir) -> PathBuf {
    dir.path().join("bpf")
}

/// Writes the configuration of all hosts, new keys included.
pub(crate) fn prepare(dir: &LabDir, config: &LabConfig, jlb: &Jlb) -> Result<(), Error> {
    let bpf = bpf(dir);
    fs::create_dir_all(&bpf).at(&bpf)?;
    dir.note(&Entry::Mount(bpf.clone()))?;
    tools::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpf), "")?;

    for key in ["hash.key", "mac.key"] {
        write_key(&dir.path().join(key))?;
    }
    write_cluster(dir, config, jlb)?;
    for node in config.nodes() {
        let own = Node::new(node, dir.clone()).dir()?;
        let etcd = etcd::section(config, &own.join("state"));
        if let Some(text) = config::jlb_toml(node, jlb, &bpf, &etcd) {
            let path = own.join("jlb.toml");
            fs::write(&path, text).at(&path)?;
        }
    }
    Ok(())
}

/// Writes `cluster.toml`, which all hosts share.
pub(crate) fn write_cluster(dir: &LabDir, config: &LabConfig, jlb: &Jlb) -> Result<(), Error> {
    let path = dir.path().join("cluster.toml");
    // In one piece: a daemon may be reading it.
    let new = dir.path().join("cluster.toml.new");
    fs::write(&new, config::cluster_toml(config, jlb, dir.path())).at(&new)?;
    fs::rename(&new, &path).at(&path)
}

fn write_key(path: &Path) -> Result<(), Error> {
    let source = Path::new("/dev/urandom");
    let mut key = [0; 16];
    fs::File::open(source).and_then(|mut file| file.read_exact(&mut key)).at(source)?;
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .at(path)?;
    file.write_all(digits.as_bytes()).at(path)
}

/// Starts the daemons of these hosts, as far as they are members, and then waits until each says that it may take traffic: they may wait for each other.
pub(crate) fn start(dir: &LabDir, config: &LabConfig, nodes: &[Node]) -> Result<(), Error> {
    for (node, server) in launch(dir, config, nodes)? {
        node.wait_ready(&server, || node.is_ready())?;
    }
    Ok(())
}

/// The same without the waiting.
pub(crate) fn launch<'a>(
    dir: &LabDir,
    config: &LabConfig,
    nodes: &'a [Node],
) -> Result<Vec<(&'a Node, Running)>, Error> {
    let mut started = Vec::new();
    let is_member = |node: &&Node| config.jlb.as_ref().is_none_or(|jlb| jlb.has(&node.name()));
    for node in nodes.iter().filter(is_member) {
        let Some((daemon, _)) = daemon_and_role(node.id().kind) else { continue };
        let program = program(daemon, config)?;
        let own = node.dir()?.join("jlb.toml");
        let cluster = dir.path().join("cluster.toml");
        let arguments = [
            "--config".to_owned(),
            own.to_string_lossy().into_owned(),
            "--cluster".to_owned(),
            cluster.to_string_lossy().into_owned(),
        ];
        started.push((node, node.start(daemon, &program.to_string_lossy(), &arguments)?));
    }
    Ok(started)
}

/// Waits until every daemon has heard all members that it asks, at most so long; whether they have. A daemon is ready
/// earlier: it can work with a part of them. The first answer of an agent may still say that its daemon is not there yet:
/// so this waits for the next one, too.
pub(crate) fn settle(nodes: &[Node], at_most: Duration) -> Result<bool, Error> {
    let deadline = Instant::now() + at_most;
    for node in nodes {
        if node.daemon()?.is_none() {
            continue;
        }
        while !node.metrics()?.all("jlb_member_up").all(|(_, up)| up == 1.0) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    std::thread::sleep(AGENT_PROBE * 2);
    Ok(true)
}

/// Waits until each of these daemons holds a member for up, or for down, at most so long; whether they do.
pub(crate) fn wait_seen(
    by: &[Node],
    member: &str,
    up: bool,
    at_most: Duration,
) -> Result<bool, Error> {
    let deadline = Instant::now() + at_most;
    let wanted = Some(if up { 1.0 } else { 0.0 });
    for node in by {
        while node.metrics()?.sum("jlb_member_up", &[("member", member)]) != wanted {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(true)
}

/// A daemon: of the build that the lab is told to use.
fn program(daemon: &str, config: &LabConfig) -> Result<PathBuf, Error> {
    let Some(dir) = config.jlb.as_ref().and_then(|jlb| jlb.programs.as_ref()) else {
        return binary(daemon);
    };
    let path = dir.join(daemon);
    if path.is_file() { Ok(path) } else { Err(Error::NoBinary(path)) }
}

/// A program of this workspace: where `JLB_BIN_DIR` says, else beside this one.
pub fn binary(name: &str) -> Result<PathBuf, Error> {
    let dir = match std::env::var_os("JLB_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let this = std::env::current_exe().at("/proc/self/exe")?;
            let dir = this.parent().map(Path::to_owned).unwrap_or_default();
            // Test binaries lie one deeper.
            if dir.ends_with("deps") {
                dir.parent().map(Path::to_owned).unwrap_or_default()
            } else {
                dir
            }
        }
    };
    let path = dir.join(name);
    if path.is_file() { Ok(path) } else { Err(Error::NoBinary(path)) }
}

impl Node {
    /// The daemon of this host, if it runs.
    pub fn daemon(&self) -> Result<Option<Running>, Error> {
        let Some((daemon, _)) = daemon_and_role(self.id().kind) else { return Ok(None) };
        Ok(self.processes()?.into_iter().rfind(|process| process.what == daemon))
    }

    /// Sends its daemon a signal; whether it runs.
    pub fn signal_daemon(&self, signal: Signal) -> Result<bool, Error> {
        Ok(self.daemon()?.is_some_and(|daemon| daemon.signal(signal)))
    }

    /// Whether its daemon's `/readyz` says yes.
    pub fn is_ready(&self) -> bool {
        self.admin("/readyz").is_ok_and(|(status, _)| status == 200)
    }

    /// What its daemon counts.
    pub fn metrics(&self) -> Result<Metrics, Error> {
        let (status, text) = self.admin("/metrics")?;
        if status == 200 {
            Ok(Metrics::parse(&text))
        } else {
            Err(self.no_answer("/metrics", format!("HTTP status {status}")))
        }
    }

    /// GET from its daemon's admin endpoint: HTTP status and body.
    pub fn admin(&self, path: &str) -> Result<(u16, String), Error> {
        let answer =
            self.within(|| get(path))?.map_err(|error| self.no_answer(path, error.to_string()))?;
        parse_answer(&answer).ok_or_else(|| self.no_answer(path, format!("no HTTP: {answer:?}")))
    }

    fn no_answer(&self, path: &str, why: String) -> Error {
        Error::Admin { node: self.name(), path: path.to_owned(), why }
    }
}

fn get(path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(ADMIN), ADMIN_PATIENCE)?;
    stream.set_read_timeout(Some(ADMIN_PATIENCE))?;
    // 1.0: the body ends with the connection, and does not come in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// `HTTP/1.1 200 OK`, headers, an empty line, the body.
fn parse_answer(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        assert_eq!(
            parse_answer("HTTP/1.1 503 No\r\nA: b\r\n\r\nwhy\r\n"),
            Some((503, "why\r\n".to_owned()))
        );
        assert_eq!(parse_answer("garbage"), None);
    }
}
