//! Whether everything is still as it was: one look at each entry, nothing opened but directories.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::io::Errno;

use super::super::dir::{RootDir, stat_of_name};
use super::super::pool::Pool;
use super::format::{Encoded, Group, Place, may_be_linked, name_length};
use super::watch::Linked;
use crate::fs::Stat;

/// Up to so many entries (some 8 ms) are looked at by this thread alone: starting others would cost more than they save.
const ALONE_ENTRIES: usize = 4096;
/// Groups that a thread takes at a time.
const GROUPS_PER_TASK: usize = 8;

/// Returns whether all entries are as they were; counts them in `progress`. Stops at the first that is not, and on `interrupt`. Collects
/// in `linked` those that can change under another name.
pub(super) fn all_hold(
    record: &Encoded,
    root: &Path,
    threads: usize,
    interrupt: &AtomicBool,
    progress: &AtomicU64,
    linked: Option<&Linked>,
) -> bool {
    let Ok(root) = RootDir::open(root) else { return false };
    let holds = |number: usize| {
        let Some(group) = record.group(number).filter(|_| !interrupt.load(Ordering::Relaxed)) else { return false };
        progress.fetch_add(group.entries.len() as u64, Ordering::Relaxed);
        let note = |entry: usize, stat: &Stat| {
            if let Some(linked) = linked.filter(|_| stat.nlink > 1 && may_be_linked(&group.entries[entry])) {
                linked.lock().unwrap_or_else(PoisonError::into_inner).push(Place { group: number, entry });
            }
        };
        entries_hold(record, &root, &group, |_| true, note)
    };
    if threads == 1 || record.entry_count() <= ALONE_ENTRIES {
        return (0..record.group_count()).all(holds);
    }
    Pool::new(threads)
        .is_ok_and(|pool| pool.install(|| (0..record.group_count()).into_par_iter().with_min_len(GROUPS_PER_TASK).all(holds)))
}

/// Returns whether these entries, all of one group and in order, are as they were.
pub(super) fn places_hold(record: &Encoded, root: &RootDir, places: &[Place]) -> bool {
    let Some(first) = places.first() else { return true };
    let Some(group) = record.group(first.group) else { return false };
    let is_one = |entry| places.binary_search_by_key(&entry, |place| place.entry).is_ok();
    entries_hold(record, root, &group, is_one, |_, _| {})
}

/// Returns whether those entries of a group that are to be looked at are as they were; tells `note` what is there.
fn entries_hold(
    record: &Encoded,
    root: &RootDir,
    group: &Group<'_>,
    is_one: impl Fn(usize) -> bool,
    note: impl Fn(usize, &Stat),
) -> bool {
    let Ok(path) = CStr::from_bytes_with_nul(group.directory) else { return false };
    let directory: Option<OwnedFd> = match root.open_beneath(path) {
        Ok(directory) => Some(directory),
        // Nothing can be in it then: as it must be for what was seen to be absent.
        Err(Errno::NOENT) => None,
        Err(errno) => return differs(path, c"", Some(errno)),
    };
    let mut names = group.names;
    group.entries.iter().enumerate().all(|(at, entry)| {
        let Some((name, rest)) = names.split_at_checked(name_length(entry)) else { return false };
        names = rest;
        if !is_one(at) {
            return true;
        }
        let Ok(name) = CStr::from_bytes_with_nul(name) else { return false };
        let stat = match &directory {
            Some(directory) => match stat_of_name(directory, name) {
                Ok(stat) => stat,
                Err(errno) => return differs(path, name, Some(errno)),
            },
            None => None,
        };
        if let Some(stat) = &stat {
            note(at, stat);
        }
        record.is_as_seen(entry, stat.as_ref()) || differs(path, name, None)
    })
}

/// Says why everything is going to be checked; always false.
fn differs(directory: &CStr, name: &CStr, errno: Option<Errno>) -> bool {
    tracing::debug!(?directory, ?name, ?errno, "not as it was when everything was in sync");
    false
}
