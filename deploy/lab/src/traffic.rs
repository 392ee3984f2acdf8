//! What clients do: many requests, large files, UDP. For the demonstration, the end-to-end tests and benches.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::node::Node;
use crate::topology::ECHO_PORT;
use crate::{Error, Lab, tools};

/// One request to `/`, on a connection of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The client's port.
    pub client_port: u16,
    /// From the start to the last byte, in seconds.
    pub seconds: f64,
    /// The backend that answered; none if the request failed.
    pub backend: Option<String>,
}

/// Requests, one after the other, each on a connection of its own; one curl does them all.
///
/// `patience` is the longest that one may take. A request that fails is in the result, without a backend.
pub fn requests(
    client: &Node,
    to: IpAddr,
    count: u32,
    patience: Duration,
) -> Result<Vec<Request>, Error> {
    let mut command = client.command("curl");
    command
        .args([
            "-s",
            "-H",
            "Connection: close",
            "-w",
            "%{http_code} %{time_total} %{local_port}\\n",
        ])
        .args(["--max-time", &patience.as_secs_f64().to_string()])
        .arg(url(to, &format!("/?[1-{count}]")));
    // curl's exit status is that of its last request; the lines say it of each.
    let script_output = command.output().map_err(|_| Error::NoProgram("curl".to_owned()))?;
    let requests = parse(&String::from_utf8_lossy(&script_output.stdout));
    if requests.len() == count as usize {
        Ok(requests)
    } else {
        Err(Error::Command {
            what: format!("curl, {count} times"),
            status: format!("{} answers, {}", requests.len(), script_output.status),
            stderr: String::from_utf8_lossy(&script_output.stderr).into_owned(),
        })
    }
}

/// A backend's name, where there was an answer, then curl's own line, for each request.
fn parse(output: &str) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut backend = None;
    for line in output.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let [status, seconds, port] = words[..] {
            let answered: Option<String> = backend.take();
            requests.push(Request {
                client_port: port.parse().unwrap_or(0),
                seconds: seconds.parse().unwrap_or(f64::INFINITY),
                backend: answered.filter(|_| status == "200"),
            });
        } else {
            backend = Some(line.to_owned());
        }
    }
    requests
}

/// How many requests each backend answered.
pub fn by_backend(requests: &[Request]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for backend in requests.iter().filter_map(|request| request.backend.as_deref()) {
        *counts.entry(backend).or_insert(0) += 1;
    }
    counts
}

/// The time below which half of the requests stayed, in seconds; 0 without any.
pub fn median(requests: &[Request]) -> f64 {
    let mut times: Vec<f64> = requests.iter().map(|request| request.seconds).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// Fetches the lab's payload; whether what came is what nginx serves, to the byte.
pub fn download(lab: &Lab, client: &Node, from: IpAddr, patience: Duration) -> Result<bool, Error> {
    let copy = client.dir()?.join("download");
    let max_time = patience.as_secs_f64().to_string();
    let to = copy.to_string_lossy();
    client.run("curl", &["-sSf", "--max-time", &max_time, "-o", &to, &url(from, "/payload")])?;
    same(&copy, &lab.payload())
}

/// Sends the lab's payload; whether exactly one backend has it, to the byte. `name` is a new file name.
pub fn upload(
    lab: &Lab,
    client: &Node,
    to: IpAddr,
    name: &str,
    patience: Duration,
) -> Result<bool, Error> {
    let payload = lab.payload();
    let max_time = patience.as_secs_f64().to_string();
    let source = payload.to_string_lossy();
    // No "Expect: 100-continue": curl would wait a second for an answer that a busy server may not give.
    let arguments = [
        "-sSf",
        "--max-time",
        &max_time,
        "-H",
        "Expect:",
        "-T",
        &source,
        &url(to, &format!("/upload/{name}")),
    ];
    client.run("curl", &arguments)?;
    match lab.uploaded(name)?.as_slice() {
        [(_, path)] => same(path, &payload),
        _ => Ok(false),
    }
}

fn same(one: &Path, other: &Path) -> Result<bool, Error> {
    let sums = tools::run(Command::new("sha256sum").args([one, other]), "")?;
    let sums: BTreeSet<&str> = sums.lines().filter_map(|line| line.split(' ').next()).collect();
    Ok(sums.len() == 1)
}

/// What one UDP flow got back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpFlow {
    /// Echoes that arrived.
    pub answers: u32,
    /// Every backend that one came from.
    pub backends: BTreeSet<String>,
}

/// UDP flows to the echo service, each from a port of its own, each sending `datagrams` one after the other and waiting
/// for each echo, at most `patience`.
pub fn udp_flows(
    client: &Node,
    to: IpAddr,
    flows: u32,
    datagrams: u32,
    patience: Duration,
) -> Result<Vec<UdpFlow>, Error> {
    let to = SocketAddr::new(to, ECHO_PORT);
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let run = || -> std::io::Result<Vec<UdpFlow>> {
        // All stay open till the end, so that no port is used twice.
        let mut sockets = Vec::new();
        let mut results = Vec::new();
        for _ in 0..flows {
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(patience))?;
            results.push(udp_flow(&socket, datagrams)?);
            sockets.push(socket);
        }
        Ok(results)
    };
    client
        .within(run)?
        .map_err(|source| Error::File { path: format!("UDP to {to}").into(), source })
}

fn udp_flow(socket: &UdpSocket, datagrams: u32) -> std::io::Result<UdpFlow> {
    let mut flow = UdpFlow::default();
    let mut buffer = [0; 200];
    for number in 0..datagrams {
        let sent = format!("datagram {number}");
        match socket.send(sent.as_bytes()).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                if let Some((backend, echo)) = text.split_once(' ')
                    && echo == sent
                {
                    flow.answers += 1;
                    flow.backends.insert(backend.to_owned());
                }
            }
            // No answer in time, or an ICMP error instead: what is counted is answers.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock
                        | ErrorKind::TimedOut
                        | ErrorKind::ConnectionRefused
                        | ErrorKind::HostUnreachable
                        | ErrorKind::NetworkUnreachable
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(flow)
}

/// `http://` with brackets where they belong.
pub fn url(address: IpAddr, path: &str) -> String {
    match address {
        IpAddr::V4(v4) => format!("http://{v4}{path}"),
        IpAddr::V6(v6) => format!("http://[{v6}]{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_failures_are_told_apart() {
        let requests = parse(
            "backend-2\n200 0.002 4001\n000 1.000 0\nbackend-1\n200 0.001 4003\n<html>\n502 0.1 4004\n",
        );
        let backends: Vec<_> = requests.iter().map(|request| request.backend.as_deref()).collect();
        assert_eq!(backends, [Some("backend-2"), None, Some("backend-1"), None]);
        assert_eq!(requests[2].client_port, 4003);
        assert_eq!(by_backend(&requests), BTreeMap::from([("backend-1", 1), ("backend-2", 1)]));
        assert!((median(&requests) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn v6_addresses_stand_in_brackets() {
        assert_eq!(url("fd00::1".parse().unwrap(), "/x"), "http://[fd00::1]/x");
        assert_eq!(url("10.0.0.1".parse().unwrap(), "/"), "http://10.0.0.1/");
    }
}
