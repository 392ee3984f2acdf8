//! A daemon as its operator sees it: started as a process of its own, on loopback.
//!
//! The process is this test binary again, told by an environment variable to be the daemon.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use core::time::Duration;
use std::env;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use jlb_map::{MemberRole, Snapshot};
use jlb_node::{Daemon, Program, Setup, Start};
use jlb_role::{Metric, MetricKind, MetricSink as _, Samples};

static WORKED: Metric =
    Metric { name: "test_worked_total", help: "Rounds of work.", kind: MetricKind::Counter };

/// Ready after some rounds of work; ill if the member list has drained it; broken if a file says so.
struct Toy {
    rounds: u32,
    services: usize,
    drained: bool,
    trouble: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("something broke")]
struct Broken(#[from] std::io::Error);

impl Daemon for Toy {
    type Error = Broken;

    async fn work(&mut self) -> Result<(), Broken> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.rounds += 1;
        if self.trouble.exists() { Err(Broken(std::io::ErrorKind::Other.into())) } else { Ok(()) }
    }
    fn apply(&mut self, cluster: &Arc<Snapshot>) -> Result<(), Broken> {
        self.services = cluster.services().len();
        self.drained = cluster.member_by_name("backend-1").is_some_and(|m| m.drain);
        Ok(())
    }
    async fn collect(&mut self, out: &mut Samples) {
        out.value(&WORKED, &[], self.rounds.into());
    }
    fn is_alive(&mut self) -> bool {
        !self.drained
    }
    fn not_ready(&mut self) -> Vec<String> {
        if self.rounds < 3 { vec!["has not worked enough".into()] } else { vec![] }
    }
    fn status(&mut self) -> serde_json::Value {
        serde_json::json!({ "services": self.services })
    }
    async fn stop(&mut self) {
        println!("stopped in order");
    }
}

impl Toy {
    fn start(setup: &Setup) -> Result<Self, Broken> {
        let trouble = setup.paths.host.with_file_name("trouble");
        if trouble.exists() {
            return Err(Broken(std::io::ErrorKind::Other.into()));
        }
        assert!(setup.boot.0 != 0 && setup.me.as_u16() == 3);
        let mut toy = Self { rounds: 0, services: 0, drained: false, trouble };
        toy.apply(&setup.cluster)?;
        Ok(toy)
    }
}

/// Not a test of its own: what the other tests start.
#[test]
fn the_process() {
    let Ok(args) = env::var("JLB_TEST_ARGS") else { return };
    let program =
        Program { name: "jlb-toy", about: "Toy", version: "1.2.3", role: MemberRole::Backend };
    let command = program.command().subcommand(jlb_node::clap::Command::new("extra"));
    let args = ["jlb-toy".to_owned()].into_iter().chain(args.split_whitespace().map(str::to_owned));
    let code = match program.start(command, args.map(Into::into)) {
        Start::Run(setup) => jlb_node::run(&setup, Toy::start),
        Start::Other { name, paths, .. } => {
            println!("{name} {}", paths.host.display());
            0.into()
        }
        Start::Exit(code) => code,
    };
    // ExitCode has no way back to a number but through a process' end.
    code.exit_process_for_test();
}

trait ExitForTest {
    fn exit_process_for_test(self) -> !;
}

impl ExitForTest for std::process::ExitCode {
    fn exit_process_for_test(self) -> ! {
        for code in [0, 1, jlb_node::EXIT_USAGE, jlb_node::EXIT_CONFIG] {
            if self == std::process::ExitCode::from(code) {
                std::process::exit(code.into());
            }
        }
        std::process::exit(99)
    }
}

const CLUSTER: &str = r#"generation = 1
epoch = 1
[keys]
hash_key_file = "hash.key"
mac_key_files = ["mac.key"]
[underlay]
prefixes = ["10.1.0.0/24"]
[[member]]
id = 3
name = "backend-1"
role = "backend"
addresses = ["10.1.0.3"]
drain = false
[[service]]
name = "web"
vips = ["203.0.113.10"]
port = 80
protocol = "tcp"
backends = ["backend-1"]
"#;

