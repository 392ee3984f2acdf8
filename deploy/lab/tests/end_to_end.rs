//! The whole chain: a real client, ECMP, ingress, trackers, agents, real servers.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jlb_lab::fault::{self, Fault};
use jlb_lab::topology::{CLIENT, ECHO_PORT, HTTP_PORT, NodeKind, VIP};
use jlb_lab::traffic::{self, by_backend};
use jlb_lab::{Jlb, Lab, LabConfig, Node, Service};

/// One lab at a time: ten daemons share two cores with their clients, and tests here measure times.
static TURN: Mutex<()> = Mutex::new(());

/// Longest that one request may take where none is meant to fail. A lost packet costs a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for a transfer of 100 MB through user-space hops on two cores.
const TRANSFER: Duration = Duration::from_secs(100);
/// A reload is taken up within this.
const RELOAD: Duration = Duration::from_millis(600);
/// Probe of agents is 100 ms × 3. Trackers count no round in which they were descheduled themselves, and ten daemons share
/// two cores here: so twice that, and the length of a request.
const SUSPICION: Duration = Duration::from_secs(1);
/// `dead_after`, 3 s, and until a second member has said the same (Probe 20 ms × 3).
const DEATH: Duration = Duration::from_millis(3500);
/// From a client's packet to the RST that says that its backend is dead: the target is 100 ms.
const TOLD: Duration = Duration::from_millis(500);
/// A host whose cable was out asks for its gateway's Ethernet address again: not before 1 s after the question that was
/// lost (`retrans_time_ms` of the kernel), and that one may be lost, too. Then one round of Probe.
const RETURN: Duration = Duration::from_millis(2500);

struct Site {
    lab: Lab,
    client: Node,
    _turn: MutexGuard<'static, ()>,
}

fn site(name: &str, config: &LabConfig, jlb: Jlb) -> Site {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = format!("{name}-{}", std::process::id());
    let lab = Lab::up(&name, &LabConfig { jlb: Some(jlb), ..config.clone() }).unwrap();
    let client = lab.node("client").unwrap();
    Site { lab, client, _turn: turn }
}

fn full(name: &str) -> Site {
    site(name, &LabConfig::default(), Jlb::default())
}

impl Site {
    /// All of them, over both families, without one failure.
    fn all_succeed(&self, count: u32) -> Vec<traffic::Request> {
        let mut all = Vec::new();
        for vip in VIP {
            let requests = traffic::requests(&self.client, vip, count, PATIENCE).unwrap();
            let failed = requests.iter().filter(|request| request.backend.is_none()).count();
            assert_eq!(failed, 0, "of {count} requests to {vip}");
            all.extend(requests);
        }
        all
    }

    fn connect(&self, to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
        let stream = self.client.within(|| TcpStream::connect_timeout(&to, patience)).unwrap()?;
        stream.set_read_timeout(Some(patience))?;
        Ok(stream)
    }

    /// Sum over all hosts of a kind; none if none of them has such a sample.
    fn sum(&self, kind: NodeKind, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let nodes = self.lab.nodes_of(kind);
        nodes
            .iter()
            .filter_map(|node| node.metrics().unwrap().sum(metric, labels))
            .reduce(|a, b| a + b)
    }
}

