//! What staging files were when they were last read, so that publishing again reads only what changed.
//!
//! An entry proves a content as long as the file's metadata is the same and was older, when it was recorded, than the clock
//! could blur (the racy rule of git's index): a little where a file system keeps fractions of a second, and two seconds where it keeps
//! none. It is a hint: without it everything is read.
//!
//! `staging-index` beside the versions of an environment is a log, so that a publish writes as much as it changes, and it is read as the
//! listing goes on, so that no more of it is in memory than changed since it was written:
//!
//! ```text
//! staging-index = head | frame ... (the base: what was written at once, in path order) | frame ... (what was added)
//! head          = "DPSTAGE" 0x04 | length of the base: u64 | notes of the base: u64 | the first 16 bytes of the BLAKE3 of these
//! frame         = length: u32 | the first 16 bytes of the body's BLAKE3 | body
//! body          = note ...
//! note          = length of the path: u16 | path | 0, nothing proved
//!               | length of the path: u16 | path | 1 for BLAKE3, 2 for SHA-256 | dev, ino, size, nlink: u64
//!                 | mtime, ctime: i64 seconds, u32 nanoseconds | mode, uid, gid: u32 | 32 bytes of the digest
//! ```
//!
//! Numbers are little-endian. A later note of a path stands instead of an earlier one. The base, and what was added, are each read up to the
//! first frame that is not whole. What is lost so proves nothing wrong: the other notes name metadata that their files had with that content.

mod log;
mod notes;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use direct_puppet_agent::fs::{FsError, Time, ensure_private_dir, write_state_with};
use direct_puppet_agent::tree::TreeEntry;
use direct_puppet_transport::protocol::Digest;

use self::log::{Entries, Log, Merged, write_base, write_frames};
use self::notes::Note;
use crate::disk;
use crate::error::ServerError;

/// How much the clock of a file system may lag (a kernel tick is at most 10 ms), doubled.
const CLOCK_BLUR: Duration = Duration::from_millis(20);

/// How much a time without a fraction of a second may lag: some file systems, and archives, keep even seconds only.
const COARSE_BLUR: Duration = Duration::from_secs(2);

/// A log to which more notes were added than its base has, divided by this, is written anew.
const ENTRIES_PER_NOTE: u64 = 8;
/// So many notes more are always borne.
const FEW_NOTES: u64 = 256;

/// What the index has on a file of the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// Nothing.
    Not,
    /// Metadata that it does not have any more.
    Stale,
    /// The content that its metadata prove.
    Proved(Digest),
}

/// The index of one environment, while a listing is compared with it.
#[derive(Debug)]
pub(super) struct StagingIndex {
    path: PathBuf,
    log: Log,
    /// When the listing began.
    begun: SystemTime,
    /// What differs from what is recorded.
    notes: Vec<Note>,
}

impl StagingIndex {
    /// Opens the index for a listing that begins at `begun`; one that is not there, or not whole, is empty.
    pub(super) fn open(environment_dir: &Path, begun: SystemTime) -> Result<Self, ServerError> {
        let path = environment_dir.join("staging-index");
        let log = match File::open(&path) {
            Ok(file) => Log::read(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Log::default()),
            Err(error) => Err(error),
        };
        let log = log.or_else(|error| {
            if disk::is_of_this_process(&error) {
                return Err(FsError::new(&path, "read", error));
            }
            tracing::warn!("{} could not be read, so that all of staging is: {error}", path.display());
            std::fs::remove_file(&path).map(|()| Log::default()).map_err(|error| FsError::new(&path, "remove", error))
        })?;
        Ok(Self { path, log, begun, notes: Vec::new() })
    }

    /// Returns what is recorded on entries of the listing: pieces of it come in path order, each once.
    pub(super) fn recorded(&mut self, piece: &[TreeEntry]) -> Result<Vec<Recorded>, ServerError> {
        self.compare(piece).map_err(|error| {
            // Without it the next publish reads all of staging.
            if let Err(error) = std::fs::remove_file(&self.path) {
                tracing::warn!("{} could not be removed: {error}", self.path.display());
            }
            FsError::new(&self.path, "read", error).into()
        })
    }

