//! Workers on `net_ring`, told what to do by events. One EAL, so the tests take turns.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

mod common;

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::{Do, Puppet, collect, eal_options, friend, neighbours, wait_for};
use jlb_dpdk::Eal;
use jlb_role::{Nanos, Report, UnderlayDst, WorkerId};
use jlb_runtime::{Idle, Neighbours, Options, Reports, Runtime, SendError, StartError};

const SECOND: Duration = Duration::from_secs(1);
const DROPPED: &str = "jlb_dropped_packets_total";

fn turn() -> (MutexGuard<'static, ()>, &'static Eal) {
    static EAL: OnceLock<Eal> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (turn, EAL.get_or_init(|| Eal::start(&eal_options(2)).unwrap()))
}

fn options(device: &str, workers: u8) -> Options {
    Options { buffers: 4095, ..Options::new(device.parse().unwrap(), workers) }
}

fn start(eal: &Eal, options: &Options) -> (Runtime<Do>, Reports) {
    Runtime::start(eal, options, &neighbours(), |w| Puppet::new(w, UnderlayDst::Member(friend())))
        .unwrap()
}

fn send(packets: usize, to: UnderlayDst) -> Do {
    Do::Send { packets, len: 100, to }
}

#[test]
fn what_cannot_be_sent_is_dropped_with_its_reason() {
    let (_turn, eal) = turn();
    let neighbours = neighbours();
    let options = options("net_ring0", 1);
    let (runtime, _reports) = Runtime::start(eal, &options, &neighbours, |w| {
        Puppet::new(w, UnderlayDst::Member(friend()))
    })
    .unwrap();
    let handle = runtime.handle();
    let w = WorkerId(0);
    let member = UnderlayDst::Member(friend());
    let known = UnderlayDst::Ip(Ipv4Addr::new(192, 0, 2, 1).into());
    let unknown = UnderlayDst::Ip(Ipv4Addr::new(198, 51, 100, 1).into());
    handle.send(w, send(3, member)).unwrap();
    handle.send(w, send(4, known)).unwrap();
    handle.send(w, send(5, unknown)).unwrap();
    handle.send(w, Do::Send { packets: 1, len: 1500, to: member }).unwrap();
    handle.send(w, Do::Send { packets: 2, len: 1501, to: member }).unwrap();
    let s = wait_for(&handle, "puppet", &[("what", "events")], 5.0);
    assert_eq!(s.sum("jlb_worker_sent_packets_total", &[]), 8.0);
    assert_eq!(s.sum(DROPPED, &[("reason", "no_neighbour")]), 5.0);
    assert_eq!(s.sum(DROPPED, &[("reason", "too_big")]), 2.0);
    // They come back on net_ring, and are seen to be our own.
    let s = wait_for(&handle, "jlb_ignored_frames_total", &[("cause", "own_source")], 8.0);
    assert_eq!(s.sum("jlb_port_transmitted_packets_total", &[("port", "net_ring0")]), 8.0);
    assert_eq!(s.sum(DROPPED, &[]), 7.0);

    // A new snapshot counts at once.
    neighbours.store(Neighbours::none().into());
    handle.send(w, send(1, member)).unwrap();
    wait_for(&handle, DROPPED, &[("reason", "no_neighbour")], 6.0);

    // The ring holds some 1024, and is not emptied while one event is handled.
    neighbours.store(common::neighbours().load_full());
    handle.send(w, send(3000, member)).unwrap();
    let s = wait_for(&handle, "puppet", &[("what", "events")], 7.0);
    let lost = s.sum(DROPPED, &[("reason", "tx_full")]);
    assert!((1.0..=2500.0).contains(&lost), "{lost} lost");
    assert_eq!(s.sum("jlb_worker_sent_packets_total", &[]) + lost, 3008.0);
    wait_for(&handle, "jlb_ignored_frames_total", &[("cause", "own_source")], 3008.0 - lost);
    runtime.stop(SECOND).unwrap();
}

#[test]
fn packets_go_to_the_other_worker_or_are_counted() {
    let (_turn, eal) = turn();
    let (runtime, _reports) = start(eal, &options("net_ring1", 2));
    let handle = runtime.handle();
    handle.send(WorkerId(0), Do::HandOver { packets: 100, to: WorkerId(1) }).unwrap();
    handle.send(WorkerId(1), Do::HandOver { packets: 50, to: WorkerId(0) }).unwrap();
    wait_for(&handle, "puppet", &[("what", "seen"), ("worker", "1")], 100.0);
    let s = wait_for(&handle, "puppet", &[("what", "seen"), ("worker", "0")], 50.0);
    assert_eq!(s.sum("jlb_worker_handed_over_packets_total", &[("worker", "0")]), 100.0);
    assert_eq!(s.sum("puppet", &[("what", "foreign")]), 0.0);

    // The ring holds 512 while the other worker does not look.
    handle.send(WorkerId(1), Do::Block(SECOND / 4)).unwrap();
    thread::sleep(SECOND / 20);
    handle.send(WorkerId(0), Do::HandOver { packets: 700, to: WorkerId(1) }).unwrap();
    wait_for(&handle, DROPPED, &[("reason", "hand_over_full")], 188.0);
    let s = wait_for(&handle, "puppet", &[("what", "seen"), ("worker", "1")], 612.0);
    assert_eq!(s.sum(DROPPED, &[]), 188.0);

    // Mistakes of a role are drops too.
    handle.send(WorkerId(0), Do::HandOver { packets: 1, to: WorkerId(0) }).unwrap();
    handle.send(WorkerId(0), Do::HandOver { packets: 1, to: WorkerId(2) }).unwrap();
    wait_for(&handle, DROPPED, &[("reason", "unexpected")], 2.0);
    runtime.stop(SECOND).unwrap();
}

