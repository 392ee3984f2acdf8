use core::fmt;
use core::hash::Hasher;

use jlb_role::WorkerId;
use jlb_siphash::{Sip13, TOGETHER};
use jlb_wire::{FiveTuple, words_of};
use siphasher::sip128::{Hasher128, SipHasher13};

/// Number of partitions: the flow id's first 12 bits.
pub const PARTITIONS: usize = 4096;

/// The key that places flows: one for the cluster, for life. A secret: who knows it can aim flows at one partition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// One of the [`PARTITIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u16);

impl Partition {
    /// `None` for numbers from [`PARTITIONS`] on.
    #[must_use]
    pub const fn new(n: u16) -> Option<Self> {
        if (n as usize) < PARTITIONS { Some(Self(n)) } else { None }
    }

    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS as u16).map(Self)
    }

    /// The number.
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// The number as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a flow: SipHash-1-3 with 128 bits of output, keyed by the cluster's [`HashKey`], over the five-tuple's
/// canonical bytes. The bytes are in the order of the SipHash reference implementation's output.
///
/// What is cut out of it, so that no two uses share bits:
///
/// ```text
/// byte   0    1      2 3 4 5 6 7     8 9 10 11   12 13   14 15
///        partition │ ────────────    buckets     ─────   worker
///        (12 bits)
///        └─ fingerprint (64 bits) ─┘
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId([u8; 16]);

impl FlowId {
    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From its first and last 8 bytes, each in little-endian order.
    #[must_use]
    #[inline]
    pub const fn from_halves(first: u64, last: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = first.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = last.to_le_bytes();
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The partition: the first 12 bits, in network bit order. Picks the trackers.
    #[must_use]
    #[inline]
    pub const fn partition(&self) -> Partition {
        Partition(u16::from_be_bytes([self.0[0], self.0[1]]) >> 4)
    }

    /// The first 64 bits, which [`FlowTable`](crate::FlowTable) compares.
    #[must_use]
    #[inline]
    pub const fn fingerprint(&self) -> Fingerprint {
        Fingerprint(u64::from_le_bytes(self.halves().0))
    }

    /// The last 64 bits: tables take their bucket from the lower 48 of them.
    #[must_use]
    #[inline]
    pub const fn bucket_hash(&self) -> u64 {
        u64::from_le_bytes(self.halves().1)
    }

    /// Which of `workers` owns the flow at an ingress. Spreads evenly, and independently of partition and bucket.
    /// With `workers` = 0 it is the first.
    #[must_use]
    #[inline]
    pub const fn worker(&self, workers: u8) -> WorkerId {
        let bits = u16::from_le_bytes([self.0[14], self.0[15]]);
        // Multiply and shift: a fair share for any number, without a division.
        WorkerId(((bits as u32 * workers as u32) >> 16) as u8)
    }

    #[inline]
    const fn halves(&self) -> ([u8; 8], [u8; 8]) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.0;
        ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p])
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first half of a [`FlowId`]: what a table keeps of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub(crate) u64);

impl Fingerprint {
    /// The flow's partition, as [`FlowId::partition`] says it.
    #[must_use]
    pub const fn partition(self) -> Partition {
        let bytes = self.0.to_le_bytes();
        Partition(u16::from_be_bytes([bytes[0], bytes[1]]) >> 4)
    }

    /// The whole id again, from the half that the table keeps and [`FlowId::bucket_hash`], kept by the caller.
    #[must_use]
    pub const fn with_bucket_hash(self, bucket_hash: u64) -> FlowId {
        FlowId::from_halves(self.0, bucket_hash)
    }
}

/// Makes [`FlowId`]s.
#[derive(Clone, Copy, Debug)]
pub struct FlowHasher {
    // Keyed once: the four state words are copied for each flow.
    keyed: Keyed,
}

#[derive(Clone, Copy)]
struct Keyed {
    bytes: SipHasher13,
    words: Sip13,
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl FlowHasher {
    /// With the cluster's key.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        let (bytes, words) = (SipHasher13::new_with_key(&key.0), Sip13::new(&key.0));
        Self { keyed: Keyed { bytes, words } }
    }

    /// The id of the flow with that five-tuple.
    #[must_use]
    #[inline]
    pub fn id(&self, tuple: &FiveTuple) -> FlowId {
        let words = words_of(tuple);
        if tuple.is_v6() {
            self.id_of_words(&words)
        } else {
            self.id_of_words(&[words[0], words[1]])
        }
    }

    /// The id for canonical bytes, given as `W` words in little-endian order (2 of IPv4, 5 of IPv6).
    #[must_use]
    #[inline]
    pub fn id_of_words<const W: usize>(&self, words: &[u64; W]) -> FlowId {
        let [low, high] = self.keyed.words.hash(words);
        FlowId::from_halves(low, high)
    }

