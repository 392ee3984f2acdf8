use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use std::io;
use std::path::{Path, PathBuf};

use jlb_map::{DEFAULT_MTU, MAX_MTU, MIN_MTU, MemberRole, Snapshot};
use jlb_wire::MemberId;

use crate::etcd;
use crate::reader::{File, Item, Table};
use crate::{Etcd, EtcdSecrets, HealthCheck, HostLimits, KeyFile, Mistakes, health};

/// `jlb.toml`: what this host does, and with which resources.
///
/// Each role has a section of its own, and a daemon wants the section of its role to be there. A file may have
/// several.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// `[node]`
    pub node: Node,
    /// `[etcd]`; without it the member list is the file `cluster.toml`.
    pub etcd: Option<Etcd>,
    /// `[dpdk]`; always there with `[ingress]` or `[flowtracker]`.
    pub dpdk: Option<Dpdk>,
    /// `[ingress]`
    pub ingress: Option<Ingress>,
    /// `[flowtracker]`
    pub flowtracker: Option<FlowTracker>,
    /// `[yann]`
    pub yann: Option<Yann>,
    /// `[[health]]`, for the agent.
    pub health: Vec<HealthCheck>,
    /// `[admission]`, for the agent.
    pub admission: HostLimits,
    /// Name and text of the file, for what can only be checked against the cluster.
    source: (String, String),
}

/// `[node]`: who this host is, and how it speaks to its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `name`: this host's `name` in `cluster.toml`. Required.
    pub name: String,
    /// `admin`: where `/metrics`, `/healthz`, `/readyz` and `/status` are served. A loopback address with port, or
    /// `unix:/path`. Default `127.0.0.1:9750`. Nothing there is authenticated, so another address needs
    /// `admin_exposed = true`.
    pub admin: Admin,
    /// `log`: least important level that is logged: `error`, `warn`, `info` (default), `debug`, `trace`.
    pub log: LogLevel,
    /// `log_format`: `human` (default) or `json`, one object a line.
    pub log_format: LogFormat,
}

/// Where the admin endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// A Unix socket at this path, for the owner and group only.
    Unix(PathBuf),
}

impl fmt::Display for Admin {
    /// As it is written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What broke.
    Error,
    /// What is worth waking someone.
    Warn,
    /// What an operator did or would want to know afterwards.
    #[default]
    Info,
    /// For finding mistakes.
    Debug,
    /// Up to every packet.
    Trace,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// `[dpdk]`: the port and the cores of an ingress or tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpdk {
    /// `port`: DPDK device argument: a PCI address (`0000:01:00.0`) or a virtual device
    /// (`net_af_packet0,iface=eth0`). Required.
    pub port: String,
    /// `interface`: the kernel's interface on the same wire: its addresses, routes and neighbours are used. Default:
    /// the `iface=` of `port`; required when `port` has none.
    pub interface: String,
    /// `exception_port`: DPDK device argument of the port's way to the kernel, where `port` is no kernel interface
    /// itself: what is neither JLB's nor a client's goes there, and what comes from there leaves by `port`. It has a queue
    /// for each worker; `interface` is its other end. Default: none.
    pub exception_port: Option<String>,
    /// `hugepages`: whether packet memory comes from huge pages. Default true.
    pub hugepages: bool,
    /// `memory_mb`: MiB of packet memory, 64 to 65536. Default 256.
    pub memory_mb: u32,
    /// `buffers`: packet buffers, 2048 to 1048576. Default 16384. Each costs 2.5 KB of `memory_mb`, so 40 MB; without
    /// huge pages 4 KB, so 64 MB.
    pub buffers: u32,
    /// `workers`: threads that forward packets, 1 to 16. Default: as many as `cores` names, else 1.
    pub workers: u8,
    /// `cores`: the CPU of each worker, 0 to 1023, all different. Default: none, the kernel places the workers.
    pub cores: Vec<u16>,
    /// `mtu`: bytes of the largest IP packet on the port, 1280 to 1920. Default 1500. Not less than `underlay.mtu`.
    /// A kernel interface keeps the MTU that it has, which must be as large.
    pub mtu: u16,
    /// `idle`: what a worker without packets does: `backoff` (default) sleeps, doubling to 1 ms after 10 ms without
    /// client packets; `spin` polls on, for the lowest latency at one core per worker.
    pub idle: Idle,
}

