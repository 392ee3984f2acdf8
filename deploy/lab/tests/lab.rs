//! The lab itself, without JLB: up, reachable, down, and nothing left, whatever happens on the way.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jlb_lab::fault::{self, Fault};
use jlb_lab::topology::{NodeKind, VIP};
use jlb_lab::traffic::{self, UdpFlow};
use jlb_lab::{Error, Lab, LabConfig, Node};
use jlb_wire::Protocol;

/// A name that no other test, and no other run, uses.
fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn small() -> LabConfig {
    LabConfig { ingresses: 1, trackers: 1, backends: 2, ..LabConfig::default() }
}

fn curl(client: &Node, address: IpAddr) -> Result<String, Error> {
    client.run("curl", &["-sS", "--max-time", "2", &traffic::url(address, "/")])
}

/// A UDP socket on a host, on a port of its own, which takes answers only from where it sends to.
fn connected(node: &Node, to: SocketAddr) -> UdpSocket {
    node.within(|| {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    })
    .unwrap()
}

fn namespaces_of(lab: &str) -> Vec<String> {
    let prefix = format!("jlb.{lab}.");
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Ids of all processes on all hosts of a lab.
fn inside(lab: &str) -> Vec<String> {
    let mut pids = Vec::new();
    for namespace in namespaces_of(lab) {
        let output = Command::new("ip").args(["netns", "pids", &namespace]).output().unwrap();
        pids.extend(
            String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned),
        );
    }
    pids
}

/// Zombies count as gone: on some machines nobody waits for orphans.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with(['Z', 'X']))
}

fn assert_nothing_left(lab: &str, were_inside: &[String]) {
    assert_eq!(namespaces_of(lab), Vec::<String>::new());
    assert!(!Path::new("/run/jlb-lab").join(lab).exists());
    let left: Vec<_> = were_inside.iter().filter(|pid| is_alive(pid)).collect();
    assert!(left.is_empty(), "still there: {left:?}");
    let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    for name in ["ingress-1", "tracker-1", "backend-1", "uplink"] {
        assert!(
            !links.contains(&format!(" {name}@")),
            "left in the machine's own namespace:\n{links}"
        );
    }
}

#[test]
fn a_client_reaches_every_backend_and_nothing_is_left_afterwards() {
    let name = fresh_name();
    let lab = Lab::up(&name, &LabConfig::default()).unwrap();
    let client = lab.node("client").unwrap();
    for backend in lab.nodes_of(NodeKind::Backend) {
        for address in backend.addresses() {
            assert_eq!(curl(&client, address).unwrap().trim(), backend.name());
        }
    }
    let pids = inside(&name);
    // Master and worker of nginx, and the echo, on four backends.
    assert_eq!(pids.len(), 12, "{pids:?}");
    drop(lab);
    assert_nothing_left(&name, &pids);
    assert!(!Lab::down(&name).unwrap(), "down again says that there was none");
}

#[test]
fn every_host_reaches_the_backends_over_both_families() {
    let lab = Lab::up(&fresh_name(), &small()).unwrap();
    let backend = lab.node("backend-2").unwrap();
    for node in lab.nodes() {
        for address in backend.addresses() {
            let to = SocketAddr::new(address, 80);
            let connected =
                node.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).unwrap();
            assert!(connected.is_ok(), "{} to {to}: {connected:?}", node.name());
        }
    }
}

#[test]
fn the_udp_echo_answers_from_the_address_that_was_asked_and_names_its_host() {
    let lab = Lab::up(&fresh_name(), &small()).unwrap();
    let backend = lab.node("backend-2").unwrap();
    // A second address each, as a VIP on lo will be. A connected socket takes no answer from another address.
    backend
        .shell("ip addr add 10.77.1.200/32 dev lo; ip addr add fd00:77:1::200/128 dev lo nodad")
        .unwrap();
    let fabric = lab.node("fabric").unwrap();
    fabric.shell("ip route add 10.77.1.200 via 10.77.1.72; ip route add fd00:77:1::200 via fd00:77:1::72").unwrap();
    for asked in ["10.77.1.200:7", "[fd00:77:1::200]:7"] {
        let socket = connected(&lab.node("client").unwrap(), asked.parse().unwrap());
        socket.send(b"hello").unwrap();
        let mut answer = [0; 100];
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"backend-2 hello", "asked {asked}");
    }
}

