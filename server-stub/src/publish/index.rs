//! What staging files were when they were last read, so that publishing again reads only what changed.
//!
//! An entry proves a content as long as the file's metadata is the same and was older, when it was recorded, than the clock
//! could blur (the racy rule of git's index): a little where a file system keeps fractions of a second, and two seconds where it keeps
//! none. It is a hint: without it everything is read.
//!
//! `staging-index` beside the versions of an environment is a log, so that a publish writes as much as it changes:
//!
//! ```text
//! staging-index = "DPSTAGE" 0x02 | frame ...
//! frame         = length: u32, little-endian | the first 16 bytes of the body's BLAKE3 | body
//! body          = MessagePack [{ path, found: nil or [stat, digest] }, ...]
//! ```
//!
//! A later note of a path stands instead of an earlier one. Reading ends at the first frame that is not whole, and writing goes on
//! there. What is lost so proves nothing wrong: the notes before it name metadata that their files had with that content.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::iter::Peekable;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use direct_puppet_agent::fs::{FsError, Stat, Time, ensure_private_dir, write_state_with};
use direct_puppet_agent::tree::TreeEntry;
use direct_puppet_transport::protocol::{Digest, TreePath, codec};
use serde::{Deserialize, Serialize};

use crate::error::ServerError;

/// How much the clock of a file system may lag (a kernel tick is at most 10 ms), doubled.
const CLOCK_BLUR: Duration = Duration::from_millis(20);

/// How much a time without a fraction of a second may lag: some file systems, and archives, keep even seconds only.
const COARSE_BLUR: Duration = Duration::from_secs(2);

const MAGIC: [u8; 8] = *b"DPSTAGE\x02";
const SUM_BYTES: usize = 16;

/// Notes of one frame.
const NOTES_PER_FRAME: usize = 512;
/// Longest body, in bytes: so many notes of the longest paths.
const MAX_BODY_BYTES: u32 = 8 << 20;

/// A log with more notes than entries and a quarter of them is written anew.
const ENTRIES_PER_NOTE: usize = 4;
/// So many notes more are always borne.
const FEW_NOTES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
struct IndexEntry {
    path: TreePath,
    stat: Stat,
    digest: Digest,
}

/// What became of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    path: TreePath,
    /// Nothing that is proved any more.
    found: Option<(Stat, Digest)>,
}

/// The index of one environment.
#[derive(Debug, Default)]
pub(super) struct StagingIndex {
    path: PathBuf,
    /// In path order.
    entries: Vec<IndexEntry>,
    /// What differs from `entries`, in path order.
    notes: Vec<Note>,
    /// Notes on disk, and how long the log is as far as it is whole.
    logged: usize,
    log_bytes: u64,
}

impl StagingIndex {
    /// Loads the index; one that is not there or cannot be read is empty.
    pub(super) fn load(environment_dir: &Path) -> Result<Self, ServerError> {
        let mut index = Self { path: environment_dir.join("staging-index"), ..Self::default() };
        match File::open(&index.path) {
            Ok(log) => index.read(&mut BufReader::new(log)).map_err(|error| FsError::new(&index.path, "read", error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(FsError::new(&index.path, "read", error).into()),
        }
        Ok(index)
    }

    /// Reads the log as far as it is whole.
    fn read(&mut self, log: &mut impl Read) -> io::Result<()> {
        let mut magic = [0; MAGIC.len()];
        if !is_filled(log, &mut magic)? || magic != MAGIC {
            return Ok(());
        }
        self.log_bytes = MAGIC.len() as u64;
        // A log that was written at once is in path order; what was added to it mostly is not.
        let mut late = BTreeMap::new();
        let mut body = Vec::new();
        while let Some(length) = next_frame(log, &mut body)? {
            let Ok(notes) = codec::decode::<Vec<Note>>(&body, MAX_BODY_BYTES.into()) else { break };
            self.logged += notes.len();
            self.log_bytes += length;
            for Note { path, found } in notes {
                match found {
                    Some((stat, digest)) if self.entries.last().is_none_or(|last| last.path < path) => {
                        late.remove(&path);
                        self.entries.push(IndexEntry { path, stat, digest });
                    }
                    found => drop(late.insert(path, found)),
                }
            }
        }
        merge(&mut self.entries, late);
        Ok(())
    }

    /// Returns, for each entry of a listing in path order, the content of a file whose metadata proves it.
    pub(super) fn proved(&self, listed: &[TreeEntry]) -> Vec<Option<Digest>> {
        let mut recorded = self.entries.iter().peekable();
        let mut proved = |entry: &TreeEntry| {
            while recorded.next_if(|recorded| recorded.path < entry.path).is_some() {}
            let recorded = recorded.peek().filter(|recorded| recorded.path == entry.path && recorded.stat == entry.stat);
            recorded.map(|recorded| recorded.digest)
        };
        listed.iter().map(&mut proved).collect()
    }

    /// Takes what was found in a listing that began at `begun`, in path order, as far as it was old enough then.
    pub(super) fn replace<'a>(&mut self, found: impl Iterator<Item = (&'a TreePath, Stat, Digest)>, begun: SystemTime) {
        let (fine, coarse) = (time(begun - CLOCK_BLUR), time(begun - COARSE_BLUR));
        let is_old = |time: Time| time < if time.nanos == 0 { coarse } else { fine };
        let gone = |entry: &IndexEntry| Note { path: entry.path.clone(), found: None };
        let mut recorded = self.entries.iter().peekable();
        let mut notes = Vec::new();
        for (path, stat, digest) in found.filter(|(_, stat, _)| is_old(stat.mtime) && is_old(stat.ctime)) {
            while let Some(entry) = recorded.next_if(|entry| entry.path < *path) {
                notes.push(gone(entry));
            }
            let before = recorded.next_if(|entry| entry.path == *path);
            if before.is_none_or(|before| (before.stat, before.digest) != (stat, digest)) {
                notes.push(Note { path: path.clone(), found: Some((stat, digest)) });
            }
        }
        notes.extend(recorded.map(gone));
        self.notes = notes;
    }

