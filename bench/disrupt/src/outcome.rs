//! What a fault did: the numbers that are reported, and whether they will do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::frame::Wrong;
use crate::load::{Broken, Records};
use crate::stall::{Quantiles, Usual, without_pauses};

/// What one fault, or the same fault several times, did to the connections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// The fault.
    pub fault: &'static str,
    /// Long connections held, each time.
    pub connections: u32,
    /// Those which ended other than by our closing them, without `ended_with_backend`.
    pub broken: u32,
    /// Those whose own backend was killed.
    pub ended_with_backend: u32,
    /// Answers of another backend than the flow's own: on connections, and on UDP flows whose backend lives.
    pub misdelivered: u32,
    /// Those that another ingress host carried for a time or till the end, to the same backend.
    pub moved: u32,
    /// Of the connections that stalled, in ms beyond the usual p99; 0 if none did.
    pub stall_ms_p50: f64,
    /// The same.
    pub stall_ms_p99: f64,
    /// The same.
    pub stall_ms_max: f64,
    /// From the fault on: a short connection's time to its first answer, in ms, further tries included.
    pub new_connection_ms_p99: f64,
    /// Whether the fault was there, each time.
    pub fault_verified: bool,
    /// What people are told besides.
    #[serde(skip)]
    pub details: Details,
}

/// What stands behind an [`Outcome`].
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Waits before the fault.
    pub usual: Usual,
    /// The stall of each connection that stalled.
    pub stalls: Vec<Duration>,
    /// Times of short connections from the fault on.
    pub fresh: Vec<Duration>,
    /// Their tries that failed.
    pub fresh_failed: u64,
    /// How connections broke or ended with their backend, and how long they had waited for an answer then.
    pub ends: Vec<(String, Duration)>,
    /// UDP flows.
    pub udp_flows: u32,
    /// Their datagrams from the fault on.
    pub udp_sent: u64,
    /// Those without an answer in time.
    pub udp_lost: u64,
}

/// What happened to the site, as far as it matters for the verdict.
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// Backends that were killed: their connections may end.
    pub killed_backends: BTreeSet<String>,
    /// Clients' ends of connections that another ingress host carried.
    pub moved: BTreeSet<SocketAddr>,
    /// Whether the fault was seen at work.
    pub verified: bool,
}

impl Outcome {
    /// Judges what was measured.
    #[must_use]
    pub fn of(fault: &'static str, usual: Usual, records: &Records, happened: &Happened) -> Self {
        let mut outcome = Self {
            fault,
            connections: records.connections.len() as u32,
            fault_verified: happened.verified,
            ..Self::default()
        };
        outcome.details.usual = usual;
        for connection in &records.connections {
            let killed = happened.killed_backends.contains(&connection.backend);
            let wait = connection
                .longest
                .map_or(Duration::ZERO, |(from, to)| without_pauses(from, to, &records.pauses));
            match &connection.broken {
                Some(Broken::Wrong(Wrong::Backend)) => {
                    outcome.misdelivered += 1;
                    outcome.broken += 1;
                }
                Some(_) if killed => outcome.ended_with_backend += 1,
                Some(_) => outcome.broken += 1,
                None => outcome.details.stalls.extend(usual.stall(wait)),
            }
            if let Some(broken) = &connection.broken {
                let whose = if killed { "ended with their backend" } else { "broken" };
                outcome.details.ends.push((format!("{whose}: {broken}"), wait));
            }
            // One that ended with its backend has moved nowhere.
            if !killed && happened.moved.contains(&connection.client) {
                outcome.moved += 1;
            }
        }
        for flow in &records.udp {
            let killed =
                flow.backend.as_ref().is_some_and(|name| happened.killed_backends.contains(name));
            if !killed && !flow.others.is_empty() {
                outcome.misdelivered += 1;
            }
            outcome.details.udp_flows += 1;
            outcome.details.udp_sent += flow.sent;
            outcome.details.udp_lost += flow.sent.saturating_sub(flow.answered);
        }
        outcome.details.fresh.clone_from(&records.fresh.times);
        outcome.details.fresh_failed = records.fresh.failed;
        outcome.summarize();
        outcome
    }

    /// Takes another run of the same fault in: sums, and quantiles over both.
    pub fn add(&mut self, other: Self) {
        self.connections = self.connections.max(other.connections);
        self.broken += other.broken;
        self.ended_with_backend += other.ended_with_backend;
        self.misdelivered += other.misdelivered;
        self.moved += other.moved;
        self.fault_verified &= other.fault_verified;
        let (ours, theirs) = (&mut self.details, other.details);
        ours.stalls.extend(theirs.stalls);
        ours.fresh.extend(theirs.fresh);
        ours.fresh_failed += theirs.fresh_failed;
        ours.udp_flows += theirs.udp_flows;
        ours.udp_sent += theirs.udp_sent;
        ours.udp_lost += theirs.udp_lost;
        ours.ends.extend(theirs.ends);
        self.summarize();
    }

    /// Whether nothing broke, nothing went astray, and the fault was there.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.broken == 0 && self.misdelivered == 0 && self.fault_verified
    }

    fn summarize(&mut self) {
        let stalls = Quantiles::of(&mut self.details.stalls);
        self.stall_ms_p50 = ms(stalls.p50);
        self.stall_ms_p99 = ms(stalls.p99);
        self.stall_ms_max = ms(stalls.max);
        self.new_connection_ms_p99 = ms(Quantiles::of(&mut self.details.fresh).p99);
    }
}

