use core::net::IpAddr;

use jlb_map::{MemberRole, Snapshot};
use jlb_role::{NoRoom, PacketBuf};
use jlb_wire::{
    ETHERTYPE_V4, ETHERTYPE_V6, Encapsulation, MemberId, OVERHEAD_V4, OVERHEAD_V6, Payload,
    checksum,
};

/// The outer header of `Data` to one backend, written once per snapshot. What differs from packet to packet is
/// patched into a copy: lengths, DSCP and ECN, the source port, the inner protocol, and for IPv4 the checksum.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    header: [u8; OVERHEAD_V6],
    v6: bool,
    /// IPv4: sum of the header's words with length and DSCP 0.
    sum: u32,
    /// Bytes of the largest inner packet that fits the underlay.
    max_inner: usize,
}

impl Template {
    fn new(src: IpAddr, dst: IpAddr, port: u16, mtu: u16) -> Option<Self> {
        let mut header = [0; OVERHEAD_V6];
        let v6 = dst.is_ipv6();
        let len = if v6 { OVERHEAD_V6 } else { OVERHEAD_V4 };
        let encapsulation = Encapsulation { src, dst, source_port: 0, port, traffic_class: 0 };
        encapsulation.emit(Payload::Plain { v6: false }, 0, &mut header[..len]).ok()?;
        if !v6 {
            header[2..4].fill(0);
            header[10..12].fill(0);
        }
        let sum = if v6 { 0 } else { checksum::sum(&header[..20]) };
        Some(Self { header, v6, sum, max_inner: usize::from(mtu) - len })
    }

    /// Bytes of the largest inner packet that fits the underlay.
    #[inline]
    pub(crate) const fn max_inner(&self) -> usize {
        self.max_inner
    }

    /// Puts the header in front of an inner packet of at most [`Self::max_inner`] bytes.
    #[inline]
    pub(crate) fn wrap<B: PacketBuf>(
        &self,
        b: &mut B,
        inner_v6: bool,
        traffic_class: u8,
        source_port: u16,
    ) -> Result<(), NoRoom> {
        debug_assert!(b.len() <= self.max_inner);
        let inner_len = b.len() as u16;
        let port = source_port.to_be_bytes();
        if self.v6 {
            let out = b.prepend(OVERHEAD_V6)?;
            out.copy_from_slice(&self.header);
            let payload = inner_len + (OVERHEAD_V6 - 40) as u16;
            out[0] |= traffic_class >> 4;
            out[1] = traffic_class << 4;
            out[2..4].copy_from_slice(&port);
            out[4..6].copy_from_slice(&payload.to_be_bytes());
            patch_udp(&mut out[40..], payload, port, inner_v6);
        } else {
            let out = b.prepend(OVERHEAD_V4)?;
            out.copy_from_slice(&self.header[..OVERHEAD_V4]);
            let total = inner_len + OVERHEAD_V4 as u16;
            let sum = checksum::finish(self.sum + u32::from(total) + u32::from(traffic_class));
            out[1] = traffic_class;
            out[2..4].copy_from_slice(&total.to_be_bytes());
            out[10..12].copy_from_slice(&sum.to_be_bytes());
            patch_udp(&mut out[20..], total - 20, port, inner_v6);
        }
        Ok(())
    }
}

/// UDP length and source port, Geneve protocol type.
#[inline]
fn patch_udp(udp: &mut [u8], len: u16, source_port: [u8; 2], inner_v6: bool) {
    udp[0..2].copy_from_slice(&source_port);
    udp[4..6].copy_from_slice(&len.to_be_bytes());
    let ethertype = if inner_v6 { ETHERTYPE_V6 } else { ETHERTYPE_V4 };
    udp[10..12].copy_from_slice(&ethertype.to_be_bytes());
}

/// Mark of a position whose backend is dead: no template has it. (There are at most 4095.)
const DEAD: u16 = 1 << 15;

/// The templates of all backends.
#[derive(Debug)]
pub(crate) struct Templates {
    /// Position in `templates` plus 1, by member id; 0: not a backend.
    positions: Box<[u16]>,
    templates: Vec<Template>,
    /// Backends that are dead: nothing is sent to them.
    dead: Vec<MemberId>,
}

impl Templates {
    pub(crate) fn new(snapshot: &Snapshot, me: MemberId) -> Self {
        let mut positions = vec![0; usize::from(MemberId::MAX) + 1].into_boxed_slice();
        let mut templates = Vec::new();
        for &backend in snapshot.with_role(MemberRole::Backend) {
            let template = snapshot.underlay_pair(me, backend).and_then(|(src, dst)| {
                Template::new(src, dst, snapshot.geneve_port(), snapshot.mtu())
            });
            if let Some(template) = template {
                templates.push(template);
                positions[backend.index()] = templates.len() as u16;
            }
        }
        Self { positions, templates, dead: Vec::new() }
    }

    /// Whether a backend of these is none of the others.
    pub(crate) fn any_missing_in(&self, others: &Self) -> bool {
        self.positions
            .iter()
            .zip(&others.positions)
            .any(|(&mine, &theirs)| mine != 0 && theirs == 0)
    }

    /// Whether there is such a backend, dead or alive.
    pub(crate) fn knows(&self, backend: MemberId) -> bool {
        self.positions[backend.index()] != 0
    }

    /// Whether a backend counts as dead.
    pub(crate) fn is_dead(&self, backend: MemberId) -> bool {
        self.dead.contains(&backend)
    }

    /// Notes who of these is dead now.
    pub(crate) fn bury(&mut self, dead: impl Iterator<Item = MemberId>) {
        for backend in core::mem::take(&mut self.dead) {
            self.positions[backend.index()] &= !DEAD;
        }
        for backend in dead {
            if self.positions[backend.index()] != 0 {
                self.positions[backend.index()] |= DEAD;
                self.dead.push(backend);
            }
        }
    }

    /// The template for a backend; `None` when there is no such backend (any more), or it is dead.
    #[inline]
    pub(crate) fn of(&self, backend: MemberId) -> Option<&Template> {
        let position = usize::from(self.positions[backend.index()]);
        self.templates.get(position.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use jlb_role::FakeBuf;

    use super::*;

    #[test]
    fn template_writes_what_the_wire_format_writes() {
        let pairs = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];
        for (src, dst) in pairs.map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())) {
            let template = Template::new(src, dst, 6081, 1500).unwrap();
            for (inner_len, v6, traffic_class, source_port) in
                [(20, false, 0, 0xc000), (1444, true, 0xff, 0xffff), (999, false, 0x2e, 0xd431)]
            {
                let mut b = FakeBuf::holding(&vec![7; inner_len]);
                template.wrap(&mut b, v6, traffic_class, source_port).unwrap();
                let whole = Encapsulation { src, dst, source_port, port: 6081, traffic_class };
                let mut expected = vec![0; whole.header_len(Payload::Plain { v6 })];
                whole.emit(Payload::Plain { v6 }, inner_len, &mut expected).unwrap();
                assert_eq!(b.bytes()[..expected.len()], expected);
                assert_eq!(b.bytes()[expected.len()..], vec![7; inner_len]);
            }
        }
    }
}
