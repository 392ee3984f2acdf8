//! iperf3 between two kernels, through the programs and past them.
//!
//! ```text
//!   client host                                   server host
//!   198.51.100.9 ──┬── eth0 ═══ Geneve ═══ eth0 ──┬── 203.0.113.10: iperf3 -s
//!                  └── side ─── as it is ── side ──┘
//! ```
//!
//! Both hosts run the agent's programs on `eth0`: the server's host is the backend, the other one its ingress and egress;
//! to itself that one is a backend, too, whose VIP is the client's address. So each packet is encapsulated once and
//! decapsulated once by the programs, whichever way it goes. Only packets with SYN go by `side`, since there is nobody who
//! would ask for admission; the flows are in the maps from the start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;

use jlb_flow::FlowHasher;
use jlb_map::Admission;
use jlb_yann::maps::{Maps, MapsError};
use jlb_yann::programs::{Capacities, Programs};
use jlb_yann_core::maps::{Flow, flow_state};
use serde::Serialize;

use crate::host::Host;
use crate::iperf::{Server, transfer};
use crate::list::{self, BACKEND, CAPACITY, HASH_KEY, INGRESS, PORT, Served};
use crate::{Error, Options, go_on, median};

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9));
/// On `side`.
const SERVER_SIDE: &str = "10.8.0.21";
const CLIENT_SIDE: &str = "10.8.0.1";

/// Ports that the client takes. Each transfer takes two, and a port rests for a minute afterwards.
const PORTS: std::ops::Range<u16> = 40_000..40_800;

/// What two headers and the inner packet may have together is 1500 bytes.
const INNER_MTU: u32 = 1500 - 36;

/// Medians of Gbit/s, and of the ratios of transfers that were made one after the other.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Through the programs, over past them, towards the server (which decapsulates), super-packets allowed.
    pub in_ratio: f64,
    /// From the server (which encapsulates).
    pub out_ratio: f64,
    /// Towards the server, with frames of 1500 bytes.
    pub in_ratio_1500: f64,
    /// From the server, with frames of 1500 bytes.
    pub out_ratio_1500: f64,
    /// Gbit/s through the programs, in the order of the four ratios.
    pub gbps: [f64; 4],
    /// Gbit/s past them.
    pub plain_gbps: [f64; 4],
    /// Transfers of each kind.
    pub times: u32,
    /// Seconds of each.
    pub seconds: u32,
}

/// The four kinds: whether super-packets are cut before they leave, whether the server sends.
const KINDS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

/// Makes the transfers.
///
/// # Errors
/// [`Error`].
pub fn measure(
    options: &Options,
    say: &mut dyn FnMut(&str),
    interrupted: &AtomicBool,
) -> Result<Figures, Error> {
    let pair = Pair::new()?;
    let (mut through, mut past) = (<[Vec<f64>; 4]>::default(), <[Vec<f64>; 4]>::default());
    for time in 1..=options.times {
        for (n, (cut, reverse)) in KINDS.into_iter().enumerate() {
            go_on(interrupted)?;
            pair.cut(cut)?;
            // In turns, so that neither always comes first.
            let mut figures = [0.0; 2];
            let order = if time % 2 == 0 { [false, true] } else { [true, false] };
            for plain in order {
                let result = pair.transfer(plain, options.seconds, reverse);
                go_on(interrupted)?;
                figures[usize::from(plain)] = result? / 1e9;
            }
            through[n].push(figures[0]);
            past[n].push(figures[1]);
            let direction = if reverse { "out" } else { "in" };
            let frames = if cut { "1500-byte frames" } else { "super-packets" };
            say(&format!(
                "time {time} of {}, {direction}, {frames}: {:.2} Gbit/s, without the programs {:.2}",
                options.times, figures[0], figures[1]
            ));
        }
    }
    pair.check()?;
    let ratio = |n: usize| {
        let each: Vec<f64> = through[n].iter().zip(&past[n]).map(|(a, b)| a / b).collect();
        median(&each)
    };
    Ok(Figures {
        in_ratio: ratio(0),
        out_ratio: ratio(1),
        in_ratio_1500: ratio(2),
        out_ratio_1500: ratio(3),
        gbps: through.each_ref().map(|of| median(of)),
        plain_gbps: past.each_ref().map(|of| median(of)),
        times: options.times,
        seconds: options.seconds,
    })
}

/// The two hosts.
struct Pair {
    client: Host,
    server: Host,
    /// Of each host, attached as long as this lasts.
    agents: [(Programs, Maps); 2],
}

