//! UDP flows to the lab's echo, which puts its host's name before what it was sent.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jlb_lab::topology::ECHO_PORT;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::{Phase, Shared};

/// Between two datagrams, and how long an answer may take.
const INTERVAL: Duration = Duration::from_millis(200);

/// What became of a UDP flow.
#[derive(Clone, Debug, Default)]
pub struct UdpFlow {
    /// Who answered first.
    pub backend: Option<String>,
    /// Who else did.
    pub others: BTreeSet<String>,
    /// Datagrams sent from the fault on.
    pub sent: u64,
    /// Those of them that were answered in time.
    pub answered: u64,
}

/// Until the drain, from one port.
pub(super) async fn ask(number: u32, vip: IpAddr, shared: Arc<Shared>) -> std::io::Result<UdpFlow> {
    let any: IpAddr =
        if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(SocketAddr::new(vip, ECHO_PORT)).await?;
    let mut flow = UdpFlow::default();
    let mut datagram = 0_u64;
    while shared.phase() != Phase::Drain {
        datagram += 1;
        let counts = shared.phase() == Phase::Fault;
        let text = format!("{number} {datagram}");
        // An ICMP error of the datagram before may be told here: what counts is answers.
        let _ = socket.send(text.as_bytes()).await;
        let answer = timeout(INTERVAL, receive(&socket, &text, &mut flow)).await;
        if counts {
            flow.sent += 1;
            flow.answered += u64::from(answer == Ok(true));
        }
        sleep(INTERVAL).await;
    }
    Ok(flow)
}

/// Takes answers until the one to this datagram is there; late ones name their backend, too.
async fn receive(socket: &UdpSocket, sent: &str, flow: &mut UdpFlow) -> bool {
    let mut buffer = [0; 100];
    loop {
        // An ICMP error: this datagram has no answer.
        let Ok(length) = socket.recv(&mut buffer).await else { return false };
        let text = String::from_utf8_lossy(&buffer[..length]);
        let Some((backend, echo)) = text.split_once(' ') else { return false };
        match &flow.backend {
            None => flow.backend = Some(backend.to_owned()),
            Some(first) if first != backend => {
                flow.others.insert(backend.to_owned());
            }
            Some(_) => {}
        }
        if echo == sent {
            return true;
        }
    }
}
