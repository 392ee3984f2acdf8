//! Whatever comes: no panic, no table beyond its bound, and one decision per flow.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::*;
use jlb_role::{AllRules, Nanos};
use jlb_wire::{Control, FiveTuple, Flags, Kind, Protocol};
use jlb_yann_core::{DEFAULT_UDP_IDLE, EventKind, KernelLimits, Listener, TcpSocket, Verdict};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Open { port: u16, isn: u32, udp: bool, flags: u16, swap: bool, named: u64 },
    Cancel { port: u16, isn: u32, udp: bool },
    Data { port: u16, isn: u32, udp: bool, tcp_flags: u8, from: u16 },
    Reply { port: u16, isn: u32, udp: bool, tcp_flags: u8 },
    Established(u16),
    Closed(u16),
    Listener { depth: u32, there: bool, udp: bool },
    Sweep,
    Pass(u64),
    Drain,
    Probe { from: u16, leaving: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let (port, isn) = (|| 0..4u16, || 1..4u32);
    let tcp_flags = || prop::sample::select(vec![0x02u8, 0x10, 0x12, 0x04, 0x11]);
    prop_oneof![
        6 => (port(), isn(), any::<bool>(), 0..16u16, any::<bool>(), 0..4u64)
            .prop_map(|(port, isn, udp, flags, swap, named)| Step::Open { port, isn, udp, flags, swap, named }),
        2 => (port(), isn(), any::<bool>()).prop_map(|(port, isn, udp)| Step::Cancel { port, isn, udp }),
        3 => (port(), isn(), any::<bool>(), tcp_flags(), 1..3u16)
            .prop_map(|(port, isn, udp, tcp_flags, from)| Step::Data { port, isn, udp, tcp_flags, from }),
        3 => (port(), isn(), any::<bool>(), tcp_flags())
            .prop_map(|(port, isn, udp, tcp_flags)| Step::Reply { port, isn, udp, tcp_flags }),
        2 => port().prop_map(Step::Established),
        2 => port().prop_map(Step::Closed),
        1 => (0..4u32, any::<bool>(), any::<bool>())
            .prop_map(|(depth, there, udp)| Step::Listener { depth, there, udp }),
        1 => Just(Step::Sweep),
        2 => prop::sample::select(vec![1u64, 25, 400, 1000, 3000, 5000]).prop_map(Step::Pass),
        1 => Just(Step::Drain),
        1 => (1..3u16, any::<bool>()).prop_map(|(from, leaving)| Step::Probe { from, leaving }),
    ]
}

fn tuple(port: u16, is_udp: bool) -> FiveTuple {
    if is_udp { udp(port) } else { tcp(port) }
}

/// What was said about a question (flow, incarnation, force), for as long as it must stand.
#[derive(Default)]
struct Said(BTreeMap<(FiveTuple, u32, bool), (bool, Nanos)>);

