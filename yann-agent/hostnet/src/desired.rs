use core::net::IpAddr;
use std::collections::BTreeMap;

use jlb_map::{Family, MemberRole, ReturnPath, Snapshot};
use jlb_wire::{MemberId, OVERHEAD_V4, OVERHEAD_V6};

/// VIPs of one host. Each costs a routing rule, and the kernel walks them for every packet of a new route.
pub const MAX_VIPS: usize = 1024;
/// Number of the first of three route tables, and of the rules that lead there.
pub const DEFAULT_TABLE: u32 = 6081;

/// How the replies of a VIP travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// Through an egress server, all of them.
    Egress,
    /// Straight to the client, all of them.
    Direct,
    /// Some services of the VIP this way, some that way.
    Both,
}

impl From<ReturnPath> for Replies {
    fn from(path: ReturnPath) -> Self {
        match path {
            ReturnPath::Egress => Self::Egress,
            ReturnPath::Direct => Self::Direct,
        }
    }
}

/// How the host should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The interfaces where packets of the underlay arrive, and any other on whose link hosts may ask for a VIP. Replies
    /// that are to be encapsulated leave by the first.
    pub interfaces: Vec<String>,
    /// The VIPs that the host serves.
    pub vips: BTreeMap<IpAddr, Replies>,
    /// Bytes of the largest IP packet between members.
    pub underlay_mtu: u16,
    /// The family of the encapsulating header; the one with the larger header when both occur.
    pub outer: Family,
    /// Where the routes for replies go.
    pub tables: Tables,
}

/// Numbers of the route tables and rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// For [`Replies::Egress`]. Nobody else may use it.
    pub egress: u32,
    /// For [`Replies::Direct`]. Nobody else may use it.
    pub direct: u32,
    /// For [`Replies::Both`]. Nobody else may use it.
    pub both: u32,
    /// Of the rules that select them.
    pub priority: u32,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            egress: DEFAULT_TABLE,
            direct: DEFAULT_TABLE + 1,
            both: DEFAULT_TABLE + 2,
            priority: DEFAULT_TABLE,
        }
    }
}

impl Tables {
    pub(crate) const fn of(&self, replies: Replies) -> u32 {
        match replies {
            Replies::Egress => self.egress,
            Replies::Direct => self.direct,
            Replies::Both => self.both,
        }
    }

    pub(crate) const fn all(&self) -> [u32; 3] {
        [self.egress, self.direct, self.both]
    }
}

impl Desired {
    /// What a cluster's list wants of one backend: the VIPs of the services that name it, with the default tables.
    #[must_use]
    pub fn of(cluster: &Snapshot, me: MemberId, interfaces: &[String]) -> Self {
        let ingresses = cluster.with_role(MemberRole::Ingress).iter();
        let over_v6 =
            |&i: &MemberId| cluster.underlay_pair(i, me).is_some_and(|(a, _)| a.is_ipv6());
        let outer = if ingresses.clone().any(over_v6) { Family::V6 } else { Family::V4 };
        let mut desired = Self {
            interfaces: interfaces.to_vec(),
            vips: BTreeMap::new(),
            underlay_mtu: cluster.mtu(),
            outer,
            tables: Tables::default(),
        };
        for service in cluster.services().iter().filter(|s| s.backend(me).is_some()) {
            for &vip in &service.vips {
                desired.serve(vip, service.return_path.into());
            }
        }
        desired
    }

    /// Adds a VIP, or a service to one.
    pub fn serve(&mut self, vip: IpAddr, replies: Replies) {
        let known = self.vips.entry(vip).or_insert(replies);
        if *known != replies {
            *known = Replies::Both;
        }
    }

    /// Bytes of the largest packet that fits when encapsulated.
    #[must_use]
    pub fn inner_mtu(&self) -> u32 {
        let overhead = match self.outer {
            Family::V4 => OVERHEAD_V4,
            Family::V6 => OVERHEAD_V6,
        };
        u32::from(self.underlay_mtu).saturating_sub(overhead as u32)
    }

    /// Nothing of ours.
    pub(crate) fn nothing() -> Self {
        Self {
            interfaces: Vec::new(),
            vips: BTreeMap::new(),
            underlay_mtu: 0,
            outer: Family::V4,
            tables: Tables::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = r#"
generation = 1
epoch = 1
[keys]
hash_key_file = "hash"
mac_key_files = ["mac"]
[underlay]
prefixes = ["10.0.0.0/24", "fd00::/64"]
mtu = 1400
[[member]]
id = 1
name = "i1"
role = "ingress"
addresses = ["10.0.0.1", "fd00::1"]
[[member]]
id = 2
name = "t2"
role = "flowtracker"
addresses = ["10.0.0.2", "fd00::2"]
[[member]]
id = 3
name = "t3"
role = "flowtracker"
addresses = ["10.0.0.3", "fd00::3"]
[[member]]
id = 4
name = "b4"
role = "backend"
addresses = ["10.0.0.4", "fd00::4"]
[[member]]
id = 5
name = "b5"
role = "backend"
addresses = ["fd00::5"]
[[service]]
name = "web"
vips = ["192.0.2.1", "2001:db8::1"]
port = 80
protocol = "tcp"
backends = ["b4", "b5"]
[[service]]
name = "dns"
vips = ["192.0.2.1", "192.0.2.2"]
port = 53
protocol = "udp"
return_path = "direct"
backends = ["b4"]
"#;

    #[test]
    fn the_list_says_what_a_backend_serves() {
        let file = jlb_config::ClusterFile { name: "cluster.toml", text: CLUSTER };
        let mut key = |path: &std::path::Path| {
            let digits = if path.ends_with("hash") { "01" } else { "23" };
            Ok(jlb_config::KeyFile { text: digits.repeat(16), mode: 0o600 })
        };
        let cluster = jlb_config::parse_cluster(file, &mut key).unwrap_or_else(|m| panic!("{m}"));
        let of = |id| Desired::of(&cluster, MemberId::new(id).unwrap(), &["eth0".to_owned()]);
        let vip = |s: &str| s.parse::<IpAddr>().unwrap();
        let desired = of(4);
        let vips = [
            (vip("192.0.2.1"), Replies::Both),
            (vip("192.0.2.2"), Replies::Direct),
            (vip("2001:db8::1"), Replies::Egress),
        ];
        assert_eq!(desired.vips, vips.into());
        assert_eq!((desired.outer, desired.inner_mtu()), (Family::V4, 1364));
        let desired = of(5);
        assert_eq!(desired.vips.len(), 2);
        assert_eq!((desired.outer, desired.inner_mtu()), (Family::V6, 1344), "it has IPv6 only");
    }

    #[test]
    fn the_inner_mtu_leaves_room_for_the_outer_headers() {
        let mut desired = Desired { underlay_mtu: 1500, ..Desired::nothing() };
        assert_eq!(desired.inner_mtu(), 1464);
        desired.outer = Family::V6;
        assert_eq!(desired.inner_mtu(), 1444);
    }
}
