//! What the kernel says about a link, in network namespaces of our own. Needs root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use core::net::IpAddr;
use core::time::Duration;
use std::env;
use std::process::Command;

use jlb_neighbours::{MacAddr, Neighbours};
use jlb_node::netlink::{Netlink, NetlinkError, Watch};
use jlb_wire::MemberId;

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two namespaces with a veth between them, gone at the end.
struct Pair {
    near: String,
    far: String,
}

impl Pair {
    fn new(name: &str) -> Self {
        let prefix = format!("jlbt-cluster-{}-{name}", std::process::id());
        let pair = Self { near: format!("{prefix}-near"), far: format!("{prefix}-far") };
        let (near, far) = (&pair.near, &pair.far);
        run(&format!("ip netns add {near}"));
        run(&format!("ip netns add {far}"));
        run(&format!("ip -n {near} link add eth0 type veth peer name eth0 netns {far}"));
        run(&format!("ip -n {near} link set eth0 address 02:00:00:00:00:0a mtu 1400"));
        run(&format!("ip -n {far} link set eth0 address 02:00:00:00:00:0b"));
        for (ns, host) in [(near, 1), (far, 2)] {
            run(&format!("ip -n {ns} address add 10.77.0.{host}/24 dev eth0"));
            run(&format!("ip -n {ns} address add fd77::{host}/64 dev eth0 nodad"));
            run(&format!("ip -n {ns} link set lo up"));
            run(&format!("ip -n {ns} link set eth0 up"));
        }
        run(&format!("ip -n {far} address add 10.77.0.3/24 dev eth0"));
        run(&format!("ip -n {near} route add default via 10.77.0.2"));
        run(&format!("ip -n {near} route add blackhole 10.78.0.0/16"));
        run(&format!("ip -n {near} route add 2001:db8:5::/48 via fd77::2"));
        run(&format!("ip -n {near} route add 10.79.0.0/16 dev lo"));
        pair
    }

