use jlb_config::Mistakes;
use jlb_etcd::{ReplaceError, StoreError, Unfit};
use jlb_map::Refusal;
use jlb_node::{EXIT_CONFIG, LoadError};

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    /// This host's configuration.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A list with mistakes.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// No etcd in it.
    #[error(
        "error: {0} has no section [etcd], so the member list is cluster.toml on each host: edit and reload it there"
    )]
    NoEtcd(String),
    /// The file to apply or compare.
    #[error("error: cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// etcd.
    #[error("error: {0}")]
    Store(#[from] StoreError),
    /// The write.
    #[error("error: not applied: {0}")]
    Replace(#[from] ReplaceError),
    /// The numbers.
    #[error("error: not applied: {0}")]
    Unfit(#[from] Unfit),
    /// The daemons would not take it.
    #[error("error: not applied, since the daemons would refuse it:{}", lines(.0))]
    Refused(Vec<Refusal>),
    /// It would shut members out.
    #[error(
        "error: not applied: {} would be shut out, since {} not speak version {protocol} of the protocol; \
         install the newer release there first, or apply with --force",
        names.join(", "), if names.len() == 1 { "it does" } else { "they do" }
    )]
    NotSpoken {
        /// The list's.
        protocol: u8,
        /// Of the members.
        names: Vec<String>,
    },
    /// There is nothing.
    #[error(
        "error: etcd has no member list under {0}; the first one comes with `jlbctl apply FILE`"
    )]
    Nothing(String),
    /// What is stored is wrong.
    #[error(
        "error: the member list in etcd is wrong; `jlbctl apply FILE --force` replaces it:\n{0}"
    )]
    StoredMistakes(Mistakes),
    /// The numbers cannot be written into the file.
    #[error("error: cannot write numbers into the list: {0}")]
    Renumber(#[from] toml_edit::TomlError),
    /// Members that did not take it in time.
    #[error("error: applied, but after {seconds} s not in force at: {}", .names.join(", "))]
    NotTaken {
        /// How long was waited.
        seconds: u64,
        /// Who.
        names: Vec<String>,
    },
    /// stdout.
    #[error("error: cannot write: {0}")]
    Write(#[from] std::io::Error),
}

impl CtlError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Load(_)
            | Self::Mistakes(_)
            | Self::NoEtcd(_)
            | Self::Store(StoreError::Files(_) | StoreError::Tls(_)) => EXIT_CONFIG,
            // The reader of a pipe has seen enough.
            Self::Write(e) if e.kind() == std::io::ErrorKind::BrokenPipe => 0,
            Self::Read { .. }
            | Self::Store(_)
            | Self::Replace(_)
            | Self::Unfit(_)
            | Self::Refused(_)
            | Self::NotSpoken { .. }
            | Self::Nothing(_)
            | Self::StoredMistakes(_)
            | Self::Renumber(_)
            | Self::NotTaken { .. }
            | Self::Write(_) => 1,
        }
    }
}

fn lines(refusals: &[Refusal]) -> String {
    let line = |r: &Refusal| {
        let hint = match r {
            Refusal::Shrinks { .. } => " (jlbctl apply --force)",
            Refusal::LowerGeneration { .. }
            | Refusal::SameGeneration { .. }
            | Refusal::EpochMustRise { .. }
            | Refusal::EpochMustStay { .. }
            | Refusal::HashKey
            | Refusal::IdMoved { .. }
            | Refusal::RoleChanged { .. } => "",
        };
        format!("\n  {r}{hint}")
    };
    refusals.iter().map(line).collect()
}
