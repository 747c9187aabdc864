//! Room on the disk for what nodes send: reports, and what their files held before.
//!
//! It has a budget of its own and ends where the disk is nearly full, so that nothing that nodes send takes the room of code. Over the
//! budget the oldest goes, of those nodes that have the most: one that floods loses what is its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use direct_puppet_agent::fs::FsError;
use rayon::prelude::*;

use crate::disk::{self, on_disk};
use crate::error::ServerError;

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

/// Over the budget so much more goes than must, as a part of it, so that not every report has to look for what goes.
const SLACK_PART: u64 = 64;

/// How much nodes may send.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
    /// Bytes on disk that all nodes have together.
    budget: u64,
    /// Bytes that stay free.
    keep_free: u64,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    /// What each node has, by its directory.
    by_node: HashMap<PathBuf, OfNode>,
    total: u64,
    /// Of these, what is not written yet.
    pending: u64,
}

/// Bytes on disk of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct OfNode {
    bytes: u64,
    /// Of these, what is not written yet.
    pending: u64,
}

impl Used {
    fn add(&mut self, node: &Path, bytes: u64) {
        match self.by_node.get_mut(node) {
            Some(used) => used.bytes += bytes,
            None => drop(self.by_node.insert(node.to_owned(), OfNode { bytes, pending: 0 })),
        }
        self.total += bytes;
    }

    /// Says of so many bytes that they are written, or that they will not be.
    fn settle(&mut self, node: &Path, bytes: u64) {
        self.pending -= bytes;
        if let Some(used) = self.by_node.get_mut(node) {
            used.pending -= bytes;
        }
    }

    /// Corrects what a node is taken to have, when less was found: somebody else removes files too.
    fn found(&mut self, node: &Path, bytes: u64) {
        if let Some(used) = self.by_node.get(node).copied() {
            let found = bytes.saturating_add(used.pending);
            self.take(node, used.bytes.saturating_sub(found));
        }
    }

