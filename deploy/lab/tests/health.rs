//! Hosts that say by themselves that they want no new connections: health checks, the application's word, load.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jlb_lab::topology::{HTTP_PORT, NodeKind, VIP};
use jlb_lab::traffic::{self, by_backend};
use jlb_lab::{Jlb, Lab, LabConfig, Node};

/// One lab at a time: ten daemons share two cores with their clients.
static TURN: Mutex<()> = Mutex::new(());

/// Longest that one request may take where none is meant to fail. A lost packet costs a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// A check falls or rises within two tries, which is 0.2 s here, and until it was told; ten daemons share two cores.
const NOTICED: Duration = Duration::from_secs(5);
/// From what a host's metrics say until all trackers have heard it: Loads are sent every 20 ms.
const TOLD: Duration = Duration::from_millis(300);

const AGENT_PORT: u16 = 9999;

struct Site {
    lab: Lab,
    client: Node,
    _turn: MutexGuard<'static, ()>,
}

/// Backends are asked at random, so that each one that is asked shows.
fn site(name: &str, agents: &str, on_exhausted: &str) -> Site {
    let mut jlb = Jlb { agents: agents.to_owned(), ..Jlb::default() };
    jlb.services[0].more = format!("policy = \"random\"\non_exhausted = \"{on_exhausted}\"");
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = format!("{name}-{}", std::process::id());
    let lab = Lab::up(&name, &LabConfig { jlb: Some(jlb), ..LabConfig::default() }).unwrap();
    let client = lab.node("client").unwrap();
    Site { lab, client, _turn: turn }
}

impl Site {
    /// Who answers so many requests over each family, of which none fails.
    fn answer(&self, count: u32) -> Vec<String> {
        let mut backends = Vec::new();
        for vip in VIP {
            let requests = traffic::requests(&self.client, vip, count, PATIENCE).unwrap();
            assert!(requests.iter().all(|request| request.backend.is_some()), "to {vip}");
            backends.extend(by_backend(&requests).into_keys().map(str::to_owned));
        }
        backends.sort();
        backends.dedup();
        backends
    }

    /// Waits until that metric of a host is so much, and all have heard of it.
    fn wait(&self, node: &str, metric: &str, labels: &[(&str, &str)], value: f64) {
        let (node, begin) = (self.lab.node(node).unwrap(), Instant::now());
        while node.metrics().unwrap().sum(metric, labels) != Some(value) {
            assert!(begin.elapsed() < NOTICED, "{}: {metric} {labels:?}", node.name());
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(TOLD);
    }

    /// A connection to that backend.
    fn connection_to(&self, backend: &str) -> TcpStream {
        let to = SocketAddr::from((VIP[0], HTTP_PORT));
        let connections = std::iter::repeat_with(|| {
            let connect = || TcpStream::connect_timeout(&to, PATIENCE);
            let stream = self.client.within(connect).unwrap().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        });
        // Of four, one time in 3 million in vain.
        let mut connections = connections.take(52);
        connections
            .find_map(|mut stream| ask(&mut stream).contains(backend).then_some(stream))
            .unwrap()
    }

    /// The backend's answer to its health check is 200, or else 404. Both times it answers everything else.
    fn healthy(&self, node: &Node, healthy: bool) {
        let file = node.dir().unwrap().join("upload/health");
        if healthy {
            fs::write(file, "fine\n").unwrap();
        } else {
            fs::remove_file(file).unwrap();
        }
        let up = f64::from(u8::from(healthy));
        self.wait(&node.name(), "jlb_health_up", &[("service", "web")], up);
    }
}

fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0; 1000];
    let length = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[test]
