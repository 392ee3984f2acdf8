use core::net::IpAddr;

use jlb_map::{MemberRole, ServiceId, Snapshot};
use jlb_wire::{FiveTuple, words_of};

/// What the packet path asks of the configuration.
#[derive(Debug)]
pub(crate) struct Directory {
    services: Services,
    vips: Addresses,
    backends: Addresses,
}

/// From VIP, port and protocol to the service: a hash table of open addressing, at most a quarter full, so that nearly
/// every packet needs one compare. The keys are the words of a five-tuple without the client (see
/// [`jlb_wire::Glance::words`]).
#[derive(Debug)]
struct Services {
    v4: Slots<u64, ServiceId>,
    v6: Slots<[u64; 3], ServiceId>,
}

/// A power of two of places; `None`: free.
#[derive(Debug)]
struct Slots<K, V>(Box<[Option<(K, V)>]>);

/// A set of addresses: a hash table of the same kind.
#[derive(Debug)]
struct Addresses {
    v4: Slots<u32, ()>,
    v6: Slots<u128, ()>,
}

impl Directory {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut vips = Vec::new();
        for (id, service) in (0..).map(ServiceId).zip(snapshot.services()) {
            let [high, low] = service.port.to_be_bytes();
            for &vip in &service.vips {
                vips.push(vip);
                // Any client.
                match vip {
                    IpAddr::V4(vip) => {
                        let ports = [0, 0, high, low];
                        let tuple = FiveTuple::v4([0; 4], vip.octets(), ports, service.protocol);
                        v4.push((key_v4(&words_of(&tuple)), id));
                    }
                    IpAddr::V6(vip) => {
                        let ports = [0, 0, high, low];
                        let tuple = FiveTuple::v6([0; 16], vip.octets(), ports, service.protocol);
                        v6.push((key_v6(&words_of(&tuple)), id));
                    }
                }
            }
        }
        let backends = snapshot.members().iter().filter(|m| m.role == MemberRole::Backend);
        let backends = backends.flat_map(|m| m.addresses.iter()).collect();
        let (vips, backends) = (Addresses::new(vips), Addresses::new(backends));
        let services = Services { v4: Slots::new(&v4, mix_v4), v6: Slots::new(&v6, mix_v6) };
        Self { services, vips, backends }
    }

    /// The service that a client's packet is for, by the words of its tuple.
    #[inline(always)]
    pub(crate) fn service(&self, v6: bool, words: &[u64; 5]) -> Option<ServiceId> {
        if v6 {
            let key = key_v6(words);
            self.services.v6.find(key, mix_v6(key))
        } else {
            let key = key_v4(words);
            self.services.v4.find(key, mix_v4(key))
        }
    }

    /// Whether any service has that address.
    #[inline]
    pub(crate) fn is_vip(&self, ip: IpAddr) -> bool {
        self.vips.contains(ip)
    }

    /// Whether that is a backend's underlay address.
    #[inline]
    pub(crate) fn is_backend(&self, ip: IpAddr) -> bool {
        self.backends.contains(ip)
    }
}

impl Addresses {
    /// One may be there more than once (one VIP of many services).
    fn new(mut addresses: Vec<IpAddr>) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        let v4: Vec<_> = addresses
            .iter()
            .filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some((ip.to_bits(), ())),
                IpAddr::V6(_) => None,
            })
            .collect();
        let v6: Vec<_> = addresses
            .iter()
            .filter_map(|ip| match ip {
                IpAddr::V6(ip) => Some((ip.to_bits(), ())),
                IpAddr::V4(_) => None,
            })
            .collect();
        Self { v4: Slots::new(&v4, mix_ip4), v6: Slots::new(&v6, mix_ip6) }
    }

    #[inline]
    fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.find(ip.to_bits(), mix_ip4(ip.to_bits())).is_some(),
            IpAddr::V6(ip) => self.v6.find(ip.to_bits(), mix_ip6(ip.to_bits())).is_some(),
        }
    }
}

impl<K: Copy + PartialEq, V: Copy> Slots<K, V> {
    fn new(entries: &[(K, V)], mix: impl Fn(K) -> u64) -> Self {
        let places = (4 * entries.len()).next_power_of_two();
        let mut slots = vec![None; places].into_boxed_slice();
        for &(key, value) in entries {
            let mut at = place(mix(key), places);
            // Three quarters are free.
            while slots[at].is_some() {
                at = (at + 1) % places;
            }
            slots[at] = Some((key, value));
        }
        Self(slots)
    }

    #[inline(always)]
    fn find(&self, key: K, hash: u64) -> Option<V> {
        let mut at = place(hash, self.0.len());
        while let Some((k, value)) = self.0[at] {
            if k == key {
                return Some(value);
            }
            at = (at + 1) & (self.0.len() - 1);
        }
        None
    }
}

/// The highest bits of a multiplicative hash, which depend on all of the key.
#[inline]
fn place(hash: u64, places: usize) -> usize {
    ((u128::from(hash) * places as u128) >> 64) as usize
}

/// 2⁶⁴ / golden ratio, odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// VIP, its port, protocol.
#[inline]
const fn key_v4(words: &[u64; 5]) -> u64 {
    words[0] >> 32 | (words[1] >> 16) << 32
}

#[inline]
const fn mix_v4(key: u64) -> u64 {
    key.wrapping_mul(SPREAD)
}

#[inline]
const fn key_v6(words: &[u64; 5]) -> [u64; 3] {
    [words[2], words[3], words[4] >> 16]
}

#[inline]
const fn mix_v6(key: [u64; 3]) -> u64 {
    (key[0] ^ key[1].rotate_left(29) ^ key[2].rotate_left(17)).wrapping_mul(SPREAD)
}

#[inline]
const fn mix_ip4(key: u32) -> u64 {
    (key as u64).wrapping_mul(SPREAD)
}

#[inline]
const fn mix_ip6(key: u128) -> u64 {
    (key as u64 ^ ((key >> 64) as u64).rotate_left(29)).wrapping_mul(SPREAD)
}
