//! Wrong configurations: each is refused at the line and column of the mistake.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io;
use std::path::Path;

use jlb_config::{ClusterFile, Host, KeyFile, Mistake, Mistakes, parse_cluster};
use jlb_map::MemberRole;

const HOST: &str = r#"[node]
name = "ingress-1"
admin = "127.0.0.1:9750"
log = "info"

[dpdk]
port = "net_af_packet0,iface=eth0"
memory_mb = 256
buffers = 16384
workers = 2
cores = [2, 3]
mtu = 1500
idle = "backoff"

[ingress]
flow_capacity = 65536

[yann]
interfaces = ["eth0"]
max_connections = 5

[etcd]
endpoints = ["https://10.1.0.5:2379", "https://etcd-2.example:2379", "https://[fd00:1::5]:2379"]
prefix = "/jlb/"
ca_file = "ca.pem"
cert_file = "cert.pem"
key_file = "cert.key"
user = "jlb"
password_file = "password"
state_dir = "/var/lib/jlb"
"#;

const CLUSTER: &str = r#"generation = 1
epoch = 1

[keys]
hash_key_file = "hash.key"
mac_key_files = ["mac.key"]

[underlay]
prefixes = ["10.1.0.0/24", "fd00:1::/64"]
mtu = 1500

[[member]]
id = 1
name = "ingress-1"
role = "ingress"
addresses = ["10.1.0.1", "fd00:1::1"]

[[member]]
id = 2
name = "tracker-1"
role = "flowtracker"
addresses = ["10.1.0.2"]

[[member]]
id = 3
name = "backend-1"
role = "backend"
addresses = ["10.1.0.3"]

[[service]]
name = "web"
vips = ["203.0.113.10", "2001:db8::10"]
port = 80
protocol = "tcp"
backends = ["backend-1"]
policy = "random"
reject_ttl = 3
on_exhausted = "reset"
max_connections = 100
"#;

