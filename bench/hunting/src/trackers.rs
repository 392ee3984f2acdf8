use std::sync::Arc;

use jlb_flow::{HashKey, Partition};
use jlb_flowtracker_core::pick::{Ask, News, Offers, Picked, Picker};
use jlb_map::{
    Admission, Backend, Family, Keys, Member, MemberRole, OnExhausted, Policy, ReturnPath, Service,
    ServiceId, Snapshot, Spec, Underlay,
};
use jlb_role::Nanos;
use jlb_wire::{Epoch, MacKey, MacKeys, MemberId, Protocol, Tried, Version};

use crate::Scenario;

/// The only service.
const SERVICE: ServiceId = ServiceId(0);
/// Ids of backends are below, of trackers from here on.
const FIRST_TRACKER: u16 = 3000;

/// All trackers, and the list of members that they have.
#[derive(Debug)]
pub(crate) struct Trackers {
    snapshot: Arc<Snapshot>,
    trackers: Vec<Tracker>,
}

#[derive(Debug)]
struct Tracker {
    picker: Picker,
    offers: Offers,
}

/// The trackers of a flow, by rank: who heads the chain, who stands second, and who only hears of the flow's end.
pub(crate) type Trio = [Option<usize>; 3];

impl Trackers {
    pub(crate) fn new(scenario: &Scenario, policy: Policy) -> Option<Self> {
        let snapshot = Snapshot::build(spec(scenario, policy)).ok()?;
        let tracker = |_| Tracker { picker: Picker::new(&snapshot), offers: Offers::default() };
        let trackers = (0..scenario.trackers).map(tracker).collect();
        Some(Self { snapshot, trackers })
    }

    /// Whose flow this is.
    pub(crate) fn trio(&self, hash: u64) -> Trio {
        let partition = Partition::all().nth((hash % 4096) as usize);
        let trio = partition.map(|p| self.snapshot.trio(p)).unwrap_or_default();
        [0, 1, 2].map(|rank| Some(usize::from(trio.at(rank)?.as_u16() - FIRST_TRACKER)))
    }

    /// The head picks; the offer is under way for it.
    pub(crate) fn pick(
        &mut self,
        now: Nanos,
        head: usize,
        hash: u64,
        tried: &Tried,
        reject_ttl: u8,
    ) -> Option<Picked> {
        let Tracker { picker, offers } = &mut self.trackers[head];
        let ask = Ask { service: SERVICE, hash, salt: 0, tried, reject_ttl };
        let picked = picker.pick(now, &self.snapshot, &ask, offers, |_| true)?;
        offers.add(picked.backend);
        Some(picked)
    }

    /// The second stores the same vote.
    pub(crate) fn second(&mut self, second: usize, backend: MemberId) {
        self.trackers[second].offers.add(backend);
    }

    /// A backend says how busy it is. `answers`: an offer that this tracker knows of.
    pub(crate) fn heard(
        &mut self,
        now: Nanos,
        tracker: usize,
        (backend, live): (MemberId, u32),
        (answers, ended): (bool, bool),
    ) {
        let tracker = &mut self.trackers[tracker];
        let news = if ended { News::End } else { News::Load };
        tracker.picker.heard(now, (SERVICE, backend), live, news);
        if answers {
            tracker.offers.remove(backend);
        }
    }

    /// A backend says so to all of them.
    pub(crate) fn all_heard(&mut self, now: Nanos, load: (MemberId, u32)) {
        for tracker in 0..self.trackers.len() {
            self.heard(now, tracker, load, (false, false));
        }
    }
}

/// The member id of a server.
pub(crate) fn member(server: usize) -> Option<MemberId> {
    MemberId::new(server as u16 + 1)
}

pub(crate) fn server(member: MemberId) -> usize {
    usize::from(member.as_u16()) - 1
}

fn spec(scenario: &Scenario, policy: Policy) -> Spec {
    let backends: Vec<_> = (0..scenario.servers)
        .filter_map(|n| {
            let weight = scenario.cores.weight(n);
            Some(Backend { weight, ..Backend::new(member(n)?) })
        })
        .collect();
    let trackers = (0..scenario.trackers)
        .filter_map(|n| Some((MemberId::new(FIRST_TRACKER + n as u16)?, MemberRole::FlowTracker)));
    let members = backends.iter().map(|b| (b.member, MemberRole::Backend)).chain(trackers);
    let members = members.map(|(id, role)| Member {
        id,
        name: format!("m{}", id.as_u16()),
        role,
        addresses: core::net::IpAddr::from([10, 0, (id.as_u16() >> 8) as u8, id.as_u16() as u8])
            .into(),
        drain: false,
    });
    Spec {
        generation: 1,
        epoch: Epoch(1),
        protocol: Version::OLDEST,
        keys: Keys { hash_key: HashKey([1; 16]), mac_keys: MacKeys::single(MacKey([2; 16])) },
        underlay: Underlay {
            prefixes: "10.0.0.0/16".parse().ok().into_iter().collect(),
            prefer: Family::V4,
            port: jlb_map::DEFAULT_GENEVE_PORT,
            mtu: jlb_map::DEFAULT_MTU,
        },
        members: members.collect(),
        services: vec![Service {
            name: "web".into(),
            vips: vec![core::net::IpAddr::from([203, 0, 113, 10])],
            port: 80,
            protocol: Protocol::Tcp,
            backends,
            policy,
            reject_ttl: scenario.reject_ttl,
            on_exhausted: OnExhausted::Reset,
            return_path: ReturnPath::Egress,
            admission: Admission::Accept,
        }],
    }
}
