//! A backend host's TCP/IP stack and its server applications: listeners with an accept queue, request sockets,
//! connections, TIME_WAIT, UDP sockets. It says to the agent what Linux would say.

use core::cmp::Reverse;
use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use jlb_role::Nanos;
use jlb_wire::tcp_flags::{ACK, RST, SYN};
use jlb_wire::{FiveTuple, Packet, Protocol, transport_checksum_fits};
use jlb_yann_core::{Listener, Sockets, TcpSocket};

use crate::bytes::{Segment, tcp_packet, udp_packet};
use crate::map::Map;
use crate::random::Random;
use crate::script::{Ending, Scripts};
use crate::tcp::{Connection, End, Patience, State, reset_for};

/// How a server takes connections off its accept queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepting {
    /// The queue's limit.
    pub(crate) limit: u32,
    /// Time from one accept to the next.
    pub(crate) every: Nanos,
}

#[derive(Debug)]
struct Listen {
    accepting: Accepting,
    queue: VecDeque<FiveTuple>,
    young: u32,
    next_accept: Option<Nanos>,
}

#[derive(Debug)]
struct Server {
    tcp: Connection,
    accepted: bool,
    /// CLOSE was reported: what is left is not a socket that the kernel tells about.
    reported: bool,
    heard: Nanos,
    /// Its earliest place in [`Stack::dues`]: not later than it is due.
    noted: Option<Nanos>,
}

impl Server {
    /// When it has something to do by itself.
    fn due(&self, patience: Nanos) -> Option<Nanos> {
        let patience = self.tcp.open().then_some(self.heard + patience);
        [self.tcp.deadline(), patience].into_iter().flatten().min()
    }
}

/// What the kernel's tracepoint says (`inet_sock_set_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketEvent {
    Established(FiveTuple),
    Closed(FiveTuple),
}

/// What a delivered packet met, for the checkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// A TCP socket that is neither listening nor in TIME_WAIT, of the connection with this client ISN.
    Socket { isn: u32 },
    /// What is left of the connection with this client ISN (TIME_WAIT, or FIN-WAIT-2 without its application): it answers
    /// with an acknowledgement, and nobody gets the bytes.
    Remains { isn: u32 },
    /// No such socket.
    NoSocket,
    /// A UDP socket.
    Udp,
    /// The stack threw it away: malformed, or a wrong checksum.
    Broken,
}

#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Packets of the stack, on their way to the agent's hook.
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) events: Vec<SocketEvent>,
}

#[derive(Debug)]
pub(crate) struct Stack {
    listeners: BTreeMap<SocketAddr, Listen>,
    udp: BTreeSet<SocketAddr>,
    connections: Map<FiveTuple, Server>,
    /// When connections are due, or were before that was put off.
    dues: BinaryHeap<Reverse<(Nanos, FiveTuple)>>,
    /// What is there again when the servers come back.
    stopped: (BTreeMap<SocketAddr, Accepting>, BTreeSet<SocketAddr>),
    random: Random,
    patience: Patience,
    /// Connections whose server's turn it is. Empty between two calls; here for its memory.
    busy: Vec<FiveTuple>,
    /// Connections that the server's side ended, by five-tuple and ISN: it lost its patience, or its process.
    pub(crate) gave_up: Vec<(FiveTuple, u32)>,
    /// A connection received bytes that its client did not send.
    pub(crate) corrupt: Option<FiveTuple>,
}

impl Stack {
    pub(crate) fn new(random: Random, patience: Patience) -> Self {
        Self {
            listeners: BTreeMap::new(),
            udp: BTreeSet::new(),
            connections: Map::default(),
            dues: BinaryHeap::new(),
            stopped: Default::default(),
            random,
            patience,
            busy: Vec::new(),
            gave_up: Vec::new(),
            corrupt: None,
        }
    }

    pub(crate) fn listen(&mut self, at: SocketAddr, accepting: Accepting) {
        let listen = Listen { accepting, queue: VecDeque::new(), young: 0, next_accept: None };
        self.listeners.insert(at, listen);
    }

