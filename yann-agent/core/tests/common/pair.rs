//! Both halves of a host, and the answers of others to its user half.

use jlb_role::{AllRules, Burst, FakeBuf, FakeIo, PacketBuf, Reason, Role, UnderlayDst};
use jlb_wire::{
    Body, BodyKind, Content, Control, Epoch, FiveTuple, Flags, MacKey, MacKeys, MemberId, Outer,
    Packet, Probe, Refresh, RefreshRecord, Version, body_flags,
};
use jlb_yann_core::{Agent, AgentConfig, AgentEvent, Word};

use super::*;

pub const KEYS: MacKeys = MacKeys::single(MacKey([2; 16]));

/// Both halves of a host.
pub struct Pair {
    pub host: Host,
    pub agent: Agent,
    pub io: FakeIo,
    pub sequence: u64,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(64, &Word::new(BOOT))
    }

    pub fn with(close_capacity: usize, word: &Word) -> Self {
        let config = AgentConfig { id: ME, seed: 1, close_capacity };
        let agent = Agent::new(config, snapshot(|_| {}), AllRules, START, word);
        let mut pair = Self { host: Host::new(), agent, io: FakeIo::default(), sequence: 0 };
        pair.pass(30);
        pair.answer_probes();
        pair
    }

    pub fn pass(&mut self, ms: u64) {
        self.host.pass(ms);
        self.agent.tick(self.host.now, &mut self.io);
    }

    pub fn take(&mut self, packet: &[u8]) -> Vec<Reason> {
        let mut burst = Burst::new();
        burst.push(FakeBuf::holding(packet));
        self.agent.rx(self.host.now, &mut burst, &mut self.io);
        self.io.dropped.drain(..).map(|(_, why)| why).collect()
    }

    /// A member is asked and answers with another boot id.
    pub fn reboot(&mut self, member: MemberId, to: BootId) {
        self.pass(1_000);
        self.answer_probes_as(|id| if id == member { to } else { boot(id) });
    }

    /// Everybody who was asked answers.
    pub fn answer_probes(&mut self) {
        self.answer_probes_as(boot);
    }

    fn answer_probes_as(&mut self, boot: impl Fn(MemberId) -> BootId) {
        let asked: Vec<_> = self.io.sent.drain(..).collect();
        for (buf, to) in asked {
            let UnderlayDst::Member(to) = to else { panic!() };
            let bytes = buf.bytes();
            let Content::Body { body: at } = Outer::parse(bytes, 6081).unwrap().content else {
                continue;
            };
            let (question, payload) = Body::parse(&bytes[at..], &KEYS).unwrap();
            if question.kind != BodyKind::Probe {
                continue;
            }
            let (probe, _) = Probe::parse(payload).unwrap();
            self.sequence += 1;
            let answer = Body {
                kind: BodyKind::Probe,
                version: Version::OLDEST,
                flags: body_flags::ANSWER,
                sender: to,
                receiver: ME,
                boot: boot(to),
                sequence: self.sequence,
                ..question
            };
            let mut bytes = vec![0; Body::len_with(Probe::LEN)];
            answer.emit(&probe.emit(), &KEYS, &mut bytes).unwrap();
            let packet = wrapped(outer(to), jlb_wire::Payload::Body, &bytes);
            assert_eq!(self.take(&packet), []);
        }
    }

    /// The kernel half's events, taken by the user half; what it sends.
    pub fn tell(&mut self) -> Vec<(MemberId, Control)> {
        for event in self.host.events() {
            self.agent.event(self.host.now, AgentEvent::Kernel(event), &mut self.io);
        }
        self.sent()
    }

    pub fn sent(&mut self) -> Vec<(MemberId, Control)> {
        let sent: Vec<_> = self.io.sent.drain(..).collect();
        sent.into_iter()
            .filter_map(|(buf, to)| {
                let UnderlayDst::Member(to) = to else { panic!() };
                let outer = Outer::parse(buf.bytes(), 6081).unwrap();
                assert_eq!(outer.dst, ip(&format!("10.0.0.{to}")));
                let Content::Control { option, inner } = outer.content else { return None };
                let packet = Packet::parse(&buf.bytes()[inner..]).unwrap();
                let c = Control::parse(&buf.bytes()[option..], &packet.tuple, &KEYS).unwrap();
                assert_eq!((c.sender, c.backend, c.boot), (ME, Some(ME), BOOT));
                let seq = packet.tcp.map(|tcp| tcp.seq);
                assert!(seq.is_none_or(|seq| seq == c.incarnation.0), "flow headers");
                Some((to, c))
            })
            .collect()
    }

    pub fn ack(&mut self, from: MemberId, tuple: &FiveTuple, close: &Control) -> Vec<Reason> {
        self.sequence += 1;
        let ack = Control {
            flags: Flags::ACK,
            sender: from,
            receiver: ME,
            boot: boot(from),
            sequence: self.sequence,
            ..*close
        };
        self.take(&packet(&ack, tuple))
    }

    /// The header of the next pull of a tracker.
    pub fn pull(&mut self, from: MemberId, nonce: u64) -> Body {
        self.sequence += 1;
        Body {
            kind: BodyKind::Refresh,
            version: Version::OLDEST,
            flags: body_flags::PULL,
            epoch: Epoch(2),
            sender: from,
            receiver: ME,
            boot: boot(from),
            sequence: self.sequence,
            nonce,
        }
    }

    /// The bodies that were sent to somebody, apart from Probe.
    pub fn answers(&mut self) -> Vec<(Body, Refresh, Vec<RefreshRecord>)> {
        let sent: Vec<_> = self.io.sent.drain(..).collect();
        let answers = sent.iter().filter_map(|(buf, to)| {
            let outer = Outer::parse(buf.bytes(), 6081).unwrap();
            let Content::Body { body: at } = outer.content else { return None };
            let (body, payload) = Body::parse(&buf.bytes()[at..outer.len], &KEYS).unwrap();
            if body.kind == BodyKind::Probe {
                return None;
            }
            assert_eq!((body.kind, body.sender, body.boot), (BodyKind::Refresh, ME, BOOT));
            assert_eq!(*to, UnderlayDst::Member(body.receiver));
            let (refresh, records) = Refresh::parse(payload).unwrap();
            Some((body, refresh, records.iter().map(Option::unwrap).collect()))
        });
        answers.collect()
    }
}

/// A body in its packet.
pub fn signed(body: &Body, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; Body::len_with(payload.len())];
    body.emit(payload, &KEYS, &mut bytes).unwrap();
    wrapped(outer(body.sender), jlb_wire::Payload::Body, &bytes)
}
