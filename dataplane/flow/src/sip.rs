//! SipHash-1-3 with 128 bits of output (Aumasson and Bernstein, 2012; the reference code's 128-bit variant), for whole
//! 64-bit words. The crate `siphasher` hashes any bytes, one message at a time; a burst's tuples are few words each and
//! independent, so here they are hashed side by side. The tests hold both to the same values.

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vectors are loaded by pointer")]
mod wide;

/// Messages that are hashed together.
pub(crate) const TOGETHER: usize = 8;

/// The key, mixed into the initial state.
#[derive(Clone, Copy)]
pub(crate) struct Keyed {
    state: [u64; 4],
    /// Whether this processor has the wide instructions.
    wide: bool,
}

impl Keyed {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = key;
        let k0 = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let k1 = u64::from_le_bytes([i, j, k, l, m, n, o, p]);
        let state = [
            k0 ^ 0x736f_6d65_7073_6575,
            // The 128-bit variant differs from the first round on.
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        #[cfg(target_arch = "x86_64")]
        let wide = std::arch::is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        let wide = false;
        Self { state, wide }
    }

    /// Hashes a message of `W` words; gives the output's two words.
    #[inline]
    pub(crate) fn hash<const W: usize>(&self, message: &[u64; W]) -> [u64; 2] {
        let mut v = self.state;
        for &word in message {
            absorb(&mut v, word);
        }
        // The length in the top byte, and no bytes left over.
        absorb(&mut v, (W as u64 * 8) << 56);
        v[2] ^= 0xee;
        let low = squeeze(&mut v);
        v[1] ^= 0xdd;
        [low, squeeze(&mut v)]
    }

    /// Hashes several messages; `messages[w][n]` is word `w` of message `n`. Gives the output's two words, each for all.
    #[inline]
    pub(crate) fn hash_all<const W: usize>(
        &self,
        messages: &[[u64; TOGETHER]; W],
    ) -> [[u64; TOGETHER]; 2] {
        #[cfg(target_arch = "x86_64")]
        if self.wide {
            #[expect(unsafe_code, reason = "the call must be sure of the instructions")]
            // SAFETY: the processor has them: looked up when this was made.
            return unsafe { wide::hash(&self.state, messages) };
        }
        let mut out = [[0; TOGETHER]; 2];
        for n in 0..TOGETHER {
            [out[0][n], out[1][n]] = self.hash(&messages.map(|word| word[n]));
        }
        out
    }

    /// Without the wide instructions, for the tests of those without.
    #[cfg(test)]
    pub(crate) const fn narrow(mut self) -> Self {
        self.wide = false;
        self
    }
}

#[inline]
const fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    v[0] ^= word;
}

#[inline]
const fn squeeze(v: &mut [u64; 4]) -> u64 {
    round(v);
    round(v);
    round(v);
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