impl Details {
    /// Waits by how they ended.
    fn ends(&self) -> BTreeMap<&str, Vec<Duration>> {
        let mut by_reason = BTreeMap::<&str, Vec<Duration>>::new();
        for (reason, wait) in &self.ends {
            by_reason.entry(reason).or_default().push(*wait);
        }
        by_reason
    }
}

/// To a tenth.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = &self.details;
        writeln!(
            f,
            "{}: {} connections: {} broken, {} ended with their backend, {} misdelivered, {} moved",
            self.fault,
            self.connections,
            self.broken,
            self.ended_with_backend,
            self.misdelivered,
            self.moved
        )?;
        for (reason, mut waits) in details.ends() {
            let waited = Quantiles::of(&mut waits);
            writeln!(
                f,
                "  {} {reason}, after waits of p50 {} ms, longest {} ms",
                waits.len(),
                ms(waited.p50),
                ms(waited.max)
            )?;
        }
        writeln!(
            f,
            "  {} stalled: p50 {} ms, p99 {} ms, longest {} ms beyond the usual p99 of {} ms",
            details.stalls.len(),
            self.stall_ms_p50,
            self.stall_ms_p99,
            self.stall_ms_max,
            ms(details.usual.p99)
        )?;
        writeln!(
            f,
            "  {} short connections: p99 {} ms; {} tries failed",
            details.fresh.len(),
            self.new_connection_ms_p99,
            details.fresh_failed
        )?;
        writeln!(
            f,
            "  {} UDP flows: {} of {} datagrams without an answer",
            details.udp_flows, details.udp_lost, details.udp_sent
        )?;
        let verified = if self.fault_verified { "the fault took hold" } else { "NOT verified" };
        let verdict = if self.is_well() { "ok" } else { "FAILED" };
        write!(f, "  {verified}: {verdict}")
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::load::{Connection, UdpFlow};

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn connection(port: u16, backend: &str, longest: u64, broken: Option<Broken>) -> Connection {
        Connection {
            client: SocketAddr::from(([198, 51, 100, 9], port)),
            backend: backend.to_owned(),
            longest: Some((ms(1000), ms(1000 + longest))),
            broken,
        }
    }

    fn usual() -> Usual {
        Usual { p99: ms(5), max: ms(8) }
    }

    #[test]
    fn connections_of_a_killed_backend_end_and_all_others_break() {
        let records = Records {
            connections: vec![
                connection(1, "backend-1", 1, Some(Broken::Silent)),
                connection(2, "backend-2", 1, Some(Broken::Ended(ErrorKind::ConnectionReset))),
                connection(3, "backend-2", 1, None),
            ],
            ..Records::default()
        };
        let happened = Happened {
            killed_backends: ["backend-1".to_owned()].into(),
            verified: true,
            ..Happened::default()
        };
        let outcome = Outcome::of("backend-kill", usual(), &records, &happened);
        assert_eq!((outcome.ended_with_backend, outcome.broken), (1, 1));
        assert!(!outcome.is_well());
    }

    #[test]
    fn another_backend_on_a_connection_or_a_udp_flow_is_misdelivery() {
        let flow = |first: &str, other: &str| UdpFlow {
            backend: Some(first.to_owned()),
            others: [other.to_owned()].into(),
            ..UdpFlow::default()
        };
        let records = Records {
            connections: vec![connection(1, "backend-3", 1, Some(Broken::Wrong(Wrong::Backend)))],
            udp: vec![flow("backend-1", "backend-2"), flow("backend-2", "backend-1")],
            ..Records::default()
        };
        let happened = Happened {
            killed_backends: ["backend-1".to_owned()].into(),
            verified: true,
            ..Happened::default()
        };
        assert_eq!(Outcome::of("x", usual(), &records, &happened).misdelivered, 2);
    }

    #[test]
    fn stalls_are_of_connections_that_stalled_and_moved_counts_each_once() {
        let records = Records {
            connections: vec![
                connection(1, "backend-1", 6, None),
                connection(2, "backend-1", 105, None),
                connection(3, "backend-1", 305, None),
            ],
            ..Records::default()
        };
        let happened = Happened {
            moved: [connection(3, "", 0, None).client, connection(9, "", 0, None).client].into(),
            verified: true,
            ..Happened::default()
        };
        let mut outcome = Outcome::of("x", usual(), &records, &happened);
        assert_eq!(outcome.moved, 1);
        assert!((outcome.stall_ms_p50 - 100.0).abs() < 0.01);
        assert!((outcome.stall_ms_max - 300.0).abs() < 0.01);
        assert!(outcome.is_well());
        outcome.add(Outcome::of("x", usual(), &Records::default(), &Happened::default()));
        assert!(!outcome.fault_verified && !outcome.is_well());
        assert_eq!(outcome.connections, 3);
    }

    #[test]
    fn the_json_has_exactly_the_agreed_keys() {
        let json = serde_json::to_value(Outcome::default()).unwrap();
        let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let mut agreed = [
            "fault",
            "connections",
            "broken",
            "ended_with_backend",
            "misdelivered",
            "moved",
            "stall_ms_p50",
            "stall_ms_p99",
            "stall_ms_max",
            "new_connection_ms_p99",
            "fault_verified",
        ];
        agreed.sort_unstable();
        assert_eq!(keys, agreed);
    }
}
