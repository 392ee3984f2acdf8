use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::namespace::{Near, inside, run, set_sysctl, sysctl};
use super::{VIP4, VIP6, desired, every_kind, ip};
use crate::Replies::{Direct, Egress};
use crate::{Desired, Error, HostNet, Warning, status};

#[test]
fn what_was_applied_is_there_once_and_undone_to_the_byte() {
    inside(async |near| {
        set_sysctl("net/ipv4/conf/eth0/rp_filter", "1");
        let before = near.picture();
        let mut host = near.open();
        let report = host.apply(&every_kind()).await.unwrap();
        assert_eq!(report.warnings, []);
        assert!(report.done.contains(&"put 192.0.2.10/32 on lo".to_owned()), "{:#?}", report.done);
        let after = near.picture();

        assert_eq!(host.apply(&every_kind()).await.unwrap(), Default::default(), "applied twice");
        assert_eq!(host.refresh().await.unwrap(), Default::default());
        drop(host);
        assert_eq!(
            near.apply(&every_kind()).await,
            Default::default(),
            "applied by the next process"
        );
        near.picture().assert_same(&after, "undone");

        let lo = run("ip addr show dev lo");
        assert!(lo.contains("inet 192.0.2.10/32 scope host lo"), "{lo}");
        assert!(
            lo.contains("inet6 2001:db8:5::10/128 scope global nodad deprecated noprefixroute"),
            "{lo}"
        );
        let values = ["arp_ignore", "arp_announce", "rp_filter"]
            .map(|key| sysctl(&format!("net/ipv4/conf/eth0/{key}")));
        assert_eq!(values, ["1", "2", "2"]);

        let mut host = near.open();
        assert!(!host.undo().await.unwrap().done.is_empty());
        near.picture().assert_same(&before, "undone");
        assert_eq!(host.undo().await.unwrap(), Default::default(), "undone twice");
        near.picture().assert_same(&before, "undone");
        drop(host);
        assert!(near.is_clean());
        assert_eq!(near.open().undo().await.unwrap(), Default::default(), "without a state file");
    });
}

/// Does what [`HostNet::apply`] does, but is killed before the step `stop`. Whether there was such a step.
async fn killed_at(near: &Near, desired: &Desired, stop: usize) -> bool {
    let mut host = near.open();
    let plan = host.plan(desired).await.unwrap();
    host.record(plan.before).unwrap();
    for step in plan.steps.iter().take(stop) {
        assert_eq!(host.take(step).await.unwrap(), None);
    }
    stop < plan.steps.len()
}

#[test]
fn a_run_that_is_killed_at_any_step_is_continued_or_undone() {
    inside(async |near| {
        let before = near.picture();
        near.apply(&every_kind()).await;
        let applied = near.picture();
        near.open().undo().await.unwrap();
        let mut stop = 0;
        while killed_at(&near, &every_kind(), stop).await {
            near.open().undo().await.unwrap();
            near.picture().assert_same(&before, &format!("undone after a kill before step {stop}"));
            assert!(killed_at(&near, &every_kind(), stop).await);
            near.apply(&every_kind()).await;
            near.picture()
                .assert_alike(&applied, &format!("continued after a kill before step {stop}"));
            near.open().undo().await.unwrap();
            stop += 1;
        }
        assert!(stop >= 26, "there were {stop} steps only");
        near.picture().assert_alike(&applied, "killed after the last step");
        near.apply(&every_kind()).await;

        let mut stop = 0;
        while killed_at(&near, &Desired::nothing(), stop).await {
            near.open().undo().await.unwrap();
            near.picture().assert_same(&before, &format!("the undoing killed before step {stop}"));
            near.apply(&every_kind()).await;
            stop += 1;
        }
        assert!(stop >= 26, "there were {stop} steps only");
        near.open().undo().await.unwrap();
        near.picture().assert_same(&before, "undone");
        assert!(near.is_clean());
    });
}

#[test]
fn what_the_host_had_before_stays() {
    inside(async |near| {
        run("ip addr add 192.0.2.10/32 dev lo");
        run("ip link add other0 type ifb");
        run("ip addr add 2001:db8:5::10/128 dev other0 nodad");
        set_sysctl("net/ipv4/conf/eth0/arp_ignore", "2");
        set_sysctl("net/ipv4/conf/all/arp_announce", "2");
        let before = near.picture();
        let report = near.apply(&every_kind()).await;
        assert!(
            !report.done.iter().any(|d| d.contains(VIP4) && d.contains("on lo")),
            "{report:#?}"
        );
        assert!(
            !report.done.iter().any(|d| d.contains(VIP6) && d.contains("on lo")),
            "{report:#?}"
        );
        assert!(!report.done.iter().any(|d| d.contains("arp")), "{report:#?}");
        assert!(run("ip addr show dev lo").contains("192.0.2.10/32 scope global"));
        near.apply(&desired(&[])).await;
        assert!(run("ip addr show dev lo").contains("192.0.2.10/32 scope global"));
        near.open().undo().await.unwrap();
        near.picture().assert_same(&before, "undone");
    });
}

