//! Probe: answered here, so that a dead daemon is not taken for a dead host.

use jlb_map::MemberRole;
use jlb_role::{Nanos, Reason, Rules};
use jlb_wire::{Body, BodyKind, Encapsulation, Epoch, Payload, Probe, Version, body_flags};

use super::reply::encapsulated;
use super::{Arrived, Kernel, Verdict};
use crate::BackendWord;

const LENGTH_AT: usize = 12;

impl<R: Rules> Kernel<R> {
    pub(super) fn body(
        &mut self,
        now: Nanos,
        arrived: &Arrived<'_>,
        at: usize,
    ) -> Result<Verdict, Reason> {
        let bytes = &arrived.bytes[at..];
        let head: [u8; 4] = bytes.first_chunk().copied().ok_or(Reason::Truncated)?;
        if Version::new(head[1]).is_none() {
            return Err(Reason::WrongVersion);
        }
        let kind = BodyKind::from_wire(head[0]).ok_or(Reason::WrongKind)?;
        let flags = u16::from_be_bytes([head[2], head[3]]);
        if kind != BodyKind::Probe || flags & body_flags::ANSWER != 0 {
            // The user half's, who checks it.
            return Ok(Verdict::Pass);
        }
        // A request has no list: its answer has its size.
        let length = (Probe::LEN as u16).to_be_bytes();
        if bytes.len() != Body::len_with(Probe::LEN) || bytes[LENGTH_AT..LENGTH_AT + 2] != length {
            return Err(Reason::Malformed);
        }
        let (asked, payload) = Body::parse(bytes, &self.keys).map_err(jlb_peers::body_reason)?;
        if asked.sender.as_u16() != arrived.from.id {
            return Err(Reason::NotAMember);
        }
        if asked.receiver != self.me {
            return Err(Reason::NotAddressee);
        }
        let (probe, _) = Probe::parse(payload).ok_or(Reason::Malformed)?;
        self.hear(now, arrived, asked.flags);
        self.answer_probe(now, arrived, &asked, probe)
    }

    /// An ingress host that asks is a way out; one that leaves is none.
    fn hear(&mut self, now: Nanos, arrived: &Arrived<'_>, flags: u16) {
        if arrived.from.role != MemberRole::Ingress as u8 {
            return;
        }
        if let Some(e) = self.egress_hosts.iter_mut().find(|e| e.member == arrived.from.id) {
            e.heard = if flags & body_flags::LEAVING == 0 { now.0 } else { 0 };
        }
    }

    fn answer_probe(
        &mut self,
        now: Nanos,
        arrived: &Arrived<'_>,
        asked: &Body,
        probe: Probe,
    ) -> Result<Verdict, Reason> {
        let age = now.since(self.heartbeat).0 / 1_000_000;
        let standing = self.standing(asked.sender);
        let obeys = if standing.is_obeyed(probe.worker) { body_flags::OBEYS } else { 0 };
        let payload = Probe {
            generation: self.host.generation,
            digest: self.host.digest,
            heartbeat_age_ms: u32::try_from(age).unwrap_or(u32::MAX),
            worker: probe.worker,
            shut_out: standing.shut_out(probe.worker),
        };
        let body = Body {
            kind: BodyKind::Probe,
            version: asked.version,
            flags: body_flags::ANSWER | obeys,
            epoch: Epoch(self.host.epoch),
            sender: self.me,
            receiver: asked.sender,
            boot: self.word.boot(),
            sequence: self.word.next_sequence(),
            nonce: asked.nonce,
        };
        let mut bytes = [0; Body::len_with(Probe::LEN)];
        body.emit(&payload.emit(), &self.keys, &mut bytes).map_err(|_| Reason::Malformed)?;
        // By the way it came, source port included.
        let outer = Encapsulation {
            src: arrived.outer.dst,
            dst: arrived.outer.src,
            source_port: arrived.outer.source_port,
            port: self.host.port,
            traffic_class: 0,
        };
        encapsulated(&outer, Payload::Body, &bytes, asked.sender)
    }
}
