use core::net::IpAddr;
use std::io;
use std::path::Path;

use jlb_map::Family;
use rtnetlink::packet_route::route::RouteMessage;

use crate::kernel::{Address, Kernel, LOOPBACK, ROUTE_PROTOCOL, host_bits, refused};
use crate::plan::{Plan, Seen, Step, TableSeen, plan};
use crate::route::{Copyable, Route};
use crate::state::{Found, Lock, Neighbour, State, StateFile};
use crate::{Change, Desired, Error, Replies, Report, Warning, sysctl};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const MAIN_TABLE: u32 = 254;
const ABSENT: &str = "absent";

/// The changes of this host, and the one process that may make them.
///
/// Dropping it leaves all of them in place: the agent's flows outlive the agent.
#[derive(Debug)]
pub struct HostNet {
    kernel: Kernel,
    file: StateFile,
    _lock: Lock,
    state: State,
    /// The file told of another namespace.
    is_elsewhere: bool,
    desired: Option<Desired>,
}

impl HostNet {
    /// Takes the state file, which need not exist. Each network namespace has one of its own; best below `/run`: it tells
    /// of nothing that outlives the boot, and is synced to disk at each change.
    /// Must be called inside of a tokio runtime, on the thread whose network namespace is meant. Changes nothing yet.
    ///
    /// # Errors
    /// When another process holds the file, it is not one of ours, or there is no netlink socket.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = StateFile::new(path)?;
        let lock = file.lock()?;
        let (state, is_elsewhere) = match file.load()? {
            Found::Here(state) => (state, false),
            Found::Elsewhere => (State::default(), true),
        };
        Ok(Self { kernel: Kernel::open()?, file, _lock: lock, state, is_elsewhere, desired: None })
    }

    /// Makes the host as it should be: from whatever it is, whatever a killed run left half done, and whatever was
    /// desired before. Does nothing where nothing is to do.
    ///
    /// # Errors
    /// The first change that failed, and the rest was not tried. What was done is recorded.
    pub async fn apply(&mut self, desired: &Desired) -> Result<Report, Error> {
        self.desired = Some(desired.clone());
        let mut report = self.reach(desired).await?;
        if core::mem::take(&mut self.is_elsewhere) {
            report.warnings.push(Warning::OtherNamespace);
        }
        Ok(report)
    }

    /// Applies once more what was applied last: routes follow the main table, and what somebody undid is done again.
    /// To be called when [`crate::Changes`] tells of a change, and every few seconds. Nothing before the first `apply`.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn refresh(&mut self) -> Result<Report, Error> {
        match self.desired.clone() {
            Some(desired) => self.reach(&desired).await,
            None => Ok(Report::default()),
        }
    }

    /// Restores everything that is recorded, and removes the file. What somebody else has changed since stays as it is.
    ///
    /// # Errors
    /// As [`Self::apply`]; also when the file tells of another namespace.
    pub async fn undo(&mut self) -> Result<Report, Error> {
        if self.is_elsewhere {
            return Err(Error::OtherNamespace(self.file.path().to_owned()));
        }
        self.desired = None;
        let report = self.reach(&Desired::nothing()).await?;
        // Also one that told of an earlier boot.
        self.file.save(&self.state)?;
        Ok(report)
    }

    /// As [`status`], for the process that holds the file.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn status(&self) -> Result<Vec<Change>, Error> {
        changes(&self.kernel, &self.state).await
    }

    async fn reach(&mut self, desired: &Desired) -> Result<Report, Error> {
        let Plan { before, steps, after, mut warnings } = self.plan(desired).await?;
        self.record(before)?;
        let mut done = Vec::with_capacity(steps.len());
        for step in steps {
            if let Some(warning) = self.take(&step).await? {
                warnings.push(warning);
            } else {
                done.push(step.to_string());
            }
        }
        self.record(after)?;
        Ok(Report { done, warnings })
    }

    /// Nothing is changed yet.
    pub(crate) async fn plan(&self, desired: &Desired) -> Result<Plan, Error> {
        let seen = see(&self.kernel, desired, &self.state).await?;
        plan(desired, &seen, &self.state)
    }

    pub(crate) fn record(&mut self, state: State) -> Result<(), Error> {
        if state != self.state {
            self.file.save(&state)?;
            self.state = state;
        }
        Ok(())
    }

    pub(crate) async fn take(&self, step: &Step) -> Result<Option<Warning>, Error> {
        match step {
            Step::Sysctl { key, value } => sysctl::write(key, value)?,
            Step::PutNeighbour { ip, link, .. } => self.kernel.put_neighbour(*ip, *link).await?,
            Step::DropNeighbour { ip, link, .. } => self.kernel.drop_neighbour(*ip, *link).await?,
            Step::PutRoute { table, route } => return self.put(*table, route).await,
            Step::DropRoute { table, key } => {
                self.kernel.drop_route(key.message(*table), key).await?;
            }
            Step::AddRule(rule) => self.kernel.add_rule(rule).await?,
            Step::DropRule(rule) => self.kernel.drop_rule(rule).await?,
            Step::AddVip { vip, lo } => self.kernel.add_vip(*vip, *lo).await?,
            Step::DropVip { vip, lo } => self.kernel.drop_vip(*vip, *lo).await?,
        }
        Ok(None)
    }

    /// One route that the kernel does not take must not keep the host from serving.
    async fn put(&self, table: u32, route: &Route) -> Result<Option<Warning>, Error> {
        let Err(e) = self.kernel.put_route(route.message(table)).await else { return Ok(None) };
        if e.kind() == io::ErrorKind::PermissionDenied {
            return Err(refused(format!("put {route} into table {table}"), e));
        }
        Ok(Some(Warning::RouteNotSet { route: route.key.to_string(), why: e.to_string() }))
    }
}

