//! Listing staging, and finding out whether it is still as it was listed.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::time::SystemTime;

use direct_puppet_agent::fs::FileKind;
use direct_puppet_agent::tree::{Pool, TreeEntry, WalkError, WalkOptions, list_in_pieces};
use direct_puppet_transport::protocol::TreePath;
use direct_puppet_transport::protocol::manifest::Entries;

use super::index::is_before;
use super::revision::DEPLOY_RECORDS;
use crate::error::ServerError;

/// Entries that share a mark.
const ENTRIES_PER_MARK: usize = 256;

/// What a listing was: a mark for each [`ENTRIES_PER_MARK`] entries, so that it takes next to no memory for them. Their paths are in the
/// manifest that is made of it, in the same order.
pub(super) struct Listing {
    begun: SystemTime,
    marks: Vec<u64>,
    /// Entries of the last mark.
    of_last: usize,
    hasher: RandomState,
}

impl Listing {
    pub(super) fn new(begun: SystemTime) -> Self {
        Self { begun, marks: Vec::new(), of_last: ENTRIES_PER_MARK, hasher: RandomState::new() }
    }

    pub(super) fn add(&mut self, piece: &[TreeEntry]) {
        for entry in piece {
            if self.of_last == ENTRIES_PER_MARK {
                self.marks.push(0);
                self.of_last = 0;
            }
            self.of_last += 1;
            if let Some(mark) = self.marks.last_mut() {
                *mark = marked(&self.hasher, *mark, entry);
            }
        }
    }

    /// Lists again, and returns the paths that came, went or changed since. Where the clock was set back meanwhile, others beside what
    /// changed may be named.
    pub(super) fn changed(&self, entries: Entries<'_>, dir: &Path, pool: &Pool) -> Result<Vec<String>, ServerError> {
        let mut before = entries.enumerate().peekable();
        let mut paths = Vec::new();
        let mut group = Group::default();
        list(dir, pool, |piece| {
            for entry in piece {
                while let Some((_, gone)) = before.next_if(|(_, before)| before.path < entry.path) {
                    paths.push(gone.path.to_string());
                }
                let Some((at, _)) = before.next_if(|(_, before)| before.path == entry.path) else {
                    paths.push(entry.path.to_string());
                    continue;
                };
                if group.number != at / ENTRIES_PER_MARK {
                    paths.extend(self.changed_of(&group));
                    group = Group { number: at / ENTRIES_PER_MARK, ..Group::default() };
                }
                group.mark = marked(&self.hasher, group.mark, &entry);
                group.entries.push(entry);
            }
            Ok(())
        })?;
        paths.extend(before.map(|(_, gone)| gone.path.to_string()));
        paths.extend(self.changed_of(&group));
        Ok(paths)
    }

    /// Returns the paths of a group that changed. One that has fewer entries than before is not looked at: what went is named.
    fn changed_of(&self, group: &Group) -> Vec<String> {
        let is_last = group.number + 1 == self.marks.len();
        let is_whole = group.entries.len() == if is_last { self.of_last } else { ENTRIES_PER_MARK };
        if !is_whole || self.marks.get(group.number) == Some(&group.mark) {
            return Vec::new();
        }
        let late: Vec<&TreeEntry> = group.entries.iter().filter(|entry| !is_before(entry.stat.ctime, self.begun)).collect();
        let named = if late.is_empty() { group.entries.iter().collect() } else { late };
        named.into_iter().map(|entry| entry.path.to_string()).collect()
    }
}

/// Entries that shared a mark, as they are now.
#[derive(Default)]
struct Group {
    number: usize,
    mark: u64,
    entries: Vec<TreeEntry>,
}

/// Adds an entry to a mark.
fn marked(hasher: &RandomState, mark: u64, entry: &TreeEntry) -> u64 {
    hasher.hash_one((mark, &entry.stat, &entry.target))
}

impl From<WalkError> for ServerError {
    fn from(error: WalkError) -> Self {
        Self::Staging { path: error.path, source: error.source }
    }
}

