use core::net::IpAddr;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use jlb_flow::HashKey;
use jlb_map::{
    Addresses, Admission, Backend, DEFAULT_GENEVE_PORT, DEFAULT_MTU, DEFAULT_REJECT_TTL,
    DEFAULT_WEIGHT, Family, Fault, Keys, MAX_MTU, MAX_REJECT_TTL, MAX_WEIGHT, MIN_MTU, Member,
    MemberRole, OnExhausted, Place, Policy, Prefix, Refusal, ReturnPath, Service, Snapshot, Spec,
    Succession, Underlay, check_successor,
};
use jlb_wire::{Epoch, MacKey, MacKeys, MemberId, Protocol, Version};

use crate::contradiction::{MemberSpans, ServiceSpans, Spans};
use crate::host::max_connections;
use crate::keys;
use crate::reader::{File, Item, Span, Table};
use crate::{KeyFile, Mistakes};

/// A `cluster.toml`, not yet read.
#[derive(Clone, Copy, Debug)]
pub struct ClusterFile<'a> {
    /// What the mistakes call it; its directory is where relative key paths start.
    pub name: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// What a `cluster.toml` says.
#[derive(Clone, Debug)]
pub struct ClusterList {
    /// The list.
    pub snapshot: Arc<Snapshot>,
    /// `forced_generation`: the last generation at which the loss of more than a third of a role at once was meant.
    pub forced_generation: Option<u64>,
}

impl ClusterList {
    /// Whether it may follow the list in force. It may lose more than a third of a role if that was meant at a
    /// generation which the list in force has not seen yet: a host that missed the forced list takes a later one, and
    /// a mark that stayed in the text forces nothing twice.
    ///
    /// # Errors
    /// Every reason against it.
    pub fn follows(&self, in_force: &Snapshot) -> Result<Succession, Vec<Refusal>> {
        let forced = self.forced_generation.is_some_and(|g| g > in_force.generation());
        check_successor(in_force, &self.snapshot, forced)
    }
}

/// Reads a `cluster.toml` and makes the snapshot. `read_key` gives the key files, whose paths are absolute or relative
/// to the working directory.
///
/// # Errors
/// Every mistake in it. What concerns several entries together is only looked for among those that could be read.
pub fn parse_cluster(
    source: ClusterFile<'_>,
    read_key: &mut dyn FnMut(&Path) -> std::io::Result<KeyFile>,
) -> Result<Arc<Snapshot>, Mistakes> {
    let directory = Path::new(source.name).parent().unwrap_or(Path::new(""));
    read_cluster(source, directory, read_key).map(|list| list.snapshot)
}

