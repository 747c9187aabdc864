//! The allocator of programs.

/// What a program may have as its global allocator. See [`give_back_freed_memory`].
pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay` of mimalloc's `mimalloc.h`, which the crate has no name for.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// How long [`Allocator`] keeps freed pages for itself, in milliseconds: long enough that a run does not have the same pages cleared again and
/// again, and short enough that what one step of it has freed is gone in the next. mimalloc's own second is longer than whole runs.
const PURGE_DELAY_MILLISECONDS: core::ffi::c_long = 20;

/// How large a block is that gets pages of its own and gives them back when freed, and how much may lie free at the end of a
/// heap: glibc's own first values (`mallopt(3)`), in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const THRESHOLD_BYTES: libc::c_int = 128 * 1024;

/// Makes [`Allocator`] and the C library's, which libraries in C use, give freed memory back to the system.
///
/// glibc raises both thresholds with each large block that is freed, up to 32 MiB: a program that holds large lists one after the
/// other keeps the room of all. Once set, they stay. Call it once, at the start of a program and before it starts threads: it is for the whole
/// process. Nothing is set where the C library is not glibc.
pub fn give_back_freed_memory() {
    #[expect(unsafe_code, reason = "an option is a number, and there are no threads yet that read it")]
    // SAFETY: no pointer is passed; the option is one that there is.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MILLISECONDS);
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        #[expect(unsafe_code, reason = "mallopt takes two numbers, locks the heap itself, and may be called at any time")]
        // SAFETY: no pointer is passed, and a value that it does not take changes nothing.
        unsafe {
            libc::mallopt(parameter, THRESHOLD_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_option_is_the_one_that_is_meant() {
        let delay = || {
            #[expect(unsafe_code, reason = "the same option is read")]
            // SAFETY: no pointer is passed; the option is one that there is.
            unsafe {
                libmimalloc_sys::mi_option_get(super::PURGE_DELAY)
            }
        };
        assert_eq!(delay(), 1000, "mimalloc's own second");
        super::give_back_freed_memory();
        assert_eq!(delay(), super::PURGE_DELAY_MILLISECONDS);
    }
}
