//! Pure: from what should be, what is and what was recorded to the steps between.

use core::fmt;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use jlb_map::Family;
use rtnetlink::packet_route::route::RouteMessage;

use crate::kernel::{Address, LOOPBACK, Link, NOBODY_V4, NOBODY_V6, host_bits};
use crate::route::{Copyable, Key, Limit, Route, merged};
use crate::state::{Neighbour, Rule, State, Sysctl};
use crate::{Desired, Error, MAX_VIPS, Replies, Warning, sysctl};

/// IPv6's least (RFC 8200 section 5). Linux sends no UDP over a route with less.
const MIN_MTU_V6: u32 = 1280;

/// The host as it is.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Address>,
    /// Of the interfaces that are wanted or recorded: path below `/proc/sys` and value.
    pub(crate) sysctls: Vec<(String, String)>,
    /// Where nobody is a neighbour.
    pub(crate) neighbours: Vec<Address>,
    /// With our mark, and leading to one of the tables.
    pub(crate) rules: Vec<Rule>,
    /// Of the main table, by family.
    pub(crate) main: Vec<RouteMessage>,
    /// Of the tables that may be wanted, or are recorded.
    pub(crate) tables: Vec<TableSeen>,
}

/// One family's part of a table of ours.
#[derive(Debug)]
pub(crate) struct TableSeen {
    pub(crate) table: u32,
    pub(crate) family: Family,
    /// With our mark.
    pub(crate) ours: Vec<RouteMessage>,
    /// Whether there are others.
    pub(crate) foreign: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Sysctl { key: String, value: String },
    PutNeighbour { ip: IpAddr, link: u32, interface: String },
    DropNeighbour { ip: IpAddr, link: u32, interface: String },
    PutRoute { table: u32, route: Route },
    DropRoute { table: u32, key: Key },
    AddRule(Rule),
    DropRule(Rule),
    AddVip { vip: IpAddr, lo: u32 },
    DropVip { vip: IpAddr, lo: u32 },
}

/// What to do.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Recorded first: what is ours and what will be.
    pub(crate) before: State,
    /// Then done, in this order.
    pub(crate) steps: Vec<Step>,
    /// Recorded last: what is ours still.
    pub(crate) after: State,
    pub(crate) warnings: Vec<Warning>,
}

pub(crate) fn plan(desired: &Desired, seen: &Seen, recorded: &State) -> Result<Plan, Error> {
    check(desired, seen)?;
    let mut planner = Planner {
        desired,
        seen,
        after: State::default(),
        add: Vec::new(),
        remove: Vec::new(),
        warnings: Vec::new(),
    };
    // No ARP answer for a VIP that is there already, no VIP without routes for its replies; and backwards in that order.
    planner.sysctls(recorded);
    planner.neighbours(recorded);
    planner.tables()?;
    planner.rules();
    planner.vips(recorded)?;
    planner.look_around();
    let Planner { after, add, remove, warnings, .. } = planner;
    let steps = add.into_iter().chain(remove.into_iter().rev()).collect();
    Ok(Plan { before: union(recorded, &after), steps, after, warnings })
}

fn check(desired: &Desired, seen: &Seen) -> Result<(), Error> {
    if desired.vips.len() > MAX_VIPS {
        return Err(Error::TooManyVips(desired.vips.len()));
    }
    for name in &desired.interfaces {
        if !seen.links.iter().any(|l| l.name == *name) {
            return Err(Error::NoInterface(name.clone()));
        }
    }
    let tables = desired.tables;
    for table in tables.all() {
        let twice = tables.all().iter().filter(|&&t| t == table).count() > 1;
        // The kernel's own: unspecified, default, main, local.
        if twice || [0, 253, 254, 255].contains(&table) {
            return Err(Error::BadTable(table));
        }
    }
    if desired.interfaces.is_empty() && !desired.vips.is_empty() {
        return Err(Error::NoUplink);
    }
    match seen.links.iter().find(|l| l.name == LOOPBACK) {
        Some(lo) if lo.up => Ok(()),
        Some(_) if desired.vips.is_empty() => Ok(()),
        Some(_) => Err(Error::LoopbackDown),
        None => Err(Error::NoInterface(LOOPBACK.to_owned())),
    }
}