/// As [`parse_cluster`], of a text that need not be a file: relative key paths start at `directory`.
///
/// # Errors
/// As [`parse_cluster`].
pub fn read_cluster(
    source: ClusterFile<'_>,
    directory: &Path,
    read_key: &mut dyn FnMut(&Path) -> std::io::Result<KeyFile>,
) -> Result<ClusterList, Mistakes> {
    let mut key_files = KeyFiles { directory, read: read_key };
    let file = File::new(source.name, source.text);
    let table = file.parse()?;
    let mut root = Table::root(&file, &table);
    let mut spans = Spans::default();

    let generation = numbered(&mut root, "generation", u64::MAX >> 1, &mut spans.generation);
    let epoch = numbered(&mut root, "epoch", u32::MAX.into(), &mut spans.epoch);
    let forced_generation = forced_generation(&mut root, generation);
    let protocol = protocol(&mut root);
    let keys = root
        .required("keys", "add a section [keys] with hash_key_file and mac_key_files")
        .and_then(|item| {
            spans.keys = item.span.clone();
            read_keys(item.table("write a section: [keys]")?, &mut key_files)
        });
    let underlay = root.required("underlay", "add a section [underlay] with prefixes = [\"…\"]");
    let underlay =
        underlay.and_then(|i| read_underlay(i.table("write a section: [underlay]")?, &mut spans));

    let mut names = Names::default();
    let mut members = Vec::new();
    for (index, table) in root.tables("member").into_iter().enumerate() {
        members.extend(table.and_then(|t| member(index, t, &mut names, &mut spans.members)));
    }
    let mut services = Vec::new();
    for (index, table) in root.tables("service").into_iter().enumerate() {
        services.extend(table.and_then(|t| service(index, t, &names, &mut spans.services)));
    }
    root.finish();

    // Stand-ins let the rest be checked too; with a mistake the spec goes no further.
    let stand_in_keys =
        Keys { hash_key: HashKey([1; 16]), mac_keys: MacKeys::single(MacKey([1; 16])) };
    let (complete, have_underlay) = (file.is_clean(), underlay.is_some());
    let spec = Spec {
        generation: generation.unwrap_or(1),
        epoch: Epoch(epoch.unwrap_or(1)),
        protocol: protocol.unwrap_or(Version::OLDEST),
        keys: keys.unwrap_or(stand_in_keys),
        underlay: underlay.unwrap_or_else(no_underlay),
        members,
        services,
    };
    match Snapshot::build(spec) {
        Ok(snapshot) if complete => Ok(ClusterList { snapshot, forced_generation }),
        Ok(_) => Err(file.mistakes()),
        Err(problems) => {
            for p in &problems.0 {
                // With entries left out, these may only mean that.
                let missing =
                    matches!(p.fault, Fault::NoSuchMember(_)) || (p.place == Place::Members);
                let unknown = p.place == Place::Prefixes && !have_underlay;
                if complete || !(missing || unknown) {
                    spans.report(&file, p.place, &p.fault);
                }
            }
            Err(file.mistakes())
        }
    }
}

fn no_underlay() -> Underlay {
    Underlay {
        prefixes: Vec::new(),
        prefer: Family::V4,
        port: DEFAULT_GENEVE_PORT,
        mtu: DEFAULT_MTU,
    }
}

fn numbered<T: TryFrom<u64>>(
    root: &mut Table<'_>,
    key: &'static str,
    max: u64,
    span: &mut Span,
) -> Option<T> {
    let item = root.required(key, &format!("add {key} = 1, above all sections"))?;
    *span = item.span.clone();
    item.number(&(1..=max), "a number").and_then(|n| T::try_from(n).ok())
}

/// `forced_generation`: the last generation at which losing more than a third of a role at once was meant. `jlbctl
/// apply --force` writes it. Default: none.
fn forced_generation(root: &mut Table<'_>, generation: Option<u64>) -> Option<u64> {
    let item = root.optional("forced_generation")?;
    let forced = item.number(&(1..=(u64::MAX >> 1)), "a number")?;
    if let Some(generation) = generation.filter(|&g| forced > g) {
        item.mistake(
            format!("{forced} is above this list's own generation, {generation}"),
            "write the generation of the list that loses so much, or delete the line",
        );
    }
    Some(forced)
}

/// Of lists that name none, in every release.
const DEFAULT_PROTOCOL: Version = match Version::new(1) {
    Some(version) => version,
    None => panic!("a build that does not speak 1 any more must ask for the key"),
};

/// `protocol`: the version that the members speak to each other. Every build understands its own and the one before, so it
/// is raised when no host runs an older build any more. Default: 1.
fn protocol(root: &mut Table<'_>) -> Option<Version> {
    let Some(item) = root.optional("protocol") else { return Some(DEFAULT_PROTOCOL) };
    let number = item.number(&(1..=u8::MAX.into()), "a number")?;
    let version = u8::try_from(number).ok().and_then(Version::new);
    if version.is_none() {
        item.mistake(
            format!("this build does not speak version {number} of the protocol"),
            match (Version::OLDEST.as_u8(), Version::NEWEST.as_u8()) {
                (oldest, newest) if oldest == newest => format!("write {oldest}, or leave it out"),
                (oldest, newest) => format!("write {oldest} or {newest}"),
            },
        );
    }
    version
}