    fn compare(&mut self, piece: &[TreeEntry]) -> io::Result<Vec<Recorded>> {
        let mut all = Vec::with_capacity(piece.len());
        for entry in piece {
            while let Some(gone) = self.log.entries.next_if(|path| *path < entry.path)? {
                self.notes.push(Note { path: gone.path, found: None });
            }
            all.push(match self.log.entries.next_if(|path| *path == entry.path)? {
                Some(recorded) if recorded.stat == entry.stat => Recorded::Proved(recorded.digest),
                Some(_) => Recorded::Stale,
                None => Recorded::Not,
            });
        }
        Ok(all)
    }

    /// Takes what an entry turned out to be: a file with a content, as far as its metadata were old enough when the listing began, or
    /// something else.
    pub(super) fn found(&mut self, entry: &TreeEntry, recorded: Recorded, digest: Option<Digest>) {
        let is_old = |time: Time| is_before(time, self.begun);
        let found = match digest {
            Some(digest) if recorded == Recorded::Proved(digest) => return,
            Some(digest) if is_old(entry.stat.mtime) && is_old(entry.stat.ctime) => Some((entry.stat, digest)),
            _ if recorded == Recorded::Not => return,
            _ => None,
        };
        self.notes.push(Note { path: entry.path.clone(), found });
    }

    /// Writes what changed, or everything where the log has grown long. To be called when the listing is at its end.
    pub(super) fn save(mut self) -> Result<(), ServerError> {
        let failed = |path: &Path, attempted, error| ServerError::from(FsError::new(path, attempted, error));
        while let Some(gone) = self.log.entries.next_if(|_| true).map_err(|error| failed(&self.path, "read", error))? {
            self.notes.push(Note { path: gone.path, found: None });
        }
        let is_whole = self.log.is_whole();
        if self.notes.is_empty() && (is_whole || self.log.bytes.is_none()) {
            return Ok(());
        }
        if let Some(dir) = self.path.parent() {
            ensure_private_dir(dir)?;
        }
        self.notes.sort_by(|a, b| a.path.cmp(&b.path));
        let most = FEW_NOTES + self.log.base / ENTRIES_PER_NOTE;
        if let Some(end) = self.log.bytes.filter(|_| is_whole && self.log.added + self.notes.len() as u64 <= most) {
            let write = || {
                let file = OpenOptions::new().write(true).open(&self.path)?;
                // Not durable: what a power cut leaves is read as far as it is whole.
                file.set_len(end)?;
                let mut bytes = Vec::new();
                write_frames(self.notes.into_iter(), &mut bytes)?;
                file.write_all_at(&bytes, end)
            };
            return write().map_err(|error| failed(&self.path, "append to", error));
        }
        let before = match self.path.parent() {
            Some(dir) => Self::open(dir, self.begun)?.log.entries,
            None => Entries::default(),
        };
        let all = Merged::new(before, self.notes);
        Ok(write_state_with(&self.path, 0o600, |file| write_base(all, file))?)
    }
}

/// Whether a time of a file is before one of this clock, however much the file system blurs it.
pub(super) fn is_before(time: Time, other: SystemTime) -> bool {
    let blur = if time.nanos == 0 { COARSE_BLUR } else { CLOCK_BLUR };
    time < time_of(other - blur)
}