    pub(crate) fn bind(&mut self, at: SocketAddr) {
        self.udp.insert(at);
    }

    /// Closes all UDP sockets.
    pub(crate) fn unbind_all(&mut self) {
        self.udp.clear();
    }

    /// The server processes end: the kernel resets their connections and closes all sockets.
    pub(crate) fn stop(&mut self, now: Nanos, out: &mut Output) {
        let mut tuples: Vec<FiveTuple> = self.connections.keys().copied().collect();
        tuples.sort_unstable();
        for tuple in tuples {
            let Some(server) = self.connections.get_mut(&tuple) else { continue };
            if server.reported {
                continue;
            }
            let young = server.tcp.state == State::SynReceived;
            let mut replies = Vec::new();
            server.tcp.abort(&mut replies);
            self.settle(now, tuple, young, out);
            self.note(tuple);
            send(tuple, &replies, out);
        }
        let listeners = std::mem::take(&mut self.listeners);
        self.stopped.0.extend(listeners.into_iter().map(|(at, l)| (at, l.accepting)));
        self.stopped.1.append(&mut self.udp);
    }

    /// They are there again.
    pub(crate) fn start(&mut self) {
        let (listeners, mut udp) = std::mem::take(&mut self.stopped);
        for (at, accepting) in listeners {
            self.listen(at, accepting);
        }
        self.udp.append(&mut udp);
    }

    /// Whether it has a connection that this client ISN began, established or not.
    pub(crate) fn holds(&self, tuple: &FiveTuple, isn: u32) -> bool {
        self.connections.get(tuple).is_some_and(|s| s.tcp.irs == isn && !s.reported)
    }

    /// Whether it has an open connection that this client ISN began.
    pub(crate) fn has(&self, tuple: &FiveTuple, isn: u32) -> bool {
        self.connections.get(tuple).is_some_and(|s| s.tcp.irs == isn && s.tcp.open() && !s.reported)
    }

    /// Sockets that are neither listening nor over.
    pub(crate) fn live(&self) -> usize {
        self.connections.values().filter(|s| !s.reported).count()
    }

    pub(crate) fn next_deadline(&mut self) -> Option<Nanos> {
        let connection = self.next_due();
        self.listeners.values().filter_map(|l| l.next_accept).chain(connection).min()
    }

    /// When the first connection is due.
    fn next_due(&mut self) -> Option<Nanos> {
        while let Some(&Reverse((at, tuple))) = self.dues.peek() {
            let server = self.connections.get_mut(&tuple).filter(|s| s.noted == Some(at));
            if let Some(server) = server {
                let due = server.due(self.patience.server);
                if due == Some(at) {
                    return Some(at);
                }
                // It was put off.
                server.noted = due;
                self.dues.extend(due.map(|due| Reverse((due, tuple))));
            }
            self.dues.pop();
        }
        None
    }

    /// A connection may be due at another time now.
    fn note(&mut self, tuple: FiveTuple) {
        let Some(server) = self.connections.get_mut(&tuple) else { return };
        let due = server.due(self.patience.server);
        if let Some(at) = due.filter(|&at| server.noted.is_none_or(|noted| at < noted)) {
            server.noted = due;
            self.dues.push(Reverse((at, tuple)));
        }
    }

    /// Takes an IP packet for a local address.
    pub(crate) fn deliver(
        &mut self,
        now: Nanos,
        bytes: &[u8],
        scripts: &Scripts,
        out: &mut Output,
    ) -> Met {
        let Ok(packet) = Packet::parse(bytes) else { return Met::Broken };
        if !transport_checksum_fits(bytes, &packet) {
            return Met::Broken;
        }
        let payload = &bytes[packet.payload..packet.len];
        let Some(tcp) = packet.tcp else { return self.deliver_udp(&packet, payload, out) };
        let segment =
            Segment { seq: tcp.seq, ack: tcp.ack, flags: tcp.flags, payload: payload.to_vec() };
        let met = match self.connections.get(&packet.tuple) {
            Some(s) if !s.reported => Met::Socket { isn: s.tcp.irs },
            Some(s) => Met::Remains { isn: s.tcp.irs },
            None => Met::NoSocket,
        };
        self.deliver_tcp(now, packet.tuple, &segment, out);
        // Whoever else has something to do has a timer.
        let mut busy = core::mem::take(&mut self.busy);
        self.accept(now, &mut busy);
        busy.push(packet.tuple);
        self.run_applications(now, busy, scripts, out);
        met
    }

