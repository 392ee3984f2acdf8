//! `[[health]]` and `[admission]` of `jlb.toml`: when a backend host refuses new flows by itself.

use core::net::SocketAddr;
use core::ops::RangeInclusive;
use core::time::Duration;

use jlb_map::{MemberRole, Snapshot};
use jlb_wire::{MemberId, Protocol};

use crate::reader::{Item, Table};

/// Sections `[[health]]` that a file may have.
const MAX_CHECKS: usize = 256;
/// Words of a command.
const MAX_WORDS: usize = 64;

/// `[[health]]`: a check of a service on this host. While one of a service's checks fails, its new flows are refused here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `service`: name of a service in `cluster.toml` that this host serves. Required.
    pub service: String,
    /// `type`: what is tried; needed unless there is an `agent_check`.
    pub probe: Option<HealthProbe>,
    /// `agent_check`: address and port of an application that says in HAProxy's words how it is.
    pub agent_check: Option<SocketAddr>,
    /// `target`: address and port that are tried. Default: the service's first VIP and its port, on this host.
    pub target: Option<SocketAddr>,
    /// `interval`: from the end of a try to the next one: `"100ms"` to `"1h"`. Default `"2s"`.
    pub interval: Duration,
    /// `timeout`: a try that takes longer has failed: `"10ms"` to `"60s"`. Default `"1s"`.
    pub timeout: Duration,
    /// `rise`: successes in a row after which the service is up again, 1 to 100. Default 2.
    pub rise: u8,
    /// `fall`: failures in a row after which it is down, 1 to 100. Default 3.
    pub fall: u8,
}

/// `type` of a check, and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthProbe {
    /// `"tcp"`: a connection can be made.
    Tcp,
    /// `"http"`, `"https"`: a GET is answered.
    Http(HttpProbe),
    /// `"exec"`: a command ends with exit code 0.
    Exec {
        /// `command`: a program and its arguments, 1 to 64 words; no shell is started. Required.
        command: Vec<String>,
    },
}

/// What is asked by HTTP/1.1, and which answer is right. Redirections are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// `"https"`: by TLS. Whose certificate it is is not looked at: that is between the server and its clients, and the check
    /// goes to this host itself. The name that is asked for (SNI) is `host`, if it is one.
    pub tls: bool,
    /// `path`: what is asked for. Default `"/"`.
    pub path: String,
    /// `host`: the header `Host`. Default: the target.
    pub host: Option<String>,
    /// `status`: the status codes that are right, such as `"200,301-303"`. Default `"200-399"`.
    pub status: Vec<RangeInclusive<u16>>,
    /// `body`: a text that must be in the first 64 KiB of the answer. Default: none.
    pub body: Option<String>,
}

/// `[admission]`: how busy this host may be. All new flows of all services are refused while it is busier; it takes them again
/// when it is a tenth below. Default: no limit. What is measured is the host, not a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostLimits {
    /// `cpu`: share of all CPUs' time that may be spent, 0.05 to 1.
    pub cpu: Option<f64>,
    /// `memory`: share of memory that may be in use (that is not `MemAvailable`), 0.05 to 1.
    pub memory: Option<f64>,
    /// `pressure`: per cent of the time that some task may wait for a CPU (`some avg10` in `/proc/pressure/cpu`), 1 to 100.
    pub pressure: Option<f64>,
}

pub(crate) fn health(root: &mut Table<'_>) -> Option<Vec<HealthCheck>> {
    let tables = root.tables("health");
    if tables.len() > MAX_CHECKS
        && let Some(item) = root.optional("health")
    {
        item.mistake(
            format!("{} checks, and there can be {MAX_CHECKS}", tables.len()),
            format!("keep {MAX_CHECKS} of them"),
        );
    }
    tables.into_iter().map(|table| table.and_then(check)).collect()
}

