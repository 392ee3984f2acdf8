//! Eight hashes side by side in AVX-512: the one instruction set of x86-64 that rotates 64-bit words.
//! 3 to 4 ns per IPv4 tuple on Sapphire Rapids, where one at a time takes 10 to 12.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_loadu_epi64, _mm512_rol_epi64, _mm512_set1_epi64,
    _mm512_storeu_epi64, _mm512_xor_si512,
};

use super::{TOGETHER as LANES, length};

type State = [__m512i; 4];

/// As [`super::Sip13::hash`].
#[target_feature(enable = "avx512f")]
pub(super) fn sip13<const W: usize>(
    key: &[u64; 4],
    messages: &[[u64; LANES]; W],
) -> [[u64; LANES]; 2] {
    let mut v: State = [every(key[0]), every(key[1]), every(key[2]), every(key[3])];
    for word in messages {
        absorb::<1>(&mut v, load(word));
    }
    absorb::<1>(&mut v, every(length(W)));
    v[2] = _mm512_xor_si512(v[2], every(0xee));
    let low = squeeze::<3>(&mut v);
    v[1] = _mm512_xor_si512(v[1], every(0xdd));
    [low, squeeze::<3>(&mut v)]
}

/// As [`super::Sip24::hash`].
#[target_feature(enable = "avx512f")]
pub(super) fn sip24<const W: usize>(key: &[u64; 4], messages: &[[u64; LANES]; W]) -> [u64; LANES] {
    let mut v: State = [every(key[0]), every(key[1]), every(key[2]), every(key[3])];
    for word in messages {
        absorb::<2>(&mut v, load(word));
    }
    absorb::<2>(&mut v, every(length(W)));
    v[2] = _mm512_xor_si512(v[2], every(0xff));
    squeeze::<4>(&mut v)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn absorb<const ROUNDS: usize>(v: &mut State, word: __m512i) {
    v[3] = _mm512_xor_si512(v[3], word);
    for _ in 0..ROUNDS {
        round(v);
    }
    v[0] = _mm512_xor_si512(v[0], word);
}

#[inline]
#[target_feature(enable = "avx512f")]
fn squeeze<const ROUNDS: usize>(v: &mut State) -> [u64; LANES] {
    for _ in 0..ROUNDS {
        round(v);
    }
    store(_mm512_xor_si512(_mm512_xor_si512(v[0], v[1]), _mm512_xor_si512(v[2], v[3])))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn round(v: &mut State) {
    let [mut a, mut b, mut c, mut d] = *v;
    a = _mm512_add_epi64(a, b);
    b = _mm512_xor_si512(_mm512_rol_epi64::<13>(b), a);
    a = _mm512_rol_epi64::<32>(a);
    c = _mm512_add_epi64(c, d);
    d = _mm512_xor_si512(_mm512_rol_epi64::<16>(d), c);
    a = _mm512_add_epi64(a, d);
    d = _mm512_xor_si512(_mm512_rol_epi64::<21>(d), a);
    c = _mm512_add_epi64(c, b);
    b = _mm512_xor_si512(_mm512_rol_epi64::<17>(b), c);
    c = _mm512_rol_epi64::<32>(c);
    *v = [a, b, c, d];
}

#[inline]
#[target_feature(enable = "avx512f")]
fn every(word: u64) -> __m512i {
    _mm512_set1_epi64(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u64; LANES]) -> __m512i {
    // SAFETY: 64 bytes of the array, at any alignment.
    unsafe { _mm512_loadu_epi64(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(v: __m512i) -> [u64; LANES] {
    let mut words = [0u64; LANES];
    // SAFETY: 64 bytes of the array, at any alignment.
    unsafe { _mm512_storeu_epi64(words.as_mut_ptr().cast(), v) };
    words
}
