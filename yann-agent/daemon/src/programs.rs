//! The eBPF programs: loaded, attached, replaced and taken away. They and their maps are pinned, so they work on when the
//! daemon is gone; the next one takes their place without a packet in between.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::MapError;
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{
    BtfTracePoint, ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions,
};
use aya::sys::SyscallError;
use aya::{Btf, BtfError, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};

use crate::changes::{Change, ChangeError, Changes, Undo};
use crate::maps::{ArrayOf, LAYOUT, Maps, MapsError};

/// What build.rs made of `yann-agent/bpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/yann.bpf.o"));

/// Our place among the filters of a clsact qdisc (before Linux 6.6): found again by it.
const PRIORITY: u16 = 0x4a4c;
const HANDLE: TcHandle = TcHandle::new(0, 1);

const STATE_LINK: &str = "link-state";
const HOOKS: [(TcAttachType, &str, &str); 2] = [
    (TcAttachType::Ingress, "jlb_ingress", "ingress"),
    (TcAttachType::Egress, "jlb_egress", "egress"),
];

/// Why the programs are not at work.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// Object or maps.
    #[error("cannot load the eBPF object: {0}")]
    Load(#[from] EbpfError),
    /// The kernel's types.
    #[error("the kernel says nothing of its types (CONFIG_DEBUG_INFO_BTF): {0}")]
    Btf(#[from] BtfError),
    /// A program was refused, or cannot be attached.
    #[error("eBPF program `{name}`: {source}")]
    Program {
        /// Which.
        name: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// A pinned link.
    #[error("pinned link {path}: {source}")]
    Link {
        /// Which.
        path: PathBuf,
        /// Why.
        source: LinkError,
    },
    /// A pin could not be made.
    #[error("cannot pin {path}: {source}")]
    Pin {
        /// Which.
        path: PathBuf,
        /// Why.
        source: aya::pin::PinError,
    },
    /// A pin could not be removed.
    #[error("cannot remove the pin {path}: {source}")]
    Unpin {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The clsact qdisc.
    #[error("cannot add a clsact qdisc to {interface}: {source}")]
    Qdisc {
        /// Of which interface.
        interface: String,
        /// Why.
        source: TcError,
    },
    /// The pins are of another version.
    #[error(
        "{pins} holds maps of layout {theirs}, and this version has {LAYOUT}: run `jlb-yann detach`, which ends live connections"
    )]
    Layout {
        /// Where.
        pins: PathBuf,
        /// Their layout.
        theirs: u32,
    },
    /// A map.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The list of changes.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<MapError> for ProgramsError {
    fn from(e: MapError) -> Self {
        Self::Maps(e.into())
    }
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// As links (Linux 6.6).
    Tcx,
    /// As filters of a clsact qdisc.
    Clsact,
}

impl Hook {
    /// The better one that this kernel has.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        // "6.1.0-41-amd64"
        let release = nix::sys::utsname::uname().map(|u| u.release().to_owned());
        let release = release.ok().and_then(|r| r.into_string().ok()).unwrap_or_default();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        if (next(), next()) >= (6, 6) { Self::Tcx } else { Self::Clsact }
    }
}

/// The loaded programs.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

/// Sizes of the maps that the operator sets.
#[derive(Clone, Copy, Debug)]
pub struct Capacities {
    /// Live flows.
    pub flows: u32,
    /// Remembered answers.
    pub answers: u32,
}