/// `[keys]`
///
/// - `hash_key_file`: file with the key that places flows. The same for the cluster's life. Required.
/// - `mac_key_files`: one or two files; the first signs, both are accepted. Required.
///
/// Each holds 32 hexadecimal digits and is its owner's alone (mode 0600). Relative paths start at this file.
fn read_keys(mut t: Table<'_>, files: &mut KeyFiles<'_>) -> Option<Keys> {
    let mend = "write the path of a file with 32 hexadecimal digits, mode 0600";
    let hash_key = t.required("hash_key_file", mend).and_then(|i| files.key(&i));
    let macs = t.required("mac_key_files", mend).and_then(|item| {
        let mend = "write a list of one or two paths; the first key signs, both are accepted";
        let items = item.list(mend)?;
        if items.is_empty() || items.len() > 2 {
            item.mistake(format!("{} keys; one or two are possible", items.len()), mend);
            return None;
        }
        let keys: Vec<_> = items.iter().map(|i| files.key(i)).collect();
        // What stays for life must not be what is changed after a leak.
        for (item, found) in items.iter().zip(&keys) {
            if found.is_some() && *found == hash_key {
                item.mistake(
                    "this is the hash key; a MAC key is another",
                    "make a key of its own for mac_key_files",
                );
                return None;
            }
        }
        if let [Some(first), Some(second)] = keys[..]
            && first == second
            && let Some(item) = items.get(1)
        {
            item.mistake(
                "both files hold the same key",
                "name one, or put the new key into its file",
            );
            return None;
        }
        let current = MacKey((*keys.first()?)?);
        match keys.get(1) {
            Some(other) => Some(MacKeys { current, other: Some(MacKey((*other)?)) }),
            None => Some(MacKeys::single(current)),
        }
    });
    t.finish();
    Some(Keys { hash_key: HashKey(hash_key?), mac_keys: macs? })
}

/// Where keys come from.
struct KeyFiles<'a> {
    /// Where relative paths start.
    directory: &'a Path,
    read: &'a mut dyn FnMut(&Path) -> std::io::Result<KeyFile>,
}

impl KeyFiles<'_> {
    fn key(&mut self, item: &Item<'_>) -> Option<[u8; 16]> {
        let path = self.directory.join(item.filled("write the path of a key file")?);
        let shown = path.display().to_string();
        let found = match (self.read)(&path) {
            Ok(file) => keys::key(&shown, &file),
            Err(e) => Err(keys::KeyFileError::new(shown, &e)),
        };
        found.map_err(|e| item.mistake(e.to_string(), e.mend())).ok()
    }
}

/// `[underlay]`
///
/// - `prefixes`: the networks of the members, 1 to 16. VIPs lie outside. Required.
/// - `prefer`: `"v4"` (default) or `"v6"`: what two members use that have both.
/// - `port`: UDP port of all JLB traffic, 1 to 65535. Default 6081.
/// - `mtu`: bytes of the largest IP packet between any two members, 1280 to 1920. Default 1500.
fn read_underlay(mut t: Table<'_>, spans: &mut Spans) -> Option<Underlay> {
    let mend = "name the networks of the members: prefixes = [\"10.1.0.0/24\"]";
    let prefixes = t.required("prefixes", mend).and_then(|item| {
        spans.prefixes = item.span.clone();
        item.list(mend)?.iter().map(prefix).collect::<Option<Vec<_>>>()
    });
    let prefer = t.word("prefer", Family::V4, &[("v4", Family::V4), ("v6", Family::V6)]);
    let port = t.number("port", DEFAULT_GENEVE_PORT.into(), &(1..=65_535), "a port");
    let mtu = t.number(
        "mtu",
        DEFAULT_MTU.into(),
        &(MIN_MTU.into()..=MAX_MTU.into()),
        "a number of bytes",
    );
    t.finish();
    Some(Underlay { prefixes: prefixes?, prefer: prefer?, port: port? as u16, mtu: mtu? as u16 })
}

fn prefix(item: &Item<'_>) -> Option<Prefix> {
    let mend = "write address and length: \"10.1.0.0/24\", \"fd00:1::/64\"";
    let text = item.text(mend)?;
    text.parse().map_err(|e| item.mistake(format!("`{text}` is no prefix: {e}"), mend)).ok()
}

