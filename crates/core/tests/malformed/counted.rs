//! Counts what the tests of malformed input allocate: on their own thread, and by the byte.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// What this thread holds, and the most that it has held since somebody asked.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    // A thread that ends has none any more, and nobody asks it.
    let _ = HELD.try_with(|held| {
        let now = held.get().wrapping_add_unsigned(more).wrapping_sub_unsigned(less);
        held.set(now);
        MOST.with(|most| most.set(most.get().max(now)));
    });
}

#[expect(unsafe_code, reason = "an allocator is: all of it is passed on as it came")]
// SAFETY: every call goes to the system's allocator with the arguments that it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while one is copied to the other.
        count(size, 0);
        count(0, layout.size());
        // SAFETY: the caller's.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// What something took, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// The most at once.
    pub(crate) most: usize,
    /// What it did not give back.
    pub(crate) kept: isize,
}

/// Runs something that returns nothing, and says what it took.
pub(crate) fn taken(body: impl FnOnce()) -> Taken {
    let before = HELD.with(Cell::get);
    MOST.with(|most| most.set(before));
    body();
    let most = MOST.with(Cell::get) - before;
    Taken { most: usize::try_from(most).unwrap_or(0), kept: HELD.with(Cell::get) - before }
}
