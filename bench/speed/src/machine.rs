use std::fs;

/// What the figures were measured on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// As `/proc/cpuinfo` names it, with family, model and stepping.
    pub cpu: String,
    /// Bytes of one core's L2 cache, as the kernel says.
    pub l2: String,
    /// Where packet buffers come from.
    pub packet_memory: &'static str,
    /// Whether the kernel gives huge pages to whoever asks.
    pub transparent_huge_pages: String,
    /// The kernel.
    pub kernel: String,
    /// How this program was built.
    pub build: &'static str,
}

impl Machine {
    /// Reads it.
    #[must_use]
    pub fn here(hugepages: bool) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line =
                cpuinfo.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name));
            line.and_then(|l| l.split(':').nth(1)).unwrap_or("?").trim().to_owned()
        };
        Self {
            cpu: format!(
                "{}, family {} model {} stepping {}, {} MHz",
                field("model name"),
                field("cpu family"),
                field("model"),
                field("stepping"),
                field("cpu MHz"),
            ),
            l2: read("/sys/devices/system/cpu/cpu0/cache/index2/size"),
            packet_memory: if hugepages { "hugepages" } else { "ordinary pages" },
            transparent_huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
            kernel: read("/proc/sys/kernel/osrelease"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }
}

/// Bytes of memory that this process has, huge pages included.
pub(crate) fn resident() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    let counted = ["Rss:", "Private_Hugetlb:", "Shared_Hugetlb:"];
    let lines = rollup.lines().filter(|l| counted.iter().any(|c| l.starts_with(c)));
    lines.filter_map(kib).sum::<u64>() * 1024
}

const HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Leave to take hugepages beyond those that are reserved, until this is dropped. What was taken stays with the process
/// and goes back with its end, however it ends: nothing is left behind.
#[derive(Debug)]
pub struct Borrowed {
    /// What the limit was.
    before: u64,
}

/// None are reserved, and only root may borrow some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no hugepages are free, and the limit cannot be raised")]
pub struct NoHugepages;

impl Borrowed {
    /// Hugepages for so many MiB: reserved ones, or as root borrowed ones.
    ///
    /// # Errors
    /// When there are none for us.
    pub fn hugepages(mib: u32) -> Result<Option<Self>, NoHugepages> {
        let wanted = u64::from(mib / 2);
        if read(FREE).ok_or(NoHugepages)? >= wanted {
            return Ok(None);
        }
        let before = read(OVERCOMMIT).ok_or(NoHugepages)?;
        let limit = before + wanted;
        fs::write(path(OVERCOMMIT), limit.to_string()).map_err(|_| NoHugepages)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // The limit alone takes no memory.
        let _ = fs::write(path(OVERCOMMIT), self.before.to_string());
    }
}

const FREE: &str = "free_hugepages";
const OVERCOMMIT: &str = "nr_overcommit_hugepages";

fn path(file: &str) -> String {
    format!("{HUGEPAGES}/{file}")
}

fn read(file: &str) -> Option<u64> {
    fs::read_to_string(path(file)).ok()?.trim().parse().ok()
}