/// Names of members, for the services to refer to.
#[derive(Default)]
struct Names {
    ids: HashMap<String, MemberId>,
    /// Of members with a mistake: nothing more is said where they are used.
    broken: Vec<String>,
}

/// `[[member]]`
///
/// - `id`: 1 to 4095, its own for life: never given to another host. Required.
/// - `name`: 1 to 63 letters, digits, `.`, `_`, `-`; unique. Required.
/// - `role`: `"ingress"`, `"flowtracker"` or `"backend"`. Required.
/// - `addresses`: one underlay address, or one per family. Required.
/// - `drain`: true: gets no new flows, and keeps what it has. Default false.
fn member(
    index: usize,
    mut t: Table<'_>,
    names: &mut Names,
    spans: &mut Vec<MemberSpans>,
) -> Option<Member> {
    let id = t.required("id", "give it a number from 1 to 4095 that no member has or had");
    let name = t.required("name", "give it a name: name = \"backend-1\"");
    let role = t.required("role", "write role = \"ingress\", \"flowtracker\" or \"backend\"");
    let addresses =
        t.required("addresses", "write its underlay address: addresses = [\"10.1.0.11\"]");
    let drain = t.boolean("drain", false);
    t.finish();

    let number = id.as_ref().and_then(|i| i.number(&(1..=MemberId::MAX.into()), "a number"));
    let member_id = number.and_then(|n| MemberId::new(n as u16));
    let role = role.and_then(|i| i.word(&MemberRole::ALL.map(|r| (r.label(), r))));
    let text = name.as_ref().and_then(|i| i.text("write a name in quotes"))?;
    let parsed = addresses.as_ref().and_then(addresses_of);
    let (Some(member_id), Some(role), Some(parsed), Some(drain)) = (member_id, role, parsed, drain)
    else {
        names.broken.push(text.to_owned());
        return None;
    };
    names.ids.insert(text.to_owned(), member_id);
    let span = |item: Option<Item<'_>>| item.map_or(0..0, |i| i.span);
    spans.push(MemberSpans { index, id: span(id), name: span(name), addresses: span(addresses) });
    Some(Member { id: member_id, name: text.to_owned(), role, addresses: parsed, drain })
}

fn addresses_of(item: &Item<'_>) -> Option<Addresses> {
    let items = item.list("write a list: addresses = [\"10.1.0.11\", \"fd00:1::11\"]")?;
    let mut addresses = Addresses::default();
    for item in &items {
        let twice = match item.ip()? {
            IpAddr::V4(ip) => addresses.v4.replace(ip).is_some(),
            IpAddr::V6(ip) => addresses.v6.replace(ip).is_some(),
        };
        if twice {
            item.mistake("a second address of the same family", "keep one address per family");
            return None;
        }
    }
    Some(addresses)
}

const ADMISSION: [(&str, Admission); 2] =
    [("accept", Admission::Accept), ("refuse", Admission::Refuse)];

