//! One worker of a role, driven by a script as its driver would.

use std::collections::VecDeque;

use jlb_peers::{Carried, Envelope, buffer_with};
use jlb_role::{Burst, FakeBuf, FakeIo, Nanos, PacketBuf as _, Role, UnderlayDst};
use jlb_wire::{
    BodyKind, BootId, Control, FiveTuple, Flags, Incarnation, Kind, MAX_FLOW_HEADERS, MemberId,
    RejectReason, flow_headers,
};

use crate::script::Script;
use crate::site::{BACKENDS, INGRESS, Site, TRACKERS, flow, id};

/// Packets that are kept to be changed and sent again.
const TAPE: usize = 8;
/// One packet makes at most so many: a pull asks eight questions at once; nine packets that waited go on, each perhaps in two
/// fragments.
const MOST_SENT: usize = 24;

pub(crate) struct Play<R> {
    pub(crate) role: R,
    pub(crate) now: Nanos,
    pub(crate) io: FakeIo,
    pub(crate) site: Site,
    tape: VecDeque<FakeBuf>,
    /// Cookie and first word of the last question that it sent.
    asked: (u32, u64),
}

impl<R: Role<FakeBuf>> Play<R> {
    /// Everybody knows everybody.
    pub(crate) fn new(role: R, me: MemberId, now: Nanos) -> Self {
        let site = Site::new(me, now);
        let mut play =
            Self { role, now, io: FakeIo::default(), site, tape: VecDeque::new(), asked: (0, 0) };
        play.pass(Nanos::from_millis(240), Nanos::from_millis(20));
        play
    }

    /// One step that every role understands.
    pub(crate) fn step(&mut self, s: &mut Script<'_>) {
        match s.below(16) {
            0..=8 => self.message(s),
            9 | 10 => {
                let time: u64 = s.pick(&[1, 5, 25, 25, 60, 60, 200, 200, 500, 1000, 2000, 4000]);
                self.pass(Nanos::from_millis(time), Nanos::from_millis(time.div_ceil(6)));
            }
            11 => self.changed(s),
            12 => self.body(s),
            13 => self.site.trouble(self.now, s),
            14 => self.site.remember(s),
            _ => self.io.exhausted = s.flip(),
        }
    }

    /// Time goes on, in steps.
    pub(crate) fn pass(&mut self, time: Nanos, step: Nanos) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + step;
            // Bounded work per tick: a driver comes again as long as something is due.
            for _ in 0..4 {
                if self.role.next_deadline().is_none_or(|due| due > self.now) {
                    break;
                }
                self.role.tick(self.now, &mut self.io);
            }
            let mail = self.site.tick(self.now);
            self.carry(mail);
        }
    }

    /// All is well for a while.
    pub(crate) fn settle(&mut self) {
        self.io.exhausted = false;
        self.site.mend();
        self.pass(Nanos::from_millis(1_200), Nanos::from_millis(60));
    }

    /// Packets arrive, and so does what others answer to what they cause.
    pub(crate) fn carry(&mut self, mut mail: Vec<FakeBuf>) {
        // Probe is answered once, and a pull has an end.
        for _ in 0..64 {
            self.deliver();
            mail.extend(self.site.mail());
            if mail.is_empty() {
                return;
            }
            for buf in mail.drain(..) {
                self.receive(buf);
            }
        }
    }

    pub(crate) fn receive(&mut self, buf: FakeBuf) {
        self.deliver();
        let mut burst = Burst::new();
        burst.push(buf);
        self.role.rx(self.now, &mut burst, &mut self.io);
        assert!(burst.is_empty(), "a role takes all of its burst");
        assert!(self.io.sent.len() <= MOST_SENT, "one packet made {}", self.io.sent.len());
    }

    fn deliver(&mut self) {
        while let Some((buf, to)) = self.io.sent.pop_front() {
            assert!(buf.len() <= 65_535);
            let UnderlayDst::Member(to) = to else { continue };
            self.note(&buf, to);
            self.site.receive(self.now, to, buf);
        }
        self.io.dropped.clear();
        self.io.reports.clear();
        self.io.handed.clear();
    }

    /// What it says must be what a member can read.
    fn note(&mut self, buf: &FakeBuf, to: MemberId) {
        let Ok(envelope) = Envelope::open(buf.bytes(), to, &self.site.snapshot) else { return };
        let Carried::Control { option, packet, .. } = envelope.carried else { return };
        let keys = &self.site.snapshot.keys().mac_keys;
        let control = Control::parse(&buf.bytes()[option..], &packet.tuple, keys);
        let control = control.expect("it signs what it sends, and forwards only what is signed");
        if matches!(control.kind, Kind::Open | Kind::Query) {
            self.asked = (control.cookie, control.word_a);
        }
        self.keep(buf.clone());
    }

    fn keep(&mut self, buf: FakeBuf) {
        if self.tape.len() == TAPE {
            self.tape.pop_front();
        }
        self.tape.push_back(buf);
    }

    /// Somebody says something, rightly signed, whatever it means.
    fn message(&mut self, s: &mut Script<'_>) {
        let from = self.site.other(s);
        let (tuple, flow) = flow(s);
        let me = self.site.me;
        let kind = Kind::from_wire(1 + s.below(8)).expect("eight kinds");
        let incarnation = Incarnation(u32::from(s.below(4)));
        let asked = self.asked;
        let Some((peers, io)) = self.site.peers(from) else { return };
        let mut control = peers.control(kind, incarnation);
        fill(&mut control, (from, me), asked, s);
        let mut headers = [0; MAX_FLOW_HEADERS];
        let len = flow_headers(&tuple, incarnation, &mut headers);
        let receiver = if s.below(8) == 0 { somebody(s).unwrap_or(me) } else { me };
        if let Some(buf) = buffer_with(io, &headers[..len]) {
            let via =
                (me, if kind == Kind::Accept { control.ingress.unwrap_or(me) } else { receiver });
            peers.send_control_by(buf, via, control, (&tuple, &flow), io);
        }
        let mail = self.site.mail();
        for buf in &mail {
            self.keep(buf.clone());
        }
        self.carry(mail);
    }

    /// A body, rightly signed, with any payload.
    fn body(&mut self, s: &mut Script<'_>) {
        let (from, me) = (self.site.other(s), self.site.me);
        let kind = s.pick(&[BodyKind::Probe, BodyKind::Load, BodyKind::Refresh, BodyKind::Epoch]);
        let words = (kind, u16::from(s.below(16)), s.long());
        let len = usize::from(s.byte());
        let payload = s.take(len);
        if let Some((peers, io)) = self.site.peers(from) {
            peers.send_body(me, words, payload, io);
        }
        let mail = self.site.mail();
        self.carry(mail);
    }

    /// A former packet once more, with a change.
    fn changed(&mut self, s: &mut Script<'_>) {
        let Some(buf) = self.tape.get(usize::from(s.below(TAPE as u8))) else { return };
        let mut buf = buf.clone();
        let (at, bits, len) = (usize::from(s.byte()), s.byte(), usize::from(s.short()));
        if let Some(byte) = buf.bytes_mut().get_mut(at) {
            *byte ^= bits;
        }
        if len < buf.len() && s.flip() {
            buf.truncate(len);
        }
        self.carry(vec![buf]);
    }

    /// Bytes of a stranger.
    pub(crate) fn raw(&mut self, s: &mut Script<'_>) {
        let len = usize::from(s.byte());
        let bytes = s.take(len);
        self.carry(vec![FakeBuf::holding(bytes)]);
    }

    /// A packet of one of the flows, encapsulated by somebody.
    pub(crate) fn data(&mut self, s: &mut Script<'_>) {
        let (from, (tuple, _)) = (self.site.other(s), flow(s));
        let packet = client_packet(&tuple, s);
        let packet = self.site.encapsulated(from, &packet);
        self.carry(packet.into_iter().collect());
    }

    /// A client's packet of one of the flows.
    pub(crate) fn client_packet(&mut self, s: &mut Script<'_>) {
        let (tuple, _) = flow(s);
        let packet = client_packet(&tuple, s);
        self.carry(vec![FakeBuf::holding(&packet)]);
    }
}