#[test]
fn requests_files_and_datagrams_come_back_whole() {
    let lab = Lab::up(&fresh_name(), &LabConfig { payload_bytes: 5_000_003, ..small() }).unwrap();
    let client = lab.node("client").unwrap();
    let patience = Duration::from_secs(20);
    for (family, address) in lab.node("backend-2").unwrap().addresses().into_iter().enumerate() {
        let requests = traffic::requests(&client, address, 20, patience).unwrap();
        assert_eq!(traffic::by_backend(&requests), BTreeMap::from([("backend-2", 20)]));
        let ports: BTreeSet<u16> = requests.iter().map(|request| request.client_port).collect();
        assert_eq!(ports.len(), 20, "a connection for each");

        assert!(traffic::download(&lab, &client, address, patience).unwrap());
        assert!(
            traffic::upload(&lab, &client, address, &format!("file-{family}"), patience).unwrap()
        );

        let flows = traffic::udp_flows(&client, address, 10, 3, patience).unwrap();
        let expected = UdpFlow { answers: 3, backends: BTreeSet::from(["backend-2".to_owned()]) };
        assert_eq!(flows, vec![expected; 10]);
    }
    assert_eq!(fs::metadata(lab.payload()).unwrap().len(), 5_000_003);

    let silent = "10.77.1.99".parse().unwrap();
    let patience = Duration::from_millis(300);
    let failed = traffic::requests(&client, silent, 2, patience).unwrap();
    assert!(failed.iter().all(|request| request.backend.is_none()), "{failed:?}");
    let unanswered = traffic::udp_flows(&client, silent, 1, 1, patience).unwrap();
    assert_eq!(unanswered, [UdpFlow::default()]);
}

#[test]
fn the_router_spreads_a_clients_connections_over_all_ingress_hosts() {
    let config = LabConfig { servers: false, ..LabConfig::default() };
    let lab = Lab::up(&fresh_name(), &config).unwrap();
    let sent = || -> BTreeMap<String, u64> {
        let ports = lab.nodes_of(NodeKind::Ingress).into_iter().map(|node| node.name());
        ports.map(|port| (port.clone(), packets_sent(&lab, &port))).collect()
    };
    // 300 flows to one VIP: 100 for each ingress, give or take 5.5 sigma = 45 (at 3 sigma, one run in 200 failed), and a few
    // neighbour discoveries.
    let client = lab.node("client").unwrap();
    for vip in VIP {
        let before = sent();
        for _ in 0..300 {
            connected(&client, SocketAddr::new(vip, 9)).send(b"x").unwrap();
        }
        let after = sent();
        for (ingress, count) in after {
            let got = count - before[&ingress];
            assert!((55..=155).contains(&got), "{ingress} got {got} of 300 packets for {vip}");
        }
    }
}

