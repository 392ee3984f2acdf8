use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use arrayvec::ArrayVec;
use crossbeam_channel::Receiver;
use crossbeam_utils::CachePadded;
use jlb_dpdk::{Mbuf, RxQueue};
use jlb_neighbours::Neighbours;
use jlb_role::{BURST, Burst, Nanos, PacketBuf as _, Reason, Role, Samples};
use rtrb::Consumer;
use tokio::sync::oneshot;

use crate::ethernet::{self, Ignored, Skip};
use crate::idle::{Backoff, TIMER_SLACK_NANOS};
use crate::link::{Link, WorkerIo};
use crate::metrics::{self, WorkerNumbers};
use crate::{Clock, Idle};

/// Commands taken between two polls: a burst of packets must not wait for more.
const COMMANDS_PER_POLL: usize = 4;

/// What the control thread asks of a worker.
#[derive(Debug)]
pub(crate) enum Command<E> {
    Event(E),
    Collect(oneshot::Sender<Samples>),
}

/// What all threads see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) stop: AtomicBool,
    /// By worker: when its loop last turned, in nanoseconds of the clock.
    pub(crate) heartbeats: Box<[CachePadded<AtomicU64>]>,
    /// By worker: packets of clients and flows that its role has handled, or all where the role does not tell.
    pub(crate) flow_packets: Box<[CachePadded<AtomicU64>]>,
}

impl Shared {
    pub(crate) fn new(workers: u8, clock: Clock) -> Self {
        let zeros = || (0..workers).map(|_| CachePadded::new(AtomicU64::new(0))).collect();
        Self { clock, stop: AtomicBool::new(false), heartbeats: zeros(), flow_packets: zeros() }
    }
}

/// One worker: a role, its queue, its rings.
#[derive(Debug)]
pub(crate) struct Worker<R: Role<Mbuf>> {
    role: R,
    rx: RxQueue,
    from_others: Vec<Consumer<Mbuf>>,
    link: Link,
    neighbours: Cache<Arc<ArcSwap<Neighbours>>, Arc<Neighbours>>,
    commands: Receiver<Command<R::Event>>,
    shared: Arc<Shared>,
    backoff: Backoff,

    busy: Nanos,
    /// When the last turn began, if it was one with work: it lasts until the next one begins, so that a turn reads the clock
    /// once.
    working_since: Option<Nanos>,
    received: u64,
    ignored: [u64; Ignored::ALL.len()],
}

impl<R: Role<Mbuf>> Worker<R> {
    pub(crate) fn new(
        role: R,
        (rx, from_others, link): (RxQueue, Vec<Consumer<Mbuf>>, Link),
        neighbours: Arc<ArcSwap<Neighbours>>,
        commands: Receiver<Command<R::Event>>,
        shared: Arc<Shared>,
        idle: Idle,
    ) -> Self {
        let backoff = Backoff::new(idle, shared.clock.now());
        Self {
            role,
            rx,
            from_others,
            link,
            neighbours: Cache::new(neighbours),
            commands,
            shared,
            backoff,
            busy: Nanos::ZERO,
            working_since: None,
            received: 0,
            ignored: [0; Ignored::ALL.len()],
        }
    }

