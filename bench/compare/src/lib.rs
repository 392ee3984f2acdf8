//! CPU that other load balancers take for a MiB, beside what its packets cost at our ingress.
//!
//! ```text
//!   client ── balancer: HAProxy, nginx, nftables, or nothing ── server      three network namespaces on this machine
//!     └──────────────────────── direct ──────────────────────┘
//! ```
//!
//! The client fetches so many MiB by each way in turn. Of a proxy, the CPU time of its process counts. What the kernel does has no
//! process of its own: there, the CPU time of everybody who takes part (client, server, proxy, the kernel's threads for packets), less that of
//! the same transfer over the direct cable, is what the way took.
//!
//! Ours is without the cost of a card: packets of a MiB times nanoseconds of the hot path.
#![forbid(unsafe_code)]

mod cpu;
mod error;
mod host;
mod outcome;
mod site;
mod transfer;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use jlb_speed::traffic::What;
use jlb_speed::{Hotpath, Machine};

pub use error::CompareError;
pub use outcome::{Cost, Costs, Outcome};
use outcome::{Took, Way};
use site::Site;

/// Rounds of the bench without ports.
const ROUNDS: u32 = 40;

/// What to compare.
#[derive(Clone, Copy, Debug)]
pub struct Compare {
    /// Established flows at our ingress.
    pub flows: u32,
    /// MiB of one transfer: 1 to 65,536.
    pub mib: u32,
    /// Transfers by each way, with offloads and without.
    pub times: u32,
}

/// Compares. Needs root. Takes the process's DPDK.
///
/// # Errors
/// [`CompareError`]
pub fn run(
    options: &Compare,
    say: &mut dyn FnMut(&str),
    interrupted: &Arc<AtomicBool>,
) -> Result<(Outcome, Machine), CompareError> {
    in_bounds("mib", options.mib, 65_536)?;
    in_bounds("times", options.times, 1000)?;
    // First, since whoever cannot be root learns it at once.
    let mut site = Site::new()?;
    let hot_path = jlb_speed::run(&Hotpath {
        flows: options.flows,
        v6: false,
        what: What::Data,
        workers: 1,
        rounds: ROUNDS,
    })?;
    say(&format!("hot path: {:.1} ns per packet", hot_path.best_ns));
    let transfers = Transfers::start(&mut site, options, interrupted)?;
    let (with, _) = transfers.all(true, say)?;
    let (without, packets) = transfers.all(false, say)?;
    let outcome = Outcome::new(options, &hot_path, packets, [with, without]);
    Ok((outcome, hot_path.machine))
}

struct Transfers<'a> {
    site: &'a Site,
    options: Compare,
    kernel: Vec<u32>,
    interrupted: &'a Arc<AtomicBool>,
}

impl<'a> Transfers<'a> {
    fn start(
        site: &'a mut Site,
        options: &Compare,
        interrupted: &'a Arc<AtomicBool>,
    ) -> Result<Self, CompareError> {
        site.server.spawn(|| transfer::serve(&TcpListener::bind("0.0.0.0:9000")?))?;
        site.haproxy.check()?;
        site.nginx.check()?;
        let (options, kernel) = (*options, cpu::kernel_threads());
        let transfers = Self { site, options, kernel, interrupted };
        // All listen, and hold what they need.
        for way in [Way::Direct, Way::Routed, Way::Nginx, Way::Haproxy] {
            transfers.fetch(way, 1 << 20)?;
        }
        Ok(transfers)
    }

    /// By each way as often as told, in turns. Packets of a MiB that the balancer received.
    fn all(&self, offloads: bool, say: &mut dyn FnMut(&str)) -> Result<(Costs, f64), CompareError> {
        self.site.offloads(offloads)?;
        let (mut took, mut packets) = (Vec::new(), 0.0);
        for n in 1..=self.options.times {
            for way in Way::ALL {
                if self.interrupted.load(Ordering::Relaxed) {
                    return Err(CompareError::Interrupted);
                }
                let before = self.packets()?;
                took.push(self.measure(way)?);
                if way == Way::Routed {
                    packets = (self.packets()? - before) as f64 / f64::from(self.options.mib);
                }
            }
            say(&format!("{n} of {} rounds {}", self.options.times, with_offloads(offloads)));
        }
        let costs = Costs::of(&took);
        say(&format!("{}: {costs}", with_offloads(offloads)));
        Ok((costs, packets))
    }

    fn packets(&self) -> Result<u64, CompareError> {
        Ok(self.site.balancer.received("client")? + self.site.balancer.received("server")?)
    }

    fn measure(&self, way: Way) -> Result<Took, CompareError> {
        if way == Way::Nftables {
            self.site.translate(true)?;
        }
        let pids = [self.site.haproxy.pid(), self.site.nginx.pid()];
        let now = || {
            let kernel: u64 = self.kernel.iter().map(|&pid| cpu::of_process(pid)).sum();
            let [haproxy, nginx] = pids.map(cpu::of_process);
            [cpu::of_us() + kernel, haproxy, nginx]
        };
        let before = now();
        let fetched = self.fetch(way, u64::from(self.options.mib) << 20);
        let after = now();
        if way == Way::Nftables {
            self.site.translate(false)?;
        }
        fetched?;
        let [rest, haproxy, nginx] = [0, 1, 2].map(|n| (after[n] - before[n]) as f64 / 1e3);
        let mib = f64::from(self.options.mib);
        let process = match way {
            Way::Haproxy => Some(haproxy / mib),
            Way::Nginx => Some(nginx / mib),
            Way::Direct | Way::Routed | Way::Nftables => None,
        };
        Ok(Took { way, process_us: process, all_us: rest / mib + process.unwrap_or(0.0) })
    }

    fn fetch(&self, way: Way, bytes: u64) -> Result<(), CompareError> {
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::Interrupted {
                CompareError::Interrupted
            } else {
                CompareError::Transfer { by: way.name(), source }
            }
        };
        let from: SocketAddr = way.address().parse().map_err(|e| failed(io::Error::other(e)))?;
        let interrupted = Arc::clone(self.interrupted);
        let fetching =
            self.site.client.spawn(move || transfer::fetch(from, bytes, &interrupted))?;
        match fetching.join() {
            Ok(fetched) => fetched.map_err(failed),
            Err(_) => Err(failed(io::Error::other("the client panicked"))),
        }
    }
}

const fn with_offloads(on: bool) -> &'static str {
    if on { "with offloads" } else { "without offloads" }
}

fn in_bounds(what: &'static str, value: u32, max: u64) -> Result<(), CompareError> {
    let value = value.into();
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(CompareError::OutOfBounds { what, value, min: 1, max })
    }
}
