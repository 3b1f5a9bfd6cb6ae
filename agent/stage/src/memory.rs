//! The allocator: takes pages from the kernel and gives nothing back, for the program becomes another one within 200 ms.

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    ptr::null_mut,
};

use crate::system;

/// Small blocks are cut from chunks of this size; blocks of a quarter of it get pages of their own.
const CHUNK: usize = 1 << 20;

struct Pages {
    /// Free bytes of the current chunk: from, to.
    free: Cell<(usize, usize)>,
}

#[global_allocator]
static PAGES: Pages = Pages { free: Cell::new((0, 0)) };

// SAFETY: `Sync` wants that access from several threads is sound; this program has one thread, and nothing in it starts another.
unsafe impl Sync for Pages {}

// SAFETY: `GlobalAlloc` wants blocks that fit their layout, do not overlap and stay valid until they are freed: each block is cut
// from a fresh mapping behind all earlier ones or is a mapping of its own, and none is ever unmapped.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= CHUNK / 4 {
            return system::map(layout.size());
        }
        let fits = |(from, to): (usize, usize)| {
            let start = from.checked_next_multiple_of(layout.align())?;
            let end = start.checked_add(layout.size()).filter(|end| from != 0 && *end <= to)?;
            Some((start, end))
        };
        let (_, mut to) = self.free.get();
        let (start, end) = match fits(self.free.get()) {
            Some(block) => block,
            None => {
                let chunk = system::map(CHUNK) as usize;
                to = chunk.wrapping_add(CHUNK);
                match fits((chunk, to)) {
                    Some(block) => block,
                    None => return null_mut(),
                }
            }
        };
        self.free.set((end, to));
        start as *mut u8
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    /// All memory is fresh from the kernel, which gives zeros.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: `alloc` wants a layout of non-zero size, which our caller guarantees for `alloc_zeroed` alike.
        unsafe { self.alloc(layout) }
    }
}
