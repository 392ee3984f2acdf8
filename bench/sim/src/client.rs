//! A client's half of one conversation with a service.

use core::net::SocketAddr;

use jlb_role::Nanos;
use jlb_wire::{FiveTuple, Protocol};

use crate::bytes::{Segment, tcp_packet, udp_packet};
use crate::script::{Ending, Script};
use crate::tcp::{Connection, End, Patience, State};

/// How long a UDP client waits for answers after its last datagram.
const UDP_PATIENCE: Nanos = Nanos::from_secs(2);

/// What a client is going to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Intent {
    Tcp {
        script: Script,
        /// Data bytes inside the SYN.
        syn_data: u32,
    },
    Udp {
        datagrams: u32,
        size: usize,
        every: Nanos,
    },
}

/// How a conversation went, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// All that was to be said was said.
    Completed,
    /// The SYN was answered with a reset, or the datagram with ICMP port unreachable.
    Refused,
    /// Nobody answered the SYN, or no datagram at all.
    NoAnswer,
    /// An established connection was reset.
    Reset,
    /// An established connection fell silent.
    Silent,
    /// The client walked away by intent.
    Left,
    /// UDP: some datagrams were answered.
    Partly,
}

#[derive(Debug)]
enum Talk {
    Waiting,
    Tcp { tcp: Connection, round: u32, next_round: Option<Nanos>, heard: Nanos },
    Udp { sent: u32, answered: u64, next: Option<Nanos>, until: Nanos, refused: bool },
    Over(Outcome),
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) tuple: FiveTuple,
    pub(crate) intent: Intent,
    pub(crate) service: usize,
    /// When it begins; with a predecessor, so long after that one's end.
    pub(crate) start: Nanos,
    /// Who had this five-tuple before.
    pub(crate) predecessor: Option<usize>,
    /// Began after all faults had ended: nothing may go wrong.
    pub(crate) after_healing: bool,
    /// Bytes came that the server did not send.
    pub(crate) corrupt: bool,
    /// The handshake was completed.
    pub(crate) established: bool,
    pub(crate) patience: Patience,
    server: Option<u32>,
    talk: Talk,
}

impl Client {
    pub(crate) const fn new(
        tuple: FiveTuple,
        intent: Intent,
        service: usize,
        start: Nanos,
        predecessor: Option<usize>,
    ) -> Self {
        Self {
            tuple,
            intent,
            service,
            start,
            predecessor,
            after_healing: false,
            corrupt: false,
            established: false,
            patience: Patience::USUAL,
            server: None,
            talk: Talk::Waiting,
        }
    }

    pub(crate) const fn outcome(&self) -> Option<Outcome> {
        match self.talk {
            Talk::Over(outcome) => Some(outcome),
            Talk::Waiting | Talk::Tcp { .. } | Talk::Udp { .. } => None,
        }
    }

    /// The initial sequence number of the server that it is connected to, or was.
    pub(crate) const fn server(&self) -> Option<u32> {
        self.server
    }

    /// It never begins.
    pub(crate) const fn stay_away(&mut self) {
        self.talk = Talk::Over(Outcome::Left);
    }