fn check(mut t: Table<'_>) -> Option<HealthCheck> {
    let mend = "write the name of a service in cluster.toml: service = \"web\"";
    let service = t.required("service", mend).and_then(|item| item.filled(mend));
    let agent_check = address(&mut t, "agent_check");
    let target = address(&mut t, "target");
    let probe = probe(&mut t, matches!(agent_check, Some(Some(_)) | None));
    let ms = Duration::from_millis;
    let interval = duration(&mut t, "interval", ms(2000), ms(100)..=ms(3_600_000));
    let timeout = duration(&mut t, "timeout", ms(1000), ms(10)..=ms(60_000));
    let rise = t.number("rise", 2, &(1..=100), "a number of successes");
    let fall = t.number("fall", 3, &(1..=100), "a number of failures");
    t.finish();
    Some(HealthCheck {
        service: service?,
        probe: probe?,
        agent_check: agent_check?,
        target: target?,
        interval: interval?,
        timeout: timeout?,
        rise: rise? as u8,
        fall: fall? as u8,
    })
}

fn address(t: &mut Table<'_>, key: &'static str) -> Option<Option<SocketAddr>> {
    let Some(item) = t.optional(key) else { return Some(None) };
    let mend = "write an address with a port: \"127.0.0.1:9999\", \"[::1]:9999\"";
    let text = item.text(mend)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(Some(address)),
        Ok(_) | Err(_) => {
            item.mistake(format!("`{text}` is no address with a port"), mend);
            None
        }
    }
}

#[derive(Clone, Copy)]
enum Type {
    Tcp,
    Http,
    Https,
    Exec,
}

/// The keys of another type are unknown ones.
fn probe(t: &mut Table<'_>, may_be_absent: bool) -> Option<Option<HealthProbe>> {
    let words =
        [("tcp", Type::Tcp), ("http", Type::Http), ("https", Type::Https), ("exec", Type::Exec)];
    let item = if may_be_absent {
        let Some(item) = t.optional("type") else { return Some(None) };
        item
    } else {
        t.required(
            "type",
            "write type = \"tcp\", \"http\", \"https\" or \"exec\", or an agent_check",
        )?
    };
    Some(Some(match item.word(&words)? {
        Type::Tcp => HealthProbe::Tcp,
        Type::Http => HealthProbe::Http(http(t, false)?),
        Type::Https => HealthProbe::Http(http(t, true)?),
        Type::Exec => HealthProbe::Exec { command: command(t)? },
    }))
}

fn http(t: &mut Table<'_>, tls: bool) -> Option<HttpProbe> {
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let path = match t.optional("path") {
        None => Some("/".to_owned()),
        Some(item) => {
            let mend = "write a path as it stands in a URL: path = \"/healthz\"";
            item.filled(mend).filter(|path| {
                let is_path = path.starts_with('/') && visible(path) && !path.contains('#');
                if !is_path {
                    item.mistake(format!("`{path}` is no path"), mend);
                }
                is_path
            })
        }
    };
    let host = match t.optional("host") {
        None => Some(None),
        Some(item) => {
            let mend = "write a name, with a port if need be: host = \"www.example.org\"";
            let host = item.filled(mend).filter(|host| {
                if !visible(host) {
                    item.mistake(format!("`{host}` is no name of a host"), mend);
                }
                visible(host)
            });
            host.map(Some)
        }
    };
    let status = match t.optional("status") {
        None => Some(vec![200..=399]),
        Some(item) => statuses(&item),
    };
    let body = match t.optional("body") {
        None => Some(None),
        Some(item) => item.filled("write a text, or delete the line").map(Some),
    };
    Some(HttpProbe { tls, path: path?, host: host?, status: status?, body: body? })
}

fn statuses(item: &Item<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    let mend = "write status codes from 100 to 599: \"200\", \"200-399\", \"200,204,300-303\"";
    let text = item.filled(mend)?;
    let code = |word: &str| word.trim().parse::<u16>().ok().filter(|n| (100..600).contains(n));
    let range = |words: &str| {
        let (first, last) = words.split_once('-').unwrap_or((words, words));
        let (first, last) = (code(first)?, code(last)?);
        (first <= last).then_some(first..=last)
    };
    let ranges = text.split(',').map(range).collect::<Option<Vec<_>>>();
    if ranges.is_none() {
        item.mistake(format!("`{text}` is no list of status codes"), mend);
    }
    ranges
}

