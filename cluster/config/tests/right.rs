//! Right configurations: what they become.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use core::num::NonZeroU32;
use std::path::Path;

use jlb_config::{
    Admin, ClusterFile, ClusterList, Dpdk, Host, Idle, KeyFile, LogFormat, LogLevel, parse_cluster,
    read_cluster,
};
use jlb_map::{Admission, Family, MemberRole, OnExhausted, ReturnPath, ServiceId};
use jlb_wire::Protocol;

fn host(text: &str) -> Host {
    Host::parse("jlb.toml", text).unwrap_or_else(|m| panic!("{m}"))
}

#[test]
fn a_short_file_gets_the_defaults() {
    let h = host(
        "[node]\nname = \"i\"\n[dpdk]\nport = \"net_af_packet0,iface=eth7,blocksz=65536\"\n[ingress]\n",
    );
    assert_eq!(h.node.admin, Admin::Tcp("127.0.0.1:9750".parse().unwrap()));
    assert_eq!((h.node.log, h.node.log_format), (LogLevel::Info, LogFormat::Human));
    assert_eq!(
        h.dpdk.as_ref().unwrap(),
        &Dpdk {
            port: "net_af_packet0,iface=eth7,blocksz=65536".into(),
            interface: "eth7".into(),
            exception_port: None,
            hugepages: true,
            memory_mb: 256,
            buffers: 16_384,
            workers: 1,
            cores: vec![],
            mtu: 1500,
            idle: Idle::Backoff,
        }
    );
    assert_eq!(h.ingress.unwrap().flow_capacity, 1_048_576);
    assert!(
        h.has(MemberRole::Ingress)
            && !h.has(MemberRole::FlowTracker)
            && !h.has(MemberRole::Backend)
    );
}

#[test]
fn what_is_written_counts() {
    let h = host(
        "[node]\nname = \"b\"\nadmin = \"unix:/run/jlb/yann.sock\"\nlog = \"debug\"\nlog_format = \"json\"\n\
         [dpdk]\nport = \"0000:01:00.0\"\ninterface = \"jlb0\"\nexception_port = \"net_af_packet1,iface=jlb0-port\"\ncores = [4, 0x5, 6]\nidle = \"spin\"\nhugepages = false\n\
         [flowtracker]\nremembered_capacity = 2048\n\
         [yann]\ninterfaces = [\"eth0\", \"eth1\"]\nmax_connections = 0x10\nbpf_pins = \"/sys/fs/bpf/x\"\n",
    );
    assert_eq!(h.node.admin, Admin::Unix("/run/jlb/yann.sock".into()));
    assert_eq!((h.node.log, h.node.log_format), (LogLevel::Debug, LogFormat::Json));
    let dpdk = h.dpdk.unwrap();
    assert_eq!(dpdk.exception_port.as_deref(), Some("net_af_packet1,iface=jlb0-port"));
    assert_eq!(
        (dpdk.workers, dpdk.cores, dpdk.idle, dpdk.hugepages),
        (3, vec![4, 5, 6], Idle::Spin, false)
    );
    assert_eq!(h.flowtracker.unwrap().remembered_capacity, 2048);
    let yann = h.yann.unwrap();
    assert_eq!((yann.interfaces.len(), yann.max_connections), (2, NonZeroU32::new(16)));
    assert_eq!(yann.bpf_pins, Path::new("/sys/fs/bpf/x"));
}

#[test]
fn an_exposed_admin_endpoint_must_be_meant() {
    let h = host("[node]\nname = \"i\"\nadmin = \"10.0.0.1:9750\"\nadmin_exposed = true\n");
    assert_eq!(h.node.admin, Admin::Tcp("10.0.0.1:9750".parse().unwrap()));
}

