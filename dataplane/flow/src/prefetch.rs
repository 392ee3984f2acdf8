//! The one unsafe line of this crate.

/// Asks for the cache line at `place`, without waiting for it. A hint: it has no effect that a program can see.
#[inline(always)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "stable Rust has no prefetch there")
)]
pub(crate) fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "the intrinsic takes a raw pointer")]
        // SAFETY: `prefetcht0` belongs to the x86_64 baseline, cannot fault, and neither reads nor writes memory
        // in the sense of the language, whatever the pointer; this one comes from a live reference anyway.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(place).cast());
        }
    }
}
