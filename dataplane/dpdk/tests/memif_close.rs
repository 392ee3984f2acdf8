//! Both ends of a memif close at about the same time. What went wrong then DPDK only logs, so the test reads the log of a
//! process that does it many times.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::process::Command;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use jlb_dpdk::{Cores, Eal, EalOptions, LogLevel, Mbuf, Memory, Mempool, Port, PortOptions, ROOM};
use jlb_role::PacketBuf;

const PAIRS: u32 = 200;
/// Set in the process that opens and closes.
const CHILD: &str = "JLB_MEMIF_CLOSE";

#[test]
fn two_ends_that_close_together_free_nothing_twice() {
    if std::env::var_os(CHILD).is_some() {
        return open_and_close();
    }
    let me = std::env::current_exe().unwrap();
    let child = Command::new(me).env(CHILD, "1").arg("--nocapture").output().unwrap();
    let log = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}: {log}", child.status);
    assert_eq!(log.matches("Invalid memory").count(), 0, "{log}");
}

fn open_and_close() {
    let eal = Eal::start(&EalOptions {
        workers: 0,
        cores: Cores::Floating,
        memory: Memory::Ordinary(64),
        devices: vec![],
        log: LogLevel::Warning,
    })
    .unwrap();
    let pool = Mempool::new(&eal, 4095, ROOM).unwrap();
    for pair in 0..PAIRS {
        let open = |number: u32, role: &str| {
            let device = format!(
                "net_memif{number},role={role},id=0,socket=jlb-memif-close-{}-{pair},rsize=9",
                std::process::id()
            );
            Port::open(&eal, &device.parse().unwrap(), &PortOptions::default(), &pool).unwrap()
        };
        let mut server = open(2 * pair, "server");
        let mut client = open(2 * pair + 1, "client");
        let begin = Instant::now();
        let mut back = ArrayVec::<Mbuf, 32>::new();
        while back.is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(10), "pair {pair} never connected");
            let mut out = ArrayVec::<Mbuf, 1>::new();
            pool.alloc_bulk(&mut out);
            out.iter_mut().for_each(|packet| packet.append(100).unwrap().fill(0));
            client.tx[0].burst(&mut out);
            server.rx[0].burst(&mut back);
        }
        drop(server);
        // The client hears of it on another thread: before, while or after it closes.
        let gap = Duration::from_micros(u64::from(2 * pair));
        let closed = Instant::now();
        while closed.elapsed() < gap {
            std::hint::spin_loop();
        }
        drop(client);
    }
}
