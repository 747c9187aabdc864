//! Room on the disk for what nodes send: reports, and what their files held before.
//!
//! It has a budget of its own, and grows no more where the disk is nearly full, so that nothing that nodes send takes the room of code.
//! What has no room beside the rest has that of the oldest, of those nodes that have the most: one that floods loses what is its own.

mod used;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use direct_puppet_agent::fs::FsError;
use rayon::prelude::*;

use self::used::{OfNode, Used, level};
use crate::disk::{self, on_disk};
use crate::error::{ServerError, chain};

/// Directories of a node's that count.
const COUNTED: [&str; 2] = ["reports", "bucket"];

/// What stays free of a disk by default: this part of it,
const FREE_PART: u64 = 20;
/// and not more bytes than these.
const MAX_FREE_BYTES: u64 = 1 << 30;

/// What nodes may fill of a disk by default: this part of it.
const BUDGET_PART: u64 = 4;

/// Of the files that a disk can still have, this part stays free where bytes do,
const FREE_FILES_PART: u64 = 100;
/// and not more files than these.
const MAX_FREE_FILES: u64 = 10_000;

/// So much more goes than must, as a part of it, so that not every report has to look for what goes.
const SLACK_PART: u64 = 64;
/// On a disk that is nearly full not more bytes than these.
const MAX_SPARE_BYTES: u64 = 16 << 20;

/// How often it is told that something went.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How much nodes may send.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
    /// Bytes on disk that all nodes have together.
    budget: u64,
    /// Bytes that stay free.
    keep_free: u64,
    used: Mutex<Used>,
    /// Held while something is removed; what is in it was not told of yet.
    removing: Mutex<Gone>,
    /// What tests say that the disk has.
    #[cfg(test)]
    pretended: Option<disk::Space>,
}

/// What went.
#[derive(Debug, Default)]
struct Gone {
    files: u64,
    bytes: u64,
    told: Option<Instant>,
}

/// What all may have, with what is about to be written.
struct Limits {
    most: u64,
    /// What is left when something goes.
    target: u64,
    /// What is said when nothing can go instead.
    error: ServerError,
    /// The disk is nearly full.
    is_short: bool,
    /// It has too few files: one goes for this one, or that is said.
    no_files: Option<ServerError>,
}

/// Room that is taken; given back when dropped, unless something was written there.
#[derive(Debug)]
#[must_use]
pub(crate) struct Taken<'a> {
    room: &'a Room,
    node: &'a Path,
    bytes: u64,
}

impl Taken<'_> {
    /// Says that it was written.
    pub(crate) fn written(mut self) {
        self.room.used().settle(self.node, self.bytes);
        self.bytes = 0;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut used = self.room.used();
        used.settle(self.node, self.bytes);
        used.take(self.node, self.bytes);
    }
}

impl Room {
    /// Counts what the nodes below `dir` have. `budget` is what they may have in bytes, by default a quarter of the disk; `keep_free` what
    /// they leave free, by default a twentieth of it, at most 1 GiB. Blocking.
    pub(super) fn open(dir: &Path, budget: Option<u64>, keep_free: Option<u64>) -> Result<Self, ServerError> {
        let nodes = disk::entries(dir)?;
        let count = |node: PathBuf| -> Result<(PathBuf, u64), ServerError> {
            let sizes = files_of(&node)?.into_iter().map(|file| file.bytes).sum();
            Ok((node, sizes))
        };
        let counted: Result<Vec<_>, ServerError> = nodes.into_par_iter().map(|entry| count(entry.path())).collect();
        let mut used = Used::default();
        for (node, bytes) in counted?.into_iter().filter(|(_, bytes)| *bytes > 0) {
            used.total += bytes;
            used.by_node.insert(node, OfNode { bytes, ..OfNode::default() });
        }
        let size = disk::Space::of(dir)?.size;
        Ok(Self {
            dir: dir.to_owned(),
            budget: budget.unwrap_or(size / BUDGET_PART),
            keep_free: keep_free.unwrap_or_else(|| (size / FREE_PART).min(MAX_FREE_BYTES)),
            used: Mutex::new(used),
            removing: Mutex::default(),
            #[cfg(test)]
            pretended: None,
        })
    }

