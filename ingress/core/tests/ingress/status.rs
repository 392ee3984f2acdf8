//! Counters, gauges and deadlines.

use jlb_role::{Role, Samples, Value};

use crate::packets::{tcp, udp};
use crate::world::{Setup, ms, world};

#[test]
fn gauges_follow_the_flows() {
    let mut w = world();
    let gauge = |w: &crate::world::World, state, protocol| {
        w.metric("jlb_flows", &[("state", state), ("protocol", protocol)])
    };
    w.rx([tcp(false).syn(1), udp(false).datagram(b"x"), udp(true).datagram(b"x")]);
    assert_eq!((gauge(&w, "pending", "tcp"), gauge(&w, "pending", "udp")), (1.0, 2.0));
    let accept = w.accept(21, &udp(true), 1);
    w.run(3);
    w.rx([accept]);
    assert_eq!((gauge(&w, "pending", "udp"), gauge(&w, "established", "udp")), (1.0, 1.0));
    assert_eq!(w.metric("jlb_pending_entries", &[]), 2.0);
    assert_eq!(w.metric("jlb_pending_capacity", &[]), 16.0);
    assert_eq!(w.metric("jlb_flow_table_capacity", &[]), 64.0);
    assert_eq!(w.metric("jlb_opens_total", &[("result", "accepted")]), 1.0);
    assert_eq!(w.metric("jlb_messages_total", &[("kind", "open"), ("direction", "sent")]), 3.0);
    let accepts = [("kind", "accept"), ("direction", "received")];
    assert_eq!(w.metric("jlb_messages_total", &accepts), 1.0);
    assert_eq!(w.metric("jlb_member_up", &[]), 5.0);

    let mut samples = Samples::default();
    w.ingress.collect(&mut samples);
    let duration = samples.0.iter().find(|s| s.metric.name == "jlb_open_duration_seconds").unwrap();
    let Value::Histogram(h) = &duration.value else { panic!() };
    assert_eq!((h.buckets.iter().sum::<u64>(), h.sum), (1, 0.003));
}

#[test]
fn every_name_is_used_once_and_labels_are_distinct() {
    let w = world();
    let mut samples = Samples::default();
    w.ingress.collect(&mut samples);
    let keys: Vec<_> = samples.0.iter().map(|s| (s.metric.name, &s.labels)).collect();
    for (n, key) in keys.iter().enumerate() {
        assert!(!keys[..n].contains(key), "{key:?} twice");
        assert!(key.0.starts_with("jlb_"));
    }
}

#[test]
fn probes_are_no_work_and_clients_packets_are() {
    let mut w = world();
    let before = w.ingress.flow_packets();
    w.run(500);
    assert_eq!(w.ingress.flow_packets(), before);
    w.rx([tcp(false).syn(1)]);
    assert_eq!(w.ingress.flow_packets(), before.map(|n| n + 1));
}

#[test]
fn a_cookie_must_be_able_to_name_worker_and_entries() {
    use jlb_ingress_core::{Ingress, IngressConfig};
    let snapshot = w_snapshot();
    let config = IngressConfig {
        id: crate::world::id(1),
        worker: jlb_role::WorkerId(0),
        workers: 1,
        boot: jlb_wire::BootId(1),
        seed: 1,
        flow_capacity: 10,
        pending_capacity: 1 << 16,
    };
    let new = |config| {
        Ingress::<jlb_role::FakeBuf, _>::new(config, snapshot.clone(), jlb_role::AllRules, ms(0))
    };
    assert!(new(config).is_ok());
    assert!(new(IngressConfig { pending_capacity: (1 << 16) + 1, ..config }).is_err());
    assert!(new(IngressConfig { worker: jlb_role::WorkerId(16), ..config }).is_err());
}

fn w_snapshot() -> std::sync::Arc<jlb_map::Snapshot> {
    jlb_map::Snapshot::build(Setup::default().spec).unwrap()
}
