//! What a fault works with: the site, the load, and the notes of what happened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Error;
use jlb_lab::fault::{Fault, inject};

use crate::load::Load;
use crate::outcome::Happened;
use crate::progress::Progress;
use crate::site::{Carried, Site, wait_until};

/// How often the progress is shown, and Ctrl-C looked for.
pub(crate) const STEP: Duration = Duration::from_millis(200);

pub(crate) struct Scene<'a> {
    pub(crate) site: &'a mut Site,
    pub(crate) load: &'a Load,
    pub(crate) progress: &'a mut dyn Progress,
    pub(crate) interrupted: &'a AtomicBool,
    /// How long a fault lasts, in place of its own time.
    pub(crate) lasts: Option<Duration>,
    /// Folder of another build's daemons.
    pub(crate) next_build: Option<&'a Path>,
    /// Waits up to this are usual.
    pub(crate) limit: Duration,
    /// Who carried each connection before the fault.
    pub(crate) before: BTreeMap<SocketAddr, Carried>,
    pub(crate) happened: Happened,
}

impl Scene<'_> {
    /// Notes whether the fault has taken hold, in one respect; all of them must.
    pub(crate) fn check(&mut self, what: &str, held: bool) {
        self.progress.say(&format!("{}: {what}", if held { "verified" } else { "NOT verified" }));
        self.happened.verified &= held;
    }

    /// Waits for it, at most so long, and notes whether it came.
    pub(crate) fn await_check(
        &mut self,
        what: &str,
        at_most: Duration,
        is_so: impl FnMut() -> bool,
    ) {
        let begin = Instant::now();
        let held = wait_until(at_most, is_so);
        self.check(&format!("{what} ({} ms)", begin.elapsed().as_millis()), held);
    }

    /// Injects a fault of the lab, which looks whether it is there, and notes whether it is.
    pub(crate) fn inject(&mut self, what: &str, fault: &Fault) -> Result<(), Error> {
        match inject(&self.site.lab, fault) {
            Ok(()) => self.check(what, true),
            Err(jlb_lab::Error::NoFault { fault, why }) => {
                self.check(&format!("{what}: {fault}: {why}"), false);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(crate) fn say(&mut self, what: &str) {
        self.progress.say(what);
    }

    /// Lets the traffic run with the fault: for the given time, or as long as the command line says.
    pub(crate) fn last(&mut self, own: Duration) -> Result<(), Error> {
        self.run(self.lasts.unwrap_or(own))
    }

    /// Lets the traffic run once the fault is mended: for the given time, or less if the command line says so.
    pub(crate) fn settle(&mut self, own: Duration) -> Result<(), Error> {
        self.run(self.lasts.map_or(own, |lasts| lasts.min(own)))
    }

    /// Lets the traffic run for so long.
    pub(crate) fn run(&mut self, time: Duration) -> Result<(), Error> {
        let end = Instant::now() + time;
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if self.load.has_ended() {
                return Err(Error::LoadEnded);
            }
            self.progress.live(self.load.live(self.limit));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STEP));
        }
    }

    /// Notes which connections another ingress host carries than before the fault, to the same backend: as their agents
    /// see it, who remember the host that the last packet of each flow came from.
    pub(crate) fn see_moves(&mut self) -> Result<(), Error> {
        for (client, now) in self.site.carried()? {
            let moved = self.before.get(&client).is_some_and(|before| {
                before.backend == now.backend && before.ingress != now.ingress
            });
            if moved {
                self.happened.moved.insert(client);
            }
        }
        Ok(())
    }

    /// The ingress hosts by the number of connections that they carried before the fault, most first.
    pub(crate) fn busiest_ingresses(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for carried in self.before.values() {
            *counts.entry(&carried.ingress).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        counts
    }
}
