//! Whatever arrives, in whatever order: no panic, every table within its bounds, and all of it empty again in the end.

use jlb_ingress_core::FlowCounts;
use jlb_map::Family;
use jlb_role::{Burst, FakeBuf, PacketBuf, Role};
use jlb_wire::{Flags, Kind, Protocol};
use proptest::prelude::*;

use crate::packets::{Client, Ip, server_packet, tcp, udp};
use crate::world::{BACKENDS, Sent, Setup, TRACKERS, World, spec};

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Syn {
        flow: u8,
        isn: u8,
    },
    Later {
        flow: u8,
        len: u16,
        df: bool,
    },
    Accept {
        flow: u8,
        isn: u8,
        backend: u8,
    },
    State {
        flow: u8,
        isn: u8,
        backend: u8,
    },
    Refuse {
        flow: u8,
        isn: u8,
        right_cookie: bool,
    },
    Close {
        flow: u8,
        isn: u8,
        backend: u8,
    },
    Egress {
        flow: u8,
        outer_ecn: u8,
    },
    Wait {
        ms: u16,
    },
    /// One of the last packets again, with changes.
    Mangled {
        which: u8,
        cut: u16,
        at: u16,
        byte: u8,
    },
    Raw(Vec<u8>),
    Exhausted(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let flow = 0..6u8;
    let isn = 0..3u8;
    let backend = 0..2u8;
    prop_oneof![
        4 => (flow.clone(), isn.clone()).prop_map(|(flow, isn)| Step::Syn { flow, isn }),
        4 => (flow.clone(), 0..1700u16, any::<bool>())
            .prop_map(|(flow, len, df)| Step::Later { flow, len, df }),
        3 => (flow.clone(), isn.clone(), backend.clone())
            .prop_map(|(flow, isn, backend)| Step::Accept { flow, isn, backend }),
        2 => (flow.clone(), isn.clone(), backend.clone())
            .prop_map(|(flow, isn, backend)| Step::State { flow, isn, backend }),
        2 => (flow.clone(), isn.clone(), any::<bool>())
            .prop_map(|(flow, isn, right_cookie)| Step::Refuse { flow, isn, right_cookie }),
        2 => (flow.clone(), isn, backend)
            .prop_map(|(flow, isn, backend)| Step::Close { flow, isn, backend }),
        1 => (flow, 0..4u8).prop_map(|(flow, outer_ecn)| Step::Egress { flow, outer_ecn }),
        2 => (0..400u16).prop_map(|ms| Step::Wait { ms }),
        2 => (any::<u8>(), 0..200u16, 0..200u16, any::<u8>())
            .prop_map(|(which, cut, at, byte)| Step::Mangled { which, cut, at, byte }),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Step::Raw),
        1 => any::<bool>().prop_map(Step::Exhausted),
    ]
}

/// Six flows: both families, both protocols, one that is dropped when refused.
fn flow(n: u8) -> Client {
    match n {
        0 => tcp(false),
        1 => tcp(true),
        2 => udp(false),
        3 => udp(true),
        4 => Client { port: 7, ..udp(false) },
        _ => Client { vip_port: 81, ..tcp(false) },
    }
}

struct Run {
    w: World,
    cookies: [u32; 6],
    tape: Vec<Vec<u8>>,
}

