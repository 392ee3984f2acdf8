//! What does not belong on the wire is dropped and counted, and disturbs nothing; what does belong there is understood by
//! decoders that are not ours.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jlb_lab::topology::{CLIENT, NodeKind, VIP};
use jlb_lab::{Jlb, Lab, LabConfig, Metrics, Node, Running, traffic};
use nix::sys::signal::Signal;

const PYTHON: &str = "/usr/bin/python3";
/// Made by scapy, see there.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile.py");
const PATIENCE: Duration = Duration::from_secs(5);
/// Each packet is sent so often.
const COPIES: u32 = 3;

/// (from, to, case of hostile.py, reason). The kind of a message counts only once its MAC is right.
const HOSTILE: &[(&str, &str, &str, &str)] = &[
    ("tracker-1", "ingress-1", "cut-geneve", "truncated"),
    ("tracker-1", "ingress-1", "cut-options", "truncated"),
    ("tracker-1", "ingress-1", "geneve-version", "bad_geneve"),
    ("tracker-1", "ingress-1", "critical-option", "unknown_critical_option"),
    ("tracker-1", "ingress-1", "control-version", "wrong_version"),
    ("tracker-1", "ingress-1", "control-kind", "bad_mac"),
    ("tracker-1", "ingress-1", "bad-mac", "bad_mac"),
    ("backend-1", "ingress-1", "cut-inner", "truncated"),
    ("backend-1", "ingress-1", "inner-not-vip", "inner_not_vip"),
    ("backend-1", "ingress-1", "inner-from-vip-to-underlay", "inner_to_underlay"),
    ("client", "ingress-1", "bad-mac", "not_a_member"),
    ("ingress-1", "tracker-1", "cut-geneve", "truncated"),
    ("ingress-1", "tracker-1", "geneve-version", "bad_geneve"),
    ("ingress-1", "tracker-1", "critical-option", "unknown_critical_option"),
    ("ingress-1", "tracker-1", "control-version", "wrong_version"),
    ("ingress-1", "tracker-1", "control-kind", "bad_mac"),
    ("ingress-1", "tracker-1", "bad-mac-open", "bad_mac"),
    ("client", "tracker-1", "bad-mac-open", "not_a_member"),
    ("tracker-1", "backend-1", "geneve-version", "bad_geneve"),
    ("tracker-1", "backend-1", "critical-option", "unknown_critical_option"),
    ("tracker-1", "backend-1", "control-version", "wrong_version"),
    ("tracker-1", "backend-1", "bad-mac-open", "bad_mac"),
    ("ingress-1", "backend-1", "inner-not-vip", "inner_not_vip"),
    ("ingress-1", "backend-1", "plain-data", "no_flow"),
    ("client", "backend-1", "bad-mac-open", "not_a_member"),
];

/// One lab at a time: daemons that wait for a core lose packets.
static TURN: Mutex<()> = Mutex::new(());

fn up(name: &str) -> (Lab, MutexGuard<'static, ()>) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = LabConfig {
        ingresses: 1,
        trackers: 2,
        backends: 1,
        jlb: Some(Jlb::default()),
        ..LabConfig::default()
    };
    (Lab::up(&format!("{name}-{}", std::process::id()), &config).unwrap(), turn)
}

fn drops(metrics: &Metrics, reason: &str) -> f64 {
    metrics.sum("jlb_dropped_packets_total", &[("reason", reason)]).unwrap_or(0.0)
}

fn dropped(node: &Node, reason: &str) -> f64 {
    drops(&node.metrics().unwrap(), reason)
}

fn all_succeed(lab: &Lab) {
    for vip in VIP {
        let requests = traffic::requests(&lab.node("client").unwrap(), vip, 20, PATIENCE).unwrap();
        assert!(requests.iter().all(|request| request.backend.is_some()), "{requests:?}");
    }
}