#[test]
fn reports_arrive_and_lost_ones_are_counted() {
    let (_turn, eal) = turn();
    let (runtime, mut reports) = start(eal, &options("net_ring2", 2));
    let handle = runtime.handle();
    let report = Report::PeerAlive { member: friend() };
    handle.send(WorkerId(1), Do::Report(report, 1100)).unwrap();
    let s = wait_for(&handle, "puppet", &[("what", "events")], 1.0);
    assert_eq!(s.sum("jlb_reports_lost_total", &[]), 76.0);
    for _ in 0..1024 {
        assert_eq!(reports.try_recv(), Ok((WorkerId(1), report)));
    }
    runtime.stop(SECOND).unwrap();
    assert_eq!(reports.blocking_recv(), None, "the end of the workers is the end of their reports");
}

#[test]
fn ticks_come_on_time_though_the_worker_sleeps() {
    let (_turn, eal) = turn();
    let (runtime, _reports) = start(eal, &options("net_ring3", 1));
    let handle = runtime.handle();
    handle.send(WorkerId(0), Do::TickEvery(Nanos::from_millis(2))).unwrap();
    let started = Instant::now();
    let s = wait_for(&handle, "puppet", &[("what", "ticks")], 100.0);
    let took = started.elapsed();
    assert!(took >= SECOND / 5, "100 ticks of 2 ms in {took:?}");
    assert!(took < SECOND, "100 ticks of 2 ms in {took:?}");
    let busy = s.sum("jlb_worker_busy_seconds_total", &[("worker", "0")]);
    assert!(busy > 0.0 && busy < took.as_secs_f64() / 5.0, "busy {busy} s in {took:?}");
    runtime.stop(SECOND).unwrap();
}

#[test]
fn a_worker_that_hangs_is_seen_and_the_others_go_on() {
    let (_turn, eal) = turn();
    let (runtime, _reports) = start(eal, &Options { idle: Idle::Spin, ..options("net_ring4", 2) });
    let handle = runtime.handle();
    thread::sleep(SECOND / 10);
    assert!(handle.heartbeat_ages().all(|(_, age)| age < SECOND / 10), "all fresh");
    handle.send(WorkerId(0), Do::Block(SECOND)).unwrap();
    thread::sleep(SECOND / 5);
    let ages: Vec<_> = handle.heartbeat_ages().collect();
    assert!(ages[0].1 > SECOND / 10 && ages[1].1 < SECOND / 10, "{ages:?}");

    // Only the other one answers; and events queue up to a bound.
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let s = tokio.block_on(handle.collect(SECOND / 10));
    assert_eq!(s.0.iter().filter(|s| s.metric.name == "jlb_worker_busy_seconds_total").count(), 1);
    let full = (0..100).map(|_| handle.send(WorkerId(0), Do::Keep(0))).find(Result::is_err);
    assert_eq!(full, Some(Err(SendError::Full(WorkerId(0)))));
    assert_eq!(handle.send(WorkerId(2), Do::Keep(0)), Err(SendError::NoSuchWorker(WorkerId(2))));
    // It does not end at once, but is waited for.
    runtime.stop(SECOND * 2).unwrap();
    assert_eq!(handle.send(WorkerId(0), Do::Keep(0)), Err(SendError::Stopped(WorkerId(0))));
    assert_eq!(collect(&handle).0, []);
}

#[test]
fn an_empty_pool_is_counted_and_filled_again_at_the_end() {
    let (_turn, eal) = turn();
    let (runtime, _reports) = start(eal, &options("net_ring5", 1));
    let handle = runtime.handle();
    let before = collect(&handle);
    assert_eq!(before.sum("jlb_packet_buffers", &[]), 4095.0);
    handle.send(WorkerId(0), Do::Keep(5000)).unwrap();
    let s = wait_for(&handle, "puppet", &[("what", "events")], 1.0);
    assert_eq!(s.sum("jlb_packet_buffers", &[("state", "in_use")]), 4095.0);
    assert_eq!(s.sum("jlb_packet_buffer_shortages_total", &[]), 905.0);
    runtime.stop(SECOND).unwrap();
}

#[test]
fn a_worker_at_rest_holds_no_buffers() {
    let (_turn, eal) = turn();
    let (runtime, _reports) = start(eal, &options("net_ring7", 1));
    let handle = runtime.handle();
    let in_use = || collect(&handle).sum("jlb_packet_buffers", &[("state", "in_use")]);
    assert_eq!(in_use(), 0.0);
    handle.send(WorkerId(0), send(3, UnderlayDst::Member(friend()))).unwrap();
    wait_for(&handle, "jlb_ignored_frames_total", &[("cause", "own_source")], 3.0);
    thread::sleep(SECOND / 20);
    assert_eq!(in_use(), 0.0, "as it began");
    runtime.stop(SECOND).unwrap();
}

#[test]
fn workers_that_are_not_there_are_refused() {
    let (_turn, eal) = turn();
    for wanted in [0, 3] {
        let started =
            Runtime::<Do>::start(eal, &options("net_ring6", wanted), &neighbours(), |w| {
                Puppet::new(w, UnderlayDst::Member(friend()))
            });
        assert!(matches!(started, Err(StartError::Workers { at_most: 2, .. })));
    }
}