impl Programs {
    /// Loads the programs onto the pinned maps; maps that are not there are made and pinned. With `None` nothing is
    /// pinned, and all ends with the process: for tests.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load(
        pins: Option<&Path>,
        capacities: Capacities,
    ) -> Result<(Self, Maps), ProgramsError> {
        if let Some(pins) = pins
            && let Ok(layout) = ArrayOf::<u32, 4>::pinned(pins, "layout")
        {
            let theirs = layout.get(0)?;
            // 0: a daemon was killed between the pin and the number.
            if theirs != LAYOUT && theirs != 0 {
                return Err(ProgramsError::Layout { pins: pins.to_owned(), theirs });
            }
        }
        let mut loader = EbpfLoader::new();
        let kernel = Btf::from_sys_fs()?;
        loader
            .btf(Some(&kernel))
            .map_max_entries("flows", capacities.flows)
            .map_max_entries("answers", capacities.answers)
            .verifier_log_level(VerifierLogLevel::STATS);
        let paths: Vec<_> = pins
            .into_iter()
            .flat_map(|pins| Maps::NAMES.iter().map(|name| (*name, pins.join(name))))
            .collect();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let mut ebpf = loader.load(OBJECT)?;
        for name in ["jlb_ingress", "jlb_egress", "jlb_sweep"] {
            classifier(&mut ebpf, name)?
                .load()
                .map_err(|source| ProgramsError::Program { name, source })?;
        }
        state(&mut ebpf)?
            .load("inet_sock_set_state", &kernel)
            .map_err(|source| ProgramsError::Program { name: "jlb_state", source })?;
        let mut maps = Maps::from(|name| ebpf.take_map(name).ok_or(MapsError::Missing(name)))?;
        maps.layout.set(0, &LAYOUT)?;
        Ok((Self { ebpf }, maps))
    }

    /// Attaches them, in the place of those that a daemon before attached. What they need on the host beside that (a
    /// clsact qdisc) goes on the list of changes.
    ///
    /// # Errors
    /// When the kernel refuses; what is attached by then stays.
    pub fn attach(
        &mut self,
        pins: &Path,
        interfaces: &[String],
        hook: Hook,
        changes: &mut Changes,
    ) -> Result<(), ProgramsError> {
        self.attach_state(&pins.join(STATE_LINK))?;
        for interface in interfaces {
            if hook == Hook::Clsact {
                add_clsact(interface, changes)?;
            }
            for (direction, name, short) in HOOKS {
                let program = classifier(&mut self.ebpf, name)?;
                match hook {
                    Hook::Tcx => {
                        let pin = pins.join(format!("link-{short}-{interface}"));
                        attach_tcx(program, name, interface, direction, &pin)?;
                    }
                    Hook::Clsact => attach_filter(program, name, interface, direction)?,
                }
            }
        }
        Ok(())
    }

    /// Runs the sweep: ends flows of which the kernel says nothing, and forgets old answers. Gives how many flows ended.
    /// With `all`, also established connections are looked up, whose ends are reported otherwise: 0.2 µs each.
    ///
    /// # Errors
    /// When the kernel does not run it.
    pub fn sweep(&mut self, udp_idle: u64, all: bool) -> Result<u32, ProgramsError> {
        // struct sweep_request: an Ethernet header, `all`, a byte of padding, the time.
        let mut request = [0; 64];
        request[14] = all.into();
        request[16..24].copy_from_slice(&udp_idle.to_ne_bytes());
        let name = "jlb_sweep";
        let mut options = TestRunOptions::new();
        options.data_in = Some(&request);
        let program = classifier(&mut self.ebpf, name)?;
        let result =
            program.test_run(options).map_err(|source| ProgramsError::Program { name, source })?;
        Ok(result.return_value)
    }

    /// Attaches the program that follows sockets, until this is dropped: for tests.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn follow_sockets(&mut self) -> Result<(), ProgramsError> {
        let name = "jlb_state";
        state(&mut self.ebpf)?
            .attach()
            .map(drop)
            .map_err(|source| ProgramsError::Program { name, source })
    }

    /// Attaches the TC programs to an interface, until this is dropped: for benches. Needs Linux 6.6.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_for_now(&mut self, interface: &str) -> Result<(), ProgramsError> {
        for (direction, name, _) in HOOKS {
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            classifier(&mut self.ebpf, name)?
                .attach_with_options(interface, direction, order)
                .map_err(|source| ProgramsError::Program { name, source })?;
        }
        Ok(())
    }

    /// Runs one of the TC programs once, as if this frame had come: for benches. What it said, and the nanoseconds that it
    /// took, as the kernel measures them.
    ///
    /// # Errors
    /// When the kernel does not run it.
    pub fn time(
        &mut self,
        name: &'static str,
        frame: &[u8],
    ) -> Result<(u32, Duration), ProgramsError> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        let result = classifier(&mut self.ebpf, name)?
            .test_run(options)
            .map_err(|source| ProgramsError::Program { name, source })?;
        Ok((result.return_value, result.duration))
    }

    /// One of the TC programs: for tests.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn classifier(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, ProgramsError> {
        classifier(&mut self.ebpf, name)
    }

    /// A tracing link cannot be given another program, so for a moment both see each event; the second one to come finds
    /// nothing left to do.
    fn attach_state(&mut self, pin: &Path) -> Result<(), ProgramsError> {
        let name = "jlb_state";
        let failed = |source| ProgramsError::Program { name, source };
        let program = state(&mut self.ebpf)?;
        let id = program.attach().map_err(failed)?;
        let link: FdLink = program.take_link(id).map_err(failed)?.into();
        remove(pin)?;
        link.pin(pin).map_err(|source| ProgramsError::Pin { path: pin.to_owned(), source })?;
        Ok(())
    }
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, ProgramsError> {
    let program = ebpf.program_mut(name).ok_or(MapsError::Missing(name))?;
    program.try_into().map_err(|source| ProgramsError::Program { name, source })
}

