//! SipHash (Aumasson and Bernstein, 2012) of whole 64-bit words, for many messages side by side.
//!
//! The crate `siphasher` hashes any bytes, one message at a time, and each round waits for the one before. The messages of a
//! burst are few words each and independent, so here eight are hashed at once where the processor can. The tests hold
//! both crates to the same values.
//!
//! | type | is | for |
//! |---|---|---|
//! | [`Sip13`] | SipHash-1-3, 128 bits (the reference code's 128-bit variant) | flow ids |
//! | [`Sip24`] | SipHash-2-4, 64 bits | message authentication |
#![deny(unsafe_code)] // Not `forbid`: vectors are loaded by pointer in `wide`, and its callers must be sure of the instructions.

use core::fmt;

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vectors are loaded by pointer")]
mod wide;

/// Messages that are hashed together.
pub const TOGETHER: usize = 8;

/// SipHash-1-3 with 128 bits of output, under one key.
#[derive(Clone, Copy)]
pub struct Sip13 {
    /// The key, mixed into the initial state.
    state: [u64; 4],
    wide: bool,
}

/// SipHash-2-4 with 64 bits of output, under one key.
#[derive(Clone, Copy)]
pub struct Sip24 {
    /// The key, mixed into the initial state.
    state: [u64; 4],
    wide: bool,
}

/// The key is never shown.
impl fmt::Debug for Sip13 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sip13(…)")
    }
}

/// The key is never shown.
impl fmt::Debug for Sip24 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sip24(…)")
    }
}

impl Sip13 {
    /// Under that key.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        let [a, b, c, d] = initial(key);
        // The 128-bit variant differs from the first round on.
        Self { state: [a, b ^ 0xee, c, d], wide: has_wide() }
    }

    /// Hashes a message of `W` words, each in little-endian order; gives the output's two words.
    #[must_use]
    #[inline]
    pub fn hash<const W: usize>(&self, message: &[u64; W]) -> [u64; 2] {
        let mut v = self.state;
        for &word in message {
            absorb::<1>(&mut v, word);
        }
        absorb::<1>(&mut v, length(W));
        v[2] ^= 0xee;
        let low = squeeze::<3>(&mut v);
        v[1] ^= 0xdd;
        [low, squeeze::<3>(&mut v)]
    }

    /// Hashes several messages; `messages[w][n]` is word `w` of message `n`. Gives the output's two words, each for all.
    #[must_use]
    #[inline]
    pub fn hash_all<const W: usize>(
        &self,
        messages: &[[u64; TOGETHER]; W],
    ) -> [[u64; TOGETHER]; 2] {
        #[cfg(target_arch = "x86_64")]
        if self.wide {
            #[expect(unsafe_code, reason = "the call must be sure of the instructions")]
            // SAFETY: the processor has them: looked up when this was made.
            return unsafe { wide::sip13(&self.state, messages) };
        }
        let mut out = [[0; TOGETHER]; 2];
        for n in 0..TOGETHER {
            [out[0][n], out[1][n]] = self.hash(&messages.map(|word| word[n]));
        }
        out
    }

    /// Without the wide instructions, as on a processor that has none.
    #[must_use]
    pub const fn narrow(mut self) -> Self {
        self.wide = false;
        self
    }
}

impl Sip24 {
    /// Under that key.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self { state: initial(key), wide: has_wide() }
    }

    /// Hashes a message of `W` words, each in little-endian order.
    #[must_use]
    #[inline]
    pub fn hash<const W: usize>(&self, message: &[u64; W]) -> u64 {
        let mut v = self.state;
        for &word in message {
            absorb::<2>(&mut v, word);
        }
        absorb::<2>(&mut v, length(W));
        v[2] ^= 0xff;
        squeeze::<4>(&mut v)
    }

    /// Hashes a message of any length.
    #[must_use]
    pub fn hash_bytes(&self, message: &[u8]) -> u64 {
        let mut v = self.state;
        let (words, rest) = message.as_chunks();
        for word in words {
            absorb::<2>(&mut v, u64::from_le_bytes(*word));
        }
        let left_over = (0..).zip(rest).fold(0, |word, (n, &b)| word | u64::from(b) << (8 * n));
        absorb::<2>(&mut v, (message.len() as u64) << 56 | left_over);
        v[2] ^= 0xff;
        squeeze::<4>(&mut v)
    }

    /// Hashes several messages; `messages[w][n]` is word `w` of message `n`.
    #[must_use]
    #[inline]
    pub fn hash_all<const W: usize>(&self, messages: &[[u64; TOGETHER]; W]) -> [u64; TOGETHER] {
        #[cfg(target_arch = "x86_64")]
        if self.wide {
            #[expect(unsafe_code, reason = "the call must be sure of the instructions")]
            // SAFETY: the processor has them: looked up when this was made.
            return unsafe { wide::sip24(&self.state, messages) };
        }
        core::array::from_fn(|n| self.hash(&messages.map(|word| word[n])))
    }

    /// Without the wide instructions, as on a processor that has none.
    #[must_use]
    pub const fn narrow(mut self) -> Self {
        self.wide = false;
        self
    }
}

