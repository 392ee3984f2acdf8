//! Debian's etcd on loopback, as processes of the test's own, and lists to put into it.
#![allow(dead_code, unreachable_pub, reason = "not every test uses everything")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jlb_config::{ClusterFile, ClusterList, Etcd, EtcdSecrets, KeyFile, read_cluster};

/// One server, ended and removed with its data when dropped.
pub struct Server {
    args: Vec<String>,
    dir: PathBuf,
    child: Option<Child>,
    pub url: String,
}

/// PEM files of an authority, a server on loopback, and a client.
pub struct Certificates {
    pub ca: String,
    pub server: (String, String),
    pub client: (String, String),
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A directory of this test's own.
pub fn temp_dir(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("jlbt-etcd-{}-{n}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

impl Server {
    /// A cluster of one.
    pub fn start() -> Self {
        cluster_of(1, None).remove(0)
    }

    pub fn with_tls(certificates: &Certificates) -> Self {
        cluster_of(1, Some(certificates)).remove(0)
    }

    fn run(&mut self) {
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let mut command = Command::new("etcd");
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("etcd of Debian's etcd-server: make setup"));
    }

    /// As if its host lost power.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As it was when it was killed.
    pub fn start_again(&mut self) {
        self.run();
        self.wait();
    }

    /// With other data: `None` for none.
    pub fn start_with(&mut self, data: Option<&Path>) {
        self.kill();
        fs::remove_dir_all(self.data()).unwrap();
        if let Some(data) = data {
            copy_dir(data, &self.data());
        }
        self.start_again();
    }

    /// A copy of its data, as a backup has it. Stops it for a moment.
    pub fn back_up(&mut self) -> PathBuf {
        self.kill();
        let backup = self.dir.join("backup");
        copy_dir(&self.data(), &backup);
        self.start_again();
        backup
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Until it takes connections and has a leader.
    fn wait(&self) {
        let address = self.url.split_once("//").unwrap().1;
        until("etcd", || std::net::TcpStream::connect(address).is_ok());
    }

    pub fn etcdctl(&self, args: &[&str]) -> String {
        self.try_etcdctl(args).unwrap_or_else(|| panic!("etcdctl {args:?} failed"))
    }

    pub fn try_etcdctl(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.url)).args(args);
        let output = command.arg("--command-timeout=2s").output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Servers that know each other, all started.
pub fn cluster_of(n: usize, tls: Option<&Certificates>) -> Vec<Server> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let ports: Vec<_> = (0..n).map(|_| (free_port(), free_port())).collect();
    let peer = |i: usize| format!("http://127.0.0.1:{}", ports[i].1);
    let all: Vec<_> = (0..n).map(|i| format!("n{i}={}", peer(i))).collect();
    let mut servers: Vec<_> = (0..n)
        .map(|i| {
            let dir = temp_dir("server");
            let url = format!("{scheme}://127.0.0.1:{}", ports[i].0);
            let mut args: Vec<String> = [
                "--name".into(),
                format!("n{i}"),
                "--data-dir".into(),
                dir.join("data").display().to_string(),
                "--listen-client-urls".into(),
                url.clone(),
                "--advertise-client-urls".into(),
                url.clone(),
                "--listen-peer-urls".into(),
                peer(i),
                "--initial-advertise-peer-urls".into(),
                peer(i),
                "--initial-cluster".into(),
                all.join(","),
                // So that tests are quick. Alone, a server cannot mistake its leader for dead.
                "--heartbeat-interval".into(),
                if n == 1 { "10" } else { "50" }.into(),
                "--election-timeout".into(),
                if n == 1 { "100" } else { "500" }.into(),
                "--bcrypt-cost".into(),
                "4".into(),
            ]
            .into();
            if let Some(tls) = tls {
                for (flag, name, text) in [
                    ("--cert-file", "server.pem", &tls.server.0),
                    ("--key-file", "server.key", &tls.server.1),
                    ("--trusted-ca-file", "ca.pem", &tls.ca),
                ] {
                    fs::write(dir.join(name), text).unwrap();
                    args.extend([flag.into(), dir.join(name).display().to_string()]);
                }
                args.push("--client-cert-auth".into());
            }
            Server { args, dir, child: None, url }
        })
        .collect();
    servers.iter_mut().for_each(Server::run);
    servers.iter().for_each(Server::wait);
    servers
}

pub fn certificates() -> Certificates {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let leaf = |usage| {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.extended_key_usages.extend(usage);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let (serve, ask) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    // etcd's own gateway is a client of it, with the server's certificate.
    Certificates { ca, server: leaf(vec![serve, ask.clone()]), client: leaf(vec![ask]) }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// `[etcd]` for these servers.
pub fn config<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Etcd {
    Etcd {
        endpoints: servers.into_iter().map(|s| s.url.clone()).collect(),
        prefix: "/jlb/".into(),
        ca_file: None,
        identity: None,
        user: None,
        state_dir: "/nonexistent".into(),
    }
}

pub fn no_secrets() -> EtcdSecrets {
    EtcdSecrets::default()
}

/// A list with these backends, and trackers 1 to 3.
pub fn list_text(generation: u64, backends: core::ops::RangeInclusive<u16>) -> String {
    let mut text = format!(
        "generation = {generation}\nepoch = 1\n[keys]\nhash_key_file = \"hash.key\"\nmac_key_files = [\"mac.key\"]\n\
         [underlay]\nprefixes = [\"10.1.0.0/16\"]\n"
    );
    let trackers = (1..=3).map(|id| (id, format!("tracker-{id}"), "flowtracker"));
    let backends = backends.map(|n| (100 + n, format!("backend-{n}"), "backend"));
    for (id, name, role) in trackers.chain(backends) {
        text += &format!(
            "[[member]]\nid = {id}\nname = \"{name}\"\nrole = \"{role}\"\naddresses = [\"10.1.0.{id}\"]\n"
        );
    }
    text
}

/// As a daemon reads it.
pub fn list(text: &str) -> ClusterList {
    let mut key = |path: &Path| {
        let digit = path.to_string_lossy().len();
        Ok(KeyFile { text: format!("{digit:032x}"), mode: 0o600 })
    };
    let source = ClusterFile { name: "etcd", text };
    read_cluster(source, Path::new("/etc/jlb"), &mut key).unwrap_or_else(|m| panic!("{m}"))
}
