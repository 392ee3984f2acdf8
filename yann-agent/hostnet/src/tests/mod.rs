//! In network namespaces of our own, gone with their threads. Needs root.

mod lifecycle;
mod namespace;
mod replies;
mod routes;

use core::net::IpAddr;

use jlb_map::Family;

use crate::Replies::{Both, Direct, Egress};
use crate::{Desired, HostNet, Replies, Tables};
use namespace::Near;

const VIP4: &str = "192.0.2.10";
const VIP6: &str = "2001:db8:5::10";

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn desired(vips: &[(&str, Replies)]) -> Desired {
    let mut desired = Desired {
        interfaces: vec!["eth0".to_owned()],
        vips: Default::default(),
        underlay_mtu: 1500,
        outer: Family::V4,
        tables: Tables::default(),
    };
    for &(vip, path) in vips {
        desired.serve(ip(vip), path);
    }
    desired
}

fn every_kind() -> Desired {
    desired(&[
        (VIP4, Egress),
        (VIP6, Egress),
        ("192.0.2.20", Direct),
        ("2001:db8:5::20", Direct),
        ("192.0.2.30", Both),
        ("2001:db8:5::30", Both),
    ])
}

impl Near {
    fn open(&self) -> HostNet {
        HostNet::open(&self.state).unwrap()
    }

    /// As an agent that is killed right after.
    async fn apply(&self, desired: &Desired) -> crate::Report {
        self.open().apply(desired).await.unwrap()
    }
}
