//! The eBPF programs and their reference model side by side: both get every packet, by `BPF_PROG_TEST_RUN` and by a call,
//! and must do the same to it and to their maps.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use aya::programs::{TestRun as _, TestRunOptions};
use jlb_flow::PARTITIONS;
use jlb_map::Snapshot;
use jlb_role::{AllRules, Nanos, Reason};
use jlb_wire::{FiveTuple, MemberId, Protocol};
use jlb_yann::config::peer_boot;
use jlb_yann::maps::{LockedWindow, Maps};
use jlb_yann::programs::{Capacities, Programs};
use jlb_yann_core::maps::{
    Answer, AnswerKey, EventRecord, Flow, Member, Shared, Standing, WindowKey, flow_state,
};
use jlb_yann_core::{KernelLimits, Listener, TcpSocket, Verdict};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket,
    sockopt,
};
use nix::time::{ClockId, clock_gettime};
use zerocopy::FromBytes as _;

use crate::common::{BOOT, HEAD, Host, INGRESS, INGRESS_2, SECOND, THIRD, boot};

const UNSPEC: u32 = u32::MAX;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// VIPs and clients of `common`, all on this host, so that real connections can be made of its flows.
const ADDRESSES: [&str; 4] =
    ["203.0.113.10/32", "198.51.100.9/32", "2001:db8::10/128", "2001:db8:1::9/128"];

/// A network namespace of this thread, with those addresses.
pub(crate) fn own_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    for address in ADDRESSES {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        ip(&format!("addr add {address} dev lo{nodad}"));
    }
    // Times of up to 9 s ago are put into the maps: a machine that just booted has no such time.
    while now().0 < 10_000_000_000 {
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    // busybox knows no nodad; without another host there is nobody to ask for long.
    if !done.success() {
        let plain = arguments.replace(" nodad", "");
        assert!(Command::new("ip").args(plain.split(' ')).status().unwrap().success());
    }
}

