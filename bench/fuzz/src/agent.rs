use core::net::SocketAddr;
use std::sync::Arc;

use jlb_role::{
    AllRules, Burst, FakeBuf, FakeIo, Io, MetricSink, Nanos, PacketBuf as _, Report, Role,
    UnderlayDst,
};
use jlb_wire::{BootId, FiveTuple};
use jlb_yann_core::{
    Agent, AgentConfig, AgentEvent, DEFAULT_UDP_IDLE, Kernel, KernelLimits, Listener, Sockets,
    TcpSocket, Verdict, Word,
};

use crate::play::{Play, client_packet};
use crate::script::Script;
use crate::site::{BACKENDS, flow, id, snapshot};

const LIMITS: KernelLimits = KernelLimits { flows: 4, answers: 5, events: 16 };

/// Bytes as a script for both halves of an agent: the eBPF programs' reference model and the daemon's.
pub fn agent(bytes: &[u8]) {
    let mut s = Script::new(bytes);
    let (me, now) = (id(BACKENDS[0]), Nanos::from_secs(1));
    let list = snapshot(0);
    let word = Arc::new(Word::new(BootId(u64::from(me.as_u16()))));
    let kernel = Kernel::new(me, &list, LIMITS, AllRules, Arc::clone(&word), now);
    let config = AgentConfig { id: me, seed: 7, close_capacity: 8 };
    let agent = Agent::new(config, list, AllRules, now, &*word);
    let host = Host { kernel, agent, stack: Stack::default(), io: FakeIo::default() };
    let mut play = Play::new(host, me, now);
    while !s.is_over() {
        match s.below(16) {
            0 => play.raw(&mut s),
            1..=3 => play.data(&mut s),
            4 => {
                let list = play.site.publish(play.now);
                play.role.kernel.configure(&list);
                let event = AgentEvent::Snapshot(list);
                play.role.event(play.now, event, &mut play.io);
            }
            5..=8 => deed(&mut play, &mut s),
            _ => play.step(&mut s),
        }
        bounded(&play.role.kernel);
    }
    play.settle();
    bounded(&play.role.kernel);
}

/// What the host's stack and the daemon's clock do.
fn deed(play: &mut Play<Host>, s: &mut Script<'_>) {
    let (now, host) = (play.now, &mut play.role);
    let (tuple, _) = flow(s);
    match s.below(6) {
        0 => host.stack.draw(s),
        1 => host.kernel.heartbeat(now),
        2 => host.kernel.sweep(now, DEFAULT_UDP_IDLE, &host.stack),
        3 => host.kernel.socket_established(&tuple),
        4 => host.kernel.socket_closed(now, &tuple),
        _ => {
            if let Ok(reply) = FiveTuple::new(tuple.vip(), tuple.client(), tuple.protocol()) {
                let packet = client_packet(&reply, s);
                sane(&host.kernel.egress(now, &packet));
            }
        }
    }
    host.publish(now, &mut play.io);
    play.carry(Vec::new());
}

fn bounded(kernel: &Kernel<AllRules>) {
    assert!(kernel.flow_count() <= LIMITS.flows);
    assert!(kernel.answers().count() <= LIMITS.answers);
    assert!(kernel.events().count() <= LIMITS.events);
    for slot in 0..4 {
        let live = kernel.flows().filter(|(_, flow)| flow.service == slot).count();
        assert_eq!(kernel.live(slot) as usize, live, "live flows of service {slot} are counted");
    }
}

/// What leaves the host, or goes to its stack, is a packet.
fn sane(verdict: &Verdict) {
    match verdict {
        Verdict::Send { packet, .. } => {
            let outer = jlb_wire::Outer::parse(packet, 6081).expect("what we write we read");
            assert_eq!(outer.len, packet.len());
        }
        Verdict::Deliver(inner) => {
            // A fragment is no packet of a flow.
            jlb_wire::IpHeader::parse(inner).expect("it has a header");
        }
        Verdict::Pass | Verdict::Done | Verdict::Drop(_) => {}
    }
}

/// Both halves, as the driver sees them.
struct Host {
    kernel: Kernel<AllRules>,
    agent: Agent<AllRules>,
    stack: Stack,
    io: FakeIo,
}

