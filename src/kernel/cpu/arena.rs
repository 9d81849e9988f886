//! Memory for caches: zeroed, aligned to 2 MiB and advised as huge pages, so that the page walker is not what is timed.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

const HUGE: usize = 2 << 20;

/// One allocation.
pub(crate) struct Arena {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: the arena owns its memory and gives it out by the usual borrow rules.
unsafe impl Send for Arena {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for Arena {}

impl Arena {
    /// `bytes` zeroed bytes.
    ///
    /// # Errors
    /// When the size is beyond what an allocation can be.
    pub(crate) fn zeroed(bytes: usize) -> anyhow::Result<Arena> {
        // Small arenas stay on small pages: thousands of rotated copies at 2 MiB each would fill the memory.
        let align = if bytes >= HUGE { HUGE } else { 64 };
        let layout = Layout::from_size_align(bytes.max(1).next_multiple_of(64), align)?;
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        if align == HUGE {
            advise_huge(start, layout.size());
        }
        // SAFETY: the allocation has this size.
        unsafe { start.write_bytes(0, layout.size()) };
        Ok(Arena { start, layout })
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: initialised by `zeroed`, alive as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) }
    }

    /// All bytes, writable.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.layout.size()) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start, self.layout) }
    }
}

#[cfg(target_os = "linux")]
fn advise_huge(start: *mut u8, bytes: usize) {
    // SAFETY: the range lies in one allocation of ours. It is only advice: where the kernel refuses, pages stay small.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_start: *mut u8, _bytes: usize) {}