fn state(ebpf: &mut Ebpf) -> Result<&mut BtfTracePoint, ProgramsError> {
    let name = "jlb_state";
    let program = ebpf.program_mut(name).ok_or(MapsError::Missing(name))?;
    program.try_into().map_err(|source| ProgramsError::Program { name, source })
}

fn attach_tcx(
    program: &mut SchedClassifier,
    name: &'static str,
    interface: &str,
    direction: TcAttachType,
    pin: &Path,
) -> Result<(), ProgramsError> {
    let failed = |source| ProgramsError::Program { name, source };
    let link_failed = |source| ProgramsError::Link { path: pin.to_owned(), source };
    let old = match PinnedLink::from_pin(pin) {
        Ok(old) => SchedClassifierLink::try_from(FdLink::from(old)).ok(),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            None
        }
        Err(e) => return Err(link_failed(e)),
    };
    // The link of an interface that was deleted is dead: then a new one is made.
    let replaced = old.and_then(|old| program.attach_to_link(old).ok());
    let id = match replaced {
        Some(id) => id,
        None => {
            remove(pin)?;
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            program.attach_with_options(interface, direction, order).map_err(failed)?
        }
    };
    let link: FdLink = program.take_link(id).map_err(failed)?.try_into().map_err(link_failed)?;
    if pin.exists() {
        // The same link is pinned there; ours is only another handle of it.
        return Ok(());
    }
    link.pin(pin).map_err(|source| ProgramsError::Pin { path: pin.to_owned(), source })?;
    Ok(())
}

fn add_clsact(interface: &str, changes: &mut Changes) -> Result<(), ProgramsError> {
    let change = format!("clsact qdisc on {interface}");
    match qdisc_add_clsact(interface) {
        Ok(()) if changes.has(&change) => {}
        Ok(()) => changes.record(Change {
            change,
            was: "not there".to_owned(),
            undo: Undo::Clsact(interface.to_owned()),
        })?,
        // Ours from before, or somebody else's, who keeps it.
        Err(TcError::AlreadyAttached | TcError::NetlinkError(_)) => {}
        Err(source) => {
            return Err(ProgramsError::Qdisc { interface: interface.to_owned(), source });
        }
    }
    Ok(())
}

fn attach_filter(
    program: &mut SchedClassifier,
    name: &'static str,
    interface: &str,
    direction: TcAttachType,
) -> Result<(), ProgramsError> {
    let failed = |source| ProgramsError::Program { name, source };
    let old = SchedClassifierLink::attached(interface, direction, PRIORITY, HANDLE, None)
        .map_err(|e| failed(TcError::IoError(e).into()))?;
    let id = match program.attach_to_link(old) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            let options = TcAttachOptions::Netlink(options);
            program.attach_with_options(interface, direction, options).map_err(failed)?
        }
    };
    // A filter stays where it is; dropping the link would take it away.
    core::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(())
}

/// Takes the programs away from all hooks, then the pins.
///
/// # Errors
/// When a pin cannot be removed.
pub fn detach(pins: &Path, interfaces: &[String]) -> Result<(), ProgramsError> {
    detach_links(pins, interfaces)?;
    for path in entries(pins).iter().filter(|p| is_map(p)) {
        remove(path)?;
    }
    Ok(())
}

/// Only the first half of that: what the programs know stays.
///
/// # Errors
/// As [`detach`].
pub fn detach_links(pins: &Path, interfaces: &[String]) -> Result<(), ProgramsError> {
    for interface in interfaces {
        for (direction, _, _) in HOOKS {
            // Dropping it takes the filter away, if there is one.
            drop(SchedClassifierLink::attached(interface, direction, PRIORITY, HANDLE, None));
        }
    }
    for path in entries(pins).iter().filter(|p| is_link(p)) {
        remove(path)?;
    }
    Ok(())
}

fn entries(pins: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(pins) else { return Vec::new() };
    entries.filter_map(|e| Some(e.ok()?.path())).collect()
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

fn is_link(path: &Path) -> bool {
    file_name(path).starts_with("link-")
}

fn is_map(path: &Path) -> bool {
    Maps::NAMES.contains(&file_name(path))
}

fn remove(path: &Path) -> Result<(), ProgramsError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(ProgramsError::Unpin { path: path.to_owned(), source: e })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
