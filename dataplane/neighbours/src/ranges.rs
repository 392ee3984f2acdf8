use crate::{MacAddr, Prefix};

/// Longest-prefix match as a sorted list of ranges: nested prefixes are cut open when it is built, so that a look-up
/// is one binary search.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    /// First address of each range; it ends before the next one starts. Without the MACs: the search touches only
    /// these.
    starts: Box<[u128]>,
    macs: Box<[Option<MacAddr>]>,
}

impl Ranges {
    /// Of prefixes of one address family; of equal ones the last counts.
    pub(crate) fn new(mut routes: Vec<(Prefix, Option<MacAddr>)>) -> Self {
        // Stable, shorter prefixes first: a prefix comes after all that contain it, and prefixes never overlap partly.
        routes.sort_by_key(|&(p, _)| (p.bounds().0, p.len()));
        let mut cut = Cut::default();
        for (prefix, mac) in routes {
            let (first, last) = prefix.bounds();
            cut.close_before(first);
            cut.put(first, mac);
            cut.open.push((last, mac));
        }
        cut.close_before(u128::MAX);
        Self { starts: cut.starts.into(), macs: cut.macs.into() }
    }

    pub(crate) fn find(&self, address: u128) -> Option<MacAddr> {
        let after = self.starts.partition_point(|&start| start <= address);
        self.macs.get(after.checked_sub(1)?).copied().flatten()
    }
}

#[derive(Default)]
struct Cut {
    starts: Vec<u128>,
    macs: Vec<Option<MacAddr>>,
    /// The prefixes that contain the current place, outermost first, with their last address. At most 129 deep.
    open: Vec<(u128, Option<MacAddr>)>,
}

impl Cut {
    /// Ends the open prefixes that end before `next`: behind each, the one around it goes on.
    fn close_before(&mut self, next: u128) {
        while let Some(&(last, _)) = self.open.last() {
            if last >= next {
                return;
            }
            self.open.pop();
            let around = self.open.last().and_then(|&(_, mac)| mac);
            // `last < next`, so there is an address behind it.
            self.put(last + 1, around);
        }
    }

    /// A range starts here; the last word on one start counts.
    fn put(&mut self, start: u128, mac: Option<MacAddr>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.macs.pop();
        }
        self.starts.push(start);
        self.macs.push(mac);
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_the_plain_search_over_all_prefixes(
            // Few bits, so that prefixes nest, repeat and touch both ends of the address space.
            routes in prop::collection::vec((any::<u8>(), 0u8..=8, prop::option::of(0u8..4)), 0..40),
        ) {
            let routes: Vec<_> = routes
                .into_iter()
                .map(|(a, len, mac)| {
                    let address = IpAddr::V4(Ipv4Addr::new(a, 0, 0, 0));
                    (Prefix::new(address, len).unwrap(), mac.map(|n| MacAddr([n; 6])))
                })
                .collect();
            let ranges = Ranges::new(routes.clone());
            for a in 0..=u8::MAX {
                for low in [0, 0x00ff_ffff] {
                    let address = u128::from(a) << 24 | low;
                    let longest = routes
                        .iter()
                        .filter(|(p, _)| (p.bounds().0..=p.bounds().1).contains(&address))
                        .max_by_key(|(p, _)| p.len());
                    prop_assert_eq!(ranges.find(address), longest.and_then(|&(_, mac)| mac), "{:x}", address);
                }
            }
        }
    }
}