#[test]
fn a_cluster_becomes_a_snapshot() {
    let text = r#"
        generation = 12
        epoch = 3
        [keys]
        hash_key_file = "/keys/hash"
        mac_key_files = ["mac.new", "mac.old"]
        [underlay]
        prefixes = ["10.1.0.0/24", "fd00:1::/64"]
        prefer = "v6"
        port = 6082
        mtu = 1400
        [[member]]
        id = 300
        name = "backend-1"
        role = "backend"
        addresses = ["fd00:1::3", "10.1.0.3"]
        drain = true
        [[member]]
        id = 301
        name = "backend-2"
        role = "backend"
        addresses = ["10.1.0.4"]
        [[service]]
        name = "echo"
        vips = ["203.0.113.10"]
        port = 7
        protocol = "udp"
        backends = ["backend-1", { member = "backend-2", weight = 7, admission = "refuse", max_connections = 9 }]
        reject_ttl = 0
        on_exhausted = "force"
        return_path = "direct"
        max_connections = 50
    "#;
    let mut asked = Vec::new();
    let snapshot =
        parse_cluster(ClusterFile { name: "conf/cluster.toml", text }, &mut |path: &Path| {
            asked.push(path.display().to_string());
            Ok(KeyFile { text: format!("{:032x}", asked.len()), mode: 0o600 })
        });
    let s = snapshot.unwrap_or_else(|m| panic!("{m}"));
    assert_eq!(asked, ["/keys/hash", "conf/mac.new", "conf/mac.old"]);
    assert_eq!(s.keys().hash_key.0[15], 1);
    assert_eq!((s.keys().mac_keys.current.0[15], s.keys().mac_keys.other.unwrap().0[15]), (2, 3));
    assert_eq!((s.generation(), s.epoch().0, s.geneve_port(), s.mtu()), (12, 3, 6082, 1400));
    let member = s.member_by_name("backend-1").unwrap();
    assert_eq!((member.id.as_u16(), member.role, member.drain), (300, MemberRole::Backend, true));
    assert_eq!(
        s.underlay_pair(member.id, member.id).unwrap().0,
        "fd00:1::3".parse::<core::net::IpAddr>().unwrap()
    );
    assert_eq!(Family::V6 as u8, 6);

    let id = s.service("203.0.113.10".parse().unwrap(), 7, Protocol::Udp);
    assert_eq!(id, Some(ServiceId(0)));
    let service = s.service_by_id(id.unwrap()).unwrap();
    assert_eq!((service.reject_ttl, service.on_exhausted), (0, OnExhausted::Force));
    assert_eq!((service.return_path, service.admission), (ReturnPath::Direct, Admission::Accept));
    let [one, two] = &service.backends[..] else { panic!("two backends") };
    assert_eq!((one.weight, one.max_connections), (100, NonZeroU32::new(50)));
    assert_eq!(
        (two.weight, two.max_connections, two.admission),
        (7, NonZeroU32::new(9), Admission::Refuse)
    );
}

#[test]
fn etcd_gets_its_defaults() {
    let h = host("[node]\nname = \"b\"\n[etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n");
    let etcd = h.etcd.as_ref().unwrap();
    assert_eq!((etcd.prefix.as_str(), etcd.state_dir.to_str()), ("/jlb/", Some("/var/lib/jlb")));
    assert_eq!((&etcd.ca_file, &etcd.identity, &etcd.user), (&None, &None, &None));
    let nothing = h.etcd_secrets(&mut |path| panic!("{path:?} is not named")).unwrap();
    assert_eq!(nothing, jlb_config::EtcdSecrets::default());
    assert!(host("[node]\nname = \"b\"\n").etcd.is_none());
}

/// Three backends, of which `lost` are gone, at a generation.
fn list(generation: u64, lost: usize, forced: Option<u64>) -> ClusterList {
    let mut text = format!("generation = {generation}\nepoch = 1\n");
    text.extend(forced.map(|g| format!("forced_generation = {g}\n")));
    text += "[keys]\nhash_key_file = \"h\"\nmac_key_files = [\"m\"]\n[underlay]\nprefixes = [\"10.1.0.0/24\"]\n";
    for id in lost + 1..=3 {
        text += &format!(
            "[[member]]\nid = {id}\nname = \"b{id}\"\nrole = \"backend\"\naddresses = [\"10.1.0.{id}\"]\n"
        );
    }
    let mut key = |path: &Path| {
        let digit = if path == Path::new("/keys/h") { 1 } else { 2 };
        Ok(KeyFile { text: format!("{digit:032x}"), mode: 0o600 })
    };
    let source = ClusterFile { name: "etcd", text: &text };
    read_cluster(source, Path::new("/keys"), &mut key).unwrap_or_else(|m| panic!("{m}"))
}

#[test]
fn a_loss_that_was_meant_is_taken_once() {
    let follows = |old: ClusterList, new: ClusterList| new.follows(&old.snapshot).is_ok();
    assert!(follows(list(4, 0, None), list(5, 1, None)), "a third");
    assert!(!follows(list(4, 0, None), list(5, 2, None)), "more");
    assert!(follows(list(4, 0, None), list(5, 2, Some(5))), "meant");
    assert!(follows(list(3, 0, None), list(6, 2, Some(5))), "meant by a list that was missed");
    assert!(!follows(list(5, 0, Some(5)), list(6, 2, Some(5))), "meant earlier");
    assert!(!follows(list(6, 0, Some(5)), list(5, 0, Some(5))), "never a lower number");
}
