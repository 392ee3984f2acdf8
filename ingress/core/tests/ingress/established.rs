//! Established flows, several workers, and new member lists.

use jlb_ingress_core::{FlowCounts, IngressEvent};
use jlb_map::{Family, Snapshot};
use jlb_role::{Reason, Role, Rule, Without, WorkerId};
use jlb_wire::Epoch;

use crate::packets::{Client, Ip, tcp, udp};
use crate::world::{
    MIXES, Sent, Setup, TRACKERS, established, id, pending, spec, world, world_over,
};

#[test]
fn packets_go_to_the_backend_unchanged_with_their_dscp_and_ecn_outside() {
    for (outer, v6) in MIXES {
        for flow in [tcp(v6), udp(v6)] {
            let mut w = world_over(outer);
            w.establish(&flow, 1, 22);
            let ip = Ip { traffic_class: 0xb9, ..Ip::default() };
            let marked = flow.datagram_with(b"marked", ip);
            let marked_segment = flow.segment(9, |h| h.fin = true, b"marked", ip);
            let marked =
                if flow.protocol == jlb_wire::Protocol::Tcp { marked_segment } else { marked };
            w.rx([flow.later(2), marked.clone(), flow.later(3)]);
            let expected = [
                Sent::Data(22, 0, flow.later(2)),
                Sent::Data(22, 0xb9, marked),
                Sent::Data(22, 0, flow.later(3)),
            ];
            assert_eq!(w.sent(), expected);
            assert_eq!(w.drops(), []);
            assert_eq!(w.metric("jlb_forwarded_packets_total", &[("path", "data")]), 3.0);
        }
    }
}

#[test]
fn a_burst_of_many_flows_goes_where_each_belongs() {
    let mut w = world();
    let flows: Vec<_> = (0..40).map(|n| Client { port: 2000 + n, ..tcp(n % 2 == 0) }).collect();
    let backend = |n: usize| if n.is_multiple_of(3) { 21 } else { 22 };
    for (n, flow) in flows.iter().enumerate() {
        w.establish(flow, 1, backend(n));
    }
    w.rx(flows.iter().map(|f| f.later(2)));
    let expected: Vec<_> =
        flows.iter().enumerate().map(|(n, f)| Sent::Data(backend(n), 0, f.later(2))).collect();
    assert_eq!(w.sent(), expected);
}

#[test]
fn a_syn_of_another_isn_goes_to_the_incumbent() {
    let mut w = world();
    let flow = tcp(false);
    w.establish(&flow, 1, 21);
    w.rx([flow.syn(1), flow.syn(777)]);
    let expected = [Sent::Data(21, 0, flow.syn(1)), Sent::Data(21, 0, flow.syn(777))];
    assert_eq!(w.sent(), expected);
    assert_eq!(w.flow(&flow), established(21, 1));

    // The canary: without the rule a spoofed SYN takes the connection's place.
    let mut w = Setup { rules: Without(Some(Rule::Incumbent)), ..Setup::default() }.build();
    w.establish(&flow, 1, 21);
    w.rx([flow.syn(1), flow.data(2, b"x"), flow.syn(777)]);
    assert_eq!(w.flow(&flow), pending(777, 1));
}

#[test]
fn each_flow_belongs_to_one_worker_and_others_hand_its_packets_over() {
    let mut w = Setup { workers: 3, pending: 64, ..Setup::default() }.build();
    let flows: Vec<_> = (0..32).map(|n| Client { port: 3000 + n, ..udp(n % 2 == 1) }).collect();
    let owner = |f: &Client| f.id().worker(3);
    let mine = flows.iter().filter(|f| owner(f) == WorkerId(0)).count();
    assert!(mine > 0 && mine < flows.len());

    w.rx(flows.iter().map(|f| f.datagram(b"x")));
    assert_eq!(w.opens().len(), mine);
    let theirs: Vec<_> = flows.iter().filter(|f| owner(f) != WorkerId(0)).collect();
    let handed: Vec<_> = w.io.handed.drain(..).collect();
    assert_eq!(handed.len(), theirs.len());
    for ((buf, to), flow) in handed.iter().zip(&theirs) {
        assert_eq!(*to, owner(flow));
        assert_eq!(jlb_role::PacketBuf::bytes(buf), flow.datagram(b"x"));
    }

    // Answers find the owner by the flow, before anything is made of them.
    let accept = w.accept(21, theirs[0], 1);
    w.rx([accept.clone()]);
    let handed: Vec<_> = w.io.handed.drain(..).collect();
    let [(buf, to)] = &handed[..] else { panic!("{handed:?}") };
    assert_eq!((*to, jlb_role::PacketBuf::bytes(buf)), (owner(theirs[0]), &accept[..]));
    assert_eq!((w.drops(), w.sent()), (vec![], vec![]));
}