    /// Writes what changed, or everything where the log has grown long.
    pub(super) fn save(self) -> Result<(), ServerError> {
        if self.notes.is_empty() {
            return Ok(());
        }
        if let Some(dir) = self.path.parent() {
            ensure_private_dir(dir)?;
        }
        let most = FEW_NOTES + self.entries.len() + self.entries.len() / ENTRIES_PER_NOTE;
        if self.log_bytes > 0 && self.logged + self.notes.len() <= most {
            let write = || {
                let file = OpenOptions::new().write(true).open(&self.path)?;
                // Not durable: what a power cut leaves is read as far as it is whole.
                file.set_len(self.log_bytes)?;
                let mut bytes = Vec::new();
                write_frames(self.notes.into_iter(), &mut bytes)?;
                file.write_all_at(&bytes, self.log_bytes)
            };
            return write().map_err(|error| FsError::new(&self.path, "append to", error).into());
        }
        let all = Merged { entries: self.entries.into_iter().peekable(), notes: self.notes.into_iter().peekable() };
        let fill = |file: &mut io::BufWriter<File>| {
            file.write_all(&MAGIC)?;
            write_frames(all, file)
        };
        Ok(write_state_with(&self.path, 0o600, fill)?)
    }
}

/// Writes notes, frame by frame.
fn write_frames(mut notes: impl Iterator<Item = Note>, out: &mut impl Write) -> io::Result<()> {
    loop {
        let frame: Vec<Note> = notes.by_ref().take(NOTES_PER_FRAME).collect();
        if frame.is_empty() {
            return Ok(());
        }
        let body = codec::encode(&frame).map_err(io::Error::other)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&blake3::hash(&body).as_bytes()[..SUM_BYTES])?;
        out.write_all(&body)?;
    }
}

/// Reads the next frame's body; `None` at the end, or where a frame is not whole. Returns how long the frame is, in bytes.
fn next_frame(log: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let (mut length, mut sum) = ([0; 4], [0; SUM_BYTES]);
    if !is_filled(log, &mut length)? || !is_filled(log, &mut sum)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length);
    body.clear();
    if length > MAX_BODY_BYTES || log.take(length.into()).read_to_end(body)? as u64 != u64::from(length) {
        return Ok(None);
    }
    let is_whole = blake3::hash(body).as_bytes()[..SUM_BYTES] == sum;
    Ok(is_whole.then_some(4 + SUM_BYTES as u64 + u64::from(length)))
}

fn is_filled(log: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

/// Entries with notes put into them, both in path order, as the notes that say all of it.
struct Merged<E: Iterator<Item = IndexEntry>, N: Iterator<Item = Note>> {
    entries: Peekable<E>,
    notes: Peekable<N>,
}

impl<E: Iterator<Item = IndexEntry>, N: Iterator<Item = Note>> Iterator for Merged<E, N> {
    type Item = Note;

    fn next(&mut self) -> Option<Note> {
        loop {
            let Some(note) = self.notes.peek() else {
                return self.entries.next().map(|entry| Note { path: entry.path, found: Some((entry.stat, entry.digest)) });
            };
            if let Some(entry) = self.entries.next_if(|entry| entry.path < note.path) {
                return Some(Note { path: entry.path, found: Some((entry.stat, entry.digest)) });
            }
            let note = self.notes.next()?;
            while self.entries.next_if(|entry| entry.path == note.path).is_some() {}
            if note.found.is_some() {
                return Some(note);
            }
        }
    }
}

/// Puts notes into entries in path order.
fn merge(entries: &mut Vec<IndexEntry>, mut notes: BTreeMap<TreePath, Option<(Stat, Digest)>>) {
    if notes.is_empty() {
        return;
    }
    entries.retain_mut(|entry| match notes.remove(&entry.path) {
        None => true,
        Some(None) => false,
        Some(Some((stat, digest))) => {
            (entry.stat, entry.digest) = (stat, digest);
            true
        }
    });
    let before = entries.len();
    entries.extend(notes.into_iter().filter_map(|(path, found)| found.map(|(stat, digest)| IndexEntry { path, stat, digest })));
    if entries.len() > before {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
    }
}

fn time(time: SystemTime) -> Time {
    let age = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX), nanos: age.subsec_nanos() }
}

#[cfg(test)]
mod tests {
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
            let mut index = StagingIndex::default();
            let path = "site.yaml".parse().unwrap();
            index.replace([(&path, stat(1, mtime, ctime), Digest::of(b"x"))].into_iter(), begun);
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
        let mut index = StagingIndex::load(dir).unwrap();
        index.replace(found.iter().map(|(path, (stat, digest))| (path, *stat, *digest)), SystemTime::now());
        index.save().unwrap();
    }

    fn entries(dir: &Path) -> Found {
        StagingIndex::load(dir).unwrap().entries.into_iter().map(|entry| (entry.path, (entry.stat, entry.digest))).collect()
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
        // Once there is more to say than a quarter, it is said anew.
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
