//! The settled record: what made a run find nothing to do, so that the next one needs only look whether that still holds.
//!
//! A run that found every resource of a catalog in sync writes down what this followed from: for each path that a check looked
//! at, a [`Witness`]. The next run with the same catalog compares the metadata of just these paths. If all are as they were, it
//! is unchanged, and neither the catalog nor the scan cache is read. If one is not, or anything else is amiss, the run
//! goes the whole way, as if there were no record: it never decides what is to be done, only that nothing is.
//!
//! One file in the state directory, `settled`, mode 0600, replaced atomically (layout: see the `format` module). Beside it lie the digests
//! and fingerprints of the contents (see the `contents` module), for noop runs that are to read them all: they read no catalog either.
//!
//! What is settled:
//!
//! * `File`: with content, with `puppet:///` sources, links, directories, what is to be absent, owners and groups by number or
//!   name (then `/etc/passwd` and `/etc/group` are witnesses too), directories with `recurse` or `purge` (their entries are).
//! * `Exec` with `refreshonly`, or with `creates` of which one exists.
//!
//! What is not, so that a catalog with one such resource is checked as a whole in every run: `File` with sources on this
//! machine, with `links => follow`, with a local name of an owner that is found through a link; what has a note for the report
//! in every run (an owner that an unprivileged run leaves alone, directories that purging keeps); `Exec` with conditions to run;
//! `Notify`; and types of providers that do not say what their checks follow from.
//!
//! What makes the record unusable: another catalog, version of this program, set of providers, root, state directory, user that
//! runs it or interval of proofs (all in its binding); a change of the file that holds the catalog; the time at which the first
//! file is to be proved by digest again; a clock that was set back; any whole run but a noop one, and `undo`, which remove it
//! before anything is changed. It is not looked at in noop runs but those that read all contents, and in runs with tags, nor when the agent is
//! built or started without it ([`AgentBuilder::settled`](crate::AgentBuilder::settled)).
//!
//! What does not: restarts, new code with the same catalog, changes of what no check depends on (entries of a directory that is
//! not purged; content with `replace => false`).
//!
//! A record is written only when no witness could have changed since without a change of its times (git's racy rule, as in
//! the `record` module). It is not made durable: what a power cut leaves of it is recognised by its checksum.

mod contents;
mod format;
mod proofs;
mod read;
#[cfg(test)]
mod tests;
mod verify;
mod watch;
mod witness;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::SystemTime;

use direct_puppet_transport::protocol::TreePath;

use self::contents::{CONTENTS, Contents, KnownDirectory};
use self::format::{Encoded, Header, checksum_of};
use self::read::{Reader, Verified};
use self::watch::Linked;
use super::cache::known_key;
use super::dir::{Dir, RootDir};
use super::record::{is_racy, nanos_at};
use super::scan::{Proof, ScanCounters};
use crate::fs::{FsError, Stat, write_cache};

pub(crate) use proofs::Proofs;
pub(crate) use watch::{Noted, Watch, WatchError};
pub(crate) use witness::Witnesses;
pub use witness::{Seen, Witness};

/// Name of the record in the state directory.
const SETTLED: &str = "settled";
/// A larger file is no record: room for some ten million entries.
const MAX_RECORD_BYTES: u64 = 1 << 30;

/// A record that fits the run that wants to use it.
#[derive(Debug)]
pub(crate) struct SettledRecord {
    encoded: Encoded,
    /// The file that it was read from.
    file: Stat,
}

/// What a run found, to be written down.
#[derive(Debug)]
pub(crate) struct Settled<'a> {
    /// Digest of everything else that the outcome of a run depends on.
    pub(crate) binding: [u8; 32],
    /// When the run began to look.
    pub(crate) recorded_at: SystemTime,
    /// Resources, generated ones included.
    pub(crate) resources: u64,
    /// What the scan proved.
    pub(crate) proofs: &'a Proofs,
    /// What the checks saw.
    pub(crate) witnesses: &'a Witnesses,
    /// The file that holds the catalog.
    pub(crate) catalog: &'a Path,
    /// Below which the witnesses are.
    pub(crate) root: &'a Path,
}

/// What the run that wrote a record had counted, as another without changes would count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SettledCounts {
    /// Resources, generated ones included.
    pub(crate) resources: u64,
    /// Files that a scan would list.
    pub(crate) listed: u64,
    /// Of them, those whose content it would prove by stat.
    pub(crate) stat_proved: u64,
}