/// What a worker without packets does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps, longer and longer.
    #[default]
    Backoff,
    /// Polls on.
    Spin,
}

/// `[ingress]`: sizes, for all workers of the host together. All memory is taken at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// `flow_capacity`: flows that it remembers, 1024 to 67108864. Default 1048576. Each costs about 31 bytes: 33 MB.
    /// A full table refuses new flows.
    pub flow_capacity: u32,
    /// `pending_capacity`: flows that wait for a backend's answer, 64 to 65536. Default 16384. Each costs about
    /// 250 bytes, 4 MB, and while it waits up to 9 of `dpdk.buffers`; all together never take more than half of those.
    /// When full, new flows are dropped; the clients' SYNs come again.
    pub pending_capacity: u32,
    /// `[ingress.announce]`: how VIPs are announced; without it they are not.
    pub announce: Option<Announce>,
}

/// `[ingress.announce]`: each VIP is a route in a kernel table of its own while this host takes its packets, for BIRD or
/// another routing daemon to tell the routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// `table`: number of the kernel table, 1 to 4294967295 without 253 to 255, which are the kernel's own. Default 177.
    pub table: u32,
}

/// `[flowtracker]`: sizes, for all workers of the host together. All memory is taken at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTracker {
    /// `flow_capacity`: assignments that it keeps, 1024 to 67108864. Default 1048576. Each costs about 120 bytes:
    /// 124 MB. A full table refuses new flows.
    pub flow_capacity: u32,
    /// `pending_capacity`: assignments that wait for a backend's answer, 64 to 65536. Default 65536. Each costs about
    /// 200 bytes: 13 MB.
    pub pending_capacity: u32,
    /// `remembered_capacity`: closed flows that are remembered for 4 s (tombstones), and as many refusals, 1024 to
    /// 16777216. Default 262144. Both together cost about 130 bytes: 34 MB.
    pub remembered_capacity: u32,
}

/// `[yann]`: the agent of a backend host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Yann {
    /// `interfaces`: the kernel interfaces on which packets of the underlay arrive, 1 to 8. Required.
    pub interfaces: Vec<String>,
    /// `bpf_pins`: directory on a bpffs where programs and maps are pinned, so that they outlive the daemon. Default
    /// `/sys/fs/bpf/jlb`.
    pub bpf_pins: PathBuf,
    /// `flow_capacity`: live flows of this host, 1024 to 4194304. Default 262144. Each costs about 200 bytes of kernel
    /// memory: 52 MB. When full, new flows are refused.
    pub flow_capacity: u32,
    /// `answers_capacity`: answers to flows rejected or closed in the last 8 s, 1024 to 4194304. Default 262144. Each
    /// costs about 150 bytes of kernel memory: 39 MB.
    pub answers_capacity: u32,
    /// `max_connections`: live flows of all services that this host takes, 1 to 4294967295. Default: no limit.
    pub max_connections: Option<NonZeroU32>,
}

const DEFAULT_ADMIN: SocketAddr =
    SocketAddr::new(core::net::IpAddr::V4(core::net::Ipv4Addr::LOCALHOST), 9750);
/// Bytes of packet memory that one buffer of 2048 + 128 bytes takes with its header and padding.
const BUFFER_COST: u64 = 2560;
/// Without huge pages: none crosses the end of an ordinary page, so each takes a whole one.
const BUFFER_COST_ORDINARY: u64 = 4096;
/// MiB that DPDK takes besides.
const OTHER_MEMORY: u64 = 4;
/// A control message's cookie and sequence number name the worker in few bits.
const MAX_WORKERS: u64 = 16;

