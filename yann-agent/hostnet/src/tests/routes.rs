use core::time::Duration;

use jlb_map::Family;
use tokio::time::timeout;

use super::namespace::{inside, run};
use super::{VIP4, VIP6, desired, every_kind};
use crate::Replies::{Both, Direct, Egress};
use crate::{Changes, Error, Report, Warning};

/// The routes of a table, with one space between two words, sorted.
fn table(family: &str, table: u32) -> Vec<String> {
    let text = run(&format!("ip {family} route show table {table}"));
    let lines = text.replace("\n\t", " ");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut routes: Vec<_> = lines.lines().map(words).collect();
    routes.sort_unstable();
    routes
}

#[test]
fn every_kind_of_route_is_copied_with_the_mtu() {
    inside(async |near| {
        run("ip link add other0 type ifb");
        run("ip link set other0 up");
        run("ip addr add 10.88.0.1/24 dev other0");
        for route in [
            "10.1.0.0/16 via 10.77.0.3 mtu 1400",
            "10.2.0.0/16 via 10.77.0.3 mtu lock 9000 advmss 1460 initcwnd 20",
            "10.3.0.0/16 via 10.77.0.3 metric 5",
            "10.3.0.0/16 via 10.77.0.2 metric 7",
            "10.4.0.0/16 nexthop via 10.77.0.2 weight 2 nexthop via 10.77.0.3 weight 1",
            "10.5.0.0/16 via 10.99.0.1 dev eth0 onlink",
            "10.6.0.0/16 via inet6 fd77::2 dev eth0",
            "10.8.0.0/16 via 10.77.0.2 src 10.77.0.1 tos 0x10",
            "unreachable 10.7.0.0/16",
            "blackhole 10.7.1.0/24",
            "prohibit 10.7.2.0/24",
            "throw 10.7.3.0/24",
        ] {
            run(&format!("ip route add {route}"));
        }
        for route in [
            "2001:db8:1::/48 via fd77::2 metric 50",
            "2001:db8:2::/48 nexthop via fd77::2 nexthop via fd77::3",
            "2001:db8:3::/48 via fe80::1 dev eth0",
            "blackhole 2001:db8:4::/48",
        ] {
            run(&format!("ip -6 route add {route}"));
        }
        let before = near.picture();
        let mut host = near.open();
        let report = host.apply(&every_kind()).await.unwrap();
        assert_eq!(report.warnings, []);
        assert_eq!(
            host.refresh().await.unwrap(),
            Report::default(),
            "the copies read back as they were written"
        );
        let expected = [
            "10.1.0.0/16 via 10.77.0.3 dev eth0 proto 181 mtu 1400",
            "10.2.0.0/16 via 10.77.0.3 dev eth0 proto 181 mtu 1464 advmss 1424 initcwnd 20",
            "10.3.0.0/16 via 10.77.0.2 dev eth0 proto 181 metric 7 mtu 1464",
            "10.3.0.0/16 via 10.77.0.3 dev eth0 proto 181 metric 5 mtu 1464",
            "10.4.0.0/16 proto 181 mtu 1464 nexthop via 10.77.0.2 dev eth0 weight 2 nexthop via 10.77.0.3 dev eth0 weight 1",
            "10.5.0.0/16 via 10.99.0.1 dev eth0 proto 181 onlink mtu 1464",
            "10.6.0.0/16 via inet6 fd77::2 dev eth0 proto 181 mtu 1464",
            "10.77.0.0/24 dev eth0 proto 181 scope link mtu 1464",
            "10.8.0.0/16 tos 0x10 via 10.77.0.2 dev eth0 proto 181 mtu 1464",
            "10.88.0.0/24 dev other0 proto 181 scope link mtu 1464",
            "blackhole 10.7.1.0/24 proto 181",
            "default via 10.77.0.2 dev eth0 proto 181 mtu 1464",
            "prohibit 10.7.2.0/24 proto 181",
            "throw 10.7.3.0/24 proto 181",
            "unreachable 10.7.0.0/16 proto 181",
        ];
        assert_eq!(table("-4", 6083), expected);
        let direct = table("-4", 6082);
        assert_eq!(direct[0], "10.1.0.0/16 via 10.77.0.3 dev eth0 proto 181 mtu 1400 advmss 1360");
        assert_eq!(
            direct[1],
            "10.2.0.0/16 via 10.77.0.3 dev eth0 proto 181 mtu lock 9000 advmss 1424 initcwnd 20"
        );
        let default = "default via 10.77.0.2 dev eth0 proto 181 advmss 1424".to_owned();
        assert!(direct.contains(&default), "{direct:#?}");
        let v6 = table("-6", 6083);
        for route in [
            "2001:db8:1::/48 via fd77::2 dev eth0 proto 181 metric 50 mtu 1464 pref medium",
            "2001:db8:2::/48 proto 181 metric 1024 mtu 1464 pref medium nexthop via fd77::2 dev eth0 weight 1 nexthop via fd77::3 dev eth0 weight 1",
            "2001:db8:3::/48 via fe80::1 dev eth0 proto 181 metric 1024 mtu 1464 pref medium",
            "blackhole 2001:db8:4::/48 dev lo proto 181 metric 1024 pref medium",
            "default via fd77::2 dev eth0 proto 181 metric 1024 mtu 1464 pref medium",
            "fd77::/64 dev eth0 proto 181 metric 256 mtu 1464 pref medium",
        ] {
            assert!(v6.contains(&route.to_owned()), "{route}: {v6:#?}");
        }
        host.undo().await.unwrap();
        near.picture().assert_same(&before, "undone");
    });
}