fn somebody(s: &mut Script<'_>) -> Option<MemberId> {
    let all = [INGRESS.as_slice(), &TRACKERS, &BACKENDS, &[4095]].concat();
    let n = usize::from(s.byte()) % (all.len() + 1);
    all.get(n).map(|&n| id(n))
}

/// Fields that make sense more often than chance would have it.
fn fill(
    control: &mut Control,
    (from, me): (MemberId, MemberId),
    (cookie, word): (u32, u64),
    s: &mut Script<'_>,
) {
    let likely = |usual: Option<MemberId>, s: &mut Script<'_>| {
        if s.below(4) == 0 { somebody(s) } else { usual }
    };
    let backend = s.pick(&BACKENDS);
    let from_backend = BACKENDS.contains(&from.as_u16());
    let from_ingress = INGRESS.contains(&from.as_u16());
    let opens = from_ingress && matches!(control.kind, Kind::Open | Kind::Query);
    control.ingress = likely(Some(if from_ingress { from } else { id(INGRESS[0]) }), s);
    let head = if from_backend { me } else { from };
    control.head = likely((!opens).then_some(head), s);
    control.second = likely((!opens).then_some(me), s);
    let usual = if from_backend { from } else { id(backend) };
    control.backend = likely((!opens).then_some(usual), s);
    control.cookie = if s.below(4) == 0 { s.word() } else { cookie };
    control.reject_ttl = s.below(5);
    control.hop_budget = s.below(8);
    control.flags = if s.flip() { Flags::default() } else { Flags(1 << s.below(9)) };
    control.reason = RejectReason::from_wire(s.below(15)).unwrap_or(RejectReason::None);
    let boot = |id: MemberId| BootId(u64::from(id.as_u16())).0;
    control.word_a = match s.below(4) {
        0 => u64::from(s.byte()),
        1 => word,
        2 => boot(head),
        _ => s.long(),
    };
    control.word_b = match s.below(3) {
        0 => 0,
        1 => jlb_wire::not_mine_proof(BootId(boot(usual)), u64::from(s.byte())),
        _ => boot(me),
    };
    for _ in 0..s.below(4) {
        control.tried.push(id(s.pick(&BACKENDS)));
    }
}

/// TCP with any flags, or a datagram; mostly with the right checksum.
pub(crate) fn client_packet(tuple: &FiveTuple, s: &mut Script<'_>) -> Vec<u8> {
    let mut headers = [0; MAX_FLOW_HEADERS];
    let incarnation = Incarnation(u32::from(s.below(4)));
    let len = flow_headers(tuple, incarnation, &mut headers);
    let mut packet = headers[..len].to_vec();
    if let Ok(parsed) = jlb_wire::Packet::parse(&packet) {
        if parsed.tcp.is_some() && s.flip() {
            packet[parsed.l4 + 13] = s.byte() & 0x3f;
        }
        let size = s.pick(&[0, 1, 40, 256, 257, 1400, 1460, 1500]);
        packet.resize(len + size, 7);
        if !tuple.is_v6() && s.flip() {
            // May be fragmented on its way.
            packet[6] = 0;
        }
        if s.below(8) != 0 {
            let mended = jlb_wire::mend(&mut packet, &parsed);
            mended.expect("the headers are there");
        }
    }
    packet
}