    /// Takes room for a file of `bytes` of the node in `node`; what has none beside it goes. Blocking; no file of a node may be held.
    ///
    /// # Errors
    ///
    /// When there is none, even were all gone that may go; then nothing does.
    pub(crate) fn take<'a>(&'a self, node: &'a Path, bytes: u64) -> Result<Taken<'a>, ServerError> {
        let bytes = on_disk(bytes);
        let space = if self.keep_free == 0 { None } else { Some(self.space()?) };
        let limits = {
            // Whoever comes at the same time comes before or after.
            let mut used = self.used();
            let limits = self.limits(&mut used, bytes, space);
            used.promise(node, bytes);
            limits
        };
        let taken = Taken { room: self, node, bytes };
        let limits = limits?;
        if !self.make_room(&limits) {
            return Err(limits.error);
        }
        if limits.is_short {
            let mut used = self.used();
            used.spare = limits.most.saturating_sub(used.total).min(MAX_SPARE_BYTES);
        }
        match limits.no_files {
            Some(error) if !self.remove_one() => Err(error),
            _ => Ok(taken),
        }
    }

    /// Says that a file of a node was removed.
    pub(crate) fn removed(&self, node: &Path, bytes: u64) {
        self.used().take(node, on_disk(bytes));
    }

    /// Returns what all may have with another file of `bytes`.
    fn limits(&self, used: &mut Used, bytes: u64, space: Option<disk::Space>) -> Result<Limits, ServerError> {
        let no_space = |free: u64, what| ServerError::NoSpace { needed: bytes, path: self.dir.clone(), free, what };
        let limits = Limits {
            most: self.budget,
            target: self.budget - self.budget / SLACK_PART,
            error: no_space(self.budget.saturating_sub(used.total), "of --max-node-bytes"),
            is_short: false,
            no_files: None,
        };
        let Some(space) = space else { return Ok(limits) };
        let files = space.files.map(|files| (files.free, (files.all / FREE_FILES_PART).min(MAX_FREE_FILES)));
        let no_files = files.filter(|(free, kept)| free <= kept);
        let no_files = no_files.map(|(free, _)| ServerError::NoFiles { path: self.dir.clone(), free });
        let available = space.free.saturating_sub(self.keep_free);
        // What others write is not on the disk yet, and has its room.
        let with_promised = bytes.saturating_add(used.pending);
        let spare = std::mem::take(&mut used.spare);
        if with_promised <= available {
            return Ok(Limits { no_files, ..limits });
        }
        let error = no_space(available.saturating_sub(used.pending), "beside --keep-free-bytes");
        if bytes <= available {
            // Or a part of it is there already, which is not known: no reason to remove anything.
            return Err(error);
        }
        // Where not even that is there, what went before is taken by whoever fills the disk.
        let is_full = space.free < with_promised;
        let most = if is_full { used.total } else { used.total.saturating_add(spare) }.min(self.budget);
        let slack = if is_full { 0 } else { (most / SLACK_PART).min(MAX_SPARE_BYTES) };
        Ok(Limits { most, target: most - slack, error, is_short: true, no_files })
    }

    /// Returns what the disk has room for.
    fn space(&self) -> Result<disk::Space, ServerError> {
        #[cfg(test)]
        if let Some(space) = self.pretended {
            return Ok(space);
        }
        disk::Space::of(&self.dir)
    }

