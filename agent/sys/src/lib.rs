//! Calls of the C library that Direct Puppet's programs need and that no safe library offers: all `unsafe` of the project.

/// How large a block is that gets pages of its own and gives them back when freed, and how much may lie free at the end of a
/// heap: glibc's own first values (`mallopt(3)`), in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const THRESHOLD_BYTES: libc::c_int = 128 * 1024;

/// Makes the allocator give freed memory back to the system.
///
/// glibc raises both thresholds with each large block that is freed, up to 32 MiB: a program that holds large lists one after the
/// other keeps the room of all. Once set, they stay. Call it once, at the start of a program: it is for the whole process.
/// Does nothing where the C library is not glibc.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        #[expect(unsafe_code, reason = "mallopt takes two numbers, locks the heap itself, and may be called at any time")]
        // SAFETY: no pointer is passed, and a value that it does not take changes nothing.
        unsafe {
            libc::mallopt(parameter, THRESHOLD_BYTES);
        }
    }
}