impl Pair {
    fn new() -> Result<Self, Error> {
        let (client, server) = (Host::new()?, Host::new()?);
        let (backend, ingress) = (list::address(BACKEND), list::address(INGRESS));
        for cable in ["eth0", "side"] {
            let far = server.path();
            client
                .shell(&format!("ip link add {cable} type veth peer name {cable} netns {far}"))?;
        }
        let (first, last) = (PORTS.start, PORTS.end - 1);
        client.shell(&format!("echo {first} {last} >/proc/sys/net/ipv4/ip_local_port_range"))?;
        client.shell(&network((CLIENT, SERVER), (ingress, backend), (CLIENT_SIDE, SERVER_SIDE)))?;
        server.shell(&network((SERVER, CLIENT), (backend, ingress), (SERVER_SIDE, CLIENT_SIDE)))?;

        let to_client =
            Served { vip: CLIENT, ports: PORTS.map(|port| (port, Admission::Accept)).collect() };
        let to_server = Served { vip: SERVER, ports: vec![(PORT, Admission::Accept)] };
        let at_client = client.within(|| agent((ingress, backend), &to_client))?;
        let at_server = server.within(|| agent((backend, ingress), &to_server))?;
        Ok(Self { client, server, agents: [at_client, at_server] })
    }

    /// Has super-packets cut before they leave, or not: on both cables.
    fn cut(&self, cut: bool) -> Result<(), Error> {
        let on = if cut { "off" } else { "on" };
        for host in [&self.client, &self.server] {
            for cable in ["eth0", "side"] {
                host.shell(&format!("ethtool -K {cable} tso {on} gso {on} gro off >/dev/null"))?;
            }
        }
        Ok(())
    }

    fn transfer(&self, plain: bool, seconds: u32, reverse: bool) -> Result<f64, Error> {
        let _server = Server::start(&self.server)?;
        if plain {
            transfer(&self.client, CLIENT_SIDE, SERVER_SIDE, seconds, reverse)
        } else {
            let (from, to) = (CLIENT.to_string(), SERVER.to_string());
            transfer(&self.client, &from, &to, seconds, reverse)
        }
    }

    /// Whether packets of both hosts have come encapsulated: only those name an ingress host in their flow.
    fn check(&self) -> Result<(), Error> {
        for ((_, maps), whose) in self.agents.iter().zip(["client's host", "server's host"]) {
            let flows = maps.flows.entries().map_err(MapsError::from)?;
            if !flows.iter().any(|(_, flow)| flow.ingress[0] == INGRESS.as_u16()) {
                return Err(Error::NotThrough(whose));
            }
        }
        Ok(())
    }
}

/// Addresses and routes of one host: its own address on the loopback and the other's, on `eth0`, on `side`.
fn network(
    (own, other): (IpAddr, IpAddr),
    (underlay, far): (IpAddr, IpAddr),
    (side, far_side): (&str, &str),
) -> String {
    format!(
        "for key in all default; do echo 0 >/proc/sys/net/ipv4/conf/$key/rp_filter; done
for cable in eth0 side; do
  echo 0 >/proc/sys/net/ipv4/conf/$cable/rp_filter
  ip link set $cable up
done
ip addr add {own}/32 dev lo
ip addr add {underlay}/24 dev eth0
ip addr add {side}/24 dev side
ip route add {other} via {far} src {own} mtu {INNER_MTU}
ip route add {other} via {far_side} dev side table 7
ip rule add fwmark 7 lookup 7
nft -f - <<'END'
table ip jlb {{
  chain side {{
    type route hook output priority 0;
    ip daddr {other} tcp flags & syn == syn meta mark set 7
  }}
}}
END
"
    )
}

/// The programs on `eth0` of the host that this thread is on, with all flows that there may be.
fn agent(addresses: (IpAddr, IpAddr), served: &Served) -> Result<(Programs, Maps), Error> {
    let capacities = Capacities { flows: CAPACITY, answers: CAPACITY };
    let (mut programs, mut maps) = Programs::load(None, capacities)?;
    let list = list::snapshot(addresses, served)?;
    list::configure(&mut maps, &list)?;
    let hasher = FlowHasher::new(HASH_KEY);
    for port in PORTS {
        let ends = [SocketAddr::new(CLIENT, port), SocketAddr::new(SERVER, PORT)];
        let [client, vip] = if served.vip == SERVER { ends } else { [ends[1], ends[0]] };
        let tuple = list::tcp(client, vip)?;
        let hash = hasher.id(&tuple).bucket_hash();
        let flow = Flow { hash, state: flow_state::ESTABLISHED, ..Flow::default() };
        maps.flows.set(tuple.padded(), &flow).map_err(|e| Error::Map(e.to_string()))?;
    }
    programs.attach_for_now("eth0")?;
    Ok((programs, maps))
}