impl Host {
    /// Reads the text of a `jlb.toml`. `name` is what the mistakes call the file.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Mistakes> {
        let file = File::new(name, text);
        let table = file.parse()?;
        let mut root = Table::root(&file, &table);
        let node = match root.required("node", "add a section [node] with name = \"…\"") {
            Some(item) => item.table("write a section: [node]").and_then(node),
            None => None,
        };
        let etcd = root.section("etcd").map(etcd::etcd);
        let dpdk = root.section("dpdk").map(dpdk);
        let ingress = root.section("ingress").map(ingress);
        let flowtracker = root.section("flowtracker").map(flowtracker);
        let yann = root.section("yann").map(yann);
        let health = health::health(&mut root);
        let admission = root.section("admission").map(health::admission);
        for (there, section) in
            [(ingress.is_some(), "ingress"), (flowtracker.is_some(), "flowtracker")]
        {
            if there && dpdk.is_none() && root.optional("dpdk").is_none() {
                let span = root.optional(section).map_or(0..0, |i| i.span);
                let what = format!("[{section}] needs a port, and there is no section [dpdk]");
                file.mistake(span, "dpdk", what, "add [dpdk] with port = \"…\"");
            }
        }
        for section in ["admission", "health"] {
            if let Some(item) = root.optional(section).filter(|_| yann.is_none()) {
                item.mistake(
                    "this is for the agent, and there is no section [yann]",
                    "delete it, or add [yann] with interfaces = [\"…\"]",
                );
            }
        }
        root.finish();
        let host = (|| {
            Some(Self {
                node: node?,
                etcd: etcd.flatten(),
                dpdk: dpdk.flatten(),
                ingress: ingress.flatten(),
                flowtracker: flowtracker.flatten(),
                yann: yann.flatten(),
                health: health?,
                admission: admission.flatten().unwrap_or_default(),
                source: (name.to_owned(), text.to_owned()),
            })
        })();
        match host {
            Some(host) if file.is_clean() => Ok(host),
            Some(_) | None => Err(file.mistakes()),
        }
    }

    /// Reads the files that `[etcd]` names; nothing without `[etcd]`. Relative paths start at this file.
    ///
    /// # Errors
    /// Mistakes in this file, for files that cannot be read, are open to others, or hold something else.
    pub fn etcd_secrets(
        &self,
        read: &mut dyn FnMut(&Path) -> io::Result<KeyFile>,
    ) -> Result<EtcdSecrets, Mistakes> {
        let file = File::new(&self.source.0, &self.source.1);
        let table = file.parse()?;
        let section = Table::root(&file, &table).section("etcd");
        match (&self.etcd, section) {
            (Some(etcd), Some(mut t)) => etcd::secrets(&file, &mut t, etcd, read),
            (Some(_) | None, _) => Ok(EtcdSecrets::default()),
        }
    }

    /// Checks that the section of the daemon's role is there.
    ///
    /// # Errors
    /// A mistake in this file, when it is not.
    pub fn require(&self, role: MemberRole) -> Result<(), Mistakes> {
        let file = File::new(&self.source.0, &self.source.1);
        self.require_in(&file, role);
        if file.is_clean() { Ok(()) } else { Err(file.mistakes()) }
    }

    fn require_in(&self, file: &File<'_>, role: MemberRole) {
        if !self.has(role) {
            let section = if role == MemberRole::Backend { "yann" } else { role.label() };
            let what = format!(
                "there is no section [{section}], so this host is not configured as {role}"
            );
            file.mistake(0..0, section, what, format!("add [{section}]"));
        }
    }

    /// Finds this host in the cluster: the member of that name, which must have the daemon's role.
    ///
    /// # Errors
    /// Mistakes in this file: its section is missing, no such member, a member of another role, or a port that carries
    /// less than the underlay.
    pub fn find_in(&self, cluster: &Snapshot, role: MemberRole) -> Result<MemberId, Mistakes> {
        let file = File::new(&self.source.0, &self.source.1);
        let table = file.parse()?;
        let found = self.look_in(&file, &mut Table::root(&file, &table), cluster, role);
        found.filter(|_| file.is_clean()).ok_or_else(|| file.mistakes())
    }

    /// Checks everything that can be wrong between this file and the cluster. That is more than [`Self::find_in`] asks for: a
    /// list may take a service away from this host at any time, and its checks rest then.
    ///
    /// # Errors
    /// Those of [`Self::find_in`], and checks of what this host does not serve.
    pub fn check_against(&self, cluster: &Snapshot, role: MemberRole) -> Result<(), Mistakes> {
        let file = File::new(&self.source.0, &self.source.1);
        let table = file.parse()?;
        let mut root = Table::root(&file, &table);
        if let Some(me) = self.look_in(&file, &mut root, cluster, role) {
            health::find_services(&mut root, cluster, role, me);
        }
        if file.is_clean() { Ok(()) } else { Err(file.mistakes()) }
    }

    fn look_in(
        &self,
        file: &File<'_>,
        root: &mut Table<'_>,
        cluster: &Snapshot,
        role: MemberRole,
    ) -> Option<MemberId> {
        self.require_in(file, role);
        let member = cluster.member_by_name(&self.node.name);
        let name = root.section("node").and_then(|mut t| t.optional("name"));
        match (member, name) {
            (None, Some(item)) => {
                let what = format!("the cluster has no member named `{}`", self.node.name);
                item.mistake(
                    what,
                    "write the name that this host has in cluster.toml, or add it there",
                );
            }
            (Some(m), Some(item)) if m.role != role => {
                let what = format!("`{}` is {} in the cluster, not {role}", m.name, m.role);
                item.mistake(what, "correct the name here, or the role in cluster.toml");
            }
            (Some(_) | None, _) => {}
        }
        if let Some(dpdk) =
            self.dpdk.as_ref().filter(|d| role != MemberRole::Backend && d.mtu < cluster.mtu())
        {
            let what = format!(
                "the port carries {} bytes, but the underlay's mtu is {}",
                dpdk.mtu,
                cluster.mtu()
            );
            let mut section = root.section("dpdk");
            let item =
                section.as_mut().and_then(|t| t.optional("mtu").or_else(|| t.optional("port")));
            let span = item.map_or(0..0, |i| i.span);
            file.mistake(
                span,
                "dpdk.mtu",
                what,
                "raise dpdk.mtu, or lower underlay.mtu in cluster.toml",
            );
        }
        member.map(|m| m.id)
    }

    /// Whether the section of a role is there, which the daemon of that role asks for.
    #[must_use]
    pub const fn has(&self, role: MemberRole) -> bool {
        match role {
            MemberRole::Ingress => self.ingress.is_some(),
            MemberRole::FlowTracker => self.flowtracker.is_some(),
            MemberRole::Backend => self.yann.is_some(),
        }
    }
}