#[test]
fn the_copy_follows_the_main_table() {
    inside(async |near| {
        let mut host = near.open();
        host.apply(&every_kind()).await.unwrap();
        let mut changes = Changes::open().unwrap();
        let mut follow = async |command: &str| {
            run(command);
            timeout(Duration::from_secs(5), changes.next()).await.unwrap();
            let done = host.refresh().await.unwrap().done;
            assert_eq!(host.refresh().await.unwrap().done, [""; 0]);
            done
        };
        let done = follow("ip route replace default via 10.77.0.3").await;
        let expected = [
            "put default (IPv4) advmss 1424 into table 6082",
            "put default (IPv4) mtu 1464 into table 6083",
        ];
        assert_eq!(done, expected);
        assert!(
            table("-4", 6083)
                .contains(&"default via 10.77.0.3 dev eth0 proto 181 mtu 1464".to_owned())
        );

        let done = follow("ip -6 route del default").await;
        let expected = [
            "take default (IPv6) metric 1024 out of table 6083",
            "take default (IPv6) metric 1024 out of table 6082",
        ];
        assert_eq!(done, expected);
        let done = follow("ip -6 route add default nexthop via fd77::2 nexthop via fd77::3").await;
        assert_eq!(done.len(), 2, "{done:#?}");
        let done = follow("ip -6 route del default via fd77::3").await;
        assert_eq!(done.len(), 2, "{done:#?}");
        assert!(!table("-6", 6083).iter().any(|r| r.contains("fd77::3")));

        // The kernel takes the copies of a link that went down itself, and gives back what it made itself.
        follow("ip link set eth0 down").await;
        assert_eq!(table("-4", 6083), Vec::<String>::new());
        follow("ip link set eth0 up").await;
        let done = follow("ip route add default via 10.77.0.2").await;
        assert!(
            done.contains(&"put default (IPv4) mtu 1464 into table 6083".to_owned()),
            "{done:#?}"
        );
        assert_eq!(table("-4", 6083).len(), 2);
    });
}

#[test]
fn nexthop_objects_are_shared() {
    inside(async |near| {
        run("ip nexthop add id 5 via 10.77.0.2 dev eth0");
        run("ip nexthop add id 6 via 10.77.0.3 dev eth0");
        run("ip nexthop add id 7 group 5/6");
        run("ip route add 10.1.0.0/16 nhid 7");
        let before = near.picture();
        let mut host = near.open();
        host.apply(&desired(&[(VIP4, Both)])).await.unwrap();
        assert_eq!(host.refresh().await.unwrap(), Report::default());
        let copy = table("-4", 6083).into_iter().find(|r| r.starts_with("10.1.")).unwrap();
        assert!(copy.starts_with("10.1.0.0/16 nhid 7 proto 181 mtu 1464"), "{copy}");
        host.undo().await.unwrap();
        near.picture().assert_same(&before, "undone");
    });
}

#[test]
fn unusual_uplinks_are_told() {
    inside(async |near| {
        let mut host = near.open();
        let mut warnings = async |vips: &[_], underlay_mtu| {
            let wanted = crate::Desired { underlay_mtu, ..desired(vips) };
            host.apply(&wanted).await.unwrap().warnings
        };
        run("ip -6 route del default");
        let found = warnings(&[(VIP4, Egress), (VIP6, Direct)], 1500).await;
        assert_eq!(found, [Warning::NoDefaultRoute(Family::V6)]);
        run("ip -6 route add default via fd77::2");

        let found = warnings(&[(VIP4, Egress)], 1501).await;
        let small =
            Warning::SmallInterface { interface: "eth0".into(), mtu: 1500, underlay_mtu: 1501 };
        assert_eq!(found, [small]);

        run("ip link add other0 type ifb");
        run("ip link set other0 up");
        run("ip route add default dev other0 metric 10");
        let found = warnings(&[(VIP4, Both)], 1500).await;
        let interface = "other0".to_owned();
        assert_eq!(found, [Warning::DefaultElsewhere { family: Family::V4, interface }]);
        assert_eq!(
            warnings(&[(VIP4, Direct)], 1500).await,
            [],
            "direct replies may go where they like"
        );
        run("ip link del other0");

        run(&format!("ip addr add {VIP4}/32 dev eth0"));
        let found = warnings(&[(VIP4, Direct)], 1500).await;
        let vip = VIP4.parse().unwrap();
        assert_eq!(found, [Warning::VipOnLink { vip, interface: "eth0".into() }]);
    });
}

#[test]
fn a_table_of_the_whole_internet_is_refused() {
    inside(async |near| {
        let mut batch = String::new();
        for i in 0..=crate::MAX_ROUTES {
            let [.., a, b] = i.to_be_bytes();
            batch.push_str(&format!("route add 20.{a}.{b}.0/24 via 10.77.0.2\n"));
        }
        let file = near.state.with_extension("batch");
        std::fs::write(&file, batch).unwrap();
        run(&format!("ip -batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        let before = near.picture();
        let error = near.open().apply(&every_kind()).await.unwrap_err();
        assert!(matches!(error, Error::TooManyRoutes(254)), "{error}");
        near.picture().assert_same(&before, "undone");
    });
}
