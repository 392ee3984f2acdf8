//! Changes of the member list while a lab runs, and daemons that start anew.

use std::time::{Duration, Instant};

use crate::fault::{self, Fault};
use crate::node::Node;
use crate::topology::NodeKind;
use crate::{Error, Jlb, Lab};

/// A daemon that runs has read a new list within this, on a busy machine, too.
const RELOAD: Duration = Duration::from_secs(5);

impl Lab {
    /// Puts a host into the member list that was left out of it ([`Jlb::absent`]) and starts its daemon. Its servers have
    /// run all the while.
    pub fn add_member(&mut self, name: &str) -> Result<(), Error> {
        let node = self.node(name)?;
        self.change_members(node.id().kind == NodeKind::Tracker, |jlb| {
            jlb.absent.retain(|absent| absent != name);
        })?;
        if node.daemon()?.is_none() {
            self.start_daemons(&[node])?;
        }
        Ok(())
    }

    /// Takes a host out of the member list, and then stops its daemon (SIGTERM).
    pub fn remove_member(&mut self, name: &str) -> Result<(), Error> {
        let node = self.node(name)?;
        // It refuses a list without itself, so it is not waited for.
        self.change_members(node.id().kind == NodeKind::Tracker, |jlb| {
            if !jlb.absent.iter().any(|absent| absent == name) {
                jlb.absent.push(name.to_owned());
            }
        })?;
        if node.daemon()?.is_some() {
            fault::inject(self, &Fault::StopDaemons(vec![name.to_owned()]))?;
        }
        Ok(())
    }

    /// Has a backend take nothing new, or take clients again.
    pub fn drain(&mut self, name: &str, drain: bool) -> Result<(), Error> {
        self.node(name)?;
        self.change_members(false, |jlb| {
            jlb.draining.retain(|draining| draining != name);
            if drain {
                jlb.draining.push(name.to_owned());
            }
        })
    }

    /// Stops the daemons of these hosts in order, and starts each again before the next one stops.
    pub fn restart_daemons(&self, nodes: &[Node]) -> Result<(), Error> {
        for node in nodes {
            fault::inject(self, &Fault::StopDaemons(vec![node.name()]))?;
            self.start_daemons(std::slice::from_ref(node))?;
        }
        Ok(())
    }

    /// Waits until every member's daemon that runs, and is not stopped, has taken the latest list; an error names one
    /// that has not.
    pub fn wait_reloaded(&self) -> Result<(), Error> {
        let Some(jlb) = &self.config().jlb else {
            return Err(Error::NoJlb(self.name().to_owned()));
        };
        let deadline = Instant::now() + RELOAD;
        for node in self.nodes().into_iter().filter(|node| jlb.has(&node.name())) {
            // One that is stopped reads the list when it goes on.
            if node.daemon()?.is_none_or(|daemon| daemon.is_stopped()) {
                continue;
            }
            // Far below 2⁵³, beyond which a float is no longer exact.
            let wanted = Some(jlb.generation as f64);
            while node.metrics()?.sum("jlb_membership_generation", &[]) != wanted {
                if Instant::now() >= deadline {
                    return Err(Error::NotReloaded {
                        node: node.name(),
                        log: node.daemon()?.map(|d| node.log_tail(&d.what)).unwrap_or_default(),
                    });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn change_members(
        &mut self,
        trackers: bool,
        change: impl FnOnce(&mut Jlb),
    ) -> Result<(), Error> {
        self.reload(|jlb| {
            change(jlb);
            jlb.epoch += u32::from(trackers);
        })?;
        self.wait_reloaded()
    }
}