fn a_backend_that_is_unwell_gets_nothing_new_and_when_most_are_that_does_not_count() {
    let agents = "[[health]]\nservice = \"web\"\ntype = \"http\"\npath = \"/upload/health\"\nbody = \"fine\"\n\
                  interval = \"100ms\"\nrise = 2\nfall = 2\n";
    let site = site("health", agents, "reset");
    let backends = site.lab.nodes_of(NodeKind::Backend);
    let web = [("service", "web")];
    // Nobody has the file yet.
    for node in &backends {
        site.wait(&node.name(), "jlb_health_up", &web, 0.0);
    }
    for tracker in site.lab.nodes_of(NodeKind::Tracker) {
        site.wait(&tracker.name(), "jlb_service_panic", &web, 1.0);
    }
    assert_eq!(site.answer(50).len(), 4, "in a panic");
    for node in &backends {
        site.healthy(node, true);
    }
    site.wait("tracker-1", "jlb_service_panic", &web, 0.0);
    assert_eq!(site.answer(50).len(), 4);

    let unwell = &backends[1];
    let mut old = site.connection_to("backend-2");
    site.healthy(unwell, false);
    assert_eq!(site.answer(100), ["backend-1", "backend-3", "backend-4"]);
    assert!(ask(&mut old).contains("backend-2"), "it goes on");
    let reason = [("service", "web"), ("reason", "unhealthy")];
    let unwilling = unwell.metrics().unwrap().sum("jlb_service_unwilling", &reason);
    assert_eq!(unwilling, Some(1.0));
    let (_, status) = unwell.admin("/status").unwrap();
    assert!(
        status.replace([' ', '\n'], "").contains(r#""refuses":{"web":"unhealthy"}"#),
        "{status}"
    );
    site.healthy(unwell, true);
    assert_eq!(site.answer(50).len(), 4);
    assert!(ask(&mut old).contains("backend-2"));
}

/// An application on that host that says a word to whoever connects.
fn application(node: &Node, word: &Arc<Mutex<&'static str>>) {
    let bind = || TcpListener::bind(("127.0.0.1", AGENT_PORT));
    let listener = node.within(bind).unwrap().unwrap();
    let word = Arc::clone(word);
    // It ends with the test.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let said = *word.lock().unwrap();
            // Whoever has asked may be gone.
            let _ = stream.map(|mut stream| stream.write_all(said.as_bytes()));
        }
    });
}

#[test]
fn a_backend_whose_application_drains_gets_nothing_new_until_it_is_ready() {
    let agents = format!(
        "[[health]]\nservice = \"web\"\nagent_check = \"127.0.0.1:{AGENT_PORT}\"\ninterval = \"100ms\"\n\
         [[health]]\nservice = \"web\"\ntype = \"exec\"\ncommand = [\"true\"]\ninterval = \"100ms\"\n\
         [[health]]\nservice = \"gone\"\ntype = \"tcp\"\n"
    );
    // The agents start, though one of the checks is of no service.
    let site = site("drain", &agents, "reset");
    let word = Arc::new(Mutex::new("up 75%\n"));
    // Those of the others cannot be reached, which says nothing.
    application(&site.lab.node("backend-3").unwrap(), &word);
    assert_eq!(site.answer(50).len(), 4);
    let mut old = site.connection_to("backend-3");
    let drain = [("service", "web"), ("reason", "drain")];
    *word.lock().unwrap() = "DRAIN\n";
    site.wait("backend-3", "jlb_service_unwilling", &drain, 1.0);
    assert_eq!(site.answer(100), ["backend-1", "backend-2", "backend-4"]);
    assert!(ask(&mut old).contains("backend-3"), "it goes on");
    *word.lock().unwrap() = "ready\n";
    site.wait("backend-3", "jlb_service_unwilling", &drain, 0.0);
    assert_eq!(site.answer(50).len(), 4);
    // The other check of the same service.
    let metrics = site.lab.node("backend-3").unwrap().metrics().unwrap();
    let results =
        |result| metrics.sum("jlb_health_checks_total", &[("service", "web"), ("result", result)]);
    assert!(results("passed") > Some(1.0) && results("failed").is_none());
}

/// Threads that do nothing but that, until it is dropped.
struct Work(Arc<AtomicBool>);

impl Work {
    /// A quarter of all CPUs, at least.
    fn begin() -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..cpus.div_ceil(4) {
            let ends = Arc::clone(&ends);
            thread::spawn(move || while !ends.load(Ordering::Relaxed) {});
        }
        Self(ends)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_busy_host_refuses_and_takes_connections_only_when_it_must() {
    let site = site("busy", "[admission]\ncpu = 0.1\n", "force");
    let _work = Work::begin();
    // All hosts of a lab have the same CPUs.
    let overloaded = [("service", "web"), ("reason", "overloaded")];
    for node in site.lab.nodes_of(NodeKind::Backend) {
        site.wait(&node.name(), "jlb_service_unwilling", &overloaded, 1.0);
    }
    assert!(!site.answer(20).is_empty(), "who is asked last is forced");
    let trackers = site.lab.nodes_of(NodeKind::Tracker);
    let rejects = trackers.iter().filter_map(|node| {
        node.metrics().unwrap().sum("jlb_rejects_total", &[("reason", "overloaded")])
    });
    // Four of them refuse each of 40 connections.
    assert!(rejects.sum::<f64>() >= 160.0);
}