/// A directory with a right configuration, removed at the end.
struct Site(PathBuf);

impl Site {
    fn new(name: &str, admin: &str) -> Self {
        let dir = env::temp_dir().join(format!("jlbt-cluster-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let site = Self(dir);
        site.write("cluster.toml", CLUSTER);
        site.write("hash.key", "00112233445566778899aabbccddeeff");
        site.write("mac.key", "ffeeddccbbaa99887766554433221100");
        for key in ["hash.key", "mac.key"] {
            fs::set_permissions(site.path(key), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let admin = admin.replace("DIR", site.0.to_str().unwrap());
        site.write(
            "jlb.toml",
            &format!(
                "[node]\nname = \"backend-1\"\nadmin = \"{admin}\"\n[yann]\ninterfaces = [\"lo\"]\n"
            ),
        );
        site
    }
    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }
    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }
    fn command(&self, args: &str) -> Command {
        let args = args.replace("DIR", self.0.to_str().unwrap());
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "the_process", "--nocapture"]).env("JLB_TEST_ARGS", args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
    fn daemon(&self) -> Command {
        self.command("--config DIR/jlb.toml --cluster DIR/cluster.toml")
    }
    /// Exit code, stdout and stderr.
    fn output(&self, args: &str) -> (i32, String, String) {
        finish(self.command(args).spawn().unwrap())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn finish(child: Child) -> (i32, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn ask(mut stream: impl std::io::Read + std::io::Write, path: &str) -> (u16, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn get(port: u16, path: &str) -> (u16, String) {
    ask(TcpStream::connect(("127.0.0.1", port)).unwrap(), path)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_up(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok_and(|s| ask(s, "/readyz").0 == 200)
}

#[test]
fn it_answers_reloads_and_stops() {
    let port = free_port();
    let site = Site::new("life", &format!("127.0.0.1:{port}"));
    let systemd = UnixDatagram::bind(site.path("notify")).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let hear = |wanted: &str| {
        let mut buffer = [0; 256];
        loop {
            let n = systemd.recv(&mut buffer).unwrap();
            if String::from_utf8_lossy(&buffer[..n]).contains(wanted) {
                return;
            }
        }
    };
    let mut command = site.daemon();
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "300000");
    let child = command.spawn().unwrap();
    hear("READY=1");
    hear("WATCHDOG=1");
    until("readiness", || is_up(port));

    assert_eq!(get(port, "/healthz"), (200, "alive\n".into()));
    assert_eq!(get(port, "/nothing").0, 404);
    let (code, metrics) = get(port, "/metrics");
    assert_eq!(code, 200);
    for line in [
        "# TYPE test_worked_total counter",
        "jlb_build_info{role=\"backend\",version=\"1.2.3\"} 1",
        "jlb_membership_generation 1",
        "jlb_membership_epoch 1",
        "jlb_config_last_reload_successful 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
    assert!(metrics.contains("\nprocess_start_time_seconds "));
    promtool(&metrics);
    let status: serde_json::Value = serde_json::from_str(&get(port, "/status").1).unwrap();
    assert_eq!((&status["name"], &status["ready"]), (&"backend-1".into(), &true.into()));
    assert_eq!(status["daemon"]["services"], 1);

    // A change without a new generation is refused, and what was in force stays.
    site.write("cluster.toml", &CLUSTER.replace("port = 80", "port = 81"));
    signal(&child, "-HUP");
    hear("RELOADING=1");
    hear("READY=1");
    assert!(get(port, "/metrics").1.contains("\njlb_config_last_reload_successful 0\n"));
    // A mistake: the same.
    site.write("cluster.toml", "generation = \n");
    signal(&child, "-HUP");
    hear("READY=1");
    assert!(get(port, "/metrics").1.contains("\njlb_membership_generation 1\n"));
    // A newer one is taken; this one makes the toy ill, which shows.
    let newer = CLUSTER
        .replace("generation = 1", "generation = 2")
        .replace("drain = false", "drain = true");
    site.write("cluster.toml", &newer);
    signal(&child, "-HUP");
    hear("READY=1");
    let (_, metrics) = get(port, "/metrics");
    assert!(metrics.contains("\njlb_membership_generation 2\n"), "{metrics}");
    assert!(metrics.contains("\njlb_config_last_reload_successful 1\n"), "{metrics}");
    assert_eq!(get(port, "/healthz").0, 503);

    signal(&child, "-TERM");
    hear("STOPPING=1");
    let (code, stdout, stderr) = finish(child);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("stopped in order"));
    assert!(stderr.contains("raise it") && stderr.contains("cluster.toml:1:"), "{stderr}");
    assert!(!stderr.contains('\u{1b}'), "no colour off a terminal");
}

/// Prometheus' own judgement, where it is installed.
fn promtool(metrics: &str) {
    let mut command = Command::new("promtool");
    command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else { return };
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let (code, stdout, stderr) = finish(child);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", ""));
}

#[test]
fn a_unix_socket_replaces_what_a_dead_process_left() {
    let site = Site::new("unix", "unix:DIR/admin.sock");
    let socket = site.path("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let child = site.daemon().spawn().unwrap();
    until("readiness", || UnixStream::connect(&socket).is_ok_and(|s| ask(s, "/readyz").0 == 200));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    // A second one does not take it away from the first.
    let (code, _, stderr) = finish(site.daemon().spawn().unwrap());
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("does this daemon run already?"), "{stderr}");
    assert_eq!(ask(UnixStream::connect(&socket).unwrap(), "/healthz").0, 200);
    signal(&child, "-INT");
    assert_eq!(finish(child).0, 0);
    assert!(!socket.exists());
}

#[test]
fn what_cannot_go_on_ends_with_its_cause() {
    let port = free_port();
    let site = Site::new("trouble", &format!("127.0.0.1:{port}"));
    let child = site.daemon().spawn().unwrap();
    until("readiness", || is_up(port));
    site.write("trouble", "");
    let (code, stdout, stderr) = finish(child);
    assert_eq!(code, 1);
    assert!(stderr.contains("something broke: other error"), "{stderr}");
    assert!(stdout.contains("stopped in order"));
    let (code, _, stderr) = finish(site.daemon().spawn().unwrap());
    assert_eq!(code, 1, "it cannot start either: {stderr}");
}

#[test]
fn bad_configuration_is_78_and_bad_usage_64() {
    let site = Site::new("codes", "127.0.0.1:9");
    assert_eq!(site.output("--no-such-flag").0, 64);
    assert_eq!(site.output("check-config").0, 64);
    let (code, stdout, _) = site.output("--version");
    assert_eq!((code, stdout.contains("jlb-toy 1.2.3")), (0, true));
    let (code, stdout, _) = site.output("extra --config /x/jlb.toml");
    assert_eq!((code, stdout.contains("extra /x/jlb.toml")), (0, true));

    let (code, stdout, stderr) = site.output("check-config DIR/jlb.toml DIR/cluster.toml");
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout.matches(": ok").count(), 2);

    let refused = |args: &str, what: &str| {
        let (code, _, stderr) = site.output(args);
        assert_eq!(code, 78, "{args}: {stderr}");
        assert!(stderr.contains(what), "{what} in {stderr}");
    };
    refused("check-config DIR/none.toml", "cannot read");
    refused("--config DIR/none.toml --cluster DIR/nor.toml", "nor.toml");
    site.write("ingress.toml", "[node]\nname = \"backend-1\"\n");
    refused("check-config DIR/ingress.toml", "there is no section [yann]");
    site.write(
        "other.toml",
        &fs::read_to_string(site.path("jlb.toml")).unwrap().replace("backend-1", "b"),
    );
    refused("check-config DIR/other.toml DIR/cluster.toml", "other.toml:2:8");
    refused("--config DIR/other.toml --cluster DIR/cluster.toml", "no member named `b`");
    fs::set_permissions(site.path("mac.key"), fs::Permissions::from_mode(0o644)).unwrap();
    refused("check-config DIR/cluster.toml", "cluster.toml:5:18");
}