fn now() -> Nanos {
    let t = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    Nanos(t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

pub(crate) struct Pair {
    pub(crate) host: Host,
    pub(crate) maps: Maps,
    programs: Programs,
    sockets: Sockets,
    heartbeat: Nanos,
}

/// The real counterparts of what `Host::stack` says.
#[derive(Default)]
struct Sockets {
    listeners: Vec<TcpListener>,
    waiting: Vec<TcpStream>,
    udp: Option<UdpSocket>,
    /// Both ends of the flows' connections.
    connections: BTreeMap<FiveTuple, (TcpStream, TcpStream)>,
}

const PORTS: [u16; 3] = [80, 81, 82];

impl Pair {
    /// Loads the programs, which takes a second, onto empty maps.
    pub(crate) fn new(limits: KernelLimits) -> Self {
        own_namespace();
        let capacities = Capacities { flows: limits.flows as u32, answers: limits.answers as u32 };
        let (mut programs, maps) = Programs::load(None, capacities).unwrap();
        programs.follow_sockets().unwrap();
        let host = Host::new();
        let mut pair =
            Self { heartbeat: host.now, host, maps, programs, sockets: Sockets::default() };
        let inode = std::fs::metadata("/proc/thread-self/ns/net").unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&inode) as u32;
        pair.maps.namespace.set(0, &inode).unwrap();
        pair.begin(&crate::common::snapshot(|_| {}), limits);
        pair
    }

    /// Begins anew, with another list.
    pub(crate) fn begin(&mut self, list: &Snapshot, limits: KernelLimits) {
        for (client, server) in core::mem::take(&mut self.sockets.connections).into_values() {
            reset(client, server);
        }
        self.sockets = Sockets::default();
        self.host = Host::of(list, limits, AllRules);
        self.heartbeat = self.host.now;
        let maps = &mut self.maps;
        maps.forget_flows().unwrap();
        maps.windows.replace(&[]).unwrap();
        maps.word.set(0, &Shared { boot: BOOT.0, counter: 100, sequence: 500 }).unwrap();
        for member in [INGRESS, INGRESS_2, HEAD, SECOND, THIRD] {
            peer_boot(maps, member, boot(member), 0).unwrap();
        }
        self.configure();
        self.set_stack(3, 16, true);
        while self.next_event().is_some() {}
        self.sync();
    }

    /// Writes the model's configuration into the maps.
    pub(crate) fn configure(&mut self) {
        let (kernel, maps) = (&self.host.kernel, &mut self.maps);
        let services: Vec<_> = kernel.services().map(|(k, v)| (*k, *v)).collect();
        maps.services.replace(&services).unwrap();
        let vips: Vec<_> = kernel.vips().map(|(k, v)| (*k, *v)).collect();
        maps.vips.replace(&vips).unwrap();
        let addresses: Vec<_> = kernel.addresses().map(|(k, v)| (*k, *v)).collect();
        maps.member_addresses.replace(&addresses).unwrap();
        let members: BTreeMap<MemberId, Member> = kernel.members().map(|(k, v)| (*k, *v)).collect();
        for n in 1..64 {
            let member = members.get(&MemberId::new(n).unwrap()).copied().unwrap_or_default();
            maps.members.set(n.into(), &member).unwrap();
        }
        maps.host.set(0, kernel.host()).unwrap();
        self.obey(&[0; PARTITIONS]);
        for id in (1..64).filter_map(MemberId::new) {
            self.stand(id, Standing::default());
        }
    }

    /// Who decides alone, by partition.
    pub(crate) fn obey(&mut self, owners: &[u16; PARTITIONS]) {
        self.host.kernel.obey(owners, std::iter::empty());
        for (partition, owner) in (0..).zip(owners) {
            self.maps.sole.set(partition, owner).unwrap();
        }
    }

    /// What a tracker's votes are worth.
    pub(crate) fn stand(&mut self, tracker: MemberId, standing: Standing) {
        let owners = *self.host.kernel.sole_owners();
        self.host.kernel.obey(&owners, std::iter::once((tracker, standing)));
        self.maps.standing.set(tracker.as_u16().into(), &standing).unwrap();
    }

    /// A worker of it pulled with that sequence number.
    pub(crate) fn pulled(&mut self, tracker: MemberId, sequence: u64) {
        self.host.kernel.pulled(tracker, boot(tracker), sequence);
        jlb_yann::config::pulled(&mut self.maps, tracker, boot(tracker), sequence).unwrap();
    }

    /// A listener on all ports, with so many connections that nobody accepts (or none when `limit` is 0), and a UDP
    /// socket.
    pub(crate) fn set_stack(&mut self, depth: u32, limit: u32, udp: bool) {
        assert!(self.sockets.connections.is_empty(), "connections come after listeners");
        self.sockets.listeners.clear();
        self.sockets.waiting.clear();
        self.host.stack.udp = udp;
        self.host.stack.listener = (limit > 0).then_some(Listener { depth, limit });
        self.sockets.udp = None;
        let start = Instant::now();
        while udp && self.sockets.udp.is_none() {
            assert!(start.elapsed() < Duration::from_secs(5));
            self.sockets.udp = UdpSocket::bind("[::]:80").ok();
        }
        if limit == 0 {
            return;
        }
        for port in PORTS {
            let fd = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
                .unwrap();
            setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
            let any: SocketAddr = format!("[::]:{port}").parse().unwrap();
            let SocketAddr::V6(any) = any else { unreachable!() };
            // Another test's thread may be starting a program, which for a moment holds copies of all descriptors.
            let start = Instant::now();
            while let Err(e) = bind(fd.as_raw_fd(), &SockaddrIn6::from(any)) {
                assert!(start.elapsed() < Duration::from_secs(5), "{any}: {e}");
                std::thread::sleep(Duration::from_millis(1));
            }
            listen(&fd, Backlog::new(limit as i32).unwrap()).unwrap();
            self.sockets.listeners.push(TcpListener::from(fd));
            for _ in 0..depth {
                let to: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
                self.sockets.waiting.push(TcpStream::connect(to).unwrap());
            }
        }
    }

    /// Makes a real connection of a flow. Only with an empty accept queue.
    pub(crate) fn connect(&mut self, tuple: &FiveTuple) {
        if self.sockets.connections.contains_key(tuple) || self.host.stack.listener.is_none() {
            return;
        }
        assert_eq!(self.host.stack.listener.unwrap().depth, 0);
        let at = PORTS.iter().position(|p| *p == tuple.vip().port()).unwrap();
        let family = if tuple.is_v6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
        let client = nix::sys::socket::SockaddrStorage::from(tuple.client());
        bind(fd.as_raw_fd(), &client).unwrap();
        let vip = nix::sys::socket::SockaddrStorage::from(tuple.vip());
        nix::sys::socket::connect(fd.as_raw_fd(), &vip).unwrap();
        let (server, _) = self.sockets.listeners[at].accept().unwrap();
        self.sockets.connections.insert(*tuple, (TcpStream::from(fd), server));
        self.host.stack.tcp.insert(*tuple, TcpSocket::Open);
        self.host.kernel.socket_established(tuple);
        self.wait(|pair| {
            pair.maps.flows.get(tuple.padded()).is_none_or(|f| f.state == flow_state::ESTABLISHED)
        });
        self.compare();
    }

    /// Resets that connection.
    pub(crate) fn disconnect(&mut self, tuple: &FiveTuple) {
        let Some((client, server)) = self.sockets.connections.remove(tuple) else { return };
        self.sync();
        reset(client, server);
        self.host.stack.tcp.remove(tuple);
        self.host.kernel.socket_closed(self.host.now, tuple);
        let there = self.host.kernel.flow(tuple).is_some();
        self.wait(|pair| pair.maps.flows.get(tuple.padded()).is_some() == there);
        self.compare();
    }

    /// Ends a connection from the server's side, so that TIME_WAIT stays there.
    pub(crate) fn time_wait(&mut self, tuple: &FiveTuple) {
        let (client, server) = self.sockets.connections.remove(tuple).unwrap();
        self.sync();
        drop(server);
        std::thread::sleep(Duration::from_millis(50));
        drop(client);
        self.host.stack.tcp.insert(*tuple, TcpSocket::TimeWait);
        self.host.kernel.socket_closed(self.host.now, tuple);
        self.wait(|pair| pair.maps.flows.get(tuple.padded()).is_none());
        self.compare();
    }

    fn wait(&self, until: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !until(self) {
            assert!(start.elapsed() < Duration::from_secs(5), "the kernel half did not follow");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Time goes by; the daemon beats at its end, or not.
    pub(crate) fn pass(&mut self, ms: u64, beat: bool) {
        self.host.now = self.host.now + Nanos::from_millis(ms);
        if beat {
            self.heartbeat = self.host.now;
            self.host.kernel.heartbeat(self.host.now);
        }
    }

    /// Puts the model's times into the maps, as if they were of this machine's clock.
    fn sync(&mut self) {
        let (model, real) = (self.host.now.0, now().0);
        // What is older than the machine is as good as 1 ns after its start.
        let at = |t: u64| if t == 0 { 0 } else { real.saturating_sub(model - t).max(1) };
        for (tuple, flow) in self.host.kernel.flows() {
            let flow = Flow {
                admitted: at(flow.admitted),
                last_packet: at(flow.last_packet),
                socket_seen: at(flow.socket_seen),
                ..*flow
            };
            self.maps.flows.set(tuple.padded(), &flow).unwrap();
        }
        for (key, answer) in self.host.kernel.answers() {
            self.maps.answers.set(key, &Answer { at: at(answer.at), ..*answer }).unwrap();
        }
        for (n, egress) in (0..).zip(self.host.kernel.egress_hosts()) {
            let egress = jlb_yann_core::maps::Egress { heard: at(egress.heard), ..*egress };
            self.maps.egress_hosts.set(n, &egress).unwrap();
        }
        // A fresh heartbeat has the age 0 on either side.
        let fresh = self.heartbeat == self.host.now;
        let beat = if fresh { real + 1_000_000_000 } else { at(self.heartbeat.0) };
        self.maps.heartbeat.set(0, &beat).unwrap();
        // The model has no such limit.
        self.maps.not_mine.clear(0).unwrap();
    }

    /// A packet that comes in.
    pub(crate) fn receive(&mut self, packet: &[u8]) -> Verdict {
        self.sync();
        let before = self.drops();
        let frame = frame(packet);
        let (code, out) = self.run("jlb_ingress", &frame);
        let model = self.host.receive(packet);
        self.judge(&model, code, &frame, &out, &before);
        model
    }

    /// A packet that the host sends.
    pub(crate) fn egress(&mut self, packet: &[u8]) -> Verdict {
        self.sync();
        let before = self.drops();
        let frame = frame(packet);
        let (code, out) = self.run("jlb_egress", &frame);
        let model = self.host.kernel.egress(self.host.now, packet);
        self.judge(&model, code, &frame, &out, &before);
        model
    }

    pub(crate) fn sweep(&mut self, udp_idle: Nanos) {
        self.sync();
        self.programs.sweep(udp_idle.0, false).unwrap();
        self.host.kernel.sweep(self.host.now, udp_idle, &self.host.stack);
        // Flows that end in one sweep end in any order, so each may have the counter of another, and the load of one of
        // its service.
        let mut real = Vec::new();
        while let Some(event) = self.next_event() {
            real.push(event);
        }
        let mut model: Vec<_> = self.host.kernel.events().copied().collect();
        while self.host.kernel.pop_event().is_some() {}
        for events in [&mut real, &mut model] {
            let mut counters: Vec<_> = events.iter().map(|e| e.counter).collect();
            counters.sort_unstable();
            let mut live: Vec<_> = events.iter().map(|e| (e.service, e.live)).collect();
            live.sort_unstable();
            events.sort_unstable_by_key(|e| (e.service, e.tuple));
            for (e, (counter, (_, live))) in events.iter_mut().zip(counters.into_iter().zip(live)) {
                (e.counter, e.live) = (counter, live);
            }
        }
        assert_eq!(real, model, "flows that ended");
        self.sync();
        self.compare();
    }

    /// The reason for which this was dropped.
    pub(crate) fn dropped(&mut self, packet: &[u8]) -> Option<Reason> {
        match self.receive(packet) {
            Verdict::Drop(why) => Some(why),
            Verdict::Deliver(_) | Verdict::Pass | Verdict::Send { .. } | Verdict::Done => None,
        }
    }

    /// The same packet again and again, for the eBPF half only: how many events that makes.
    pub(crate) fn flood(&mut self, packet: &[u8], times: usize) -> usize {
        self.sync();
        let frame = frame(packet);
        let mut events = 0;
        for _ in 0..times {
            self.run("jlb_ingress", &frame);
            events += usize::from(self.next_event().is_some());
        }
        events
    }

    fn run(&mut self, name: &'static str, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; 4096];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = self.programs.classifier(name).unwrap().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    fn drops(&self) -> Vec<u64> {
        Reason::ALL.iter().map(|&r| self.maps.drops.sum(r as u32)).collect()
    }

    fn judge(&mut self, model: &Verdict, code: u32, sent: &[u8], out: &[u8], before: &[u64]) {
        let dropped: Vec<Reason> = (Reason::ALL.iter().zip(before).zip(self.drops()))
            .filter(|((_, before), after)| after != *before)
            .map(|((reason, _), _)| *reason)
            .collect();
        let reasons = match model {
            Verdict::Drop(reason) => vec![*reason],
            Verdict::Deliver(_) | Verdict::Pass | Verdict::Send { .. } | Verdict::Done => vec![],
        };
        assert_eq!(dropped, reasons, "eBPF's reasons, the model's: {model:?}");
        match model {
            Verdict::Deliver(packet) => {
                assert_eq!(code, UNSPEC, "{model:?}");
                assert_eq!(&out[14..], &packet[..]);
                assert_eq!(out[12..14], frame(packet)[12..14], "EtherType");
            }
            Verdict::Pass => {
                assert_eq!(code, UNSPEC, "{model:?}");
                assert_eq!(out, sent);
            }
            Verdict::Send { packet, .. } => {
                assert_eq!(code, REDIRECT, "{model:?}");
                assert_eq!(&out[14..], &packet[..]);
            }
            Verdict::Done | Verdict::Drop(_) => assert_eq!(code, SHOT, "{model:?}"),
        }
        self.compare();
    }

    /// Both halves know the same, and have said the same.
    fn compare(&mut self) {
        let timeless = |f: &Flow| Flow { admitted: 0, last_packet: 0, socket_seen: 0, ..*f };
        let real: BTreeMap<_, _> = self
            .maps
            .flows
            .entries()
            .unwrap()
            .into_iter()
            .map(|(t, f)| (t, timeless(&f)))
            .collect();
        let model: BTreeMap<_, _> =
            self.host.kernel.flows().map(|(t, f)| (*t.padded(), timeless(f))).collect();
        assert_eq!(real, model, "live flows");

        let timeless = |a: &Answer| Answer { at: 0, ..*a };
        let real: BTreeMap<AnswerKey, _> = self
            .maps
            .answers
            .entries()
            .unwrap()
            .into_iter()
            .map(|(k, a)| (k, timeless(&a)))
            .collect();
        let model: BTreeMap<AnswerKey, _> =
            self.host.kernel.answers().map(|(k, a)| (*k, timeless(a))).collect();
        assert_eq!(real, model, "remembered answers");

        let mut said = Vec::new();
        while let Some(event) = self.next_event() {
            said.push(event);
        }
        let wanted: Vec<EventRecord> = self.host.kernel.events().copied().collect();
        assert_eq!(said, wanted, "events");
        while self.host.kernel.pop_event().is_some() {}

        let current = |(key, w): &(WindowKey, LockedWindow)| {
            self.maps.boots.get(key.member.into()).unwrap() == w.boot
        };
        let real: BTreeMap<_, _> = self
            .maps
            .windows
            .entries()
            .unwrap()
            .into_iter()
            .filter(current)
            .map(|(k, w)| (k, w.window))
            .collect();
        let model: BTreeMap<_, _> = self.host.kernel.windows().map(|(k, w)| (*k, *w)).collect();
        assert_eq!(real, model, "sequence windows");

        for slot in 0..4 {
            assert_eq!(self.maps.live.get(slot).unwrap(), self.host.kernel.live(slot as u16));
        }
        let all = self.host.kernel.flow_count() as u32;
        assert_eq!(self.maps.live_all.get(0).unwrap(), all);
        for (n, egress) in (0..).zip(self.host.kernel.egress_hosts()) {
            let real = self.maps.egress_hosts.get(n).unwrap();
            assert_eq!((real.member, real.heard == 0), (egress.member, egress.heard == 0));
        }
    }

    fn next_event(&mut self) -> Option<EventRecord> {
        let item = self.maps.events.0.next()?;
        Some(EventRecord::read_from_bytes(&item).unwrap())
    }
}

/// Ends a connection without TIME_WAIT.
fn reset(client: TcpStream, server: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&server, sockopt::Linger, &linger).unwrap();
    drop(server);
    drop(client);
}

/// With an Ethernet header in front.
fn frame(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14];
    let v6 = packet.first().is_some_and(|b| b >> 4 == 6);
    frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
    frame.extend_from_slice(packet);
    frame
}

/// Whether a flow can have a real connection.
pub(crate) fn is_tcp(tuple: &FiveTuple) -> bool {
    tuple.protocol() == Protocol::Tcp
}
