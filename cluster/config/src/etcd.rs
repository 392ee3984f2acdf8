use core::fmt;
use core::net::SocketAddr;
use std::io;
use std::path::{Path, PathBuf};

use crate::reader::{File, Item, Table};
use crate::{KeyFile, Mistakes};

/// `[etcd]`: the member list comes from etcd instead of `cluster.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// `endpoints`: URLs of 1 to 9 etcd servers of one cluster, all `http://` or all `https://`, with port. Required.
    /// With `http://` whoever reaches the port may rewrite the member list.
    pub endpoints: Vec<String>,
    /// `prefix`: what the names of this cluster's keys in etcd begin with; starts and ends with `/`, at most 255
    /// bytes. Default `/jlb/`.
    pub prefix: String,
    /// `ca_file`: PEM file with the authority that signed the servers' certificates. Required with `https://`.
    pub ca_file: Option<PathBuf>,
    /// `cert_file` and `key_file`: PEM files with this host's certificate and key, if the servers ask for one. The
    /// key's file has mode 0600.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `user` and `password_file`: for servers with authentication. The file holds the password and has mode 0600.
    pub user: Option<(String, PathBuf)>,
    /// `state_dir`: directory for the copy of the last good list, from which the daemon starts when etcd does not
    /// answer. Made when it is not there. Default `/var/lib/jlb`.
    pub state_dir: PathBuf,
}

/// What the files named in `[etcd]` hold. `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EtcdSecrets {
    /// PEM of the authority.
    pub ca: Option<String>,
    /// PEM of this host's certificate, and of its key.
    pub identity: Option<(String, String)>,
    /// The password.
    pub password: Option<String>,
}

impl fmt::Debug for EtcdSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSecrets").finish_non_exhaustive()
    }
}

/// As many members as an etcd cluster sensibly has (etcd's own advice is at most seven), and two to move to.
const MAX_ENDPOINTS: usize = 9;
const MAX_PREFIX: usize = 255;

const URL: &str = "write scheme, host and port: \"https://10.1.0.5:2379\"";
const PAIR: &str = "write both, or neither";

pub(crate) fn etcd(mut t: Table<'_>) -> Option<Etcd> {
    let mend = "name the servers: endpoints = [\"https://10.1.0.5:2379\"]";
    let endpoints = t.required("endpoints", mend).and_then(|item| endpoints(&item, mend));
    let prefix = match t.optional("prefix") {
        Some(item) => prefix(&item),
        None => Some("/jlb/".to_owned()),
    };
    let ca_file = path(&mut t, "ca_file");
    let identity = pair(&mut t, "cert_file", "key_file");
    let user = pair(&mut t, "user", "password_file");
    let state_dir = match t.optional("state_dir") {
        Some(item) => state_dir(&item),
        None => Some("/var/lib/jlb".into()),
    };
    let is_tls = endpoints.as_ref().map(|e| e.iter().any(|e| e.starts_with("https:")));
    match (is_tls, &ca_file) {
        (Some(true), Some(None)) => t.file.mistake(
            t.span.clone(),
            "etcd.ca_file",
            "`ca_file` is missing: without it nobody knows whether it is your etcd that answers",
            "add ca_file = \"etcd-ca.pem\", the authority that signed the servers' certificates",
        ),
        (Some(false), Some(Some(_))) => useless(&mut t, "ca_file"),
        (Some(_) | None, _) => {}
    }
    if is_tls == Some(false) && matches!(identity, Some(Some(_))) {
        useless(&mut t, "cert_file");
    }
    t.finish();
    Some(Etcd {
        endpoints: endpoints?,
        prefix: prefix?,
        ca_file: ca_file?,
        identity: identity?.map(|(cert, key)| (cert.into(), key.into())),
        user: user?.map(|(user, file)| (user, file.into())),
        state_dir: state_dir?,
    })
}

fn endpoints(item: &Item<'_>, mend: &str) -> Option<Vec<String>> {
    let items = item.list(mend)?;
    if items.is_empty() || items.len() > MAX_ENDPOINTS {
        item.mistake(format!("{} endpoints; 1 to {MAX_ENDPOINTS} are possible", items.len()), mend);
        return None;
    }
    let parsed = items.iter().map(endpoint).collect::<Option<Vec<_>>>()?;
    let scheme = |url: &str| url.starts_with("https:");
    for (i, url) in parsed.iter().enumerate() {
        let earlier = parsed.iter().take(i);
        if earlier.clone().any(|e| e == url) {
            items[i].mistake(format!("`{url}` is named twice"), "delete one of the two");
            return None;
        }
        if earlier.clone().any(|e| scheme(e) != scheme(url)) {
            let what = "https and http are mixed";
            items[i].mistake(what, "use https everywhere; http only where nobody else can reach");
            return None;
        }
    }
    Some(parsed)
}

