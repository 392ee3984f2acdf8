//! Messages that must not be believed.

use jlb_role::{PacketBuf, Reason};
use jlb_wire::{BootId, Kind};

use crate::packets::{tcp, udp};
use crate::world::{World, id, ms, pending, world};

/// Takes a message and says why it was refused; the flow still waits.
#[track_caller]
fn refused(w: &mut World, message: Vec<u8>) -> Reason {
    w.rx([message]);
    assert_eq!(w.flow(&tcp(false)), pending(1, 1));
    let drops = w.drops();
    let [why] = drops[..] else { panic!("{drops:?}") };
    assert_eq!(w.sent(), []);
    why
}

fn waiting() -> World {
    let mut w = world();
    w.rx([tcp(false).syn(1)]);
    w.sent();
    w
}

#[test]
fn every_changed_byte_of_a_message_is_noticed() {
    let mut w = waiting();
    let accept = w.message(21, Kind::Accept, &tcp(false), 1, |_| {});
    // From the Geneve option on: 20 + 8 + 8 + 4 bytes are before it. The hop budget is not under the MAC, nor are the
    // inner packet's other fields: they decide nothing.
    let hop_budget = 40 + 2;
    let tuple = 128 + 12..128 + 24;
    for at in (40..128).chain(tuple).filter(|&at| at != hop_budget) {
        let mut changed = accept.clone();
        changed[at] ^= 1;
        let why = refused(&mut w, changed);
        let expected: &[Reason] = match at {
            41 => &[Reason::WrongVersion],
            // The inner IP header has its own checksum.
            128.. => &[Reason::BadChecksum, Reason::BadMac],
            _ => &[Reason::BadMac],
        };
        assert!(expected.contains(&why), "byte {at}: {why:?}");
    }
    w.rx([accept]);
    assert_eq!(w.drops(), []);
}

#[test]
fn a_message_counts_once() {
    let mut w = waiting();
    let state = w.message(11, Kind::State, &tcp(false), 1, |c| c.flags = jlb_wire::Flags::PENDING);
    w.rx([state.clone()]);
    assert_eq!(w.drops(), []);
    assert_eq!(refused(&mut w, state), Reason::Replayed);
}

#[test]
fn only_the_boot_that_answered_our_probe_is_heard() {
    let mut w = waiting();
    let (peers, _) = &w.others[&21];
    let config = jlb_peers::PeersConfig {
        id: id(21),
        worker: jlb_role::WorkerId(0),
        workers: 1,
        boot: BootId(4711),
        seed: 5,
    };
    let mut other = jlb_peers::Peers::new(config, peers.snapshot().clone(), ms(0));
    let mut io = jlb_role::FakeIo::default();
    let flow = tcp(false);
    let accept = other.control(Kind::Accept, jlb_wire::Incarnation(1));
    other.send_headers(id(1), accept, (&flow.tuple(), &flow.id()), &mut io);
    let bytes = io.sent[0].0.bytes().to_vec();
    assert_eq!(refused(&mut w, bytes), Reason::UnknownBoot);
}

#[test]
fn a_message_is_for_its_receiver_by_its_signer_from_its_sender() {
    let mut w = waiting();
    let flow = tcp(false);
    // For ingress 2, sent to ingress 1.
    let mut misled = w.message_to(2, 21, Kind::Accept, &flow, 1, |_| {});
    misled[16..20].copy_from_slice(&[10, 0, 0, 1]);
    mend(&mut misled);
    assert_eq!(refused(&mut w, misled), Reason::NotAddressee);

    // Signed by backend 21, sent from backend 22's address.
    let mut borrowed = w.message(21, Kind::Accept, &flow, 1, |_| {});
    borrowed[12..16].copy_from_slice(&[10, 0, 0, 22]);
    mend(&mut borrowed);
    assert_eq!(refused(&mut w, borrowed), Reason::NotAMember);

    let mut stranger = w.message(21, Kind::Accept, &flow, 1, |_| {});
    stranger[12..16].copy_from_slice(&[10, 0, 0, 99]);
    mend(&mut stranger);
    assert_eq!(refused(&mut w, stranger), Reason::NotAMember);

    // A tracker may not say a backend's word, nor a backend a tracker's.
    let by_tracker = w.message(11, Kind::Accept, &flow, 1, |_| {});
    assert_eq!(refused(&mut w, by_tracker), Reason::NotAMember);
    let by_backend = w.state(21, &flow, 1, 21);
    assert_eq!(refused(&mut w, by_backend), Reason::NotAMember);
}

/// The outer IPv4 checksum.
fn mend(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = jlb_wire::checksum::finish(jlb_wire::checksum::sum(&packet[..20]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn kinds_that_an_ingress_does_not_take_are_refused() {
    let mut w = waiting();
    for kind in [Kind::Open, Kind::Cancel] {
        let message = w.message(11, kind, &tcp(false), 1, |_| {});
        assert_eq!(refused(&mut w, message), Reason::WrongKind);
    }
}

#[test]
fn what_is_not_ours_at_our_address_is_dropped_by_its_reason() {
    let mut w = world();
    let mut ssh = tcp(false).syn(1);
    ssh[16..20].copy_from_slice(&[10, 0, 0, 1]);
    mend(&mut ssh);
    let mut dns = udp(false).datagram(b"x");
    dns[16..20].copy_from_slice(&[10, 0, 0, 1]);
    mend(&mut dns);
    let good = w.message(21, Kind::Close, &tcp(false), 1, |_| {});
    let with = |at: usize, byte: u8| {
        let mut p = good.clone();
        p[at] = byte;
        mend(&mut p);
        p
    };
    let mut short = good.clone();
    short.truncate(100);
    w.rx([
        ssh,
        dns,
        short,
        with(28, 0x40),
        with(36, 0x12),
        with(6, 0x20),
        [&good[..10], &[0, 1], &good[12..]].concat(),
    ]);
    assert_eq!(
        w.drops(),
        [
            Reason::NotForUs,
            Reason::NotForUs,
            Reason::Truncated,
            Reason::BadGeneve,
            Reason::UnknownCriticalOption,
            Reason::Fragment,
            Reason::BadChecksum,
        ]
    );
    assert_eq!(w.sent(), []);
}
