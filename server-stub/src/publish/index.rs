//! What staging files were when they were last read, so that publishing again reads only what changed.
//!
//! An entry proves a content as long as the file's metadata is the same and was older, when it was recorded, than the clock
//! could blur (the racy rule of git's index): a little where a file system keeps fractions of a second, and two seconds where it keeps
//! none. It is a hint: without it everything is read.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use direct_puppet_agent::fs::{Stat, Time, ensure_private_dir, write_state};
use direct_puppet_agent::tree::TreeEntry;
use direct_puppet_transport::protocol::{Digest, TreePath, codec};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::ServerError;

/// Longest index, in bytes.
const MAX_INDEX_BYTES: u64 = 1 << 30;

/// How much the clock of a file system may lag (a kernel tick is at most 10 ms), doubled.
const CLOCK_BLUR: Duration = Duration::from_millis(20);

/// How much a time without a fraction of a second may lag: some file systems, and archives, keep even seconds only.
const COARSE_BLUR: Duration = Duration::from_secs(2);

/// The format that this program writes.
const FORMAT: u32 = 1;

#[derive(Debug, Default, Serialize, Deserialize)]
struct IndexFile {
    format: u32,
    entries: Vec<IndexEntry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IndexEntry {
    path: TreePath,
    stat: Stat,
    digest: Digest,
}

/// The index of one environment.
#[derive(Debug)]
pub(super) struct StagingIndex {
    path: PathBuf,
    /// In path order.
    entries: Vec<IndexEntry>,
    is_changed: bool,
}

impl StagingIndex {
    /// Loads the index; one that is not there or cannot be read is empty.
    pub(super) fn load(environment_dir: &Path) -> Result<Self, ServerError> {
        let path = environment_dir.join("staging-index");
        let file = disk::read(&path)?.and_then(|bytes| codec::decode::<IndexFile>(&bytes, MAX_INDEX_BYTES).ok());
        let is_good = |file: &IndexFile| file.format == FORMAT && file.entries.is_sorted_by(|a, b| a.path < b.path);
        let entries = file.filter(is_good).map(|file| file.entries).unwrap_or_default();
        Ok(Self { path, entries, is_changed: false })
    }

    /// Returns, for each entry of a listing in path order, the content of a file whose metadata proves it.
    pub(super) fn proved(&self, listed: &[TreeEntry]) -> Vec<Option<Digest>> {
        let mut recorded = self.entries.iter().peekable();
        let mut proved = |entry: &TreeEntry| {
            while recorded.peek().is_some_and(|recorded| recorded.path < entry.path) {
                recorded.next();
            }
            let recorded = recorded.peek().filter(|recorded| recorded.path == entry.path && recorded.stat == entry.stat);
            recorded.map(|recorded| recorded.digest)
        };
        listed.iter().map(&mut proved).collect()
    }

    /// Takes what was found in a listing that began at `begun`, in path order, as far as it was old enough then.
    pub(super) fn replace(&mut self, found: impl Iterator<Item = (TreePath, Stat, Digest)>, begun: SystemTime) {
        let (fine, coarse) = (time(begun - CLOCK_BLUR), time(begun - COARSE_BLUR));
        let is_old = |time: Time| time < if time.nanos == 0 { coarse } else { fine };
        let entries: Vec<IndexEntry> = found
            .filter(|(_, stat, _)| is_old(stat.mtime) && is_old(stat.ctime))
            .map(|(path, stat, digest)| IndexEntry { path, stat, digest })
            .collect();
        self.is_changed = entries != self.entries;
        self.entries = entries;
    }

    /// Writes the index, if it changed.
    pub(super) fn save(self) -> Result<(), ServerError> {
        if !self.is_changed {
            return Ok(());
        }
        if let Some(dir) = self.path.parent() {
            ensure_private_dir(dir)?;
        }
        let file = IndexFile { format: FORMAT, entries: self.entries };
        Ok(write_state(&self.path, &codec::encode(&file)?, 0o600)?)
    }
}

fn time(time: SystemTime) -> Time {
    let age = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX), nanos: age.subsec_nanos() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_a_fraction_is_believed_two_seconds_later() {
        let stat =
            |mtime: Time, ctime: Time| Stat { dev: 1, ino: 1, size: 1, mtime, ctime, mode: 0o100_644, uid: 0, gid: 0, nlink: 1 };
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
            let mut index = StagingIndex { path: PathBuf::new(), entries: Vec::new(), is_changed: false };
            let found = ("site.yaml".parse().unwrap(), stat(mtime, ctime), Digest::of(b"x"));
            index.replace([found].into_iter(), begun);
            assert_eq!(index.entries.len(), usize::from(is_believed), "{mtime:?} {ctime:?}");
        }
    }
}