impl Host {
    /// The daemon takes the kernel half's events; what it learns goes to the maps, what it sends goes out.
    fn publish(&mut self, now: Nanos, out: &mut impl Io<FakeBuf>) {
        while let Some(event) = self.kernel.pop_event() {
            self.agent.event(now, AgentEvent::Kernel(event), &mut self.io);
        }
        while let Some(report) = self.io.reports.pop_front() {
            match report {
                Report::PeerBoot { member, boot, sequence } => {
                    self.kernel.peer_boot(member, boot, sequence);
                }
                Report::Collect(collect) => {
                    let (counter, records) = self.kernel.refresh_records(now);
                    let (tracker, nonce) = (collect.tracker, collect.nonce);
                    let records = records.into();
                    let event = AgentEvent::Flows { tracker, nonce, counter, records };
                    self.agent.event(now, event, &mut self.io);
                }
                Report::Pulled { member, boot, sequence } => {
                    self.kernel.pulled(member, boot, sequence);
                }
                Report::SoleChanged { change } => {
                    self.kernel.obey(self.agent.sole_owners(), self.agent.standings());
                    self.agent.event(now, AgentEvent::SoleWritten { change }, &mut self.io);
                }
                Report::PeerAlive { .. }
                | Report::PeerSuspect { .. }
                | Report::ListMismatch { .. }
                | Report::BackendDead { .. }
                | Report::Warm(_)
                | Report::Sole(_)
                | Report::WaitsFor { .. }
                | Report::MayLeave => {}
            }
        }
        self.io.sent.drain(..).for_each(|(buf, to)| out.send(buf, to));
        self.io.dropped.drain(..).for_each(|(buf, why)| out.drop(buf, why));
    }
}

impl Role<FakeBuf> for Host {
    type Event = AgentEvent;

    fn rx(&mut self, now: Nanos, burst: &mut Burst<FakeBuf>, io: &mut impl Io<FakeBuf>) {
        for buf in burst.drain(..) {
            let verdict = self.kernel.ingress(now, buf.bytes(), &self.stack);
            sane(&verdict);
            match verdict {
                Verdict::Pass => {
                    let mut one = Burst::new();
                    one.push(buf);
                    self.agent.rx(now, &mut one, &mut self.io);
                    assert!(one.is_empty());
                }
                Verdict::Send { packet, to } => {
                    io.send(FakeBuf::holding(&packet), UnderlayDst::Member(to));
                }
                Verdict::Drop(why) => io.drop(buf, why),
                Verdict::Deliver(_) | Verdict::Done => {}
            }
        }
        self.publish(now, io);
    }

    fn event(&mut self, now: Nanos, event: AgentEvent, io: &mut impl Io<FakeBuf>) {
        self.agent.event(now, event, &mut self.io);
        self.publish(now, io);
    }

    fn tick(&mut self, now: Nanos, io: &mut impl Io<FakeBuf>) {
        Role::<FakeBuf>::tick(&mut self.agent, now, &mut self.io);
        self.publish(now, io);
    }

    fn next_deadline(&self) -> Option<Nanos> {
        Role::<FakeBuf>::next_deadline(&self.agent)
    }

    fn collect(&self, out: &mut dyn MetricSink) {
        Role::<FakeBuf>::collect(&self.agent, out);
    }
}

/// A stack that says the same of all flows.
#[derive(Default)]
struct Stack {
    tcp: Option<TcpSocket>,
    listener: Option<Listener>,
    udp: bool,
    cookies: bool,
}

impl Stack {
    fn draw(&mut self, s: &mut Script<'_>) {
        let sockets =
            [None, Some(TcpSocket::Listening), Some(TcpSocket::TimeWait), Some(TcpSocket::Open)];
        self.tcp = s.pick(&sockets);
        self.listener = s
            .flip()
            .then(|| Listener { depth: u32::from(s.below(4)), limit: u32::from(s.below(4)) });
        (self.udp, self.cookies) = (s.flip(), s.flip());
    }
}

impl Sockets for Stack {
    fn tcp(&self, _: &FiveTuple) -> Option<TcpSocket> {
        self.tcp
    }

    fn listener(&self, _: &FiveTuple) -> Option<Listener> {
        self.listener
    }

    fn udp(&self, _: &FiveTuple) -> bool {
        self.udp
    }

    fn syn_cookies(&self, _: SocketAddr) -> bool {
        self.cookies
    }
}