/// One more request on a connection that stays open.
fn ask_again(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = [0; 1000];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

const DAEMONS: [NodeKind; 3] = [NodeKind::Ingress, NodeKind::Tracker, NodeKind::Backend];

#[test]
fn the_first_curl_passes_through_one_ingress_two_trackers_and_one_backend() {
    let config = LabConfig { ingresses: 1, trackers: 2, backends: 1, ..LabConfig::default() };
    let site = site("first", &config, Jlb::default());
    site.all_succeed(1);
    // Neither end sees the balancer: nginx has the client's address, and the VIP for its own.
    let log = fs::read_to_string(site.lab.path().join("nodes/backend-1/access.log")).unwrap();
    for (client, vip) in CLIENT.iter().zip(VIP) {
        let seen = log
            .lines()
            .any(|line| line.contains(&client.to_string()) && line.contains(&format!("{vip} GET")));
        assert!(seen, "{client} to {vip} in\n{log}");
    }
}

#[test]
fn a_thousand_requests_of_each_family_succeed_and_every_host_has_its_share() {
    let site = full("thousand");
    let requests = site.all_succeed(1000);
    assert_eq!(by_backend(&requests).len(), 4, "{:?}", by_backend(&requests));
    for node in site.lab.nodes_of(NodeKind::Ingress) {
        let metrics = node.metrics().unwrap();
        let opened =
            metrics.sum("jlb_opens_total", &[("service", "web"), ("result", "accepted")]).unwrap();
        assert!(opened > 300.0, "{} opened {opened} of 2000 flows", node.name());
    }
}

#[test]
fn members_may_speak_v6_with_each_other() {
    let site = site("v6", &LabConfig::default(), Jlb { prefer_v6: true, ..Jlb::default() });
    site.all_succeed(100);
}

#[test]
fn two_workers_share_the_flows_and_hand_over_what_is_not_theirs() {
    let site = site("workers", &LabConfig::default(), Jlb { workers: 2, ..Jlb::default() });
    site.all_succeed(300);
    assert!(
        site.sum(NodeKind::Ingress, "jlb_worker_handed_over_packets_total", &[]).unwrap() > 0.0
    );
}

#[test]
fn replies_may_go_straight_to_the_client() {
    let mut jlb = Jlb::default();
    for service in &mut jlb.services {
        service.more = "return_path = \"direct\"".to_owned();
    }
    let site = site("direct", &LabConfig::default(), jlb);
    site.all_succeed(100);
    let through_egress = [("path", "egress")];
    assert_eq!(
        site.sum(NodeKind::Ingress, "jlb_forwarded_packets_total", &through_egress),
        Some(0.0)
    );
}

#[test]
fn without_trackers_established_connections_carry_on_and_new_ones_fail() {
    let site = full("trackers");
    let to = SocketAddr::new(VIP[0], HTTP_PORT);
    let mut old = site.connect(to, PATIENCE).unwrap();
    assert!(ask_again(&mut old).unwrap().contains("backend-"));

    fault::inject(&site.lab, &Fault::Stop(vec!["trackers".to_owned()])).unwrap();
    assert!(site.connect(to, Duration::from_secs(2)).is_err());
    assert!(ask_again(&mut old).unwrap().contains("backend-"));

    site.lab.start_daemons(&site.lab.nodes_of(NodeKind::Tracker)).unwrap();
    site.all_succeed(20);
    assert!(ask_again(&mut old).unwrap().contains("backend-"));
}

#[test]
fn a_client_of_a_dead_backend_is_told_so_with_its_next_packet() {
    let site = full("dead");
    let to = SocketAddr::from((VIP[0], HTTP_PORT));
    let mut lost = Vec::new();
    let mut others = Vec::new();
    // Enough that one backend of four has some: without any, one time in 3 million.
    for _ in 0..52 {
        let mut stream = site.connect(to, PATIENCE).unwrap();
        let of = ask_again(&mut stream).unwrap();
        if of.contains("backend-3") { lost.push(stream) } else { others.push(stream) }
    }
    assert!(!lost.is_empty());
    fault::inject(&site.lab, &Fault::Unplug(vec!["backend-3".to_owned()])).unwrap();
    let witnesses = [NodeKind::Tracker, NodeKind::Ingress].map(|kind| site.lab.nodes_of(kind));
    assert!(site.lab.wait_seen(&witnesses.concat(), "backend-3", false, SUSPICION).unwrap());
    std::thread::sleep(DEATH);
    for stream in &mut lost {
        let begin = Instant::now();
        let told = ask_again(stream).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::ConnectionReset);
        assert!(begin.elapsed() < TOLD, "{:?}", begin.elapsed());
    }
    for stream in &mut others {
        assert!(ask_again(stream).unwrap().contains("backend-"));
    }
}

#[test]
fn a_backend_that_is_cut_off_gets_nothing_new() {
    let site = full("cut-off");
    fault::inject(&site.lab, &Fault::Unplug(vec!["backend-3".to_owned()])).unwrap();
    let trackers = site.lab.nodes_of(NodeKind::Tracker);
    assert!(site.lab.wait_seen(&trackers, "backend-3", false, SUSPICION).unwrap());
    let requests = site.all_succeed(100);
    assert!(!by_backend(&requests).contains_key("backend-3"));
    fault::heal(&site.lab).unwrap();
    assert!(site.lab.wait_seen(&trackers, "backend-3", true, RETURN).unwrap());
    assert!(by_backend(&site.all_succeed(100)).contains_key("backend-3"));
}

