use core::hash::{BuildHasherDefault, Hasher};

use crate::trace::mix;

/// A map for look-ups, under a hash that is cheap: nobody chooses keys to collide here. Whatever depends on an order is a
/// `BTreeMap`.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<Mixer>>;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.write_u64(u64::from_be_bytes(*word));
        }
        for &byte in rest {
            self.write_u64(byte.into());
        }
    }
    fn write_u16(&mut self, n: u16) {
        self.write_u64(n.into());
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = mix(self.0, n);
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    /// The map takes its place from the low bits, which a product's high bits do not reach.
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}
