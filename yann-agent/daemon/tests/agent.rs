//! The daemon with its eBPF half, and a real nginx behind it, in a network namespace of their own. The test is all the
//! other members.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../core/tests/common/mod.rs"]
mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use common::*;
use jlb_wire::{
    Body, BodyKind, BootId, Content, Control, Epoch, FiveTuple, Flags, Incarnation, Kind,
    LoadReport, MAX_BODY_PAYLOAD, MacKey, MacKeys, MemberId, Outer, Packet, Probe, Refresh,
    RefreshRecord, RejectReason, ServiceLoad, Version, body_flags, tcp_flags,
};
use nix::sched::{CloneFlags, setns, unshare};

const NGINX: &str = "daemon off; master_process off; worker_processes 1; pid DIR/nginx.pid; error_log DIR/nginx.log;
events { }
http {
  access_log off;
  client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi;
  uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
  server { listen [::]:80 ipv6only=off; return 200 \"hello from a backend\"; }
}
";

/// A backend host in a namespace, and this thread in another one at the far end of its cable.
struct Site {
    namespace: String,
    dir: PathBuf,
    nginx: Child,
    daemon: Option<Child>,
    members: Vec<(MemberId, UdpSocket)>,
    /// To make messages with.
    host: Host,
    /// Sequence numbers of Probe answers.
    sequence: u64,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.nginx.kill();
        let _ = self.nginx.wait();
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = Command::new("umount").arg(self.dir.join("bpf")).stderr(Stdio::null()).status();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {err}");
    String::from_utf8(output.stdout).unwrap()
}

impl Site {
    fn new(name: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let namespace = format!("jlbt-yann-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(&namespace);
        std::fs::create_dir_all(dir.join("bpf")).unwrap();
        run(&format!("ip netns add {namespace}"));
        run(&format!("ip link add eth1 type veth peer name eth0 netns {namespace}"));
        run("ip link set eth1 up");
        for member in [INGRESS, INGRESS_2, HEAD, SECOND, THIRD] {
            run(&format!("ip addr add 10.0.0.{member}/24 dev eth1"));
            run(&format!("ip addr add fd00::{member}/64 dev eth1 nodad"));
        }
        let inside = |command: &str| run(&format!("ip -n {namespace} {command}"));
        inside("link set lo up");
        // No link-local address, which would be tentative at first.
        inside("link set eth0 addrgenmode none");
        inside("link set eth0 up");
        inside("addr add 10.0.0.21/24 dev eth0");
        inside("addr add fd00::21/64 dev eth0 nodad");
        let text = NGINX.replace("DIR", &dir.to_string_lossy());
        std::fs::write(dir.join("nginx.conf"), text).unwrap();
        let nginx = nsenter(&namespace)
            .args(["nginx", "-p"])
            .arg(&dir)
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .spawn()
            .unwrap();
        let members = [INGRESS, INGRESS_2, HEAD, SECOND, THIRD].map(|member| {
            let socket = UdpSocket::bind(format!("10.0.0.{member}:6081")).unwrap();
            socket.set_nonblocking(true).unwrap();
            (member, socket)
        });
        let members = members.into();
        let mut site =
            Self { namespace, dir, nginx, daemon: None, members, host: Host::new(), sequence: 0 };
        site.write_configuration();
        site
    }

    fn write_configuration(&mut self) {
        let hex = |byte: &str| byte.repeat(16);
        for (name, key) in [("hash.key", hex("01")), ("mac.key", hex("02"))] {
            use std::os::unix::fs::PermissionsExt as _;
            let path = self.dir.join(name);
            std::fs::write(&path, key).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let mut text = String::from(
            "generation = 7\nepoch = 2\n[keys]\nhash_key_file = \"hash.key\"\nmac_key_files = [\"mac.key\"]\n\
             [underlay]\nprefixes = [\"10.0.0.0/24\", \"fd00::/64\"]\n",
        );
        for member in snapshot(|_| {}).members() {
            text += &format!(
                "[[member]]\nid = {0}\nname = \"{1}\"\nrole = \"{2}\"\naddresses = [\"10.0.0.{0}\", \"fd00::{0}\"]\n",
                member.id, member.name, member.role
            );
        }
        // Not a service of this host, so that the number of the other one is not its slot.
        text += "[[service]]\nname = \"elsewhere\"\nvips = [\"203.0.113.10\"]\nport = 82\n\
                 protocol = \"tcp\"\nbackends = [\"m22\"]\n";
        text += "[[service]]\nname = \"web\"\nvips = [\"203.0.113.10\", \"2001:db8::10\"]\nport = 80\n\
                 protocol = \"tcp\"\nbackends = [\"m21\", \"m22\"]\n";
        std::fs::write(self.dir.join("cluster.toml"), text).unwrap();
        let text = format!(
            "[node]\nname = \"m21\"\nadmin = \"unix:{0}/admin.sock\"\n[yann]\ninterfaces = [\"eth0\"]\n\
             bpf_pins = \"{0}/bpf\"\nflow_capacity = 1024\nanswers_capacity = 1024\n",
            self.dir.display()
        );
        std::fs::write(self.dir.join("jlb.toml"), text).unwrap();
    }

    fn yann(&self) -> Command {
        let mut command = nsenter(&self.namespace);
        command
            .arg(env!("CARGO_BIN_EXE_jlb-yann"))
            .arg("--config")
            .arg(self.dir.join("jlb.toml"))
            .arg("--cluster")
            .arg(self.dir.join("cluster.toml"));
        command
    }

    /// Starts the daemon, and answers its Probes until it is ready.
    fn start(&mut self) {
        self.daemon = Some(self.yann().spawn().unwrap());
        let start = Instant::now();
        while !self.is_ready() {
            assert!(start.elapsed() < Duration::from_secs(20), "never ready");
            self.hear(Duration::from_millis(50), |_, _| false);
        }
    }

    fn is_ready(&self) -> bool {
        let socket = self.dir.join("admin.sock");
        let output = Command::new("curl")
            .args(["-sf", "--unix-socket"])
            .arg(socket)
            .arg("http://localhost/readyz")
            .output();
        output.unwrap().status.success()
    }

    fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn stop(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        run(&format!("kill -TERM {}", daemon.id()));
        assert!(daemon.wait().unwrap().success());
    }

    fn command(&self, words: &[&str]) -> (bool, String) {
        let output = self.yann().args(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// Sends what was made with an outer header of its own, which the socket writes anew.
    fn send(&self, from: MemberId, packet: &[u8]) {
        let (_, socket) = self.members.iter().find(|(id, _)| *id == from).unwrap();
        socket.send_to(&packet[28..], "10.0.0.21:6081").unwrap();
    }

    fn open(&mut self, tuple: &FiveTuple, isn: u32) -> Control {
        let open = self.host.open(tuple, isn);
        Control { boot: boot(SECOND), ..open }
    }

    fn send_open(&mut self, tuple: &FiveTuple, isn: u32) {
        let open = self.open(tuple, isn);
        self.send(SECOND, &packet(&open, tuple));
    }

    /// Answers Probes, and gives every other packet that members get to `wanted`, until that says so or time is up.
    fn hear(&mut self, at_most: Duration, mut wanted: impl FnMut(MemberId, &[u8]) -> bool) -> bool {
        let start = Instant::now();
        while start.elapsed() < at_most {
            let mut idle = true;
            for n in 0..self.members.len() {
                let (member, socket) = &self.members[n];
                let member = *member;
                let mut payload = [0; 2048];
                let Ok((len, from)) = socket.recv_from(&mut payload) else { continue };
                idle = false;
                let packet = outside(from, member, &payload[..len]);
                if !self.answer(member, &packet) && wanted(member, &packet) {
                    return true;
                }
            }
            if idle {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        false
    }

    /// Whether this was the agent's Probe.
    fn answer(&mut self, member: MemberId, packet: &[u8]) -> bool {
        let Some((body, _)) = body_of(packet) else { return false };
        if body.flags & body_flags::ANSWER != 0 {
            return false;
        }
        self.sequence += 1;
        let probe = Probe { generation: 7, digest: 0, heartbeat_age_ms: 0, worker: 1, shut_out: 0 };
        let answer = Body {
            kind: BodyKind::Probe,
            version: Version::OLDEST,
            flags: body_flags::ANSWER,
            sender: member,
            receiver: ME,
            boot: boot(member),
            sequence: 15 << 56 | self.sequence,
            ..body
        };
        let mut bytes = vec![0; Body::len_with(Probe::LEN)];
        answer.emit(&probe.emit(), &keys(), &mut bytes).unwrap();
        self.send(member, &wrapped(outer(member), jlb_wire::Payload::Body, &bytes));
        true
    }

    fn wait_for_control(&mut self, at: MemberId, kind: Kind, tuple: &FiveTuple) -> Option<Control> {
        let mut found = None;
        self.hear(Duration::from_secs(2), |member, packet| {
            let Content::Control { option, inner } = Outer::parse(packet, 6081).unwrap().content
            else {
                return false;
            };
            if member != at || Packet::parse(&packet[inner..]).unwrap().tuple != *tuple {
                return false;
            }
            let control = Control::parse(&packet[option..], tuple, &keys()).unwrap();
            found = (control.kind == kind).then_some(control);
            found.is_some()
        });
        found
    }

    /// The next reply of nginx to that client, as an egress host gets it.
    fn wait_for_reply(
        &mut self,
        tuple: &FiveTuple,
        wanted: impl Fn(&Packet) -> bool,
    ) -> Option<Vec<u8>> {
        let mut found = None;
        self.hear(Duration::from_secs(2), |member, packet| {
            let Content::Plain { inner } = Outer::parse(packet, 6081).unwrap().content else {
                return false;
            };
            assert!(member == INGRESS || member == INGRESS_2);
            let parsed = Packet::parse(&packet[inner..]).unwrap();
            let (vip, client) = (parsed.tuple.client(), parsed.tuple.vip());
            if (client, vip) != (tuple.client(), tuple.vip()) || !wanted(&parsed) {
                return false;
            }
            found = Some(packet[inner..].to_vec());
            true
        });
        found
    }

    /// Boot id and heartbeat age, as a Probe of the ingress is answered.
    fn probe(&mut self) -> (BootId, u32) {
        self.send(INGRESS, &probe(INGRESS, 0));
        let mut found = None;
        self.hear(Duration::from_secs(2), |member, packet| {
            let Some((body, probe)) = body_of(packet) else { return false };
            found = (member == INGRESS).then_some((body.boot, probe.heartbeat_age_ms));
            found.is_some()
        });
        found.expect("no answer to Probe")
    }

    /// The answer to a pull, repeated as a tracker does.
    fn pull(&mut self, nonce: u64, batch: u32) -> Option<(u16, Refresh, Vec<RefreshRecord>)> {
        let asked =
            Refresh { batch, batches: 0, worker: 0, workers: 1, sole: 0, shut_out: 0, counter: 0 };
        let mut payload = [0; MAX_BODY_PAYLOAD];
        let len = asked.emit(&[], &mut payload);
        for _ in 0..40 {
            self.sequence += 1;
            let body = Body {
                kind: BodyKind::Refresh,
                version: Version::OLDEST,
                flags: body_flags::PULL,
                epoch: Epoch(2),
                sender: HEAD,
                receiver: ME,
                boot: boot(HEAD),
                sequence: 15 << 56 | self.sequence,
                nonce,
            };
            self.send(HEAD, &common::pair::signed(&body, &payload[..len]));
            let mut found = None;
            self.hear(Duration::from_millis(50), |member, packet| {
                let outer = Outer::parse(packet, 6081).unwrap();
                let Content::Body { body } = outer.content else { return false };
                let (body, payload) = Body::parse(&packet[body..], &keys()).unwrap();
                if body.kind != BodyKind::Refresh || body.nonce != nonce {
                    return false;
                }
                assert_eq!((member, body.epoch, body.sender), (HEAD, Epoch(2), ME));
                let (refresh, records) = Refresh::parse(payload).unwrap();
                let records = records.iter().map(Option::unwrap).collect();
                found = Some((body.flags, refresh, records));
                refresh.batch == batch
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// What the next Load says of services, to the tracker that pulls here.
    fn load(&mut self) -> Vec<ServiceLoad> {
        let mut found = None;
        self.hear(Duration::from_secs(2), |member, packet| {
            let outer = Outer::parse(packet, 6081).unwrap();
            let Content::Body { body } = outer.content else { return false };
            let (body, payload) = Body::parse(&packet[body..], &keys()).unwrap();
            if member == HEAD && body.kind == BodyKind::Load {
                found = LoadReport::parse(payload).map(|(_, services)| services.iter().collect());
            }
            found.is_some()
        });
        found.expect("no Load")
    }

    /// What an operator would see of the host's network.
    fn look(&self) -> String {
        let ip = |what: &str| run(&format!("ip -n {} {what}", self.namespace));
        let mut text =
            ["addr", "rule", "-6 rule", "route show table all", "-6 route show table all"]
                .map(ip)
                .join("\n");
        for key in ["arp_ignore", "arp_announce", "rp_filter"] {
            let mut command = nsenter(&self.namespace);
            command.args(["cat", &format!("/proc/sys/net/ipv4/conf/eth0/{key}")]);
            text += &String::from_utf8(command.output().unwrap().stdout).unwrap();
        }
        text
    }

    /// How many programs are attached to its interface.
    fn attached(&self) -> usize {
        let own = std::fs::File::open(Path::new("/run/netns").join(&self.namespace)).unwrap();
        std::thread::scope(|scope| {
            let looker = scope.spawn(|| {
                setns(&own, CloneFlags::CLONE_NEWNET).unwrap();
                [TcAttachType::Ingress, TcAttachType::Egress]
                    .map(|at| SchedClassifier::query_tcx("eth0", at).unwrap().1.len())
                    .iter()
                    .sum()
            });
            looker.join().unwrap()
        })
    }
}

fn nsenter(namespace: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--");
    command
}

fn keys() -> MacKeys {
    MacKeys::single(MacKey([2; 16]))
}

fn body_of(packet: &[u8]) -> Option<(Body, Probe)> {
    let outer = Outer::parse(packet, 6081).unwrap();
    let Content::Body { body } = outer.content else { return None };
    let (body, payload) = Body::parse(&packet[body..], &keys()).unwrap();
    (body.kind == BodyKind::Probe).then(|| (body, Probe::parse(payload).unwrap().0))
}

/// A datagram with the outside that it came in.
fn outside(from: SocketAddr, to: MemberId, payload: &[u8]) -> Vec<u8> {
    let IpAddr::V4(source) = from.ip() else { panic!("{from}") };
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(payload.len() as u16 + 28).to_be_bytes());
    packet[9] = 17;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&[10, 0, 0, to.as_u16() as u8]);
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&6081u16.to_be_bytes());
    packet[24..26].copy_from_slice(&(payload.len() as u16 + 8).to_be_bytes());
    fix_outer(&mut packet);
    packet.extend_from_slice(payload);
    packet
}

/// The client's segment with payload.
fn client_segment(tuple: &FiveTuple, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = segment(tuple, flags, seq);
    let l4 = if tuple.is_v6() { 40 } else { 20 };
    packet[l4 + 8..l4 + 12].copy_from_slice(&ack.to_be_bytes());
    packet[l4 + 14..l4 + 16].copy_from_slice(&60_000u16.to_be_bytes());
    packet.extend_from_slice(payload);
    let total = packet.len();
    if tuple.is_v6() {
        packet[4..6].copy_from_slice(&(total as u16 - 40).to_be_bytes());
    } else {
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        fix_outer(&mut packet);
    }
    let parsed = Packet::parse(&packet).unwrap();
    jlb_wire::mend(&mut packet, &parsed).unwrap();
    packet
}

/// The largest segment that a SYN-ACK asks for: its first option.
fn mss(syn_ack: &[u8]) -> u16 {
    let l4 = if syn_ack[0] >> 4 == 6 { 40 } else { 20 };
    assert_eq!(syn_ack[l4 + 20..l4 + 22], [2, 4]);
    u16::from_be_bytes([syn_ack[l4 + 22], syn_ack[l4 + 23]])
}

#[test]
fn a_hand_made_open_gets_nginx_s_syn_ack_and_everything_survives_kill_9() {
    let mut site = Site::new("life");
    let before = site.look();
    site.start();
    assert_eq!(site.attached(), 2);

    for (tuple, largest) in [(tcp(5001), 1500 - 36 - 40), (v6(5001), 1500 - 36 - 60)] {
        // One voter is not enough; two are.
        let open = site.open(&tuple, 700);
        site.send(SECOND, &packet(&Control { head: None, ..open }, &tuple));
        assert!(site.wait_for_control(SECOND, Kind::Accept, &tuple).is_none());
        site.send_open(&tuple, 700);
        let accept = site.wait_for_control(SECOND, Kind::Accept, &tuple).expect("no Accept");
        assert_eq!((accept.receiver, accept.incarnation), (INGRESS, Incarnation(700)));
        assert_eq!(
            (accept.head, accept.second, accept.backend),
            (Some(HEAD), Some(SECOND), Some(ME))
        );
        // nginx repeats its SYN-ACK after a second, since nobody has acknowledged it.
        let syn_ack =
            site.wait_for_reply(&tuple, |p| p.tcp.unwrap().is_syn_ack()).expect("no SYN-ACK");
        assert_eq!(Packet::parse(&syn_ack).unwrap().tcp.unwrap().ack, 701);
        assert_eq!(mss(&syn_ack), largest);
    }

    // A flow that lives on while the daemon is dead: its request and its answer.
    let tuple = tcp(5002);
    site.send_open(&tuple, 900);
    let syn_ack = site.wait_for_reply(&tuple, |p| p.tcp.unwrap().is_syn_ack()).expect("no SYN-ACK");
    let server = Packet::parse(&syn_ack).unwrap().tcp.unwrap().seq + 1;
    let (old_boot, age) = site.probe();
    assert!(age < 300, "{age} ms");
    site.kill();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(site.attached(), 2);
    let ack = client_segment(&tuple, tcp_flags::ACK, 901, server, b"");
    site.send(INGRESS, &data(INGRESS, &ack));
    let get = b"GET / HTTP/1.0\r\nHost: x\r\n\r\n";
    let request = client_segment(&tuple, tcp_flags::ACK | tcp_flags::PSH, 901, server, get);
    site.send(INGRESS, &data(INGRESS, &request));
    let response = site.wait_for_reply(&tuple, |p| p.len > p.payload).expect("no response");
    assert!(String::from_utf8_lossy(&response).contains("200 OK"));
    // New ones are refused, and Probe says why.
    let refused = tcp(5003);
    site.send_open(&refused, 100);
    let reject = site.wait_for_control(SECOND, Kind::Reject, &refused).expect("no Reject");
    assert_eq!((reject.reason, reject.receiver), (RejectReason::AgentDown, HEAD));
    let (boot, age) = site.probe();
    assert_eq!(boot, old_boot);
    assert!(age >= 300, "{age} ms");
    let (ok, text) = site.command(&["flows", "-o", "json"]);
    assert!(ok && text.contains("198.51.100.9:5002") && text.contains("m11"), "{text}");

    // The next daemon takes over; the end that it missed, it publishes.
    let reset = client_segment(
        &tuple,
        tcp_flags::RST | tcp_flags::ACK,
        901 + get.len() as u32,
        server,
        b"",
    );
    site.send(INGRESS, &data(INGRESS, &reset));
    site.start();
    assert_eq!((site.probe().0, site.attached()), (old_boot, 2));
    let accepted = tcp(5004);
    site.send_open(&accepted, 100);
    let accept = site.wait_for_control(SECOND, Kind::Accept, &accepted).expect("no Accept");
    assert!(!accept.flags.has(Flags::FORCE));

    // SIGTERM changes nothing; detach restores all, also the second time.
    site.stop();
    assert_eq!(site.attached(), 2);
    let (ok, text) = site.command(&["status"]);
    assert!(ok && text.contains("203.0.113.10"), "{text}");
    assert_ne!(site.look(), before);
    for _ in 0..2 {
        let (ok, text) = site.command(&["detach"]);
        assert!(ok, "{text}");
        assert_eq!(site.attached(), 0);
        assert_eq!(site.look(), before);
        assert!(std::fs::read_dir(site.dir.join("bpf")).unwrap().next().is_none());
    }
    let (_, text) = site.command(&["status"]);
    assert!(text.contains("nothing is attached"), "{text}");
}

fn v6(port: u16) -> FiveTuple {
    flow(port, "2001:db8::10", 80, jlb_wire::Protocol::Tcp)
}

#[test]
fn a_tracker_pulls_what_is_here_and_an_ingress_hears_what_is_not() {
    let mut site = Site::new("pull");
    site.start();
    // One connection that stays, one that its client resets now, and one that it resets while there is no daemon.
    let mut admitted = Vec::new();
    let reset = |tuple: &FiveTuple, server| {
        let flags = tcp_flags::RST | tcp_flags::ACK;
        data(INGRESS, &client_segment(tuple, flags, 701, server, b""))
    };
    let mut last = Vec::new();
    for tuple in [tcp(6001), tcp(6002), tcp(6004)] {
        site.send_open(&tuple, 700);
        let accept = site.wait_for_control(SECOND, Kind::Accept, &tuple).expect("no Accept");
        admitted.push((tuple, accept.word_a));
        let syn_ack =
            site.wait_for_reply(&tuple, |p| p.tcp.unwrap().is_syn_ack()).expect("no SYN-ACK");
        let server = Packet::parse(&syn_ack).unwrap().tcp.unwrap().seq + 1;
        let ack = client_segment(&tuple, tcp_flags::ACK, 701, server, b"");
        site.send(INGRESS, &data(INGRESS, &ack));
        last = reset(&tuple, server);
        if tuple == tcp(6002) {
            site.send(INGRESS, &last);
            site.wait_for_control(HEAD, Kind::Close, &tuple).expect("no Close");
        }
    }
    let pulled = |site: &mut Site, nonce| {
        let (flags, refresh, records) = site.pull(nonce, 0).expect("no batch");
        assert_eq!((flags, refresh.batches), (body_flags::BATCH, 1));
        let (flags, end, none) = site.pull(nonce, 1).expect("no end marker");
        assert_eq!((flags, end.counter, none), (body_flags::END, refresh.counter, vec![]));
        let live = |tuple: &FiveTuple| records.iter().find(|r| r.tuple == *tuple).copied();
        (live(&tcp(6001)), live(&tcp(6002)), end.counter)
    };
    let (here, gone, counter) = pulled(&mut site, 0x1111);
    let here = here.expect("the live connection");
    assert_eq!(
        (here.live, here.incarnation, here.counter),
        (true, Incarnation(700), admitted[0].1)
    );
    // By their number in the list.
    assert_eq!(site.load(), [ServiceLoad { service: 1, live: 2, unwilling: None, share: 100 }]);
    let gone = gone.expect("what closed lately");
    assert!(!gone.live && gone.counter > admitted[1].1 && gone.counter <= counter);

    // Of a connection that nobody knows.
    let unknown = tcp(6003);
    let packet = client_segment(&unknown, tcp_flags::ACK, 5, 6, b"");
    site.send(INGRESS_2, &data(INGRESS_2, &packet));
    let said = site.wait_for_control(INGRESS_2, Kind::NotMine, &unknown).expect("no NotMine");
    assert_eq!((said.incarnation, said.backend), (Incarnation(0), Some(ME)));
    assert!(said.word_a > counter);

    // The next daemon says which flows ended before it was there, and has the same to say of a pull that it does not know.
    site.kill();
    site.send(INGRESS, &last);
    site.start();
    for ended in [tcp(6002), tcp(6004)] {
        site.wait_for_control(HEAD, Kind::Close, &ended).expect("no Close of the next daemon");
    }
    let (again, _, _) = pulled(&mut site, 0x1111);
    assert_eq!(again, Some(here));
    site.stop();
    assert!(site.command(&["detach"]).0);
}