/// What is in either; where both tell of a sysctl, the new record counts.
fn union(recorded: &State, after: &State) -> State {
    let mut both = after.clone();
    let old = recorded.sysctls.iter().filter(|s| !after.sysctls.iter().any(|a| a.key == s.key));
    both.sysctls.extend(old.cloned());
    let old = recorded.neighbours.iter().filter(|n| !after.neighbours.contains(n));
    both.neighbours.extend(old.cloned());
    both.tables.extend(recorded.tables.iter().filter(|t| !after.tables.contains(t)));
    both.rules.extend(recorded.rules.iter().filter(|r| !after.rules.contains(r)).cloned());
    both.vips.extend(recorded.vips.iter().filter(|v| !after.vips.contains(v)));
    both
}

struct Planner<'a> {
    desired: &'a Desired,
    seen: &'a Seen,
    after: State,
    add: Vec<Step>,
    /// Done last, and backwards.
    remove: Vec<Step>,
    warnings: Vec<Warning>,
}

impl Planner<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        self.seen.sysctls.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    fn sysctls(&mut self, recorded: &State) {
        let mut wanted = Vec::new();
        for interface in &self.desired.interfaces {
            for name in sysctl::KEYS {
                let key = sysctl::key(interface, name);
                let Some(own) = self.value(&key).map(str::to_owned) else { continue };
                let ours = recorded.sysctls.iter().find(|s| s.key == key);
                wanted.push(key.clone());
                if let Some(record) = ours.filter(|s| s.new == own) {
                    self.after.sysctls.push(record.clone());
                    continue;
                }
                // Another value than ours is what somebody wants since: to be kept if it will do, else to be restored.
                let all = self.value(&sysctl::key("all", name)).unwrap_or("0");
                let Some(new) = sysctl::needed(name, all, &own) else { continue };
                self.add.push(Step::Sysctl { key: key.clone(), value: new.to_owned() });
                self.after.sysctls.push(Sysctl { key, old: own, new: new.to_owned() });
            }
        }
        for record in recorded.sysctls.iter().filter(|s| !wanted.contains(&s.key)) {
            if self.value(&record.key) == Some(&record.new) {
                let (key, value) = (record.key.clone(), record.old.clone());
                self.remove.push(Step::Sysctl { key, value });
            }
        }
    }

    /// The interface that encapsulated replies leave by.
    fn uplink(&self) -> Option<&Link> {
        let name = self.desired.interfaces.first()?;
        self.seen.links.iter().find(|l| l.name == *name)
    }

    fn neighbours(&mut self, recorded: &State) {
        for (family, ip) in [(Family::V4, NOBODY_V4), (Family::V6, NOBODY_V6)] {
            let needed = self.vips_of(family).any(|(_, replies)| replies == Replies::Egress);
            let uplink = self.uplink().filter(|l| needed && l.is_ethernet).cloned();
            let Some(Link { index: link, name: interface, .. }) = uplink else { continue };
            if !self.seen.neighbours.contains(&Address { ip, link }) {
                self.add.push(Step::PutNeighbour { ip, link, interface: interface.clone() });
            }
            self.after.neighbours.push(Neighbour { interface, ip });
        }
        for Neighbour { interface, ip } in &recorded.neighbours {
            let link = self.seen.links.iter().find(|l| l.name == *interface).map(|l| l.index);
            let there =
                link.filter(|&link| self.seen.neighbours.contains(&Address { ip: *ip, link }));
            let wanted =
                self.after.neighbours.iter().any(|n| n.interface == *interface && n.ip == *ip);
            if let Some(link) = there.filter(|_| !wanted) {
                self.remove.push(Step::DropNeighbour {
                    ip: *ip,
                    link,
                    interface: interface.clone(),
                });
            }
        }
    }

    fn tables(&mut self) -> Result<(), Error> {
        let mut main = Vec::new();
        for message in &self.seen.main {
            match Route::read(message) {
                Copyable::Yes(route) => main.push(route),
                Copyable::NotKnown { route, why } if !self.desired.vips.is_empty() => {
                    self.warnings.push(Warning::RouteNotSet { route, why: why.to_owned() });
                }
                Copyable::NotKnown { .. } | Copyable::No => {}
            }
        }
        let main = merged(main);
        for seen in &self.seen.tables {
            let mut wanted = Vec::new();
            if let Some(replies) = self.replies(seen.table, seen.family) {
                if seen.foreign {
                    return Err(Error::TableInUse(seen.table));
                }
                if !self.after.tables.contains(&seen.table) {
                    self.after.tables.push(seen.table);
                }
                let copied = main.iter().filter(|r| r.key.family == seen.family).cloned();
                let to_nobody = self.uplink().map(|l| Route::to_nobody(seen.family, l.index));
                let size = self.desired.inner_mtu();
                match replies {
                    Replies::Egress => wanted.extend(to_nobody.map(|r| r.fitted(Limit::Mtu(size)))),
                    Replies::Direct => {
                        wanted.extend(copied.map(|r| r.fitted(Limit::Advertise(size))));
                    }
                    Replies::Both => wanted.extend(copied.map(|r| r.fitted(Limit::Mtu(size)))),
                }
            }
            self.table(seen, &wanted);
        }
        Ok(())
    }

    /// Whose table it is, if VIPs of this family need it.
    fn replies(&self, table: u32, family: Family) -> Option<Replies> {
        let mut all = self.vips_of(family).map(|(_, replies)| replies);
        all.find(|&replies| self.desired.tables.of(replies) == table)
    }

    fn vips_of(&self, family: Family) -> impl Iterator<Item = (IpAddr, Replies)> {
        let vips = self.desired.vips.iter().map(|(&vip, &replies)| (vip, replies));
        vips.filter(move |(vip, _)| vip.is_ipv4() == (family == Family::V4))
    }

    fn table(&mut self, seen: &TableSeen, wanted: &[Route]) {
        let table = seen.table;
        let read = |m: &RouteMessage| match Route::read(m) {
            Copyable::Yes(route) => Some(route),
            Copyable::NotKnown { .. } | Copyable::No => None,
        };
        let have: BTreeMap<_, _> = seen.ours.iter().filter_map(read).map(|r| (r.key, r)).collect();
        for route in wanted {
            if have.get(&route.key) != Some(route) {
                self.add.push(Step::PutRoute { table, route: route.clone() });
            }
        }
        let wanted: BTreeSet<_> = wanted.iter().map(|w| w.key).collect();
        for key in seen.ours.iter().filter_map(Key::read) {
            if !wanted.contains(&key) {
                self.remove.push(Step::DropRoute { table, key });
            }
        }
    }

    fn rules(&mut self) {
        for (&vip, &replies) in &self.desired.vips {
            let Desired { tables, .. } = self.desired;
            let tcp = vip.is_ipv6()
                && replies != Replies::Direct
                && self.desired.inner_mtu() < MIN_MTU_V6;
            let rule = Rule { vip, table: tables.of(replies), priority: tables.priority, tcp };
            if !self.seen.rules.contains(&rule) {
                self.add.push(Step::AddRule(rule.clone()));
            }
            self.after.rules.push(rule);
        }
        for rule in &self.seen.rules {
            if !self.after.rules.contains(rule) {
                self.remove.push(Step::DropRule(rule.clone()));
            }
        }
    }

    fn vips(&mut self, recorded: &State) -> Result<(), Error> {
        let lo = self.seen.links.iter().find(|l| l.name == LOOPBACK).map(|l| l.index);
        let lo = lo.ok_or_else(|| Error::NoInterface(LOOPBACK.to_owned()))?;
        for &vip in self.desired.vips.keys() {
            let ours = recorded.vips.contains(&vip);
            let there: Vec<_> = self.seen.addresses.iter().filter(|a| a.ip == vip).collect();
            if ours && there.iter().any(|a| a.link == lo) {
                self.after.vips.push(vip);
            } else if there.is_empty() {
                self.add.push(Step::AddVip { vip, lo });
                self.after.vips.push(vip);
            }
            for address in there {
                let link = self.seen.links.iter().find(|l| l.index == address.link);
                if let Some(link) = link.filter(|l| self.desired.interfaces.contains(&l.name)) {
                    self.warnings.push(Warning::VipOnLink { vip, interface: link.name.clone() });
                }
            }
        }
        for &vip in recorded.vips.iter().filter(|v| !self.desired.vips.contains_key(*v)) {
            if self.seen.addresses.contains(&Address { ip: vip, link: lo }) {
                self.remove.push(Step::DropVip { vip, lo });
            }
        }
        Ok(())
    }

    /// What we leave as it is, and the operator should know.
    fn look_around(&mut self) {
        for name in &self.desired.interfaces {
            let underlay_mtu = self.desired.underlay_mtu;
            let link = self.seen.links.iter().find(|l| l.name == *name);
            if let Some(link) = link.filter(|l| l.mtu < underlay_mtu.into()) {
                let (interface, mtu) = (name.clone(), link.mtu);
                self.warnings.push(Warning::SmallInterface { interface, mtu, underlay_mtu });
            }
        }
        for family in [Family::V4, Family::V6] {
            if self.vips_of(family).all(|(_, replies)| replies == Replies::Egress) {
                continue;
            }
            let encapsulates = self.vips_of(family).any(|(_, replies)| replies == Replies::Both);
            let mut any = false;
            let mut elsewhere = None;
            for message in &self.seen.main {
                let Copyable::Yes(route) = Route::read(message) else { continue };
                if route.key.family != family || !route.is_default() {
                    continue;
                }
                any = true;
                for index in route.interfaces() {
                    let link = self.seen.links.iter().find(|l| l.index == index);
                    let other = link.filter(|l| !self.desired.interfaces.contains(&l.name));
                    elsewhere = elsewhere.or(other.map(|l| l.name.clone()));
                }
            }
            if !any {
                self.warnings.push(Warning::NoDefaultRoute(family));
            }
            if let Some(interface) = elsewhere.filter(|_| encapsulates) {
                self.warnings.push(Warning::DefaultElsewhere { family, interface });
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vip, table, priority, tcp } = self;
        let tcp = if *tcp { " ipproto tcp" } else { "" };
        write!(f, "rule {priority}: from {vip}{tcp} lookup {table}")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { key, value } => write!(f, "set {} = {value}", sysctl::dotted(key)),
            Self::PutNeighbour { ip, interface, .. } => {
                write!(f, "make {ip} a neighbour on {interface}")
            }
            Self::DropNeighbour { ip, interface, .. } => {
                write!(f, "remove the neighbour {ip} on {interface}")
            }
            Self::PutRoute { table, route } => write!(f, "put {route} into table {table}"),
            Self::DropRoute { table, key } => write!(f, "take {key} out of table {table}"),
            Self::AddRule(rule) => write!(f, "add {rule}"),
            Self::DropRule(rule) => write!(f, "remove {rule}"),
            Self::AddVip { vip, .. } => write!(f, "put {vip}/{} on lo", host_bits(*vip)),
            Self::DropVip { vip, .. } => write!(f, "take {vip}/{} off lo", host_bits(*vip)),
        }
    }
}
