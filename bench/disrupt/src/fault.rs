//! The faults, by name: one function each.

mod backend;
mod etcd;
mod flood;
mod host;
mod ingress;
mod tracker;

use std::time::Duration;

use jlb_lab::LabConfig;

use crate::Error;
use crate::scene::Scene;

/// Long enough for the fifth try of TCP to get through, and for what follows from a suspicion.
const USUAL_TIME: Duration = Duration::from_secs(8);
/// A process that was killed is gone at once, and a list is read soon.
const SOON: Duration = Duration::from_secs(3);

/// One fault that can be asked for.
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// What happens, in a line.
    pub about: &'static str,
    /// Changes the lab that is raised for it.
    pub(crate) config: fn(&mut LabConfig),
    /// Injects it, looks whether it took hold, lets the traffic run, and mends what its line says is mended.
    pub(crate) run: fn(&mut Scene<'_>) -> Result<(), Error>,
}

const fn fault(
    name: &'static str,
    about: &'static str,
    run: fn(&mut Scene<'_>) -> Result<(), Error>,
) -> Fault {
    Fault { name, about, config: |_| (), run }
}

/// Three servers of etcd: one may be lost.
const fn of_etcd(
    name: &'static str,
    about: &'static str,
    run: fn(&mut Scene<'_>) -> Result<(), Error>,
) -> Fault {
    Fault { config: |config| config.etcd = 3, ..fault(name, about, run) }
}

/// Leaves a host out of the member list at first.
fn without(config: &mut LabConfig, host: &str) {
    if let Some(jlb) = &mut config.jlb {
        jlb.absent.push(host.to_owned());
    }
}

/// All of them.
pub const FAULTS: &[Fault] = &[
    fault("none", "nothing: shows that the tool invents no faults", host::none),
    fault(
        "ingress-kill",
        "the busiest ingress host's daemon is killed, its route withdrawn",
        ingress::kill,
    ),
    fault(
        "ingress-stop",
        "the busiest ingress host's daemon hangs (SIGSTOP); its route is withdrawn",
        ingress::stop,
    ),
    fault(
        "ingress-silent",
        "the busiest ingress host loses all packets, both ways; its route is withdrawn",
        ingress::silent,
    ),
    fault(
        "ingress-drain",
        "the busiest ingress host's daemon ends in order, on SIGTERM",
        ingress::drain,
    ),
    fault(
        "ecmp-edge",
        "the router loses its first next hop: half of the flows move",
        ingress::edge,
    ),
    fault(
        "ecmp-reorder",
        "the router's next hops change their order: all flows move",
        ingress::reorder,
    ),
    fault(
        "rehash-under-ack-flood",
        "all flows move under a flood of ACKs of no connection",
        ingress::reorder_under_flood,
    ),
    fault(
        "primary-kill",
        "the tracker that is primary for most flows is killed",
        tracker::primary_kill,
    ),
    fault(
        "primary-stop",
        "the tracker that is primary for most flows hangs (SIGSTOP), then goes on",
        tracker::primary_stop,
    ),
    fault(
        "primary-partition",
        "the tracker that is primary for most flows is cut off from all, then joined again",
        tracker::primary_partition,
    ),
    fault(
        "secondary-kill",
        "the tracker that is secondary for most flows is killed",
        tracker::secondary_kill,
    ),
    fault(
        "secondary-stop",
        "the tracker that is secondary for most flows hangs (SIGSTOP), then goes on",
        tracker::secondary_stop,
    ),
    fault(
        "secondary-partition",
        "the tracker that is secondary for most flows is cut off from all, then joined again",
        tracker::secondary_partition,
    ),
    fault(
        "cpu-hogs",
        "six processes that only burn CPU run beside the site for 60 s",
        host::cpu_hogs,
    ),
    fault("config-reload", "a new member list without a change, everywhere", host::config_reload),
    fault("trackers-all", "all trackers are killed, and start again empty", tracker::all),
    fault(
        "trackers-all-ingress",
        "all trackers and an ingress host are killed; the trackers start again empty",
        tracker::all_and_ingress,
    ),
    fault("trackers-two", "two of three trackers are killed", tracker::two),
    Fault {
        config: |config| {
            config.trackers = 4;
            without(config, tracker::FOURTH);
        },
        ..fault("tracker-add", "a fourth tracker joins, under a new epoch", tracker::add)
    },
    Fault {
        config: |config| config.trackers = 4,
        ..fault(
            "tracker-remove",
            "one of four trackers leaves the list, under a new epoch, and ends",
            tracker::remove,
        )
    },
    Fault {
        config: |config| without(config, backend::FOURTH),
        ..fault("backend-add", "a fourth backend joins the service", backend::add)
    },
    fault("backend-drain", "a backend gets nothing new (drain = true)", backend::drain),
    fault(
        "backend-kill",
        "a backend dies: its cable is cut, and everything on it killed",
        backend::kill,
    ),
    of_etcd("etcd-stop", "all servers of etcd are gone for 60 s", etcd::stop),
    of_etcd(
        "etcd-leader-ingress",
        "etcd's leader and an ingress host are killed together",
        etcd::leader_and_ingress,
    ),
    of_etcd(
        "etcd-restore",
        "etcd is wiped and restored from an older backup, then mended",
        etcd::restore,
    ),
    fault("agent-kill", "an agent's daemon is killed, and starts again", backend::agent_kill),
    fault("rolling", "every daemon is stopped and started, one after the other", host::rolling),
    fault(
        "fabric-loss",
        "5 % of the packets to and from the backends are lost, for 20 s",
        host::fabric_loss,
    ),
    fault(
        "triple",
        "an ingress host and the primary are killed, and a backend drained, in the same second",
        host::triple,
    ),
];

/// The fault of that name.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> Result<&'static Fault, Error> {
    FAULTS.iter().find(|fault| fault.name == name).ok_or_else(|| Error::NoFault(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fault_of_the_agreed_list_is_there_once_with_a_line() {
        let agreed = "none ingress-kill ingress-stop ingress-silent ingress-drain ecmp-edge ecmp-reorder \
             rehash-under-ack-flood primary-kill primary-stop primary-partition secondary-kill secondary-stop \
             secondary-partition cpu-hogs config-reload trackers-all trackers-all-ingress trackers-two tracker-add \
             tracker-remove backend-add backend-drain backend-kill etcd-stop etcd-leader-ingress etcd-restore \
             agent-kill rolling fabric-loss triple";
        let names: Vec<_> = FAULTS.iter().map(|fault| fault.name).collect();
        assert_eq!(names, agreed.split_whitespace().collect::<Vec<_>>());
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(FAULTS.iter().all(|fault| !fault.about.is_empty() && fault.about.len() < 100));
        assert!(matches!(find("nothing"), Err(Error::NoFault(_))));
    }
}
