//! Which files already are what the catalog wants: the three tiers.
//!
//! 1. *stat*: the record still holds, is not racy, and its last proof by digest is young enough: not opened.
//! 2. *fingerprint*: stat differs, size does not: read once, compared under this host's secret, where only root or the agent's
//!    own user can write. Files above 1 MiB have no fingerprint: they go on to
//! 3. *digest*: read once and hashed.
//!
//! Each file is proved by digest again between half and the whole of `reproof_interval` after its last such proof, at a point that
//! depends on its path: there are four. This takes the place of a rotating slice in every run: a run with nothing to do opens
//! nothing, and every file is still proved within a stated time, the work spread over four runs of the second half.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::{Digest, TreePath};
use rayon::prelude::*;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::cache::{StatCache, error};
use super::dir::RootDir;
use super::pool::Pool;
use super::prove::{Large, Looked, Prover, Update};
use super::record::nanos_at;
use crate::fs::{FsError, Root, Stat};

/// Files of one directory that one task looks at: enough to make opening the directory cheap, few enough to share out a
/// directory that holds everything.
const FILES_PER_TASK: usize = 128;

/// A file that a catalog wants to have a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedContent {
    /// Where.
    pub path: TreePath,
    /// Which.
    pub digest: Digest,
    /// How long, in bytes; `UNKNOWN_SIZE` when only the digest is known.
    pub size: u64,
    /// Whether other content there is to be replaced (`replace => true`); if not, only absence makes it missing.
    pub replace: bool,
    /// Whether a link at `path` is followed (`links => follow`): the run then looks at what it points to instead.
    pub follow: bool,
}

/// What was found at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContentState {
    /// The wanted content.
    Same,
    /// A regular file that is not proved to have the wanted content; the digest of what it has, where that is known. With
    /// `replace => false` it is not read, and may have any content.
    Different(Option<Digest>),
    /// Nothing.
    Absent,
    /// Something that is no regular file.
    OtherKind,
    /// On the way to it is something that is no directory, which the run may replace with one.
    Blocked,
    /// It could not be looked at.
    Failed(String),
}

/// What is proof enough that a file has its wanted content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// Metadata that did not change since the content was proved; only what that leaves open is read.
    #[default]
    Stat,
    /// Reading it: the fingerprint under this host's secret, kept from when the content was proved by digest, and the digest where there
    /// is none, where it differs, and where others than root and the agent's own user can write. This finds damage and whatever others
    /// did to files, but is no proof against who knows the secret, as root does, nor as strong as a digest.
    Fingerprint,
    /// Reading it, and its digest.
    Digest,
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
    /// Proved by the kernel, which noted no change since they were proved by stat: not even that, but where it noted something.
    #[serde(default)]
    pub watch_proved: u64,
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
    pub reproof_interval: Duration,
    /// What is proof enough.
    pub proof: Proof,
}

/// The result of a scan.
#[derive(Debug, Default)]
pub struct Scan {
    /// By path.
    pub files: HashMap<TreePath, Scanned, FastState>,
    /// What it cost.
    pub counters: ScanCounters,
    /// Paths whose content is proved in this scan, by digest: where a missing content can be copied from.
    pub holders: HashMap<Digest, TreePath, FastState>,
}

impl ScanCounters {
    pub(super) const fn add(&mut self, other: &Self) {
        self.listed += other.listed;
        self.stat_proved += other.stat_proved;
        self.watch_proved += other.watch_proved;
        self.fingerprint_proved += other.fingerprint_proved;
        self.opened += other.opened;
        self.bytes_hashed += other.bytes_hashed;
        self.missing += other.missing;
    }
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { threads: 0, reproof_interval: Duration::from_secs(12 * 60 * 60), proof: Proof::Stat }
    }
}

/// Finds out which of the wanted files already have their content. Answers do not depend on the number of threads.
///
/// `now` is the time of the start; `interrupt` is looked at before each file and stops the scan; `progress` counts files done.
///
/// # Errors
///
/// When the root cannot be opened, no thread can be started, or `interrupt` was set. What concerns one file is
/// [`ContentState::Failed`]. What was proved before an interrupt stays in `cache`.
///
/// # Blocking
///
/// Reads files; call it where blocking is allowed.
pub fn scan(
    root: &Root,
    wanted: &[WantedContent],
    cache: &mut StatCache,
    options: &ScanOptions,
    now: SystemTime,
    interrupt: &AtomicBool,
    progress: &AtomicU64,
) -> Result<Scan, FsError> {
    scan_below(root.path(), wanted, cache, options, now, interrupt, progress)
}

