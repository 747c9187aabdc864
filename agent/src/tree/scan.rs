//! Which files already are what the catalog wants: the three tiers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};

use direct_puppet_transport::protocol::{Digest, TreePath};
use serde::{Deserialize, Serialize};

use crate::fs::{FsError, Root, Stat};

/// A file that a catalog wants to have a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedContent {
    /// Where.
    pub path: TreePath,
    /// Which.
    pub digest: Digest,
    /// How long, in bytes.
    pub size: u64,
    /// Whether other content there is to be replaced (`replace => true`); if not, only absence makes it missing.
    pub replace: bool,
}

/// What was found at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContentState {
    /// The wanted content.
    Same,
    /// A regular file with another content; its digest where it was read.
    Different(Option<Digest>),
    /// Nothing.
    Absent,
    /// Something that is no regular file.
    OtherKind,
    /// It could not be looked at.
    Failed(String),
}

/// The answer for one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// Its metadata, when something is there.
    pub stat: Option<Stat>,
    /// How its content compares.
    pub content: ContentState,
}

/// What a scan did; the numbers of `Outcome` and reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanCounters {
    /// Files looked at.
    pub listed: u64,
    /// Proved by stat alone: not opened.
    pub stat_proved: u64,
    /// Proved by the keyed fingerprint: read once.
    pub fingerprint_proved: u64,
    /// Opened, for whatever tier.
    pub opened: u64,
    /// Bytes read and hashed.
    pub bytes_hashed: u64,
    /// Distinct contents that are neither in place nor found elsewhere on this node: set by the run.
    pub missing: u64,
}

/// How to scan.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// Threads; 0 for one per core.
    pub threads: usize,
    /// How old the last proof by digest may be before a file is read again whatever stat says (default 12 hours: 24 runs).
    pub reproof_interval: std::time::Duration,
    /// Trust neither stat nor fingerprint: read everything.
    pub verify_all: bool,
}

/// The result of a scan.
#[derive(Debug, Default)]
pub struct Scan {
    /// By path.
    pub files: HashMap<TreePath, Scanned>,
    /// What it cost.
    pub counters: ScanCounters,
    /// Paths whose content is proved in this scan, by digest: where a missing content can be copied from.
    pub holders: HashMap<Digest, TreePath>,
}

/// What earlier scans proved, on disk.
#[derive(Debug)]
pub struct StatCache {}

impl StatCache {
    /// Loads the cache, or starts an empty one when there is none or it is damaged.
    pub fn load(state_dir: &Path) -> Result<Self, FsError> {
        todo!("{state_dir:?}")
    }
    /// Records a file that was just written and made durable.
    pub fn record(&mut self, path: &TreePath, stat: &Stat, digest: Digest) {
        todo!("{path:?}{stat:?}{digest:?}")
    }
    /// Forgets a path.
    pub fn forget(&mut self, path: &TreePath) {
        todo!("{path:?}")
    }
    /// Waits until records made so far cannot be racy any more (at most some tens of milliseconds), looks again at those
    /// that would be, drops paths outside `keep`, and writes the cache atomically.
    pub fn save(&mut self, root: &Root) -> Result<(), FsError> {
        todo!("{root:?}")
    }
}

/// Scans. Blocking; checks `interrupt` per file; `progress` counts files done.
pub fn scan(
    root: &Root,
    wanted: &[WantedContent],
    cache: &mut StatCache,
    options: &ScanOptions,
    now: std::time::SystemTime,
    interrupt: &AtomicBool,
    progress: &AtomicU64,
) -> Result<Scan, FsError> {
    todo!("{root:?}{wanted:?}{cache:?}{options:?}{now:?}{interrupt:?}{progress:?}")
}