fn time_of(time: SystemTime) -> Time {
    let age = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX), nanos: age.subsec_nanos() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use direct_puppet_agent::fs::Stat;
    use direct_puppet_transport::protocol::TreePath;
    use proptest::prelude::*;

    use super::*;

    fn stat(size: u64, mtime: Time, ctime: Time) -> Stat {
        Stat { dev: 1, ino: 1, size, mtime, ctime, mode: 0o100_644, uid: 0, gid: 0, nlink: 1 }
    }

    #[test]
    fn a_time_without_a_fraction_is_believed_two_seconds_later() {
        let fine = |millis: u32| Time { seconds: 999, nanos: millis * 1_000_000 };
        let whole = |seconds: i64| Time { seconds, nanos: 0 };
        let begun = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_010);
        for (mtime, ctime, is_believed) in [
            (fine(980), fine(980), true),
            (fine(995), fine(980), false),
            (fine(980), fine(995), false),
            (whole(999), whole(999), false),
            (whole(999), fine(980), false),
            (fine(980), whole(999), false),
            (whole(998), whole(998), true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut index = StagingIndex::open(dir.path(), begun).unwrap();
            let entry = TreeEntry { path: "site.yaml".parse().unwrap(), stat: stat(1, mtime, ctime), target: None };
            index.found(&entry, Recorded::Not, Some(Digest::of(b"x")));
            assert_eq!(index.notes.len(), usize::from(is_believed), "{mtime:?} {ctime:?}");
        }
    }

    type Found = BTreeMap<TreePath, (Stat, Digest)>;

    fn found(files: &BTreeMap<u16, u64>) -> Found {
        let old = Time { seconds: 5, nanos: 1 };
        let file = |(number, content): (&u16, &u64)| {
            let path: TreePath = format!("file{number}").parse().unwrap();
            (path, (stat(*content, old, old), Digest::of(&content.to_le_bytes())))
        };
        files.iter().map(file).collect()
    }

    fn publish(dir: &Path, found: &Found) {
        let mut index = StagingIndex::open(dir, SystemTime::now()).unwrap();
        let entry = |(path, (stat, _)): (&TreePath, &(Stat, Digest))| TreeEntry { path: path.clone(), stat: *stat, target: None };
        let listed: Vec<TreeEntry> = found.iter().map(entry).collect();
        for piece in listed.chunks(37) {
            for (entry, recorded) in piece.iter().zip(index.recorded(piece).unwrap()) {
                index.found(entry, recorded, Some(found[&entry.path].1));
            }
        }
        index.save().unwrap();
    }

    fn entries(dir: &Path) -> Found {
        let mut recorded = StagingIndex::open(dir, SystemTime::now()).unwrap().log.entries;
        let next = || recorded.next_if(|_| true).unwrap().map(|entry| (entry.path, (entry.stat, entry.digest)));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_publish_writes_as_much_as_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let length = || std::fs::metadata(dir.path().join("staging-index")).unwrap().len();
        let mut files: BTreeMap<u16, u64> = (0..20_000).map(|number| (number, 1)).collect();
        publish(dir.path(), &found(&files));
        let first = length();
        assert!(first > 1_000_000);
        for round in 1..=3 {
            let before = length();
            files.extend((0..3).map(|number| (number * 5_000, 1 + u64::from(round))));
            files.remove(&(100 + round));
            publish(dir.path(), &found(&files));
            assert!((1..2_000).contains(&(length() - before)), "{} bytes", length() - before);
            assert_eq!(entries(dir.path()), found(&files));
        }
        // Once there is more to say than an eighth, it is said anew.
        files.values_mut().for_each(|content| *content += 100);
        publish(dir.path(), &found(&files));
        assert_eq!(entries(dir.path()), found(&files));
        assert!(length().abs_diff(first) < first / 10, "{} bytes", length());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_read_is_what_was_found_last(
            rounds in prop::collection::vec(prop::collection::btree_map(0..400_u16, 0..3_u64, 0..400), 1..5),
        ) {
            let dir = tempfile::tempdir().unwrap();
            for files in &rounds {
                publish(dir.path(), &found(files));
                prop_assert_eq!(entries(dir.path()), found(files));
            }
        }

        #[test]
        fn a_damaged_log_proves_nothing_wrong(
            rounds in prop::collection::vec(prop::collection::btree_map(0..40_u16, 0..3_u64, 0..40), 2..5),
            at in any::<prop::sample::Index>(), bit in 0..8_u8, is_cut in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            rounds.iter().for_each(|files| publish(dir.path(), &found(files)));
            let log = dir.path().join("staging-index");
            let Ok(mut bytes) = std::fs::read(&log) else { return Ok(()) };
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes.truncate(if is_cut { at } else { bytes.len() });
            std::fs::write(&log, &bytes).unwrap();
            // What is believed was true of some round.
            let ever: Vec<Found> = rounds.iter().map(found).collect();
            for (path, entry) in entries(dir.path()) {
                prop_assert!(ever.iter().any(|found| found.get(&path) == Some(&entry)), "{}", path);
            }
            let last = rounds.last().map(found).unwrap_or_default();
            publish(dir.path(), &last);
            prop_assert_eq!(entries(dir.path()), last);
        }
    }
}