const LIMITS: KernelLimits = KernelLimits { flows: 3, answers: 5, events: 16 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn decided_once_and_bounded(steps in prop::collection::vec(step(), 1..120)) {
        let list = snapshot(|s| web(s).max_connections = limited(2));
        let mut host = Host::of(&list, LIMITS, AllRules);
        host.stack.listener = Some(Listener { depth: 0, limit: 1 });
        let mut said = Said::default();
        for step in steps {
            let now = host.now;
            match step {
                Step::Open { port, isn, udp, flags, swap, named } => {
                    let tuple = tuple(port, udp);
                    let open = if swap { host.open_by((SECOND, HEAD), &tuple, isn) } else { host.open(&tuple, isn) };
                    // FORCE, INCUMBENT, CUT.
                    let flags = Flags((flags & 1) | if flags & 2 != 0 && flags & 8 != 0 { 2 } else { 0 } | (flags & 4) << 1);
                    let incumbent = flags.has(Flags::INCUMBENT);
                    let open = Control { flags, word_b: if incumbent { named } else { open.word_b }, ..open };
                    let before = (host.kernel.flow_count(), host.kernel.counters().admitted.values().sum::<u64>());
                    let verdict = host.send(open, &tuple);
                    let admitted = host.kernel.counters().admitted.values().sum::<u64>() > before.1;
                    prop_assert!(!(incumbent && admitted), "asking admits nobody");
                    let question = (tuple, open.incarnation.0, flags.has(Flags::FORCE));
                    if let Verdict::Send { .. } = &verdict {
                        let (reject, _) = said_in(&verdict, &tuple);
                        prop_assert_eq!(reject.kind, Kind::Reject);
                        // Not admitted before, under this question.
                        if let Some((yes, at)) = said.0.get(&question) {
                            prop_assert!(!*yes || udp || now.since(*at) >= Nanos::from_secs(8), "took it before");
                        }
                        said.0.insert(question, (false, now));
                    }
                    if admitted {
                        let remembered = if udp { Nanos::from_secs(4) } else { Nanos::from_secs(8) };
                        if let Some((yes, at)) = said.0.get(&question) {
                            prop_assert!(*yes && udp || now.since(*at) >= remembered, "decided before");
                        }
                        said.0.insert(question, (true, now));
                    }
                }
                Step::Cancel { port, isn, udp } => {
                    let tuple = tuple(port, udp);
                    let cancel = host.cancel(&tuple, isn);
                    let (live, flows) = (host.kernel.flow(&tuple).copied(), host.kernel.flow_count());
                    let verdict = host.send(cancel, &tuple);
                    prop_assert_eq!(host.kernel.flow_count(), flows, "a Cancel ends and begins nothing");
                    let ours = live.is_some_and(|f| udp || f.incarnation == isn);
                    prop_assert!(!ours || verdict == Verdict::Done, "{:?}", verdict);
                    if let Verdict::Send { .. } = verdict {
                        said.0.insert((tuple, cancel.incarnation.0, false), (false, now));
                    }
                }
                Step::Data { port, isn, udp, tcp_flags, from } => {
                    let tuple = tuple(port, udp);
                    let flows = host.kernel.flow_count();
                    host.receive(&data(id(from), &segment(&tuple, tcp_flags, isn)));
                    prop_assert_eq!(host.kernel.flow_count(), flows, "Data opens nothing");
                }
                Step::Reply { port, isn, udp, tcp_flags } => {
                    let tuple = tuple(port, udp);
                    let live = host.kernel.flow(&tuple).copied();
                    let verdict = host.kernel.egress(host.now, &reply(&tuple, tcp_flags, isn + 1));
                    if tcp_flags == 0x12 && !udp {
                        let ours = live.is_some_and(|f| f.incarnation == isn);
                        prop_assert_eq!(matches!(verdict, Verdict::Send { .. }), ours, "rule 3");
                    }
                }
                Step::Established(port) => {
                    host.stack.tcp.insert(tcp(port), TcpSocket::Open);
                    host.kernel.socket_established(&tcp(port));
                }
                Step::Closed(port) => host.close(&tcp(port)),
                Step::Listener { depth, there, udp } => {
                    host.stack.listener = there.then_some(Listener { depth, limit: 1 });
                    host.stack.udp = udp;
                }
                Step::Sweep => host.kernel.sweep(host.now, DEFAULT_UDP_IDLE, &host.stack),
                Step::Pass(ms) => host.pass(ms),
                Step::Drain => {
                    let closed: Vec<_> = host.events().into_iter().filter(|e| e.kind == EventKind::Closed).collect();
                    for e in closed {
                        let tuple = e.tuple.unwrap();
                        let live = host.kernel.flow(&tuple);
                        // An event that lay there for 8 s may meet the same question, asked anew: by its counter a later one.
                        let over = live.is_none_or(|f| f.incarnation != e.incarnation.0 || f.counter > e.counter);
                        prop_assert!(over, "closed is over");
                    }
                }
                Step::Probe { from, leaving } => {
                    host.receive(&probe(id(from), u16::from(leaving) * 2));
                }
            }
            prop_assert!(host.kernel.flow_count() <= LIMITS.flows);
            prop_assert!(host.kernel.answers().count() <= LIMITS.answers);
            prop_assert!(host.kernel.events().count() <= LIMITS.events);
            for slot in 0..2 {
                let live = host.kernel.flows().filter(|(_, f)| f.service == slot).count();
                prop_assert_eq!(host.kernel.live(slot) as usize, live, "counted");
            }
        }
        // After quiet nothing is left.
        host.stack = Stack { udp: false, listener: None, ..Stack::default() };
        for port in 0..4 {
            host.close(&tcp(port));
        }
        for _ in 0..3 {
            host.events();
            host.pass(9000);
            host.kernel.sweep(host.now, DEFAULT_UDP_IDLE, &host.stack);
        }
        prop_assert_eq!(host.kernel.flow_count(), 0);
        host.pass(8000);
        host.kernel.sweep(host.now, DEFAULT_UDP_IDLE, &host.stack);
        prop_assert_eq!(host.kernel.answers().count(), 0);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), v6 in any::<bool>()) {
        let mut host = Host::new();
        let _ = host.receive(&bytes);
        let _ = host.kernel.egress(host.now, &bytes);
        // Behind a good outer header.
        let shell = jlb_wire::Payload::Plain { v6 };
        let outer = if v6 { outer6(INGRESS) } else { outer(INGRESS) };
        let _ = host.receive(&wrapped(outer, shell, &bytes));
        let _ = host.receive(&wrapped(outer, jlb_wire::Payload::Body, &bytes));
        prop_assert_eq!(host.kernel.flow_count(), 0);
    }

    #[test]
    fn bent_messages_never_panic_nor_admit(at in 0..190usize, to in any::<u8>(), cut in 0..190usize) {
        let mut host = Host::new();
        let tuple = flow(1, "2001:db8::10", 80, Protocol::Tcp);
        let whole = packet(&host.open(&tuple, 700), &tuple);
        let mut bent = whole.clone();
        let at = at % bent.len();
        bent[at] = to;
        let _ = host.receive(&whole[..cut.min(whole.len() - 1)]);
        prop_assert_eq!(host.kernel.flow_count(), 0);
        let _ = host.receive(&bent);
        // Outside of what the MAC covers only: TTL, entropy, outer UDP checksum, hop budget, inner fields that do not
        // name the flow.
        if host.kernel.flow_count() > 0 {
            prop_assert!(host.kernel.flow(&tuple).is_some_and(|f| f.incarnation == 700));
        }
        let _ = host.receive(&whole);
    }
}

fn said_in(verdict: &Verdict, tuple: &FiveTuple) -> (Control, Vec<u8>) {
    said(verdict, tuple)
}