fn endpoint(item: &Item<'_>) -> Option<String> {
    let text = item.text(URL)?;
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fits = address.is_some_and(|a| match a.parse::<SocketAddr>() {
        Ok(a) => a.port() != 0 && !a.ip().is_unspecified(),
        Err(_) => a.split_once(':').is_some_and(|(host, port)| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            // Only digits and dots is an address that is none.
            let is_name = !host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            is_name && host.bytes().all(fits) && port.parse::<u16>().is_ok_and(|p| p != 0)
        }),
    });
    if !fits {
        item.mistake(format!("`{text}` is no URL of an etcd server"), URL);
        return None;
    }
    Some(text.to_owned())
}

fn prefix(item: &Item<'_>) -> Option<String> {
    let mend = "write a prefix of this cluster's own, between slashes: \"/jlb/\"";
    let text = item.filled(mend)?;
    let between = text.len() > 2 && text.starts_with('/') && text.ends_with('/');
    if !between || text.len() > MAX_PREFIX || text.contains(char::is_control) {
        item.mistake(format!("`{text}` does not start and end with a slash, with a name between, in at most {MAX_PREFIX} bytes"), mend);
        return None;
    }
    Some(text)
}

fn state_dir(item: &Item<'_>) -> Option<PathBuf> {
    let mend = "write an absolute directory that only the daemon writes to: \"/var/lib/jlb\"";
    let text = item.filled(mend)?;
    if !text.starts_with('/') {
        item.mistake(format!("`{text}` is no absolute path"), mend);
        return None;
    }
    Some(text.into())
}

/// The outer `None`: it is there, and wrong.
fn path(t: &mut Table<'_>, key: &'static str) -> Option<Option<PathBuf>> {
    match t.optional(key) {
        Some(item) => item.filled("write the path of a file").map(|p| Some(p.into())),
        None => Some(None),
    }
}

/// Two keys that only make sense together. The outer `None`: they are wrong.
fn pair(
    t: &mut Table<'_>,
    first: &'static str,
    second: &'static str,
) -> Option<Option<(String, String)>> {
    match (t.optional(first), t.optional(second)) {
        (None, None) => Some(None),
        (Some(a), Some(b)) => match (a.filled(PAIR), b.filled(PAIR)) {
            (Some(a), Some(b)) => Some(Some((a, b))),
            (Some(_) | None, _) => None,
        },
        (Some(alone), None) => {
            alone.mistake(format!("`{first}` stands without `{second}`"), PAIR);
            None
        }
        (None, Some(alone)) => {
            alone.mistake(format!("`{second}` stands without `{first}`"), PAIR);
            None
        }
    }
}

fn useless(t: &mut Table<'_>, key: &'static str) {
    if let Some(item) = t.optional(key) {
        let what = format!("`{key}` is for TLS, and the endpoints are http");
        item.mistake(what, "write https in the endpoints, or delete it");
    }
}

/// Reads the files that `[etcd]` names, and says at its key what is wrong with one.
pub(crate) fn secrets(
    file: &File<'_>,
    t: &mut Table<'_>,
    etcd: &Etcd,
    read: &mut dyn FnMut(&Path) -> io::Result<KeyFile>,
) -> Result<EtcdSecrets, Mistakes> {
    let mut text = |key: &'static str, path: &Path, is_secret: bool| {
        let item = t.optional(key)?;
        read_file(&item, path, is_secret, read)
    };
    let ca = etcd.ca_file.as_ref().and_then(|p| text("ca_file", p, false));
    let identity = etcd.identity.as_ref().and_then(|(cert, key)| {
        let (cert, key) = (text("cert_file", cert, false), text("key_file", key, true));
        cert.zip(key)
    });
    let password = etcd.user.as_ref().and_then(|(_, p)| text("password_file", p, true));
    if !file.is_clean() {
        return Err(file.mistakes());
    }
    let password = password.map(|p| p.trim_end_matches(['\n', '\r']).to_owned());
    Ok(EtcdSecrets { ca, identity, password })
}

fn read_file(
    item: &Item<'_>,
    path: &Path,
    is_secret: bool,
    read: &mut dyn FnMut(&Path) -> io::Result<KeyFile>,
) -> Option<String> {
    let path = match Path::new(item.file.name).parent() {
        Some(directory) => directory.join(path),
        None => path.to_owned(),
    };
    let shown = path.display();
    let file = match read(&path) {
        Ok(file) => file,
        Err(e) => {
            let mend = format!("make {shown} readable for the user that the daemon runs as");
            item.mistake(format!("cannot read `{shown}`: {e}"), mend);
            return None;
        }
    };
    if is_secret && file.mode & 0o077 != 0 {
        let mode = file.mode & 0o7777;
        let what = format!("`{shown}` has mode {mode:04o}: others than its owner may read it");
        item.mistake(what, format!("chmod 0600 {shown}"));
        return None;
    }
    if file.text.trim().is_empty() {
        item.mistake(format!("`{shown}` is empty"), "put into it what it is for");
        return None;
    }
    let is_pem = !item.key.ends_with("password_file");
    if is_pem && !file.text.contains("-----BEGIN ") {
        item.mistake(
            format!("`{shown}` is no PEM file"),
            "convert it to PEM, which has lines with -----BEGIN …",
        );
        return None;
    }
    Some(file.text)
}