    /// The ids of `count` flows, hashed side by side, each as by [`Self::id_of_words`] of the words that `words` gives for
    /// its number. `each` gets them in order.
    #[inline]
    pub fn ids_of_words<const W: usize>(
        &self,
        count: usize,
        words: impl Fn(usize) -> [u64; W],
        mut each: impl FnMut(FlowId),
    ) {
        for first in (0..count).step_by(TOGETHER) {
            let here = (count - first).min(TOGETHER);
            let mut messages = [[0; TOGETHER]; W];
            for n in 0..here {
                for (message, word) in messages.iter_mut().zip(words(first + n)) {
                    message[n] = word;
                }
            }
            let [low, high] = self.keyed.words.hash_all(&messages);
            for (&low, &high) in low.iter().zip(&high).take(here) {
                each(FlowId::from_halves(low, high));
            }
        }
    }

    /// The id for canonical bytes.
    #[must_use]
    #[inline]
    pub fn id_of(&self, canonical: &[u8]) -> FlowId {
        let mut hasher = self.keyed.bytes;
        hasher.write(canonical);
        FlowId(hasher.finish128().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use jlb_wire::Protocol;

    use super::*;

    const KEY: HashKey = HashKey([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

    fn id(client: &str, vip: &str, protocol: Protocol) -> FlowId {
        let tuple =
            FiveTuple::new(client.parse().unwrap(), vip.parse().unwrap(), protocol).unwrap();
        FlowHasher::new(KEY).id(&tuple)
    }

    /// From an implementation of SipHash-c-d-128 written for this purpose from the paper and the reference code's
    /// 128-bit variant (in Python, big integers); with c = 2, d = 4 it gives the first two vectors that the
    /// reference code publishes (a3817f04…50293, da87c1d8…fc45), with c = 1, d = 3 these.
    #[test]
    fn golden_vectors() {
        let tcp = id("198.51.100.9:41112", "203.0.113.10:80", Protocol::Tcp);
        assert_eq!(tcp.to_string(), "1e9c3abbcbbe704add608816c0f09831");
        let udp = id("198.51.100.9:41112", "203.0.113.10:80", Protocol::Udp);
        assert_eq!(udp.to_string(), "55aa4c717de15cbd1c607499c934c9a2");
        let v6 = id("[2001:db8:1::9]:41112", "[2001:db8:ffff::10]:443", Protocol::Tcp);
        assert_eq!(v6.to_string(), "0ada21788bc2c64ee2c3c2901f5abd72");
        assert_eq!(FlowHasher::new(KEY).id_of(b"").to_string(), "e77ebcb22788a5befd62db6add303001");

        assert_eq!(tcp.partition().as_u16(), 0x1e9);
        assert_eq!(tcp.fingerprint().partition(), tcp.partition());
        assert_eq!(tcp.bucket_hash(), 0x3198_f0c0_1688_60dd);
        // 0x3198 × 8 / 65536 = 1.55
        assert_eq!(tcp.worker(8), WorkerId(1));
        assert_eq!(tcp.worker(1), WorkerId(0));
        assert_eq!(tcp.fingerprint().with_bucket_hash(tcp.bucket_hash()), tcp);
    }

    #[test]
    fn flows_spread_evenly_over_partitions_and_workers() {
        let hasher = FlowHasher::new(KEY);
        let mut partitions = vec![0u32; PARTITIONS];
        let mut workers = [0u32; 3];
        let n = PARTITIONS as u32 * 64;
        for i in 0..n {
            let id = hasher.id_of(&i.to_be_bytes());
            partitions[id.partition().index()] += 1;
            workers[usize::from(id.worker(3).0)] += 1;
        }
        // Mean 64, standard deviation 8; of 4096 draws the largest deviation is about 3.7 × that.
        assert!(partitions.iter().all(|&k| (64 - 48..=64 + 48).contains(&k)));
        // Mean n / 3 = 87381, standard deviation 241.
        assert!(workers.iter().all(|&k| k.abs_diff(n / 3) < 1500), "{workers:?}");
    }

    #[test]
    fn words_are_hashed_like_their_bytes() {
        let hasher = FlowHasher::new(KEY);
        for n in 0..1000u64 {
            let words: [u64; 5] =
                core::array::from_fn(|w| (n + 7 * w as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            assert_eq!(hasher.id_of_words(&words), hasher.id_of(&bytes));
            let two = [words[0], words[1]];
            assert_eq!(hasher.id_of_words(&two), hasher.id_of(&bytes[..16]));
        }
        let mut narrow = hasher;
        narrow.keyed.words = narrow.keyed.words.narrow();
        for count in 0..40 {
            let words = |n: usize| [n as u64, !(n as u64) << 20, 3, 4, 5];
            let expected: Vec<_> = (0..count).map(|n| hasher.id_of_words(&words(n))).collect();
            for hasher in [hasher, narrow] {
                let mut ids = Vec::new();
                hasher.ids_of_words(count, words, |id| ids.push(id));
                assert_eq!(ids, expected);
            }
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        let shown = format!("{:?} {:?}", KEY, FlowHasher::new(KEY));
        assert_eq!(shown, "HashKey(…) FlowHasher { keyed: … }");
    }
}
