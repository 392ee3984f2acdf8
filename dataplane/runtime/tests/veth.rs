//! A worker on a kernel interface, in a network namespace of the test's own. Needs root:
//! `cargo test -p jlb-runtime --features root-tests`.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

mod common;

use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use common::{Do, GATEWAY, Puppet, collect, eal_options, frame, ipv4, neighbours};
use jlb_dpdk::{Eal, Mbuf, Mempool, OpenPort, Port, PortOptions, ROOM};
use jlb_role::{Nanos, PacketBuf, UnderlayDst, WorkerId};
use jlb_runtime::{Options, Runtime};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};

const SECOND: Duration = Duration::from_secs(1);

fn sh(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// CPU time of this process so far, in seconds.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

#[test]
fn an_idle_worker_costs_little_and_wakes_up_for_a_packet() {
    // Of this thread, and gone with it: nothing to clean up.
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
    sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
        ip link add jlb-a type veth peer name jlb-b
        ip link set jlb-a up
        ip link set jlb-b up");
    let eal = Eal::start(&eal_options(1)).unwrap();
    let sizes = "qdisc_bypass=1,blocksz=65536,framesz=2048,framecnt=1024";
    let device = format!("net_af_packet0,iface=jlb-a,{sizes}").parse().unwrap();
    let options = Options { buffers: 4095, ..Options::new(device, 1) };
    let client = UnderlayDst::Ip(Ipv4Addr::new(192, 0, 2, 1).into());
    let (runtime, _reports) =
        Runtime::start(&eal, &options, &neighbours(), |w| Puppet::new(w, client)).unwrap();
    let handle = runtime.handle();

    let pool = Mempool::new(&eal, 511, ROOM).unwrap();
    let peer = format!("net_af_packet1,iface=jlb-b,{sizes}").parse().unwrap();
    let OpenPort { port: peer, rx: mut answers, mut tx } =
        Port::open(&eal, &peer, &PortOptions::default(), &pool).unwrap();

    // A tick as often as Probe wants it must not keep it awake.
    handle.send(WorkerId(0), Do::TickEvery(Nanos::from_millis(20))).unwrap();
    thread::sleep(SECOND / 4);
    let (before, started) = (cpu(), Instant::now());
    thread::sleep(SECOND);
    let cost = (cpu() - before) / started.elapsed().as_secs_f64();
    println!("an idle worker costs {:.1} % of a core", cost * 100.0);
    // The idle lab has six of them and may cost 30 %.
    assert!(cost < 0.05, "an idle worker costs {:.1} % of a core", cost * 100.0);

    let mut delays = vec![];
    for _ in 0..20 {
        thread::sleep(SECOND / 20);
        let packet = ipv4(300, WorkerId(0));
        let mut out = ArrayVec::<Mbuf, 1>::new();
        out.push(pool.alloc().unwrap());
        let bytes = frame(handle.mac(), peer.mac(), 0x0800, &packet);
        out[0].append(bytes.len()).unwrap().copy_from_slice(&bytes);
        let sent = Instant::now();
        assert_eq!(tx[0].burst(&mut out), 1);
        let mut back = ArrayVec::<Mbuf, 8>::new();
        let answer = frame(GATEWAY, handle.mac(), 0x0800, &packet);
        // The port also sees its own frame leave.
        while !back.iter().any(|b| b.bytes() == answer) {
            assert!(sent.elapsed() < SECOND, "no answer; {back:?}");
            back.clear();
            answers[0].burst(&mut back);
        }
        delays.push(sent.elapsed());
    }
    delays.sort();
    println!("answers after {:?} to {:?}, median {:?}", delays[0], delays[19], delays[10]);
    // A sleep of 1 ms at most; ten times that for what else runs on this machine.
    assert!(delays[10] < SECOND / 100, "answers come late: {delays:?}");
    assert_eq!(collect(&handle).sum("puppet", &[("what", "seen")]), 20.0);

    runtime.stop(SECOND).unwrap();
    drop((peer, answers, tx, pool));
    assert_eq!(eal.cleanup(), Ok(()));
}
