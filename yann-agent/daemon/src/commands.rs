//! What `jlb-yann` does besides running: it works on the pins, whether a daemon runs or not.

use core::net::SocketAddr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jlb_hostnet::HostNet;
use jlb_map::Snapshot;
use jlb_wire::{FiveTuple, MemberId};
use jlb_yann_core::maps::{Flow, flow_state};
use serde::Serialize;

use crate::changes::{ChangeError, Changes, Undo};
use crate::config::{own_namespace, service_name};
use crate::maps::{ArrayOf, Maps, MapsError};
use crate::{bpffs, programs};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Programs and pins.
    #[error(transparent)]
    Programs(#[from] programs::ProgramsError),
    /// The maps.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// What was changed on the host besides.
    #[error(transparent)]
    Host(#[from] jlb_hostnet::Error),
    /// The pins are another host's.
    #[error(
        "{0} holds the pins of another network namespace: run it there, `nsenter --net=… jlb-yann …`"
    )]
    Elsewhere(PathBuf),
    /// Our own network namespace is not known.
    #[error("/proc/self/ns/net: {0}")]
    Namespace(io::Error),
    /// Changes that could not be undone; they stay on the list.
    #[error("{} change(s) could not be undone: {}", .0.len(), shown(.0))]
    NotUndone(Vec<ChangeError>),
    /// A directory could not be removed.
    #[error("{path}: {source}")]
    Remove {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output could not be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

fn shown(errors: &[ChangeError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Takes everything away that the agent brought: programs, changes, pins. Doing it twice does no harm. Live connections
/// through the VIPs break. Must be called inside of a tokio runtime.
///
/// # Errors
/// When a daemon runs, the pins are of another network namespace, or something cannot be taken away; then that stays on
/// the list, for another try.
pub async fn detach(pins: &Path, interfaces: &[String]) -> Result<(), CommandError> {
    if let Ok(namespace) = ArrayOf::<u32, 4>::pinned(pins, "namespace")
        && let Ok(theirs) = namespace.get(0)
        && theirs != 0
        && theirs != own_namespace().map_err(CommandError::Namespace)?
    {
        return Err(CommandError::Elsewhere(pins.to_owned()));
    }
    // Held until all is done: no daemon starts meanwhile.
    let mut host = HostNet::open(&bpffs::host_state_path(pins))?;
    let list = ArrayOf::pinned(pins, "changes").ok().map(Changes::load);
    let mut mounts: Vec<PathBuf> = Vec::new();
    if let Some(mut changes) = list {
        programs::detach_links(pins, interfaces)?;
        mounts = changes
            .iter()
            .filter_map(|c| match &c.undo {
                Undo::Unmount(path) => Some(path.clone()),
                Undo::Clsact(_) => None,
            })
            .collect();
        // The list itself is on the bpffs, which so goes last.
        let errors = changes.undo(|c| matches!(c.undo, Undo::Unmount(_)));
        if !errors.is_empty() {
            return Err(CommandError::NotUndone(errors));
        }
    }
    host.undo().await?;
    programs::detach(pins, interfaces)?;
    if bpffs::is_bpffs(pins) && mounts.iter().all(|m| m.as_path() != pins) {
        remove_dir(pins)?;
    }
    for path in mounts {
        bpffs::unmount(&path).map_err(|e| CommandError::NotUndone(vec![e.into()]))?;
    }
    Ok(())
}

fn remove_dir(path: &Path) -> Result<(), CommandError> {
    match std::fs::remove_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CommandError::Remove { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table.
    Human,
    /// JSON.
    Json,
}

/// A live flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowLine {
    /// The client.
    pub client: SocketAddr,
    /// VIP and port.
    pub vip: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// `pending`, `accepted` or `established`.
    pub state: &'static str,
    /// The service.
    pub service: String,
    /// The ingress host that its last packet came from.
    pub ingress: String,
    /// The first voter of its Open.
    pub primary: String,
    /// The second.
    pub secondary: String,
    /// Candidates that were asked, this one included.
    pub tries: u8,
}

/// The live flows, from the pinned maps; ordered by client. With a cluster, members have their names.
///
/// # Errors
/// When nothing is pinned.
pub fn flows(pins: &Path, cluster: Option<&Snapshot>) -> Result<Vec<FlowLine>, CommandError> {
    let maps = Maps::pinned(pins)?;
    let name = |id: u16| {
        let Some(id) = MemberId::new(id) else { return "-".to_owned() };
        cluster
            .and_then(|c| c.member(id))
            .map_or_else(|| id.to_string(), |member| member.name.clone())
    };
    let mut lines: Vec<_> = maps
        .flows
        .entries()
        .map_err(MapsError::from)?
        .into_iter()
        .filter_map(|(tuple, flow)| {
            let tuple = FiveTuple::from_padded(tuple)?;
            Some(FlowLine {
                client: tuple.client(),
                vip: tuple.vip(),
                protocol: tuple.protocol().label(),
                state: state(&flow),
                service: service_name(&maps, flow.service).unwrap_or_else(|| "-".to_owned()),
                ingress: name(flow.ingress[0]),
                primary: name(flow.head),
                secondary: name(flow.second),
                tries: flow.tries,
            })
        })
        .collect();
    lines.sort_by_key(|l| (l.client, l.vip, l.protocol));
    Ok(lines)
}

const fn state(flow: &Flow) -> &'static str {
    match flow.state {
        flow_state::ADMITTED => "pending",
        flow_state::ACCEPTED => "accepted",
        _ => "established",
    }
}

/// Prints the live flows.
///
/// # Errors
/// When the output is closed.
pub fn print_flows(
    lines: &[FlowLine],
    format: Format,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    if format == Format::Json {
        writeln!(out, "{}", serde_json::to_string_pretty(lines).unwrap_or_default())?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<28} {:<28} {:<4} {:<11} {:<14} {:<14} {:<14} tries",
        "client", "vip", "", "state", "ingress", "primary", "secondary"
    )?;
    for l in lines {
        writeln!(
            out,
            "{:<28} {:<28} {:<4} {:<11} {:<14} {:<14} {:<14} {}",
            l.client.to_string(),
            l.vip.to_string(),
            l.protocol,
            l.state,
            l.ingress,
            l.primary,
            l.secondary,
            l.tries
        )?;
    }
    Ok(())
}

/// Prints what was changed on this host, with what it replaced.
/// Must be called inside of a tokio runtime.
///
/// # Errors
/// When the output is closed, or the kernel does not say what is in force.
pub async fn print_status(
    pins: &Path,
    format: Format,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let Ok(maps) = Maps::pinned(pins) else {
        match format {
            Format::Human => writeln!(out, "nothing is attached (no pins in {})", pins.display())?,
            Format::Json => writeln!(out, "{}", serde_json::json!({ "attached": false }))?,
        }
        return Ok(());
    };
    let flows = maps.live_all.get(0).unwrap_or(0);
    let mut changes = jlb_hostnet::status(&bpffs::host_state_path(pins)).await?;
    changes.extend(Changes::load(maps.changes).iter().map(|c| jlb_hostnet::Change {
        what: c.change.clone(),
        old: c.was.clone(),
        new: "there".to_owned(),
        still_in_force: true,
    }));
    if format == Format::Json {
        let status = serde_json::json!({
            "attached": true,
            "flows": flows,
            "changes": changes,
        });
        writeln!(out, "{status:#}")?;
        return Ok(());
    }
    writeln!(out, "attached, pins in {}; {flows} live flows", pins.display())?;
    for c in &changes {
        let gone = if c.still_in_force { "" } else { "  (changed since)" };
        writeln!(out, "{:<44} {:<24} was: {}{gone}", c.what, c.new, c.old)?;
    }
    Ok(())
}
