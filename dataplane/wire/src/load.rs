//! Load: how busy a backend is, told without being asked.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{MAX_BODY_PAYLOAD, RejectReason};

/// Payload of a Load: 24 bytes, then 8 for each service of the host: its number, why it is refused and its share (a byte each), its
/// live flows.
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

/// What a host says of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLoad {
    /// Its number in the list of that generation.
    pub service: u16,
    /// Its live flows on the host.
    pub live: u32,
    /// Why the host refuses new ones, if it does, as far as that [is told](RejectReason::is_told).
    pub unwilling: Option<RejectReason>,
    /// Per cent of its weight that the host wants to have in the service, 1 to 100.
    pub share: u8,
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
    reason: u8,
    /// 0 is 100, as those say who know of no share.
    share: u8,
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
        let services = ServiceLoads(rest);
        let fits = rest.len() == usize::from(l.count.get()) * ServiceLoad::LEN;
        if !fits || services.records().any(|record| !record.is_right()) {
            return None;
        }
        let report = Self {
            generation: l.generation.get(),
            live: l.live.get(),
            cpu: l.cpu.get(),
            worker: l.worker,
        };
        Some((report, services))
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
                reason: s.unwilling.map_or(0, |reason| reason as u8),
                share: if s.share >= ServiceLoad::ALL { 0 } else { s.share },
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
    /// The share of a host that wants all of its weight.
    pub const ALL: u8 = 100;
}

/// The services of a received Load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLoads<'a>(&'a [u8]);

impl ServiceLoads<'_> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = ServiceLoad> + '_ {
        self.records().map(|record| ServiceLoad {
            service: record.service.get(),
            live: record.live.get(),
            // What cannot be read was refused by `parse`.
            unwilling: record.unwilling().unwrap_or(None),
            share: record.share(),
        })
    }

    fn records(&self) -> impl Iterator<Item = RecordLayout> + '_ {
        let records = self.0.chunks_exact(ServiceLoad::LEN);
        records.filter_map(|bytes| RecordLayout::read_from_bytes(bytes).ok())
    }
}

/// A reason that no host says in a Load.
struct NotTold;

impl RecordLayout {
    fn is_right(&self) -> bool {
        self.unwilling().is_ok() && self.share <= ServiceLoad::ALL
    }

    fn share(&self) -> u8 {
        if self.share == 0 { ServiceLoad::ALL } else { self.share }
    }

    fn unwilling(&self) -> Result<Option<RejectReason>, NotTold> {
        match RejectReason::from_wire(self.reason) {
            Some(RejectReason::None) => Ok(None),
            Some(reason) if reason.is_told() => Ok(Some(reason)),
            Some(_) | None => Err(NotTold),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_wrong_count_is_not() {
        let report = LoadReport { generation: 7, live: 90_000, cpu: 0x8000, worker: 3 };
        let told: Vec<_> = RejectReason::ALL.iter().copied().filter(|r| r.is_told()).collect();
        let load = |service: u16| ServiceLoad {
            service,
            live: 1 << (service % 32),
            unwilling: told.get(usize::from(service) % (told.len() + 1)).copied(),
            share: (service % 100 + 1) as u8,
        };
        let services: Vec<_> = (0..200).map(load).collect();
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

    #[test]
    fn a_reason_that_is_not_told_and_a_share_above_all_are_no_load() {
        let report = LoadReport { generation: 7, live: 1, cpu: 0, worker: 0 };
        let mut out = [0; MAX_BODY_PAYLOAD];
        let service = ServiceLoad { service: 1, live: 1, unwilling: None, share: 100 };
        let len = report.emit(&[service; 3], &mut out);
        let second = LoadReport::LEN + ServiceLoad::LEN + 2;
        for reason in 0..=u8::MAX {
            out[second] = reason;
            let told = RejectReason::from_wire(reason)
                .is_some_and(|r| r == RejectReason::None || r.is_told());
            assert_eq!(LoadReport::parse(&out[..len]).is_some(), told, "{reason}");
        }
        out[second] = 0;
        for share in 0..=u8::MAX {
            out[second + 1] = share;
            let read = LoadReport::parse(&out[..len])
                .map(|(_, services)| services.iter().map(|s| s.share).collect::<Vec<_>>());
            let second = if share == 0 { 100 } else { share };
            assert_eq!(read, (share <= 100).then(|| vec![100, second, 100]));
        }
    }
}
