//! Knowing without a look: the kernel notes what happens below the directories of a settled record.
//!
//! A [`Watch`] begins *before* everything is looked at once more. What the kernel notes from then on is looked at by the next run, and
//! nothing else: whatever it did not note is as it was. A process that stays between its runs can have one; it ends with it.
//!
//! inotify(7) has a watch in each directory that a path of the record goes through, by descriptor, so that no link is followed. What it
//! does not note is found otherwise, or makes the watch tell [`Noted::Unknown`], upon which everything is looked at:
//!
//! * a directory on the way to an entry that is moved, replaced, removed or made: the entries behind it are others;
//! * more notes than the kernel keeps (`fs.inotify.max_queued_events`), and a file system that was unmounted;
//! * anything mounted or unmounted (proc(5): `/proc/self/mountinfo` can be polled), and another directory at the root's path;
//! * files with several hard links, and entries that something is mounted on: they can change through places that nobody watches, and are
//!   looked at every time. Where there are many of them, nothing is watched;
//! * a name that comes into such a directory and is, or may have been, a further one of a file;
//! * file systems that others can change, as NFS, or that this machine exports to others: nothing on them is watched.
//!
//! Linux tells a directory of what is done through the name by which a file was opened. So what remains is a file that is changed
//! through a descriptor that was opened under another name, now gone or elsewhere (a hard link made since, a file that had no name,
//! a handle), or that stays open and is written to without the kernel telling (a shared mapping, asynchronous I/O, a loop device),
//! flags of chattr(1), and the layers below an overlay. A look at everything, from time to time, finds these: its interval is the caller's.

mod directories;
mod mounts;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::inotify::{self, ReadFlags};
use rustix::io::Errno;

use super::super::dir::{RootDir, stat_of};
use super::format::{Encoded, Place};
use super::verify;
use directories::Directories;
use mounts::Mounts;

/// Most entries that are looked at every time.
const MOST_ALWAYS: usize = 1000;
/// Room for what the kernel tells at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why there is no watch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// The kernel does not do it.
    #[error("could not watch {what}")]
    Kernel { what: String, source: io::Error },
    /// The kernel has no more watches for this user.
    #[error("could not watch {0} directories: raise fs.inotify.max_user_watches (sysctl), which all programs of this user share")]
    TooFew(usize),
    /// Others may change what is there without this kernel's knowledge.
    #[error("{0} lies on a file system of a type (0x{1:x}) on which changes of other machines or programs are not noted")]
    FileSystem(String, u64),
    /// Too much that has to be looked at anyway.
    #[error("{0} entries have several hard links or are mounted, more than the {MOST_ALWAYS} that are looked at beside a watch")]
    TooManyAlways(usize),
    /// Clients of this machine change files by handles, which no directory is told of.
    #[error("file systems of this machine are exported by NFS: what clients change is not noted")]
    Exported,
    /// Too many directories.
    #[error("more than {0} directories")]
    TooMany(usize),
}

/// What is known of a record without looking at all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// Everything is as it was; so many entries were looked at.
    Holds { looked_at: u64 },
    /// Something is not.
    Differs,
    /// Nothing is known: everything has to be looked at, and a new watch begun.
    Unknown,
}

/// A watch over everything in one record.
#[derive(Debug)]
pub(crate) struct Watch {
    kernel: OwnedFd,
    mounts: Mounts,
    /// Device and number of the root.
    root: (u64, u64),
    directories: Directories,
    /// What is looked at every time.
    always: Vec<Place>,
}

impl Watch {
    /// Begins to watch. Whoever begins looks at everything afterwards: what happened before is not noted.
    pub(super) fn begin(record: &Encoded, root: &Path) -> Result<Self, WatchError> {
        let failed = |what: &Path| {
            let what = what.display().to_string();
            |source: Errno| WatchError::Kernel { what, source: source.into() }
        };
        if mounts::are_exported() {
            return Err(WatchError::Exported);
        }
        let mounts = Mounts::open()?;
        let kernel = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).map_err(failed(root))?;
        let dir = RootDir::open(root).map_err(failed(root))?;
        let stat = stat_of(dir.fd()).map_err(failed(root))?;
        let directories = Directories::watch(&kernel, &dir, record)?;
        let always = mounts.points_below(root)?.iter().filter_map(|path| record.find_path(path)).collect();
        Ok(Self { kernel, mounts, root: (stat.dev, stat.ino), directories, always })
    }

    /// Adds what was found while everything was looked at: entries that have several hard links.
    pub(super) fn look_always_at(&mut self, places: Vec<Place>) -> Result<(), WatchError> {
        self.always.extend(places);
        self.always.sort_unstable();
        self.always.dedup();
        if self.always.len() > MOST_ALWAYS { Err(WatchError::TooManyAlways(self.always.len())) } else { Ok(()) }
    }

    /// Returns what is known of `record`, for which this watch was begun. Blocking, for as long as a look at what was noted takes.
    pub(super) fn look(&self, record: &Encoded, root: &Path) -> Noted {
        // First: what is mounted after this is noted for the next time.
        if self.mounts.have_changed() {
            return unknown("something was mounted or unmounted");
        }
        let is_root = |dir: &RootDir| stat_of(dir.fd()).is_ok_and(|stat| (stat.dev, stat.ino) == self.root);
        let Some(dir) = RootDir::open(root).ok().filter(is_root) else { return unknown("the root is another directory") };
        let mut places: HashSet<Place> = self.always.iter().copied().collect();
        match self.take_notes((record, &dir), &mut places) {
            Ok(None) => {}
            Ok(Some(reason)) => return unknown(reason),
            Err(error) => {
                tracing::warn!(%error, "what the kernel noted could not be read");
                return Noted::Unknown;
            }
        }
        let mut places: Vec<Place> = places.into_iter().collect();
        places.sort_unstable();
        let hold = places.chunk_by(|one, other| one.group == other.group).all(|part| verify::places_hold(record, &dir, part));
        if hold { Noted::Holds { looked_at: places.len() as u64 } } else { Noted::Differs }
    }

    /// Reads all notes and collects which entries they are about; a reason if they do not tell.
    fn take_notes(&self, below: (&Encoded, &RootDir), places: &mut HashSet<Place>) -> Result<Option<&'static str>, Errno> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
        let mut notes = inotify::Reader::new(&self.kernel, &mut buffer);
        loop {
            let note = match notes.next() {
                Ok(note) => note,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            let what = note.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                return Ok(Some("more happened than the kernel keeps"));
            }
            let ends = ReadFlags::UNMOUNT | ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
            if what.intersects(ends) || !self.directories.note(below, (note.wd(), what), note.file_name(), places) {
                return Ok(Some("a directory was moved, replaced, removed or made, or a file has another name"));
            }
        }
    }
}

/// Says why everything is going to be looked at.
fn unknown(reason: &str) -> Noted {
    tracing::debug!(reason, "everything is looked at");
    Noted::Unknown
}

/// Where entries are collected that have to be looked at every time, while everything is looked at.
pub(super) type Linked = Mutex<Vec<Place>>;
