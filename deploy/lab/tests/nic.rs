//! The ingress on a card of its own: a machine in QEMU takes the place of the lab's only ingress host, with an emulated card
//! bound to vfio-pci. Everybody else is as in any lab.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jlb_lab::fault::{self, Fault};
use jlb_lab::topology::VIP;
use jlb_lab::vm::{Card, Live, Vm};
use jlb_lab::{Jlb, Lab, LabConfig, Metrics, binary, traffic};

/// One machine at a time: it is emulated, and wants a core.
static TURN: Mutex<()> = Mutex::new(());

/// Ten times what it takes alone on a core.
const BOOT: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(10);
/// RFC 863.
const DISCARD: u16 = 9;
const TRANSFER: Duration = Duration::from_secs(60);
/// Of each family.
const REQUESTS: u32 = 50;

/// Where Debian's DPDK looks for drivers, and those that are needed beside the card's. The buses come with them.
const DRIVERS: &str = "/usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0";
const NEEDED: [&str; 2] = ["mempool_ring", "net_af_packet"];

#[test]
fn connections_pass_an_ingress_on_e1000e() {
    pass("e1000e", "net_e1000");
}

#[test]
fn connections_pass_an_ingress_on_vmxnet3() {
    pass("vmxnet3", "net_vmxnet3");
}

#[test]
fn connections_pass_an_ingress_on_virtio() {
    pass("virtio-net-pci", "net_virtio");
}

fn pass(model: &'static str, driver: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = LabConfig {
        ingresses: 1,
        trackers: 2,
        backends: 2,
        payload_bytes: 2_000_000,
        jlb: Some(Jlb::default()),
        ..LabConfig::default()
    };
    let lab = Lab::up(&format!("nic-{}", std::process::id()), &config).unwrap();
    let card = Card { model, mac: "52:54:00:00:00:11".to_owned(), slot: 5, tap: "card".to_owned() };
    replace_ingress(&lab, &card);
    let (_vm, mut live) = boot(&lab, card.clone(), driver);
    live.wait_for("nic: ready", BOOT).unwrap();

    find(&lab, &card);
    let client = lab.node("client").unwrap();
    for (vip, name) in VIP.into_iter().zip(["four", "six"]) {
        let requests = traffic::requests(&client, vip, REQUESTS, PATIENCE).unwrap();
        let failed = requests.iter().filter(|request| request.backend.is_none()).count();
        assert_eq!(failed, 0, "of {REQUESTS} requests to {vip}\n{}", live.console());
        // Both ways in packets as large as the path carries.
        assert!(traffic::download(&lab, &client, vip, TRANSFER).unwrap());
        assert!(traffic::upload(&lab, &client, vip, name, TRANSFER).unwrap());
    }

    live.say("end").unwrap();
    let outcome = live.end(BOOT).unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    let metrics = Metrics::parse(&outcome.output);
    let port = card.address();
    // An emulated host may ask a second time before it has read the first answer, and is then told so.
    let opened = ["accepted", "found"].map(|result| {
        metrics.sum("jlb_opens_total", &[("service", "web"), ("result", result)]).unwrap()
    });
    assert_eq!(opened[0] + opened[1], f64::from(2 * REQUESTS + 4), "{}", outcome.output);
    assert_eq!(metrics.sum("jlb_port_link_up", &[("port", &port)]), Some(1.0));
    let through_egress = metrics.sum("jlb_forwarded_packets_total", &[("path", "egress")]);
    assert!(through_egress.unwrap() > 1000.0, "{through_egress:?}");
    for broken in ["bad_checksum", "oversized", "truncated", "malformed"] {
        let dropped = metrics.sum("jlb_dropped_packets_total", &[("reason", broken)]);
        assert_eq!(dropped, Some(0.0), "{broken}: {}", outcome.output);
    }
    // The emulated card empties its queue when its host finds the time: one packet in a hundred may find it full.
    let full = metrics.sum("jlb_dropped_packets_total", &[("reason", "tx_full")]).unwrap();
    let sent = metrics.sum("jlb_worker_sent_packets_total", &[]).unwrap();
    assert!(full <= sent / 100.0, "{full} of {sent} packets");
}

