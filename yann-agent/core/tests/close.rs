//! How flows end: CLOSE, sweeps, and what is left of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::*;
use jlb_role::{AllRules, Nanos, Reason};
use jlb_wire::Protocol;
use jlb_yann_core::maps::{answer_kind, flow_state};
use jlb_yann_core::{DEFAULT_UDP_IDLE, EventKind, KernelLimits, TcpSocket, Verdict};

fn sweep(host: &mut Host, after_ms: u64) -> Vec<EventKind> {
    host.pass(after_ms);
    host.kernel.sweep(host.now, DEFAULT_UDP_IDLE, &host.stack);
    host.event_kinds()
}

#[test]
fn a_close_moves_the_flow_to_the_answers() {
    let mut host = Host::new();
    let tuple = tcp(1);
    host.establish(&tuple, 700);
    host.receive(&data(INGRESS_2, &segment(&tuple, 0x10, 701)));
    host.close(&tuple);
    assert_eq!((host.kernel.flow_count(), host.kernel.live(0)), (0, 0));
    let e = host.events()[0];
    assert_eq!((e.kind, e.tuple, e.incarnation.0), (EventKind::Closed, Some(tuple), 700));
    assert_eq!(e.ingress[..3], [Some(INGRESS_2), Some(INGRESS), None]);
    let (key, answer) = host.kernel.answers().next().unwrap();
    assert_eq!((key.tuple, key.incarnation, key.force), (*tuple.padded(), 700, 0));
    assert_eq!((answer.kind, answer.counter), (answer_kind::CLOSED, 102));
    host.close(&tuple);
    assert_eq!(host.events(), [], "only once");

    assert_eq!(sweep(&mut host, 7999), []);
    assert_eq!(host.kernel.answers().count(), 1);
    sweep(&mut host, 1);
    assert_eq!(host.kernel.answers().count(), 0, "no trace after 8 s");
}

#[test]
fn an_established_flow_is_never_swept() {
    let mut host = Host::new();
    host.establish(&tcp(1), 700);
    host.stack.tcp.clear();
    assert_eq!(sweep(&mut host, 1_000_000), []);
    assert_eq!(host.kernel.flow_count(), 1);
}

#[test]
fn a_flow_without_a_socket_is_closed_after_3_s() {
    let mut host = Host::new();
    host.admit(&tcp(1), 700);
    host.stack.tcp.insert(tcp(1), TcpSocket::Open);
    assert_eq!(sweep(&mut host, 10_000), [], "its request socket is there");
    host.stack.tcp.clear();
    assert_eq!(sweep(&mut host, 2999), []);
    assert_eq!(sweep(&mut host, 1), [EventKind::Closed]);

    host.admit(&tcp(2), 700);
    host.stack.tcp.insert(tcp(2), TcpSocket::TimeWait);
    assert_eq!(sweep(&mut host, 3000), [EventKind::Closed], "TIME_WAIT is no life");
}

#[test]
fn syn_cookies_give_it_70_s() {
    let mut host = Host::new();
    host.stack.cookies = true;
    host.admit(&tcp(1), 700);
    assert_eq!(sweep(&mut host, 1000), []);
    host.stack.cookies = false;
    assert_eq!(sweep(&mut host, 68_999), [], "its cookie is still good");
    assert_eq!(sweep(&mut host, 1), [EventKind::Closed]);
}

#[test]
fn a_datagram_flow_ends_when_idle_or_unbound() {
    let mut host = Host::new();
    host.admit(&udp(1), 0);
    host.events();
    assert_eq!(sweep(&mut host, 59_000), []);
    host.receive(&data(INGRESS, &headers(&udp(1), 0)));
    assert_eq!(sweep(&mut host, 59_000), []);
    host.kernel.egress(host.now, &reply(&udp(1), 0, 0));
    assert_eq!(sweep(&mut host, 59_999), [], "a reply is life too");
    assert_eq!(sweep(&mut host, 1), [EventKind::Closed]);

    host.admit(&udp(2), 0);
    host.events();
    host.stack.udp = false;
    assert_eq!(sweep(&mut host, 1), [EventKind::Closed]);
}

#[test]
fn with_no_room_to_remember_a_flow_waits_for_the_sweep() {
    let limits = KernelLimits { answers: 1, ..LIMITS };
    let mut host = Host::of(&snapshot(|_| {}), limits, AllRules);
    host.establish(&tcp(1), 1);
    host.establish(&tcp(2), 2);
    host.close(&tcp(1));
    host.events();
    host.close(&tcp(2));
    assert_eq!(host.events(), []);
    assert_eq!(host.kernel.counters().dropped(Reason::AnswersFull), 1);
    assert_eq!(host.kernel.flow(&tcp(2)).unwrap().state, flow_state::ACCEPTED);
    assert_eq!(sweep(&mut host, 3000), [], "still no room");
    assert_eq!(sweep(&mut host, 5000), [EventKind::Closed]);
}

#[test]
fn with_no_room_to_tell_a_flow_waits_for_the_sweep() {
    let limits = KernelLimits { events: 1, ..LIMITS };
    let mut host = Host::of(&snapshot(|_| {}), limits, AllRules);
    host.establish(&tcp(1), 1);
    host.establish(&tcp(2), 2);
    host.close(&tcp(1));
    host.close(&tcp(2));
    assert_eq!(host.kernel.flow_count(), 1);
    assert_eq!(host.kernel.counters().dropped(Reason::Busy), 1);
    assert_eq!(host.event_kinds(), [EventKind::Closed]);
    assert_eq!(sweep(&mut host, 3000), [EventKind::Closed]);

    host.admit(&udp(1), 0);
    host.admit(&udp(2), 0);
    assert_eq!(host.kernel.counters().events_lost, 1, "the Open that is repeated tells it again");
}

#[test]
fn a_daemon_that_starts_hears_of_what_closed_before() {
    let mut host = Host::new();
    host.establish(&tcp(1), 700);
    host.close(&tcp(1));
    host.stack.listener = None;
    host.admit(&tcp(2), 1);
    let told: Vec<_> = host
        .kernel
        .answers()
        .filter_map(|(key, answer)| jlb_yann_core::KernelEvent::of_answer(key, answer))
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].kind, told[0].tuple), (EventKind::RepeatClose, Some(tcp(1))));
    assert_eq!(told[0].ingress[0], Some(INGRESS));
}

#[test]
fn a_full_map_of_flows_makes_room_when_one_ends() {
    let mut host = Host::new();
    for n in 0..8 {
        host.establish(&tcp(n), 1);
    }
    let v6 = flow(9, "2001:db8::10", 80, Protocol::Tcp);
    let open = host.open(&v6, 1);
    assert_eq!(host.refusal(open, &v6).reason, jlb_wire::RejectReason::TableFull);
    host.close(&tcp(0));
    assert!(matches!(host.admit(&v6, 2), Verdict::Deliver(_)));
    assert_eq!(host.now.since(START), Nanos::ZERO);
}