/// Lists what is recorded in a state file, and whether it is still in force. Changes nothing and needs no lock, so an
/// agent may run. Must be called inside of a tokio runtime.
///
/// # Errors
/// When the file cannot be read, tells of another namespace, or the kernel does not answer.
pub async fn status(path: &Path) -> Result<Vec<Change>, Error> {
    match StateFile::new(path)?.load()? {
        Found::Here(state) => changes(&Kernel::open()?, &state).await,
        Found::Elsewhere => Err(Error::OtherNamespace(path.to_owned())),
    }
}

/// Reads the host, as far as it matters.
async fn see(kernel: &Kernel, desired: &Desired, recorded: &State) -> Result<Seen, Error> {
    let mut seen = Seen {
        links: kernel.links().await?,
        addresses: kernel.addresses().await?,
        neighbours: kernel.neighbours().await?,
        ..Seen::default()
    };
    let mut keys: Vec<String> = recorded.sysctls.iter().map(|s| s.key.clone()).collect();
    for interface in desired.interfaces.iter().map(String::as_str).chain(["all"]) {
        keys.extend(sysctl::KEYS.map(|name| sysctl::key(interface, name)));
    }
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        if let Some(value) = sysctl::read(&key)? {
            seen.sysctls.push((key, value));
        }
    }
    let mut tables = recorded.tables.clone();
    tables.extend(desired.tables.all());
    tables.sort_unstable();
    tables.dedup();
    for family in FAMILIES {
        let rules = kernel.rules(family).await?;
        seen.rules.extend(rules.into_iter().filter(|r| tables.contains(&r.table)));
        if desired.vips.values().any(|&replies| replies != Replies::Egress) {
            seen.main.extend(kernel.routes(family, MAIN_TABLE).await?);
        }
        for &table in &tables {
            let routes = kernel.routes(family, table).await?;
            let all = routes.len();
            let ours: Vec<_> = routes.into_iter().filter(is_ours).collect();
            seen.tables.push(TableSeen { table, family, foreign: ours.len() < all, ours });
        }
    }
    Ok(seen)
}

fn is_ours(message: &RouteMessage) -> bool {
    u8::from(message.header.protocol) == ROUTE_PROTOCOL
}

async fn changes(kernel: &Kernel, state: &State) -> Result<Vec<Change>, Error> {
    let seen = see(kernel, &Desired::nothing(), state).await?;
    let mut changes = Vec::new();
    for s in &state.sysctls {
        let still_in_force = seen.sysctls.iter().any(|(k, v)| *k == s.key && *v == s.new);
        let (old, new) = (s.old.clone(), s.new.clone());
        changes.push(Change { what: sysctl::dotted(&s.key), old, new, still_in_force });
    }
    for Neighbour { interface, ip } in &state.neighbours {
        let link = seen.links.iter().find(|l| l.name == *interface).map(|l| l.index);
        let there = link.is_some_and(|link| seen.neighbours.contains(&Address { ip: *ip, link }));
        changes.push(added(format!("neighbour {ip} on {interface}"), "present".to_owned(), there));
    }
    for part in &seen.tables {
        for message in &part.ours {
            if let Copyable::Yes(route) = Route::read(message) {
                let what = format!("route {} in table {}", route.key, part.table);
                changes.push(added(what, route.to_string(), true));
            }
        }
    }
    for &table in &state.tables {
        if seen.tables.iter().all(|t| t.table != table || t.ours.is_empty()) {
            changes.push(added(
                format!("route table {table}"),
                "routes for replies".to_owned(),
                false,
            ));
        }
    }
    for rule in &state.rules {
        changes.push(added(rule.to_string(), "present".to_owned(), seen.rules.contains(rule)));
    }
    let lo = seen.links.iter().find(|l| l.name == LOOPBACK).map(|l| l.index);
    for &vip in &state.vips {
        let there = lo.is_some_and(|link| seen.addresses.contains(&Address { ip: vip, link }));
        changes.push(added(format!("{vip}/{} on lo", host_bits(vip)), address(vip), there));
    }
    Ok(changes)
}

fn address(vip: IpAddr) -> String {
    if vip.is_ipv4() { "scope host" } else { "nodad, deprecated" }.to_owned()
}

fn added(what: String, new: String, still_in_force: bool) -> Change {
    Change { what, old: ABSENT.to_owned(), new, still_in_force }
}