#[test]
fn the_router_tells_where_it_sends_a_flow() {
    let config = LabConfig { servers: false, ..LabConfig::default() };
    let lab = Lab::up(&fresh_name(), &config).unwrap();
    let client = lab.node("client").unwrap();
    let mut ingresses = BTreeSet::new();
    let IpAddr::V4(vip) = VIP[0] else { panic!("the first VIP is of IPv4") };
    let vip = SocketAddrV4::new(vip, 9);
    for _ in 0..20 {
        let socket = connected(&client, vip.into());
        let SocketAddr::V4(from) = socket.local_addr().unwrap() else { panic!("of IPv4") };
        let ingress = lab.ingress_of(from, vip, Protocol::Udp).unwrap();
        let before = packets_sent(&lab, &ingress);
        for _ in 0..20 {
            socket.send(b"x").unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
        let after = packets_sent(&lab, &ingress);
        assert!(after >= before + 20, "{from} to {vip} did not go to {ingress}");
        ingresses.insert(ingress);
    }
    assert_eq!(ingresses.len(), 3);
}

/// Packets that the router has sent to a host.
fn packets_sent(lab: &Lab, to: &str) -> u64 {
    let json = lab.node("router").unwrap().run("ip", &["-j", "-s", "link", "show", to]).unwrap();
    let link: serde_json::Value = serde_json::from_str(&json).unwrap();
    link[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

#[test]
fn two_labs_stand_side_by_side() {
    let (one, two) = (fresh_name(), fresh_name());
    let first = Lab::up(&one, &small()).unwrap();
    let second = Lab::up(&two, &small()).unwrap();
    assert!(matches!(Lab::up(&one, &small()), Err(Error::Exists(name)) if name == one));
    let address = first.node("backend-1").unwrap().addresses()[0];
    for lab in [&first, &second] {
        assert_eq!(curl(&lab.node("client").unwrap(), address).unwrap().trim(), "backend-1");
    }
    let log =
        |lab: &Lab| fs::read_to_string(lab.path().join("nodes/backend-1/access.log")).unwrap();
    assert_eq!((log(&first).lines().count(), log(&second).lines().count()), (1, 1));

    let pids = inside(&one);
    drop(first);
    assert_nothing_left(&one, &pids);
    assert_eq!(curl(&second.node("client").unwrap(), address).unwrap().trim(), "backend-1");
}

#[test]
fn a_lab_whose_maker_was_killed_half_way_is_taken_down_whole() {
    // The whole of `up` takes 150 to 500 ms.
    for (round, delay) in [5, 20, 40, 60, 80, 110, 140, 180, 240, 320].into_iter().enumerate() {
        let name = fresh_name();
        let mut maker = Command::new(env!("CARGO_BIN_EXE_jlb-lab"))
            .args(["--lab", &name, "up", "--no-jlb"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        maker.kill().unwrap();
        maker.wait().unwrap();
        // A tool that `up` had just started (ip -batch) may still be at work.
        std::thread::sleep(Duration::from_millis(100));

        let pids = inside(&name);
        if round % 2 == 0 {
            Lab::down(&name).unwrap();
        } else {
            // The next lab takes orphans down, unless the maker had come to its end and left the lab on purpose.
            let kept = Lab::status(&name).is_ok_and(|status| status.state == "up");
            drop(Lab::up(&fresh_name(), &LabConfig { servers: false, ..small() }).unwrap());
            if kept {
                Lab::down(&name).unwrap();
            }
        }
        assert_nothing_left(&name, &pids);
    }
}

#[test]
fn faults_do_what_they_say_and_are_mended() {
    let lab = Lab::up(&fresh_name(), &small()).unwrap();
    let client = lab.node("client").unwrap();
    let backend = lab.node("backend-1").unwrap();
    let names = vec![backend.name()];
    let reachable = || backend.addresses().map(|address| curl(&client, address).is_ok());
    assert_eq!(reachable(), [true, true]);

    let faults = [
        Fault::Freeze(names.clone()),
        Fault::Unplug(names.clone()),
        Fault::Silence(names.clone()),
        Fault::Partition { one: names.clone(), other: vec!["client".to_owned()] },
        Fault::Partition { one: vec!["client".to_owned()], other: names.clone() },
        Fault::Loss { nodes: names.clone(), permille: 1000 },
    ];
    for fault in faults {
        fault::inject(&lab, &fault).unwrap();
        assert_eq!(reachable(), [false, false], "{fault:?}");
        fault::heal(&lab).unwrap();
        assert_eq!(reachable(), [true, true], "after {fault:?}");
    }

    let pids = inside(lab.name()).len();
    fault::inject(&lab, &Fault::Kill(names)).unwrap();
    assert_eq!(reachable(), [false, false]);
    fault::inject(&lab, &Fault::Stop(vec!["backend-1".to_owned()])).unwrap();
    assert_eq!(inside(lab.name()).len(), pids - 3, "only those of backend-1 have ended");
}

#[test]
fn a_partition_is_between_two_sets_only() {
    let lab = Lab::up(&fresh_name(), &small()).unwrap();
    let [one, other] = ["backend-1", "backend-2"].map(|name| lab.node(name).unwrap());
    let (one_set, other_set) = (vec![one.name()], vec![other.name()]);
    fault::inject(&lab, &Fault::Partition { one: one_set, other: other_set }).unwrap();
    let client = lab.node("client").unwrap();
    for (from, to, passes) in [
        (&one, &other, false),
        (&other, &one, false),
        (&client, &one, true),
        (&client, &other, true),
    ] {
        for address in to.addresses() {
            let answer = curl(from, address);
            assert_eq!(answer.is_ok(), passes, "{} to {address}: {answer:?}", from.name());
        }
    }
}

#[test]
fn duplicated_packets_come_twice() {
    let lab = Lab::up(&fresh_name(), &small()).unwrap();
    let nodes = vec!["backend-1".to_owned()];
    fault::inject(&lab, &Fault::Duplicate { nodes, permille: 500 }).unwrap();
    let backend = lab.node("backend-1").unwrap();
    for address in backend.addresses() {
        let socket = connected(&lab.node("client").unwrap(), SocketAddr::new(address, 7));
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        for _ in 0..100 {
            socket.send(b"x").unwrap();
        }
        let answers = std::iter::from_fn(|| socket.recv(&mut [0; 100]).ok()).count();
        // Each once, and half of them, and of their copies, and so on, once more: 200.
        assert!((140..=280).contains(&answers), "{answers} answers from {address}");
    }
}

#[test]
fn the_routers_next_hops_can_be_fewer_and_in_another_order() {
    let lab =
        Lab::up(&fresh_name(), &LabConfig { servers: false, ..LabConfig::default() }).unwrap();
    let hops = |by_fault: bool| -> Vec<Vec<String>> {
        let mut routes = fault::vip_routes(&lab).unwrap();
        routes.retain(|route| route.is_fault == by_fault);
        routes.into_iter().map(|route| route.next_hops).collect()
    };
    let names = |numbers: &[u8]| -> Vec<Vec<String>> {
        let one: Vec<_> = numbers.iter().map(|number| format!("ingress-{number}")).collect();
        vec![one.clone(), one]
    };
    assert_eq!(hops(false), names(&[1, 2, 3]));
    fault::inject(&lab, &Fault::EcmpWithout("ingress-2".to_owned())).unwrap();
    assert_eq!((hops(true), hops(false)), (names(&[1, 3]), names(&[1, 2, 3])));
    fault::inject(&lab, &Fault::EcmpReorder).unwrap();
    assert_eq!(hops(true), names(&[2, 3, 1]));
    fault::heal(&lab).unwrap();
    assert_eq!((hops(true), hops(false)), (vec![], names(&[1, 2, 3])));
}

#[test]
fn a_fault_that_does_not_take_hold_is_an_error() {
    let lab = Lab::up(&fresh_name(), &LabConfig { servers: false, ..small() }).unwrap();
    let one = |name: &str| vec![name.to_owned()];
    for fault in [
        Fault::Freeze(one("backend-1")),
        Fault::KillDaemons(one("ingress-1")),
        Fault::Unplug(one("router")),
        Fault::EcmpReorder,
        Fault::EcmpWithout("ingress-1".to_owned()),
    ] {
        let result = fault::inject(&lab, &fault);
        assert!(matches!(result, Err(Error::NoFault { .. })), "{fault:?}: {result:?}");
    }
}

#[test]
fn hogs_keep_cores_busy_until_the_fault_is_mended() {
    let lab = Lab::up(&fresh_name(), &LabConfig { servers: false, ..small() }).unwrap();
    fault::inject(&lab, &Fault::CpuHogs(3)).unwrap();
    assert_eq!(inside(lab.name()).len(), 3);
    fault::heal(&lab).unwrap();
    assert_eq!(inside(lab.name()).len(), 0);
}

#[test]
fn a_narrow_link_tells_both_sides_so() {
    let lab = Lab::up(&fresh_name(), &small()).unwrap();
    let client = lab.node("client").unwrap();
    fault::inject(&lab, &Fault::Mtu(1300)).unwrap();
    // IP_MTU_DISCOVER and IPV6_MTU_DISCOVER = DO: the first datagram is lost, the router says why, the next is refused.
    let probe = "import socket, sys, time\n\
        info = socket.getaddrinfo(sys.argv[1], 7, type=socket.SOCK_DGRAM)[0]\n\
        s = socket.socket(info[0], socket.SOCK_DGRAM)\n\
        s.settimeout(2)\n\
        if info[0] == socket.AF_INET: s.setsockopt(socket.IPPROTO_IP, 10, 2)\n\
        else: s.setsockopt(socket.IPPROTO_IPV6, 23, 2)\n\
        s.connect(info[4])\n\
        s.send(b'x' * 1300)\n\
        time.sleep(0.2)\n\
        try: s.send(b'x' * 1300)\n\
        except OSError as error: assert error.errno == 90, error\n\
        else: raise SystemExit('not refused')\n\
        s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)\n\
        s.send(b'x' * 1200)\n\
        assert len(s.recv(2000)) > 1200\n";
    for address in lab.node("backend-1").unwrap().addresses() {
        client.run("/usr/bin/python3", &["-c", probe, &address.to_string()]).unwrap();
    }
}
