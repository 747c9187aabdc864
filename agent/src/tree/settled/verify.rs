//! Whether everything is still as it was: one look at each entry, nothing opened but directories.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::io::Errno;

use super::super::dir::{RootDir, stat_of_name};
use super::super::pool::Pool;
use super::format::{Encoded, Group, name_length};

/// Up to so many entries (some 8 ms) are looked at by this thread alone: starting others would cost more than they save.
const ALONE_ENTRIES: usize = 4096;
/// Groups that a thread takes at a time.
const GROUPS_PER_TASK: usize = 8;

/// Returns whether all entries are as they were; counts them in `progress`. Stops at the first that is not, and on `interrupt`.
pub(super) fn all_hold(record: &Encoded, root: &Path, threads: usize, interrupt: &AtomicBool, progress: &AtomicU64) -> bool {
    let Ok(root) = RootDir::open(root) else { return false };
    let holds = |number: usize| {
        !interrupt.load(Ordering::Relaxed)
            && record.group(number).is_some_and(|group| {
                progress.fetch_add(group.entries.len() as u64, Ordering::Relaxed);
                group_holds(record, &root, &group)
            })
    };
    if threads == 1 || record.entry_count() <= ALONE_ENTRIES {
        return (0..record.group_count()).all(holds);
    }
    Pool::new(threads)
        .is_ok_and(|pool| pool.install(|| (0..record.group_count()).into_par_iter().with_min_len(GROUPS_PER_TASK).all(holds)))
}

fn group_holds(record: &Encoded, root: &RootDir, group: &Group<'_>) -> bool {
    let Ok(path) = CStr::from_bytes_with_nul(group.directory) else { return false };
    let directory: Option<OwnedFd> = match root.open_beneath(path) {
        Ok(directory) => Some(directory),
        // Nothing can be in it then: as it must be for what was seen to be absent.
        Err(Errno::NOENT) => None,
        Err(errno) => return differs(path, c"", Some(errno)),
    };
    let mut names = group.names;
    group.entries.iter().all(|entry| {
        let Some((name, rest)) = names.split_at_checked(name_length(entry)) else { return false };
        names = rest;
        let Ok(name) = CStr::from_bytes_with_nul(name) else { return false };
        let stat = match &directory {
            Some(directory) => match stat_of_name(directory, name) {
                Ok(stat) => stat,
                Err(errno) => return differs(path, name, Some(errno)),
            },
            None => None,
        };
        record.is_as_seen(entry, stat.as_ref()) || differs(path, name, None)
    })
}

/// Says why everything is going to be checked; always false.
fn differs(directory: &CStr, name: &CStr, errno: Option<Errno>) -> bool {
    tracing::debug!(?directory, ?name, ?errno, "not as it was when everything was in sync");
    false
}
