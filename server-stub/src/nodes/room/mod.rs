//! Room on the disk for what nodes send: reports, and what their files held before.
//!
//! It has a budget of its own, and grows no more where the disk is nearly full, so that nothing that nodes send takes the room of code.
//! What has no room beside the rest has the room of the oldest, of those nodes that have the most: one that floods loses what is its own.

mod used;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use direct_puppet_agent::fs::FsError;
use rayon::prelude::*;

use self::used::{OfNode, Used, level};
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

/// So much more goes than must, as a part of it, so that not every report has to look for what goes.
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
        })
    }

    /// Takes room for a file of `bytes` of the node in `node`; what has none beside it goes. Blocking; no file of a node may be held.
    ///
    /// # Errors
    ///
    /// When there is none, even were all gone that may go; then nothing does.
    pub(crate) fn take<'a>(&'a self, node: &'a Path, bytes: u64) -> Result<Taken<'a>, ServerError> {
        let bytes = on_disk(bytes);
        let (pending, total) = {
            let mut used = self.used();
            used.promise(node, bytes);
            (used.pending, used.total)
        };
        let taken = Taken { room: self, node, bytes };
        // What others write is not on the disk yet, and has its room.
        let short = self.short(bytes, pending - bytes)?;
        let (limit, target) = {
            let before = total - bytes;
            let mut used = self.used();
            if !matches!(short, Some(Short { free: Some(_), .. })) {
                used.ceiling = None;
            }
            let with_slack = |limit: u64| (limit, limit - limit / SLACK_PART);
            match short.as_ref().map(|short| short.free) {
                None => with_slack(self.budget),
                Some(Some(free)) => with_slack((*used.ceiling.get_or_insert(before + free)).min(self.budget)),
                // A file for a file, however large.
                Some(None) => (before.min(self.budget), before.min(self.budget)),
            }
        };
        if total > limit && !self.make_room(limit, target) {
            let over = ServerError::NoSpace {
                needed: bytes,
                path: self.dir.clone(),
                free: self.budget.saturating_sub(total - bytes),
                what: "of --max-node-bytes",
            };
            return Err(short.map_or(over, |short| short.error));
        }
        Ok(taken)
    }

    /// Says that a file of a node was removed.
    pub(crate) fn removed(&self, node: &Path, bytes: u64) {
        self.used().take(node, on_disk(bytes));
    }

    /// Returns what the disk is short of, when it has no room for a file of `bytes` beside the `promised` ones.
    fn short(&self, bytes: u64, promised: u64) -> Result<Option<Short>, ServerError> {
        if self.keep_free == 0 {
            return Ok(None);
        }
        let space = disk::Space::of(&self.dir)?;
        let free = space.free.saturating_sub(promised).saturating_sub(self.keep_free);
        if bytes > free {
            let error = ServerError::NoSpace { needed: bytes, path: self.dir.clone(), free, what: "beside --keep-free-bytes" };
            return Ok(Some(Short { free: Some(free), error }));
        }
        let files = space.files.map(|files| (files.free, (files.all / FREE_FILES_PART).min(MAX_FREE_FILES)));
        Ok(match files {
            Some((free, kept)) if free <= kept => {
                Some(Short { free: None, error: ServerError::NoFiles { path: self.dir.clone(), free } })
            }
            _ => None,
        })
    }

    /// Removes the oldest of those nodes that have the most, until all have no more than `target`; nothing, if they would have more than
    /// `limit`. Returns whether they are within that.
    fn make_room(&self, limit: u64, target: u64) -> bool {
        let (level, mut nodes) = {
            let used = self.used();
            let level = level(used.by_node.values().map(|used| used.bytes).collect(), target);
            if used.by_node.values().map(|used| used.within(level)).sum::<u64>() > limit {
                return false;
            }
            let over = used.by_node.iter().filter(|(_, used)| used.bytes > level);
            (level, over.map(|(node, used)| (used.bytes, node.clone())).collect::<Vec<_>>())
        };
        nodes.sort_unstable_by(|one, other| other.cmp(one));
        let (mut count, mut freed) = (0, 0);
        for (_, node) in &nodes {
            let (count_of_node, freed_of_node) = self.cut(node, level, target);
            (count, freed) = (count + count_of_node, freed + freed_of_node);
        }
        let nodes = nodes.len();
        tracing::warn!(
            count,
            freed,
            nodes,
            limit,
            "nodes send more than has room here: the oldest went, of those that have most"
        );
        self.used().total <= limit
    }

    /// Removes the oldest of a node until it has no more than `level`, or all no more than `target`; returns how many files went, and their
    /// bytes.
    fn cut(&self, node: &Path, level: u64, target: u64) -> (u64, u64) {
        let is_enough = || {
            let used = self.used();
            used.total <= target || used.by_node.get(node).is_none_or(|used| used.bytes <= level)
        };
        if is_enough() {
            return (0, 0);
        }
        let Some(listed) = self.used().by_node.get(node).copied() else { return (0, 0) };
        let files = match files_of(node) {
            Ok(files) => files,
            // The others' are removed all the same.
            Err(error) => {
                tracing::error!(%error, "what a node sent cannot be listed, and stays");
                return (0, 0);
            }
        };
        self.used().found(node, listed, files.iter().map(|file| file.bytes).sum());
        let (mut count, mut freed) = (0, 0);
        for file in files {
            if is_enough() {
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
        (count, freed)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a disk has too little of.
struct Short {
    /// Bytes that it has all the same; none where it is files that it has too few of.
    free: Option<u64>,
    /// What is said of it, when nothing can go instead.
    error: ServerError,
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
        let of_each = |room: &Room| -> std::collections::BTreeMap<PathBuf, u64> {
            room.used().by_node.iter().map(|(node, used)| (node.clone(), used.bytes)).collect()
        };
        assert_eq!(of_each(&again), of_each(&room));
    }

    /// All have the same, and one file only: that they are a little over is no reason for all to lose it.
    #[test]
    fn no_more_goes_than_must() {
        let dir = tempfile::tempdir().unwrap();
        let nodes: Vec<_> = (0..100).map(|number| dir.path().join(format!("node{number}"))).collect();
        let room = room(dir.path(), 99);
        for node in &nodes {
            send(&room, node, "1", 1).unwrap();
        }
        let left = nodes.iter().filter(|node| !names(node).is_empty()).count();
        assert_eq!((left, counted(&room)), (97, (97 * BLOCK, 0)));
        assert_eq!(names(&nodes[99]), ["1"], "the one that was being sent went");
    }

    /// Nearly equal they all are over what each may have, and who has most loses first.
    #[test]
    fn of_nearly_equal_ones_the_largest_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let room = room(dir.path(), 110);
        let flood = dir.path().join("5");
        for node in (0..10).filter(|node| *node != 5).map(|node| dir.path().join(format!("{node}"))) {
            send(&room, &node, "1", 11).unwrap();
        }
        for number in 0..12 {
            send(&room, &flood, &format!("{number:02}"), 1).unwrap();
        }
        assert_eq!((names(&flood).len(), counted(&room).0), (10, 98 * BLOCK));
    }

    /// Others fill the disk: nodes have what they had, and who floods makes room for the rest.
    #[test]
    fn on_a_full_disk_the_new_has_the_room_of_the_oldest_of_those_that_have_most() {
        let dir = tempfile::tempdir().unwrap();
        let (quiet, flood, new) = (dir.path().join("quiet"), dir.path().join("flood"), dir.path().join("new"));
        let mut room = room(dir.path(), 1000);
        send(&room, &quiet, "0", 1).unwrap();
        for number in 0..20 {
            send(&room, &flood, &format!("{number:03}"), 1).unwrap();
        }
        room.keep_free = u64::MAX / 2;
        send(&room, &new, "0", 2).unwrap();
        for number in 20..120 {
            send(&room, &flood, &format!("{number:03}"), 1).unwrap();
        }
        assert_eq!((names(&quiet), names(&new)), (vec!["0".to_owned()], vec!["0".to_owned()]));
        let left = names(&flood);
        assert!(left.len() >= 17 && left.last().unwrap() == "119", "{left:?}");
        assert!(counted(&room).0 <= 21 * BLOCK && counted(&room).1 == 0, "{:?}", counted(&room));
        // One that had the room of all would be refused, and nothing goes for it.
        let before = counted(&room);
        let refused = room.take(&new, 22 * BLOCK).unwrap_err();
        assert!(refused.to_string().contains("--keep-free-bytes") && disk::is_full(&refused), "{refused}");
        assert_eq!((counted(&room), names(&flood)), (before, left));
        // With room there, they grow again.
        room.keep_free = 0;
        for number in 120..160 {
            send(&room, &flood, &format!("{number:03}"), 1).unwrap();
        }
        assert_eq!(counted(&room).0, before.0 + 40 * BLOCK);
        // And have what they have then.
        room.keep_free = u64::MAX / 2;
        send(&room, &flood, "160", 1).unwrap();
        assert!(counted(&room).0 >= before.0 + 38 * BLOCK, "{:?}", counted(&room));
    }

    #[test]
    fn what_is_larger_than_all_is_refused_and_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node");
        let room = room(dir.path(), 4);
        send(&room, &node, "1", 1).unwrap();
        let refused = room.take(&node, 5 * BLOCK).unwrap_err();
        assert!(refused.to_string().contains("--max-node-bytes"), "{refused}");
        assert_eq!(names(&node), ["1"], "something went for what was refused");
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
}