#[test]
fn what_is_no_longer_desired_goes_and_the_rest_stays() {
    inside(async |near| {
        let before = near.picture();
        let mut host = near.open();
        host.apply(&every_kind()).await.unwrap();
        let report = host.apply(&desired(&[(VIP4, Direct)])).await.unwrap();
        assert!(report.done.contains(&"add rule 6081: from 192.0.2.10 lookup 6082".to_owned()));
        assert!(report.done.contains(&"remove rule 6081: from 192.0.2.10 lookup 6081".to_owned()));
        let one_done =
            report.done.iter().filter(|d| d.contains("sysctl") || d.contains("10/32")).count();
        assert_eq!(one_done, 0, "{:#?}", report.done);
        let lo = run("ip addr show dev lo");
        assert!(
            lo.contains("192.0.2.10/32") && !lo.contains("192.0.2.20") && !lo.contains("2001:db8"),
            "{lo}"
        );
        assert_eq!(run("ip -6 route show table all proto 181"), "");
        let routes = run("ip -4 route show table all proto 181");
        assert!(routes.contains("table 6082") && !routes.contains("table 6081"), "{routes}");

        // Other numbers for the tables, and another interface.
        run("ip link add other0 type ifb");
        let mut other = desired(&[(VIP4, Egress)]);
        other.interfaces = vec!["other0".to_owned()];
        other.tables = crate::Tables { egress: 77, direct: 78, both: 79, priority: 1000 };
        host.apply(&other).await.unwrap();
        assert_eq!(sysctl("net/ipv4/conf/eth0/arp_ignore"), "0");
        assert_eq!(sysctl("net/ipv4/conf/other0/arp_ignore"), "1");
        assert_eq!(
            run("ip rule show table 77").trim(),
            "1000:\tfrom 192.0.2.10 lookup 77 proto 181"
        );
        assert_eq!(run("ip rule show table 6082"), "");
        host.undo().await.unwrap();
        run("ip link del other0");
        near.picture().assert_same(&before, "undone");
    });
}

#[test]
fn what_somebody_else_changed_meanwhile_is_not_overwritten_by_undo() {
    inside(async |near| {
        let mut host = near.open();
        host.apply(&every_kind()).await.unwrap();
        set_sysctl("net/ipv4/conf/eth0/arp_announce", "1");
        run("ip addr del 192.0.2.10/32 dev lo");
        run("ip rule del from 192.0.2.20 lookup 6082");
        let changes = host.status().await.unwrap();
        let mut lost: Vec<_> =
            changes.iter().filter(|c| !c.still_in_force).map(|c| &c.what[..]).collect();
        lost.sort_unstable();
        let expected = [
            "192.0.2.10/32 on lo",
            "net.ipv4.conf.eth0.arp_announce",
            "rule 6081: from 192.0.2.20 lookup 6082",
        ];
        assert_eq!(lost, expected);
        host.undo().await.unwrap();
        assert_eq!(sysctl("net/ipv4/conf/eth0/arp_announce"), "1");
        assert_eq!(sysctl("net/ipv4/conf/eth0/arp_ignore"), "0");

        // A running agent does it again, and then that is what is restored.
        host.apply(&every_kind()).await.unwrap();
        set_sysctl("net/ipv4/conf/eth0/arp_ignore", "3");
        run("ip addr del 192.0.2.10/32 dev lo");
        let done = host.refresh().await.unwrap().done;
        assert_eq!(done, ["set net.ipv4.conf.eth0.arp_ignore = 1", "put 192.0.2.10/32 on lo"]);
        host.undo().await.unwrap();
        assert_eq!(sysctl("net/ipv4/conf/eth0/arp_ignore"), "3");
    });
}

#[test]
fn status_lists_every_change_with_what_it_replaced() {
    inside(async |near| {
        assert_eq!(status(&near.state).await.unwrap(), []);
        let mut host = near.open();
        host.apply(&desired(&[(VIP4, Egress)])).await.unwrap();
        let lines: Vec<_> = status(&near.state)
            .await
            .unwrap()
            .into_iter()
            .map(|c| format!("{}: {} -> {} {}", c.what, c.old, c.new, c.still_in_force))
            .collect();
        let expected = [
            "net.ipv4.conf.eth0.arp_ignore: 0 -> 1 true",
            "net.ipv4.conf.eth0.arp_announce: 0 -> 2 true",
            "neighbour 169.254.74.76 on eth0: absent -> present true",
            "route default (IPv4) in table 6081: absent -> default (IPv4) mtu 1464 true",
            "rule 6081: from 192.0.2.10 lookup 6081: absent -> present true",
            "192.0.2.10/32 on lo: absent -> scope host true",
        ];
        assert_eq!(lines, expected);
        host.undo().await.unwrap();
    });
}

