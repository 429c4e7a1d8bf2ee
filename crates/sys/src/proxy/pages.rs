//! The pages of the program's file that only its start needed.

/// Leaves them to the kernel: the table of relocations, and what lies beside what was called. They come back
/// from the file when they are touched.
pub(super) fn leave() {
    #[expect(
        unsafe_code,
        reason = "the linker says where the program is, and the rest is about addresses"
    )]
    // SAFETY: the linker defines both, and only their addresses are used. Between them, and in the rest of the
    // last page, which the kernel adds, is what nobody writes to: constants and code. What is relocated comes
    // after that, on pages of its own.
    unsafe {
        unsafe extern "C" {
            static __executable_start: u8;
            static etext: u8;
        }
        let (start, end) = (&raw const __executable_start, &raw const etext);
        let length = end.addr().saturating_sub(start.addr());
        let _ = libc::madvise(start.cast_mut().cast(), length, libc::MADV_DONTNEED);
    }
}