fn node(mut t: Table<'_>) -> Option<Node> {
    let name = t.required("name", "write this host's name in cluster.toml: name = \"ingress-1\"");
    let name = name.and_then(|i| i.filled("write this host's name in cluster.toml"));
    let exposed = t.boolean("admin_exposed", false);
    let admin = match t.optional("admin") {
        Some(item) => admin(&item, exposed == Some(true)),
        None => Some(Admin::Tcp(DEFAULT_ADMIN)),
    };
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let log = t.word("log", LogLevel::Info, &levels);
    let log_format = t.word(
        "log_format",
        LogFormat::Human,
        &[("human", LogFormat::Human), ("json", LogFormat::Json)],
    );
    t.finish();
    Some(Node { name: name?, admin: admin?, log: log?, log_format: log_format? })
}

fn admin(item: &Item<'_>, exposed: bool) -> Option<Admin> {
    let mend = "write an address with port, \"127.0.0.1:9750\", or a socket's path, \"unix:/run/jlb/admin.sock\"";
    let text = item.text(mend)?;
    if let Some(path) = text.strip_prefix("unix:") {
        // sun_path has 108 bytes with the final zero.
        if !path.starts_with('/') || path.len() > 107 {
            item.mistake(format!("`{path}` is no absolute path of at most 107 bytes"), mend);
            return None;
        }
        return Some(Admin::Unix(path.into()));
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        item.mistake(format!("`{text}` is no address with a port"), mend);
        return None;
    };
    if address.port() == 0 {
        item.mistake("port 0 would be another one at every start", "write a port from 1 to 65535");
        return None;
    }
    if !address.ip().is_loopback() && !exposed {
        let what = format!(
            "{} can be reached from other hosts, and nothing here is authenticated",
            address.ip()
        );
        item.mistake(
            what,
            "use a loopback address or a Unix socket; if it is meant, add admin_exposed = true",
        );
        return None;
    }
    Some(Admin::Tcp(address))
}

