//! Members come, go, drain and restart while clients are served.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::time::Duration;

use jlb_lab::topology::VIP;
use jlb_lab::{Error, Jlb, Lab, LabConfig, traffic};

const PATIENCE: Duration = Duration::from_secs(5);
/// Trackers ask agents every 100 ms; a new one must have answered.
const KNOWN: Duration = Duration::from_secs(2);

/// Where requests of both families go; none may fail.
fn backends(lab: &Lab) -> Vec<String> {
    let client = lab.node("client").unwrap();
    let mut names = Vec::new();
    for vip in VIP {
        let requests = traffic::requests(&client, vip, 100, PATIENCE).unwrap();
        names.extend(requests.into_iter().map(|request| request.backend.unwrap()));
    }
    names.sort();
    names.dedup();
    names
}

#[test]
fn members_come_go_drain_and_restart() {
    let mut jlb = Jlb { absent: vec!["backend-4".to_owned()], ..Jlb::default() };
    // By the default policy one that has refused while a list came is asked last for a while.
    jlb.services[0].more = "policy = \"random\"\n".to_owned();
    let config = LabConfig { ingresses: 2, trackers: 2, jlb: Some(jlb), ..LabConfig::default() };
    let mut lab = Lab::up(&format!("members-{}", std::process::id()), &config).unwrap();
    let trackers = lab.select(&["trackers".to_owned()]).unwrap();
    assert_eq!(backends(&lab), ["backend-1", "backend-2", "backend-3"]);

    lab.add_member("backend-4").unwrap();
    assert!(lab.wait_seen(&trackers, "backend-4", true, KNOWN).unwrap());
    assert_eq!(backends(&lab), ["backend-1", "backend-2", "backend-3", "backend-4"]);

    lab.drain("backend-1", true).unwrap();
    assert_eq!(backends(&lab), ["backend-2", "backend-3", "backend-4"]);
    lab.drain("backend-1", false).unwrap();
    assert_eq!(backends(&lab).len(), 4);

    lab.restart_daemons(&lab.select(&["ingress-1".to_owned(), "backend-2".to_owned()]).unwrap())
        .unwrap();
    // Who was asked while its daemon was away has refused, and is asked last for 200 ms.
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(backends(&lab).len(), 4);

    lab.remove_member("backend-3").unwrap();
    assert_eq!(backends(&lab), ["backend-1", "backend-2", "backend-4"]);

    // The daemons refuse a list that loses more than a third of a role.
    let refused =
        lab.reload(|jlb| jlb.absent.extend(["backend-1", "backend-2"].map(str::to_owned)));
    refused.unwrap();
    assert!(matches!(lab.wait_reloaded(), Err(Error::NotReloaded { .. })));
}