fn command(t: &mut Table<'_>) -> Option<Vec<String>> {
    let mend = "write a list of words: command = [\"/usr/local/bin/check\", \"--fast\"]";
    let item = t.required("command", mend)?;
    let items = item.list(mend)?;
    let words: Vec<_> =
        items.iter().map(|i| i.text(mend).map(str::to_owned)).collect::<Option<_>>()?;
    if words.first().is_none_or(String::is_empty) || words.len() > MAX_WORDS {
        item.mistake(format!("a command has 1 to {MAX_WORDS} words"), mend);
        return None;
    }
    if words.iter().any(|word| word.contains('\0')) {
        item.mistake("no word of a command can hold a zero byte", mend);
        return None;
    }
    Some(words)
}

fn duration(
    t: &mut Table<'_>,
    key: &'static str,
    default: Duration,
    bounds: RangeInclusive<Duration>,
) -> Option<Duration> {
    let Some(item) = t.optional(key) else { return Some(default) };
    let (min, max) = (bounds.start(), bounds.end());
    let mend =
        format!("write a time from \"{min:?}\" to \"{max:?}\" with its unit: \"500ms\", \"2s\"");
    let text = item.text(&mend)?;
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let parsed = units.into_iter().find_map(|(unit, ms)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(ms).map(Duration::from_millis)
    });
    match parsed {
        Some(time) if bounds.contains(&time) => Some(time),
        Some(_) => {
            item.mistake(format!("`{text}` is not between {min:?} and {max:?}"), mend);
            None
        }
        None => {
            item.mistake(format!("`{text}` is no time"), mend);
            None
        }
    }
}

pub(crate) fn admission(mut t: Table<'_>) -> Option<HostLimits> {
    let cpu = limit(&mut t, "cpu", 0.05..=1.0, "a share");
    let memory = limit(&mut t, "memory", 0.05..=1.0, "a share");
    let pressure = limit(&mut t, "pressure", 1.0..=100.0, "per cent");
    t.finish();
    Some(HostLimits { cpu: cpu?, memory: memory?, pressure: pressure? })
}

fn limit(
    t: &mut Table<'_>,
    key: &'static str,
    bounds: RangeInclusive<f64>,
    unit: &str,
) -> Option<Option<f64>> {
    match t.optional(key) {
        None => Some(None),
        Some(item) => item.fraction(&bounds, unit).map(Some),
    }
}

/// Tells what cannot be checked of a service that this host does not serve, or that speaks no TCP.
pub(crate) fn find_services(
    root: &mut Table<'_>,
    cluster: &Snapshot,
    role: MemberRole,
    me: MemberId,
) {
    if role != MemberRole::Backend {
        return;
    }
    for mut t in root.tables("health").into_iter().flatten() {
        let untargeted = t.optional("target").is_none();
        let connects = t.optional("type").is_some_and(|i| i.value.as_str() != Some("exec"));
        let Some(item) = t.optional("service") else { continue };
        let Some(name) = item.value.as_str() else { continue };
        match cluster.services().iter().find(|s| s.name == name) {
            None => item.mistake(
                format!("the cluster has no service named `{name}`"),
                "write the name that it has in cluster.toml, or delete this check",
            ),
            Some(service) if service.backend(me).is_none() => item.mistake(
                format!("this host is no backend of `{name}`"),
                "add it to the service's backends in cluster.toml, or delete this check",
            ),
            Some(service) if service.protocol == Protocol::Udp && connects && untargeted => item
                .mistake(
                    format!("`{name}` is UDP, and this check makes a TCP connection"),
                    "add a target that answers on TCP, or write type = \"exec\"",
                ),
            Some(_) => {}
        }
    }
}
