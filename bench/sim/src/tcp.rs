//! One end of a TCP connection: enough of RFC 9293 to be a peer that a load balancer can meet. It retransmits with
//! back-off from the oldest unacknowledged byte, takes data in order only, answers what is not acceptable with an
//! acknowledgement (a challenge, RFC 5961), and keeps TIME_WAIT.

use jlb_role::Nanos;
use jlb_wire::tcp_flags::{ACK, FIN, RST, SYN};

use crate::bytes::Segment;

/// Retransmission of SYN and SYN-ACK begins at 1 s (RFC 6298) and doubles.
const SYN_TIMEOUT: Nanos = Nanos::from_secs(1);
/// Transmissions of a SYN before the client gives up, 7 s after the first one: within what agents remember (8 s).
const SYN_TRIES: u8 = 3;
/// Retransmission of data begins here and doubles up to its limit.
const DATA_TIMEOUT: Nanos = Nanos::from_millis(200);
const DATA_TIMEOUT_LIMIT: Nanos = Nanos(1_600_000_000);

/// When an end of a connection gives up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Transmissions of a SYN-ACK before the request socket goes, without an event.
    syn_ack_tries: u8,
    /// Transmissions of data without progress.
    data_tries: u8,
    /// Time without a packet after which a client's application resets the connection.
    pub(crate) client: Nanos,
    /// And a server's: so vanished clients leave no socket behind.
    pub(crate) server: Nanos,
}

impl Patience {
    /// Request sockets 3 s, data 11 s.
    pub(crate) const USUAL: Self = Self {
        syn_ack_tries: 2,
        data_tries: 9,
        client: Nanos::from_secs(12),
        server: Nanos::from_secs(6),
    };
    /// Longer than the faults of a run and what must be rebuilt after them: request sockets and data 15 s.
    pub(crate) const LONG: Self = Self {
        syn_ack_tries: 4,
        data_tries: 12,
        client: Nanos::from_secs(15),
        server: Nanos::from_secs(15),
    };
}
/// Short, so that runs are short: what matters is that the port is not free at once.
pub(crate) const TIME_WAIT: Nanos = Nanos::from_secs(2);
const MAX_SEGMENT: u32 = 1200;
const WINDOW: u32 = 4 * MAX_SEGMENT;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides closed.
    Orderly,
    /// The other side reset it.
    Reset,
    /// Nobody answered.
    TimedOut,
    /// The application gave up.
    Aborted,
}

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) state: State,
    pub(crate) end: Option<End>,
    pub(crate) iss: u32,
    pub(crate) irs: u32,
    /// Data bytes received in order.
    pub(crate) received: u32,
    /// A data byte was not the one that the other side sent at that place.
    pub(crate) corrupt: bool,
    patience: Patience,
    una: u32,
    nxt: u32,
    rcv_nxt: u32,
    /// Data bytes that the application wants sent.
    to_send: u32,
    fin_wanted: bool,
    /// Data bytes inside the SYN, sent again after the handshake.
    syn_data: u32,
    deadline: Option<Nanos>,
    timeout: Nanos,
    tries: u8,
}

/// The byte at a place of the stream of whoever chose this initial sequence number.
fn pattern(iss: u32, offset: u32) -> u8 {
    (iss.wrapping_add(offset).wrapping_mul(0x9e37_79b1) >> 24) as u8
}

fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Connection {
    /// A client's: sends its SYN.
    pub(crate) fn connect(
        now: Nanos,
        (iss, syn_data): (u32, u32),
        patience: Patience,
        out: &mut Vec<Segment>,
    ) -> Self {
        let mut c = Self::new(State::SynSent, (iss, 0), patience);
        c.syn_data = syn_data;
        c.nxt = iss.wrapping_add(1);
        c.send_syn(out);
        c.arm(now, SYN_TIMEOUT);
        c
    }

    /// A server's, for a SYN: sends its SYN-ACK.
    pub(crate) fn answer(
        now: Nanos,
        (iss, syn): (u32, u32),
        patience: Patience,
        out: &mut Vec<Segment>,
    ) -> Self {
        let mut c = Self::new(State::SynReceived, (iss, syn), patience);
        c.nxt = iss.wrapping_add(1);
        c.rcv_nxt = syn.wrapping_add(1);
        c.send_syn(out);
        c.arm(now, SYN_TIMEOUT);
        c
    }

    const fn new(state: State, (iss, irs): (u32, u32), patience: Patience) -> Self {
        Self {
            state,
            patience,
            end: None,
            iss,
            irs,
            received: 0,
            corrupt: false,
            una: iss,
            nxt: iss,
            rcv_nxt: 0,
            to_send: 0,
            fin_wanted: false,
            syn_data: 0,
            deadline: None,
            timeout: SYN_TIMEOUT,
            tries: 0,
        }
    }

    pub(crate) const fn deadline(&self) -> Option<Nanos> {
        self.deadline
    }

    /// Whether TIME_WAIT yields to a SYN with this sequence number (RFC 6191 without timestamps).
    pub(crate) fn yields_to(&self, syn: u32) -> bool {
        self.state == State::TimeWait && before(self.rcv_nxt, syn)
    }

    /// The handshake is done and the connection is not over.
    pub(crate) const fn open(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::TimeWait | State::Closed)
    }

    /// Whether the other side has closed its direction.
    pub(crate) const fn peer_closed(&self) -> bool {
        matches!(
            self.state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed
        )
    }

    /// The application wants so many bytes sent since the start.
    pub(crate) fn send_up_to(&mut self, now: Nanos, bytes: u32, out: &mut Vec<Segment>) {
        self.to_send = self.to_send.max(bytes);
        self.push(now, out);
    }

    /// The application has no more to send.
    pub(crate) fn close(&mut self, now: Nanos, out: &mut Vec<Segment>) {
        self.fin_wanted = true;
        self.push(now, out);
    }

    /// The application gives up.
    pub(crate) fn abort(&mut self, out: &mut Vec<Segment>) {
        if !matches!(self.state, State::SynSent | State::TimeWait | State::Closed) {
            out.push(self.segment(self.nxt, RST | ACK, 0));
        }
        self.finish(End::Aborted);
    }

    pub(crate) fn on_time(&mut self, now: Nanos, out: &mut Vec<Segment>) {
        if self.deadline.is_none_or(|d| d > now) {
            return;
        }
        self.tries += 1;
        let limit = match self.state {
            State::TimeWait | State::Closed => return self.finish(End::Orderly),
            State::SynSent => SYN_TRIES,
            State::SynReceived => self.patience.syn_ack_tries,
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => self.patience.data_tries,
        };
        if self.tries >= limit {
            return self.finish(End::TimedOut);
        }
        self.timeout = Nanos(self.timeout.0 * 2);
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.send_syn(out);
        } else {
            self.timeout = self.timeout.min(DATA_TIMEOUT_LIMIT);
            // FIN-WAIT-2 only waits; the others go back to the oldest byte that is not acknowledged.
            self.nxt = self.una;
            self.transmit(out);
        }
        self.deadline = Some(now + self.timeout);
    }

    pub(crate) fn on_segment(&mut self, now: Nanos, s: &Segment, out: &mut Vec<Segment>) {
        match self.state {
            State::Closed => {}
            State::SynSent => self.on_segment_in_syn_sent(now, s, out),
            State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => self.on_segment_synchronised(now, s, out),
        }
    }

    fn on_segment_in_syn_sent(&mut self, now: Nanos, s: &Segment, out: &mut Vec<Segment>) {
        let acceptable = s.flags & ACK != 0 && s.ack == self.nxt;
        if s.flags & RST != 0 {
            // It acknowledges the SYN, and data inside it or not (RFC 9293, 3.10.7.3).
            let beyond = s.ack.wrapping_sub(self.nxt);
            if s.flags & ACK != 0 && beyond <= self.syn_data {
                self.finish(End::Reset);
            }
        } else if s.flags & ACK != 0 && !acceptable {
            out.push(reset_for(s));
        } else if s.flags & SYN != 0 && acceptable {
            self.irs = s.seq;
            self.rcv_nxt = s.seq.wrapping_add(1);
            self.una = s.ack;
            self.state = State::Established;
            self.disarm();
            out.push(self.segment(self.nxt, ACK, 0));
            self.push(now, out);
        }
    }

    fn on_segment_synchronised(&mut self, now: Nanos, s: &Segment, out: &mut Vec<Segment>) {
        if s.flags & RST != 0 {
            // RFC 5961, 3.2: exactly the next byte, else a challenge.
            if s.seq == self.rcv_nxt {
                let end = if self.state == State::TimeWait { End::Orderly } else { End::Reset };
                self.finish(end);
            } else if !before(s.seq, self.rcv_nxt)
                && before(s.seq, self.rcv_nxt.wrapping_add(WINDOW))
            {
                out.push(self.segment(self.nxt, ACK, 0));
            }
            return;
        }
        if s.flags & SYN != 0 {
            let again = self.state == State::SynReceived && s.flags & ACK == 0 && s.seq == self.irs;
            if again {
                self.send_syn(out);
            } else {
                out.push(self.segment(self.nxt, ACK, 0));
            }
            return;
        }
        if s.flags & ACK == 0 {
            return;
        }
        if self.state == State::SynReceived {
            if s.ack != self.nxt {
                out.push(reset_for(s));
                return;
            }
            self.una = s.ack;
            self.state = State::Established;
            self.disarm();
        }
        self.take_ack(now, s.ack);
        self.take_data(now, s, out);
        self.push(now, out);
    }

    fn take_ack(&mut self, now: Nanos, ack: u32) {
        let end = self.stream_end();
        if !before(self.una, ack) || before(end, ack) {
            return;
        }
        self.una = ack;
        if before(self.nxt, ack) {
            self.nxt = ack;
        }
        self.tries = 0;
        self.timeout = DATA_TIMEOUT;
        let all = self.una == end && self.fin_wanted;
        match self.state {
            State::FinWait1 if all => self.state = State::FinWait2,
            State::Closing if all => self.enter_time_wait(now),
            State::LastAck if all => return self.finish(End::Orderly),
            State::FinWait1
            | State::Closing
            | State::LastAck
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait2
            | State::CloseWait
            | State::TimeWait
            | State::Closed => {}
        }
        if self.state == State::FinWait2 {
            // The other side may never close: bounded like data.
            self.arm(now, DATA_TIMEOUT_LIMIT);
        } else if self.state != State::TimeWait {
            if self.una == self.nxt {
                self.disarm();
            } else {
                self.deadline = Some(now + self.timeout);
            }
        }
    }

    fn take_data(&mut self, now: Nanos, s: &Segment, out: &mut Vec<Segment>) {
        let len = s.payload.len() as u32;
        if len == 0 && s.flags & FIN == 0 {
            return;
        }
        if s.seq == self.rcv_nxt && !self.peer_closed() {
            for (offset, &byte) in (self.received..).zip(&s.payload) {
                self.corrupt |= byte != pattern(self.irs, offset);
            }
            self.received += len;
            self.rcv_nxt = self.rcv_nxt.wrapping_add(len);
            if s.flags & FIN != 0 {
                self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
                match self.state {
                    State::Established => self.state = State::CloseWait,
                    State::FinWait1 => self.state = State::Closing,
                    State::FinWait2 => self.enter_time_wait(now),
                    State::SynSent
                    | State::SynReceived
                    | State::CloseWait
                    | State::Closing
                    | State::LastAck
                    | State::TimeWait
                    | State::Closed => {}
                }
            }
        }
        if self.state != State::Closed {
            out.push(self.segment(self.nxt, ACK, 0));
        }
    }

    /// Sends what may be sent: data within the window, then FIN.
    fn push(&mut self, now: Nanos, out: &mut Vec<Segment>) {
        if !self.open() {
            return;
        }
        if self.fin_wanted {
            match self.state {
                State::Established => self.state = State::FinWait1,
                State::CloseWait => self.state = State::LastAck,
                State::SynSent
                | State::SynReceived
                | State::FinWait1
                | State::FinWait2
                | State::Closing
                | State::LastAck
                | State::TimeWait
                | State::Closed => {}
            }
        }
        self.transmit(out);
        if self.una != self.nxt && self.deadline.is_none() {
            self.arm(now, DATA_TIMEOUT);
        }
    }

    fn transmit(&mut self, out: &mut Vec<Segment>) {
        let (end, data_end) = (self.stream_end(), self.data_end());
        while before(self.nxt, data_end) && before(self.nxt, self.una.wrapping_add(WINDOW)) {
            let len = data_end.wrapping_sub(self.nxt).min(MAX_SEGMENT);
            out.push(self.segment(self.nxt, ACK, len));
            self.nxt = self.nxt.wrapping_add(len);
        }
        if self.fin_wanted && self.nxt == data_end {
            out.push(self.segment(self.nxt, ACK | FIN, 0));
            self.nxt = end;
        }
    }

    /// The sequence number behind all data, and behind the FIN when there is one.
    fn stream_end(&self) -> u32 {
        self.data_end().wrapping_add(u32::from(self.fin_wanted))
    }

    fn data_end(&self) -> u32 {
        self.iss.wrapping_add(1).wrapping_add(self.to_send)
    }

    fn send_syn(&self, out: &mut Vec<Segment>) {
        out.push(if self.state == State::SynSent {
            Segment {
                ack: 0,
                flags: SYN,
                ..self.segment_of(self.iss.wrapping_add(1), SYN, self.syn_data)
            }
        } else {
            self.segment(self.iss, SYN | ACK, 0)
        });
        if let Some(syn) = out.last_mut() {
            syn.seq = self.iss;
        }
    }

    fn segment(&self, seq: u32, flags: u8, len: u32) -> Segment {
        self.segment_of(seq, flags, len)
    }

    fn segment_of(&self, seq: u32, flags: u8, len: u32) -> Segment {
        let offset = seq.wrapping_sub(self.iss).wrapping_sub(1);
        let payload = (0..len).map(|i| pattern(self.iss, offset.wrapping_add(i))).collect();
        Segment { seq, ack: self.rcv_nxt, flags, payload }
    }

    fn arm(&mut self, now: Nanos, timeout: Nanos) {
        self.timeout = timeout;
        self.deadline = Some(now + timeout);
    }

    fn disarm(&mut self) {
        self.deadline = None;
        self.tries = 0;
        self.timeout = DATA_TIMEOUT;
    }

    fn enter_time_wait(&mut self, now: Nanos) {
        self.state = State::TimeWait;
        self.deadline = Some(now + TIME_WAIT);
    }

    fn finish(&mut self, end: End) {
        self.state = State::Closed;
        self.deadline = None;
        self.end = Some(end);
    }
}

