//! What is different between two member lists, in words.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use jlb_map::{Backend, Member, Service, Snapshot};
use jlb_node::serde_json::{Value, json};

/// One thing that is there now, is gone, or is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    kind: Kind,
    /// Of what: `member`, `service`, or a part of the list that has no name.
    what: &'static str,
    name: String,
    /// Each property that changed, before and after.
    fields: Vec<(String, Option<String>, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Added,
    Removed,
    Changed,
}

impl fmt::Display for Change {
    /// `+ member backend-5: id 105, role backend, address 10.1.0.105`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            Kind::Added => '+',
            Kind::Removed => '-',
            Kind::Changed => '~',
        };
        let name = if self.name.is_empty() { String::new() } else { format!(" {}", self.name) };
        write!(f, "{sign} {}{name}", self.what)?;
        let fields = self.fields.iter().map(|(key, before, after)| match (before, after) {
            (Some(before), Some(after)) => format!("{key} {before} → {after}"),
            (None, Some(after)) if self.kind == Kind::Changed => format!("{key} added: {after}"),
            (None, Some(after)) => format!("{key} {after}"),
            (Some(_) | None, None) => format!("{key} removed"),
        });
        let fields: Vec<_> = fields.collect();
        if fields.is_empty() { Ok(()) } else { write!(f, ": {}", fields.join(", ")) }
    }
}

impl Change {
    pub(crate) fn to_json(&self) -> Value {
        let kind = match self.kind {
            Kind::Added => "added",
            Kind::Removed => "removed",
            Kind::Changed => "changed",
        };
        let fields = self
            .fields
            .iter()
            .map(|(key, before, after)| json!({ "field": key, "before": before, "after": after }));
        json!({ "change": kind, "what": self.what, "name": self.name, "fields": fields.collect::<Vec<_>>() })
    }
}

type Fields = BTreeMap<String, String>;

/// Everything that `new` has otherwise than `old`, but for the numbers.
pub(crate) fn changes(old: Option<&Snapshot>, new: &Snapshot) -> Vec<Change> {
    let mut out = Vec::new();
    let protocol = |list: &Snapshot| {
        Fields::from([("version".to_owned(), list.protocol().as_u8().to_string())])
    };
    let before = old.map(protocol).unwrap_or_default();
    compare("protocol", &before, &protocol(new), &mut out);
    let before = old.map(underlay).unwrap_or_default();
    compare("underlay", &before, &underlay(new), &mut out);
    if let Some(old) = old {
        // Of the keys only this may be told.
        if old.keys().hash_key != new.keys().hash_key {
            out.push(change(Kind::Changed, "hash key", String::new()));
        }
        if old.keys().mac_keys != new.keys().mac_keys {
            out.push(change(Kind::Changed, "MAC keys", String::new()));
        }
    }
    // By id, which a member keeps for life; so a new name is a change.
    let members = |s: &Snapshot| {
        s.members().iter().map(|m| (m.id.as_u16().into(), named(m))).collect::<BTreeMap<u64, _>>()
    };
    compare_all("member", &old.map(members).unwrap_or_default(), &members(new), &mut out);
    let services = |s: &Snapshot| {
        s.services()
            .iter()
            .map(|v| (v.name.clone(), (v.name.clone(), service(v, s))))
            .collect::<BTreeMap<_, _>>()
    };
    compare_all("service", &old.map(services).unwrap_or_default(), &services(new), &mut out);
    out
}

fn compare_all<K: Ord>(
    what: &'static str,
    old: &BTreeMap<K, (String, Fields)>,
    new: &BTreeMap<K, (String, Fields)>,
    out: &mut Vec<Change>,
) {
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        match (old.get(key), new.get(key)) {
            (Some((_, before)), Some((name, after))) => {
                let at = out.len();
                compare(what, before, after, out);
                out[at..].iter_mut().for_each(|c| c.name.clone_from(name));
            }
            (None, Some((name, fields))) => {
                let fields = fields.iter().map(|(k, v)| (k.clone(), None, Some(v.clone())));
                let added = change(Kind::Added, what, name.clone());
                out.push(Change { fields: fields.collect(), ..added });
            }
            (Some((name, _)), None) => out.push(change(Kind::Removed, what, name.clone())),
            (None, None) => {}
        }
    }
}

fn compare(what: &'static str, old: &Fields, new: &Fields, out: &mut Vec<Change>) {
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let different = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    let fields: Vec<_> =
        different.map(|key| (key.clone(), old.get(key).cloned(), new.get(key).cloned())).collect();
    if !fields.is_empty() {
        let kind = if old.is_empty() { Kind::Added } else { Kind::Changed };
        out.push(Change { fields, ..change(kind, what, String::new()) });
    }
}

fn change(kind: Kind, what: &'static str, name: String) -> Change {
    Change { kind, what, name, fields: Vec::new() }
}

fn underlay(s: &Snapshot) -> Fields {
    fields([
        ("prefixes", list(s.underlay_prefixes())),
        ("prefer", s.prefer().to_string()),
        ("port", s.geneve_port().to_string()),
        ("mtu", s.mtu().to_string()),
    ])
}

fn named(m: &Member) -> (String, Fields) {
    let of = [
        ("id", m.id.to_string()),
        ("name", m.name.clone()),
        ("role", m.role.to_string()),
        ("addresses", list(&m.addresses.iter().collect::<Vec<_>>())),
        ("drain", m.drain.to_string()),
    ];
    (m.name.clone(), fields(of))
}

fn service(v: &Service, s: &Snapshot) -> Fields {
    let mut all = fields([
        ("vips", list(&v.vips)),
        ("port", v.port.to_string()),
        ("protocol", v.protocol.label().to_owned()),
        ("policy", word(&v.policy)),
        ("reject_ttl", v.reject_ttl.to_string()),
        ("on_exhausted", word(&v.on_exhausted)),
        ("return_path", word(&v.return_path)),
        ("admission", word(&v.admission)),
    ]);
    all.extend(v.backends.iter().map(|b| {
        let name = s.member(b.member).map_or_else(|| b.member.to_string(), |m| m.name.clone());
        (format!("backend {name}"), backend(b))
    }));
    all
}

fn backend(b: &Backend) -> String {
    let limit = b.max_connections.map(|n| format!(" max_connections {n}")).unwrap_or_default();
    format!("(weight {} admission {}{limit})", b.weight, word(&b.admission))
}

fn fields<const N: usize>(of: [(&str, String); N]) -> Fields {
    of.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// A variant's name as the configuration writes it: `PowerOfTwo` is `power-of-two`.
fn word(variant: &impl fmt::Debug) -> String {
    let mut out = String::new();
    for c in format!("{variant:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
