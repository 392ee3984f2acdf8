//! A role that does what a test tells it, and the options that all tests start with.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of a test")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use jlb_dpdk::{Cores, EalOptions, LogLevel, Memory};
use jlb_role::{
    Burst, Io, Metric, MetricKind, MetricSink, Nanos, PacketBuf, Report, Role, Samples,
    UnderlayDst, WorkerId,
};
use jlb_runtime::{Handle, MacAddr, Neighbours, Prefix};
use jlb_wire::MemberId;

/// What a test can tell it.
#[derive(Clone, Debug)]
pub enum Do {
    /// Make packets of this length and send them.
    Send { packets: usize, len: usize, to: UnderlayDst },
    /// Make packets and give them to another worker.
    HandOver { packets: usize, to: WorkerId },
    /// Take buffers and keep them until the role ends.
    Keep(usize),
    /// Report this so many times.
    Report(Report, usize),
    /// Block this worker.
    Block(Duration),
    /// Tick from now on, this often.
    TickEvery(Nanos),
}

/// Answers packets that it owns, and hands over those that it does not: the owner is the low byte of the IPv4
/// identification.
pub struct Puppet<B> {
    me: WorkerId,
    answer: UnderlayDst,
    kept: Vec<B>,
    every: Option<Nanos>,
    next: Option<Nanos>,
    seen: u64,
    foreign: u64,
    events: u64,
    ticks: u64,
}

impl<B> Puppet<B> {
    pub fn new(me: WorkerId, answer: UnderlayDst) -> Self {
        Self {
            me,
            answer,
            kept: vec![],
            every: None,
            next: None,
            seen: 0,
            foreign: 0,
            events: 0,
            ticks: 0,
        }
    }
}

impl<B: PacketBuf> Role<B> for Puppet<B> {
    type Event = Do;

    fn rx(&mut self, _: Nanos, burst: &mut Burst<B>, io: &mut impl Io<B>) {
        for packet in burst.drain(..) {
            let owner = WorkerId(packet.bytes()[5]);
            if owner == self.me {
                self.seen += 1;
                io.send(packet, self.answer);
            } else {
                self.foreign += 1;
                io.hand_over(packet, owner);
            }
        }
    }

    fn event(&mut self, now: Nanos, event: Do, io: &mut impl Io<B>) {
        self.events += 1;
        match event {
            Do::Send { packets, len, to } => {
                for _ in 0..packets {
                    let packet = packet(io, len, self.me);
                    io.send(packet, to);
                }
            }
            Do::HandOver { packets, to } => {
                for _ in 0..packets {
                    let packet = packet(io, 100, to);
                    io.hand_over(packet, to);
                }
            }
            Do::Keep(buffers) => self.kept.extend((0..buffers).filter_map(|_| io.alloc())),
            Do::Report(report, times) => (0..times).for_each(|_| io.report(report)),
            Do::Block(time) => thread::sleep(time),
            Do::TickEvery(every) => {
                self.every = Some(every);
                self.next = Some(now + every);
            }
        }
    }

    fn tick(&mut self, now: Nanos, _: &mut impl Io<B>) {
        self.ticks += 1;
        self.next = self.every.map(|every| now + every);
    }

    fn next_deadline(&self) -> Option<Nanos> {
        self.next
    }

    fn collect(&self, out: &mut dyn MetricSink) {
        static WHAT: Metric = Metric { name: "puppet", help: "", kind: MetricKind::Counter };
        let worker = self.me.0.to_string();
        for (what, n) in [
            ("seen", self.seen),
            ("foreign", self.foreign),
            ("events", self.events),
            ("ticks", self.ticks),
        ] {
            out.value(&WHAT, &[("what", what), ("worker", &worker)], n as f64);
        }
    }
}

fn packet<B: PacketBuf>(io: &mut impl Io<B>, len: usize, owner: WorkerId) -> B {
    let mut packet = io.alloc().unwrap();
    packet.append(len).unwrap().copy_from_slice(&ipv4(len, owner));
    packet
}

/// An IPv4 packet of that length for that owner.
pub fn ipv4(len: usize, owner: WorkerId) -> Vec<u8> {
    let mut p = vec![0; len];
    p[0] = 0x45;
    p[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    p[5] = owner.0;
    p
}

pub fn frame(to: MacAddr, from: MacAddr, ether_type: u16, packet: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ether_type.to_be_bytes(), packet].concat()
}

pub const FRIEND: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xf]);
pub const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x9]);

/// Member 1 is [`FRIEND`], 192.0.2.0/24 is behind [`GATEWAY`].
pub fn neighbours() -> Arc<ArcSwap<Neighbours>> {
    let net = Prefix::new(Ipv4Addr::new(192, 0, 2, 0).into(), 24).unwrap();
    Arc::new(ArcSwap::from_pointee(Neighbours::new([(friend(), FRIEND)], [(net, Some(GATEWAY))])))
}

pub fn friend() -> MemberId {
    MemberId::new(1).unwrap()
}

/// Memory for every pool of a test binary: DPDK keeps them until its end.
pub fn eal_options(workers: usize) -> EalOptions {
    EalOptions {
        workers,
        cores: Cores::Floating,
        memory: Memory::Ordinary(192),
        devices: vec![],
        log: LogLevel::Error,
    }
}

/// As the control thread does it.
pub fn collect(handle: &Handle<Do>) -> Samples {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio.block_on(handle.collect(Duration::from_secs(2)))
}

/// Waits until the sum is reached, at most 5 s; gives the last samples.
pub fn wait_for(
    handle: &Handle<Do>,
    name: &str,
    labels: &[(&str, &str)],
    at_least: f64,
) -> Samples {
    for _ in 0..500 {
        let samples = collect(handle);
        if samples.sum(name, labels) >= at_least {
            return samples;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} {labels:?} did not reach {at_least}: {:?}", collect(handle));
}