/// The reset that answers a segment for which there is no connection (RFC 9293, 3.10.7.1); nothing answers a reset.
pub(crate) fn reset_for(s: &Segment) -> Segment {
    if s.flags & ACK != 0 {
        return Segment { seq: s.ack, ack: 0, flags: RST, payload: Vec::new() };
    }
    let len =
        s.payload.len() as u32 + u32::from(s.flags & SYN != 0) + u32::from(s.flags & FIN != 0);
    Segment { seq: 0, ack: s.seq.wrapping_add(len), flags: RST | ACK, payload: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ends and a wire that loses every `lose`-th segment.
    struct Pair {
        now: Nanos,
        client: Connection,
        server: Option<Connection>,
        to_server: Vec<Segment>,
        to_client: Vec<Segment>,
        sent: u64,
        lose: u64,
    }

    impl Pair {
        fn new(lose: u64) -> Self {
            let mut to_server = Vec::new();
            let client = Connection::connect(
                Nanos::ZERO,
                (u32::MAX - 5, 0),
                Patience::USUAL,
                &mut to_server,
            );
            Self {
                now: Nanos::ZERO,
                client,
                server: None,
                to_server,
                to_client: Vec::new(),
                sent: 0,
                lose,
            }
        }

        fn lost(&mut self) -> bool {
            self.sent += 1;
            self.sent.is_multiple_of(self.lose)
        }

        fn step(&mut self) {
            for s in std::mem::take(&mut self.to_server) {
                if self.lost() {
                    continue;
                }
                match &mut self.server {
                    Some(server) => server.on_segment(self.now, &s, &mut self.to_client),
                    None => {
                        self.server = Some(Connection::answer(
                            self.now,
                            (77, s.seq),
                            Patience::USUAL,
                            &mut self.to_client,
                        ));
                    }
                }
            }
            for s in std::mem::take(&mut self.to_client) {
                if !self.lost() {
                    self.client.on_segment(self.now, &s, &mut self.to_server);
                }
            }
            self.now = self.now + Nanos::from_millis(10);
            self.client.on_time(self.now, &mut self.to_server);
            if let Some(server) = &mut self.server {
                server.on_time(self.now, &mut self.to_client);
            }
        }
    }

    #[test]
    fn data_and_both_fins_arrive_over_a_wire_that_loses() {
        for lose in [u64::MAX, 3, 4, 5] {
            let mut pair = Pair::new(lose);
            for _ in 0..3000 {
                pair.step();
                if pair.client.open() {
                    pair.client.send_up_to(pair.now, 10_000, &mut pair.to_server);
                }
                if let Some(server) = pair.server.as_mut().filter(|s| s.received == 10_000) {
                    server.send_up_to(pair.now, 5_000, &mut pair.to_client);
                    server.close(pair.now, &mut pair.to_client);
                }
                if pair.client.received == 5_000 {
                    pair.client.close(pair.now, &mut pair.to_server);
                }
            }
            let server = pair.server.expect("it was connected to");
            assert_eq!((pair.client.received, server.received), (5_000, 10_000), "lose {lose}");
            assert_eq!((pair.client.end, server.end), (Some(End::Orderly), Some(End::Orderly)));
            assert!(!pair.client.corrupt && !server.corrupt);
        }
    }

    #[test]
    fn a_stray_syn_gets_a_challenge_and_changes_nothing() {
        let mut pair = Pair::new(u64::MAX);
        pair.step();
        pair.step();
        let server = pair.server.as_mut().expect("it was connected to");
        assert_eq!(server.state, State::Established);
        let stray = Segment { seq: 4711, ack: 0, flags: SYN, payload: Vec::new() };
        let mut out = Vec::new();
        server.on_segment(pair.now, &stray, &mut out);
        assert_eq!(server.state, State::Established);
        assert_eq!(
            (out.len(), out[0].flags, out[0].ack),
            (1, ACK, pair.client.iss.wrapping_add(1))
        );
    }

    #[test]
    fn a_reset_of_a_syn_is_believed_only_for_that_syn() {
        let mut out = Vec::new();
        let mut client = Connection::connect(Nanos::ZERO, (100, 0), Patience::USUAL, &mut out);
        let mut reset = Segment { seq: 0, ack: 100, flags: RST | ACK, payload: Vec::new() };
        client.on_segment(Nanos::ZERO, &reset, &mut out);
        assert_eq!(client.end, None);
        reset.ack = 101;
        client.on_segment(Nanos::ZERO, &reset, &mut out);
        assert_eq!(client.end, Some(End::Reset));
    }
}
