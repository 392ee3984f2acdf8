//! An allocator that asks the kernel for huge pages under large tables.
//!
//! A table of a million flows lies on 9000 pages of 4 KiB, more than a core's TLB holds, so nearly every look-up first
//! walks the page table (in a virtual machine, two of them); on 2-MiB pages it is 18. The state machines that own the
//! tables are pure and know nothing of pages; so the programs that run them say it once:
//!
//! ```
//! #[global_allocator]
//! static MEMORY: jlb_hugepages::HugePages = jlb_hugepages::HugePages;
//! ```
//!
//! The pages are transparent ones: nothing has to be reserved, and where the kernel gives none
//! (`/sys/kernel/mm/transparent_hugepage/enabled` says `never`, or memory is in pieces) everything works as before, only
//! slower.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;
use core::ptr::NonNull;
use std::alloc::System;

use nix::sys::mman::{MmapAdvise, madvise};

/// The size of a huge page, from which on an allocation is large.
const HUGE: usize = 2 << 20;

/// The system's allocator, but that allocations from 2 MiB on begin at a 2-MiB boundary and are advised to be on huge
/// pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct HugePages;

/// The layout that the system is really asked for. It is the same for an allocation and its end, as it must be.
fn placed(layout: Layout) -> Layout {
    if layout.size() < HUGE {
        return layout;
    }
    // Nothing that large can be had where this fails: then neither with the smaller alignment.
    layout.align_to(HUGE).unwrap_or(layout)
}

fn advise(place: *mut u8, size: usize) {
    let Some(place) = NonNull::new(place.cast::<c_void>()) else { return };
    // SAFETY: the memory was just allocated and is nobody's yet, and the advice changes no content.
    // A kernel that takes no advice loses nothing but speed.
    let _ = unsafe { madvise(place, size, MmapAdvise::MADV_HUGEPAGE) };
}

// SAFETY: all memory is the system allocator's, asked for and given back with one layout, of the same size and at least
// the alignment that the caller wants.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise: a size that is not zero.
        let place = unsafe { System.alloc(placed(layout)) };
        if layout.size() >= HUGE {
            advise(place, layout.size());
        }
        place
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() < HUGE {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // The advice comes before the first byte is written: a page is of one size from then on.
        // SAFETY: the caller's promise.
        let place = unsafe { self.alloc(layout) };
        if !place.is_null() {
            // SAFETY: so many bytes were just allocated.
            unsafe { place.write_bytes(0, layout.size()) };
        }
        place
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: it came from `alloc` with this layout, hence from the system with the placed one.
        unsafe { System.dealloc(place, placed(layout)) };
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size() < HUGE && size < HUGE {
            // SAFETY: the caller's promise; both are small, so the system has it as it is.
            return unsafe { System.realloc(place, layout, size) };
        }
        // SAFETY: the caller's promise: `size`, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the caller's promise: a size that is not zero.
        let to = unsafe { self.alloc(new) };
        if !to.is_null() {
            // SAFETY: two different allocations, both at least that long.
            unsafe { to.copy_from_nonoverlapping(place, layout.size().min(size)) };
            // SAFETY: the caller's promise: it came from here, with this layout.
            unsafe { self.dealloc(place, layout) };
        }
        to
    }
}
