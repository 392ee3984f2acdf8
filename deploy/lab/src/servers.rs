//! The servers on a backend: nginx and the UDP echo, on wildcard addresses, as behind a VIP on lo.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::AtPath;
use crate::node::Node;
use crate::process::Running;
use crate::state::LabDir;
use crate::topology::{ECHO_PORT, HTTP_PORT, NodeKind};
use crate::{Error, LabConfig};

const UDP_ECHO: &str = include_str!("udp-echo.py");

/// Debian's own Python: another one first in PATH may lack nothing here, but would be another one.
const PYTHON: &str = "/usr/bin/python3";

/// Most that `PUT /upload/NAME` takes, in MB.
const MAX_UPLOAD_MB: u32 = 200;

/// The payload in the lab's folder.
pub(crate) const PAYLOAD: &str = "www/payload";

/// Starts all servers of all backends, and waits until they listen.
pub(crate) fn start(dir: &LabDir, config: &LabConfig, backends: &[Node]) -> Result<(), Error> {
    let shared = dir.path().join("www");
    fs::create_dir_all(&shared).at(&shared)?;
    if config.payload_bytes > 0 {
        write_payload(&dir.path().join(PAYLOAD), config.payload_bytes)?;
    }
    let echo_script = dir.path().join("udp-echo.py");
    fs::write(&echo_script, UDP_ECHO).at(&echo_script)?;

    let mut started = Vec::new();
    for node in backends.iter().filter(|node| node.id().kind == NodeKind::Backend) {
        started.push((node, start_nginx(node, &shared)?, "tcp6", HTTP_PORT));
        let arguments =
            [echo_script.to_string_lossy().into_owned(), ECHO_PORT.to_string(), node.name()];
        started.push((node, node.start("udp-echo", PYTHON, &arguments)?, "udp6", ECHO_PORT));
    }
    for (node, server, table, port) in started {
        node.wait_ready(&server, || listens(server.pid, table, port))?;
    }
    Ok(())
}

fn start_nginx(node: &Node, shared: &Path) -> Result<Running, Error> {
    let own = node.dir()?;
    let upload = upload_dir(node)?;
    fs::create_dir_all(&upload).at(&upload)?;
    let config = own.join("nginx.conf");
    fs::write(&config, nginx_config(&node.name(), &own, shared)).at(&config)?;
    node.start("nginx", "nginx", &["-c".to_owned(), config.to_string_lossy().into_owned()])
}

/// Where nginx puts what a client uploads: `PUT /upload/NAME`.
pub(crate) fn upload_dir(node: &Node) -> Result<PathBuf, Error> {
    Ok(node.dir()?.join("upload"))
}

fn nginx_config(name: &str, own: &Path, shared: &Path) -> String {
    let own = own.display();
    let shared = shared.display();
    format!(
        r#"# Written by jlb-lab.
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {own}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
  log_format lab '$remote_addr $remote_port $server_addr $request_method $request_uri $status $request_length $bytes_sent';
  access_log {own}/access.log lab;
  client_body_temp_path {own}/body;
  proxy_temp_path {own}/proxy;
  fastcgi_temp_path {own}/fastcgi;
  uwsgi_temp_path {own}/uwsgi;
  scgi_temp_path {own}/scgi;
  client_max_body_size {MAX_UPLOAD_MB}m;
  sendfile on;
  tcp_nopush on;
  default_type text/plain;
  server {{
    listen [::]:{HTTP_PORT} ipv6only=off backlog=4096;
    location = / {{ return 200 "{name}\n"; }}
    location = /payload {{ root {shared}; }}
    location /upload/ {{
      root {own};
      dav_methods PUT DELETE;
      dav_access user:rw group:r all:r;
    }}
  }}
}}
"#
    )
}

/// Bytes that do not compress and do not repeat within any packet; the same in every lab.
fn write_payload(path: &Path, bytes: u64) -> Result<(), Error> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).at(path)?);
    // xorshift64 (Marsaglia 2003), period 2^64 − 1.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = bytes;
    while left > 0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = state.to_le_bytes();
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(word.len());
        file.write_all(&word[..take]).at(path)?;
        left -= take as u64;
    }
    file.flush().at(path)
}

/// Whether a socket listens on this wildcard port in the namespace of that process (proc_net_tcp(5), all hexadecimal).
fn listens(pid: i32, table: &str, port: u16) -> bool {
    // TCP_LISTEN; UDP sockets that are not connected show TCP_CLOSE.
    let state = if table.starts_with("tcp") { "0A" } else { "07" };
    let wildcard = format!("{:032X}:{port:04X}", 0);
    fs::read_to_string(format!("/proc/{pid}/net/{table}")).is_ok_and(|text| {
        text.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next() == Some(wildcard.as_str()) && fields.nth(1) == Some(state)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_has_its_length_and_is_always_the_same() {
        let dir = std::env::temp_dir().join(format!("jlb-lab-payload-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (one, two) = (dir.join("one"), dir.join("two"));
        write_payload(&one, 10_003).unwrap();
        write_payload(&two, 10_003).unwrap();
        let bytes = fs::read(&one).unwrap();
        assert_eq!(bytes.len(), 10_003);
        assert_eq!(bytes, fs::read(&two).unwrap());
        assert_ne!(bytes[..1000], bytes[1000..2000]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