#[test]
fn a_backend_that_refuses_gets_no_connection_and_all_requests_succeed_elsewhere() {
    let mut jlb = Jlb::default();
    jlb.services[0].backends = vec![
        "\"backend-1\"".to_owned(),
        "{ member = \"backend-2\", admission = \"refuse\" }".to_owned(),
        "\"backend-3\"".to_owned(),
        "\"backend-4\"".to_owned(),
    ];
    let site = site("refuse", &LabConfig::default(), jlb);
    let requests = site.all_succeed(200);
    assert!(!by_backend(&requests).contains_key("backend-2"));
    let rejects = DAEMONS
        .iter()
        .filter_map(|&kind| site.sum(kind, "jlb_rejects_total", &[("backend", "backend-2")]));
    assert!(rejects.sum::<f64>() > 0.0);
}

#[test]
fn a_client_that_all_backends_refuse_is_told_so_at_once() {
    let mut jlb = Jlb::default();
    for service in &mut jlb.services {
        service.more = "admission = \"refuse\"\non_exhausted = \"reset\"".to_owned();
    }
    let site = site("reset", &LabConfig::default(), jlb);
    for vip in VIP {
        // By a reset, and by an ICMP error.
        for (what, port) in [("TCP", HTTP_PORT), ("UDP", ECHO_PORT)] {
            let mut worst = Duration::ZERO;
            for _ in 0..20 {
                let begin = Instant::now();
                let to = SocketAddr::new(vip, port);
                let error = match port {
                    ECHO_PORT => site.client.within(|| echo(to)).unwrap().unwrap_err(),
                    _ => site.connect(to, PATIENCE).unwrap_err(),
                };
                worst = worst.max(begin.elapsed());
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{what} {vip}: {error}");
            }
            assert!(worst < Duration::from_millis(100), "{what} {vip}: refused after {worst:?}");
        }
    }
    // Each refusal is counted by service, backend and reason.
    for service in ["web", "echo"] {
        for backend in site.lab.nodes_of(NodeKind::Backend).iter().map(Node::name) {
            let labels = [("service", service), ("backend", &backend), ("reason", "refuse")];
            let count = site.sum(NodeKind::Tracker, "jlb_rejects_total", &labels);
            assert!(count.is_some_and(|n| n > 0.0), "{service} {backend}");
        }
    }
}

/// Sends a datagram of a new flow and waits for the answer.
fn echo(to: SocketAddr) -> std::io::Result<usize> {
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"hello")?;
    socket.recv(&mut [0; 64])
}

#[test]
fn a_thousand_udp_flows_of_each_family_stay_each_on_one_backend() {
    let site = full("udp");
    for vip in VIP {
        let flows = traffic::udp_flows(&site.client, vip, 1000, 3, PATIENCE).unwrap();
        // Nobody sends a datagram again, and ten daemons on two cores may find a receive ring full: one in a thousand.
        let answers: u32 = flows.iter().map(|flow| flow.answers).sum();
        assert!(answers >= 2997, "{} of 3000 echoes from {vip} were lost", 3000 - answers);
        assert!(flows.iter().all(|flow| flow.backends.len() == 1));
        let all: BTreeSet<_> = flows.iter().flat_map(|flow| &flow.backends).collect();
        assert_eq!(all.len(), 4);
    }
}

fn transfers(site: &Site) {
    for (family, vip) in ["v4", "v6"].into_iter().zip(VIP) {
        assert!(traffic::download(&site.lab, &site.client, vip, TRANSFER).unwrap(), "{family}");
        assert!(
            traffic::upload(&site.lab, &site.client, vip, family, TRANSFER).unwrap(),
            "{family}"
        );
    }
}

#[test]
fn a_hundred_megabytes_pass_both_ways() {
    let config = LabConfig { payload_bytes: 100_000_000, ..LabConfig::default() };
    transfers(&site("large", &config, Jlb::default()));
}

#[test]
fn a_hundred_megabytes_pass_a_narrow_hop_behind_the_balancer() {
    let config = LabConfig { payload_bytes: 100_000_000, ..LabConfig::default() };
    let site = site("narrow", &config, Jlb { mtu: 1300, ..Jlb::default() });
    fault::inject(&site.lab, &Fault::Mtu(1300)).unwrap();
    transfers(&site);
}