/// Whether this processor has the wide instructions.
fn has_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

const fn initial(key: &[u8; 16]) -> [u64; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *key;
    let k0 = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let k1 = u64::from_le_bytes([i, j, k, l, m, n, o, p]);
    [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]
}

/// The last word: the length in bytes in its top byte, and no bytes left over.
const fn length(words: usize) -> u64 {
    (words as u64 * 8) << 56
}

#[inline]
fn absorb<const ROUNDS: usize>(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    for _ in 0..ROUNDS {
        round(v);
    }
    v[0] ^= word;
}

#[inline]
fn squeeze<const ROUNDS: usize>(v: &mut [u64; 4]) -> u64 {
    for _ in 0..ROUNDS {
        round(v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline]
const fn round(v: &mut [u64; 4]) {
    let [mut a, mut b, mut c, mut d] = *v;
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    *v = [a, b, c, d];
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher as _;

    use siphasher::sip::SipHasher24;
    use siphasher::sip128::{Hasher128 as _, SipHasher13};

    use super::*;

    const KEY: [u8; 16] = *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";

    fn message<const W: usize>(n: u64) -> [u64; W] {
        core::array::from_fn(|w| (n + 7 * w as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn bytes<const W: usize>(message: [u64; W]) -> Vec<u8> {
        message.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn same<const W: usize>(n: u64) {
        let mut expected = SipHasher24::new_with_key(&KEY);
        expected.write(&bytes(message::<W>(n)));
        assert_eq!(Sip24::new(&KEY).hash(&message::<W>(n)), expected.finish());
        let mut expected = SipHasher13::new_with_key(&KEY);
        expected.write(&bytes(message::<W>(n)));
        let expected = expected.finish128();
        assert_eq!(Sip13::new(&KEY).hash(&message::<W>(n)), [expected.h1, expected.h2]);
        let lanes: [[u64; TOGETHER]; W] =
            core::array::from_fn(|w| core::array::from_fn(|m| message::<W>(n + m as u64)[w]));
        for (sip13, sip24) in [
            (Sip13::new(&KEY), Sip24::new(&KEY)),
            (Sip13::new(&KEY).narrow(), Sip24::new(&KEY).narrow()),
        ] {
            let ([low, high], macs) = (sip13.hash_all(&lanes), sip24.hash_all(&lanes));
            for m in 0..TOGETHER {
                let one = message::<W>(n + m as u64);
                assert_eq!([low[m], high[m]], sip13.hash(&one));
                assert_eq!(macs[m], sip24.hash(&one));
            }
        }
    }

    #[test]
    fn words_are_hashed_like_their_bytes_alone_and_together() {
        for n in 0..500 {
            same::<0>(n);
            same::<2>(n);
            same::<5>(n);
            same::<15>(n);
        }
    }

    #[test]
    fn bytes_are_hashed_whatever_their_number() {
        let message = bytes(message::<40>(3));
        for len in 0..=message.len() {
            let mut expected = SipHasher24::new_with_key(&KEY);
            expected.write(&message[..len]);
            assert_eq!(Sip24::new(&KEY).hash_bytes(&message[..len]), expected.finish(), "{len}");
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        assert_eq!(format!("{:?} {:?}", Sip13::new(&KEY), Sip24::new(&KEY)), "Sip13(…) Sip24(…)");
    }
}
