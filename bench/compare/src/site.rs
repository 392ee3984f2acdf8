//! Three hosts in a row, and a cable past the middle one.
//!
//! ```text
//!   client ──10.99.0.0/24── balancer ──10.99.1.0/24── server
//!     └──────────────────10.99.2.0/24─────────────────┘
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jlb_lab::tools;

use crate::CompareError;
use crate::host::{Host, Mortal};

/// Where the server listens, by either way.
pub(crate) const ROUTED: &str = "10.99.1.1:9000";
pub(crate) const DIRECT: &str = "10.99.2.1:9000";
/// Where the balancers listen.
pub(crate) const NFTABLES: &str = "10.99.0.2:9001";
pub(crate) const NGINX: &str = "10.99.0.2:9002";
pub(crate) const HAPROXY: &str = "10.99.0.2:9003";

/// Where Debian's libnginx-mod-stream puts it.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

const NFT_RULES: &str = "table ip compare {
  chain in {
    type nat hook prerouting priority dstnat
    ip daddr 10.99.0.2 tcp dport 9001 dnat to 10.99.1.1:9000
  }
}";
const HAPROXY_CONF: &str = "global
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen compare
  bind 10.99.0.2:9003
  server one 10.99.1.1:9000
";

/// Interfaces of a host.
const OF_CLIENT: [&str; 2] = ["eth0", "past"];
const OF_BALANCER: [&str; 2] = ["client", "server"];

pub(crate) struct Site {
    pub(crate) client: Host,
    pub(crate) balancer: Host,
    pub(crate) server: Host,
    pub(crate) haproxy: Mortal,
    pub(crate) nginx: Mortal,
    folder: PathBuf,
}

impl Site {
    pub(crate) fn new() -> Result<Self, CompareError> {
        all_there()?;
        let [client, balancer, server] =
            [Host::new("client")?, Host::new("balancer")?, Host::new("server")?];
        cable(&client, &balancer, &server)?;
        let folder = std::env::temp_dir().join(format!("jlb-compare-{}", std::process::id()));
        let failed = |source| CompareError::File { what: folder.display().to_string(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        let start = |what, name: &str, text: &str, words: &[&str]| {
            let file = folder.join(name);
            fs::write(&file, text).map_err(failed)?;
            let file = file.display().to_string();
            let [nsenter, net, end] = balancer.enter();
            let words: Vec<&str> = [&nsenter, &net, &end]
                .map(String::as_str)
                .into_iter()
                .chain(words.iter().copied())
                .chain([file.as_str()])
                .collect();
            Mortal::start(what, &words)
        };
        let haproxy = start("haproxy", "haproxy.cfg", HAPROXY_CONF, &["haproxy", "-db", "-f"])?;
        let nginx_conf = nginx_conf(&folder.display().to_string());
        let nginx = start("nginx", "nginx.conf", &nginx_conf, &["nginx", "-e", "stderr", "-c"])?;
        Ok(Self { client, balancer, server, haproxy, nginx, folder })
    }

    /// Loads the rules of nftables, or takes them away: with them, all packets pass connection tracking.
    pub(crate) fn translate(&self, on: bool) -> Result<(), CompareError> {
        let rules = if on { NFT_RULES } else { "delete table ip compare" };
        self.balancer.run(&["nft", "-f", "-"], rules).map(drop)
    }

    /// Whether the kernel passes up to 64 KiB as one packet, and leaves checksums to a card that is not there.
    pub(crate) fn offloads(&self, on: bool) -> Result<(), CompareError> {
        let on = if on { "on" } else { "off" };
        let hosts =
            [(&self.client, OF_CLIENT), (&self.balancer, OF_BALANCER), (&self.server, OF_CLIENT)];
        for (host, interfaces) in hosts {
            for interface in interfaces {
                let words = ["ethtool", "-K", interface, "tx", on, "tso", on, "gso", on, "gro", on];
                host.run(&words, "")?;
            }
        }
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Says what is missing before anything is made.
fn all_there() -> Result<(), CompareError> {
    for program in ["haproxy", "nginx", "nft"] {
        tools::run(Command::new(program).arg("-v"), "")?;
    }
    if Path::new(NGINX_STREAM).exists() {
        Ok(())
    } else {
        let why = format!("{NGINX_STREAM} is missing");
        Err(CompareError::Process { what: "nginx", why })
    }
}

fn cable(client: &Host, balancer: &Host, server: &Host) -> Result<(), CompareError> {
    let (c, s) = (client.pid(), server.pid());
    balancer.run(
        &["ip", "-batch", "-"],
        &format!(
            "link add client type veth peer name eth0 netns {c}
link add server type veth peer name eth0 netns {s}
address add 10.99.0.2/24 dev client
address add 10.99.1.2/24 dev server
link set client up
link set server up
"
        ),
    )?;
    balancer.run(&["sh", "-eu", "-s"], "echo 1 >/proc/sys/net/ipv4/ip_forward")?;
    client.run(
        &["ip", "-batch", "-"],
        &format!(
            "link add past type veth peer name past netns {s}
address add 10.99.0.1/24 dev eth0
address add 10.99.2.2/24 dev past
link set eth0 up
link set past up
route add 10.99.1.0/24 via 10.99.0.2
"
        ),
    )?;
    server.run(
        &["ip", "-batch", "-"],
        "address add 10.99.1.1/24 dev eth0
address add 10.99.2.1/24 dev past
link set eth0 up
link set past up
route add 10.99.0.0/24 via 10.99.1.2
",
    )?;
    Ok(())
}

fn nginx_conf(folder: &str) -> String {
    format!(
        "load_module {NGINX_STREAM};
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
stream {{
  server {{
    listen 10.99.0.2:9002;
    proxy_pass 10.99.1.1:9000;
  }}
}}
"
    )
}
