//! The one unsafe line of this crate.

/// Asks for the cache line at `place`, without waiting for it. A hint: it has no effect that a program can see.
#[inline(always)]
pub(crate) fn prefetch<T>(place: &T) {
    prefetch_at(core::ptr::from_ref(place).cast());
}

#[inline(always)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "stable Rust has no prefetch there")
)]
fn prefetch_at(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "the intrinsic takes a raw pointer")]
        // SAFETY: `prefetcht0` belongs to the x86_64 baseline, cannot fault, and neither reads nor writes memory
        // in the sense of the language, whatever the pointer.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(place.cast());
        }
    }
}

/// The same of all cache lines of `place`.
#[inline(always)]
pub(crate) fn prefetch_all<T>(place: &T) {
    const LINE: usize = 64;
    let bytes: *const u8 = core::ptr::from_ref(place).cast();
    // From the first byte's line to the last byte's.
    let lead = bytes.addr() % LINE;
    for line in 0..(lead + size_of::<T>()).div_ceil(LINE) {
        prefetch_at(bytes.wrapping_add(line * LINE).wrapping_sub(lead));
    }
}