    fn deliver_udp(&mut self, packet: &Packet, payload: &[u8], out: &mut Output) -> Met {
        if !self.udp.contains(&packet.tuple.vip()) {
            return Met::NoSocket;
        }
        out.packets.push(udp_packet(packet.tuple.vip(), packet.tuple.client(), payload));
        Met::Udp
    }

    fn deliver_tcp(&mut self, now: Nanos, tuple: FiveTuple, s: &Segment, out: &mut Output) {
        let mut replies = Vec::new();
        let opens = s.flags & (SYN | ACK | RST) == SYN;
        if opens && self.connections.get(&tuple).is_some_and(|c| c.tcp.yields_to(s.seq)) {
            self.connections.remove(&tuple);
        }
        let listener = self.listeners.get_mut(&tuple.vip());
        let full = listener.as_ref().is_none_or(|l| l.queue.len() >= l.accepting.limit as usize);
        if let Some(server) = self.connections.get_mut(&tuple) {
            server.heard = now;
            let young = server.tcp.state == State::SynReceived;
            // As Linux: with a full accept queue the handshake's last packet is ignored.
            if !(young && full && s.flags & (ACK | RST) == ACK) {
                server.tcp.on_segment(now, s, &mut replies);
            }
            self.settle(now, tuple, young, out);
        } else if let Some(listener) = listener.filter(|_| opens) {
            if !full {
                let iss = self.random.next() as u32;
                let tcp = Connection::answer(now, (iss, s.seq), self.patience, &mut replies);
                listener.young += 1;
                let server =
                    Server { tcp, accepted: false, reported: false, heard: now, noted: None };
                self.connections.insert(tuple, server);
            }
        } else if s.flags & RST == 0 {
            replies.push(reset_for(s));
        }
        self.note(tuple);
        send(tuple, &replies, out);
    }

    /// After a connection moved on: young requests and the accept queue, and the kernel's word.
    fn settle(&mut self, now: Nanos, tuple: FiveTuple, was_young: bool, out: &mut Output) {
        let Some(server) = self.connections.get_mut(&tuple) else { return };
        if server.tcp.corrupt {
            self.corrupt.get_or_insert(tuple);
        }
        let gave_up = matches!(server.tcp.end, Some(End::TimedOut | End::Aborted));
        if gave_up && !server.reported {
            self.gave_up.push((tuple, server.tcp.irs));
        }
        let young = server.tcp.state == State::SynReceived;
        if let Some(listener) = self.listeners.get_mut(&tuple.vip()).filter(|_| was_young && !young)
        {
            listener.young -= 1;
            if server.tcp.open() {
                listener.queue.push_back(tuple);
                let due = now + listener.accepting.every;
                listener.next_accept.get_or_insert(due);
                out.events.push(SocketEvent::Established(tuple));
            }
        }
        // A request socket goes without a word; FIN-WAIT-2 is a mini socket like TIME_WAIT, since the server's
        // application has let go of it.
        let over = matches!(server.tcp.state, State::FinWait2 | State::TimeWait | State::Closed);
        if over && !server.reported {
            server.reported = true;
            let request = was_young && !server.tcp.open() && server.tcp.state == State::Closed;
            if !request {
                out.events.push(SocketEvent::Closed(tuple));
            }
        }
        if server.tcp.state == State::Closed {
            self.connections.remove(&tuple);
            if let Some(listener) = self.listeners.get_mut(&tuple.vip()) {
                listener.queue.retain(|t| *t != tuple);
            }
        }
    }

