//! How flows end.

use jlb_role::{Nanos, Reason, Rules};
use jlb_wire::{FiveTuple, Protocol};

use super::open::flow_record;
use super::{Kernel, Verdict};
use crate::maps::{Answer, AnswerKey, EventRecord, Flow, answer_kind, flow_flags, flow_state};
use crate::{BackendWord, EventKind, Sockets, TcpSocket};

/// How often the daemon sweeps.
pub const SWEEP_INTERVAL: Nanos = Nanos::from_secs(1);
/// An admitted flow that never was established may be without a socket for so long: request sockets come and go with
/// no event.
pub const NO_SOCKET_LIMIT: Nanos = Nanos::from_secs(3);
/// The same while its listener sends SYN cookies, which are good for a minute: no socket until the last ACK.
pub const COOKIE_LIMIT: Nanos = Nanos::from_secs(70);
/// A UDP flow without a packet for so long is over, unless configured otherwise.
pub const DEFAULT_UDP_IDLE: Nanos = Nanos::from_secs(60);

/// What a sweep found out about a flow's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// It has one (for TCP: neither listening nor TIME_WAIT).
    pub socket: bool,
    /// Its listener sends SYN cookies.
    pub cookies: bool,
}

impl Flow {
    /// Whether a sweep must look at the flow at all: of others the kernel reports CLOSE.
    #[must_use]
    pub const fn is_swept(&self, protocol: Protocol) -> bool {
        matches!(protocol, Protocol::Udp) || self.state != flow_state::ESTABLISHED
    }

    /// Notes what was found, and says whether the flow is over.
    pub fn sweep(&mut self, now: Nanos, protocol: Protocol, found: Swept, udp_idle: Nanos) -> bool {
        if found.socket {
            self.socket_seen = now.0;
        }
        match protocol {
            Protocol::Udp => !found.socket || now.since(Nanos(self.last_packet)) >= udp_idle,
            Protocol::Tcp => {
                if found.cookies {
                    self.flags |= flow_flags::COOKIES;
                }
                let patient = self.flags & flow_flags::COOKIES != 0;
                let limit = if patient { COOKIE_LIMIT } else { NO_SOCKET_LIMIT };
                now.since(Nanos(self.socket_seen)) >= limit
            }
        }
    }
}

impl<R: Rules> Kernel<R> {
    /// The kernel reports that the handshake of a TCP connection (client → VIP) is complete.
    pub fn socket_established(&mut self, tuple: &FiveTuple) {
        if let Some(flow) = self.flows.get_mut(tuple) {
            flow.state = flow_state::ESTABLISHED;
        }
    }

    /// The kernel reports CLOSE for a TCP connection (client → VIP), which is also where TIME_WAIT begins.
    pub fn socket_closed(&mut self, now: Nanos, tuple: &FiveTuple) {
        let closed = self.close(now, tuple).map(|()| Verdict::Done);
        self.counted(closed);
    }

    /// What the daemon does every [`SWEEP_INTERVAL`]: ends flows of which the kernel says nothing, and forgets answers
    /// whose time is over.
    pub fn sweep(&mut self, now: Nanos, udp_idle: Nanos, sockets: &impl Sockets) {
        let mut over = Vec::new();
        for (tuple, flow) in &mut self.flows {
            let protocol = tuple.protocol();
            if !flow.is_swept(protocol) {
                continue;
            }
            let found = match protocol {
                Protocol::Udp => Swept { socket: sockets.udp(tuple), cookies: false },
                Protocol::Tcp => Swept {
                    socket: sockets.tcp(tuple) == Some(TcpSocket::Open),
                    cookies: sockets.syn_cookies(tuple.vip()),
                },
            };
            if flow.sweep(now, protocol, found, udp_idle) {
                over.push(*tuple);
            }
        }
        self.answers.retain(|key, answer| now.since(Nanos(answer.at)) < key.lifetime(answer));
        for tuple in over {
            self.socket_closed(now, &tuple);
        }
    }

    /// Moves a flow to the remembered answers, and tells. With no room for either it stays, for a sweep to end it.
    pub(super) fn close(&mut self, now: Nanos, tuple: &FiveTuple) -> Result<(), Reason> {
        let Some(flow) = self.flows.get_mut(tuple) else { return Ok(()) };
        let key = AnswerKey::new(tuple, flow.incarnation, false);
        let no_answer =
            self.answers.len() >= self.limits.answers && !self.answers.contains_key(&key);
        let no_event = self.events.len() >= self.limits.events;
        if no_answer || no_event {
            if flow.state == flow_state::ESTABLISHED {
                (flow.state, flow.socket_seen) = (flow_state::ACCEPTED, now.0);
            }
            return Err(if no_event { Reason::Busy } else { Reason::AnswersFull });
        }
        let answer = Answer {
            at: now.0,
            counter: self.word.next_counter(),
            ingress: flow.ingress,
            service: flow.service,
            kind: answer_kind::CLOSED,
            reason: 0,
            pad: [0; 4],
        };
        let slot = usize::from(flow.service);
        let told =
            EventRecord { counter: answer.counter, ..flow_record(EventKind::Closed, tuple, flow) };
        self.flows.remove(tuple);
        self.answers.insert(key, answer);
        if let Some(live) = self.live.get_mut(slot) {
            *live = live.saturating_sub(1);
        }
        self.emit(told);
        Ok(())
    }
}
