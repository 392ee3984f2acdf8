use core::fmt;
use core::hash::Hasher as _;
use core::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::{Spec, Underlay};

/// A short name for the content of a list: hosts with the same list and `hash_key` have the same one, others
/// (but for one chance in 2⁶⁴) another. Probe carries it; the same generation with another digest is an alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// SipHash-2-4 under `hash_key` over a canonical encoding: numbers big-endian, strings and lists behind their length.
/// MAC keys are left out: they may differ between hosts while they are changed.
pub(crate) fn digest(spec: &Spec) -> Digest {
    let mut out = Canonical(SipHasher24::new_with_key(&spec.keys.hash_key.0));
    // The encoding's own version.
    out.u16(1);
    out.u64(spec.generation);
    out.u64(u64::from(spec.epoch.0));
    out.u16(u16::from(spec.protocol.as_u8()));
    out.underlay(&spec.underlay);
    out.len(spec.members.len());
    for m in &spec.members {
        out.u16(m.id.as_u16());
        out.text(&m.name);
        out.u16(m.role as u16);
        out.len(m.addresses.iter().count());
        m.addresses.iter().for_each(|a| out.ip(a));
        out.u16(u16::from(m.drain));
    }
    out.len(spec.services.len());
    for s in &spec.services {
        out.text(&s.name);
        out.len(s.vips.len());
        s.vips.iter().for_each(|&vip| out.ip(vip));
        out.u16(s.port);
        out.u16(s.protocol as u16);
        out.len(s.backends.len());
        for b in &s.backends {
            out.u16(b.member.as_u16());
            out.u16(b.weight);
            out.u16(b.admission as u16);
            out.u64(b.max_connections.map_or(0, |n| u64::from(n.get())));
        }
        out.u16(s.policy as u16);
        out.u16(u16::from(s.reject_ttl));
        out.u16(s.on_exhausted as u16);
        out.u16(s.return_path as u16);
        out.u16(s.admission as u16);
    }
    Digest(out.0.finish())
}

struct Canonical(SipHasher24);

impl Canonical {
    fn u16(&mut self, n: u16) {
        self.0.write(&n.to_be_bytes());
    }
    fn u64(&mut self, n: u64) {
        self.0.write(&n.to_be_bytes());
    }
    fn len(&mut self, n: usize) {
        self.u64(n as u64);
    }
    fn text(&mut self, s: &str) {
        self.len(s.len());
        self.0.write(s.as_bytes());
    }
    fn ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(a) => {
                self.u16(4);
                self.0.write(&a.octets());
            }
            IpAddr::V6(a) => {
                self.u16(6);
                self.0.write(&a.octets());
            }
        }
    }
    fn underlay(&mut self, u: &Underlay) {
        self.len(u.prefixes.len());
        for p in &u.prefixes {
            self.ip(p.address());
            self.u16(u16::from(p.bits()));
        }
        self.u16(u.prefer as u16);
        self.u16(u.port);
        self.u16(u.mtu);
    }
}