    /// Timers of connections and applications.
    pub(crate) fn tick(&mut self, now: Nanos, scripts: &Scripts, out: &mut Output) {
        let patience = self.patience.server;
        let due =
            self.connections.iter().filter(|(_, s)| s.due(patience).is_some_and(|at| at <= now));
        let mut busy = core::mem::take(&mut self.busy);
        busy.extend(due.map(|(tuple, _)| *tuple));
        busy.sort_unstable();
        for &tuple in &busy {
            let Some(server) = self.connections.get_mut(&tuple) else { continue };
            let mut replies = Vec::new();
            let young = server.tcp.state == State::SynReceived;
            server.tcp.on_time(now, &mut replies);
            if server.tcp.open() && now >= server.heard + self.patience.server {
                server.tcp.abort(&mut replies);
            }
            self.settle(now, tuple, young, out);
            self.note(tuple);
            send(tuple, &replies, out);
        }
        self.accept(now, &mut busy);
        self.run_applications(now, busy, scripts, out);
    }

    /// Servers take connections off their queues, as far as it is time.
    fn accept(&mut self, now: Nanos, accepted: &mut Vec<FiveTuple>) {
        for listener in self.listeners.values_mut() {
            while listener.next_accept.is_some_and(|due| due <= now) {
                let due = now + listener.accepting.every;
                if let Some(tuple) = listener.queue.pop_front()
                    && let Some(server) = self.connections.get_mut(&tuple)
                {
                    server.accepted = true;
                    accepted.push(tuple);
                }
                listener.next_accept = (!listener.queue.is_empty()).then_some(due);
            }
        }
    }

    /// The servers of these connections, if they have accepted them, look what there is to say.
    fn run_applications(
        &mut self,
        now: Nanos,
        mut busy: Vec<FiveTuple>,
        scripts: &Scripts,
        out: &mut Output,
    ) {
        busy.sort_unstable();
        busy.dedup();
        for tuple in busy.drain(..) {
            let server = self.connections.get_mut(&tuple).filter(|s| s.accepted);
            let Some(server) = server else { continue };
            let tcp = &mut server.tcp;
            let mut replies = Vec::new();
            if let Some(script) = scripts.get(&(tuple, tcp.irs)) {
                let answered = (tcp.received / script.request).min(script.rounds);
                tcp.send_up_to(now, answered * script.response, &mut replies);
                if answered == script.rounds && script.ending == Ending::Server {
                    tcp.close(now, &mut replies);
                }
            }
            if tcp.peer_closed() {
                tcp.close(now, &mut replies);
            }
            self.settle(now, tuple, false, out);
            self.note(tuple);
            send(tuple, &replies, out);
        }
        self.busy = busy;
    }
}

fn send(tuple: FiveTuple, segments: &[Segment], out: &mut Output) {
    out.packets.extend(segments.iter().map(|s| tcp_packet(tuple.vip(), tuple.client(), s)));
}

impl Sockets for Stack {
    fn tcp(&self, flow: &FiveTuple) -> Option<TcpSocket> {
        match self.connections.get(flow) {
            Some(s) if s.reported => Some(TcpSocket::TimeWait),
            Some(_) => Some(TcpSocket::Open),
            None => self.listeners.contains_key(&flow.vip()).then_some(TcpSocket::Listening),
        }
    }

    fn listener(&self, flow: &FiveTuple) -> Option<Listener> {
        let listen = self.listeners.get(&flow.vip())?;
        let depth = listen.queue.len() as u32 + listen.young;
        Some(Listener { depth, limit: listen.accepting.limit })
    }

    fn udp(&self, flow: &FiveTuple) -> bool {
        flow.protocol() == Protocol::Udp && self.udp.contains(&flow.vip())
    }

    fn syn_cookies(&self, _vip: SocketAddr) -> bool {
        false
    }
}

/// Where a service is reached.
pub(crate) fn at(vip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(vip, port)
}
