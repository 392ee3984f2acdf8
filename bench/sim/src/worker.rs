use std::collections::VecDeque;

use jlb_role::{Burst, FakeBuf, FakeIo, Nanos, Role};

/// Packets that wait for a worker's next poll at most: a NIC's queue.
pub(crate) const RX_QUEUE: usize = 512;

/// What becomes of a host or a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It runs.
    Up,
    /// It does nothing for a while; what reaches it queues up.
    Hung,
    /// It is not there.
    Down,
}

/// One worker of a member, driven as a lcore would.
#[derive(Debug)]
pub(crate) struct Worker<R> {
    pub(crate) role: R,
    rx: VecDeque<FakeBuf>,
    /// When it polls next; nothing waits when there is none.
    pub(crate) polls_at: Option<Nanos>,
    /// When its next tick is due.
    pub(crate) ticks_at: Option<Nanos>,
}

impl<R: Role<FakeBuf>> Worker<R> {
    pub(crate) const fn new(role: R) -> Self {
        Self { role, rx: VecDeque::new(), polls_at: None, ticks_at: None }
    }

    /// Puts a packet before the worker. `false`: its queue is full, the packet is gone.
    pub(crate) fn enqueue(&mut self, buf: FakeBuf) -> bool {
        let room = self.rx.len() < RX_QUEUE;
        if room {
            self.rx.push_back(buf);
        }
        room
    }

    /// Takes one burst. Gives whether the role left it empty, as it must.
    pub(crate) fn poll(&mut self, now: Nanos, io: &mut FakeIo) -> bool {
        let mut burst: Burst<FakeBuf> = Burst::new();
        while !burst.is_full()
            && let Some(buf) = self.rx.pop_front()
        {
            burst.push(buf);
        }
        self.role.rx(now, &mut burst, io);
        burst.is_empty()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.rx.is_empty()
    }

    pub(crate) fn tick(&mut self, now: Nanos, io: &mut FakeIo) {
        self.role.tick(now, io);
    }

    /// When the driver must tick next, never at the very same instant: a real driver takes a while to come round.
    pub(crate) fn next_tick(&self, now: Nanos) -> Option<Nanos> {
        self.role.next_deadline().map(|due| due.max(now + Nanos(1_000)))
    }
}