/// Lists staging, a piece at a time.
pub(super) fn list(
    dir: &Path,
    pool: &Pool,
    each: impl FnMut(Vec<TreeEntry>) -> Result<(), ServerError>,
) -> Result<(), ServerError> {
    let is_left_out = |path: &TreePath, kind: FileKind| match kind {
        FileKind::Directory => is_checkout(path),
        _ => DEPLOY_RECORDS.iter().any(|name| path.as_bytes() == name.as_bytes()),
    };
    let options = WalkOptions { ignore: Some(&is_left_out), ..WalkOptions::default() };
    match list_in_pieces(dir, &options, pool, each)?.into_iter().next() {
        Some(first) => Err(ServerError::Staging { path: first.path, source: first.source }),
        None => Ok(()),
    }
}

/// Whether a directory is what a checkout keeps about itself. Below `files` it is a content for nodes like any other.
fn is_checkout(path: &TreePath) -> bool {
    path.name() == Some(b".git") && !path.as_bytes().split(|&byte| byte == b'/').any(|name| name == b"files")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use direct_puppet_transport::protocol::{Digest, EntryKind, Manifest, ManifestEntry};

    use super::*;

    /// The manifest of what was listed, with contents that nobody looks at.
    fn manifest(listed: &[TreeEntry]) -> Manifest {
        let entry = |entry: &TreeEntry| {
            let kind = match entry.stat.kind() {
                FileKind::Directory => EntryKind::Directory,
                FileKind::Link => EntryKind::Link { target: entry.target.clone().unwrap_or_default() },
                _ => EntryKind::File { digest: Digest::of(b""), size: entry.stat.size },
            };
            ManifestEntry { path: entry.path.clone(), mode: 0, kind }
        };
        Manifest::new(listed.iter().map(entry).collect()).unwrap()
    }

    /// Makes a tree, lists it, changes it, and returns the paths that are found changed.
    fn changed(files: usize, change: impl FnOnce(&Path)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..files {
            let path = dir.path().join(format!("d{}/f{number:04}", number % 3));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "0").unwrap();
        }
        std::os::unix::fs::symlink("d0", dir.path().join("link")).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let pool = Pool::new(1).unwrap();
        let (mut listing, mut listed) = (Listing::new(SystemTime::now()), Vec::new());
        list(dir.path(), &pool, |piece| {
            listing.add(&piece);
            listed.extend(piece);
            Ok(())
        })
        .unwrap();
        assert_eq!(listing.marks.len(), listed.len().div_ceil(ENTRIES_PER_MARK));
        change(dir.path());
        let mut paths = listing.changed(manifest(&listed).entries(), dir.path(), &pool).unwrap();
        paths.sort();
        paths
    }

    #[test]
    fn what_changed_came_or_went_is_named_and_nothing_else() {
        for files in [3, ENTRIES_PER_MARK, 2_000] {
            assert!(changed(files, |_| ()).is_empty(), "{files}");
            // A content of the same length changes times only, and so do permissions.
            assert_eq!(changed(files, |dir| fs::write(dir.join("d1/f0001"), "1").unwrap()), ["d1/f0001"]);
            let relink = |dir: &Path| {
                fs::remove_file(dir.join("link")).unwrap();
                std::os::unix::fs::symlink("d1", dir.join("link")).unwrap();
            };
            assert_eq!(changed(files, relink), ["link"]);
            assert_eq!(changed(files, |dir| fs::write(dir.join("d2/new"), "").unwrap()), ["d2", "d2/new"]);
            let gone = changed(files, |dir| fs::remove_file(dir.join("d0/f0000")).unwrap());
            // Its directory's mark is that of a group which lost an entry, or of another.
            assert!(gone.contains(&"d0/f0000".to_owned()) && gone.iter().all(|path| path.starts_with("d0")), "{gone:?}");
        }
        assert_eq!(changed(10, |dir| fs::remove_dir_all(dir.join("d0")).unwrap()).len(), 5);
    }

    #[test]
    fn a_change_that_hides_its_time_is_found() {
        let replaced = changed(600, |dir| {
            let path = dir.join("d1/f0001");
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(dir.join("d1/other"), "1").unwrap();
            fs::rename(dir.join("d1/other"), &path).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
        });
        assert!(replaced.contains(&"d1/f0001".to_owned()), "{replaced:?}");
    }
}