#[test]
fn hostile_packets_are_dropped_with_their_reason_and_disturb_nothing() {
    let (lab, _turn) = up("hostile");
    all_succeed(&lab);
    let daemons = || -> Vec<i32> {
        lab.nodes()
            .iter()
            .filter_map(|node| node.daemon().unwrap())
            .map(|daemon| daemon.pid)
            .collect()
    };
    let before = daemons();

    let mut groups: BTreeMap<(&str, &str), Vec<(&str, &str)>> = BTreeMap::new();
    for &(from, to, case, reason) in HOSTILE {
        groups.entry((from, to)).or_default().push((case, reason));
    }
    let mut wrong = Vec::new();
    for ((from, to), cases) in groups {
        let (from_node, to_node) = (lab.node(from).unwrap(), lab.node(to).unwrap());
        let target: IpAddr = to_node.addresses()[0];
        let mut arguments =
            vec![SCRIPT.to_owned(), COPIES.to_string(), target.to_string(), VIP[0].to_string()];
        arguments.extend(cases.iter().map(|(case, _)| (*case).to_owned()));
        let before = to_node.metrics().unwrap();
        from_node.run(PYTHON, &arguments).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let after = to_node.metrics().unwrap();

        let mut expected: BTreeMap<&str, u32> = BTreeMap::new();
        for (_, reason) in &cases {
            *expected.entry(reason).or_default() += COPIES;
        }
        for (reason, count) in expected {
            let counted = drops(&after, reason) - drops(&before, reason);
            if counted < f64::from(count) {
                wrong.push(format!("{from} to {to}: {counted} of {count} counted as {reason}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(daemons(), before, "no daemon has died");
    all_succeed(&lab);
}

#[test]
fn geneve_to_a_vip_is_client_traffic() {
    let (lab, _turn) = up("vip6081");
    let ingress = lab.node("ingress-1").unwrap();
    let count = dropped(&ingress, "no_service");
    let arguments = [SCRIPT, &COPIES.to_string(), "10.77.0.11", &VIP[0].to_string(), "vip-6081"];
    lab.node("client").unwrap().run(PYTHON, &arguments).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(dropped(&ingress, "no_service") - count >= f64::from(COPIES));
}

/// Captures at the far end of a host's cable until it is told to stop.
fn start_capture(lab: &Lab, port: &str, file: &Path) -> Running {
    let router = lab.node("router").unwrap();
    let path = file.to_str().unwrap();
    let arguments =
        ["--immediate-mode", "-Z", "root", "-i", port, "-U", "-w", path, "udp port 6081"];
    let tcpdump = router.start("tcpdump", "tcpdump", &arguments).unwrap();
    // It writes the file's head when it listens.
    router.wait_ready(&tcpdump, || file.metadata().is_ok_and(|file| file.len() > 0)).unwrap();
    tcpdump
}

fn stop_capture(tcpdump: &Running) {
    // Let it write what is under way.
    std::thread::sleep(Duration::from_millis(500));
    assert!(tcpdump.signal(Signal::SIGINT));
    assert!(tcpdump.wait(PATIENCE));
}

#[test]
fn a_message_that_is_sent_again_is_dropped_as_replayed() {
    let (lab, _turn) = up("replay");
    let [ingress, tracker] = ["ingress-1", "tracker-1"].map(|name| lab.node(name).unwrap());
    let file = lab.path().join("replay.pcap");
    let capture = start_capture(&lab, "tracker-1", &file);
    all_succeed(&lab);
    stop_capture(&capture);
    let count = dropped(&tracker, "replayed");
    let [from, to] = [&ingress, &tracker].map(|node| node.addresses()[0].to_string());
    ingress.run(PYTHON, &[SCRIPT, "replay", file.to_str().unwrap(), &from, &to]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(dropped(&tracker, "replayed") > count);
    all_succeed(&lab);
}

#[test]
fn tshark_and_scapy_decode_every_packet_that_our_daemons_send() {
    let (lab, _turn) = up("decode");
    let file = lab.path().join("all.pcap");
    let capture = start_capture(&lab, "ingress-1", &file);
    all_succeed(&lab);
    traffic::udp_flows(&lab.node("client").unwrap(), VIP[1], 5, 2, PATIENCE).unwrap();
    stop_capture(&capture);

    let tshark = Command::new("tshark")
        .arg("-r")
        .arg(&file)
        .args([
            "-T",
            "fields",
            "-E",
            "separator=;",
            "-e",
            "geneve.proto_type",
            "-e",
            "_ws.malformed",
            "-e",
            "_ws.col.Protocol",
        ])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let mut protocols: BTreeMap<String, usize> = BTreeMap::new();
    for line in String::from_utf8(tshark.stdout).unwrap().lines() {
        let fields: Vec<&str> = line.split(';').collect();
        assert!(!fields[0].is_empty(), "not decoded as Geneve: {line}");
        assert_eq!(fields[1], "", "malformed: {line}");
        *protocols.entry(fields[0].to_owned()).or_default() += 1;
    }
    // Both families inside, and Probe.
    for proto in ["0x0800", "0x86dd", "0x88b5"] {
        assert!(protocols.contains_key(proto), "{proto} in {protocols:?}");
    }

    let script = "import sys\n\
        from scapy.all import IP, IPv6, UDP, rdpcap\n\
        from scapy.contrib.geneve import GENEVE\n\
        inner = 0\n\
        for packet in rdpcap(sys.argv[1]):\n\
        \x20   geneve = packet[GENEVE]\n\
        \x20   assert geneve.version == 0 and geneve.vni == 0, geneve.show(dump=True)\n\
        \x20   if geneve.proto in (0x0800, 0x86DD):\n\
        \x20       inside = geneve.payload\n\
        \x20       assert isinstance(inside, (IP, IPv6)), geneve.show(dump=True)\n\
        \x20       assert sys.argv[2 if isinstance(inside, IP) else 3] in (inside.src, inside.dst)\n\
        \x20       inner += 1\n\
        assert inner > 100, inner\n";
    let output = Command::new(PYTHON)
        .args(["-c", script])
        .arg(&file)
        .args(CLIENT.map(|address| address.to_string()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lab.nodes_of(NodeKind::Ingress).iter().all(Node::is_ready));
}
