//! Listing staging, and finding out whether it is still as it was listed.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;

use direct_puppet_agent::fs::FileKind;
use direct_puppet_agent::tree::{Pool, TreeEntry, WalkError, WalkOptions, list_in_pieces};
use direct_puppet_transport::protocol::TreePath;
use direct_puppet_transport::protocol::manifest::Entries;

use super::revision::DEPLOY_RECORDS;
use crate::error::ServerError;

/// Entries that share a mark.
const ENTRIES_PER_MARK: usize = 256;

/// What a listing was: a mark for each [`ENTRIES_PER_MARK`] entries and a hint for each, so that it takes next to no memory for them. Their
/// paths are in the manifest that is made of it, in the same order.
#[derive(Default)]
pub(super) struct Listing {
    marks: Vec<u64>,
    /// Some bits of each entry's own mark: which one it was when a mark that many share is another.
    hints: Vec<u16>,
    hasher: RandomState,
}

impl Listing {
    pub(super) fn add(&mut self, piece: &[TreeEntry]) {
        for entry in piece {
            if self.hints.len().is_multiple_of(ENTRIES_PER_MARK) {
                self.marks.push(0);
            }
            let own = self.own(entry);
            self.hints.push(hint(own));
            if let Some(mark) = self.marks.last_mut() {
                *mark = self.hasher.hash_one((*mark, own));
            }
        }
    }

    /// Returns the mark of one entry.
    fn own(&self, entry: &TreeEntry) -> u64 {
        self.hasher.hash_one((&entry.stat, &entry.target))
    }

    /// Lists again, and returns the paths that came, went or changed since. Where the only change among entries that share a mark has, by
    /// chance, the hint of what was there before, all of them are named.
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
                    self.name_changed(&group, &mut paths);
                    group = Group { number: at / ENTRIES_PER_MARK, ..Group::default() };
                }
                let own = self.own(&entry);
                group.mark = self.hasher.hash_one((group.mark, own));
                group.entries.push((entry.path, self.hints.get(at) != Some(&hint(own))));
            }
            Ok(())
        })?;
        paths.extend(before.map(|(_, gone)| gone.path.to_string()));
        self.name_changed(&group, &mut paths);
        Ok(paths)
    }

    /// Names the paths of a group that changed.
    fn name_changed(&self, group: &Group, paths: &mut Vec<String>) {
        let begin = group.number * ENTRIES_PER_MARK;
        let is_whole = group.entries.len() == self.hints.len().min(begin + ENTRIES_PER_MARK).saturating_sub(begin);
        if is_whole && self.marks.get(group.number) == Some(&group.mark) {
            return;
        }
        let before = paths.len();
        paths.extend(group.entries.iter().filter(|(_, is_other)| *is_other).map(|(path, _)| path.to_string()));
        if is_whole && paths.len() == before {
            paths.extend(group.entries.iter().map(|(path, _)| path.to_string()));
        }
    }
}

/// Returns what is kept of an entry's own mark.
fn hint(own: u64) -> u16 {
    let [first, second, ..] = own.to_le_bytes();
    u16::from_le_bytes([first, second])
}

/// Entries that shared a mark, as they are now.
#[derive(Default)]
struct Group {
    number: usize,
    mark: u64,
    /// Each with whether its hint is another.
    entries: Vec<(TreePath, bool)>,
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
        _ => is_checkout(path) || DEPLOY_RECORDS.iter().any(|name| path.as_bytes() == name.as_bytes()),
    };
    let options = WalkOptions { ignore: Some(&is_left_out), ..WalkOptions::default() };
    match list_in_pieces(dir, &options, pool, each)?.into_iter().next() {
        // It went away between the listing of its directory and the look at it.
        Some(gone) if gone.source.kind() == std::io::ErrorKind::NotFound => {
            let path = gone.path.strip_prefix(dir).unwrap_or(&gone.path);
            Err(ServerError::Unstable { paths: vec![path.display().to_string()] })
        }
        Some(first) => Err(ServerError::Staging { path: first.path, source: first.source }),
        None => Ok(()),
    }
}

/// Whether a path is what a checkout keeps about itself: a directory, or a file that names one elsewhere (`git worktree`). Below `files` it is a content for nodes like any other.
fn is_checkout(path: &TreePath) -> bool {
    path.name() == Some(b".git") && !path.as_bytes().split(|&byte| byte == b'/').any(|name| name == b"files")
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        let pool = Pool::new(1).unwrap();
        let (mut listing, mut listed) = (Listing::default(), Vec::new());
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
            assert_eq!(gone, ["d0", "d0/f0000"]);
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
        assert_eq!(replaced, ["d1", "d1/f0001"]);
    }
}
