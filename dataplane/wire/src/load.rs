//! Load: how busy a backend is, told without being asked.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::MAX_BODY_PAYLOAD;

/// Payload of a Load: 24 bytes, then 8 for each service of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// Generation of the sender's member list, which numbers the services.
    pub generation: u64,
    /// Live flows of all services.
    pub live: u32,
    /// CPU utilisation, 0 ..= 65535 for 0 ..= 1.
    pub cpu: u16,
    /// The tracker's worker that this is for.
    pub worker: u8,
}

/// Live flows of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLoad {
    /// Its number in the list of that generation.
    pub service: u16,
    /// Its live flows on the host.
    pub live: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Layout {
    generation: U64,
    live: U32,
    cpu: U16,
    count: U16,
    worker: u8,
    reserved: [u8; 7],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RecordLayout {
    service: U16,
    reserved: U16,
    live: U32,
}

const _: () = assert!(size_of::<Layout>() == LoadReport::LEN);
const _: () = assert!(size_of::<RecordLayout>() == ServiceLoad::LEN);

impl LoadReport {
    /// Bytes before the first record.
    pub const LEN: usize = 24;
    /// Services that one message can carry.
    pub const MAX_SERVICES: usize = (MAX_BODY_PAYLOAD - Self::LEN) / ServiceLoad::LEN;

    /// Parses a payload; the second part is its services.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<(Self, ServiceLoads<'_>)> {
        let (l, rest) = Layout::read_from_prefix(payload).ok()?;
        if rest.len() != usize::from(l.count.get()) * ServiceLoad::LEN {
            return None;
        }
        let report = Self {
            generation: l.generation.get(),
            live: l.live.get(),
            cpu: l.cpu.get(),
            worker: l.worker,
        };
        Some((report, ServiceLoads(rest)))
    }

    /// Writes a payload of at most [`Self::MAX_SERVICES`] services (more are left out) into `out`, and gives its length.
    pub fn emit(&self, services: &[ServiceLoad], out: &mut [u8; MAX_BODY_PAYLOAD]) -> usize {
        let services = &services[..services.len().min(Self::MAX_SERVICES)];
        let head: [u8; Self::LEN] = zerocopy::transmute!(Layout {
            generation: self.generation.into(),
            live: self.live.into(),
            cpu: self.cpu.into(),
            count: (services.len() as u16).into(),
            worker: self.worker,
            reserved: [0; 7],
        });
        out[..Self::LEN].copy_from_slice(&head);
        for (slot, s) in out[Self::LEN..].chunks_exact_mut(ServiceLoad::LEN).zip(services) {
            let record: [u8; ServiceLoad::LEN] = zerocopy::transmute!(RecordLayout {
                service: s.service.into(),
                reserved: 0.into(),
                live: s.live.into(),
            });
            slot.copy_from_slice(&record);
        }
        Self::LEN + services.len() * ServiceLoad::LEN
    }
}

impl ServiceLoad {
    /// Bytes.
    pub const LEN: usize = 8;
}

/// The services of a received Load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLoads<'a>(&'a [u8]);

impl ServiceLoads<'_> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = ServiceLoad> + '_ {
        self.0.chunks_exact(ServiceLoad::LEN).filter_map(|bytes| {
            let (l, _) = RecordLayout::read_from_prefix(bytes).ok()?;
            Some(ServiceLoad { service: l.service.get(), live: l.live.get() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_wrong_count_is_not() {
        let report = LoadReport { generation: 7, live: 90_000, cpu: 0x8000, worker: 3 };
        let services: Vec<_> =
            (0..200).map(|service| ServiceLoad { service, live: 1 << (service % 32) }).collect();
        for some in [0, 1, 170] {
            let mut out = [0; MAX_BODY_PAYLOAD];
            let len = report.emit(&services[..some], &mut out);
            let (read, loads) = LoadReport::parse(&out[..len]).unwrap();
            assert_eq!(read, report);
            assert!(loads.iter().eq(services[..some].iter().copied()));
            assert!(LoadReport::parse(&out[..len - 1]).is_none());
        }
        let mut out = [0; MAX_BODY_PAYLOAD];
        let len = report.emit(&services, &mut out);
        let (_, loads) = LoadReport::parse(&out[..len]).unwrap();
        assert_eq!(loads.iter().count(), LoadReport::MAX_SERVICES);
    }
}
