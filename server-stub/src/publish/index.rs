//! What staging files were when they were last read, so that publishing again reads only what changed.
//!
//! An entry proves a content as long as the file's metadata is the same and was older, when it was recorded, than the clock
//! could blur (the racy rule of git's index). It is a hint: without it everything is read.

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
        let limit = time(begun - CLOCK_BLUR);
        let entries: Vec<IndexEntry> = found
            .filter(|(_, stat, _)| stat.mtime < limit && stat.ctime < limit)
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