#[test]
fn one_agent_at_a_time_and_its_own_namespace_only() {
    inside(async |near| {
        let mut host = near.open();
        host.apply(&every_kind()).await.unwrap();
        assert!(matches!(HostNet::open(&near.state), Err(Error::InUse(_))));
        drop(host);

        let state = near.state.clone();
        let elsewhere = near.far.run(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let status = status(&state).await.unwrap_err();
                let mut host = HostNet::open(&state).unwrap();
                (status.to_string(), host.undo().await.unwrap_err().to_string())
            })
        });
        for error in [elsewhere.0, elsewhere.1] {
            assert!(error.contains("tells of another network namespace"), "{error}");
        }
        assert!(run("ip addr show dev lo").contains(VIP4));
        near.open().undo().await.unwrap();

        // A namespace that is gone must not keep a new one from serving.
        near.apply(&every_kind()).await;
        let text = fs::read_to_string(&near.state).unwrap();
        let mut content: serde_json::Value = serde_json::from_str(&text).unwrap();
        content["home"]["namespace"] = 1.into();
        fs::write(&near.state, content.to_string()).unwrap();
        let report = near.open().apply(&every_kind()).await.unwrap();
        assert_eq!(report.warnings, [Warning::OtherNamespace]);
    });
}

#[test]
fn what_stands_in_the_way_is_named() {
    inside(async |near| {
        let mut host = near.open();
        let mut wrong = every_kind();
        wrong.interfaces.push("eth9".to_owned());
        let error = host.apply(&wrong).await.unwrap_err();
        assert!(error.to_string().contains("no interface `eth9`"), "{error}");

        run("ip route add 10.9.0.0/16 via 10.77.0.2 table 6082");
        let error = host.apply(&every_kind()).await.unwrap_err();
        assert!(matches!(error, Error::TableInUse(6082)), "{error}");
        run("ip route flush table 6082");

        set_sysctl("net/ipv6/conf/lo/disable_ipv6", "1");
        let error = host.apply(&every_kind()).await.unwrap_err();
        assert!(matches!(error, Error::Ipv6Off(vip) if vip == ip(VIP6)), "{error}");
        host.undo().await.unwrap();
        run("ip link set lo down");
        let error = host.apply(&desired(&[(VIP4, Egress)])).await.unwrap_err();
        assert!(matches!(error, Error::LoopbackDown), "{error}");
        assert_eq!(host.undo().await.unwrap(), Default::default());
        let mut many = every_kind();
        for i in 0..=u16::MAX {
            let [high, low] = i.to_be_bytes();
            many.serve([10, 9, high, low].into(), Egress);
        }
        assert!(matches!(host.apply(&many).await, Err(Error::TooManyVips(_))));
    });
}

/// As a user without rights, in a process of its own: the ids of a process are those of all its threads.
#[test]
fn without_rights_it_says_which_are_missing() {
    const STATE: &str = "JLB_TEST_STATE";
    const REFUSED: &str = "JLB_TEST_REFUSED";
    const NOBODY: u32 = 65534;
    if let Ok(state) = std::env::var(STATE) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let wanted = desired(&[(VIP4, Egress)]);
        let error = runtime.block_on(async {
            HostNet::open(state.as_ref()).unwrap().apply(&wanted).await.unwrap_err()
        });
        assert!(matches!(error, Error::Permission { .. }), "{error}");
        let text = error.to_string();
        let refused = std::env::var(REFUSED).unwrap();
        assert!(text.contains("CAP_NET_ADMIN") && text.contains(&refused), "{text}");
        return;
    }
    inside(async |near| {
        let folder = near.state.parent().unwrap();
        std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
        for refused in ["write /proc/sys/net/ipv4/conf/eth0/arp_ignore", "make 169.254.74.76"] {
            let before = near.picture();
            let output = Command::new("/proc/self/exe")
                .args(["--exact", "tests::lifecycle::without_rights_it_says_which_are_missing"])
                .env(STATE, &near.state)
                .env(REFUSED, refused)
                .uid(NOBODY)
                .gid(NOBODY)
                .current_dir("/")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            near.open().undo().await.unwrap();
            near.picture().assert_same(&before, "undone");
            set_sysctl("net/ipv4/conf/eth0/arp_ignore", "1");
            set_sysctl("net/ipv4/conf/eth0/arp_announce", "2");
        }
    });
}