    pub(crate) const fn waiting(&self) -> bool {
        matches!(self.talk, Talk::Waiting)
    }

    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        match &self.talk {
            Talk::Waiting | Talk::Over(_) => None,
            Talk::Tcp { tcp, next_round, heard, .. } => {
                [tcp.deadline(), *next_round, Some(*heard + self.patience.client)]
                    .into_iter()
                    .flatten()
                    .min()
            }
            Talk::Udp { next, until, .. } => Some(next.unwrap_or(*until)),
        }
    }

    /// Begins: `isn` is for TCP.
    pub(crate) fn begin(&mut self, now: Nanos, isn: u32, out: &mut Vec<Vec<u8>>) {
        match self.intent {
            Intent::Tcp { syn_data, .. } => {
                let mut segments = Vec::new();
                let tcp = Connection::connect(now, (isn, syn_data), self.patience, &mut segments);
                self.talk = Talk::Tcp { tcp, round: 0, next_round: None, heard: now };
                self.emit(&segments, out);
            }
            Intent::Udp { .. } => {
                self.talk = Talk::Udp {
                    sent: 0,
                    answered: 0,
                    next: Some(now),
                    until: now + UDP_PATIENCE,
                    refused: false,
                };
                self.on_time(now, out);
            }
        }
    }

    pub(crate) fn on_segment(&mut self, now: Nanos, s: &Segment, out: &mut Vec<Vec<u8>>) {
        let mut segments = Vec::new();
        if let Talk::Tcp { tcp, heard, .. } = &mut self.talk {
            *heard = now;
            let was = tcp.state;
            tcp.on_segment(now, s, &mut segments);
            self.after(now, was, &mut segments);
        }
        self.emit(&segments, out);
    }

    /// An answer to one of its datagrams.
    pub(crate) fn on_datagram(&mut self, payload: &[u8]) {
        if let (Talk::Udp { answered, sent, .. }, Some(&n)) = (&mut self.talk, payload.first())
            && u32::from(n) < *sent
        {
            *answered |= 1 << n.min(63);
        }
    }

    /// ICMP port unreachable.
    pub(crate) fn on_unreachable(&mut self) {
        if let Talk::Udp { refused, .. } = &mut self.talk {
            *refused = true;
        }
    }

    pub(crate) fn on_time(&mut self, now: Nanos, out: &mut Vec<Vec<u8>>) {
        let mut segments = Vec::new();
        match &mut self.talk {
            Talk::Waiting | Talk::Over(_) => {}
            Talk::Tcp { tcp, heard, .. } => {
                let was = tcp.state;
                tcp.on_time(now, &mut segments);
                if now >= *heard + self.patience.client && tcp.end.is_none() {
                    tcp.abort(&mut segments);
                }
                self.after(now, was, &mut segments);
            }
            Talk::Udp { sent, answered, next, until, refused } => {
                let Intent::Udp { datagrams, size, every } = self.intent else { return };
                if next.is_some_and(|due| due <= now) {
                    let mut payload = vec![*sent as u8; size];
                    payload[0] = *sent as u8;
                    *sent += 1;
                    *next = (*sent < datagrams).then_some(now + every);
                    *until = now + UDP_PATIENCE;
                    out.push(udp_packet(self.tuple.client(), self.tuple.vip(), &payload));
                } else if next.is_none() && *until <= now {
                    let outcome = match answered.count_ones() {
                        n if n == datagrams => Outcome::Completed,
                        0 if *refused => Outcome::Refused,
                        0 => Outcome::NoAnswer,
                        _ => Outcome::Partly,
                    };
                    self.talk = Talk::Over(outcome);
                }
            }
        }
        self.emit(&segments, out);
    }

    /// The application's turn, after the connection moved on.
    fn after(&mut self, now: Nanos, was: State, segments: &mut Vec<Segment>) {
        let Intent::Tcp { script, .. } = self.intent else { return };
        let Talk::Tcp { tcp, round, next_round, .. } = &mut self.talk else { return };
        self.corrupt |= tcp.corrupt;
        if tcp.open() {
            self.established = true;
            self.server = Some(tcp.irs);
            if *round == 0 {
                *round = 1;
            }
            if next_round.is_some_and(|due| due <= now) {
                *next_round = None;
                *round += 1;
            }
            tcp.send_up_to(now, *round * script.request, segments);
            let answered = tcp.received >= *round * script.response;
            if answered && script.ending == Ending::Vanish {
                self.talk = Talk::Over(Outcome::Left);
                return;
            }
            if answered && *round == script.rounds {
                match script.ending {
                    Ending::Client => tcp.close(now, segments),
                    Ending::Abort => tcp.abort(segments),
                    Ending::Server | Ending::Vanish => {}
                }
            } else if answered && next_round.is_none() {
                *next_round = Some(now + script.pause);
            }
            if tcp.peer_closed() {
                tcp.close(now, segments);
            }
        }
        let complete = tcp.received >= script.rounds * script.response;
        match tcp.end {
            // TIME_WAIT at the client is not waited for: the port is used again with a higher ISN (RFC 6191).
            None if tcp.state == State::TimeWait => {
                self.talk = Talk::Over(Outcome::Completed);
            }
            None => {}
            Some(end) => {
                self.talk = Talk::Over(match end {
                    _ if complete => Outcome::Completed,
                    End::Reset if was == State::SynSent => Outcome::Refused,
                    End::TimedOut | End::Aborted if was == State::SynSent => Outcome::NoAnswer,
                    End::Reset => Outcome::Reset,
                    End::TimedOut | End::Aborted | End::Orderly => Outcome::Silent,
                });
            }
        }
    }

    fn emit(&self, segments: &[Segment], out: &mut Vec<Vec<u8>>) {
        let (client, vip): (SocketAddr, SocketAddr) = (self.tuple.client(), self.tuple.vip());
        out.extend(segments.iter().map(|s| tcp_packet(client, vip, s)));
    }

    pub(crate) const fn is_tcp(&self) -> bool {
        matches!(self.tuple.protocol(), Protocol::Tcp)
    }
}