    /// Runs the named test in the near namespace, in a process of its own.
    fn inside(&self, test: &str) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.near]).arg(env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env("JLB_TEST_INSIDE", &self.near);
        let output = command.output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for ns in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn mac(last: u8) -> Option<MacAddr> {
    Some(MacAddr([2, 0, 0, 0, 0, last]))
}

fn id(n: u16) -> MemberId {
    MemberId::new(n).unwrap()
}

/// The first snapshot that fits, within some seconds.
async fn until(watch: &mut Watch, what: &str, fits: impl Fn(&Neighbours) -> bool) -> Neighbours {
    let wait = async {
        loop {
            let neighbours = watch.next().await;
            if fits(&neighbours) {
                return neighbours;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(8), wait)
        .await
        .unwrap_or_else(|_| panic!("waited for {what}"))
}

fn inside(body: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
}

#[test]
fn the_kernel_resolves_and_every_change_is_followed() {
    let Ok(near) = env::var("JLB_TEST_INSIDE") else {
        return Pair::new("watch").inside("the_kernel_resolves_and_every_change_is_followed");
    };
    inside(async {
        let targets =
            vec![(id(1), ip("10.77.0.2")), (id(2), ip("fd77::2")), (id(3), ip("192.0.2.1"))];
        let mut watch = Watch::start("eth0", targets).await.unwrap();
        let members = |n: &Neighbours| [1, 2, 3].map(|i| n.member(id(i)));
        let all = |n: &Neighbours| members(n) == [mac(0xb), mac(0xb), mac(0xb)];
        let n = until(&mut watch, "all members", all).await;
        assert_eq!(n.route(ip("198.51.100.1")), mac(0xb), "the default route");
        assert_eq!(n.route(ip("2001:db8:5::1")), mac(0xb), "an IPv6 route");
        assert_eq!(n.route(ip("2001:db8:6::1")), None, "no IPv6 default route");
        assert_eq!(n.route(ip("10.78.1.1")), None, "a blackhole");
        assert_eq!(n.route(ip("10.79.1.1")), None, "another interface");
        assert_eq!(n.route(ip("10.77.0.3")), None, "on the link, but nobody asked for it");

        watch.set_targets(vec![(id(7), ip("10.77.0.3"))]);
        let n = until(&mut watch, "the new member", |n| n.member(id(7)) == mac(0xb)).await;
        assert_eq!(n.member(id(1)), None, "no longer a member");
        assert_eq!(n.route(ip("10.77.0.3")), mac(0xb));

        run(&format!("ip -n {near} neigh replace 10.77.0.3 lladdr 02:00:00:00:00:0c dev eth0"));
        until(&mut watch, "another Ethernet address", |n| n.member(id(7)) == mac(0xc)).await;

        run(&format!("ip -n {near} route del default"));
        until(&mut watch, "no default route", |n| n.route(ip("198.51.100.1")).is_none()).await;
    });
}

#[test]
fn an_interface_that_is_another_one_is_told() {
    let Ok(near) = env::var("JLB_TEST_INSIDE") else {
        return Pair::new("anew").inside("an_interface_that_is_another_one_is_told");
    };
    inside(async {
        let watch = Watch::start("eth0", vec![]).await.unwrap();
        let wait = |ms| tokio::time::timeout(Duration::from_millis(ms), watch.replaced());
        run(&format!("ip -n {near} link set eth0 down"));
        run(&format!("ip -n {near} link set eth0 up"));
        assert!(wait(300).await.is_err(), "the same as before");
        run(&format!("ip -n {near} link del eth0"));
        assert!(wait(300).await.is_err(), "it may come back");
        run(&format!("ip -n {near} link add eth0 address 02:00:00:00:00:0a type veth"));
        wait(5000).await.expect("another one");
    });
    inside(async {
        let watch = Watch::start("eth0", vec![]).await.unwrap();
        run(&format!("ip -n {near} link set eth0 address 02:00:00:00:00:0c"));
        tokio::time::timeout(Duration::from_secs(5), watch.replaced()).await.unwrap();
    });
}

#[test]
fn a_link_is_described() {
    if env::var("JLB_TEST_INSIDE").is_err() {
        return Pair::new("link").inside("a_link_is_described");
    }
    inside(async {
        let netlink = Netlink::open().unwrap();
        let link = netlink.link("eth0").await.unwrap();
        assert_eq!((link.mac, link.mtu, link.is_up), (mac(0xa).unwrap(), 1400, true));
        assert!(
            link.addresses.contains(&ip("10.77.0.1")) && link.addresses.contains(&ip("fd77::1"))
        );
        let missing = netlink.link("eth9").await;
        assert!(matches!(missing, Err(NetlinkError::NoInterface(name)) if name == "eth9"));
        assert!(matches!(Watch::start("eth9", vec![]).await, Err(NetlinkError::NoInterface(_))));
    });
}

#[test]
fn a_vip_is_announced_and_withdrawn_in_a_table_of_its_own() {
    let Ok(near) = env::var("JLB_TEST_INSIDE") else {
        return Pair::new("announce")
            .inside("a_vip_is_announced_and_withdrawn_in_a_table_of_its_own");
    };
    // Above 255 the number is in an attribute of its own.
    for table in [177, 70_000] {
        inside(async {
            let netlink = Netlink::open().unwrap();
            run(&format!("ip -n {near} route add 203.0.113.99 dev eth0 table {table}"));
            let vips = [ip("203.0.113.10"), ip("2001:db8::10")];
            for vip in vips {
                netlink.announce(table, vip).await.unwrap();
                netlink.announce(table, vip).await.unwrap();
            }
            let there = netlink.announced(table).await.unwrap();
            assert_eq!(there.into_iter().collect::<Vec<_>>(), vips, "and not what others announce");
            assert!(netlink.announced(table + 1).await.unwrap().is_empty());
            for vip in vips {
                netlink.withdraw(table, vip).await.unwrap();
                assert!(netlink.withdraw(table, vip).await.is_err());
            }
            assert!(netlink.announced(table).await.unwrap().is_empty());
        });
    }
}