fn read_key(path: &Path) -> io::Result<KeyFile> {
    let (text, mode) = match path.to_str().unwrap() {
        "/etc/jlb/hash.key" => ("00112233445566778899aabbccddeeff\n", 0o600),
        "/etc/jlb/mac.key" => ("ffeeddccbbaa99887766554433221100\n", 0o400),
        "/etc/jlb/open.key" => ("ffeeddccbbaa99887766554433221100\n", 0o644),
        "/etc/jlb/short.key" => ("ffee\n", 0o600),
        "/etc/jlb/zero.key" => ("00000000000000000000000000000000\n", 0o600),
        "/etc/jlb/locked.key" => return Err(io::ErrorKind::PermissionDenied.into()),
        _ => return Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    Ok(KeyFile { text: text.into(), mode })
}

fn host(text: &str) -> Result<(), Mistakes> {
    Host::parse("/etc/jlb/jlb.toml", text).map(|_| ())
}

fn cluster(text: &str) -> Result<(), Mistakes> {
    parse_cluster(ClusterFile { name: "/etc/jlb/cluster.toml", text }, &mut read_key).map(|_| ())
}

#[test]
fn the_files_that_the_cases_start_from_are_right() {
    host(HOST).unwrap_or_else(|m| panic!("{m}"));
    cluster(CLUSTER).unwrap_or_else(|m| panic!("{m}"));
}

type Parse = fn(&str) -> Result<(), Mistakes>;

/// The one mistake that comes from replacing `from` by `to`. It must show in its rendering, too.
fn only(parse: Parse, base: &str, from: &str, to: &str) -> Mistake {
    assert_eq!(base.matches(from).count(), 1, "`{from}` must be in the file once");
    let Err(mistakes) = parse(&base.replace(from, to)) else { panic!("`{to}` was taken") };
    let [m] = &mistakes.0[..] else { panic!("one mistake expected for `{to}`: {mistakes}") };
    let shown = m.to_string();
    assert!(shown.contains(&format!("{}:{}:{}", m.file, m.line, m.column)), "{shown}");
    assert!(!m.mend.is_empty() && shown.contains(&m.mend), "{shown}");
    m.clone()
}

#[test]
fn wrong_hosts_are_refused_with_line_and_column() {
    // (replace, by) → line, column, key, words of what is wrong
    #[rustfmt::skip]
    let cases = [
        ("name = \"ingress-1\"", "name = 7", 2, 8, "node.name", "this is a number, not a string"),
        ("name = \"ingress-1\"", "name = \"\"", 2, 8, "node.name", "empty"),
        ("127.0.0.1:9750", "127.0.0.1", 3, 9, "node.admin", "no address with a port"),
        ("127.0.0.1:9750", "0.0.0.0:9750", 3, 9, "node.admin", "can be reached from other hosts"),
        ("127.0.0.1:9750", "127.0.0.1:0", 3, 9, "node.admin", "port 0"),
        ("127.0.0.1:9750", "unix:jlb.sock", 3, 9, "node.admin", "no absolute path"),
        ("log = \"info\"", "log = \"inof\"", 4, 7, "node.log", "`inof` is not known"),
        ("log = \"info\"", "log = debug", 4, 7, "", "string values must be quoted"),
        ("port = \"net_af_packet0,iface=eth0\"", "port = \"0000:01:00.0\"", 7, 8, "dpdk.port", "no kernel interface"),
        ("memory_mb = 256", "exception_port = \"net_tap0\"\nmemory_mb = 256", 8, 18, "dpdk.exception_port", "is a kernel interface"),
        ("port = \"net_af_packet0,iface=eth0\"", "port = \"0000:01:00.0\"\ninterface = \"jlb0\"\nexception_port = \"net_af_packet1,iface=jlb0\"", 9, 18, "dpdk.exception_port", "kernel's end"),
        ("port = \"net_af_packet0,iface=eth0\"", "", 6, 1, "dpdk.port", "`port` is missing in `dpdk`"),
        ("memory_mb = 256", "memory_mb = 16", 8, 13, "dpdk.memory_mb", "16 is not between 64 and 65536"),
        ("memory_mb = 256", "memory_mb = \"256\"", 8, 13, "dpdk.memory_mb", "this is a string, not a number"),
        ("buffers = 16384", "buffers = 131_072", 9, 11, "dpdk.buffers", "131072 buffers need 324 MiB"),
        ("buffers = 16384", "buffers = 65536\nhugepages = false", 9, 11, "dpdk.buffers", "65536 buffers need 260 MiB"),
        ("workers = 2", "workers = 3", 10, 11, "dpdk.workers", "3 workers for 2 cores"),
        ("cores = [2, 3]", "cores = [2, 2]", 11, 13, "dpdk.cores[1]", "core 2 is named twice"),
        ("cores = [2, 3]", "cores = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]", 11, 9, "dpdk.cores", "17 cores"),
        ("flow_capacity = 65536", "announce = { table = 254 }", 16, 22, "ingress.announce.table", "the kernel itself"),
        ("cores = [2, 3]", "cores = 2", 11, 9, "dpdk.cores", "not a list"),
        ("mtu = 1500", "mtu = -1500", 12, 7, "dpdk.mtu", "-1500 is not between 1280 and 1920"),
        ("idle = \"backoff\"", "idle = true", 13, 8, "dpdk.idle", "this is true or false, not a string"),
        ("[ingress]\nflow_capacity = 65536", "[ingress]\nflow_capacity = 99999999999999999999999", 16, 17, "ingress.flow_capacity", "is not between"),
        ("[ingress]", "[ingres]", 15, 2, "ingres", "there is no key `ingres`"),
        ("[ingress]\nflow_capacity", "[ingress]\nflow_capasity", 16, 1, "ingress.flow_capasity", "there is no key"),
        ("interfaces = [\"eth0\"]", "interfaces = []", 19, 14, "yann.interfaces", "0 interfaces"),
        ("interfaces = [\"eth0\"]", "interfaces = [\"an-interface-name\"]", 19, 15, "yann.interfaces[0]", "no name of an interface"),
        ("max_connections = 5", "max_connections = 0", 20, 19, "yann.max_connections", "neither"),
        ("max_connections = 5", "max_connections = -1", 20, 19, "yann.max_connections", "-1 is not between 1 and"),
        ("max_connections = 5", "bpf_pins = \"jlb\"", 20, 12, "yann.bpf_pins", "no absolute path"),
        ("max_connections = 5", "interfaces = []", 20, 1, "", "duplicate key"),
        ("\"https://10.1.0.5:2379\"", "\"10.1.0.5:2379\"", 23, 14, "etcd.endpoints[0]", "no URL"),
        ("\"https://10.1.0.5:2379\"", "\"https://10.1.0.5\"", 23, 14, "etcd.endpoints[0]", "no URL"),
        ("\"https://10.1.0.5:2379\"", "\"https://10.1.0.500:2379\"", 23, 14, "etcd.endpoints[0]", "no URL"),
        ("\"https://10.1.0.5:2379\"", "\"https://10.1.0.5:2379/v3\"", 23, 14, "etcd.endpoints[0]", "no URL"),
        ("\"https://10.1.0.5:2379\"", "\"https://10.1.0.5:0\"", 23, 14, "etcd.endpoints[0]", "no URL"),
        ("\"https://etcd-2.example:2379\"", "\"http://etcd-2.example:2379\"", 23, 39, "etcd.endpoints[1]", "mixed"),
        ("\"https://etcd-2.example:2379\"", "\"https://10.1.0.5:2379\"", 23, 39, "etcd.endpoints[1]", "named twice"),
        ("[\"https://10.1.0.5:2379\", \"https://etcd-2.example:2379\", \"https://[fd00:1::5]:2379\"]", "[]", 23, 13, "etcd.endpoints", "0 endpoints"),
        ("[\"https://10.1.0.5:2379\", \"https://etcd-2.example:2379\", \"https://[fd00:1::5]:2379\"]", "2379", 23, 13, "etcd.endpoints", "this is a number, not a list"),
        ("prefix = \"/jlb/\"", "prefix = \"/jlb\"", 24, 10, "etcd.prefix", "start and end with a slash"),
        ("prefix = \"/jlb/\"", "prefix = \"/\"", 24, 10, "etcd.prefix", "start and end with a slash"),
        ("prefix = \"/jlb/\"", "prefixes = \"/jlb/\"", 24, 1, "etcd.prefixes", "no key `prefixes`"),
        ("ca_file = \"ca.pem\"\n", "", 22, 1, "etcd.ca_file", "`ca_file` is missing"),
        ("ca_file = \"ca.pem\"\n", "ca_file = \"\"\n", 25, 11, "etcd.ca_file", "empty"),
        ("cert_file = \"cert.pem\"\n", "", 26, 12, "etcd.key_file", "stands without `cert_file`"),
        ("key_file = \"cert.key\"\n", "", 26, 13, "etcd.cert_file", "stands without `key_file`"),
        ("password_file = \"password\"\n", "", 28, 8, "etcd.user", "stands without `password_file`"),
        ("user = \"jlb\"\n", "", 28, 17, "etcd.password_file", "stands without `user`"),
        ("user = \"jlb\"", "user = 7", 28, 8, "etcd.user", "this is a number, not a string"),
        ("state_dir = \"/var/lib/jlb\"", "state_dir = \"jlb\"", 30, 13, "etcd.state_dir", "no absolute path"),
    ];
    for (from, to, line, column, key, what) in cases {
        let m = only(host, HOST, from, to);
        assert_eq!((m.line, m.column, m.key.as_str()), (line, column, key), "{to}:\n{m}");
        assert!(m.what.contains(what), "{to}:\n{m}");
    }
}

#[test]
fn wrong_clusters_are_refused_with_line_and_column() {
    #[rustfmt::skip]
    let cases = [
        ("generation = 1\n", "\n", 1, 1, "generation", "`generation` is missing"),
        ("generation = 1\n", "generation = 0\n", 1, 14, "generation", "0 is not between 1 and"),
        ("epoch = 1\n", "epoch = 1\nforced_generation = 2\n", 3, 21, "forced_generation", "2 is above this list's own generation, 1"),
        ("epoch = 1\n", "epoch = 1\nforced_generation = true\n", 3, 21, "forced_generation", "true or false, not a number"),
        ("epoch = 1\n", "epoch = 1\nprotocol = 9\n", 3, 12, "protocol", "this build does not speak version 9 of the protocol"),
        ("epoch = 1\n", "epoch = 1\nprotocol = 0\n", 3, 12, "protocol", "0 is not between 1 and 255"),
        ("epoch = 1\n", "epoch = 1.5\n", 2, 9, "epoch", "this is a fraction, not a number"),
        ("\"hash.key\"", "\"none.key\"", 5, 17, "keys.hash_key_file", "there is no file `/etc/jlb/none.key`"),
        ("\"hash.key\"", "\"locked.key\"", 5, 17, "keys.hash_key_file", "cannot read `/etc/jlb/locked.key`"),
        ("[\"mac.key\"]", "[\"hash.key\"]", 6, 18, "keys.mac_key_files[0]", "this is the hash key"),
        ("[\"mac.key\"]", "[\"mac.key\", \"mac.key\"]", 6, 29, "keys.mac_key_files[1]", "the same key"),
        ("\"hash.key\"", "\"zero.key\"", 4, 1, "keys", "a key of zeros"),
        ("[\"mac.key\"]", "[\"mac.key\", \"open.key\"]", 6, 29, "keys.mac_key_files[1]", "mode 0644"),
        ("[\"mac.key\"]", "[\"short.key\"]", 6, 18, "keys.mac_key_files[0]", "does not hold 32 hexadecimal digits"),
        ("[\"mac.key\"]", "[]", 6, 17, "keys.mac_key_files", "0 keys"),
        ("\"10.1.0.0/24\"", "\"10.1.0.1/24\"", 9, 13, "underlay.prefixes[0]", "the prefix is 10.1.0.0/24"),
        ("mtu = 1500", "mtu = 1000", 10, 7, "underlay.mtu", "1000 is not between"),
        ("id = 2\n", "id = 4096\n", 19, 6, "member[1].id", "4096 is not between 1 and 4095"),
        ("id = 2\n", "id = 1\n", 19, 6, "member[1].id", "1 is already the id of `ingress-1`"),
        ("\"tracker-1\"", "\"ingress-1\"", 20, 8, "member[1].name", "already the name of another"),
        ("\"tracker-1\"", "\"tracker 1\"", 20, 8, "member[1].name", "`tracker 1` is no name"),
        ("\"flowtracker\"", "\"tracker\"", 21, 8, "member[1].role", "`tracker` is not known"),
        ("[\"10.1.0.2\"]", "[\"10.1.0.1\"]", 22, 13, "member[1].addresses", "already the address of `ingress-1`"),
        ("[\"10.1.0.2\"]", "[\"10.1.0.2\", \"10.1.0.9\"]", 22, 26, "member[1].addresses[1]", "second address of the same family"),
        ("[\"10.1.0.2\"]", "[\"10.2.0.2\"]", 22, 13, "member[1].addresses", "lies in none of the underlay's prefixes"),
        ("[\"10.1.0.2\"]", "[\"10.1.0.256\"]", 22, 14, "member[1].addresses[0]", "no IP address"),
        ("[\"10.1.0.2\"]", "[]", 22, 13, "member[1].addresses", "needs an address"),
        ("\"203.0.113.10\"", "\"10.1.0.10\"", 32, 9, "service[0].vips[0]", "lies in the underlay's prefixes"),
        ("\"203.0.113.10\"", "\"2001:db8::10\"", 32, 25, "service[0].vips[1]", "already belongs to service `web`"),
        ("port = 80", "port = 65536", 33, 8, "service[0].port", "65536 is not between 1 and 65535"),
        ("protocol = \"tcp\"", "", 30, 1, "service[0].protocol", "`protocol` is missing"),
        ("protocol = \"tcp\"", "protocol = \"tpc\"", 34, 12, "service[0].protocol", "`tpc` is not known"),
        ("[\"backend-1\"]", "[\"backend-2\"]", 35, 13, "service[0].backends[0]", "no member is named `backend-2`"),
        ("[\"backend-1\"]", "[\"backend-1\", \"backend-1\"]", 35, 26, "service[0].backends[1]", "already a backend"),
        ("[\"backend-1\"]", "[{ member = \"tracker-1\" }]", 35, 13, "service[0].backends[0]", "is no backend, its role is flowtracker"),
        ("[\"backend-1\"]", "[{ member = \"backend-1\", weight = 0 }]", 35, 46, "service[0].backends[0].weight", "0 is not between 1 and 1000"),
        ("[\"backend-1\"]", "[]", 35, 12, "service[0].backends", "at least one"),
        ("policy = \"random\"", "policy = \"power-of-too\"", 36, 10, "service[0].policy", "`power-of-too` is not known"),
        ("reject_ttl = 3", "reject_ttl = 4", 37, 14, "service[0].reject_ttl", "4 is not between 0 and 3"),
        ("on_exhausted = \"reset\"", "on_exhausted = \"rest\"", 38, 16, "service[0].on_exhausted", "`rest` is not known"),
        ("max_connections = 100", "max_connections = 0", 39, 19, "service[0].max_connections", "neither"),
        ("max_connections = 100", "max_conections = 100", 39, 1, "service[0].max_conections", "there is no key"),
    ];
    for (from, to, line, column, key, what) in cases {
        let m = only(cluster, CLUSTER, from, to);
        assert_eq!((m.line, m.column, m.key.as_str()), (line, column, key), "{to}:\n{m}");
        assert!(m.what.contains(what), "{to}:\n{m}");
    }
}

#[test]
fn tls_files_without_tls_are_refused() {
    let text = HOST.replace("https:", "http:");
    let mistakes = host(&text).unwrap_err();
    let keys: Vec<_> = mistakes.0.iter().map(|m| (m.line, m.key.as_str())).collect();
    assert_eq!(keys, [(25, "etcd.ca_file"), (26, "etcd.cert_file")], "{mistakes}");
}

#[test]
fn the_files_of_etcd_are_refused_where_they_are_named() {
    let read = |wrong: &'static str, file: io::Result<KeyFile>| {
        let mut file = Some(file);
        let mut read = move |path: &Path| {
            let path = path.to_str().unwrap();
            assert!(path.starts_with("/etc/jlb/"), "{path}");
            if path.ends_with(wrong) {
                return file.take().unwrap();
            }
            let pem = "-----BEGIN CERTIFICATE-----\n";
            Ok(KeyFile {
                text: pem.into(),
                mode: if path.contains(".pem") { 0o644 } else { 0o600 },
            })
        };
        Host::parse("/etc/jlb/jlb.toml", HOST).unwrap().etcd_secrets(&mut read)
    };
    assert!(read("none", Err(io::ErrorKind::NotFound.into())).is_ok());
    let held = |text: &str, mode| Ok(KeyFile { text: text.into(), mode });
    let pem = "-----BEGIN PRIVATE KEY-----\n";
    for (file, is, line, column, what, mend) in [
        (
            "ca.pem",
            Err(io::ErrorKind::NotFound.into()),
            25,
            11,
            "cannot read `/etc/jlb/ca.pem`",
            "readable",
        ),
        ("ca.pem", held("DER", 0o644), 25, 11, "no PEM file", "convert"),
        ("cert.pem", held("", 0o644), 26, 13, "is empty", "put"),
        ("cert.key", held(pem, 0o640), 27, 12, "mode 0640", "chmod 0600 /etc/jlb/cert.key"),
        ("password", held("secret", 0o604), 29, 17, "mode 0604", "chmod 0600 /etc/jlb/password"),
        ("password", held("\n", 0o600), 29, 17, "is empty", "put"),
    ] {
        let mistakes = read(file, is).unwrap_err();
        let [m] = &mistakes.0[..] else { panic!("one mistake: {mistakes}") };
        assert_eq!((m.line, m.column), (line, column), "{m}");
        assert!(m.what.contains(what) && m.mend.contains(mend), "{m}");
    }
    let secrets = read("password", held("pass word\n", 0o600)).unwrap();
    assert_eq!(secrets.password.as_deref(), Some("pass word"));
    assert!(!format!("{secrets:?}").contains("word"));
}