impl SettledRecord {
    /// Loads the record if it can be used now, for this `binding`; `catalog` is the file that holds the catalog. Blocking.
    pub(crate) fn load(state_dir: &Path, binding: &[u8; 32], catalog: &Path, now: SystemTime) -> Option<Self> {
        let (bytes, stat) = read_limited(&state_dir.join(SETTLED))?;
        let encoded = Encoded::new(bytes, binding, &known_key(state_dir)?.settled_key())?;
        let record = Self { encoded, file: stat };
        record.is_usable(catalog, now).then_some(record)
    }

    /// Returns whether a record that was loaded before is still the one that would be loaded. Blocking.
    pub(crate) fn is_still(&self, state_dir: &Path, binding: &[u8; 32], catalog: &Path, now: SystemTime) -> bool {
        let is_same = stat_of_own(&state_dir.join(SETTLED)).is_some_and(|stat| stat == self.file);
        is_same && self.encoded.header.binding == *binding && self.is_usable(catalog, now)
    }

    fn is_usable(&self, catalog: &Path, now: SystemTime) -> bool {
        let (header, now) = (&self.encoded.header, nanos_at(now));
        let is_timely = header.recorded_at <= now && now < header.due_at;
        is_timely && stat_of_own(catalog).is_some_and(|stat| self.encoded.is_catalog(&stat))
    }

    /// Returns whether everything below `root` is still as it was. Stops on `interrupt`; `progress` counts what was looked at.
    /// Answers do not depend on the number of threads. Blocking.
    pub(crate) fn holds(&self, root: &Path, threads: usize, interrupt: &AtomicBool, progress: &AtomicU64) -> bool {
        verify::all_hold(&self.encoded, root, threads, interrupt, progress, None)
    }

    /// As [`SettledRecord::holds`], and returns a watch that notes what happens from then on, or why there is none; nothing when it does
    /// not hold. Blocking.
    pub(crate) fn holds_and_is_watched(
        &self,
        root: &Path,
        threads: usize,
        interrupt: &AtomicBool,
        progress: &AtomicU64,
    ) -> Option<Result<Watch, WatchError>> {
        // First: what happens while everything is looked at is noted too.
        let watch = Watch::begin(&self.encoded, root);
        let linked = Linked::default();
        if !verify::all_hold(&self.encoded, root, threads, interrupt, progress, Some(&linked)) {
            return None;
        }
        let linked = linked.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some(watch.and_then(|mut watch| watch.look_always_at(linked).map(|()| watch)))
    }

    /// Returns whether everything below `root` is still as it was when `watch`, which was begun for this record, last told so. Blocking,
    /// for as long as a look at what was noted takes.
    pub(crate) fn look(&self, watch: &Watch, root: &Path) -> Noted {
        watch.look(&self.encoded, root)
    }

    /// Returns what a scan would count that reads everything, if everything below `root` is still as it was and every content has been read
    /// and proved; `None` where that is not so, and where the contents are not known. Otherwise as [`SettledRecord::holds`].
    ///
    /// Fingerprints that were not known are kept in the state directory for the next time.
    pub(crate) fn verify(
        &self,
        (state_dir, root): (&Path, &Path),
        (threads, proof): (usize, Proof),
        interrupt: &AtomicBool,
        progress: &AtomicU64,
    ) -> Option<ScanCounters> {
        let key = known_key(state_dir)?;
        let bytes = read_limited(&state_dir.join(CONTENTS))?.0;
        let counts = (self.encoded.entry_count(), self.encoded.group_count());
        let mut contents = Contents::decode(bytes, self.encoded.checksum(), counts, &key.settled_key())?;
        let reader = Reader { record: &self.encoded, contents: &contents, proof, key: &key, interrupt };
        let Verified { counters, learned, .. } = reader.all_verify(root, threads, progress)?;
        if !learned.is_empty() {
            learned.iter().for_each(|(entry, fingerprint)| contents.learn(*entry, *fingerprint));
            if let Err(error) = contents.write(state_dir, &key.settled_key()) {
                tracing::warn!("fingerprints are not kept: {error}");
            }
        }
        Some(ScanCounters { listed: self.encoded.header.listed, ..counters })
    }

    #[cfg(test)]
    const fn encoded(&self) -> &Encoded {
        &self.encoded
    }

    /// Returns how many paths are looked at.
    pub(crate) const fn len(&self) -> usize {
        self.encoded.entry_count()
    }

