//! What the generator sends through a memif is counted at its other end, and read by etherparse. One DPDK per process, so all
//! profiles take turns.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use arrayvec::ArrayVec;
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use jlb_dpdk::{Cores, Eal, EalOptions, LogLevel, Mbuf, Memory, Mempool, Port, PortOptions, ROOM};
use jlb_ports::generate::{Generate, Profile, Traffic, run_on};
use jlb_role::PacketBuf;
use jlb_runtime::{MacAddr, Prefix};

const PACKETS: u64 = 20_000;
const TO: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const FROM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

#[derive(Default)]
struct Seen {
    packets: u64,
    syns: u64,
    acks: u64,
    udp: u64,
    clients: Vec<SocketAddr>,
}

#[test]
fn every_profile_is_what_it_says_in_both_families() {
    let eal = Eal::start(&EalOptions {
        workers: 1,
        cores: Cores::Floating,
        memory: Memory::Ordinary(96),
        devices: vec![],
        log: LogLevel::Error,
    })
    .unwrap();
    let pool = Mempool::new(&eal, 16_383, ROOM).unwrap();
    let profiles = [Profile::Established, Profile::Range, Profile::Syn, Profile::Mix];
    let cases = profiles.into_iter().flat_map(|p| [(p, false), (p, true)]);
    for (case, (profile, v6)) in cases.enumerate() {
        let traffic = traffic(profile, v6);
        let seen = sent_and_seen(&eal, &pool, case, &traffic);
        let distinct = seen.clients.iter().collect::<HashSet<_>>().len();
        let kinds = (seen.acks, seen.syns, seen.udp);
        match profile {
            Profile::Established => {
                assert_eq!(kinds, (PACKETS, 0, 0));
                // 300 flows, each drawn 67 times on the average.
                assert_eq!(distinct, 300);
            }
            Profile::Range => {
                assert_eq!(kinds, (PACKETS, 0, 0));
                let in_order =
                    |(n, c): (usize, &SocketAddr)| c.port() == 2000 + (n % 300 % 100) as u16;
                assert!(seen.clients.iter().enumerate().all(in_order), "ports count up");
                assert_eq!(distinct, 300);
            }
            Profile::Syn => {
                assert_eq!(kinds, (0, PACKETS, 0));
                // Of 25,600 pairs of address and port about 13,900 are met.
                assert!((13_000..15_000).contains(&distinct), "{distinct}");
            }
            Profile::Mix => {
                assert_eq!(kinds, (PACKETS / 20 * 14, PACKETS / 20, PACKETS / 20 * 5));
            }
        }
    }
}

fn traffic(profile: Profile, v6: bool) -> Traffic {
    let (from, len, to, size) = if v6 {
        ("2001:2::", 120, "[2001:db8::10]:80", 90)
    } else {
        ("198.18.0.0", 24, "203.0.113.10:80", 64)
    };
    Traffic {
        profile,
        from: Prefix::new(from.parse().unwrap(), len).unwrap(),
        ports: 2000..=2099,
        to: to.parse().unwrap(),
        flows: 300,
        size,
        macs: (TO, FROM),
    }
}

/// Sends at a rate that this end keeps up with, and reads all of it.
fn sent_and_seen(eal: &Eal, pool: &Mempool, case: usize, traffic: &Traffic) -> Seen {
    let device = |n: usize, role: &str| {
        let socket = format!("jlb-generate-{}-{case}", std::process::id());
        format!("net_memif{n},role={role},id=0,socket={socket},rsize=12").parse().unwrap()
    };
    let server = device(2 * case, "server");
    let mut port = Port::open(eal, &server, &PortOptions::default(), pool).unwrap();
    let plan = Generate {
        device: device(2 * case + 1, "client"),
        traffic: traffic.clone(),
        rate: Some(200_000.0),
        lasts: Duration::from_secs(60),
        packets: PACKETS,
        cpu: None,
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = run_on(eal, pool, &plan, &mut |_| (), &AtomicBool::new(false));
            done.store(true, Ordering::Relaxed);
            sent.unwrap()
        });
        let mut seen = Seen::default();
        loop {
            let last = done.load(Ordering::Relaxed);
            let mut burst = ArrayVec::<Mbuf, 32>::new();
            let came = port.rx[0].burst(&mut burst).packets;
            burst.iter().for_each(|frame| read(frame.bytes(), traffic, &mut seen));
            if came == 0 {
                if last || seen.packets == PACKETS {
                    break;
                }
                thread::yield_now();
            }
        }
        let sent = sender.join().unwrap();
        assert_eq!((sent.sent, seen.packets), (PACKETS, PACKETS));
        seen
    })
}

/// Checks a frame, and adds it to what was seen.
fn read(frame: &[u8], traffic: &Traffic, seen: &mut Seen) {
    assert_eq!(frame.len(), usize::from(traffic.size) - 4);
    assert_eq!((&frame[..6], &frame[6..12]), (&TO.0[..], &FROM.0[..]));
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let payload = headers.payload.slice();
    let net = headers.net.unwrap();
    let (from, to) = match &net {
        NetHeaders::Ipv4(h, _) => {
            assert_eq!(h.header_checksum, h.calc_header_checksum());
            (IpAddr::from(h.source), IpAddr::from(h.destination))
        }
        NetHeaders::Ipv6(h, _) => (IpAddr::from(h.source), IpAddr::from(h.destination)),
        NetHeaders::Arp(_) => panic!("ARP"),
    };
    let (sum, ports) = match headers.transport.unwrap() {
        TransportHeader::Tcp(tcp) => {
            let expected = match &net {
                NetHeaders::Ipv4(h, _) => tcp.calc_checksum_ipv4(h, payload).unwrap(),
                NetHeaders::Ipv6(h, _) => tcp.calc_checksum_ipv6(h, payload).unwrap(),
                NetHeaders::Arp(_) => unreachable!(),
            };
            seen.syns += u64::from(tcp.syn);
            seen.acks += u64::from(tcp.ack && !tcp.syn);
            ((tcp.checksum, expected), (tcp.source_port, tcp.destination_port))
        }
        TransportHeader::Udp(udp) => {
            let expected = match &net {
                NetHeaders::Ipv4(h, _) => udp.calc_checksum_ipv4(h, payload).unwrap(),
                NetHeaders::Ipv6(h, _) => udp.calc_checksum_ipv6(h, payload).unwrap(),
                NetHeaders::Arp(_) => unreachable!(),
            };
            seen.udp += 1;
            ((udp.checksum, expected), (udp.source_port, udp.destination_port))
        }
        TransportHeader::Icmpv4(_) | TransportHeader::Icmpv6(_) | TransportHeader::Igmp(_) => {
            panic!("neither TCP nor UDP")
        }
    };
    assert_eq!(sum.0, sum.1, "checksum of the transport");
    assert_eq!(SocketAddr::new(to, ports.1), traffic.to);
    assert!(traffic.ports.contains(&ports.0));
    let client = SocketAddr::new(from, ports.0);
    seen.clients.push(client);
    seen.packets += 1;
}