#[test]
fn mistakes_say_how_to_mend_them() {
    assert!(only(host, HOST, "[ingress]", "[ingres]").mend.contains("did you mean `ingress`?"));
    assert!(only(host, HOST, "\"info\"", "\"inof\"").mend.contains("did you mean \"info\"?"));
    let limit = only(cluster, CLUSTER, "max_connections = 100", "max_connections = 0");
    assert!(limit.mend.contains("for no limit delete the line"), "{limit}");
    let open = only(cluster, CLUSTER, "[\"mac.key\"]", "[\"open.key\"]");
    assert_eq!(open.mend, "chmod 0600 /etc/jlb/open.key");
}

#[test]
fn a_role_without_its_port_is_refused() {
    let m = host("[node]\nname = \"x\"\n\n[ingress]\n").unwrap_err();
    assert_eq!((m.0[0].line, m.0[0].column, m.0[0].key.as_str()), (4, 1, "dpdk"), "{m}");
    let m = host("").unwrap_err();
    assert!(m.to_string().contains("`node` is missing"), "{m}");
}

#[test]
fn a_host_that_does_not_fit_the_cluster_is_refused() {
    let cluster = |text: &str| {
        parse_cluster(ClusterFile { name: "/etc/jlb/cluster.toml", text }, &mut read_key).unwrap()
    };
    let host = |text: &str| Host::parse("jlb.toml", text).unwrap();
    let found = host(HOST).find_in(&cluster(CLUSTER), MemberRole::Ingress);
    assert_eq!(found.unwrap().as_u16(), 1);
    let cases = [
        (
            HOST.replace("\"ingress-1\"", "\"ingress-9\""),
            MemberRole::Ingress,
            2,
            8,
            "no member named `ingress-9`",
        ),
        (
            HOST.to_owned(),
            MemberRole::Backend,
            2,
            8,
            "`ingress-1` is ingress in the cluster, not backend",
        ),
        (
            HOST.replace("mtu = 1500", "mtu = 1400"),
            MemberRole::Ingress,
            12,
            7,
            "the port carries 1400 bytes",
        ),
        (HOST.replace("mtu = 1500", ""), MemberRole::FlowTracker, 1, 1, "no section [flowtracker]"),
    ];
    for (text, role, line, column, what) in cases {
        let mistakes = host(&text).find_in(&cluster(CLUSTER), role).unwrap_err();
        let m = &mistakes.0[0];
        assert_eq!((m.line, m.column), (line, column), "{mistakes}");
        assert!(m.what.contains(what), "{mistakes}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = CLUSTER
        .replace("epoch = 1\n", "epoch = \"one\"\n")
        .replace("\"flowtracker\"", "\"tracker\"")
        .replace("id = 3\n", "id = 1\n")
        .replace("port = 80", "prot = 80");
    let mistakes = cluster(&text).unwrap_err();
    let lines: Vec<_> = mistakes.0.iter().map(|m| m.line).collect();
    assert_eq!(lines, [2, 21, 25, 30, 33], "{mistakes}");
    assert!(mistakes.to_string().ends_with("5 mistakes"), "{mistakes}");
}

#[test]
fn several_syntax_errors_are_told_at_once() {
    let mistakes = host("[node\nname = \"x\"\nadmin = = 3\n").unwrap_err();
    let lines: Vec<_> = mistakes.0.iter().map(|m| m.line).collect();
    assert!(lines.starts_with(&[1]) && lines.contains(&3), "{mistakes}");
}