    /// Returns what the run would count.
    pub(crate) const fn counts(&self) -> SettledCounts {
        let Header { resources, listed, stat_proved, .. } = self.encoded.header;
        SettledCounts { resources, listed, stat_proved }
    }
}

impl Settled<'_> {
    /// Writes the record, unless something in it is too new to be relied upon; returns whether it did. Blocking.
    ///
    /// # Errors
    ///
    /// When the disk does not take it; there is then no record, or the old one.
    pub(crate) fn write(&self, state_dir: &Path) -> Result<bool, FsError> {
        let (Some(key), Some(catalog)) = (known_key(state_dir), stat_of_own(self.catalog)) else { return Ok(false) };
        let unchanged = self.witnesses.iter().filter_map(|(_, seen)| match seen {
            Seen::Unchanged(stat) => Some(stat),
            _ => None,
        });
        if unchanged.chain([&catalog]).any(|stat| is_racy(stat, self.recorded_at)) {
            return Ok(false);
        }
        let header = Header {
            binding: self.binding,
            recorded_at: nanos_at(self.recorded_at),
            due_at: self.proofs.due_at,
            resources: self.resources,
            listed: self.proofs.listed,
            stat_proved: self.proofs.stat_proved,
        };
        let sorted = format::in_order(self.witnesses);
        let Some(bytes) = format::encode(&header, &catalog, &sorted, &key.settled_key()) else { return Ok(false) };
        let paths = sorted.iter().map(|(path, _)| *path);
        let directories = self.known_directories(&sorted);
        let contents = checksum_of(&bytes).and_then(|record| Contents::new(record, paths, &self.proofs.contents, directories));
        if let Some(contents) = contents {
            contents.write(state_dir, &key.settled_key())?;
        }
        write_cache(&state_dir.join(SETTLED), &bytes, 0o600).map(|()| true)
    }

    /// Returns what is known of the directory of each group: of one that was not changed since the run began, and so not since anything in it was
    /// looked at. Another one that was moved into its place meanwhile is known in its stead; as with a file system whose clock is another machine's,
    /// what is opened by its names may then be no file, which is found when it is open.
    fn known_directories<'w>(&self, sorted: &'w [(&'w TreePath, &'w Seen)]) -> impl Iterator<Item = Option<KnownDirectory>> {
        let root = RootDir::open(self.root).ok();
        let known = move |directory: &[u8]| {
            let stat = dir_of_group(root.as_ref()?, directory).ok()??.own_stat().ok()?;
            (!is_racy(&stat, self.recorded_at)).then(|| KnownDirectory::new(&stat))
        };
        format::directories(sorted).map(known)
    }
}

/// Opens the directory of a group, by its path, `.` for the root; `None` when it is not there.
fn dir_of_group<'a>(root: &'a RootDir, path: &[u8]) -> Result<Option<Dir<'a>>, rustix::io::Errno> {
    let path = match path {
        b"." => TreePath::default(),
        path => TreePath::from_bytes(path).map_err(|_| rustix::io::Errno::INVAL)?,
    };
    root.dir(&path)
}

/// Removes the record, durably, before anything is changed that it may speak of. Blocking.
///
/// # Errors
///
/// When it is there and cannot be removed.
pub(crate) fn forget(state_dir: &Path) -> Result<(), FsError> {
    let path = state_dir.join(SETTLED);
    let removed = match std::fs::remove_file(&path) {
        Ok(()) => File::open(state_dir).and_then(|dir| dir.sync_all()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    // Without the record it says nothing.
    let _is_gone = std::fs::remove_file(state_dir.join(CONTENTS));
    removed.map_err(|error| FsError::new(&path, "remove the settled record", error))
}

/// Reads a file of the state directory, if it is there and not too large.
fn read_limited(path: &Path) -> Option<(Vec<u8>, Stat)> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    let stat = Stat::from_raw(&rustix::fs::fstat(&file).ok()?);
    bytes.reserve_exact(usize::try_from(stat.size).ok().filter(|_| stat.size <= MAX_RECORD_BYTES)?);
    file.take(MAX_RECORD_BYTES).read_to_end(&mut bytes).ok()?;
    Some((bytes, stat))
}

fn stat_of_own(path: &Path) -> Option<Stat> {
    rustix::fs::lstat(path).ok().map(|stat| Stat::from_raw(&stat))
}
