//! The load by which the simulator's speed is stated: 3 ingress hosts, 3 trackers, 4 backends, and 50 connections whose
//! clients send 10 packets a second each, on a network without faults.

use jlb_map::{
    Admission, Backend, Family, OnExhausted, Policy, Problems, ReturnPath, Service, Snapshot,
};
use jlb_role::Nanos;
use jlb_wire::{MemberId, Protocol};

use super::clients::client_of;
use super::cluster::{Families, members, spec, vip4};
use super::{Expectation, Plan, WARM};
use crate::client::Intent;
use crate::script::{Ending, Script};
use crate::stack::Accepting;

const INGRESS: u16 = 3;
const TRACKERS: u16 = 3;
const BACKENDS: u16 = 4;
const CONNECTIONS: u16 = 50;
/// A client sends two packets per turn: its request, and the acknowledgement of the response.
const TURN: Nanos = Nanos::from_millis(200);

impl Plan {
    /// Connections that begin spread over one turn and last for so long.
    pub(crate) fn reference(seed: u64, time: Nanos) -> Result<Self, Problems> {
        let backends = INGRESS + TRACKERS + 1..=INGRESS + TRACKERS + BACKENDS;
        let service = Service {
            name: "reference".to_owned(),
            vips: vec![vip4(1)],
            port: 80,
            protocol: Protocol::Tcp,
            backends: backends.filter_map(MemberId::new).map(Backend::new).collect(),
            policy: Policy::Random,
            reject_ttl: 3,
            on_exhausted: OnExhausted::Reset,
            return_path: ReturnPath::Egress,
            admission: Admission::Accept,
        };
        let script = Script {
            rounds: (time.0 / TURN.0) as u32 + 1,
            // Little, since the checkers know a connection by its first 100,000 sequence numbers.
            request: 20,
            response: 20,
            pause: TURN,
            ending: Ending::Client,
        };
        let clients = (0..CONNECTIONS).filter_map(|n| {
            let start = WARM + Nanos(TURN.0 / u64::from(CONNECTIONS) * u64::from(n));
            client_of((0, &service), vip4(1), n, Intent::Tcp { script, syn_data: 0 }, start)
        });
        let clients = clients.collect();
        let members = members(INGRESS, TRACKERS, BACKENDS, Families::V4);
        let spec = spec(seed, Family::V4, members, vec![service]);
        Ok(Self {
            clients,
            heal: WARM + time,
            accepting: vec![Accepting { limit: 128, every: Nanos(10_000) }],
            expectations: vec![Expectation::Admitted],
            deaf: vec![Vec::new()],
            ecmp_seed: seed,
            ..Self::calm(Snapshot::build(spec)?)
        })
    }
}
