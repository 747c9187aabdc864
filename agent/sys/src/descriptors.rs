//! Tables of file descriptors.

/// Gives the calling thread a table of file descriptors of its own, with the standard streams and `kept` in it and nothing else; returns whether
/// it has one. Other threads keep theirs, with all that was open.
///
/// What this thread opens from then on is known to it alone, and the kernel need not have it wait for, or count beside, what others do: to open,
/// read and close a small file costs a quarter less. All else that the process has open it cannot reach: it must neither use nor drop what another
/// thread has opened, log to files, or wake who waits for a descriptor. The table ends with the thread. What others have open with numbers below that of
/// `kept` is in it for a moment, and is flushed when that ends, as by close(2). Call it in a thread that was just started.
///
/// Kernels before 5.9, and filters of system calls that do not know the call, leave the thread as it is.
#[must_use]
pub fn keep_descriptors_apart(kept: std::os::fd::BorrowedFd<'_>) -> bool {
    use std::os::fd::AsRawFd as _;
    // `CLOSE_RANGE_UNSHARE` of linux/close_range.h.
    const UNSHARE: libc::c_uint = 2;
    const FIRST: libc::c_uint = 3;
    let Ok(kept) = libc::c_uint::try_from(kept.as_raw_fd()) else { return false };
    let close = |first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint| {
        #[expect(unsafe_code, reason = "the call takes three numbers, and the table that it changes is this thread's own")]
        // SAFETY: no pointer is passed. With UNSHARE the table is a copy before anything in it is closed, so no descriptor that others have is
        // closed; without, it is that copy.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
        result == 0
    };
    if kept < FIRST {
        return close(FIRST, libc::c_uint::MAX, UNSHARE);
    }
    let is_apart = close(kept.saturating_add(1), libc::c_uint::MAX, UNSHARE);
    is_apart && (kept == FIRST || close(FIRST, kept - 1, 0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_apart_has_what_it_keeps_and_the_others_lose_nothing() {
        use std::fs::{File, read_dir};
        use std::io::{Read as _, Write as _};
        use std::os::fd::{AsFd as _, AsRawFd as _};

        let (mut before, mut writer) = std::io::pipe().unwrap();
        let kept = File::open("/").unwrap();
        let after = File::open("/").unwrap();
        std::thread::scope(|scope| {
            let apart = scope.spawn(|| {
                if !super::keep_descriptors_apart(kept.as_fd()) {
                    return None;
                }
                let open = read_dir("/proc/thread-self/fd").unwrap().flatten();
                let mut open: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
                open.sort_unstable();
                open.retain(|&number| number > 2);
                Some(open)
            });
            let Some(open) = apart.join().unwrap() else {
                println!("LEFT OUT: no close_range(2) here");
                return;
            };
            // The directory that is read is the other one.
            assert!(open.contains(&kept.as_raw_fd()) && open.len() == 2, "{open:?}");
        });
        writer.write_all(b"x").unwrap();
        let mut one = [0];
        before.read_exact(&mut one).unwrap();
        assert!(after.metadata().unwrap().is_dir());
    }
}
