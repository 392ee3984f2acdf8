//! Whether what comes back is right, and for our ingress, the members around it: the source plays all of them.

use jlb_map::Policy;
use jlb_role::{Nanos, PacketBuf};
use jlb_runtime::Clock;
use jlb_speed::check::{self, Expected};
use jlb_speed::members::{Members, Read};
use jlb_speed::site;
use jlb_speed::traffic::{ETHERNET, LONGEST, Traffic};
use jlb_wire::{GENEVE_PORT, Kind, OVERHEAD_V4, Packet};

use super::Under;
use super::wire::{SOURCE_MAC, SYSTEM_MAC, Wire};
use crate::PortsError;

/// How often the members look what is due: Probe goes every 20 ms.
const TICK: Nanos = Nanos::from_millis(5);
/// The agents ask once a second.
const ACQUAINTED: Nanos = Nanos::from_secs(2);
const NOT_ACQUAINTED: Nanos = Nanos::from_secs(10);
/// Clients of IPv4 only: the smallest packets are.
pub(crate) const TRAFFIC: Traffic = Traffic { v6: false };

/// What a frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A packet of that flow, byte by byte as it must be.
    Forwarded(u32),
    /// That flow was opened: a backend has taken it.
    Opened(u32),
    /// The members among each other.
    Other,
}

pub(crate) struct Judge {
    under: Under,
    members: Members,
    clock: Clock,
    /// When the members looked last.
    ticked: Nanos,
}

impl Judge {
    pub(crate) fn new(under: Under) -> Result<Self, PortsError> {
        let snapshot = site::snapshot(false, Policy::default())?;
        let members = Members::new(site::ingress(), &snapshot, Nanos::ZERO);
        Ok(Self { under, members, clock: Clock::start(), ticked: Nanos::ZERO })
    }

    /// The client's frame of a flow.
    pub(crate) fn frame(n: u32, opens: bool, out: &mut [u8; LONGEST]) -> usize {
        TRAFFIC.write(n, opens, (SYSTEM_MAC.0, SOURCE_MAC.0), out)
    }

    /// At a glance: whether it is a client's packet that was forwarded, and no message of the members.
    #[inline]
    pub(crate) fn is_forwarded(&self, frame: &[u8]) -> bool {
        match self.under {
            Under::Testpmd => frame.len() >= ETHERNET && frame[6..12] == SYSTEM_MAC.0,
            // UDP's port, then Geneve: without options, and no control message (the O bit).
            Under::Jlb => frame.get(36..44).is_some_and(|b| {
                b[..2] == GENEVE_PORT.to_be_bytes() && b[6] == 0 && b[7] & 0x80 == 0
            }),
        }
    }

    /// Reads a frame in full. What a member answers will be sent.
    pub(crate) fn hear(&mut self, frame: &[u8], wire: &mut Wire) -> Result<Heard, PortsError> {
        if self.is_forwarded(frame) {
            return self.check(frame).map(Heard::Forwarded).map_err(PortsError::Wrong);
        }
        let now = self.clock.now();
        let read = self.members.read(now, frame.get(ETHERNET..).unwrap_or_default());
        let heard = match read {
            Read::Message(_, open, tuple) if open.kind == Kind::Open => {
                let n = Traffic::number(&tuple);
                self.members.accept(&open, &tuple, site::backend_of(n));
                Heard::Opened(n)
            }
            Read::Message(..) | Read::Data | Read::Other => Heard::Other,
            Read::Refused(why) => return Err(PortsError::Refused(why)),
        };
        self.send(now, wire)?;
        Ok(heard)
    }

    /// Compares a forwarded frame byte by byte with what must come back. Of which flow it is.
    pub(crate) fn check(&self, frame: &[u8]) -> Result<u32, String> {
        let at = match self.under {
            Under::Testpmd => ETHERNET,
            Under::Jlb => ETHERNET + OVERHEAD_V4,
        };
        let client = frame.get(at..).ok_or("a frame without a packet")?;
        let tuple = Packet::parse(client).map_err(|e| format!("no client's packet: {e:?}"))?.tuple;
        let n = Traffic::number(&tuple);
        let mut sent = [0; LONGEST];
        let len = Self::frame(n, false, &mut sent);
        match self.under {
            Under::Testpmd => {
                let ends = (SOURCE_MAC.0, SYSTEM_MAC.0);
                check::bare(frame, ends, &sent[ETHERNET..len], false)?;
            }
            Under::Jlb => {
                let expected = Expected {
                    snapshot: self.members.snapshot(),
                    from: (site::ingress(), SYSTEM_MAC),
                    to: site::backend_of(n),
                    source_port: self.members.entropy(&tuple),
                };
                let geneve = check::outer(frame, &expected)?;
                check::data(geneve, &sent[ETHERNET..][..TRAFFIC.length(n)], &tuple)?;
            }
        }
        Ok(n)
    }

    /// Lets the members do what is due.
    #[inline]
    pub(crate) fn tick(&mut self, wire: &mut Wire) -> Result<(), PortsError> {
        let now = self.clock.now();
        if self.under == Under::Jlb && now.since(self.ticked) >= TICK {
            self.ticked = now;
            self.members.tick(now);
            self.send(now, wire)?;
        }
        Ok(())
    }

    fn send(&mut self, now: Nanos, wire: &mut Wire) -> Result<(), PortsError> {
        for packet in self.members.sent(now) {
            let frame = [&SYSTEM_MAC.0[..], &SOURCE_MAC.0, &[8, 0], packet.bytes()].concat();
            wire.put(&frame)?;
        }
        Ok(())
    }

    /// Lets all members and the ingress find each other.
    pub(crate) fn acquaint(&mut self, wire: &mut Wire) -> Result<(), PortsError> {
        while self.under == Under::Jlb {
            self.tick(wire)?;
            wire.flush();
            for frame in wire.take() {
                self.hear(frame.bytes(), wire)?;
            }
            let now = self.clock.now();
            if now > ACQUAINTED && self.members.know_it() {
                break;
            }
            if now > NOT_ACQUAINTED {
                return Err(PortsError::NotAcquainted);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_testpmd_must_do_passes_and_nothing_else() {
        let judge = Judge::new(Under::Testpmd).unwrap();
        for n in 0..64 {
            let mut frame = [0; LONGEST];
            let len = Judge::frame(n, false, &mut frame);
            let frame = &mut frame[..len];
            assert!(!judge.is_forwarded(frame), "as it was sent");
            frame[..6].copy_from_slice(&SOURCE_MAC.0);
            frame[6..12].copy_from_slice(&SYSTEM_MAC.0);
            assert!(judge.is_forwarded(frame));
            assert_eq!(judge.check(frame), Ok(n));
            for at in 0..len {
                frame[at] ^= 0x10;
                assert_ne!(judge.check(frame), Ok(n), "byte {at}");
                frame[at] ^= 0x10;
            }
        }
    }
}