fn changed(change: impl FnOnce(&mut jlb_map::Spec)) -> IngressEvent {
    let mut spec = spec(Family::V4);
    spec.generation = 2;
    change(&mut spec);
    IngressEvent::Snapshot(Snapshot::build(spec).unwrap())
}

#[test]
fn flows_of_a_backend_that_left_the_list_are_removed() {
    let mut w = world();
    let (stays, goes) = (tcp(false), tcp(true));
    w.establish(&stays, 1, 21);
    w.establish(&goes, 1, 22);
    let event = changed(|spec| {
        spec.members.retain(|m| m.id != id(22));
        for service in &mut spec.services {
            service.backends.retain(|b| b.member != id(22));
        }
    });
    w.ingress.event(w.now, event, &mut w.io);
    w.rx([stays.later(2), goes.later(2)]);
    assert_eq!(
        (w.sent(), w.drops()),
        (vec![Sent::Data(21, 0, stays.later(2))], vec![Reason::NoBackend])
    );
    w.others.remove(&22);
    w.run(1);
    assert_eq!((w.flow(&stays), w.flow(&goes)), (established(21, 1), None));
    assert_eq!(w.ingress.flows(), FlowCounts { established: 1, ..FlowCounts::default() });
}

#[test]
fn datagram_flows_of_a_backend_that_began_anew_are_removed() {
    let mut w = world();
    let (connection, goes, stays) = (tcp(false), udp(false), udp(true));
    w.establish(&connection, 1, 21);
    w.establish(&goes, 1, 21);
    w.establish(&stays, 1, 22);
    w.reboot(21);
    w.run(250);
    assert_eq!((w.flow(&connection), w.flow(&goes)), (established(21, 1), None));
    assert_eq!(w.flow(&stays), established(22, 1));
    // Its next datagram opens it again, instead of going where nobody knows it.
    w.drops();
    w.establish(&goes, 2, 21);
    w.run(250);
    assert_eq!(w.flow(&goes), established(21, 2));
}

#[test]
fn a_new_list_changes_services_and_leaves_flows_alone() {
    let mut w = world();
    let (web, dns) = (tcp(false), udp(false));
    w.establish(&web, 1, 21);
    w.establish(&dns, 1, 21);
    // The order changes, "quiet" goes, and one comes.
    let event = changed(|spec| {
        spec.services.swap(0, 1);
        spec.services[2].port = 8081;
        spec.services[2].name = "new".into();
    });
    w.ingress.event(w.now, event, &mut w.io);
    w.rx([web.later(2), dns.later(2)]);
    assert_eq!(w.sent(), [Sent::Data(21, 0, web.later(2)), Sent::Data(21, 0, dns.later(2))]);
    let old = Client { vip_port: 81, ..tcp(false) };
    let new = Client { vip_port: 8081, ..tcp(false) };
    w.rx([old.syn(1), new.syn(1)]);
    assert_eq!((w.drops(), w.flow(&new)), (vec![Reason::NoService], pending(1, 1)));
    for service in ["web", "dns"] {
        let labels = [("service", service), ("result", "accepted")];
        assert_eq!(w.metric("jlb_opens_total", &labels), 1.0, "{service} keeps its count");
    }
}

#[test]
fn in_a_new_epoch_the_new_trio_is_asked() {
    let mut w = world();
    let flow = tcp(false);
    let trio = w.trio(&flow);
    w.rx([flow.syn(1)]);
    w.sent();
    let event = changed(|spec| {
        spec.epoch = Epoch(2);
        spec.members.retain(|m| m.id != id(trio[0]));
    });
    let IngressEvent::Snapshot(snapshot) = &event else { panic!() };
    for (n, (peers, _)) in &mut w.others {
        if *n != trio[0] {
            peers.update(snapshot.clone(), w.now);
        }
    }
    w.others.remove(&trio[0]);
    w.ingress.event(w.now, event, &mut w.io);
    w.run(26);
    let asked: Vec<_> = w.opens().into_iter().map(|(to, c, _)| (to, c.epoch)).collect();
    assert_eq!(asked, [(trio[1], Epoch(2))]);
    assert!(TRACKERS.contains(&trio[1]));
}
