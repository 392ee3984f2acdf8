//! What the clients do.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use jlb_map::Service;
use jlb_role::Nanos;
use jlb_wire::{FiveTuple, Protocol};

use super::{HEALED, WARM};
use crate::client::{Client, Intent};
use crate::random::Random;
use crate::script::{Ending, Script};

pub(super) fn draw_clients(r: &mut Random, services: &[Service], heal: Nanos) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..r.between(4, 24) as u16 {
        let start = r.time(WARM, heal);
        let Some(mut client) = draw_client(r, services, n, start) else { continue };
        clients.push(client);
        // Port reuse: another connection from the same port, right after this one or a little later.
        while r.once_in(3) && clients.len() < 40 {
            let Some(previous) = clients.len().checked_sub(1) else { break };
            let tuple = clients[previous].tuple;
            let service = clients[previous].service;
            let pause = Nanos(r.pick([10_000, 1_000_000, 100_000_000, 3_000_000_000]));
            client = Client::new(
                tuple,
                draw_intent(r, tuple.protocol()),
                service,
                pause,
                Some(previous),
            );
            clients.push(client);
        }
    }
    for n in 0..services.len() as u16 {
        let start = heal + HEALED + Nanos::from_millis(u64::from(n) * 7);
        let Some(mut client) =
            draw_client(r, &services[usize::from(n)..=usize::from(n)], 1000 + n, start)
        else {
            continue;
        };
        client.service = usize::from(n);
        client.after_healing = true;
        clients.push(client);
    }
    clients
}

pub(super) fn draw_client(
    r: &mut Random,
    services: &[Service],
    n: u16,
    start: Nanos,
) -> Option<Client> {
    let service = r.below(services.len() as u64) as usize;
    let s = &services[service];
    let vip = s.vips[r.below(s.vips.len() as u64) as usize];
    let intent = draw_intent(r, s.protocol);
    client_of((service, s), vip, n, intent, start)
}

/// The `n`th client, of one of three hosts.
pub(super) fn client_of(
    (service, s): (usize, &Service),
    vip: IpAddr,
    n: u16,
    intent: Intent,
    start: Nanos,
) -> Option<Client> {
    let host = 1 + n % 3;
    let address: IpAddr = if vip.is_ipv4() {
        Ipv4Addr::new(198, 51, 100, host as u8).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, host).into()
    };
    let (client, vip) = (SocketAddr::new(address, 20_000 + n), SocketAddr::new(vip, s.port));
    let tuple = FiveTuple::new(client, vip, s.protocol).ok()?;
    Some(Client::new(tuple, intent, service, start, None))
}

pub(super) fn draw_intent(r: &mut Random, protocol: Protocol) -> Intent {
    match protocol {
        Protocol::Tcp => draw_tcp(r),
        Protocol::Udp => Intent::Udp {
            datagrams: r.between(1, 8) as u32,
            size: r.pick([1, 40, 256, 257, 900]),
            every: Nanos(r.pick([10_000, 1_000_000, 50_000_000, 400_000_000])),
        },
    }
}

pub(super) fn draw_tcp(r: &mut Random) -> Intent {
    let ending =
        r.pick([Ending::Client, Ending::Client, Ending::Server, Ending::Abort, Ending::Vanish]);
    Intent::Tcp {
        script: Script {
            rounds: r.between(1, 4) as u32,
            request: r.pick([1, 100, 3000]),
            response: r.pick([1, 500, 6000]),
            pause: Nanos(r.pick([100_000, 20_000_000, 700_000_000])),
            ending,
        },
        syn_data: if r.once_in(6) { r.pick([10, 700]) } else { 0 },
    }
}