#[test]
fn after_ten_thousand_connections_and_silence_nothing_is_held() {
    let site = full("quiet");
    site.all_succeed(10);
    let buffers = || site.lab.nodes().iter().filter_map(buffers_in_use).collect::<Vec<f64>>();
    std::thread::sleep(Duration::from_secs(11));
    let before = buffers();
    for _ in 0..5 {
        site.all_succeed(1000);
    }
    std::thread::sleep(Duration::from_secs(5));
    for kind in DAEMONS {
        for node in site.lab.nodes_of(kind) {
            let metrics = node.metrics().unwrap();
            let flows = metrics.sum("jlb_flows", &[("protocol", "tcp")]);
            let each: Vec<_> = metrics.all("jlb_flows").collect();
            assert_eq!(flows, Some(0.0), "{}: {each:?}", node.name());
        }
    }
    std::thread::sleep(Duration::from_secs(5));
    for kind in [NodeKind::Tracker, NodeKind::Backend] {
        assert_eq!(site.sum(kind, "jlb_remembered", &[]), Some(0.0), "{kind:?}");
    }
    // Probe and neighbour discovery go on, so a few are always on their way.
    let after = buffers();
    let held = after.iter().zip(&before).any(|(after, before)| *after > before + 16.0);
    assert!(!held, "packet buffers in use: {before:?} at first, {after:?} at the end");
}

fn buffers_in_use(node: &Node) -> Option<f64> {
    node.daemon().unwrap()?;
    node.metrics().unwrap().sum("jlb_packet_buffers", &[("state", "in_use")])
}

#[test]
fn an_agent_that_was_killed_takes_its_flows_up_again() {
    let site = site("agent", &LabConfig { backends: 1, ..LabConfig::default() }, Jlb::default());
    let to = SocketAddr::new(VIP[1], HTTP_PORT);
    let mut old = site.connect(to, PATIENCE).unwrap();
    assert!(ask_again(&mut old).unwrap().contains("backend-1"));
    let backend = site.lab.node("backend-1").unwrap();
    let agent = backend.daemon().unwrap().unwrap();
    agent.signal(nix::sys::signal::Signal::SIGKILL);
    assert!(agent.wait(PATIENCE));
    assert!(ask_again(&mut old).unwrap().contains("backend-1"), "eBPF goes on without the daemon");
    site.lab.start_daemons(&[backend]).unwrap();
    site.all_succeed(20);
    assert!(ask_again(&mut old).unwrap().contains("backend-1"));
}

#[test]
fn a_reload_moves_new_flows_without_a_failure() {
    let mut site = full("reload");
    site.all_succeed(20);
    site.lab
        .reload(|jlb| {
            jlb.services[0] = Service {
                backends: vec!["\"backend-4\"".to_owned()],
                ..Service::new("web", "tcp", 80)
            }
        })
        .unwrap();
    std::thread::sleep(RELOAD);
    let requests = site.all_succeed(50);
    assert_eq!(by_backend(&requests).into_keys().collect::<Vec<_>>(), ["backend-4"]);
}

#[test]
fn prometheus_takes_what_every_daemon_says() {
    let site = full("metrics");
    site.all_succeed(10);
    for kind in DAEMONS {
        for node in site.lab.nodes_of(kind) {
            let (status, text) = node.admin("/metrics").unwrap();
            assert_eq!(status, 200);
            let mut promtool = Command::new("promtool")
                .args(["check", "metrics"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let output = promtool.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && said.is_empty(), "{}: {said}", node.name());
        }
    }
}

#[test]
fn an_idle_site_costs_less_than_a_third_of_one_core() {
    let site = full("idle");
    site.all_succeed(10);
    // Workers back off after 10 ms; agents settle.
    std::thread::sleep(Duration::from_secs(2));
    let ticks = || -> u64 {
        site.lab
            .nodes()
            .iter()
            .filter_map(|node| node.daemon().unwrap())
            .map(|daemon| daemon.cpu_ticks().unwrap())
            .sum()
    };
    let (before, begin) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    // USER_HZ is 100 on every Linux that Debian builds.
    let busy = (ticks() - before) as f64 / 100.0 / begin.elapsed().as_secs_f64();
    assert!(busy <= 0.30, "the idle site costs {:.0} % of a core", busy * 100.0);
}
