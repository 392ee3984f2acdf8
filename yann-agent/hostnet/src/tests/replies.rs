use core::net::SocketAddr;
use core::time::Duration;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use jlb_map::Family;
use nix::sys::socket::{getsockopt, sockopt};

use super::namespace::{Near, inside, run, set_sysctl};
use super::{VIP4, VIP6, desired, every_kind, ip};
use crate::Replies::{Direct, Egress};
use crate::Warning;

/// Connects from the far end to a listener at the VIP. Bytes of a segment that each side sends: the client's is what
/// the SYN-ACK allowed.
fn segments(near: &Near, vip: &str) -> (u32, u32) {
    // Time stamps would take 12 bytes of each segment.
    set_sysctl("net/ipv4/tcp_timestamps", "0");
    let listener = TcpListener::bind((ip(vip), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let client = near.far.run(move || {
        set_sysctl("net/ipv4/tcp_timestamps", "0");
        let client = TcpStream::connect(address).unwrap();
        (getsockopt(&client, sockopt::TcpMaxSeg).unwrap(), client)
    });
    let (server, _) = listener.accept().unwrap();
    (client.0, getsockopt(&server, sockopt::TcpMaxSeg).unwrap())
}

#[test]
fn a_syn_ack_advertises_what_the_encapsulated_path_carries() {
    inside(async |near| {
        let mut wanted = every_kind();
        let mut host = near.open();
        host.apply(&wanted).await.unwrap();
        assert_eq!(segments(&near, VIP4), (1464 - 40, 1464 - 40));
        assert_eq!(segments(&near, VIP6), (1464 - 60, 1464 - 60));
        assert_eq!(
            segments(&near, "192.0.2.20"),
            (1464 - 40, 1500 - 40),
            "direct replies are whole"
        );
        assert_eq!(segments(&near, "2001:db8:5::20"), (1464 - 60, 1500 - 60));
        assert_eq!(
            segments(&near, "192.0.2.30"),
            (1464 - 40, 1464 - 40),
            "both fit the smaller one"
        );
        assert_eq!(segments(&near, "2001:db8:5::30"), (1464 - 60, 1464 - 60));
        assert_eq!(segments(&near, "10.77.0.1"), (1460, 1460), "not a VIP");

        wanted.outer = Family::V6;
        let done = host.apply(&wanted).await.unwrap().done;
        assert!(
            done.iter().all(|d| d.starts_with("put ") && d.contains("into table")),
            "{done:#?}"
        );
        assert_eq!(segments(&near, VIP4), (1444 - 40, 1444 - 40));
        assert_eq!(segments(&near, "2001:db8:5::20"), (1444 - 60, 1500 - 60));
        host.undo().await.unwrap();
    });
}

#[test]
fn below_1280_bytes_ipv6_still_has_udp() {
    inside(async |near| {
        let mut host = near.open();
        let mut wanted = desired(&[(VIP6, Egress), (VIP4, Egress)]);
        wanted.underlay_mtu = 1300;
        host.apply(&wanted).await.unwrap();
        assert_eq!(segments(&near, VIP6), (1264 - 60, 1264 - 60));
        let socket = UdpSocket::bind((ip(VIP6), 0)).unwrap();
        let to: SocketAddr = (ip("fd77::2"), 9).into();
        assert_eq!(socket.send_to(&[0; 1000], to).unwrap(), 1000);
        wanted.underlay_mtu = 1500;
        host.apply(&wanted).await.unwrap();
        assert_eq!(segments(&near, VIP6), (1464 - 60, 1464 - 60));
        host.undo().await.unwrap();
    });
}

/// What the far end knows of an address on its link, after something was sent there or came from there.
fn neighbour(near: &Near, address: &'static str) -> String {
    near.far.run(move || {
        let to: SocketAddr = (ip(address), 9).into();
        // Refused with "no route" once the kernel has given up asking.
        let _ = UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&[0], to);
        for _ in 0..100 {
            let state = run(&format!("ip neigh show {address}"));
            if state.contains("lladdr") || state.contains("FAILED") {
                return state;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("no answer and no end");
    })
}

#[test]
fn no_link_hears_of_a_vip_by_arp() {
    inside(async |near| {
        near.far.run(|| set_sysctl("net/ipv4/neigh/eth0/retrans_time_ms", "100"));
        run("ip addr add 10.77.0.98/32 scope host dev lo");
        assert!(neighbour(&near, "10.77.0.98").contains("lladdr"), "without care");

        let mut host = near.open();
        host.apply(&desired(&[("10.77.0.99", Direct), (VIP4, Direct)])).await.unwrap();
        assert!(neighbour(&near, "10.77.0.99").contains("FAILED"), "it answered");
        assert!(neighbour(&near, "10.77.0.1").contains("lladdr"), "its own address");

        // Asking for others, it says who it is: not the VIP.
        let socket = UdpSocket::bind((ip(VIP4), 0)).unwrap();
        socket.send_to(&[0], "10.77.0.3:9").unwrap();
        for _ in 0..100 {
            if run("ip neigh show 10.77.0.3").contains("lladdr") {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(near.far.run(|| run(&format!("ip neigh show {VIP4}"))), "");
    });
}

#[test]
fn packets_of_clients_beyond_another_interface_are_accepted() {
    inside(async |near| {
        run("ip link add other0 type ifb");
        run("ip link set other0 up");
        run("ip route add 198.51.100.0/24 dev other0");
        near.far.run(|| run("ip addr add 198.51.100.9/32 dev lo"));
        let mut host = near.open();
        for all in ["0", "1"] {
            set_sysctl("net/ipv4/conf/eth0/rp_filter", "1");
            set_sysctl("net/ipv4/conf/all/rp_filter", all);
            let before = near.picture();
            host.apply(&desired(&[(VIP4, Direct)])).await.unwrap();
            let server = UdpSocket::bind((ip(VIP4), 0)).unwrap();
            server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let to = server.local_addr().unwrap();
            let send =
                move || UdpSocket::bind("198.51.100.9:0").unwrap().send_to(b"x", to).unwrap();
            near.far.run(send);
            let (_, from) = server.recv_from(&mut [0; 4]).unwrap();
            assert_eq!(from.ip(), ip("198.51.100.9"));
            set_sysctl("net/ipv4/conf/eth0/rp_filter", "1");
            near.far.run(send);
            assert!(server.recv_from(&mut [0; 4]).is_err(), "strict, it would not be accepted");
            drop(server);
            host.undo().await.unwrap();
            near.picture().assert_same(&before, "undone");
        }
    });
}

#[test]
fn replies_through_an_egress_server_need_no_route_and_no_neighbour() {
    inside(async |near| {
        run("ip route del default");
        run("ip -6 route del default");
        near.far.run(|| {
            run("ip addr add 198.51.100.9/32 dev lo");
            // Else it may not be used until the kernel has got round to finding that nobody else has it.
            run("ip addr add 2001:db8:9::9/128 dev lo nodad");
            run("ip route replace 192.0.2.0/24 via 10.77.0.1 src 198.51.100.9");
            run("ip route replace 2001:db8:5::/64 via fd77::1 src 2001:db8:9::9");
        });
        let mut host = near.open();
        let report = host.apply(&desired(&[(VIP4, Egress), (VIP6, Egress)])).await.unwrap();
        assert_eq!(report.warnings, []);
        assert_eq!(segments(&near, VIP4), (1464 - 40, 1464 - 40));
        assert_eq!(segments(&near, VIP6), (1464 - 60, 1464 - 60));

        // The kernel forgets both with the link.
        run("ip link set eth0 down");
        let report = host.refresh().await.unwrap();
        assert!(matches!(&report.warnings[..], [Warning::RouteNotSet { .. }, ..]), "{report:#?}");
        run("ip link set eth0 up");
        let done = host.refresh().await.unwrap().done;
        assert!(
            done.contains(&"put default (IPv4) mtu 1464 into table 6081".to_owned()),
            "{done:#?}"
        );
        assert_eq!(segments(&near, VIP4), (1464 - 40, 1464 - 40));
        host.undo().await.unwrap();
    });
}