impl Run {
    fn send(&mut self, packet: Vec<u8>) {
        self.tape.push(packet.clone());
        self.w.rx([packet]);
        for sent in self.w.sent() {
            if let Sent::Control(_, control, inner) = sent
                && control.kind == Kind::Open
            {
                let tuple = jlb_wire::Packet::parse(&inner).unwrap().tuple;
                if let Some(n) = (0..6u8).find(|&n| flow(n).tuple() == tuple) {
                    self.cookies[usize::from(n)] = control.cookie;
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        // Datagram flows' messages name the agent's numbers.
        let w = &mut self.w;
        let packet = match *step {
            Step::Syn { flow: n, isn } => flow(n).opener(u32::from(isn)),
            Step::Later { flow: n, len, df } => {
                let ip = Ip { dont_fragment: df, ..Ip::default() };
                let payload = vec![7; usize::from(len)];
                match flow(n).protocol {
                    Protocol::Tcp => flow(n).segment(9, |h| h.ack = true, &payload, ip),
                    Protocol::Udp => flow(n).datagram_with(&payload, ip),
                }
            }
            Step::Accept { flow: n, isn, backend } => {
                w.accept(BACKENDS[usize::from(backend)], &flow(n), u32::from(isn))
            }
            Step::State { flow: n, isn, backend } => {
                let backend = BACKENDS[usize::from(backend)];
                w.state(TRACKERS[usize::from(isn)], &flow(n), u32::from(isn), backend)
            }
            Step::Refuse { flow: n, isn, right_cookie } => {
                let cookie = if right_cookie { self.cookies[usize::from(n)] } else { 1 };
                w.refuse(&flow(n), u32::from(isn), cookie)
            }
            Step::Close { flow: n, isn, backend } => {
                let backend = BACKENDS[usize::from(backend)];
                w.message(backend, Kind::Close, &flow(n), u32::from(isn), |_| {})
            }
            Step::Egress { flow: n, outer_ecn } => {
                let ip = Ip { traffic_class: 1, ..Ip::default() };
                w.egress(21, outer_ecn, &server_packet(&flow(n), b"reply", ip))
            }
            Step::Wait { ms } => {
                w.run(u64::from(ms));
                return;
            }
            Step::Mangled { which, cut, at, byte } => {
                let Some(old) = self.tape.len().checked_sub(usize::from(which) % 16 + 1) else {
                    return;
                };
                let mut packet = self.tape[old].clone();
                if let Some(b) = packet.get_mut(usize::from(at)) {
                    *b ^= byte;
                }
                packet.truncate(packet.len().saturating_sub(usize::from(cut.saturating_sub(100))));
                // Not on the tape: a change of a change soon looks like noise.
                self.w.rx([packet]);
                self.w.sent();
                return;
            }
            Step::Raw(ref bytes) => bytes.clone(),
            Step::Exhausted(on) => {
                w.io.exhausted = on;
                return;
            }
        };
        self.send(packet);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_sequence_stays_within_bounds_and_ends_empty(
        steps in prop::collection::vec(step(), 1..120),
        v6 in any::<bool>(),
    ) {
        let prefer = if v6 { Family::V6 } else { Family::V4 };
        let mut w = Setup { spec: spec(prefer), flows: 5, pending: 3, ..Setup::default() }.build();
        w.bad_clients = true;
        let mut run = Run { w, cookies: [0; 6], tape: Vec::new() };
        for step in &steps {
            run.step(step);
            let (entries, packets) = run.w.ingress.waiting();
            let counts = run.w.ingress.flows();
            prop_assert_eq!(counts.pending, entries as u64);
            prop_assert!(entries <= 3 && packets <= entries * 9);
            prop_assert!(counts.pending + counts.established + counts.closing <= 5);
        }
        // Quiet: what waits gives up, and backends close what they have.
        let w = &mut run.w;
        w.io.exhausted = false;
        w.run(1100);
        prop_assert_eq!(w.ingress.waiting(), (0, 0));
        for n in 0..6 {
            for isn in 0..3 {
                for backend in BACKENDS {
                    let close = w.message(backend, Kind::Close, &flow(n), isn, |_| {});
                    w.rx([close]);
                }
            }
        }
        w.run(2100);
        prop_assert_eq!(w.ingress.flows(), FlowCounts::default());
        prop_assert_eq!(w.metric("jlb_flows", &[]), 0.0);
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(packets in prop::collection::vec(
        (0..6u8, prop::collection::vec(any::<u8>(), 0..300)), 1..32,
    )) {
        let mut w = Setup::default().build();
        let mut burst: Burst<FakeBuf> = packets
            .into_iter()
            .map(|(start, mut bytes)| {
                // Some begin like something.
                let ours = w.egress(21, 0, &server_packet(&tcp(false), b"reply", Ip::default()));
                let open = w.message(11, Kind::State, &tcp(true), 1, |c| c.flags = Flags::PENDING);
                let (v4, v6) = (tcp(false).syn(1), tcp(true).syn(1));
                let prefix = match start {
                    0 => &ours[..36],
                    1 => &open[..40],
                    2 => &open[..128],
                    3 => &v6[..40],
                    4 => &v4[..20],
                    _ => &[],
                };
                bytes.splice(0..0, prefix.iter().copied());
                FakeBuf::holding(&bytes)
            })
            .collect();
        let n = burst.len();
        let now = w.now;
        w.ingress.rx(now, &mut burst, &mut w.io);
        // Each was dropped, sent on, or waits. (Without the right lengths and MACs nothing else can be.)
        let (_, waiting) = w.ingress.waiting();
        let opens = w.io.sent.iter().filter(|(b, _)| b.len() > 100).count();
        prop_assert!(w.io.dropped.len() + w.io.sent.len() + waiting >= n, "{opens}");
    }
}