/// The router asks where the host is that has the card now, over both families. Nobody has told it; and what it sends while it still
/// takes the former one for lost, it answers with "unreachable".
fn find(lab: &Lab, card: &Card) {
    let router = lab.node("router").unwrap();
    let addresses = lab.node("ingress-1").unwrap().addresses();
    let begin = Instant::now();
    let is_found = || {
        for address in addresses {
            let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = router.within(|| UdpSocket::bind(any)).unwrap().unwrap();
            // Of an address that it takes for lost the kernel says so here; the next try asks again.
            let _ = socket.send_to(b"?", (address, DISCARD));
        }
        let neighbours = router.run("ip", &["neigh", "show", "dev", "front"]).unwrap();
        addresses.iter().all(|address| {
            let beginning = format!("{address} ");
            neighbours.lines().any(|l| l.starts_with(&beginning) && l.contains(&card.mac))
        })
    };
    while !is_found() {
        assert!(begin.elapsed() < PATIENCE, "the router does not find the card");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Takes the ingress host off the network, and puts the end of the card's cable there.
fn replace_ingress(lab: &Lab, card: &Card) {
    fault::inject(lab, &Fault::Stop(vec!["ingress-1".to_owned()])).unwrap();
    let ingress = lab.node("ingress-1").unwrap();
    ingress.run("ip", &["link", "set", "eth0", "down"]).unwrap();
    let [v4, v6] = ingress.addresses();
    let [vip4, vip6] = VIP;
    let tap = &card.tap;
    // No BGP from there: the routes are given.
    let script = format!(
        "ip tuntap add {tap} mode tap
ip link set {tap} master front up
ip neigh flush dev front
ip route replace {vip4} via {v4} metric 1
ip route replace {vip6} via {v6} metric 1
"
    );
    lab.node("router").unwrap().shell(&script).unwrap();
}

fn boot(lab: &Lab, card: Card, driver: &str) -> (Vm, Live) {
    let mut vm = Vm::new().unwrap();
    vm.on(&lab.node("router").unwrap());
    for module in ["vfio-pci", "vfio_iommu_type1", "veth"] {
        vm.module(module).unwrap();
    }
    vm.program(&binary("jlb-ingress").unwrap()).unwrap();
    for tool in ["/usr/sbin/ethtool", "/usr/sbin/ip"] {
        vm.program(Path::new(tool)).unwrap();
    }
    for name in NEEDED.into_iter().chain([driver]) {
        let path = format!("{DRIVERS}/librte_{name}.so");
        vm.library(Path::new(&path)).unwrap();
    }
    let own = lab.node("ingress-1").unwrap().dir().unwrap().join("card.toml");
    fs::write(&own, jlb_toml(&card)).unwrap();
    vm.file(&own, "/jlb.toml").unwrap();
    // Its keys are named by their places on this machine.
    for file in ["cluster.toml", "hash.key", "mac.key"] {
        let path = lab.path().join(file);
        vm.file(&path, &path.to_string_lossy()).unwrap();
    }
    let script = script(lab, &card);
    vm.card(card);
    let live = vm.start(&script).unwrap();
    (vm, live)
}

fn jlb_toml(card: &Card) -> String {
    format!(
        r#"[node]
name = "ingress-1"
[dpdk]
port = "{}"
interface = "jlb0"
exception_port = "net_af_packet1,iface=jlb0-port,qdisc_bypass=1,blocksz=65536,framesz=2048,framecnt=512"
memory_mb = 96
# More than the paths here carry, so that cards are asked for it.
mtu = 1900
[ingress]
flow_capacity = 65536
"#,
        card.address()
    )
}

/// What an operator does (docs/operations.md) on a host with a card of its own; then the daemon, until a word comes.
/// /bin/ip: busybox has one that knows no pairs.
fn script(lab: &Lab, card: &Card) -> String {
    let ingress = lab.node("ingress-1").unwrap();
    let [v4, v6] = ingress.addresses();
    let [gateway4, gateway6] = ingress.id().gateway().unwrap();
    let (pci, mac, cluster) = (card.address(), &card.mac, lab.member_list());
    let cluster = cluster.display();
    format!(
        "set -eu
echo 64 >/proc/sys/vm/nr_hugepages
echo vfio-pci >/sys/bus/pci/devices/{pci}/driver_override
echo {pci} >/sys/bus/pci/drivers_probe

echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
/bin/ip link add jlb0 type veth peer name jlb0-port
/bin/ip link set jlb0 address {mac}
ethtool -K jlb0 tx off >/dev/null
/bin/ip link set jlb0 up
/bin/ip link set jlb0-port up
/bin/ip addr add {v4}/24 dev jlb0
/bin/ip addr add {v6}/64 dev jlb0 nodad
/bin/ip route add default via {gateway4}
/bin/ip -6 route add default via {gateway6}

jlb-ingress --config /jlb.toml --cluster {cluster} &
daemon=$!
until wget -q -O - http://127.0.0.1:9750/readyz 2>/dev/null; do
  kill -0 $daemon
  sleep 0.2
done
echo 'nic: ready'
read -r _
wget -q -O - http://127.0.0.1:9750/metrics
kill $daemon
wait $daemon
"
    )
}