    fn take(&mut self, node: &Path, bytes: u64) {
        if let Some(used) = self.by_node.get_mut(node) {
            // What was removed while it was found to be gone is taken once.
            let bytes = bytes.min(used.bytes - used.pending);
            used.bytes -= bytes;
            if used.bytes == 0 {
                self.by_node.remove(node);
            }
            self.total -= bytes;
        }
    }
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
        for (node, bytes) in counted?.iter().filter(|(_, bytes)| *bytes > 0) {
            used.add(node, *bytes);
        }
        let size = disk::Space::of(dir)?.size;
        Ok(Self {
            dir: dir.to_owned(),
            budget: budget.unwrap_or(size / BUDGET_PART),
            keep_free: keep_free.unwrap_or_else(|| (size / FREE_PART).min(MAX_FREE_BYTES)),
            used: Mutex::new(used),
        })
    }

    /// Takes room for a file of `bytes` of the node in `node`; what is over the budget goes. Blocking; no file of a node may be held.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn take<'a>(&'a self, node: &'a Path, bytes: u64) -> Result<Taken<'a>, ServerError> {
        let bytes = on_disk(bytes);
        let (pending, total) = {
            let mut used = self.used();
            used.add(node, bytes);
            used.pending += bytes;
            if let Some(of_node) = used.by_node.get_mut(node) {
                of_node.pending += bytes;
            }
            (used.pending, used.total)
        };
        let taken = Taken { room: self, node, bytes };
        self.refuse_full_disk(bytes, pending)?;
        if total > self.budget {
            self.make_room()?;
            let total = self.used().total;
            if total > self.budget {
                let free = self.budget.saturating_sub(total.saturating_sub(bytes));
                return Err(ServerError::NoSpace { needed: bytes, path: self.dir.clone(), free, what: "of --max-node-bytes" });
            }
        }
        Ok(taken)
    }

    /// Says that a file of a node was removed.
    pub(crate) fn removed(&self, node: &Path, bytes: u64) {
        self.used().take(node, on_disk(bytes));
    }

    fn refuse_full_disk(&self, bytes: u64, pending: u64) -> Result<(), ServerError> {
        if self.keep_free == 0 {
            return Ok(());
        }
        let space = disk::Space::of(&self.dir)?;
        let free = space.free.saturating_sub(pending - bytes).saturating_sub(self.keep_free);
        let what = "beside --keep-free-bytes";
        if bytes > free {
            return Err(ServerError::NoSpace { needed: bytes, path: self.dir.clone(), free, what });
        }
        let files = space.files.map(|files| (files.free, (files.all / FREE_FILES_PART).min(MAX_FREE_FILES)));
        match files {
            Some((free, kept)) if free <= kept => Err(ServerError::NoFiles { path: self.dir.clone(), free }),
            _ => Ok(()),
        }
    }

    /// Removes the oldest of those nodes that have the most, until all are within the budget.
    fn make_room(&self) -> Result<(), ServerError> {
        let (level, nodes) = {
            let used = self.used();
            let target = self.budget - self.budget / SLACK_PART;
            let level = level(used.by_node.values().map(|used| used.bytes).collect(), target);
            let over = used.by_node.iter().filter(|(_, used)| used.bytes > level);
            (level, over.map(|(node, _)| node.clone()).collect::<Vec<_>>())
        };
        let (mut count, mut freed) = (0, 0);
        for node in &nodes {
            let files = files_of(node)?;
            self.used().found(node, files.iter().map(|file| file.bytes).sum());
            for file in files {
                if self.used().by_node.get(node).is_none_or(|used| used.bytes <= level) {
                    break;
                }
                match std::fs::remove_file(&file.path) {
                    Ok(()) => {
                        self.removed(node, file.bytes);
                        (count, freed) = (count + 1, freed + file.bytes);
                    }
                    // Another made room too.
                    Err(error) => tracing::debug!(path = %file.path.display(), %error, "an old file of a node stays"),
                }
            }
        }
        let nodes = nodes.len();
        tracing::warn!(
            count,
            freed,
            nodes,
            budget = self.budget,
            "nodes send more than has room here: the oldest went, of those that have most"
        );
        Ok(())
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how much each may have at most, so that all together have `target`.
fn level(mut all: Vec<u64>, target: u64) -> u64 {
    all.sort_unstable();
    let (mut left, mut count) = (target, all.len() as u64);
    for used in all {
        let share = left / count;
        if used > share {
            return share;
        }
        (left, count) = (left - used, count - 1);
    }
    u64::MAX
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = 4096;

    fn room(dir: &Path, blocks: u64) -> Room {
        Room::open(dir, Some(blocks * BLOCK), Some(0)).unwrap()
    }

    fn send(room: &Room, node: &Path, name: &str, blocks: u64) -> Result<(), ServerError> {
        let taken = room.take(node, blocks * BLOCK)?;
        std::fs::create_dir_all(node.join("reports")).unwrap();
        std::fs::write(node.join("reports").join(name), vec![0; usize::try_from(blocks * BLOCK).unwrap()]).unwrap();
        taken.written();
        Ok(())
    }

    /// What others remove is room again, without a word; what is being written is let alone.
    #[test]
    fn what_was_removed_by_hand_is_found_to_be_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (node, other) = (dir.path().join("node"), dir.path().join("other"));
        let room = room(dir.path(), 8);
        for number in 0..7 {
            send(&room, &node, &format!("{number}"), 1).unwrap();
        }
        std::fs::remove_dir_all(node.join("reports")).unwrap();
        let writing = room.take(&node, BLOCK).unwrap();
        std::fs::create_dir_all(node.join("reports")).unwrap();
        std::fs::write(node.join("reports/8.new"), "half").unwrap();
        for number in 0..8 {
            send(&room, &other, &format!("{number}"), 1).unwrap();
        }
        assert!(node.join("reports/8.new").exists() && names(&node).is_empty());
        assert_eq!(names(&other).len(), 6);
        drop(writing);
        assert_eq!(counted(&room), (6 * BLOCK, 0));
    }

    /// What is counted, and of that what is not written yet.
    fn counted(room: &Room) -> (u64, u64) {
        let used = room.used();
        (used.total, used.pending)
    }

    fn names(node: &Path) -> Vec<String> {
        let files = files_of(node).unwrap();
        files.iter().map(|file| file.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn one_that_floods_loses_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (quiet, flood) = (dir.path().join("quiet"), dir.path().join("flood"));
        let room = room(dir.path(), 20);
        for number in 0..3 {
            send(&room, &quiet, &format!("{number}"), 1).unwrap();
        }
        for number in 0..100 {
            send(&room, &flood, &format!("{number:03}"), 1).unwrap();
        }
        assert_eq!(names(&quiet), ["0", "1", "2"]);
        let left = names(&flood);
        assert!((16..=17).contains(&left.len()) && left.last().unwrap() == "099", "{left:?}");
        let on_disk: u64 =
            [&quiet, &flood].map(|node| files_of(node).unwrap().iter().map(|file| file.bytes).sum::<u64>()).iter().sum();
        assert_eq!(counted(&room), (on_disk, 0));
        // A start counts the same.
        assert_eq!(counted(&self::room(dir.path(), 20)).0, on_disk);
        let again = self::room(dir.path(), 20);
        assert_eq!(again.used().by_node, room.used().by_node);
    }

    #[test]
    fn what_is_larger_than_all_is_refused_and_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node");
        let room = room(dir.path(), 4);
        send(&room, &node, "1", 1).unwrap();
        let refused = room.take(&node, 5 * BLOCK).unwrap_err();
        assert!(refused.to_string().contains("--max-node-bytes"), "{refused}");
        drop(room.take(&node, BLOCK).unwrap());
        assert_eq!(counted(&room), (names(&node).len() as u64 * BLOCK, 0));
    }

    #[test]
    fn what_stays_free_stays_free() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::open(dir.path(), None, Some(u64::MAX / 2)).unwrap();
        let refused = room.take(dir.path(), 1).unwrap_err();
        assert!(refused.to_string().contains("--keep-free-bytes") && disk::is_full(&refused), "{refused}");
        assert_eq!(room.used().total, 0);
    }

    #[test]
    fn of_a_bucket_the_oldest_goes_after_reports() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node");
        std::fs::create_dir_all(node.join("bucket")).unwrap();
        for (name, age) in [("sha256-b", 20), ("sha256-a", 10)] {
            let path = node.join("bucket").join(name);
            std::fs::write(&path, "was").unwrap();
            let modified = SystemTime::now() - std::time::Duration::from_secs(age);
            std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
        }
        std::fs::write(node.join("node.json"), "not sent").unwrap();
        let room = room(dir.path(), 5);
        send(&room, &node, "1", 1).unwrap();
        assert_eq!(names(&node), ["1", "sha256-b", "sha256-a"]);
        send(&room, &node, "2", 3).unwrap();
        assert_eq!(names(&node), ["2", "sha256-a"]);
    }

    proptest! {
        #[test]
        fn a_level_is_the_highest_at_which_all_fit(all in prop::collection::vec(0u64..1000, 0..20), target in 0u64..10_000) {
            let fits = |level: u64| all.iter().map(|used| (*used).min(level)).sum::<u64>() <= target;
            let level = level(all.clone(), target);
            prop_assert!(fits(level));
            prop_assert!(level == u64::MAX || !fits(level + 1));
        }
    }
}