/// As [`scan()`], for a root given by its path.
///
/// # Errors
///
/// As [`scan()`].
pub fn scan_below(
    root: &Path,
    wanted: &[WantedContent],
    cache: &mut StatCache,
    options: &ScanOptions,
    now: SystemTime,
    interrupt: &AtomicBool,
    progress: &AtomicU64,
) -> Result<Scan, FsError> {
    let root_dir = RootDir::open(root).map_err(|errno| error(root, "open the managed root", errno.into()))?;
    let no_threads = |source| error(root, "start threads to scan", source);
    let prover =
        Prover { cache, reproof_interval: options.reproof_interval, proof: options.proof, now: nanos_at(now), interrupt };
    let small = || look_at_small(&root_dir, wanted, &prover, progress);
    let mut looked = Pool::apart(options.threads, &root_dir, small).map_err(no_threads)?;
    let mut started = Ok(());
    if !looked.is_complete() && !interrupt.load(Ordering::Relaxed) {
        started = Pool::new(options.threads)
            .map(|pool| pool.install(|| look_at_large(&root_dir, wanted, &prover, progress, &mut looked)));
    }
    let is_complete = looked.is_complete();
    let scan = gather(wanted, looked, cache);
    // What was proved stays proved.
    started.map_err(no_threads)?;
    if !is_complete || interrupt.load(Ordering::Relaxed) {
        return Err(error(root, "finish the scan of", io::Error::new(io::ErrorKind::Interrupted, "interrupted")));
    }
    Ok(scan)
}

/// What all tasks found.
struct LookedAtAll {
    /// Indexes of the wanted files, by directory.
    order: Vec<usize>,
    /// One answer for each of these, task after task; `None` for those that an interrupt left out.
    answers: Vec<Vec<Option<Looked>>>,
}

impl LookedAtAll {
    fn is_complete(&self) -> bool {
        self.answers.iter().flatten().all(Option::is_some)
    }
}

/// Looks at every wanted file side by side, and leaves the large ones that must be read for later. Each is opened by the thread that reads it.
fn look_at_small(root: &RootDir, wanted: &[WantedContent], prover: &Prover<'_>, progress: &AtomicU64) -> LookedAtAll {
    let parents: Vec<&[u8]> = wanted.iter().map(|wanted| parent_of(wanted.path.as_bytes())).collect();
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&index| parents[index]);
    let runs: Vec<&[usize]> =
        order.chunk_by(|&a, &b| parents[a] == parents[b]).flat_map(|run| run.chunks(FILES_PER_TASK)).collect();
    let look_run =
        |buffer: &mut Vec<u8>, run: &&[usize]| look_at_run(root, wanted, prover, run, buffer, Large::Postpone, progress);
    let answers: Vec<Vec<Option<Looked>>> = runs.par_iter().map_init(Vec::new, look_run).collect();
    LookedAtAll { order, answers }
}

/// Looks at the files that were left, with all threads each.
fn look_at_large(root: &RootDir, wanted: &[WantedContent], prover: &Prover<'_>, progress: &AtomicU64, looked: &mut LookedAtAll) {
    let mut buffer = Vec::new();
    for (&index, looked) in looked.order.iter().zip(looked.answers.iter_mut().flatten()) {
        if looked.is_none() && !prover.interrupt.load(Ordering::Relaxed) {
            let run = look_at_run(root, wanted, prover, &[index], &mut buffer, Large::Hash, progress);
            *looked = run.into_iter().next().flatten();
        }
    }
}

/// Looks at files of one directory; one answer per index.
fn look_at_run(
    root: &RootDir,
    wanted: &[WantedContent],
    prover: &Prover<'_>,
    run: &[usize],
    buffer: &mut Vec<u8>,
    large: Large,
    progress: &AtomicU64,
) -> Vec<Option<Looked>> {
    let parent = run.first().and_then(|&index| wanted[index].path.parent()).unwrap_or_default();
    let dir = root.dir(&parent);
    let look = |&index: &usize| {
        if prover.interrupt.load(Ordering::Relaxed) {
            return None;
        }
        let looked = match &dir {
            Ok(Some(dir)) => prover.look(dir, &wanted[index], buffer, large),
            Ok(None) => Some(Looked::absent()),
            Err(Errno::NOTDIR | Errno::LOOP) => Some(Looked::blocked()),
            Err(errno) => Some(Looked::failed("open the directory that holds it", *errno)),
        };
        progress.fetch_add(u64::from(looked.is_some()), Ordering::Relaxed);
        looked
    };
    run.iter().map(look).collect()
}

fn parent_of(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)]
}

fn gather(wanted: &[WantedContent], looked: LookedAtAll, cache: &mut StatCache) -> Scan {
    let mut scan = Scan { files: HashMap::with_capacity_and_hasher(wanted.len(), FastState::default()), ..Scan::default() };
    for (index, looked) in looked.order.into_iter().zip(looked.answers.into_iter().flatten()) {
        let (wanted, Some(looked)) = (&wanted[index], looked) else { continue };
        match looked.update {
            Update::Keep => {}
            Update::Forget => cache.forget(&wanted.path),
            Update::Put(record) => cache.put(&wanted.path, *record),
        }
        scan.counters.add(&looked.counters);
        let proved = match looked.scanned.content {
            ContentState::Same => Some(wanted.digest),
            ContentState::Different(digest) => digest,
            _ => None,
        };
        if let Some(digest) = proved {
            scan.holders.entry(digest).or_insert_with(|| wanted.path.clone());
        }
        scan.files.insert(wanted.path.clone(), looked.scanned);
    }
    scan
}