fn dpdk(mut t: Table<'_>) -> Option<Dpdk> {
    let mend =
        "write a PCI address, \"0000:01:00.0\", or a virtual device, \"net_af_packet0,iface=eth0\"";
    let port = t.required("port", mend).and_then(|i| i.filled(mend));
    let interface = match (t.optional("interface"), &port) {
        (Some(item), _) => item.interface(),
        (None, Some(port)) => port_interface(&mut t, port),
        (None, None) => None,
    };
    let exception_port = exception_port(&mut t, port.as_deref(), interface.as_deref());
    let hugepages = t.boolean("hugepages", true);
    let memory_mb = t.number("memory_mb", 256, &(64..=65_536), "a number of MiB");
    let buffers = t.number("buffers", 16_384, &(2048..=1_048_576), "a number of packet buffers");
    let cost = if hugepages == Some(false) { BUFFER_COST_ORDINARY } else { BUFFER_COST };
    if let (Some(memory), Some(buffers)) = (memory_mb, buffers)
        && let need = (buffers * cost).div_ceil(1 << 20) + OTHER_MEMORY
        && need > memory
        && let Some(item) = t.optional("buffers").or_else(|| t.optional("memory_mb"))
    {
        let what = format!("{buffers} buffers need {need} MiB, and memory_mb is {memory}");
        item.mistake(what, format!("set memory_mb = {need} or more, or fewer buffers"));
    }
    let cores = cores(&mut t);
    let default = cores.as_ref().map_or(1, |c| c.len().max(1)) as u64;
    let workers = t.number("workers", default, &(1..=MAX_WORKERS), "a number of threads");
    if let (Some(workers), Some(cores)) = (workers, &cores)
        && !cores.is_empty()
        && cores.len() as u64 != workers
        && let Some(item) = t.optional("workers")
    {
        let n = cores.len();
        item.mistake(
            format!("there are {workers} workers for {n} cores"),
            "name one core for each worker",
        );
    }
    let mtu = t.number(
        "mtu",
        DEFAULT_MTU.into(),
        &(MIN_MTU.into()..=MAX_MTU.into()),
        "a number of bytes",
    );
    let idle = t.word("idle", Idle::Backoff, &[("backoff", Idle::Backoff), ("spin", Idle::Spin)]);
    t.finish();
    Some(Dpdk {
        port: port?,
        interface: interface?,
        exception_port: exception_port?,
        hugepages: hugepages?,
        memory_mb: memory_mb? as u32,
        buffers: buffers? as u32,
        workers: workers? as u8,
        cores: cores?,
        mtu: mtu? as u16,
        idle: idle?,
    })
}

/// Outer `None`: there was a mistake.
fn exception_port(
    t: &mut Table<'_>,
    port: Option<&str>,
    interface: Option<&str>,
) -> Option<Option<String>> {
    let mend = "write a virtual device: exception_port = \"net_af_packet1,iface=jlb0-port\"";
    let Some(item) = t.optional("exception_port") else { return Some(None) };
    if port.is_some_and(|port| port.split(',').any(|argument| argument.starts_with("iface="))) {
        let what = "the port is a kernel interface, so that the kernel sees all that comes already";
        item.mistake(what, "delete exception_port");
        return None;
    }
    let text = item.filled(mend)?;
    let on = text.split(',').find_map(|argument| argument.strip_prefix("iface="));
    if on.is_some() && on == interface {
        let what = "this is the kernel's end of the pair: nothing would reach the kernel";
        item.mistake(what, "name the other end of `interface`");
        return None;
    }
    Some(Some(text))
}

fn port_interface(t: &mut Table<'_>, port: &str) -> Option<String> {
    let found = port.split(',').find_map(|argument| argument.strip_prefix("iface="));
    if found.is_none()
        && let Some(item) = t.optional("port")
    {
        let what = "this port names no kernel interface, and its addresses, routes and neighbours are needed";
        item.mistake(what, "add interface = \"…\", the kernel interface on the same wire");
    }
    found.map(str::to_owned)
}

fn cores(t: &mut Table<'_>) -> Option<Vec<u16>> {
    let Some(item) = t.optional("cores") else { return Some(Vec::new()) };
    let items = item.list("write a list of CPU numbers: cores = [2, 3]")?;
    if items.len() as u64 > MAX_WORKERS {
        let what = format!("{} cores, and there can be {MAX_WORKERS} workers", items.len());
        item.mistake(what, format!("name {MAX_WORKERS} cores or fewer"));
        return None;
    }
    let mut cores = Vec::new();
    for item in &items {
        let core = item.number(&(0..=1023), "a CPU number")? as u16;
        if cores.contains(&core) {
            item.mistake(
                format!("core {core} is named twice"),
                "name another core for each worker",
            );
        }
        cores.push(core);
    }
    Some(cores)
}