/// `[[service]]`
///
/// - `name`: as a member's. Required.
/// - `vips`: the addresses that clients connect to, 1 to 16, outside the underlay. Required.
/// - `port`: 1 to 65535, at VIP and backends alike. Required.
/// - `protocol`: `"tcp"` or `"udp"`. Required.
/// - `backends`: names of members, or tables `{ member, weight, admission, max_connections }`, 1 to 1024. Required.
/// - `policy`: how a tracker picks a backend: `"least-connections"` (default), `"power-of-two"`, `"random"`,
///   `"round-robin"`, `"max-connections"`, `"consistent-hash"` (256 KiB per service).
/// - `reject_ttl`: further backends tried when one refuses, 0 to 3. Default 3.
/// - `on_exhausted`: when all refused: `"reset"` (default), `"drop"`, `"force"`.
/// - `return_path`: `"egress"` (default) or `"direct"`.
/// - `admission`: `"accept"` (default) or `"refuse"`.
/// - `max_connections`: of each backend that has none of its own. Default: no limit.
fn service(
    index: usize,
    mut t: Table<'_>,
    names: &Names,
    spans: &mut Vec<ServiceSpans>,
) -> Option<Service> {
    let name = t.required("name", "give it a name: name = \"web\"");
    let vips = t.required("vips", "name the addresses for clients: vips = [\"203.0.113.10\"]");
    let port = t.required("port", "write the port that clients connect to: port = 80");
    let protocol = t.required("protocol", "write protocol = \"tcp\" or \"udp\"");
    let backends =
        t.required("backends", "name the members that serve it: backends = [\"backend-1\"]");
    let policy = t.word("policy", Policy::default(), &Policy::ALL.map(|p| (p.label(), p)));
    let ttl = t.number(
        "reject_ttl",
        DEFAULT_REJECT_TTL.into(),
        &(0..=MAX_REJECT_TTL.into()),
        "a number of tries",
    );
    let exhausted =
        [("reset", OnExhausted::Reset), ("drop", OnExhausted::Drop), ("force", OnExhausted::Force)];
    let on_exhausted = t.word("on_exhausted", OnExhausted::Reset, &exhausted);
    let paths = [("egress", ReturnPath::Egress), ("direct", ReturnPath::Direct)];
    let return_path = t.word("return_path", ReturnPath::Egress, &paths);
    let admission = t.word("admission", Admission::Accept, &ADMISSION);
    let limit = max_connections(&mut t);
    t.finish();

    let vip_items = items(vips.as_ref(), "write a list: vips = [\"203.0.113.10\"]");
    let backend_items = items(backends.as_ref(), "write a list: backends = [\"backend-1\"]");
    let parsed_vips: Vec<_> = vip_items.iter().map(Item::ip).collect();
    let parsed_backends: Vec<_> = backend_items.iter().map(|i| backend(i, names)).collect();
    let port_number = port.as_ref().and_then(|i| i.number(&(1..=65_535), "a port"));
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = protocol.and_then(|i| i.word(&protocols));
    let text = name.as_ref().and_then(|i| i.text("write a name in quotes"));

    let limit = limit?;
    let mut backends_of = parsed_backends.into_iter().collect::<Option<Vec<_>>>()?;
    for b in &mut backends_of {
        b.max_connections = b.max_connections.or(limit);
    }
    let service = Service {
        name: text?.to_owned(),
        vips: parsed_vips.into_iter().collect::<Option<_>>()?,
        port: port_number? as u16,
        protocol: protocol?,
        backends: backends_of,
        policy: policy?,
        reject_ttl: ttl? as u8,
        on_exhausted: on_exhausted?,
        return_path: return_path?,
        admission: admission?,
    };
    spans.push(ServiceSpans {
        index,
        table: t.span.clone(),
        name: name?.span,
        vips: vips?.span,
        each_vip: vip_items.into_iter().map(|i| i.span).collect(),
        port: port?.span,
        backends: backends?.span,
        each_backend: backend_items.into_iter().map(|i| i.span).collect(),
    });
    Some(service)
}

fn items<'a>(list: Option<&Item<'a>>, mend: &str) -> Vec<Item<'a>> {
    list.and_then(|i| i.list(mend)).unwrap_or_default()
}

fn backend(item: &Item<'_>, names: &Names) -> Option<Backend> {
    if item.value.as_str().is_some() {
        return named(item, names).map(Backend::new);
    }
    let mend = "write a member's name, or a table: { member = \"backend-1\", weight = 50 }";
    let mut t = item.table(mend)?;
    let member = t.required("member", mend).and_then(|i| named(&i, names));
    let weight = t.number("weight", DEFAULT_WEIGHT.into(), &(1..=MAX_WEIGHT.into()), "a weight");
    let admission = t.word("admission", Admission::Accept, &ADMISSION);
    let limit = max_connections(&mut t);
    t.finish();
    Some(Backend {
        member: member?,
        weight: weight? as u16,
        admission: admission?,
        max_connections: limit?,
    })
}

fn named(item: &Item<'_>, names: &Names) -> Option<MemberId> {
    let text = item.text("write a member's name in quotes")?;
    let id = names.ids.get(text).copied();
    if id.is_none() && !names.broken.iter().any(|b| b == text) {
        item.mistake(
            format!("no member is named `{text}`"),
            "correct the name, or add a [[member]] for it",
        );
    }
    id
}