    /// Removes the oldest of those nodes that have the most, where all have more than they may; nothing, if that were not enough. Returns
    /// whether they are within that.
    fn make_room(&self, limits: &Limits) -> bool {
        if self.used().total <= limits.most {
            return true;
        }
        let mut gone = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (level, mut nodes) = {
                let used = self.used();
                if used.total <= limits.most {
                    return true;
                }
                let level = level(used.by_node.values().map(|used| used.bytes).collect(), limits.target);
                if used.by_node.values().map(|used| used.within(level)).sum::<u64>() > limits.most {
                    return false;
                }
                let over = used.by_node.iter().filter(|(_, used)| used.bytes > level);
                (level, over.map(|(node, used)| (used.bytes, node.clone())).collect::<Vec<_>>())
            };
            nodes.sort_unstable_by(|one, other| other.cmp(one));
            let before = gone.files;
            for (_, node) in &nodes {
                self.cut(node, level, limits.target, &mut gone);
            }
            // Others may have been promised room meanwhile.
            if gone.files == before {
                return self.used().total <= limits.most;
            }
            gone.tell();
        }
    }

    /// Removes the oldest file of the node that has most; of another, where that one has none. Returns whether there was one.
    fn remove_one(&self) -> bool {
        let mut gone = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nodes: Vec<(u64, PathBuf)> = {
            let used = self.used();
            let written = used.by_node.iter().map(|(node, used)| (used.bytes - used.pending, node.clone()));
            written.filter(|(bytes, _)| *bytes > 0).collect()
        };
        nodes.sort_unstable_by(|one, other| other.cmp(one));
        let is_gone = nodes.iter().any(|(_, node)| self.list(node).iter().any(|file| self.remove(node, file, &mut gone)));
        gone.tell();
        is_gone
    }

    /// Lists what a node has, which corrects what it is taken to have; nothing where it cannot be listed.
    fn list(&self, node: &Path) -> Vec<NodeFile> {
        let Some(listed) = self.used().by_node.get(node).copied() else { return Vec::new() };
        match files_of(node) {
            Ok(files) => {
                self.used().found(node, listed, files.iter().map(|file| file.bytes).sum());
                files
            }
            // The others' are removed all the same.
            Err(error) => {
                tracing::error!("what a node sent stays: {}", chain(&error));
                Vec::new()
            }
        }
    }

    /// Removes the oldest of a node until it has no more than `level`, or all no more than `target`.
    fn cut(&self, node: &Path, level: u64, target: u64, gone: &mut Gone) {
        let is_enough = || {
            let used = self.used();
            used.total <= target || used.by_node.get(node).is_none_or(|used| used.bytes <= level)
        };
        if is_enough() {
            return;
        }
        for file in self.list(node) {
            if is_enough() {
                break;
            }
            self.remove(node, &file, gone);
        }
    }

    /// Removes a file, and says whether it was there.
    fn remove(&self, node: &Path, file: &NodeFile, gone: &mut Gone) -> bool {
        match std::fs::remove_file(&file.path) {
            Ok(()) => {
                self.removed(node, file.bytes);
                (gone.files, gone.bytes) = (gone.files + 1, gone.bytes + file.bytes);
                true
            }
            // The node's own newer one, or its owner, was faster.
            Err(error) => {
                tracing::debug!(path = %file.path.display(), %error, "an old file of a node stays");
                false
            }
        }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gone {
    /// Warns of what went, now and then.
    fn tell(&mut self) {
        if self.files > 0 && self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            let Self { files, bytes, .. } = self;
            tracing::warn!(files, bytes, "nodes send more than has room here: the oldest went, of those that have most");
            *self = Self { told: Some(Instant::now()), ..Self::default() };
        }
    }
}

struct NodeFile {
    path: PathBuf,
    bytes: u64,
}

/// Returns what a node has sent, in the order in which it goes: reports by their time, then the bucket by age.
fn files_of(node: &Path) -> Result<Vec<NodeFile>, ServerError> {
    let mut files = Vec::new();
    for dir in COUNTED {
        let list = match std::fs::read_dir(node.join(dir)) {
            Ok(list) => list,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(FsError::new(&node.join(dir), "list", error).into()),
        };
        let mut of_dir: Vec<(Option<SystemTime>, NodeFile)> = Vec::new();
        for entry in list.flatten() {
            // One that is being written counts already, and is somebody's.
            let is_unfinished = entry.path().extension().is_some_and(|extension| extension == "new");
            if let Ok(metadata) = entry.metadata()
                && !is_unfinished
            {
                let age = if dir == "bucket" { metadata.modified().ok() } else { None };
                of_dir.push((age, NodeFile { path: entry.path(), bytes: on_disk(metadata.len()) }));
            }
        }
        of_dir.sort_by(|(a, one), (b, other)| (a, &one.path).cmp(&(b, &other.path)));
        files.extend(of_dir.into_iter().map(|(_, file)| file));
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