const FLOWS: RangeInclusive<u64> = 1024..=67_108_864;

fn ingress(mut t: Table<'_>) -> Option<Ingress> {
    let flow_capacity = t.number("flow_capacity", 1_048_576, &FLOWS, "a number of flows");
    let pending_capacity =
        t.number("pending_capacity", 16_384, &(64..=65_536), "a number of flows");
    let announce = t.section("announce").map(announce);
    t.finish();
    Some(Ingress {
        announce: match announce {
            Some(announce) => Some(announce?),
            None => None,
        },
        flow_capacity: flow_capacity? as u32,
        pending_capacity: pending_capacity? as u32,
    })
}

fn announce(mut t: Table<'_>) -> Option<Announce> {
    let table = t.number("table", 177, &(1..=u32::MAX.into()), "the number of a routing table")?;
    if (253..=255).contains(&table)
        && let Some(item) = t.optional("table")
    {
        item.mistake(
            format!("table {table} is one that the kernel itself routes by"),
            "use a table of its own: table = 177",
        );
    }
    t.finish();
    Some(Announce { table: table as u32 })
}

fn flowtracker(mut t: Table<'_>) -> Option<FlowTracker> {
    let flow_capacity = t.number("flow_capacity", 1_048_576, &FLOWS, "a number of flows");
    let pending_capacity =
        t.number("pending_capacity", 65_536, &(64..=65_536), "a number of flows");
    let remembered =
        t.number("remembered_capacity", 262_144, &(1024..=16_777_216), "a number of closed flows");
    t.finish();
    Some(FlowTracker {
        flow_capacity: flow_capacity? as u32,
        pending_capacity: pending_capacity? as u32,
        remembered_capacity: remembered? as u32,
    })
}

fn yann(mut t: Table<'_>) -> Option<Yann> {
    let mend = "write a list: interfaces = [\"eth0\"]";
    let interfaces = t.required("interfaces", mend).and_then(|item| {
        let items = item.list(mend)?;
        if items.is_empty() || items.len() > 8 {
            item.mistake(format!("{} interfaces; 1 to 8 are possible", items.len()), mend);
        }
        items.iter().map(Item::interface).collect::<Option<Vec<_>>>()
    });
    let bpf_pins = match t.optional("bpf_pins") {
        Some(item) => pins(&item),
        None => Some("/sys/fs/bpf/jlb".into()),
    };
    let capacity = 1024..=4_194_304;
    let flow_capacity = t.number("flow_capacity", 262_144, &capacity, "a number of flows");
    let answers_capacity = t.number("answers_capacity", 262_144, &capacity, "a number of answers");
    let max_connections = max_connections(&mut t);
    t.finish();
    Some(Yann {
        interfaces: interfaces?,
        bpf_pins: bpf_pins?,
        flow_capacity: flow_capacity? as u32,
        answers_capacity: answers_capacity? as u32,
        max_connections: max_connections?,
    })
}

fn pins(item: &Item<'_>) -> Option<PathBuf> {
    let mend = "write an absolute directory on a bpffs: \"/sys/fs/bpf/jlb\"";
    let text = item.filled(mend)?;
    if !text.starts_with('/') {
        item.mistake(format!("`{text}` is no absolute path"), mend);
        return None;
    }
    Some(text.into())
}

/// `max_connections` of anything: absent means no limit, and 0 is not a way to say that, nor to say "none".
pub(crate) fn max_connections(t: &mut Table<'_>) -> Option<Option<NonZeroU32>> {
    let Some(item) = t.optional("max_connections") else { return Some(None) };
    if item
        .value
        .as_integer()
        .is_some_and(|n| n.as_str().trim_start_matches(['+', '-', '0']).is_empty())
    {
        let mend = "for no limit delete the line; to take no connections write admission = \"refuse\" in the service, or \
                    drain = true in the member";
        item.mistake("max_connections = 0 says neither \"no limit\" nor \"none\"", mend);
        return None;
    }
    let n = item.number(&(1..=u32::MAX.into()), "a number of connections")?;
    Some(NonZeroU32::new(n as u32))
}
