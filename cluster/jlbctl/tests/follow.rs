//! Daemons and `jlbctl` around a real etcd, as an operator sees them: processes of their own, on loopback.
//!
//! The daemon is this test binary again, told by an environment variable: the control thread of every daemon, with
//! nothing else in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "../../etcd/tests/common/mod.rs"]
mod common;

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Server, free_port, list_text, temp_dir, until};
use jlb_map::{MemberRole, Snapshot};
use jlb_node::serde_json::{self, Value};
use jlb_node::{Daemon, Program, Setup, Start};
use jlb_role::Samples;

/// Nothing but a control thread.
struct Idle {
    members: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl Daemon for Idle {
    type Error = Never;

    async fn work(&mut self) -> Result<(), Never> {
        core::future::pending().await
    }
    fn apply(&mut self, cluster: &Arc<Snapshot>) -> Result<(), Never> {
        self.members = cluster.members().len();
        Ok(())
    }
    async fn collect(&mut self, _: &mut Samples) {}
    fn is_alive(&mut self) -> bool {
        true
    }
    fn not_ready(&mut self) -> Vec<String> {
        Vec::new()
    }
    fn status(&mut self) -> Value {
        serde_json::json!({ "members": self.members })
    }
    async fn stop(&mut self) {}
}

/// Not a test of its own: what the others start.
#[test]
fn the_process() {
    let Ok(config) = env::var("JLB_TEST_CONFIG") else { return };
    let program =
        Program { name: "jlb-idle", about: "Idle", version: "1", role: MemberRole::Backend };
    let args = ["jlb-idle", "--config", &config].map(Into::into);
    let code = match program.start(program.command(), args) {
        Start::Run(setup) => jlb_node::run(&setup, |setup: &Setup| {
            Ok(Idle { members: setup.cluster.members().len() })
        }),
        Start::Other { .. } => 99.into(),
        Start::Exit(code) => code,
    };
    let number = [0, 1, 64, 78].into_iter().find(|&n| code == n.into()).unwrap_or(99);
    std::process::exit(number.into());
}

/// A directory for everything that a host has, and what runs on it.
struct Host {
    name: String,
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Host {
    fn new(name: &str, server: &Server) -> Self {
        let (dir, port) = (temp_dir(name), free_port());
        let host = Self { name: name.to_owned(), dir, port, child: None };
        for key in ["hash", "mac"] {
            let path = host.path(&format!("{key}.key"));
            fs::write(&path, format!("{:032x}", key.len())).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let config = format!(
            "[node]\nname = \"{name}\"\nadmin = \"127.0.0.1:{port}\"\n[yann]\ninterfaces = [\"lo\"]\n\
             [etcd]\nendpoints = [\"{}\"]\nstate_dir = \"{}\"\n",
            server.url,
            host.path("state").display(),
        );
        fs::write(host.path("jlb.toml"), config).unwrap();
        host
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    fn copy(&self) -> PathBuf {
        self.path("state").join(self.name.clone() + ".cluster.toml")
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "the_process", "--nocapture"]);
        command.env("JLB_TEST_CONFIG", self.path("jlb.toml"));
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn start(&mut self) {
        self.child = Some(self.spawn());
        until("a daemon", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Exit code.
    fn stop(&mut self, signal: &str) -> i32 {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        child.wait().unwrap().code().unwrap_or(-1)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn shows(&self, line: &str) -> bool {
        self.get("/metrics").lines().any(|l| l == line)
    }

    fn until_shows(&self, line: &str) {
        until(line, || self.shows(line));
    }

    /// Exit code, stdout, stderr.
    fn jlbctl(&self, args: &[&str]) -> (i32, String, String) {
        let config = self.path("jlb.toml");
        let output = Command::new(env!("CARGO_BIN_EXE_jlbctl"))
            .arg("--config")
            .arg(config)
            .args(args)
            .current_dir(&self.dir)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    fn ok(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.jlbctl(args);
        assert_eq!(code, 0, "{args:?}: {stderr}");
        stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat())).unwrap()
    }

    fn refused(&self, args: &[&str], code: i32, words: &str) {
        let (got, stdout, stderr) = self.jlbctl(args);
        assert_eq!((got, stdout.as_str()), (code, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{words} in {stderr}");
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.dir.display(), self.log());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn daemons_follow_what_is_applied_and_do_without_etcd() {
    let mut server = Server::start();
    let mut one = Host::new("backend-1", &server);
    let mut two = Host::new("backend-2", &server);

    // Nobody has applied anything: it is said, and systemd tries again.
    let code = one.spawn().wait().unwrap().code();
    assert_eq!(code, Some(1), "{}", one.log());
    assert!(one.log().contains("etcd has no member list: write one with `jlbctl apply`"));

    one.write("list", &format!("# Ours.\n{}", list_text(1, 1..=4)));
    assert!(
        one.ok(&["apply", "list"]).starts_with("applied: generation 1, epoch 1 (there was none)\n")
    );
    one.start();
    two.start();
    one.until_shows("jlb_etcd_connected 1");
    one.until_shows("jlb_member_present{member=\"backend-2\"} 1");
    one.until_shows("jlb_member_present{member=\"backend-4\"} 0");
    one.until_shows("jlb_membership_copy_saved 1");
    assert!(one.shows("jlb_membership_from_copy 0"));

    // A change reaches everybody, and the copies on their disks.
    one.write(
        "list",
        &one.ok(&["get"]).replace("name = \"backend-4\"", "drain = true\nname = \"backend-4\""),
    );
    let begin = Instant::now();
    let applied = one.ok(&["apply", "list", "--wait", "10"]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(
        applied.contains("generation 2, epoch 1")
            && applied.contains("~ member backend-4: drain false → true"),
        "{applied}"
    );
    for host in [&one, &two] {
        assert!(host.shows("jlb_membership_generation 2"));
        let is_new = |text: String| text.contains("# Ours.\ngeneration = 2\n");
        until("the copy", || fs::read_to_string(host.copy()).is_ok_and(is_new));
        assert_eq!(fs::metadata(host.copy()).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let status = two.json(&["status"]);
    let member = |name: &str| {
        let all = status["members"].as_array().unwrap();
        all.iter().find(|m| m["name"] == name).unwrap().clone()
    };
    assert_eq!(member("backend-1")["current"], true);
    assert_eq!(
        (&member("backend-4")["present"], &member("backend-4")["drain"]),
        (&false.into(), &true.into())
    );

    // etcd is gone. Everybody goes on, and who restarts begins with the copy.
    server.kill();
    one.until_shows("jlb_etcd_connected 0");
    assert_eq!(one.get("/readyz"), "ready\n");
    assert!(
        one.shows("jlb_config_last_reload_successful 1")
            && !one.get("/metrics").contains("jlb_member_present{")
    );
    assert_eq!(two.stop("-KILL"), -1);
    std::thread::scope(|all| {
        // It waits for etcd as long as the choice of a leader may take.
        all.spawn(|| one.refused(&["status"], 1, &server.url));
        two.start();
    });
    assert!(two.shows("jlb_membership_from_copy 1") && two.shows("jlb_membership_generation 2"));
    assert!(two.log().contains("starting with the copy of the last member list"), "{}", two.log());
    server.start_again();
    two.until_shows("jlb_membership_from_copy 0");
    two.until_shows("jlb_etcd_connected 1");

    // A change that loses much must be meant.
    let smaller = list_text(2, 1..=2);
    one.write("list", &smaller);
    one.refused(&["apply", "list"], 1, "(jlbctl apply --force)");
    assert!(one.ok(&["apply", "list", "--force", "--wait", "10"]).contains("- member backend-4"));
    assert!(one.ok(&["get"]).contains("forced_generation = 3\n"));
    one.until_shows("jlb_membership_generation 3");
    // An orderly end shows at once.
    assert_eq!(two.stop("-TERM"), 0);
    one.until_shows("jlb_member_present{member=\"backend-2\"} 0");
    assert!(!one.log().contains("backend-1` lately"));
}

#[test]
fn a_store_that_lost_its_latest_list_is_refused_until_it_is_mended() {
    let mut server = Server::start();
    let mut one = Host::new("backend-1", &server);
    one.write("list", &list_text(1, 1..=4));
    one.ok(&["apply", "list"]);
    let backup = server.back_up();
    one.write("list", &one.ok(&["get"]).replace("backend-4", "backend-9"));
    one.ok(&["apply", "list"]);
    one.start();
    one.until_shows("jlb_etcd_connected 1");

    // From the backup: what is in force stays, and it shows.
    server.start_with(Some(&backup));
    one.until_shows("jlb_config_last_reload_successful 0");
    one.until_shows("jlb_etcd_connected 1");
    assert!(one.shows("jlb_membership_generation 2"));
    assert!(one.log().contains("generation 1 is lower than 2, which is in force"), "{}", one.log());
    let row = &one.json(&["status"])["members"][3];
    assert_eq!(
        (&row["name"], &row["generation"], &row["current"]),
        (&"backend-1".into(), &2.into(), &false.into())
    );
    // Also at a restart.
    one.until_shows("jlb_membership_copy_saved 1");
    assert_eq!(one.stop("-TERM"), 0);
    one.start();
    assert!(
        one.shows("jlb_membership_generation 2")
            && one.shows("jlb_config_last_reload_successful 0")
    );
    one.until_shows("jlb_etcd_connected 1");
    // The operator does not notice, and makes a change to what came back.
    one.write("list", &one.ok(&["get"]).replace("backend-4", "backend-8"));
    one.refused(&["apply", "list"], 1, "write generation = 4 and epoch = 2 into the file");
    // So the latest list comes back from a host.
    let copy = one.copy();
    one.ok(&["apply", copy.to_str().unwrap(), "--wait", "10"]);
    one.until_shows("jlb_config_last_reload_successful 1");

    // Wiped, and begun anew with higher numbers.
    server.start_with(None);
    one.until_shows("jlb_config_last_reload_successful 0");
    one.until_shows("jlb_etcd_connected 1");
    assert!(one.shows("jlb_membership_generation 2"));
    one.refused(&["get"], 1, "etcd has no member list under /jlb/cluster");
    one.write("list", &list_text(1, 1..=4));
    one.refused(&["apply", "list"], 1, "write generation = 4 and epoch = 2 into the file");
    one.write("list", &list_text(4, 1..=4).replace("epoch = 1", "epoch = 2"));
    one.ok(&["apply", "list", "--wait", "10"]);
    assert!(one.shows("jlb_membership_generation 4") && one.shows("jlb_membership_epoch 2"));
}

#[test]
fn jlbctl_says_what_is_wrong_and_ends_with_its_code() {
    let server = Server::start();
    let one = Host::new("backend-1", &server);
    one.refused(&["aply"], 64, "apply");
    one.refused(&["apply"], 64, "<FILE>");
    assert!(one.ok(&["--help"]).contains("jlbctl apply cluster.toml"));
    one.refused(&["apply", "none"], 1, "cannot read none");
    one.write("list", &list_text(1, 1..=4).replace("epoch = 1", "epoch = 0"));
    one.refused(&["apply", "list"], 78, "list:2:9");
    assert!(one.ok(&["status"]).contains("list: none"));
    one.refused(&["get"], 1, "no member list under /jlb/cluster");

    one.write("list", &list_text(1, 1..=4));
    let dry = one.json(&["apply", "list", "--dry-run"]);
    assert_eq!((&dry["applied"], &dry["generation"]), (&false.into(), &1.into()));
    one.refused(&["get"], 1, "no member list");
    one.ok(&["apply", "list"]);
    assert_eq!(one.json(&["apply", "list"])["applied"], false, "it is there already");
    assert_eq!(one.ok(&["get"]), list_text(1, 1..=4));
    assert_eq!(one.json(&["get"])["generation"], 1);

    let more = list_text(1, 1..=5).replace("role = \"flowtracker\"\naddresses = [\"10.1.0.3\"]", "role = \"flowtracker\"\naddresses = [\"10.1.0.3\"]\n[[member]]\nid = 4\nname = \"tracker-4\"\nrole = \"flowtracker\"\naddresses = [\"10.1.0.4\"]");
    one.write("list", &more);
    let diff = one.ok(&["diff", "list"]);
    assert_eq!(
        diff.lines().map(|l| l.split(':').next().unwrap()).collect::<Vec<_>>(),
        ["+ member tracker-4", "+ member backend-5"]
    );
    assert_eq!(one.json(&["diff", "list"])["changes"][1]["name"], "backend-5");
    let applied = one.json(&["apply", "list"]);
    assert_eq!(
        (&applied["generation"], &applied["epoch"]),
        (&2.into(), &2.into()),
        "trackers changed"
    );
    // The file is that of generation 1 still.
    one.write("list", &more.replace("backend-5", "backend-6"));
    one.refused(&["apply", "list"], 1, "get the list with `jlbctl get`");
    // An address that another host gets.
    one.write("list", &one.ok(&["get"]).replace("10.1.0.105", "10.1.0.200"));
    one.refused(&["apply", "list"], 1, "a new host needs a new id");
    // Something else wrote there.
    server.etcdctl(&["put", "/jlb/cluster", "generation = "]);
    one.write("list", &list_text(5, 1..=4).replace("epoch = 1", "epoch = 2"));
    one.refused(&["apply", "list"], 1, "the member list in etcd is wrong");
    one.ok(&["apply", "list", "--force"]);

    let config = fs::read_to_string(one.path("jlb.toml")).unwrap();
    one.write("jlb.toml", config.split("[etcd]").next().unwrap());
    one.refused(&["status"], 78, "has no section [etcd]");
    one.write("jlb.toml", &config.replace("http:", "https:"));
    one.refused(&["status"], 78, "`ca_file` is missing");
}