    /// Until told to stop. Then everything of this worker goes: packets back to the pool, the queue to its port.
    pub(crate) fn run(mut self) {
        // Only costs power when it fails: sleeps are then kept to 50 µs, the kernel's default.
        let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK_NANOS);
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.once();
        }
        self.link.flush();
    }

    /// Goes round once, and rests when there was nothing to do.
    pub(crate) fn once(&mut self) {
        let now = self.shared.clock.now();
        if let Some(since) = self.working_since.take() {
            self.busy = self.busy + now.since(since);
        }
        self.heartbeat(now);
        let flow_packets = self.role.flow_packets();
        let (packets, worked) = self.turn(now);
        let after = self.role.flow_packets();
        let active = match (flow_packets, after) {
            (Some(before), Some(after)) => before != after,
            (None, _) | (_, None) => packets,
        };
        if active && let Some(shared) = self.shared.flow_packets.get(usize::from(self.link.me.0)) {
            shared.store(after.unwrap_or(self.received), Ordering::Relaxed);
        }
        if worked {
            self.working_since = Some(now);
        }
        if active {
            self.backoff.active(now);
        }
        if !worked {
            self.backoff.pause(now, self.role.next_deadline()).take();
        }
    }

    pub(crate) const fn role(&self) -> &R {
        &self.role
    }

    fn heartbeat(&self, now: Nanos) {
        if let Some(beat) = self.shared.heartbeats.get(usize::from(self.link.me.0)) {
            beat.store(now.0, Ordering::Relaxed);
        }
    }

    /// Polls everything once. Whether the role got packets, and whether there was anything to do at all.
    fn turn(&mut self, now: Nanos) -> (bool, bool) {
        let (mut packets, frames) = self.receive(now);
        packets |= self.receive_from_others(now);
        let mut worked = packets || frames;
        worked |= self.link.take_kernels(now);
        worked |= self.obey(now);
        if self.role.next_deadline().is_some_and(|d| d <= now) {
            let mut io = WorkerIo { link: &mut self.link, neighbours: self.neighbours.load() };
            self.role.tick(now, &mut io);
            worked = true;
        }
        self.link.rest();
        self.link.flush();
        (packets, worked)
    }

    /// Whether there were packets for the role, and whether there were any frames.
    fn receive(&mut self, now: Nanos) -> (bool, bool) {
        let mut frames = ArrayVec::<Mbuf, BURST>::new();
        let got = self.rx.burst(&mut frames);
        if got.packets + got.oversized == 0 {
            return (false, false);
        }
        self.link.count(got.oversized, Reason::Oversized);
        let mut burst = Burst::new();
        for mut frame in frames {
            match ethernet::strip(&mut frame, self.link.mac, self.link.mtu) {
                Ok(()) => burst.push(frame),
                Err(Skip::Ignored(why)) => self.ignore(frame, why),
                Err(Skip::Dropped(why)) => self.link.count(1, why),
            }
        }
        if burst.is_empty() {
            return (false, true);
        }
        self.received += burst.len() as u64;
        let mut io = WorkerIo { link: &mut self.link, neighbours: self.neighbours.load() };
        self.role.rx(now, &mut burst, &mut io);
        (true, true)
    }

    /// What is nothing for the role: the kernel has seen it, or gets it.
    #[cold]
    fn ignore(&mut self, frame: Mbuf, why: Ignored) {
        let is_kernels = ethernet::is_for_kernel(frame.bytes(), why);
        if !is_kernels || self.link.give_kernel(frame).is_err() {
            self.ignored[why as usize] += 1;
        }
    }

    fn receive_from_others(&mut self, now: Nanos) -> bool {
        let mut any = false;
        for ring in &mut self.from_others {
            let mut burst = Burst::new();
            while !burst.is_full() {
                let Ok(packet) = ring.pop() else { break };
                burst.push(packet);
            }
            if !burst.is_empty() {
                let mut io = WorkerIo { link: &mut self.link, neighbours: self.neighbours.load() };
                self.role.rx(now, &mut burst, &mut io);
                any = true;
            }
        }
        any
    }

    fn obey(&mut self, now: Nanos) -> bool {
        for done in 0..COMMANDS_PER_POLL {
            // Disconnected: nobody commands any more, but the stop flag decides.
            let Ok(command) = self.commands.try_recv() else { return done > 0 };
            match command {
                Command::Event(event) => {
                    let mut io =
                        WorkerIo { link: &mut self.link, neighbours: self.neighbours.load() };
                    self.role.event(now, event, &mut io);
                }
                Command::Collect(reply) => {
                    // So that every packet is counted as sent or dropped.
                    self.link.flush();
                    // Who asked may have stopped waiting.
                    drop(reply.send(self.samples()));
                }
            }
        }
        true
    }

    fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        let numbers = WorkerNumbers {
            worker: self.link.me,
            busy_seconds: self.busy.as_secs_f64(),
            received: self.received,
            ignored: &self.ignored,
            counters: &self.link.counters,
            exception: self.link.exception.as_deref(),
        };
        metrics::worker(&numbers, &mut samples);
        self.role.collect(&mut samples);
        samples
    }
}
